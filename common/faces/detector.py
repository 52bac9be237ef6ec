"""Where the faces of a photo are: MTCNN (Zhang et al. 2016), facenet-pytorch's weights."""

import dataclasses
from importlib.metadata import version
from typing import Any

import cv2
import numpy as np

from common.faces.decode import DECODER

FIRST_LOOK_SHARE = 0.4  # of the shorter side: faces of about this size and more, at first
FIRST_LOOK_SIDE = 512  # px of the shorter side
SMALLEST_FACE = 20  # px: MTCNN's own default, from which the sizes of its pyramid follow
SECOND_LOOK_FACE = 24  # px: half a level off, so that a face between two sizes is found as well
SECOND_LOOK_SIDE = 1024  # px of the longer side
SECOND_LOOK_SHARE = 0.09  # of the shorter side: in larger photos it leaves out smaller faces …
SECOND_LOOK_MOST = 34  # px: … but none of this size, the next of the pyramid after 24
THRESHOLDS = (0.6, 0.7, 0.7)  # of MTCNN's three nets, its own
EVERY_FACE = {  # measured on street photos: tests/benchmarks/RESULTS.md
    "far_side": 256,  # px of the shorter side
    "far_share": 0.15,  # of it, the smallest face
    "look_side": 1600,  # px of the longer side
    "enlarged": 2,  # at most: small photos hold faces of few pixels
    "smallest_face": 40,  # px, after that
    "thresholds": [0.5, 0.7, 0.85],
    "same": 0.4,  # intersection over union from which two looks saw one face
    "main": "as where one face is asked for",
}


def detector_for(needs_face: bool) -> dict[str, Any]:
    """What decides where a face is found; part of the cache key and of every checkpoint."""
    if not needs_face:
        return {"name": "none", "decoder": DECODER}
    return {
        "decoder": DECODER,
        "name": "facenet-pytorch MTCNN",
        "version": version("facenet-pytorch"),
        "first_look_share": FIRST_LOOK_SHARE,
        "first_look_side": FIRST_LOOK_SIDE,
        "smallest_face": SMALLEST_FACE,
        "second_look_face": SECOND_LOOK_FACE,
        "second_look_side": SECOND_LOOK_SIDE,
        "second_look_share": SECOND_LOOK_SHARE,
        "second_look_most": SECOND_LOOK_MOST,
        "choice": "area * probability * nearness to the centre",
    }


def every_face_detector() -> dict[str, Any]:
    """What decides where every face is found; part of the cache key."""
    return detector_for(needs_face=True) | {"every_face": EVERY_FACE}


@dataclasses.dataclass(frozen=True)
class Detection:
    """What the detector said of one photo of `shape` (height, width).

    `box` is (x0, y0, x1, y1) in pixels of the upright photo, `landmarks` five (x, y): left eye,
    right eye, nose, left and right corner of the mouth as seen in the photo. All are None where
    no face was found; `faces` counts the candidates among which this one was chosen.
    """

    shape: tuple[int, int]
    box: tuple[float, float, float, float] | None = None
    probability: float | None = None
    landmarks: tuple[tuple[float, float], ...] | None = None
    faces: int = 0


def detect(image: np.ndarray) -> Detection:
    """Find the face of a (height, width, 3) uint8 RGB photo.

    It looks for large faces, in the smaller of the sizes in which MTCNN would look, and where there
    is none for all of 24 px and more, or of 34 where both sides are more than 316. Several faces: the
    one with the largest area × probability × nearness to the centre, where nearness falls from 1 at
    the centre to 0 at a corner.
    """
    from common.faces import mtcnn  # needs torch, which takes a second to import

    height, width = image.shape[:2]
    first = min(1.0, FIRST_LOOK_SIDE / min(height, width))
    second = min(1.0, SECOND_LOOK_SIDE / max(height, width))
    wanted = FIRST_LOOK_SHARE * min(height, width) * first
    rest = min(SECOND_LOOK_SHARE * min(height, width) * second, SECOND_LOOK_MOST)
    looks = (first, SMALLEST_FACE, wanted), (second, SECOND_LOOK_FACE, rest)
    for scale, smallest, side in looks:
        skipped = mtcnn.levels_below(smallest, side)
        boxes, probabilities, points = _detect_scaled(image, scale, smallest, THRESHOLDS, skipped)
        if len(boxes):
            best = int(np.argmax(prominence(boxes, probabilities, (height, width))))
            return _detections((height, width), boxes, probabilities, points)[best]
    return Detection(shape=(height, width))


def detect_every(image: np.ndarray) -> list[Detection]:
    """Find all faces of a (height, width, 3) uint8 RGB photo, from left to right.

    It looks for prominent faces, and always for smaller ones too, in a larger image,
    and wants to be surer of each. The main one is where `detect` sees it, as models were trained: in
    a larger image its box is a few pixels off. Where there are none it is what `detect` gives.
    """
    shape = image.shape[:2]
    scale = min(EVERY_FACE["enlarged"], EVERY_FACE["look_side"] / max(shape))
    smallest, thresholds = EVERY_FACE["smallest_face"], tuple(EVERY_FACE["thresholds"])
    close = _detect_scaled(image, scale, smallest, thresholds)
    reduced = min(1.0, EVERY_FACE["far_side"] / min(shape))
    prominent = max(SMALLEST_FACE, round(EVERY_FACE["far_share"] * min(shape) * reduced))
    far = _detect_scaled(image, reduced, prominent, thresholds)
    new = (overlaps(far[0], close[0]) < EVERY_FACE["same"]).all(axis=1)
    found = _detections(
        shape, *(np.concatenate([c, f[new]]) for c, f in zip(close, far, strict=True))
    )
    main = detect(image)
    if not found:
        return [main]
    return sorted(_with_main(main, found), key=lambda face: face.box[0] + face.box[2])


def _with_main(main: Detection, found: list[Detection]) -> list[Detection]:
    """`found` with the one that is `main` replaced by it."""
    if main.box is None:
        return found
    same = overlaps(np.array([main.box]), np.array([face.box for face in found]))[0]
    best = int(same.argmax())
    if same[best] < EVERY_FACE["same"]:
        return found
    return [*found[:best], dataclasses.replace(main, faces=len(found)), *found[best + 1 :]]


def overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union, (n, m), of boxes (n, 4) and (m, 4), x0, y0, x1, y1."""
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


def look(image: np.ndarray, needs_face: bool) -> Detection:
    """Find the face where one is wanted; else only the photo's shape is noted."""
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
    found = mtcnn.find(image, min_face, thresholds, skipped)
    boxes, probabilities, points = (part.astype(np.float64) for part in found)
    return boxes / scale, probabilities, points / scale


def prominence(boxes: np.ndarray, probabilities: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    sides = (boxes[:, 2:] - boxes[:, :2]).clip(min=0)
    middle = np.array(shape[::-1]) / 2
    away = np.linalg.norm((boxes[:, :2] + boxes[:, 2:]) / 2 - middle, axis=1)
    nearness = (1 - away / np.linalg.norm(middle)).clip(min=0.01)
    return sides.prod(axis=1) * probabilities * nearness
