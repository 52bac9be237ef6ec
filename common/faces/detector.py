"""Face detection by MTCNN (Zhang et al. 2016) with facenet-pytorch's weights."""

import dataclasses
from importlib.metadata import version
from typing import Any

import cv2
import numpy as np

from common.faces.decode import DECODER

# Sizes of the first pass, for large faces only. Measured: tests/benchmarks/RESULTS.md.
FIRST_PASS_SHARE = 0.4  # of the shorter side: faces of about this size and more
FIRST_PASS_SIDE = 512  # px of the shorter side
SMALLEST_FACE = 20  # px: MTCNN's default, which determines the sizes of its pyramid
# Sizes of the second pass, for photos without a large face.
SECOND_PASS_FACE = 24  # px: half a level off, so that a face between two sizes is detected as well
SECOND_PASS_SIDE = 1024  # px of the longer side
SECOND_PASS_SHARE = 0.09  # of the shorter side: smaller faces in larger photos are skipped …
SECOND_PASS_MOST = 34  # px: … but none of this size, the next of the pyramid after 24
THRESHOLDS = (0.6, 0.7, 0.7)  # of MTCNN's three networks: its defaults
# Measured on street photos: tests/benchmarks/RESULTS.md.
EVERY_FACE = {
    "far_side": 256,  # px of the shorter side, for large faces
    "far_share": 0.15,  # of it: the smallest of these faces
    "look_side": 1600,  # px of the longer side, for all faces
    "enlarged": 2,  # at most: small photos have faces of few pixels
    "smallest_face": 40,  # px, after enlarging
    "thresholds": [0.5, 0.7, 0.85],
    "same": 0.4,  # intersection over union from which both passes detected one face
    "main": "as where one face is asked for",
}


def detector_for(needs_face: bool) -> dict[str, Any]:
    """Settings that determine a detection; part of the cache key and of every checkpoint."""
    if not needs_face:
        return {"name": "none", "decoder": DECODER}
    return {
        "decoder": DECODER,
        "name": "facenet-pytorch MTCNN",
        "version": version("facenet-pytorch"),
        "first_look_share": FIRST_PASS_SHARE,
        "first_look_side": FIRST_PASS_SIDE,
        "smallest_face": SMALLEST_FACE,
        "second_look_face": SECOND_PASS_FACE,
        "second_look_side": SECOND_PASS_SIDE,
        "second_look_share": SECOND_PASS_SHARE,
        "second_look_most": SECOND_PASS_MOST,
        "choice": "area * probability * nearness to the centre",
    }


def every_face_detector() -> dict[str, Any]:
    """Settings that determine the detection of every face; part of the cache key."""
    return detector_for(needs_face=True) | {"every_face": EVERY_FACE}


@dataclasses.dataclass(frozen=True)
class Detection:
    """A face that the detector found in a photo of `shape` (height, width), or none.

    `box` is (x0, y0, x1, y1) in pixels of the upright photo, `landmarks` are five (x, y): left eye,
    right eye, nose, left and right corner of the mouth as seen in the photo. Both are None, and so
    is `probability`, if there is no face; `faces` is the number of candidates for this one.
    """

    shape: tuple[int, int]
    box: tuple[float, float, float, float] | None = None
    probability: float | None = None
    landmarks: tuple[tuple[float, float], ...] | None = None
    faces: int = 0


def detect(image: np.ndarray) -> Detection:
    """Detect the main face of a (height, width, 3) uint8 RGB photo.

    A first pass detects large faces, without the largest levels of MTCNN's pyramid. If there is
    none, a second pass detects faces of 24 px and more, or of 34 px if both sides are more than
    316 px. Of several faces the one with the largest `prominence` is returned.
    """
    from common.faces import mtcnn  # needs torch, which takes a second to import

    height, width = image.shape[:2]
    first = min(1.0, FIRST_PASS_SIDE / min(height, width))
    second = min(1.0, SECOND_PASS_SIDE / max(height, width))
    large = FIRST_PASS_SHARE * min(height, width) * first
    small = min(SECOND_PASS_SHARE * min(height, width) * second, SECOND_PASS_MOST)
    passes = (first, SMALLEST_FACE, large), (second, SECOND_PASS_FACE, small)
    for scale, smallest, side in passes:
        skipped = mtcnn.levels_below(smallest, side)
        boxes, probabilities, points = _detect_scaled(image, scale, smallest, THRESHOLDS, skipped)
        if len(boxes):
            best = int(np.argmax(prominence(boxes, probabilities, (height, width))))
            return _detections((height, width), boxes, probabilities, points)[best]
    return Detection(shape=(height, width))


def detect_every(image: np.ndarray) -> list[Detection]:
    """Detect all faces of a (height, width, 3) uint8 RGB photo, from left to right.

    One pass detects large faces in a reduced image, another one smaller faces in a larger image;
    both need a higher probability than `detect`. The main face has the box of `detect`, as in
    training: in a larger image it is a few pixels off. Without any face the list is [`detect`'s].
    """
    shape = image.shape[:2]
    scale = min(EVERY_FACE["enlarged"], EVERY_FACE["look_side"] / max(shape))
    smallest, thresholds = EVERY_FACE["smallest_face"], tuple(EVERY_FACE["thresholds"])
    close = _detect_scaled(image, scale, smallest, thresholds)
    reduced = min(1.0, EVERY_FACE["far_side"] / min(shape))
    large = max(SMALLEST_FACE, round(EVERY_FACE["far_share"] * min(shape) * reduced))
    far = _detect_scaled(image, reduced, large, thresholds)
    new = (overlaps(far[0], close[0]) < EVERY_FACE["same"]).all(axis=1)
    faces = _detections(
        shape, *(np.concatenate([c, f[new]]) for c, f in zip(close, far, strict=True))
    )
    main = detect(image)
    if not faces:
        return [main]
    return sorted(_with_main(main, faces), key=lambda face: face.box[0] + face.box[2])


def _with_main(main: Detection, faces: list[Detection]) -> list[Detection]:
    """Replace the one of `faces` that is the same face as `main` by it."""
    if main.box is None:
        return faces
    same = overlaps(np.array([main.box]), np.array([face.box for face in faces]))[0]
    best = int(same.argmax())
    if same[best] < EVERY_FACE["same"]:
        return faces
    return [*faces[:best], dataclasses.replace(main, faces=len(faces)), *faces[best + 1 :]]


def overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union (n, m) of boxes (n, 4) and (m, 4), each x0, y0, x1, y1."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = (high - low).clip(0).prod(axis=2)
    areas = [(b[:, 2:] - b[:, :2]).clip(0).prod(axis=1) for b in (boxes, others)]
    return shared / (areas[0][:, None] + areas[1] - shared).clip(1e-9)


def _detections(
    shape: tuple[int, int], boxes: np.ndarray, probabilities: np.ndarray, points: np.ndarray
) -> list[Detection]:
    return [
        Detection(shape, tuple(box), probability, tuple(map(tuple, landmarks)), len(boxes))
        for box, probability, landmarks in zip(
            boxes.tolist(), probabilities.tolist(), points.tolist(), strict=True
        )
    ]


def detect_if_needed(image: np.ndarray, needs_face: bool) -> Detection:
    """Detect the main face if `needs_face`; otherwise return only the photo's shape."""
    return detect(image) if needs_face else Detection(shape=image.shape[:2])


def _detect_scaled(
    image: np.ndarray,
    scale: float,
    min_face: int,
    thresholds: tuple[float, ...],
    skipped: int = 0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes (n, 4), probabilities (n,) and landmarks (n, 5, 2) in pixels of `image`."""
    from common.faces import mtcnn

    if scale != 1:
        method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=method)
    found = mtcnn.find_faces(image, min_face, thresholds, skipped)
    boxes, probabilities, points = (part.astype(np.float64) for part in found)
    return boxes / scale, probabilities, points / scale


def prominence(boxes: np.ndarray, probabilities: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Area × probability × nearness to the centre, (n,), of boxes (n, 4) in a photo of `shape`.

    Nearness falls from 1 at the centre to 0.01 at a corner.
    """
    sides = (boxes[:, 2:] - boxes[:, :2]).clip(min=0)
    middle = np.array(shape[::-1]) / 2
    away = np.linalg.norm((boxes[:, :2] + boxes[:, 2:]) / 2 - middle, axis=1)
    nearness = (1 - away / np.linalg.norm(middle)).clip(min=0.01)
    return sides.prod(axis=1) * probabilities * nearness
