"""Scores of class predictions; macro F1 is the unweighted mean over all classes of the task."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score

from common.render.text import columns

HEADER = ("class", "photos", "recall", "precision", "F1")


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
        """One row of text per class, under HEADER."""
        hits = self.confusion.diagonal()
        with np.errstate(invalid="ignore"):
            recall = np.nan_to_num(hits / self.support)
            precision = np.nan_to_num(hits / self.confusion.sum(axis=0))
        values = zip(names, self.support, recall, precision, self.f1, strict=True)
        return [(n, f"{count:,}", *(f"{x:.3f}" for x in scores)) for n, count, *scores in values]

    def table(self, names: Sequence[str]) -> str:
        """Rows, recall, precision and F1 of each class as aligned text."""
        return columns(HEADER, self.cells(names))


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
