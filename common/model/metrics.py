"""Scores over all rows at once; macro F1 is the unweighted mean over every class there is."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score


@dataclasses.dataclass(frozen=True)
class Scores:
    """Scores from 0 to 1; `confusion` counts (true class, predicted class).

    `support` counts the rows of each true class, those without an answer included.
    """

    macro_f1: float
    accuracy: float
    f1: tuple[float, ...]
    confusion: np.ndarray
    support: np.ndarray

    @property
    def rows(self) -> int:
        return int(self.support.sum())

    def rows_of(self, names: Sequence[str]) -> list[tuple[str, int, float, float, float]]:
        """A row a class: its name, rows, how many of them were recognised, precision, F1."""
        hits = self.confusion.diagonal()
        with np.errstate(invalid="ignore"):
            recall = np.nan_to_num(hits / self.support)
            precision = np.nan_to_num(hits / self.confusion.sum(axis=0))
        return list(zip(names, self.support, recall, precision, self.f1, strict=True))

    def table(self, names: Sequence[str]) -> str:
        """The `rows_of` the classes as text."""
        width = max(len(name) for name in (*names, "class"))
        lines = [f"{'class':<{width}}  {'rows':>7}  recall  precision      F1"]
        for name, *figures in self.rows_of(names):
            lines.append(
                "{:<{}}  {:>7,}  {:>6.3f}  {:>9.3f}  {:>6.3f}".format(name, width, *figures)
            )
        return "\n".join(lines)


def score(true: Sequence[int], predicted: Sequence[int], classes: int) -> Scores:
    """Score class indices with scikit-learn; a prediction of -1 is no answer, and wrong.

    A class without rows and predictions counts as F1 0.
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
