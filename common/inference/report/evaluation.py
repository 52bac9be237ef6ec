"""How good answers are and how sure that is: scores with intervals, by group, age and probability.

Photos of one person resemble one another, so that to count each of them as news would be too sure.
F1 and accuracy have percentile intervals from drawing whole persons with replacement (bootstrap,
Efron 1979). Shares of right answers have Wilson's score interval (1927) on the effective number of
photos (Korn and Graubard 1998, Dean and Pagano 2015), which is of use also where all answers are
right; a difference of two shares has Newcombe's (1998, method 10) of their intervals. All intervals
are of 95%.

Arrays are (photos,) in one order; `persons` holds whom each photo shows, as anything that sorts.
Shares are from 0 to 1, and an answer of -1 is none, and wrong.
"""

import dataclasses
from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import norm, t

from common.data.layout import AGE_BORDERS
from common.model.calibration import by_confidence

RESAMPLES = 2_000
SEED = 0
CHUNK = 100  # resamples at a time: they fit into memory also for a hundred thousand persons
TAILS = (0.025, 0.975)
LEAST_PHOTOS = 100  # of a group that is compared with others
WIDE_GAP = 0.10
WINDOW = 2  # years of age: of one year there are few persons


class Interval(NamedTuple):
    """A number with its 95% interval."""

    value: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Scored:
    """Scores of photos by class; `f1` has one for each class."""

    macro_f1: Interval
    accuracy: Interval
    f1: tuple[Interval, ...]


@dataclasses.dataclass(frozen=True)
class Share:
    """How many of some photos are right: `value` with its interval, of `photos` of `persons`."""

    value: float
    low: float
    high: float
    photos: int
    persons: int


@dataclasses.dataclass(frozen=True)
class Gap:
    """A group that is told worse than the best one; `difference` is how much worse."""

    worse: str
    best: str
    difference: Interval


@dataclasses.dataclass(frozen=True)
class Bin:
    """Photos whose likeliest class is about as likely: the mean `probability`, how many are right."""

    probability: float
    right: Share


def numbered(persons: Sequence[Hashable]) -> np.ndarray:
    """The persons as numbers from 0."""
    return np.unique(np.asarray(persons), return_inverse=True)[1]


def person_counts(
    true: np.ndarray, predicted: np.ndarray, persons: np.ndarray, classes: int
) -> np.ndarray:
    """(persons, 3, classes): each person's right answers, photos and answers by class."""
    numbers = numbered(persons)
    counts = np.zeros((numbers.max() + 1, 3, classes))
    right, given = true == predicted, predicted >= 0
    np.add.at(counts, (numbers[right], 0, true[right]), 1)
    np.add.at(counts, (numbers, 1, true), 1)
    np.add.at(counts, (numbers[given], 2, predicted[given]), 1)
    return counts


def resampled(counts: np.ndarray) -> np.ndarray:
    """Sums over as many persons as there are, drawn with replacement: (persons, …) → (RESAMPLES, …).

    The same persons are drawn every time.
    """
    rng, people = np.random.default_rng(SEED), len(counts)
    rows, sums = counts.reshape(people, -1), []
    for start in range(0, RESAMPLES, CHUNK):
        number = min(CHUNK, RESAMPLES - start)
        drawn = rng.integers(people, size=(number, people))
        drawn += np.arange(number)[:, None] * people
        times = np.bincount(drawn.ravel(), minlength=number * people).reshape(number, people)
        sums.append(times.astype(float) @ rows)
    return np.concatenate(sums).reshape(RESAMPLES, *counts.shape[1:])


def f1_of(counts: np.ndarray) -> np.ndarray:
    """(…, 3, classes) sums of `person_counts` → (…, classes) F1, 0 for a class without any."""
    hits, true, given = np.moveaxis(counts, -2, 0)
    return 2 * hits / np.maximum(true + given, 1)


def scored(
    true: np.ndarray,
    predicted: np.ndarray,
    persons: np.ndarray,
    classes: int,
    *,
    only_present: bool = False,
) -> Scored:
    """Scores with intervals from drawing persons.

    The macro F1 is the mean over all classes, or over those with a photo among these only.
    """
    counts = person_counts(true, predicted, persons, classes)
    total, drawn = counts.sum(axis=0), resampled(counts)
    kept = total[1] > 0 if only_present else np.full(classes, True)
    f1, of_drawn = f1_of(total), f1_of(drawn)
    accuracy, accuracies = (c[..., 0, :].sum(-1) / c[..., 1, :].sum(-1) for c in (total, drawn))
    return Scored(
        _interval(f1[kept].mean(), of_drawn[:, kept].mean(axis=1)),
        _interval(accuracy, accuracies),
        tuple(_interval(value, values) for value, values in zip(f1, of_drawn.T, strict=True)),
    )


def _interval(value: float, drawn: np.ndarray) -> Interval:
    return Interval(float(value), *np.quantile(drawn, TAILS).tolist())


def wilson(share: float, photos: float) -> tuple[float, float]:
    """Wilson's score interval of a share of `photos`, which needn't be whole."""
    z = norm.ppf(TAILS[1])
    middle = (share + z**2 / (2 * photos)) / (1 + z**2 / photos)
    half = z * np.sqrt(share * (1 - share) / photos + (z / (2 * photos)) ** 2) / (1 + z**2 / photos)
    low, high = max(0.0, middle - half), min(1.0, middle + half)
    return float(min(low, share)), float(max(high, share))  # but for rounding it lies between


def effective_photos(right: np.ndarray, persons: np.ndarray) -> float:
    """As how many photos of different persons these count, where photos of a person are alike.

    At least as many as if all photos of a person were one, at most as many as there are.
    """
    numbers = numbered(persons)
    photos, hits = np.bincount(numbers), np.bincount(numbers, weights=right)
    total, people, value = len(right), len(photos), right.mean()
    least = total**2 / (photos**2).sum()  # Kish 1965
    spread = ((hits - value * photos) ** 2).sum()
    if people == 1 or value in (0, 1) or least == total:
        return float(least)
    if spread == 0:
        return float(total)
    variance = people / (people - 1) * spread / total**2
    few = t.ppf(TAILS[1], total - 1) / t.ppf(TAILS[1], people - 1)  # few persons tell it badly
    return float(np.clip(value * (1 - value) / variance * few**2, least, total))


def share(right: np.ndarray, persons: np.ndarray) -> Share:
    """How many of some photos, at least one, are right."""
    value = float(right.mean())
    low, high = wilson(value, effective_photos(right, persons))
    return Share(value, low, high, len(right), len(np.unique(persons)))


def shares_by(
    groups: Sequence[Hashable], right: np.ndarray, persons: np.ndarray
) -> dict[Hashable, Share]:
    """How many are right in each of the groups, sorted by group; what isn't known is in none.

    `groups` holds the photos' groups: "" or NaN where it isn't known.
    """
    groups = np.asarray(groups)
    known = groups != "" if groups.dtype.kind in "UO" else ~np.isnan(groups)
    return {
        group.item(): share(right[groups == group], persons[groups == group])
        for group in np.unique(groups[known])
    }


def shares_around(years: np.ndarray, right: np.ndarray, persons: np.ndarray) -> dict[float, Share]:
    """How many are right at each age, ages of the same group up to WINDOW years away included."""
    groups = np.searchsorted(AGE_BORDERS, years, side="right")
    found = {}
    for year in np.unique(years[~np.isnan(years)]).tolist():
        near = np.abs(years - year) <= WINDOW
        near &= groups == np.searchsorted(AGE_BORDERS, year, side="right")
        found[year] = share(right[near], persons[near])
    return found


def difference(one: Share, other: Share) -> Interval:
    """`one` minus `other`, of different persons."""
    value = one.value - other.value
    low = np.hypot(one.value - one.low, other.high - other.value)
    high = np.hypot(one.high - one.value, other.value - other.low)
    return Interval(value, float(value - low), float(value + high))


def gaps(groups: Mapping[str, Share]) -> list[Gap]:
    """The groups that lie more than WIDE_GAP below the best, the worst first.

    Only groups of at least LEAST_PHOTOS are compared.
    """
    large = {name: s for name, s in groups.items() if s.photos >= LEAST_PHOTOS}
    if not large:
        return []
    best = max(large, key=lambda name: large[name].value)
    found = (Gap(name, best, difference(large[best], s)) for name, s in large.items())
    wide = (gap for gap in found if gap.difference.value > WIDE_GAP)
    return sorted(wide, key=lambda gap: -gap.difference.value)


def reliability(probabilities: np.ndarray, true: np.ndarray, persons: np.ndarray) -> list[Bin]:
    """How often the likeliest class is right, by its probability, in bins of equal width.

    `probabilities` is (photos, classes); bins without photos are left out.
    """
    sure, right, places = by_confidence(probabilities, true)
    chosen = (places == place for place in np.unique(places))
    return [Bin(float(sure[c].mean()), share(right[c], persons[c])) for c in chosen]


def years_to_border(years: np.ndarray) -> np.ndarray:
    """Years to the nearest border between age groups, on its own side: 1 for 29 and for 30."""
    away = [np.where(years < b, b - years, years - b + 1) for b in AGE_BORDERS]
    return np.where(np.isnan(years), np.nan, np.min(away, axis=0))


def surest_mistakes(
    true: np.ndarray,
    said: np.ndarray,
    probabilities: np.ndarray,
    persons: np.ndarray,
    *,
    most: int,
    each: int,
) -> list[int]:
    """The places of wrong answers, the surest first: at most `most`, and `each` of a person.

    `probabilities` is (photos, classes); how sure an answer is, is the probability of its class.
    """
    wrong = np.flatnonzero((said >= 0) & (said != true))
    order = wrong[np.argsort(-probabilities[wrong, said[wrong]], kind="stable")]
    seen: dict[Hashable, int] = {}
    kept = []
    for place in order.tolist():
        person = persons[place].item()
        seen[person] = seen.get(person, 0) + 1
        if seen[person] <= each:
            kept.append(place)
    return kept[:most]
