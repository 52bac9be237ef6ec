"""common/data/alike.py: the same picture is near, whatever its size; another one isn't."""

import itertools

import cv2
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from common.data import alike
from common.data.alike import correlation, fingerprint, near_pairs, thumbnail
from common.tools.demo.dataset import person_at, photo_at

HASHES = arrays(np.uint64, st.integers(0, 40), elements=st.integers(0, 7) | st.integers(0, 2**64 - 1))  # fmt: skip
NEAR = 8


def bits(a: np.uint64, b: np.uint64) -> int:
    return int(a ^ b).bit_count()


@pytest.fixture(scope="module")
def photos() -> list[np.ndarray]:
    return [photo_at(person_at(0, index), 0, index, "normal") for index in range(24)]


@given(hashes=HASHES, distance=st.integers(0, 64), block=st.integers(1, 50))
@example(hashes=np.zeros(3, np.uint64), distance=0, block=2)
def test_near_pairs_are_those_of_brute_force(hashes: np.ndarray, distance: int, block: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(alike, "BLOCK", block)
        pairs = near_pairs(hashes, distance)
    numbered = itertools.combinations(range(len(hashes)), 2)
    expected = [[i, j] for i, j in numbered if bits(hashes[i], hashes[j]) <= distance]
    assert pairs.tolist() == expected and pairs.shape == (len(expected), 2)


@given(hashes=HASHES, distance=st.integers(0, 64))
def test_who_is_near_depends_on_no_order(hashes: np.ndarray, distance: int) -> None:
    last = len(hashes) - 1
    forth = {(i, j) for i, j in near_pairs(hashes, distance).tolist()}
    back = {(last - j, last - i) for i, j in near_pairs(hashes[::-1], distance).tolist()}
    assert forth == back


@given(numbers=arrays(np.uint64, (3, 5)))
def test_bits_are_counted_alike_where_numpy_cannot_count(numbers: np.ndarray) -> None:
    expected = [[int(n).bit_count() for n in row] for row in numbers]
    for count in (alike._bits, alike._counted):
        found = count(numbers)
        assert found.tolist() == expected and found.dtype == np.uint8


def saved(photo: np.ndarray, quality: int) -> np.ndarray:
    _, data = cv2.imencode(".jpg", photo, (cv2.IMWRITE_JPEG_QUALITY, quality))
    return cv2.imdecode(data, cv2.IMREAD_COLOR)


@pytest.mark.parametrize("quality", [30, 95])
@pytest.mark.parametrize("scale", [0.3, 1, 1.7])
def test_a_photo_at_another_size_or_quality_is_near(
    scale: float, quality: int, photos: list[np.ndarray]
) -> None:
    for photo in photos:
        other = saved(cv2.resize(photo, None, fx=scale, fy=scale), quality)
        assert bits(fingerprint(photo), fingerprint(other)) <= NEAR
        assert correlation(thumbnail(photo), thumbnail(other)) > 0.99


def test_other_people_are_not_near(photos: list[np.ndarray]) -> None:
    hashes = np.array([fingerprint(photo) for photo in photos])
    assert hashes.dtype == np.uint64 and not len(near_pairs(hashes, NEAR))


@given(a=arrays(np.uint8, (32, 32)), b=arrays(np.uint8, (32, 32)))
def test_correlation_is_numpys(a: np.ndarray, b: np.ndarray) -> None:
    assert correlation(a, b) == correlation(b, a)
    if len(np.unique(a)) > 1 < len(np.unique(b)):
        assert correlation(a, b) == pytest.approx(np.corrcoef(a.ravel(), b.ravel())[0, 1])
    else:
        assert correlation(a, b) == 0


def test_photos_without_a_picture_have_a_fingerprint() -> None:
    black = np.zeros((20, 3000, 3), np.uint8)
    assert fingerprint(black) == fingerprint(black[:, :20])
