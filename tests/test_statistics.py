"""common/inference/report/statistics.py: scores, proportions and their intervals."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from common.inference.report.statistics import (
    MIN_PEOPLE,
    TOO_FEW,
    Proportion,
    confident_errors,
    difference_interval,
    effective_photos,
    gaps,
    proportion,
    proportions_by,
    reliability_bins,
    score_intervals,
    wilson,
    years_to_border,
)
from common.model.calibration import BINS, expected_calibration_error
from common.model.metrics import score
from tests.benchmarks.coverage import draw, intervals

PHOTOS = st.lists(
    st.tuples(st.integers(0, 5), st.integers(-1, 5), st.integers(0, 8)), min_size=1, max_size=80
)


def columns(photos: list[tuple[int, int, int]]) -> np.ndarray:
    return np.array(photos).T


def simulated(number: int, seed: int = 0, photos: int = 7) -> tuple[np.ndarray, ...]:
    """Labels and predictions of `number` people, each mostly correct or mostly wrong."""
    rng = np.random.default_rng(seed)
    people = np.repeat(np.arange(number), photos)
    y_true = rng.integers(18, size=number * photos)
    correct = rng.random(len(y_true)) < np.repeat(rng.beta(0.8, 0.4, number), photos)
    return y_true, np.where(correct, y_true, rng.integers(18, size=len(y_true))), people


@settings(max_examples=40)
@given(PHOTOS)
def test_scores_equal_the_printed_ones(photos):
    y_true, y_pred, people = columns(photos)
    result, printed = score_intervals(y_true, y_pred, people, 6), score(y_true, y_pred, 6)
    assert result.macro_f1.value == pytest.approx(printed.macro_f1)
    assert result.accuracy.value == pytest.approx(printed.accuracy)
    assert [f1.value for f1 in result.f1] == pytest.approx(printed.f1)


def test_absent_classes_can_be_left_out():
    y_true, y_pred = np.array([0, 0, 2, 2]), np.array([0, 1, 2, 2])
    result = score_intervals(y_true, y_pred, np.arange(4), 4, only_present=True)
    expected = f1_score(y_true, y_pred, labels=[0, 2], average="macro", zero_division=0)
    assert result.macro_f1.value == pytest.approx(expected)


@settings(max_examples=40)
@given(PHOTOS, st.randoms(use_true_random=False))
def test_an_interval_does_not_depend_on_the_order_or_names_of_people(photos, random):
    first = score_intervals(*columns(photos), 6)
    renamed = [(y_true, y_pred, 100 - person) for y_true, y_pred, person in photos]
    random.shuffle(renamed)
    other = score_intervals(*columns(renamed), 6)
    assert first.macro_f1.value == other.macro_f1.value
    assert score_intervals(*columns(photos), 6) == first
    for value, low, high in (first.macro_f1, first.accuracy, *first.f1):
        assert np.isnan(low) and np.isnan(high) or 0 <= low <= value <= high <= 1


def test_copies_of_photos_leave_the_interval_as_it_is():
    """A bootstrap over photos would give narrower intervals for copies."""
    y_true, y_pred, people = simulated(60)
    once = score_intervals(y_true, y_pred, people, 18)
    thrice = score_intervals(*(np.tile(part, 3) for part in (y_true, y_pred, people)), 18)
    assert thrice.macro_f1 == pytest.approx(once.macro_f1)
    alone = score_intervals(y_true, y_pred, np.arange(len(y_true)), 18)
    width = once.accuracy.high - once.accuracy.low
    assert width > 1.5 * (alone.accuracy.high - alone.accuracy.low)


def test_accuracys_interval_is_as_wide_as_theory_says():
    """The standard error of a mean over 300 people."""
    y_true, y_pred, people = simulated(300)
    means = (y_true == y_pred).reshape(300, 7).mean(axis=1)
    half = 1.96 * means.std() / np.sqrt(300)
    result = score_intervals(y_true, y_pred, people, 18).accuracy
    assert result.high - result.low == pytest.approx(2 * half, rel=0.08)
    assert result.low + result.high == pytest.approx(2 * means.mean(), abs=half / 5)


@pytest.mark.parametrize("number", [MIN_PEOPLE, 42, 200])
def test_an_interval_holds_its_score(number):
    for seed in range(10):
        result = score_intervals(*simulated(number, seed, photos=1), 18)
        for value, low, high in (result.macro_f1, result.accuracy):
            assert low < value < high


def test_few_people_have_no_interval():
    result = score_intervals(*simulated(MIN_PEOPLE - 1), 18)
    assert result.macro_f1.text() == result.f1[0].text() == TOO_FEW
    assert score_intervals(*simulated(MIN_PEOPLE), 18).macro_f1.text() != TOO_FEW


def test_where_all_is_right_the_interval_is_wilsons_of_the_people():
    y = np.repeat(np.arange(20) % 2, 3)
    result = score_intervals(y, y, np.repeat(np.arange(20), 3), 2)
    assert result.accuracy == (1, *wilson(1, 20))
    assert result.f1[0] == (1, *wilson(1, 10))


def test_intervals_of_18_codes_hold_the_truth_95_times_in_100():
    """Of 60 people, with classes that are missing in some samples."""
    aim = next(intervals(draw(50_000, np.random.default_rng(1))["18 codes"]))[1].value
    rng = np.random.default_rng(2)
    found = [next(intervals(draw(60, rng)["18 codes"]))[1] for _ in range(300)]
    assert 0.92 <= np.mean([low <= aim <= high for _, low, high in found]) <= 0.98


@pytest.mark.parametrize(
    ("correct", "photos", "expected"),
    [
        (81, 263, (0.2553, 0.3662)),
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0.0, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
    ],
)
def test_wilsons_interval_equals_newcombes_table(correct, photos, expected):
    """Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I."""
    assert wilson(correct / photos, photos) == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ((56, 70), (48, 80), (0.0524, 0.3339)),
        ((9, 10), (3, 10), (0.1705, 0.8090)),
        ((10, 10), (0, 10), (0.6075, 1.0)),
        ((5, 56), (0, 29), (-0.0381, 0.1926)),
    ],
)
def test_the_interval_of_a_difference_equals_newcombes_table(one, other, expected):
    """Newcombe 1998, "Interval estimation for the difference", table II, method 10."""
    both = [proportion(np.arange(n) < correct, np.arange(n)) for correct, n in (one, other)]
    result = difference_interval(*both)
    assert result.value == pytest.approx(one[0] / one[1] - other[0] / other[1])
    assert result[1:] == pytest.approx(expected, abs=5e-5)


RIGHT = st.lists(st.tuples(st.booleans(), st.integers(0, 9)), min_size=1, max_size=60)


@given(RIGHT)
def test_effective_photos_lie_between_one_a_person_and_all(pairs):
    correct, people = np.array(pairs).T
    photos = effective_photos(correct.astype(bool), people)
    counts = np.unique(people, return_counts=True)[1]
    assert len(correct) ** 2 / (counts**2).sum() - 1e-9 <= photos <= len(correct) + 1e-9
    alone = effective_photos(correct.astype(bool), np.arange(len(correct)))
    assert alone == len(correct)
    result = proportion(correct.astype(bool), people)
    assert 0 <= result.low <= result.value <= result.high <= 1
    assert (result.photos, result.people) == (len(correct), len(counts))


def test_identical_photos_count_as_one_a_person():
    correct, people = np.repeat(np.arange(200) % 3 > 0, 7), np.repeat(np.arange(200), 7)
    assert effective_photos(correct, people) == pytest.approx(200, rel=0.03)
    assert effective_photos(correct | True, people) == pytest.approx(200)


def test_a_wilson_interval_over_people_covers_the_truth_95_times_in_100():
    """600 groups of 20 people with photos that resemble each other; by photo it would be 70."""
    rng = np.random.default_rng(0)
    people = np.repeat(np.arange(20), 7)
    held = []
    for _ in range(600):
        correct = rng.random(140) < np.repeat(rng.beta(1.4, 0.6, 20), 7)
        result = proportion(correct, people)
        held.append(result.low <= 0.7 <= result.high)
    assert 0.92 < np.mean(held) < 0.99


def test_photos_without_a_group_are_in_none():
    correct, people = np.array([True, False, True, True]), np.array([1, 1, 2, 3])
    result = proportions_by(["b", "b", "", "a"], correct, people)
    assert [(name, s.value, s.photos, s.people) for name, s in result.items()] == [
        ("a", 1.0, 1, 1),
        ("b", 0.5, 2, 1),
    ]
    assert list(proportions_by(np.array([30, np.nan, 29, 30]), correct, people)) == [29, 30]


def group(value: float, photos: int) -> Proportion:
    return Proportion(value, value - 0.05, value + 0.05, photos, photos // 7)


def test_a_gap_is_reported_from_10_points_and_100_photos_on():
    groups = {
        "best": group(0.9, 100),
        "small": group(0.1, 99),
        "near": group(0.81, 500),
        "low": group(0.5, 100),
        "lower": group(0.4, 3000),
    }
    result = gaps(groups)
    assert [(gap.worse, gap.best) for gap in result] == [("lower", "best"), ("low", "best")]
    assert result[0].difference == pytest.approx((0.5, 0.5 - 0.05 * 2**0.5, 0.5 + 0.05 * 2**0.5))
    assert not gaps({"small": group(0.99, 99), "low": group(0.2, 1000)})
    assert not gaps({"one": group(0.2, 1000), "other": group(0.3, 1000)})
    assert not gaps({})


@given(st.lists(st.tuples(st.integers(0, 100), st.booleans()), min_size=1, max_size=99))
def test_the_bins_are_those_of_the_calibration_error(pairs):
    confidence = np.array([50 + hundredths / 2 for hundredths, _ in pairs]) / 100
    probabilities = np.stack([confidence, 1 - confidence], axis=1)
    y_true = np.array([0 if correct else 1 for _, correct in pairs])
    bins = reliability_bins(probabilities, y_true, np.arange(len(pairs)))
    off = sum(abs(b.probability - b.correct.value) * b.correct.photos for b in bins) / len(pairs)
    assert off == pytest.approx(expected_calibration_error(probabilities, y_true))
    assert sum(b.correct.photos for b in bins) == len(pairs)
    assert BINS == 15


def test_both_years_beside_a_border_are_one_year_away():
    result = years_to_border(np.array([0, 28, 29, 30, 31, 44, 45, 59, 60, 101, np.nan]))
    assert result.tolist()[:-1] == [30, 2, 1, 1, 2, 15, 15, 1, 1, 42] and np.isnan(result[-1])


def test_confident_errors_come_first_and_are_few_of_one_person():
    confidence = np.array([0.5, 0.9, 0.8, 0.7, 0.95, 0.6, 0.99])
    probabilities = np.stack([1 - confidence, confidence], axis=1)
    y_true, y_pred = np.array([0, 0, 0, 0, 0, 0, 1]), np.array([1, 1, 1, 1, -1, 1, 1])
    people = np.array(["a", "a", "a", "b", "b", "c", "c"])
    place = confident_errors(y_true, y_pred, probabilities, people, limit=9, per_person=2)
    assert place == [1, 2, 3, 5]  # 4 has no prediction, 6 is correct, 0 is the third of its person
    assert confident_errors(y_true, y_pred, probabilities, people, limit=1, per_person=2) == [1]
