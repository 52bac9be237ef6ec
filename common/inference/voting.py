"""Votes of several models, or of several finished tables.

Weights are positive numbers, one per voter; only their proportions count. Nothing but NumPy, so
that a vote of tables starts at once.
"""

import math
from collections.abc import Sequence

import numpy as np

ROUNDING = 1e-9  # of all weight: sums that differ by less differ by rounding


def soft_vote(probabilities: np.ndarray, weights: Sequence[float]) -> np.ndarray:
    """The weighted mean of (models, photos, classes) probabilities: (photos, classes)."""
    return _weighted_sum(probabilities, weights)


def hard_vote(probabilities: np.ndarray, weights: Sequence[float]) -> np.ndarray:
    """The class with the most votes, (photos,), from (models, photos, classes) probabilities.

    Each model gives its weight to its most likely class. Among tied classes the most likely in
    the soft vote wins, and then the first.
    """
    tied = _most(tally(probabilities.argmax(axis=2), weights, probabilities.shape[2]))
    return _most(np.where(tied, soft_vote(probabilities, weights), -1)).argmax(axis=1)


def vote_codes(
    codes: np.ndarray, weights: Sequence[float], classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """The code with the most votes, and True where others had as many, both (rows,).

    `codes` is (tables, rows) below `classes`, -1 where a table has none and so no vote. A tie goes
    to the earliest table whose code is among the tied; -1 where no table has a code.
    """
    tied = _most(tally(codes, weights, classes))
    rows = np.arange(codes.shape[1])
    winning = (codes >= 0) & tied[rows, codes]
    return codes[winning.argmax(axis=0), rows], winning.any(axis=0) & (tied.sum(axis=1) > 1)


def tally(votes: np.ndarray, weights: Sequence[float], classes: int) -> np.ndarray:
    """The fraction of all weight that each class gets, (rows, classes).

    `votes` is (voters, rows) class indices; -1 is no vote.
    """
    return _weighted_sum(votes[:, :, None] == np.arange(classes), weights)


def _weighted_sum(values: np.ndarray, weights: Sequence[float]) -> np.ndarray:
    """Weighted mean over the first axis, sorted first: no order of voters changes a bit."""
    total = math.fsum(weights)
    scaled = np.array([weight / total for weight in weights]).reshape(-1, 1, 1) * values
    return np.sort(scaled, axis=0).sum(axis=0)


def _most(values: np.ndarray) -> np.ndarray:
    """True where (rows, classes) values are the row's largest, up to rounding."""
    return values >= values.max(axis=1, keepdims=True) - ROUNDING
