"""common/data/mtcnn.py finds what facenet-pytorch's own MTCNN.detect finds, in any photo."""

import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from facenet_pytorch import MTCNN
from hypothesis import given
from hypothesis import strategies as st

from common.data.layout import Face
from common.faces import mtcnn
from common.faces.decode import decode

USUAL = (0.6, 0.7, 0.7)
PIXEL = 0.01  # how far boxes and landmarks may be from facenet-pytorch's


def reference(
    photo: np.ndarray, smallest: int, thresholds: tuple[float, ...]
) -> tuple[np.ndarray, ...]:
    """Boxes, probabilities and landmarks by facenet-pytorch, in the order of the probabilities."""
    detector = MTCNN(min_face_size=smallest, thresholds=list(thresholds))
    boxes, probabilities, points = detector.detect(photo, landmarks=True)
    if boxes is None:
        return np.empty((0, 4)), np.empty(0), np.empty((0, 5, 2))
    order = np.argsort(probabilities.astype(float))[::-1]
    return tuple(part[order].astype(float) for part in (boxes, probabilities, points))


def assert_same(found: tuple[np.ndarray, ...], expected: tuple[np.ndarray, ...]) -> None:
    for part, other, apart in zip(found, expected, (PIXEL, 1e-4, PIXEL), strict=True):
        assert part.dtype == np.float32
        np.testing.assert_allclose(part, other, rtol=0, atol=apart)


@pytest.fixture(scope="module")
def photos(faces: tuple[Face, ...]) -> list[np.ndarray]:
    return [decode(face.path.read_bytes()) for face in faces[:21:3]]


@pytest.mark.parametrize(
    ("smallest", "thresholds", "size"),
    [
        (20, USUAL, (384, 512)),
        (38, USUAL, (256, 341)),
        (29, USUAL, (193, 255)),
        (40, (0.5, 0.7, 0.85), (501, 668)),
        (20, (0.3, 0.3, 0.3), (120, 160)),
    ],
)
def test_boxes_probabilities_and_landmarks_are_facenet_pytorchs(
    smallest: int, thresholds: tuple[float, ...], size: tuple[int, int], photos: list[np.ndarray]
) -> None:
    """Of masked and bare faces, in odd sizes and with other thresholds."""
    number = 0
    for photo in photos:
        scaled = cv2.resize(photo, size, interpolation=cv2.INTER_AREA)
        found = mtcnn.find_faces(scaled, smallest, thresholds)
        assert_same(found, reference(scaled, smallest, thresholds))
        number += len(found[0])
    assert number >= len(photos) - 2


def test_many_faces_some_cut_off_by_an_edge(photos: list[np.ndarray]) -> None:
    crowd = np.hstack([cv2.resize(photo, (120, 160)) for photo in photos])
    left = []
    for cut in range(25, 50, 5):
        found = mtcnn.find_faces(crowd[:, cut:], 20, USUAL)
        assert len(found[0]) >= 5
        assert_same(found, reference(crowd[:, cut:], 20, USUAL))
        left.append(found[0][:, 0].min())
    assert min(left) < 1


@given(seed=st.integers(0, 99), height=st.integers(20, 90), width=st.integers(20, 90))
def test_what_looks_like_a_face_in_noise(seed: int, height: int, width: int) -> None:
    """Many candidates at every edge of every level: with low thresholds some come through."""
    small = np.random.default_rng(seed).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    photo = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
    thresholds = (0.2, 0.1, 0.1)
    assert_same(mtcnn.find_faces(photo, 20, thresholds), reference(photo, 20, thresholds))


def test_skipped_levels_leave_the_large_face_where_it_was(photos: list[np.ndarray]) -> None:
    """Where the small levels see nothing that would be taken instead."""
    large = 0
    for photo in photos:
        found = mtcnn.find_faces(photo, 20, USUAL)
        if len(found[0]) == 1 and found[0][0, 3] - found[0][0, 1] > 150:
            large += 1
            skipped = mtcnn.find_faces(photo, 20, USUAL, skipped=4)
            assert_same(skipped, tuple(part.astype(float) for part in found))
    assert large >= 3
    photo = photos[2]  # a bare face
    small = cv2.copyMakeBorder(
        cv2.resize(photo, (96, 128)), 200, 200, 200, 200, cv2.BORDER_REPLICATE
    )
    assert len(mtcnn.find_faces(small, 20, USUAL)[0]) == 1
    assert len(mtcnn.find_faces(small, 20, USUAL, skipped=6)[0]) == 0


def test_a_photo_smaller_than_the_smallest_face_holds_none() -> None:
    for part, shape in zip(mtcnn.find_faces(np.zeros((19, 500, 3), np.uint8), 20, USUAL),
                           [(0, 4), (0,), (0, 5, 2)], strict=True):  # fmt: skip
        assert part.shape == shape


ONE_PROCESS = """
import sys
import cv2
from common.faces.mtcnn import find_faces
for file in sys.argv[1:]:
    for part in find_faces(cv2.imread(file)[:, :, ::-1], 20, (0.6, 0.7, 0.7)):
        sys.stdout.write(part.tobytes().hex() + "\\n")
"""


def test_every_process_finds_the_same_to_the_byte(faces: tuple[Face, ...]) -> None:
    """Whatever it saw before, since the cache keeps the first answer; threads only round it."""
    files = [str(face.path) for face in faces[:3]]
    orders = (files, files[::-1])
    outputs = [
        subprocess.check_output([sys.executable, "-c", ONE_PROCESS, *order], text=True).split("\n")
        for order in orders
    ]
    first, second = ([lines[k : k + 3] for k in (0, 3, 6)] for lines in outputs)
    assert first == second[::-1] and all(map(all, first))
    photo = decode(faces[0].path.read_bytes())
    alone = mtcnn.find_faces(photo, 20, USUAL)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert_same(mtcnn.find_faces(photo, 20, USUAL), alone)
    finally:
        torch.set_num_threads(threads)
