"""common/report/evaluation.py: scores, shares and their intervals, by value and by property."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from common.inference.report.evaluation import (
    Share,
    difference,
    effective_photos,
    gaps,
    reliability,
    scored,
    share,
    shares_by,
    surest_mistakes,
    wilson,
    years_to_border,
)
from common.model.calibration import BINS, expected_calibration_error
from common.model.metrics import score

PHOTOS = st.lists(
    st.tuples(st.integers(0, 5), st.integers(-1, 5), st.integers(0, 8)), min_size=1, max_size=80
)


def columns(photos: list[tuple[int, int, int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    true, predicted, persons = np.array(photos).T
    return true, predicted, persons


def people(number: int, seed: int = 0, photos: int = 7) -> tuple[np.ndarray, ...]:
    """Drawn answers of `number` persons, whose photos are mostly right or mostly wrong together."""
    rng = np.random.default_rng(seed)
    persons = np.repeat(np.arange(number), photos)
    true = rng.integers(18, size=number * photos)
    right = rng.random(len(true)) < np.repeat(rng.beta(0.8, 0.4, number), photos)
    return true, np.where(right, true, rng.integers(18, size=len(true))), persons


@settings(max_examples=40)
@given(PHOTOS)
def test_the_scores_are_those_that_are_printed(photos):
    true, predicted, persons = columns(photos)
    found, printed = scored(true, predicted, persons, 6), score(true, predicted, 6)
    assert found.macro_f1.value == pytest.approx(printed.macro_f1)
    assert found.accuracy.value == pytest.approx(printed.accuracy)
    assert [f1.value for f1 in found.f1] == pytest.approx(printed.f1)


def test_classes_that_do_not_occur_can_be_left_out():
    true, predicted = np.array([0, 0, 2, 2]), np.array([0, 1, 2, 2])
    found = scored(true, predicted, np.arange(4), 4, only_present=True)
    expected = f1_score(true, predicted, labels=[0, 2], average="macro", zero_division=0)
    assert found.macro_f1.value == pytest.approx(expected)


@settings(max_examples=40)
@given(PHOTOS, st.randoms(use_true_random=False))
def test_an_interval_depends_on_no_order_and_no_names(photos, random):
    first = scored(*columns(photos), 6)
    renamed = [(true, predicted, 100 - person) for true, predicted, person in photos]
    random.shuffle(renamed)
    other = scored(*columns(renamed), 6)
    assert first.macro_f1.value == other.macro_f1.value
    assert scored(*columns(photos), 6) == first
    for low_to_high in (first.macro_f1, first.accuracy, *first.f1):
        assert 0 <= low_to_high.low <= low_to_high.high <= 1


def test_the_same_photos_again_make_nobody_surer():
    """What a bootstrap over photos would get wrong: of copies it makes narrower intervals."""
    true, predicted, persons = people(60)
    once = scored(true, predicted, persons, 18)
    thrice = scored(*(np.tile(part, 3) for part in (true, predicted, persons)), 18)
    assert thrice.macro_f1 == pytest.approx(once.macro_f1)
    alone = scored(true, predicted, np.arange(len(true)), 18)
    width = once.accuracy.high - once.accuracy.low
    assert width > 1.5 * (alone.accuracy.high - alone.accuracy.low)


def test_the_spread_of_resamples_is_that_of_new_persons():
    """Accuracy's interval is as wide as theory says for a mean over 300 persons."""
    true, predicted, persons = people(300)
    means = (true == predicted).reshape(300, 7).mean(axis=1)
    half = 1.96 * means.std() / np.sqrt(300)
    found = scored(true, predicted, persons, 18).accuracy
    assert found.high - found.low == pytest.approx(2 * half, rel=0.08)
    assert found.low + found.high == pytest.approx(2 * means.mean(), abs=half / 5)


def test_2000_resamples_of_540_persons_take_less_than_seconds():
    start = time.process_time()
    scored(*people(540), 18)
    assert time.process_time() - start < 3


@pytest.mark.parametrize(
    ("right", "photos", "expected"),
    [
        (81, 263, (0.2553, 0.3662)), (15, 148, (0.0624, 0.1605)), (0, 20, (0.0, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
    ],
)  # fmt: skip
def test_wilsons_interval_is_that_of_newcombes_table(right, photos, expected):
    """Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I."""
    assert wilson(right / photos, photos) == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ((56, 70), (48, 80), (0.0524, 0.3339)), ((9, 10), (3, 10), (0.1705, 0.8090)),
        ((10, 10), (0, 10), (0.6075, 1.0)), ((5, 56), (0, 29), (-0.0381, 0.1926)),
    ],
)  # fmt: skip
def test_a_differences_interval_is_that_of_newcombes_table(one, other, expected):
    """Newcombe 1998, "Interval estimation for the difference", table II, method 10."""
    shares = [share(np.arange(n) < right, np.arange(n)) for right, n in (one, other)]
    found = difference(*shares)
    assert found.value == pytest.approx(one[0] / one[1] - other[0] / other[1])
    assert found[1:] == pytest.approx(expected, abs=5e-5)


RIGHT = st.lists(st.tuples(st.booleans(), st.integers(0, 9)), min_size=1, max_size=60)


@given(RIGHT)
def test_photos_count_at_least_as_one_a_person_and_at_most_as_many_as_they_are(pairs):
    right, persons = np.array(pairs).T
    photos = effective_photos(right.astype(bool), persons)
    counts = np.unique(persons, return_counts=True)[1]
    assert len(right) ** 2 / (counts**2).sum() - 1e-9 <= photos <= len(right) + 1e-9
    alone = effective_photos(right.astype(bool), np.arange(len(right)))
    assert alone == len(right)
    found = share(right.astype(bool), persons)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert (found.photos, found.persons) == (len(right), len(counts))


def test_photos_that_are_all_alike_count_as_one_a_person():
    right, persons = np.repeat(np.arange(200) % 3 > 0, 7), np.repeat(np.arange(200), 7)
    assert effective_photos(right, persons) == pytest.approx(200, rel=0.03)
    assert effective_photos(right | True, persons) == pytest.approx(200)


def test_a_wilson_interval_over_persons_holds_the_truth_95_times_in_100():
    """600 groups of 20 persons whose photos resemble one another; by photo it would be 70 times."""
    rng = np.random.default_rng(0)
    persons = np.repeat(np.arange(20), 7)
    held = []
    for _ in range(600):
        right = rng.random(140) < np.repeat(rng.beta(1.4, 0.6, 20), 7)
        found = share(right, persons)
        held.append(found.low <= 0.7 <= found.high)
    assert 0.92 < np.mean(held) < 0.99


def test_shares_are_by_group_and_leave_out_what_is_not_known():
    right, persons = np.array([True, False, True, True]), np.array([1, 1, 2, 3])
    found = shares_by(["b", "b", "", "a"], right, persons)
    assert [(name, s.value, s.photos, s.persons) for name, s in found.items()] == [
        ("a", 1.0, 1, 1), ("b", 0.5, 2, 1),
    ]  # fmt: skip
    assert list(shares_by(np.array([30, np.nan, 29, 30]), right, persons)) == [29, 30]


def group(value: float, photos: int) -> Share:
    return Share(value, value - 0.05, value + 0.05, photos, photos // 7)


def test_a_gap_is_loud_from_10_points_and_100_photos_on():
    groups = {
        "best": group(0.9, 100), "small": group(0.1, 99), "near": group(0.81, 500),
        "low": group(0.5, 100), "lower": group(0.4, 3000),
    }  # fmt: skip
    found = gaps(groups)
    assert [(gap.worse, gap.best) for gap in found] == [("lower", "best"), ("low", "best")]
    assert found[0].difference == pytest.approx((0.5, 0.5 - 0.05 * 2**0.5, 0.5 + 0.05 * 2**0.5))
    assert not gaps({"small": group(0.99, 99), "low": group(0.2, 1000)})
    assert not gaps({"one": group(0.2, 1000), "other": group(0.3, 1000)})
    assert not gaps({})


@given(st.lists(st.tuples(st.integers(0, 100), st.booleans()), min_size=1, max_size=99))
def test_the_bins_are_those_of_the_calibration_error(pairs):
    sure = np.array([50 + hundredths / 2 for hundredths, _ in pairs]) / 100
    probabilities = np.stack([sure, 1 - sure], axis=1)
    true = np.array([0 if right else 1 for _, right in pairs])
    bins = reliability(probabilities, true, np.arange(len(pairs)))
    off = sum(abs(b.probability - b.right.value) * b.right.photos for b in bins) / len(pairs)
    assert off == pytest.approx(expected_calibration_error(probabilities, true))
    assert sum(b.right.photos for b in bins) == len(pairs)
    assert BINS == 15


def test_years_to_a_border_are_counted_on_ones_own_side():
    found = years_to_border(np.array([0, 28, 29, 30, 31, 44, 45, 59, 60, 101, np.nan]))
    assert found.tolist()[:-1] == [30, 2, 1, 1, 2, 15, 15, 1, 1, 42] and np.isnan(found[-1])


def test_the_surest_mistakes_come_first_and_few_of_one_person():
    sure = np.array([0.5, 0.9, 0.8, 0.7, 0.95, 0.6, 0.99])
    probabilities = np.stack([1 - sure, sure], axis=1)
    true, said = np.array([0, 0, 0, 0, 0, 0, 1]), np.array([1, 1, 1, 1, -1, 1, 1])
    persons = np.array(["a", "a", "a", "b", "b", "c", "c"])
    place = surest_mistakes(true, said, probabilities, persons, most=9, each=2)
    assert place == [1, 2, 3, 5]  # 4 has no answer, 6 is right, 0 is the third of its person
    assert surest_mistakes(true, said, probabilities, persons, most=1, each=2) == [1]
