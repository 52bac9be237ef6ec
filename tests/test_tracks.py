"""Faces followed by overlap: one person one number, whatever else moves."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.faces.detector import overlaps
from common.inference.video.tracks import MAX_MISSED, MIN_OVERLAP, Paths, follow, mean_by_track

COORDINATE = st.integers(0, 200)
BOX = st.tuples(COORDINATE, COORDINATE, st.integers(10, 80), st.integers(10, 80))
CLIPS = st.lists(st.lists(BOX, max_size=5), max_size=12)


def rows(clip: list[list[tuple[int, ...]]]) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (faces, 4) and looks (faces,) of a list of looks that hold (x, y, width, height)."""
    sides = np.array([box for look in clip for box in look], float).reshape(-1, 4)
    boxes = np.hstack([sides[:, :2], sides[:, :2] + sides[:, 2:]])
    return boxes, np.repeat(np.arange(len(clip)), [len(look) for look in clip])


@given(CLIPS)
def test_no_track_is_twice_in_a_frame_or_leaps_or_waits_too_long(clip) -> None:
    boxes, looks = rows(clip)
    tracks = follow(boxes, looks)
    assert len(set(zip(tracks.tolist(), looks.tolist(), strict=True))) == len(tracks)
    begun = list(dict.fromkeys(tracks.tolist()))
    assert begun == sorted(begun) == list(range(1, len(begun) + 1))
    for number in begun:
        own = np.flatnonzero(tracks == number)
        assert (np.diff(looks[own]) <= MAX_MISSED + 1).all()
        shared = overlaps(boxes[own][:-1], boxes[own][1:]).diagonal()
        assert (shared >= MIN_OVERLAP).all()


@given(
    walks=st.lists(st.lists(st.integers(-5, 5), min_size=15, max_size=15), min_size=1, max_size=4),
    order=st.randoms(use_true_random=False),
    missed=st.sets(st.tuples(st.integers(0, 3), st.integers(1, 13)), max_size=MAX_MISSED),
)
def test_people_apart_keep_their_numbers_whatever_the_order_and_a_few_misses(
    walks, order, missed
) -> None:
    """Each walks up and down in a lane of their own, at most 5 px of 60 a look."""
    seen = [
        (look, lane, (100.0 * lane, y))
        for lane, walk in enumerate(walks)
        for look, y in enumerate(np.cumsum(walk, dtype=float))
        if (lane, look) not in missed
    ]
    order.shuffle(seen)
    seen.sort(key=lambda one: one[0])
    looks, lanes, corners = map(np.array, zip(*seen, strict=True))
    tracks = follow(np.hstack([corners, corners + 60]), looks)
    pairs = set(zip(tracks.tolist(), lanes.tolist(), strict=True))
    assert len(pairs) == len(walks) == tracks.max()


@pytest.mark.parametrize(("gap", "tracks"), [(0, 1), (MAX_MISSED, 1), (MAX_MISSED + 1, 2)])
def test_a_gap_that_is_too_long_begins_a_new_track(gap: int, tracks: int) -> None:
    boxes = np.array([(0, 0, 50, 50)] * 2, float)
    assert follow(boxes, [3, 4 + gap]).max() == tracks


def test_a_cut_begins_new_tracks_and_the_best_sum_of_overlaps_decides() -> None:
    """Greedily the first would take its best, and leave the second without any."""
    clip = [
        [(0, 0, 60, 60), (30, 0, 60, 60)],
        [(18, 0, 60, 60), (-12, 0, 60, 60)],
        [(150, 0, 9, 9)],
    ]
    assert follow(*rows(clip)).tolist() == [1, 2, 2, 1, 3]


@given(st.lists(st.tuples(st.integers(1, 4), st.floats(0, 1)), max_size=20))
def test_a_tracks_faces_share_the_mean_of_them_all(faces) -> None:
    tracks = np.array([track for track, _ in faces], int)
    first = np.array([share for _, share in faces])
    shares = np.stack([np.stack([first, 1 - first], axis=1)] * 2) * [[[1]], [[2]]]
    means = mean_by_track(shares, tracks)
    assert means.shape == shares.shape
    for number in set(tracks.tolist()):
        expected = shares[:, tracks == number].mean(axis=1, keepdims=True)
        np.testing.assert_allclose(means[:, tracks == number] - expected, 0, atol=1e-12)


def test_a_face_without_numbers_gets_its_tracks() -> None:
    shares = np.array([[[0.2], [np.nan], [0.6], [np.nan]]])
    means = mean_by_track(shares, np.array([1, 1, 1, 2]))
    np.testing.assert_allclose(means[0, :, 0], [0.4, 0.4, 0.4, np.nan])


def test_between_looks_a_box_moves_evenly_and_then_waits_for_the_next_look() -> None:
    boxes = np.array([(0, 0, 10, 10), (50, 50, 60, 60), (8, 4, 18, 14)], float)
    paths = Paths(boxes, [4, 4, 12], np.array([1, 2, 1]), every=4)
    shown = {frame: paths.at(frame) for frame in range(18)}
    assert {frame: list(numbers) for frame, (numbers, _) in shown.items()} == (
        dict.fromkeys(range(4), [])
        | dict.fromkeys(range(4, 8), [1, 2])
        | dict.fromkeys(range(8, 16), [1])
        | dict.fromkeys((16, 17), [])
    )
    np.testing.assert_allclose(shown[6][1], [(2, 1, 12, 11), boxes[1]])
    np.testing.assert_allclose(shown[15][1], [boxes[2]])
    assert Paths(np.empty((0, 4)), [], np.empty(0, int), 1).at(0)[1].shape == (0, 4)
