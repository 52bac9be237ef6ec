"""How often the report's 95% intervals hold the truth, by simulation; one core, minutes.

    python -m tests.benchmarks.coverage --people 10 20 60 540 --times 1000

Draws people as in the competition's data (seven photos each, one in twelve old), whose predictions
are right about as often as those of our models and resemble each other within a person. The truth is
the score of 200,000 such people. The last columns say how often the interval was below and above it.
"""

import argparse
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from common.inference.report.statistics import Interval, proportion, score_intervals
from common.render.text import columns

VIEWS = np.array([0, 0, 0, 0, 0, 1, 2])  # how the mask is worn in each photo
AGES = (0.46, 0.46, 0.08)  # young, middle, old
WOMEN = 0.6
MASK_RIGHT, GENDER_RIGHT, AGE_RIGHT = 0.97, 0.90, (0.72, 0.72, 0.55)
ALIKE = 2.0  # parameters of the beta distribution of people's own rates: lower is more alike
TRUTH = 200_000  # people


class Sample(NamedTuple):
    """Labels and predictions of one task: (photos,) class indices, and each photo's person."""

    y_true: np.ndarray
    y_pred: np.ndarray
    people: np.ndarray
    classes: int


def rates(mean: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw each person's own rate of right predictions: (people, 1)."""
    return rng.beta(mean * ALIKE, (1 - mean) * ALIKE)[:, None]


def draw(number: int, rng: np.random.Generator) -> dict[str, Sample]:
    """Draw `number` people: task, or codes → labels and predictions."""
    shape = number, len(VIEWS)
    mask = np.tile(VIEWS, (number, 1))
    gender = np.repeat(rng.random((number, 1)) < WOMEN, len(VIEWS), axis=1).astype(int)
    age = np.repeat(rng.choice(3, (number, 1), p=AGES), len(VIEWS), axis=1)
    masks = np.where(rng.random(shape) < MASK_RIGHT, mask, rng.integers(3, size=shape))
    right = rng.random(shape) < rates(np.full(number, GENDER_RIGHT), rng)
    genders = np.where(right, gender, 1 - gender)
    right = rng.random(shape) < rates(np.array(AGE_RIGHT)[age[:, 0]], rng)
    beside = np.where(age == 1, rng.choice([0, 2], (number, 1), p=(0.7, 0.3)), 1)
    ages = np.where(right, age, beside)
    people = np.repeat(np.arange(number), len(VIEWS))
    tasks = {
        "18 codes": (mask * 6 + gender * 3 + age, masks * 6 + genders * 3 + ages, 18),
        "mask": (mask, masks, 3),
        "gender": (gender, genders, 2),
        "age": (age, ages, 3),
    }
    return {
        name: Sample(true.ravel(), predicted.ravel(), people, classes)
        for name, (true, predicted, classes) in tasks.items()
    }


def intervals(sample: Sample) -> Iterator[tuple[str, Interval]]:
    """Yield what the report prints of a sample, by name."""
    scores = score_intervals(*sample, only_present=True)
    yield "macro F1", scores.macro_f1
    yield "accuracy", scores.accuracy
    yield "F1 of the rarest class", scores.f1[-1]
    yield "proportion right", proportion(sample.y_true == sample.y_pred, sample.people).interval


def measured(people: int, times: int) -> Iterator[list[str]]:
    """Yield a row for each task and score: how many of `times` intervals hold the truth."""
    truth = {
        (task, name): interval.value
        for task, sample in draw(TRUTH, np.random.default_rng(1)).items()
        for name, interval in intervals(sample)
    }
    ends: dict[tuple[str, str], list[Interval]] = {key: [] for key in truth}
    rng = np.random.default_rng(2)
    for _ in range(times):
        for task, sample in draw(people, rng).items():
            for name, interval in intervals(sample):
                ends[task, name].append(interval)
    for (task, name), found in ends.items():
        values, low, high = np.array(found).T
        given = ~np.isnan(low)
        if not given.any():
            yield [task, name, str(people), "0%", "–", "–", "–", "–"]
            continue
        low, high, values, aim = low[given], high[given], values[given], truth[task, name]
        assert ((low <= values) & (values <= high)).all(), (task, name)
        parts = given.mean(), ((low <= aim) & (aim <= high)).mean(), (high < aim).mean()
        yield [
            *(task, name, str(people)),
            *(f"{part:.1%}" for part in (*parts, (low > aim).mean())),
            f"{(high - low).mean():.3f}",
        ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--people", type=int, nargs="+", default=[10, 20, 60, 540])
    parser.add_argument("--times", type=int, default=1000)
    arguments = parser.parse_args()
    rows = [row for people in arguments.people for row in measured(people, arguments.times)]
    header = ["", "score", "people", "given", "held", "too low", "too high", "width"]
    print(columns(header, rows, left=(0, 1)))


if __name__ == "__main__":
    main()
