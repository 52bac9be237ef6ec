"""Scores of class predictions; macro F1 is the unweighted mean over all classes of the task."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score

from common.data.layout import Face
from common.model.recipe import Recipe
from common.render.text import columns

SCORE_COLUMNS = ("class", "photos", "recall", "precision", "F1")


@dataclasses.dataclass(frozen=True)
class Scores:
    """Scores from 0 to 1.

    `f1` has one value per class, `confusion` counts rows by (true, predicted) class. `support`
    counts the rows of each true class, including those without a prediction.
    """

    macro_f1: float
    accuracy: float
    f1: tuple[float, ...]
    confusion: np.ndarray
    support: np.ndarray

    @property
    def rows(self) -> int:
        return int(self.support.sum())

    def cells(self, names: Sequence[str]) -> list[tuple[str, ...]]:
        """One row of text per class, under SCORE_COLUMNS."""
        hits = self.confusion.diagonal()
        with np.errstate(invalid="ignore"):
            recall = np.nan_to_num(hits / self.support)
            precision = np.nan_to_num(hits / self.confusion.sum(axis=0))
        values = zip(names, self.support, recall, precision, self.f1, strict=True)
        return [(n, f"{count:,}", *(f"{x:.3f}" for x in scores)) for n, count, *scores in values]

    def table(self, names: Sequence[str]) -> str:
        """Rows, recall, precision and F1 of each class as aligned text."""
        return columns(SCORE_COLUMNS, self.cells(names))


def score(true: Sequence[int], predicted: Sequence[int], classes: int) -> Scores:
    """Score class indices; a prediction of -1 means none, and counts as wrong.

    The F1 of a class without rows and predictions is 0.
    """
    labels = list(range(classes))
    f1 = f1_score(true, predicted, labels=labels, average=None, zero_division=0)
    return Scores(
        macro_f1=float(f1.mean()),
        accuracy=float(accuracy_score(true, predicted)),
        f1=tuple(f1.tolist()),
        confusion=confusion_matrix(true, predicted, labels=labels),
        support=np.bincount(np.asarray(true, dtype=int), minlength=classes),
    )


def number_errors(
    recipe: Recipe, faces: Sequence[Face], numbers: np.ndarray
) -> dict[str, Any] | None:
    """Compare the numbers behind the classes, such as years, with the labels, as plain values.

    `numbers` is (photos, 3): predicted values and the ends of their 80% intervals, NaN where there is
    none. Returns the mean absolute error, that of each class, and the part of the photos whose
    interval holds the label; None if no photo has both.
    """
    true = np.array([recipe.true_number(face) for face in faces], dtype=float)
    expected, low, high = numbers.T
    both = np.isfinite(true) & np.isfinite(expected)
    if not both.any():
        return None
    errors, labels = np.abs(expected - true), np.array([recipe.label(face) for face in faces])
    of_class = {name: both & (labels == place) for place, name in enumerate(recipe.classes)}
    return {
        "name": recipe.number_name,
        "error": float(errors[both].mean()),
        "by_class": {n: float(errors[rows].mean()) for n, rows in of_class.items() if rows.any()},
        "within": float(((low <= true) & (true <= high))[both].mean()),
    }


def number_words(errors: Mapping[str, Any]) -> str:
    """Describe what `number_errors` returned."""
    by_class = ", ".join(f"{name} {error:.1f}" for name, error in errors["by_class"].items())
    return (
        f"mean absolute error {errors['error']:.1f} ({by_class}); {errors['within']:.0%} within the "
        "80% interval"
    )
