"""Find the checkpoint that --resume goes on with."""

import contextlib
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from common.base.errors import UserError, listed, warn
from common.base.fields import restored
from common.base.processes import launch, restarts
from common.base.run_settings import Run
from common.model.checkpoint import check_task, read
from common.model.recipe import Recipe

LAST = "last.pt"
BEST = "best.pt"
NEWEST = Path("newest")


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
    run = content["training"]["run"]
    return path, saved, {f.name: restored(f, run[f.name]) for f in fields(Run) if f.name in run}


def resume_file(run: Run, fold: int) -> Path | None:
    """Return the checkpoint that the training of `fold` goes on with; None if it starts anew."""
    if run.resume is None:
        return None
    file = run.resume.parents[1] / f"fold{fold}" / LAST if run.every_fold else run.resume
    return file if file.is_file() else None


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
