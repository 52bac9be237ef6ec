"""Face detection by MTCNN (Zhang et al. 2016) with facenet-pytorch's weights, or by CenterFace.

The detector `mtcnn` is the default, `centerface` also detects faces behind masks, and `both` takes
CenterFace's where MTCNN detects no face.
"""

import dataclasses
import math
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import cv2
import numpy as np

from common.faces import centerface
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
CHOICE = "area * probability * nearness to the centre"  # of several faces: see prominence
SURE = 0.98  # probability: upright faces have more, faces on their side or head seldom
TURNED_SIDE = 192  # px of the shorter side of a photo that is tried turned: a quarter of the time
MOST_LEAN = 45  # degrees from upright
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
# Measured on street photos, where it detects 128 of 139 faces: tests/benchmarks/RESULTS.md.
CENTERFACE = {
    "threshold": 0.4,  # of the probability
    "main_side": 1024,  # px of the longer side at most, for the main face
    "every_side": 1600,  # the same for every face
}


def detector_for(name: str | None) -> dict[str, Any]:
    """Settings that determine a detection; part of the cache key and of every checkpoint.

    `name` is mtcnn, centerface or both, or None where no face is needed.
    """
    if name is None:
        return {"name": "none", "decoder": DECODER}
    other = {"name": "CenterFace", **CENTERFACE}
    if name == "centerface":
        return {"decoder": DECODER, **other, "choice": CHOICE}
    return _mtcnn() | ({"without_face": other} if name == "both" else {})


def _mtcnn() -> dict[str, Any]:
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
        "choice": CHOICE,
    }


def detector_named(settings: Mapping[str, Any]) -> str | None:
    """The name of the detector whose settings a checkpoint holds; None where none is needed."""
    if settings["name"] == "none":
        return None
    if settings["name"] == "CenterFace":
        return "centerface"
    return "both" if "without_face" in settings else "mtcnn"


def every_face_detector(name: str = "mtcnn") -> dict[str, Any]:
    """Settings that determine the detection of every face; part of the cache key."""
    return detector_for(name) | {"every_face": EVERY_FACE}


def check_detector(name: str | None) -> None:
    """Check, before the long work, that a detector's weights are there.

    Raises:
        UserError: the package that brings them isn't installed.
    """
    if name in ("centerface", "both"):
        centerface.weights_file()


@dataclasses.dataclass(frozen=True)
class Detection:
    """A face that the detector found in a photo of `shape` (height, width), or none.

    `box` is (x0, y0, x1, y1) in pixels of the upright photo, `landmarks` are five (x, y): left eye,
    right eye, nose, left and right corner of the mouth as seen in the photo. Both are None, and so
    is `probability`, if there is no face; `faces` is the number of candidates for this one.
    `turned` is the number of quarter turns to the left after which the detector is surer, None if
    they weren't tried.
    """

    shape: tuple[int, int]
    box: tuple[float, float, float, float] | None = None
    probability: float | None = None
    landmarks: tuple[tuple[float, float], ...] | None = None
    faces: int = 0
    turned: int | None = None

    @property
    def unsure(self) -> bool:
        """True if the photo may stand on its side or head, which wasn't tried yet."""
        tilted = self.landmarks is not None and abs(_lean(self)) > MOST_LEAN
        return self.turned is None and (tilted or (self.probability or 0) < SURE)


def with_turns(image: np.ndarray, detection: Detection) -> Detection:
    """Note in a `detection` in `image` the quarter turns after which MTCNN is surer.

    Only a large face that is nearly upright then and that it is SURE of counts. The detector's
    landmarks alone don't tell: it puts eyes above the mouth of many a face that stands on its head.
    """
    small = _resized(image, min(1.0, TURNED_SIDE / min(image.shape[:2])))
    for turns in (1, 2, 3):
        other = _large_face(np.ascontiguousarray(np.rot90(small, turns)))
        if (other.probability or 0) >= SURE and abs(_lean(other)) < MOST_LEAN:
            return dataclasses.replace(detection, turned=turns)
    return dataclasses.replace(detection, turned=0)


def _large_face(image: np.ndarray) -> Detection:
    """The main face by MTCNN's first pass alone."""
    from common.faces import mtcnn

    skipped = mtcnn.levels_below(SMALLEST_FACE, FIRST_PASS_SHARE * min(image.shape[:2]))
    found = _detect_scaled(image, 1.0, SMALLEST_FACE, THRESHOLDS, skipped)
    return _most_prominent(image.shape[:2], *found)


def _lean(detection: Detection) -> float:
    """Angle in degrees between a face's axis, from the eyes to the mouth, and straight down."""
    left, right, _, *mouth = np.array(detection.landmarks)
    across, down = np.mean(mouth, axis=0) - (left + right) / 2
    return math.degrees(math.atan2(across, down))


def detect(image: np.ndarray, name: str = "mtcnn") -> Detection:
    """Detect the main face of a (height, width, 3) uint8 RGB photo by the detector `name`.

    Of several faces the one with the largest `prominence` is returned.
    """
    if name == "centerface":
        return _main_by_centerface(image)
    found = _main_by_mtcnn(image)
    return _main_by_centerface(image) if name == "both" and found.box is None else found


def _main_by_centerface(image: np.ndarray) -> Detection:
    return _most_prominent(image.shape[:2], *_by_centerface(image, CENTERFACE["main_side"]))


def _by_centerface(image: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes, probabilities and landmarks in `image`, whose longer side is reduced to `side` px."""
    scale = min(1.0, side / max(image.shape[:2]))
    boxes, probabilities, points = centerface.find_faces(
        _resized(image, scale), CENTERFACE["threshold"]
    )
    return boxes / scale, probabilities, points / scale


def _main_by_mtcnn(image: np.ndarray) -> Detection:
    """Detect the main face.

    A first pass detects large faces, without the largest levels of MTCNN's pyramid. If there is
    none, a second pass detects faces of 24 px and more, or of 34 px if both sides are more than
    316 px.
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
        found = _detect_scaled(image, scale, smallest, THRESHOLDS, skipped)
        if len(found[0]):
            return _most_prominent((height, width), *found)
    return Detection(shape=(height, width))


def _most_prominent(
    shape: tuple[int, int], boxes: np.ndarray, probabilities: np.ndarray, points: np.ndarray
) -> Detection:
    if not len(boxes):
        return Detection(shape=shape)
    best = int(np.argmax(prominence(boxes, probabilities, shape)))
    return _detections(shape, boxes, probabilities, points)[best]


def detect_every(image: np.ndarray, name: str = "mtcnn") -> list[Detection]:
    """Detect all faces of a (height, width, 3) uint8 RGB photo, from left to right.

    The main face has the box of `detect`, as in training: in an image of another size it is a few
    pixels off. Without any face the list is [`detect`'s]. With `both` the faces are those that
    either detector detects.
    """
    shape, main = image.shape[:2], detect(image, name)
    parts = [] if name == "centerface" else [_every_by_mtcnn(image)]
    if name != "mtcnn":
        parts.append(_by_centerface(image, CENTERFACE["every_side"]))
    faces = _detections(shape, *_united(*parts))
    if not faces:
        return [main]
    return sorted(_with_main(main, faces), key=lambda face: face.box[0] + face.box[2])


def _every_by_mtcnn(image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes, probabilities and landmarks of all faces.

    One pass detects large faces in a reduced image, another one smaller faces in a larger image;
    both need a higher probability than the main face.
    """
    shape = image.shape[:2]
    scale = min(EVERY_FACE["enlarged"], EVERY_FACE["look_side"] / max(shape))
    smallest, thresholds = EVERY_FACE["smallest_face"], tuple(EVERY_FACE["thresholds"])
    close = _detect_scaled(image, scale, smallest, thresholds)
    reduced = min(1.0, EVERY_FACE["far_side"] / min(shape))
    large = max(SMALLEST_FACE, round(EVERY_FACE["far_share"] * min(shape) * reduced))
    return _united(close, _detect_scaled(image, reduced, large, thresholds))


def _united(
    first: tuple[np.ndarray, ...], *others: tuple[np.ndarray, ...]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The faces of `first`, and those of `others` that aren't among them."""
    for other in others:
        new = (overlaps(other[0], first[0]) < EVERY_FACE["same"]).all(axis=1)
        first = tuple(np.concatenate([f, o[new]]) for f, o in zip(first, other, strict=True))
    return first


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


def detect_if_needed(image: np.ndarray, name: str | None) -> Detection:
    """Detect the main face by the detector `name`; for None return only the photo's shape."""
    return Detection(shape=image.shape[:2]) if name is None else detect(image, name)


def _detect_scaled(
    image: np.ndarray,
    scale: float,
    min_face: int,
    thresholds: tuple[float, ...],
    skipped: int = 0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes (n, 4), probabilities (n,) and landmarks (n, 5, 2) in pixels of `image`."""
    from common.faces import mtcnn

    found = mtcnn.find_faces(_resized(image, scale), min_face, thresholds, skipped)
    boxes, probabilities, points = (part.astype(np.float64) for part in found)
    return boxes / scale, probabilities, points / scale


def _resized(image: np.ndarray, scale: float) -> np.ndarray:
    if scale == 1:
        return image
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return cv2.resize(image, None, fx=scale, fy=scale, interpolation=method)


def prominence(boxes: np.ndarray, probabilities: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Area × probability × nearness to the centre, (n,), of boxes (n, 4) in a photo of `shape`.

    Nearness falls from 1 at the centre to 0.01 at a corner.
    """
    sides = (boxes[:, 2:] - boxes[:, :2]).clip(min=0)
    middle = np.array(shape[::-1]) / 2
    away = np.linalg.norm((boxes[:, :2] + boxes[:, 2:]) / 2 - middle, axis=1)
    nearness = (1 - away / np.linalg.norm(middle)).clip(min=0.01)
    return sides.prod(axis=1) * probabilities * nearness
