"""Predictions for the held-out photos: the table of a training, of all folds, and by group."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from common.base.files import write_frame
from common.data.layout import AGE_GROUPS, GENDERS, MASKS, Face
from common.model.metrics import Scores, score
from common.model.recipe import Recipe
from common.training.experiments import Outcome, code_commit, record
from common.training.prepare import PreparedRun

VALIDATION_TABLE = "validation.csv"
FLOAT_FORMAT = "%.9g"  # enough to tell any two float32 numbers apart
GROUPS = (*GENDERS, *AGE_GROUPS, *MASKS, "")  # in the order of a card; "" is unlabelled


def write_predictions(
    path: Path,
    recipe: Recipe,
    faces: Sequence[Face],
    true: Sequence[str],
    probabilities: np.ndarray,
) -> None:
    """Write a row a photo: person, view, true class, and (photos, classes) `probabilities`."""
    table = pd.DataFrame(probabilities, columns=list(recipe.classes))
    table.insert(0, "person", [face.person.key for face in faces])
    table.insert(1, "view", [face.view for face in faces])
    table.insert(2, "true", list(true))
    write_frame(path, table, float_format=FLOAT_FORMAT)


def out_of_fold(folders: Sequence[Path]) -> pd.DataFrame:
    """Join the tables of `folders`, one for each fold, and add a column with the fold."""
    text = {"person": str, "view": str, "true": str}
    tables = [
        pd.read_csv(folder / VALIDATION_TABLE, dtype=text, keep_default_na=False)
        for folder in folders
    ]
    for fold, table in enumerate(tables):
        table.insert(2, "fold", fold)
    return pd.concat(tables, ignore_index=True)


def likelihoods(table: pd.DataFrame, classes: Sequence[str]) -> np.ndarray:
    """Return the (photos,) probabilities of the true classes."""
    true = [classes.index(name) for name in table["true"]]
    return table[list(classes)].to_numpy()[np.arange(len(table)), true]


def score_table(table: pd.DataFrame, classes: Sequence[str]) -> Scores:
    """Score all rows at once; the most probable class is the predicted one."""
    predicted = table[list(classes)].to_numpy().argmax(axis=1)
    return score([classes.index(name) for name in table["true"]], predicted, len(classes))


def report_out_of_fold(prepared: PreparedRun, folder: Path, seconds: float) -> None:
    """Save, score and log the predictions for everyone, each by the model that held them out."""
    recipe, run = prepared.recipe, prepared.run
    table = out_of_fold([folder / f"fold{fold}" for fold in prepared.folds])
    out = run.out_file(recipe)
    file = out.with_suffix(".oof.csv")
    write_frame(file, table, float_format=FLOAT_FORMAT)
    scores = score_table(table, recipe.classes)
    loss = -np.log(likelihoods(table, recipe.classes).clip(1e-12)).mean()
    outcome = Outcome(
        split={**prepared.folds[0].split, "fold": "all"},
        best={
            "epoch": 0,
            "macro_f1": scores.macro_f1,
            "accuracy": scores.accuracy,
            "loss": loss,
        },
        epochs=recipe.epochs,
        seconds=seconds,
        commit=code_commit(),
        out=file,
        folder=folder,
    )
    record(recipe, run, outcome)
    stem = out.with_suffix("")
    where = "--oof", str(file), "--data", str(run.data_dir())
    print(
        f"\n{scores.table(recipe.classes)}\n"
        f"{recipe.task} out of fold: macro F1 {scores.macro_f1:.4f}, accuracy "
        f"{scores.accuracy:.4f}, on {scores.rows:,} photos of {table['person'].nunique():,} "
        f"people, each predicted by the model that never saw them → {file}\n"
        f"for combine.py: --{recipe.task} {stem}.fold*{out.suffix}\n"
        f"labels in doubt: python -m common.tools.review {shlex.join(where)}"
    )


def by_group(faces: Sequence[Face], right: Sequence[bool]) -> list[dict[str, Any]]:
    """Count people, photos and right predictions in each group of `faces`, for the card.

    An entry for each of `Face.groups` alone and one for all of them together:
    {"by": [names], "rows": [[values], people, photos, right]}. Names without any label are left
    out.
    """
    table = pd.DataFrame([face.groups for face in faces])
    names = [name for name in table if table[name].any()]
    table["person"], table["right"] = [face.person.key for face in faces], list(right)
    ways = [[name] for name in names] + ([names] if len(names) > 1 else [])
    return [{"by": by, "rows": _rows(table, by)} for by in ways]


def _rows(table: pd.DataFrame, by: list[str]) -> list[list[Any]]:
    rows = [
        [list(values), part["person"].nunique(), len(part), int(part["right"].sum())]
        for values, part in table.groupby(by)
    ]
    return sorted(rows, key=lambda row: [GROUPS.index(value) for value in row[0]])
