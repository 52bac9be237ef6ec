"""Models for use in another program, from files that know their tasks."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch

from common.base.errors import UserError
from common.base.run_settings import default_cache
from common.inference.codes import Codes
from common.inference.decide import default_decision, offsets_of
from common.inference.engines import Engine, device_for
from common.inference.ensemble import load_ensemble
from common.inference.face_predictor import FacePredictor
from common.inference.options import PredictSettings
from common.model.exported import SUFFIX
from common.model.facts import read_card
from common.model.recipe import Recipe

Files = Iterable[str | Path | Sequence[str | Path]]


def load_predictor(
    files: Files,
    recipes: Sequence[type[Recipe]],
    codes: Codes,
    *,
    device: str,
    engine: str,
    tta: str | int | None,
) -> FacePredictor:
    """Load the models in `files`, each of one of `recipes`' tasks; models of one task vote.

    Raises:
        UserError: a file is missing, damaged or of no known task.
    """
    by_task: dict[str, list[Path]] = {recipe.task: [] for recipe in recipes}
    for path in _paths(files, recipes):
        task = read_card(path)[0]["task"]
        if task not in by_task:
            raise UserError(f"{path}: a model of {task}; expected {', '.join(by_task)}")
        by_task[task].append(path)
    given = [recipe for recipe in recipes if by_task[recipe.task]]
    if not given:
        raise UserError("no model: name files such as m.pt, g.pt and a.pt")
    place = device_for(engine, device)
    choice = Engine(name=engine, cache_dir=default_cache(), threads=torch.get_num_threads())
    ensembles = {
        recipe.task: load_ensemble(
            recipe, by_task[recipe.task], (1.0,) * len(by_task[recipe.task]), "soft", place, choice
        ).with_detector(None)
        for recipe in given
    }
    merged = codes.classes if codes.classes.keys() <= ensembles.keys() else {}
    others = {recipe.task: recipe.classes for recipe in given if recipe.task not in merged}
    settings = PredictSettings(cache_dir=default_cache(), workers=0, tta=tta)
    decided = {task: ensembles[task] for task in merged}
    offsets = offsets_of(default_decision(decided), decided) if decided else {}
    return FacePredictor(
        ensembles, offsets, dataclasses.replace(codes, classes=merged, others=others), settings
    )


def _paths(files: Files, recipes: Sequence[type[Recipe]]) -> Iterator[Path]:
    """Flatten lists, and take from a folder the checkpoint or else the export of each task."""
    for file in files:
        if not isinstance(file, (str, Path)):
            yield from _paths(file, recipes)
        elif Path(file).is_dir():
            yield from _in_folder(Path(file), recipes)
        else:
            yield Path(file)


def _in_folder(folder: Path, recipes: Sequence[type[Recipe]]) -> list[Path]:
    found = []
    for recipe in recipes:
        file = folder / recipe.checkpoint_name
        found += [f for f in (file, file.with_suffix(SUFFIX)) if f.is_file()][:1]
    if not found:
        names = ", ".join(recipe.checkpoint_name for recipe in recipes)
        raise UserError(f"{folder}: holds no {names}, nor exports of them ({SUFFIX})")
    return found
