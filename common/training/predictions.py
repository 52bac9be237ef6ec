"""What a model says of the persons that it was validated on, photo by photo, in a table."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from common.base.files import write_frame
from common.base.run_settings import Run
from common.data.layout import Face
from common.model.metrics import Scores, score
from common.model.recipe import Recipe
from common.training.experiments import code_commit, record

FILE = "validation.csv"
DIGITS = "%.9g"  # what tells float32s apart: the likeliest class stays so


def write_predictions(
    path: Path, recipe: Recipe, faces: Sequence[Face], probabilities: np.ndarray
) -> None:
    """A row a photo: person, view, true class, and (photos, classes) `probabilities`."""
    table = pd.DataFrame(probabilities, columns=list(recipe.classes))
    table.insert(0, "person", [face.person.key for face in faces])
    table.insert(1, "view", [face.view for face in faces])
    table.insert(2, "true", [recipe.classes[recipe.label(face)] for face in faces])
    write_frame(path, table, float_format=DIGITS)


def out_of_fold(folders: Sequence[Path]) -> pd.DataFrame:
    """The tables of `folders`, one for each fold, under one another, with their fold."""
    text = {"person": str, "view": str, "true": str}
    tables = [pd.read_csv(folder / FILE, dtype=text, keep_default_na=False) for folder in folders]
    for fold, table in enumerate(tables):
        table.insert(2, "fold", fold)
    return pd.concat(tables, ignore_index=True)


def likelihoods(table: pd.DataFrame, classes: Sequence[str]) -> np.ndarray:
    """(photos,) probabilities of the true classes."""
    true = [classes.index(name) for name in table["true"]]
    return table[list(classes)].to_numpy()[np.arange(len(table)), true]


def score_table(table: pd.DataFrame, classes: Sequence[str]) -> Scores:
    """Scores over all rows at once; the likeliest class answers."""
    predicted = table[list(classes)].to_numpy().argmax(axis=1)
    return score([classes.index(name) for name in table["true"]], predicted, len(classes))


def report_out_of_fold(
    recipe: Recipe, run: Run, folder: Path, split: Mapping[str, Any], seconds: float
) -> None:
    """Save, score and log every person's answers by the model that never saw the person."""
    table = out_of_fold([folder / f"fold{fold}" for fold in range(run.folds)])
    out = run.out_file(recipe.task)
    file = out.with_suffix(".oof.csv")
    write_frame(file, table, float_format=DIGITS)
    scores = score_table(table, recipe.classes)
    loss = -np.log(likelihoods(table, recipe.classes).clip(1e-12)).mean()
    best = {"epoch": 0, "macro_f1": scores.macro_f1, "accuracy": scores.accuracy, "loss": loss}
    record(
        recipe, run, {**split, "fold": "all"}, best, commit=code_commit(), epochs=recipe.epochs,
        seconds=seconds, out=file, folder=folder,
    )  # fmt: skip
    stem = out.with_suffix("")
    where = "--oof", str(file), "--data", str(run.data_dir())
    print(
        f"\n{scores.table(recipe.classes)}\n"
        f"{recipe.task} out of fold: macro F1 {scores.macro_f1:.4f}, accuracy "
        f"{scores.accuracy:.4f}, on {scores.rows:,} photos of {table['person'].nunique():,} "
        f"persons, each answered by the model that never saw them → {file}\n"
        f"for combine.py: --{recipe.task} {stem}.fold*{out.suffix}\n"
        f"labels in doubt: python -m common.tools.review {shlex.join(where)}"
    )
