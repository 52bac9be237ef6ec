"""Votes: what majorities, weights and ties decide, whatever the order of the voters."""

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from common.inference.voting import hard_vote, soft_vote, vote_codes

CLASSES, PHOTOS = 3, 4
ROW = st.lists(st.integers(0, 20), min_size=CLASSES, max_size=CLASSES).filter(any)
MODEL = st.lists(ROW, min_size=PHOTOS, max_size=PHOTOS).map(
    lambda rows: np.array(rows) / np.sum(rows, axis=1, keepdims=True)
)
WEIGHT = st.integers(1, 9)
VOTERS = st.lists(st.tuples(MODEL, WEIGHT), min_size=1, max_size=6)
BALLOT = st.lists(st.integers(-1, 17), min_size=PHOTOS, max_size=PHOTOS)
TABLES = st.lists(st.tuples(BALLOT, WEIGHT), min_size=1, max_size=6)


def apart(voters):
    """Values (voters, …) and their weights."""
    values, weights = zip(*voters, strict=True)
    return np.array(values), weights


def codes_of(*tables, weights=None):
    codes, tied = vote_codes(np.array(tables), weights or [1] * len(tables), 18)
    return codes.tolist(), tied.tolist()


@given(MODEL, WEIGHT)
def test_a_model_alone_decides(model, weight):
    assert np.array_equal(soft_vote(model[None], [weight]), model)
    assert np.array_equal(hard_vote(model[None], [weight]), model.argmax(axis=1))


@given(MODEL, st.lists(WEIGHT, min_size=1, max_size=6))
def test_models_that_agree_decide(model, weights):
    alike = np.stack([model] * len(weights))
    np.testing.assert_allclose(soft_vote(alike, weights), model, atol=1e-12)
    assert np.array_equal(hard_vote(alike, weights), model.argmax(axis=1))


@given(MODEL, MODEL, MODEL)
def test_two_of_three_win_a_hard_vote(one, other, third):
    votes = np.stack([model.argmax(axis=1) for model in (one, other, third)])
    winners = hard_vote(np.stack([one, other, third]), [1, 1, 1])
    for ballots, winner in zip(votes.T.tolist(), winners.tolist(), strict=True):
        for vote in ballots:
            assert ballots.count(vote) < 2 or winner == vote


@given(VOTERS)
def test_more_than_half_of_the_weight_wins_a_hard_vote(voters):
    shares, weights = apart(voters)
    heaviest = int(np.argmax(weights))
    assume(2 * weights[heaviest] > sum(weights))
    assert np.array_equal(hard_vote(shares, weights), shares[heaviest].argmax(axis=1))


@given(VOTERS)
def test_a_soft_vote_is_the_weighted_mean(voters):
    shares, weights = apart(voters)
    expected = np.average(shares, axis=0, weights=weights)
    np.testing.assert_allclose(soft_vote(shares, weights), expected, atol=1e-12)


@given(VOTERS, st.randoms(use_true_random=False))
def test_the_order_of_models_changes_no_bit(voters, random):
    shares, weights = apart(voters)
    shuffled, others = apart(random.sample(voters, len(voters)))
    assert np.array_equal(soft_vote(shares, weights), soft_vote(shuffled, others))
    assert np.array_equal(hard_vote(shares, weights), hard_vote(shuffled, others))


@given(VOTERS, TABLES, st.floats(1e-3, 1e3))
def test_only_the_proportions_of_weights_count(voters, tables, scale):
    shares, weights = apart(voters)
    scaled = [weight * scale for weight in weights]
    np.testing.assert_allclose(soft_vote(shares, weights), soft_vote(shares, scaled), atol=1e-12)
    assert np.array_equal(hard_vote(shares, weights), hard_vote(shares, scaled))
    codes, weights = apart(tables)
    plain = vote_codes(codes, weights, 18)
    assert np.array_equal(plain, vote_codes(codes, [weight * scale for weight in weights], 18))


def test_a_tied_hard_vote_goes_to_the_more_likely_class():
    unsure, sure, other = [0.4, 0.3, 0.3], [0.0, 0.9, 0.1], [0.1, 0.2, 0.7]
    assert hard_vote(np.array([[unsure], [sure]]), [1, 1]).tolist() == [1]
    assert hard_vote(np.array([[unsure], [sure]]), [3, 1]).tolist() == [0]
    assert hard_vote(np.array([[unsure], [sure], [other]]), [1, 1, 1]).tolist() == [1]
    # The likeliest of the mean, class 1, was no one's first choice: it isn't among the tied.
    two = np.array([[[0.51, 0.49, 0.0]], [[0.0, 0.48, 0.52]]])
    assert soft_vote(two, [1, 1]).argmax(axis=1).tolist() == [1]
    assert hard_vote(two, [1, 1]).tolist() == [2]


def test_weights_that_add_up_to_the_same_tie_in_spite_of_rounding():
    """0.1 + 0.2 is not 0.3 to a computer; the tie must still be broken by probability."""
    shares = np.array([[[0.6, 0.4]], [[0.6, 0.4]], [[0.1, 0.9]]])
    assert hard_vote(shares, [0.1, 0.2, 0.3]).tolist() == [1]
    assert codes_of([5], [3], [3], weights=[0.3, 0.1, 0.2]) == ([5], [True])


@given(TABLES)
def test_the_winning_code_has_the_most_votes_and_the_earliest_table(tables):
    codes, weights = apart(tables)
    winners, tied = vote_codes(codes, weights, 18)
    for row, winner, even in zip(codes.T.tolist(), winners.tolist(), tied.tolist(), strict=True):
        counts = {}
        for code, weight in zip(row, weights, strict=True):
            if code >= 0:
                counts[code] = counts.get(code, 0) + weight
        best = [code for code, count in counts.items() if count == max(counts.values())]
        assert winner == (best[0] if best else -1)  # a dict keeps the order of the tables
        assert even == (len(best) > 1)


def test_empty_cells_cast_no_vote():
    assert codes_of([-1, 4, -1], [17, -1, -1], [-1, 4, -1]) == ([17, 4, -1], [False] * 3)
    assert codes_of([-1], [-1]) == ([-1], [False])
