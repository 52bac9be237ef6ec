"""One training from the folder of photos to the checkpoint, or one for every fold."""

import contextlib
import dataclasses
import itertools
import sys
import textwrap
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from common.base.errors import UserError, printable, warn
from common.base.fields import spelled
from common.base.files import LEFTOVERS, made_folder, remove_leftovers, writable_file
from common.base.processes import is_main, local_processes, local_rank, processes
from common.base.run_settings import Run
from common.base.stages import Stages
from common.data.extra import Extra, read_extra, table_hash
from common.data.layout import Face, read_faces, train_dir
from common.data.loading import Prepared, loader_errors, prepare_crops
from common.data.split import learned_from, make_split, missing_strata
from common.model import checkpoint
from common.model.device import (
    check_compile,
    describe_device,
    keep_memory,
    pick_device,
    share_cores,
)
from common.model.heads import Head, make_heads
from common.model.recipe import Recipe
from common.model.weights import read_card
from common.training.distributed import barrier, from_main, process_group
from common.training.examples import check_learnable, choose_faces, datasets, labelled
from common.training.learner import Learner, loader_workers, make_learner
from common.training.predictions import report_out_of_fold
from common.training.resume import LAST
from common.training.wandb_log import check_wandb


@dataclasses.dataclass(frozen=True)
class Groundwork:
    """What a run's folds start from; `files` are the crops by photo, `faces` those of each fold.

    `stages` holds the seconds that the crops took.
    """

    recipe: Recipe
    heads: Sequence[Head]
    device: torch.device
    logs: Path
    faces: Mapping[int, list[Face]]
    files: Mapping[Path, Path]
    splits: Mapping[int, dict[str, Any]]
    stages: Stages


def prepare(recipe: Recipe, run: Run) -> Groundwork:
    """Find whatever can be wrong with the flags, and then crop the photos."""
    device = pick_device(run.device)
    share_cores(device, loader_workers(run.workers, device), run.threads)
    keep_memory(device)
    if run.torchcompile:
        check_compile(run.torchcompile, device)
    logs = run.log_dir / recipe.task
    if is_main():
        check_writable(recipe, run, logs)
    faces = read_faces(run.data_dir())
    everybody = {face.person for face in faces}
    known, others = known_faces(recipe, run, faces)
    recipe = recipe.fitted({face.person for face in known}, *(extra.people for extra in others))
    heads = make_heads(recipe, known, *(extra.faces for extra in others))
    recipe = dataclasses.replace(recipe, aux=tuple(head.name for head in heads))
    splits, chosen = {}, {}
    for fold in run.fold_files(recipe.task):
        people, splits[fold] = make_split(everybody, folds=run.folds, fold=fold, limit=run.limit)
        splits[fold] |= {"extra": [extra.hash for extra in others]} if others else {}
        warn(missing_strata(people, splits[fold]["held_out"]))
    together = f", {processes()} processes" if processes() > 1 else ""
    print(f"{recipe.task}: {', '.join(recipe.classes)}; {describe_device(device)}{together}")
    fields = ((field.name, getattr(recipe, field.name)) for field in dataclasses.fields(recipe))
    shown = ", ".join(f"{name} {spelled(value)}" for name, value in fields)
    print(textwrap.fill(f"recipe: {shown}", width=100, subsequent_indent="  "))
    for fold, split in splits.items():
        held_out = set(split["held_out"])
        chosen[fold] = choose_faces(recipe, run.data_dir(), known, people, held_out, others)
        check_learnable(recipe, chosen[fold], held_out)
    _, _, origin = make_learner(recipe, device, heads, resumed=run.resume is not None)
    print(f"model: {recipe.model}, {origin}, input {recipe.size[0]} x {recipe.size[1]}")
    if recipe.weights is not None and run.resume is None:
        refuse_seen(recipe.weights, faces, splits)
    paths = {face.path: None for part in chosen.values() for face in part}
    stages = Stages()
    with stages("crop"):
        files = crop_faces(recipe, run, list(paths))
    return Groundwork(recipe, heads, device, logs, chosen, files, splits, stages)


def check_writable(recipe: Recipe, run: Run, logs: Path) -> None:
    """UserError where something can't be written in the end."""
    log_root(logs)
    for file in run.fold_files(recipe.task).values():
        writable_file(file)
    if run.log_wandb:
        check_wandb()


def known_faces(recipe: Recipe, run: Run, faces: Sequence[Face]) -> tuple[list[Face], list[Extra]]:
    """The photos of --data and of each --extra whose label is known.

    UserError where --data has none, or a folder isn't one to train on.
    """
    known = labelled(recipe, faces, train_dir(run.data_dir()) / "train.csv")
    others = read_extra(run.extra, run.data_dir(), faces)
    return known, [
        extra.only(labelled(recipe, extra.faces, train_dir(extra.folder) / "train.csv"))
        for extra in others
    ]


def refuse_seen(file: Path, faces: Sequence[Face], splits: Mapping[int, Mapping[str, Any]]) -> None:
    """UserError where the weights in `file` come from a training that saw persons held out here.

    Of another table that is no one: weights of other faces may start any fold.
    """
    theirs = read_card(file).get("split")
    if theirs and table_hash(faces) in theirs.get("extra", ()):
        raise UserError(
            f"--weights {file}: its training saw everyone of this table, as --extra, which would "
            "flatter the score"
        )
    learned = learned_from(theirs, {face.person for face in faces}) if theirs else set()
    for fold, split in splits.items():
        seen = learned.intersection(split["held_out"])
        if seen:
            limit = f"--limit {theirs['limit']}" if theirs["limit"] else "no --limit"
            raise UserError(
                f"--weights {file}: its training saw {len(seen):,} of the "
                f"{len(split['held_out']):,} persons that fold {fold} holds out, which would flatter "
                f"the score; --folds {theirs['folds']} --fold {theirs['fold']}, {limit}, holds out "
                "those that it never saw"
            )


def train(recipe: Recipe, run: Run) -> int:
    """Train `recipe` as `run` says; returns the exit status."""
    with process_group(pick_device(run.device), recipe.batch_size), loader_errors():
        return _train(recipe, run)


def _train(recipe: Recipe, run: Run) -> int:
    started = begun = time.perf_counter()
    ground = prepare(recipe, run)
    folder = from_main(lambda: run_folder(run, ground.logs))
    for fold, out in run.fold_files(recipe.task).items():
        place = folder
        if run.every_fold:
            print(f"\nfold {fold} of {run.folds}")
            place, started = folder / f"fold{fold}", time.perf_counter()
            from_main(lambda place=place: place.mkdir(exist_ok=True))
        resume = place / LAST if run.resume and (place / LAST).is_file() else None
        learner = make_fold(ground.recipe, run, ground, fold, resume)
        if started == begun:  # the first fold's time is counted from before the crops
            learner.stages.add(ground.stages.seconds)
        status = learner.train(out, place, started)
        if status:
            return status
    if run.every_fold and is_main():
        report_out_of_fold(
            ground.recipe, run, folder, ground.splits[fold], time.perf_counter() - begun
        )
    return 0


def make_fold(
    recipe: Recipe, run: Run, ground: Groundwork, fold: int, resume: Path | None = None
) -> Learner:
    """A new network, optimizer and schedule for one fold, or those of the file to resume."""
    split = ground.splits[fold]
    heads, held_out = ground.heads, set(split["held_out"])
    model, optimizer, _ = make_learner(recipe, ground.device, heads, resumed=resume is not None)
    data = datasets(recipe, ground.faces[fold], ground.files, held_out, heads)
    return Learner(recipe, run, model, optimizer, split, data, heads, resume)


def crop_faces(recipe: Recipe, run: Run, paths: list[Path]) -> Mapping[Path, Path]:
    """Photo → its crop's file, without the photos that can't be used.

    The processes of a machine share the work, and then find each other's crops in the cache.
    """
    spec = checkpoint.crop_spec(recipe)
    if processes() > 1:
        part = paths[local_rank() :: local_processes()]
        prepare_crops(part, spec, run.cache_dir, workers=run.workers, allow_bad=len(part))
        barrier()
    prepared = prepare_crops(
        paths, spec, run.cache_dir, workers=run.workers, allow_bad=run.allow_bad
    )
    report_crops(prepared, looked=spec.needs_face)
    pairs = zip(paths, prepared.files, strict=True)
    return {path: file for path, file in pairs if file is not None}


def report_crops(prepared: Prepared, *, looked: bool) -> None:
    """Print what the detector found, and the photos that are left out."""
    print(prepared.summary(looked=looked))
    for path, reason in prepared.bad:
        print(printable(f"left out: {path}: {reason}"), file=sys.stderr)


def log_root(folder: Path) -> Path:
    """runs/<task>, made, tried and without what killed trainings left; UserError if not writable."""
    made_folder(folder, "--log-dir")
    for place in ("..", "*", "*/fold*"):
        remove_leftovers(folder.glob(f"{place}/{LEFTOVERS}"))
    return writable_file(folder / LAST).parent


def run_folder(run: Run, logs: Path) -> Path:
    """The folder of the run to be resumed, or runs/<task>/<time>, made anew.

    Runs of the same second are told apart by a number.
    """
    if run.resume:
        return run.resume.parents[1] if run.every_fold else run.resume.parent
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    for number in itertools.count():
        folder = logs / (f"{stamp}_{number}" if number else stamp)
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            return folder
