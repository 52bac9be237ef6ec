"""Scores and proportions with 95% intervals that allow for several photos of one person.

Photos of one person resemble each other, so counting them as independent would give intervals that
are too narrow. F1 and accuracy get intervals from a jackknife over people (Tukey 1958), on the scale of
log-odds. tests/benchmarks/coverage.py shows how often they hold the truth; with few people and many
classes a bootstrap's do less often, be they percentile, basic or BCa. Proportions of correct predictions get Wilson's score interval (1927) on the effective number of
photos (Korn and Graubard 1998, Dean and Pagano 2015), which also works where all are correct; the
difference of two proportions gets Newcombe's interval (1998, method 10).

Arrays are (photos,) in one order. `y_true` and `y_pred` hold class indices; a prediction of -1 is
missing and counts as wrong. `people` holds any sortable key of the person in each photo.
"""

import dataclasses
import math
from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import expit, logit
from scipy.stats import norm, t

from common.data.layout import AGE_BORDERS
from common.model.calibration import by_confidence

MIN_PEOPLE = 10  # fewer are too few for an interval of F1: see tests/benchmarks/RESULTS.md
TINY = 1e-9
TOO_FEW = "too few people for an interval"
TAILS = (0.025, 0.975)
MIN_PHOTOS = 100  # smaller groups are not compared with others
WIDE_GAP = 0.10  # reported from here on
WINDOW = 2  # years: there are few people of any one age


class Interval(NamedTuple):
    """A number with its 95% interval, whose ends are NaN if there are too few people for one."""

    value: float
    low: float
    high: float

    def text(self) -> str:
        """The interval in words."""
        if math.isnan(self.low):
            return TOO_FEW
        return f"{self.low:.3f}–{self.high:.3f}"


@dataclasses.dataclass(frozen=True)
class ScoreIntervals:
    """Scores with intervals; `f1` has one for each class."""

    macro_f1: Interval
    accuracy: Interval
    f1: tuple[Interval, ...]


@dataclasses.dataclass(frozen=True)
class Proportion:
    """The proportion of some photos, from 0 to 1, with its interval and how many there are."""

    value: float
    low: float
    high: float
    photos: int
    people: int

    @property
    def interval(self) -> Interval:
        """The value with its interval only."""
        return Interval(self.value, self.low, self.high)


@dataclasses.dataclass(frozen=True)
class Gap:
    """A group with a lower proportion than the best one, and the difference."""

    worse: str
    best: str
    difference: Interval


@dataclasses.dataclass(frozen=True)
class Bin:
    """Photos of similar confidence: its mean, and the proportion predicted correctly."""

    probability: float
    correct: Proportion


def numbered(people: Sequence[Hashable]) -> np.ndarray:
    """Replace keys by numbers from 0."""
    return np.unique(np.asarray(people), return_inverse=True)[1]


def person_counts(
    y_true: np.ndarray, y_pred: np.ndarray, people: np.ndarray, classes: int
) -> np.ndarray:
    """Count by person and class: correct predictions, labels, predictions; (people, 3, classes)."""
    numbers = numbered(people)
    counts = np.zeros((numbers.max() + 1, 3, classes))
    correct, given = y_true == y_pred, y_pred >= 0
    np.add.at(counts, (numbers[correct], 0, y_true[correct]), 1)
    np.add.at(counts, (numbers, 1, y_true), 1)
    np.add.at(counts, (numbers[given], 2, y_pred[given]), 1)
    return counts


def f1_of(counts: np.ndarray) -> np.ndarray:
    """F1 from sums of `person_counts`: (…, 3, classes) → (…, classes), 0 for an absent class."""
    hits, labels, predictions = np.moveaxis(counts, -2, 0)
    return 2 * hits / np.maximum(labels + predictions, 1)


def score_intervals(
    y_true: np.ndarray,
    y_pred: np.ndarray,
    people: np.ndarray,
    classes: int,
    *,
    only_present: bool = False,
) -> ScoreIntervals:
    """Scores with intervals from a jackknife over people.

    Macro F1 is the mean over all classes, or with `only_present` over those among the labels. A class
    whose only person is left out doesn't count in the mean without that person.
    """
    counts = person_counts(y_true, y_pred, people, classes)
    total = counts.sum(axis=0)
    without = total - counts  # each person left out in turn: (people, 3, classes)
    kept = total[1] > 0 if only_present else np.full(classes, True)
    lost = ((without[:, 1] == 0) & (total[1] > 0)).sum(axis=1)
    f1, f1_without = f1_of(total), f1_of(without)
    sums = np.where(without[:, 1] > 0, f1_without, 0)[:, kept].sum(axis=1)
    of_class = ((counts[:, 1:] > 0).any(axis=1)).sum(axis=0)
    return ScoreIntervals(
        jackknife(f1[kept].mean(), sums / np.maximum(kept.sum() - lost, 1), len(counts)),
        jackknife(*_accuracies(total, without), len(counts)),
        tuple(
            jackknife(value, values, people_of_class)
            for value, values, people_of_class in zip(f1, f1_without.T, of_class, strict=True)
        ),
    )


def _accuracies(total: np.ndarray, without: np.ndarray) -> tuple[float, np.ndarray]:
    """The accuracy of all people, and without each."""
    value, values = (
        c[..., 0, :].sum(-1) / np.maximum(c[..., 1, :].sum(-1), 1) for c in (total, without)
    )
    return float(value), values


def jackknife(value: float, without: np.ndarray, people: int) -> Interval:
    """A score from 0 to 1 with its interval, from its values without each person.

    Normal on the scale of log-odds, with Student's t: it holds the score and lies within 0 and 1.
    Without any difference, as where all is correct, Wilson's of one photo a person. The score alone
    if it rests on fewer than MIN_PEOPLE `people`.
    """
    value, number = float(value), len(without)
    if people < MIN_PEOPLE:
        return Interval(value, math.nan, math.nan)
    error = math.sqrt((number - 1) / number * ((without - without.mean()) ** 2).sum())
    if error < TINY or not TINY < value < 1 - TINY:
        return Interval(value, *wilson(value, people))
    half = t.ppf(TAILS[1], people - 1) * error / (value * (1 - value))
    low, high = expit(logit(value) + np.array([-half, half])).tolist()
    return Interval(value, low, high)


def wilson(value: float, photos: float) -> tuple[float, float]:
    """Wilson's score interval of a proportion; `photos` may be fractional."""
    z = norm.ppf(TAILS[1])
    middle = (value + z**2 / (2 * photos)) / (1 + z**2 / photos)
    half = z * np.sqrt(value * (1 - value) / photos + (z / (2 * photos)) ** 2) / (1 + z**2 / photos)
    low, high = max(0.0, middle - half), min(1.0, middle + half)
    return float(min(low, value)), float(max(high, value))  # rounding may exclude the value


def effective_photos(correct: np.ndarray, people: np.ndarray) -> float:
    """Number of independent photos that would tell as much as these.

    Between counting each person once and counting every photo, by how alike a person's photos are.
    """
    numbers = numbered(people)
    photos, hits = np.bincount(numbers), np.bincount(numbers, weights=correct)
    total, number, value = len(correct), len(photos), correct.mean()
    least = total**2 / (photos**2).sum()  # Kish 1965
    spread = ((hits - value * photos) ** 2).sum()
    if number == 1 or value in (0, 1) or least == total:
        return float(least)
    if spread == 0:
        return float(total)
    variance = number / (number - 1) * spread / total**2
    # A variance estimated from few people is uncertain (Korn and Graubard 1998).
    few = t.ppf(TAILS[1], total - 1) / t.ppf(TAILS[1], number - 1)
    return float(np.clip(value * (1 - value) / variance * few**2, least, total))


def proportion(correct: np.ndarray, people: np.ndarray) -> Proportion:
    """The proportion of photos, at least one, that are correct."""
    value = float(correct.mean())
    low, high = wilson(value, effective_photos(correct, people))
    return Proportion(value, low, high, len(correct), len(np.unique(people)))


def proportions_by(
    groups: Sequence[Hashable], correct: np.ndarray, people: np.ndarray
) -> dict[Hashable, Proportion]:
    """The proportion correct in each group, sorted by group.

    `groups` holds each photo's group; photos with "" or NaN are in none.
    """
    groups = np.asarray(groups)
    labelled = groups != "" if groups.dtype.kind in "UO" else ~np.isnan(groups)
    return {
        group.item(): proportion(correct[groups == group], people[groups == group])
        for group in np.unique(groups[labelled])
    }


def smoothed_by_age(
    years: np.ndarray, correct: np.ndarray, people: np.ndarray
) -> dict[float, Proportion]:
    """The proportion correct around each age: ages of its age group up to WINDOW years away."""
    groups = np.searchsorted(AGE_BORDERS, years, side="right")
    smoothed = {}
    for year in np.unique(years[~np.isnan(years)]).tolist():
        near = np.abs(years - year) <= WINDOW
        near &= groups == np.searchsorted(AGE_BORDERS, year, side="right")
        smoothed[year] = proportion(correct[near], people[near])
    return smoothed


def difference_interval(one: Proportion, other: Proportion) -> Interval:
    """`one` minus `other`, of different people."""
    value = one.value - other.value
    low = np.hypot(one.value - one.low, other.high - other.value)
    high = np.hypot(one.high - one.value, other.value - other.low)
    return Interval(value, float(value - low), float(value + high))


def gaps(groups: Mapping[str, Proportion]) -> list[Gap]:
    """List the groups more than WIDE_GAP below the best, the worst first.

    Only groups of at least MIN_PHOTOS are compared.
    """
    large = {name: p for name, p in groups.items() if p.photos >= MIN_PHOTOS}
    if not large:
        return []
    best = max(large, key=lambda name: large[name].value)
    all_gaps = (Gap(name, best, difference_interval(large[best], p)) for name, p in large.items())
    wide = (gap for gap in all_gaps if gap.difference.value > WIDE_GAP)
    return sorted(wide, key=lambda gap: -gap.difference.value)


def reliability_bins(
    probabilities: np.ndarray, y_true: np.ndarray, people: np.ndarray
) -> list[Bin]:
    """Accuracy of the most probable class by its probability, in bins of equal width.

    `probabilities` is (photos, classes); empty bins are left out.
    """
    confidence, correct, places = by_confidence(probabilities, y_true)
    bins = (places == place for place in np.unique(places))
    return [Bin(float(confidence[b].mean()), proportion(correct[b], people[b])) for b in bins]


def years_to_border(years: np.ndarray) -> np.ndarray:
    """Years to the nearest border between age groups, from 1: both 29 and 30 are 1 year away."""
    away = [np.where(years < b, b - years, years - b + 1) for b in AGE_BORDERS]
    return np.where(np.isnan(years), np.nan, np.min(away, axis=0))


def confident_errors(
    y_true: np.ndarray,
    y_pred: np.ndarray,
    probabilities: np.ndarray,
    people: np.ndarray,
    *,
    limit: int,
    per_person: int,
) -> list[int]:
    """Indices of wrong predictions, the most probable first, at most `limit` and `per_person`.

    `probabilities` is (photos, classes); an error ranks by the probability of its predicted class.
    """
    wrong = np.flatnonzero((y_pred >= 0) & (y_pred != y_true))
    order = wrong[np.argsort(-probabilities[wrong, y_pred[wrong]], kind="stable")]
    counts: dict[Hashable, int] = {}
    kept = []
    for place in order.tolist():
        person = people[place].item()
        counts[person] = counts.get(person, 0) + 1
        if counts[person] <= per_person:
            kept.append(place)
    return kept[:limit]
