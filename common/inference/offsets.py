"""Offsets to log probabilities, tuned to the score that counts: NumPy and nothing else.

The codes' macro F1 counts a rare class as much as a frequent one, so that the likeliest class is
often not the best answer. A class answers where its log probability plus its offset is largest:
its probability times the offset's exponential.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

STEPS = (4.0, 2.0, 1.0, 0.5, 0.25, 0.125, 0.0625)  # in units of log probability
Encode = Callable[[Sequence[np.ndarray]], np.ndarray]


def macro_f1(true: np.ndarray, predicted: np.ndarray, codes: int) -> float:
    """The mean F1 over all `codes`, 0 for one that is neither true nor predicted anywhere."""
    hits = np.bincount(true[true == predicted], minlength=codes)
    both = np.bincount(true, minlength=codes) + np.bincount(predicted, minlength=codes)
    return float((2 * hits / both.clip(1)).mean())


def tune(
    shares: Sequence[np.ndarray],
    true: np.ndarray,
    starts: Sequence[Sequence[np.ndarray]],
    encode: Encode,
    codes: int,
) -> list[np.ndarray]:
    """The offsets, (classes,) for each task, with the highest macro F1 of the codes.

    `shares` holds each task's (photos, classes) probabilities, `true` the photos' codes, and
    `encode` turns each task's (photos,) classes into codes below `codes`. From each of `starts` one
    class after another goes up or down as long as that helps, by steps that shrink; the first of
    the best ends wins. Nothing is drawn: the same photos give the same offsets.
    """

    def merit(classes: Sequence[np.ndarray]) -> float:
        return macro_f1(true, encode(classes), codes)

    ends = [_climb(shares, start, merit) for start in starts]
    return max(ends, key=lambda end: end[0])[1]


def nested(
    shares: Sequence[np.ndarray],
    true: np.ndarray,
    parts: np.ndarray,
    starts: Sequence[Sequence[np.ndarray]],
    encode: Encode,
    codes: int,
) -> list[np.ndarray]:
    """Offsets for every photo, (photos, classes) for each task, tuned on the other parts' photos.

    `parts` is (photos,); photos of one person are to be in the same part. See `tune`.
    """
    offsets = [np.zeros(share.shape) for share in shares]
    for part in np.unique(parts):
        mine = parts == part
        others = [share[~mine] for share in shares]
        tuned = tune(others, true[~mine], starts, encode, codes)
        for of_task, values in zip(offsets, tuned, strict=True):
            of_task[mine] = values
    return offsets


def _climb(
    shares: Sequence[np.ndarray],
    start: Sequence[np.ndarray],
    merit: Callable[[Sequence[np.ndarray]], float],
) -> tuple[float, list[np.ndarray]]:
    """The highest merit that coordinate search reaches from `start`, and its offsets.

    Only differences within a task count: its first class stays where it is.
    """
    offsets = [np.array(values) for values in start]
    classes = [_chosen(share, values) for share, values in zip(shares, offsets, strict=True)]
    best, before = merit(classes), -math.inf
    moves = [(task, k) for task, values in enumerate(offsets) for k in range(1, len(values))]
    for step in STEPS:
        while best > before:
            before = best
            for (task, k), change in ((move, sign) for move in moves for sign in (step, -step)):
                moved = offsets[task].copy()
                moved[k] += change
                tried = [*classes[:task], _chosen(shares[task], moved), *classes[task + 1 :]]
                found = merit(tried)
                if found > best:
                    best, classes, offsets[task] = found, tried, moved
        before = -math.inf
    return best, offsets


def _chosen(share: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    return (share * np.exp(offsets)).argmax(axis=1)
