"""Find the checkpoint that --resume goes on with."""

import contextlib
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from common.base.errors import UserError, listed, warn
from common.base.fields import restored, spelled
from common.base.processes import launch, restarts
from common.base.run_settings import Run
from common.faces.cache import photo_key
from common.model.checkpoint import check_task, read
from common.model.recipe import Recipe
from common.training.examples import Example

LAST = "last.pt"
BEST = "best.pt"
NEWEST = Path("newest")
PLACES = ("out", "log_dir", "cache_dir", "log_wandb", "wandb_project")  # what a run writes to


def find_resume(
    recipe: type[Recipe], path: Path, log_dir: Path
) -> tuple[Path, Recipe, dict[str, Any]]:
    """Find the file to resume; returns it, its recipe and its run's flags.

    `path` NEWEST means the newest last.pt of the task below `log_dir` that can be read; damaged
    ones are named in a warning.

    Raises:
        UserError: there is no such file, or it is not one of an unfinished training of this task.
    """
    if path == NEWEST:
        path, content = newest(recipe, log_dir / recipe.task)
    else:
        content = read(path)
    check_task(path, content["card"], recipe)
    if "training" not in content:
        raise UserError(f"--resume {path}: a finished model; expected a run's {LAST}")
    try:
        saved = recipe.from_dict(content["card"]["recipe"])
    except (TypeError, ValueError) as error:
        raise UserError(f"--resume {path}: its recipe doesn't fit this task: {error}") from None
    _check_place(path, content["card"])
    run = content["training"]["run"]
    flags = {f.name: restored(f, run[f.name]) for f in fields(Run) if f.name in run}
    if flags["fold"] == "all":
        folds_folder(path)
    return path, saved, flags


def _check_place(path: Path, card: Mapping[str, Any]) -> None:
    """Check that a training can go on in the folder of `path`."""
    if path.name != LAST:
        raise UserError(
            f"--resume {path}: a training goes on from the {LAST} in its folder; name this file "
            f"{LAST}, in a folder with the run's {BEST}"
        )
    if card["metrics"] and not path.with_name(BEST).is_file():
        raise UserError(
            f"--resume {path}: the run's {BEST}, its best epoch so far, isn't beside it"
        )


def check_own_places(path: Path, saved: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Check that a file from elsewhere doesn't decide where this run writes.

    `saved` are the flags in the file, `given` those of the command line, with defaults. A file that
    lies in --log-dir, or where its run put it, is one of the user's own.

    Raises:
        UserError: the file lies elsewhere, and its run wrote to other places.
    """
    if any(path.resolve().is_relative_to(flags["log_dir"].resolve()) for flags in (given, saved)):
        return
    others = [name for name in PLACES if name in saved and saved[name] != given[name]]
    if others:
        flags = " ".join(
            f"--{name.replace('_', '-')} {spelled(saved[name])}".removesuffix(" True")
            for name in others
        )
        raise UserError(
            f"--resume {path}: lies outside of --log-dir {given['log_dir']}, and its run had "
            f"{flags}: give these flags again, or others"
        )


def contents(examples: Iterable[Example], crops: Mapping[Path, Path]) -> dict[str, Any]:
    """Digest the photos and the labels of a training, to notice that they changed.

    Returns the number of photos, and digests of their bytes and of their labels.
    """
    lines = sorted(
        (f"{e.face.person.key}/{e.face.path.name}", photo_key(crops[e.face.path]), str(e.labels))
        for e in examples
    )
    photos, labels = (
        hashlib.sha256(
            "\n".join(f"{line[0]}\t{line[part]}" for line in lines).encode(errors="surrogateescape")
        ).hexdigest()
        for part in (1, 2)
    )
    return {"number": len(lines), "photos": photos, "labels": labels}


def check_unchanged(
    path: Path, data: Path, before: Mapping[str, Any], now: Mapping[str, Any]
) -> None:
    """Check that a training goes on with the photos and labels that it began with.

    Raises:
        UserError: they changed, so that earlier epochs' scores couldn't be compared.
    """
    changed = [what for what in ("photos", "labels") if before[what] != now[what]]
    if changed:
        raise UserError(
            f"--resume {path}: the {' and '.join(changed)} in {data} changed since "
            f"({before['number']:,} photos then, {now['number']:,} now): put them back, or start anew"
        )


def resume_file(run: Run, fold: int) -> Path | None:
    """Return the checkpoint that the training of `fold` goes on with; None if it starts anew."""
    if run.resume is None:
        return None
    file = folds_folder(run.resume) / f"fold{fold}" / LAST if run.every_fold else run.resume
    return file if file.is_file() else None


def folds_folder(path: Path) -> Path:
    """The run's folder of a fold's last.pt in a --fold all run.

    Raises:
        UserError: the file doesn't lie in the folder of its fold any more.
    """
    path = path.absolute()
    if path.name != LAST or not re.fullmatch(r"fold[0-9]+", path.parent.name):
        raise UserError(
            f"--resume {path}: a file of a --fold all run, which goes on with the {LAST} in its "
            "folders fold0, fold1, …; name one of those"
        )
    return path.parents[1]


def saved_in_this_launch(recipe: type[Recipe], log_dir: Path) -> Path | None:
    """Find the last.pt of the run that torchrun has restarted; None if it has saved nothing yet."""
    if launch() is None:
        return None
    for path in sorted(last_files(log_dir / recipe.task), key=written, reverse=True):
        with contextlib.suppress(OSError, ValueError, KeyError):  # no recipe.json, or a damaged one
            if json.loads((path.parent / "recipe.json").read_bytes())["launch"] == launch():
                print(f"torchrun's restart {restarts()}: going on with {path}")
                return path
    return None


def last_files(logs: Path) -> list[Path]:
    """List the last.pt of all runs in the task's folder of logs."""
    return [*logs.glob(f"*/{LAST}"), *logs.glob(f"*/fold*/{LAST}")]


def written(file: Path) -> float:
    """Return the time at which `file` was written."""
    return file.stat().st_mtime


def newest(recipe: type[Recipe], logs: Path) -> tuple[Path, dict[str, Any]]:
    """Read the last.pt in `logs` that was written last and is whole; returns its path, too.

    Raises:
        UserError: there is none.
    """
    found = last_files(logs)
    if not found:
        raise UserError(f"--resume: no {recipe.task} training in {logs}")
    damaged = []
    for path in sorted(found, key=written, reverse=True):
        try:
            content = read(path)
        except UserError as error:
            damaged.append(str(error))
            continue
        for reason in damaged:
            warn(f"--resume: {reason}; going on with {path}")
        return path, content
    raise UserError(f"--resume: no whole file of a {recipe.task} training\n{listed(damaged)}")
