"""From a photo to the face crop that a model sees: one function for training and prediction.

The detector finds the face (`common.faces.detector`); the crop is the box made as wide and high as the input asks, grown by the margin, or the same share of the photo
turned and moved so that the eyes lie level and always at the same place. Boxes and a training's crops
are cached by the photo's bytes: a second run asks no detector, and a training opens no photo.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from common.faces.decode import DECODER
from common.faces.detector import Detection, detector_for

FACE_METHODS = ("face", "eyes")  # those that ask the detector
PHOTO_WIDTH = 384  # px: what sizes of the centre crop are measured by
MAX_CROP_SIDE = 4096  # px cut out of a photo before it is scaled to the input
EYES = {
    "distance": 0.37,  # of the face box's longer side, the median; with it a margin is `face`'s
    "shortest": 0.25,  # what is believed of a landmark, as a share of that side
    "longest": 0.6,
    "height": 0.42,  # of the crop's, from above
}


@dataclasses.dataclass(frozen=True)
class CropSpec:
    """How a crop is cut: `method` face, eyes, center or none; `size` (height, width) in pixels.

    `center` (height, width) is the centre crop in pixels of a photo 384 wide.
    """

    method: str
    margin: float
    size: tuple[int, int]
    center: tuple[int, int] = (300, 300)
    background: str = "keep"
    interpolation: Literal["area or cubic"] = "area or cubic"

    @property
    def needs_face(self) -> bool:
        """Whether the detector is asked."""
        return self.method in FACE_METHODS or self.background == "grabcut"


def crop_settings(spec: CropSpec) -> dict[str, Any]:
    """All that decides what a crop shows, as plain values for cache keys and checkpoints."""
    settings = dataclasses.asdict(spec) | {
        "size": list(spec.size),
        "center": list(spec.center),
        "decoder": DECODER,
        "border": "replicate",
    }
    if spec.method == "eyes":
        settings["eyes"] = EYES
    return settings | {"detector": detector_for(spec.needs_face)}


@dataclasses.dataclass(frozen=True)
class Cropped:
    """The crops of one photo, one for each CropSpec, as (height, width, 3) uint8 RGB.

    `region` is the part of the photo that the first face crop (or the first crop) shows: x0, y0,
    x1, y1, which may reach beyond the photo and, of a turned crop, is what holds it. `found` says
    whether there is a face and `faces` among how many it was chosen; both are None where no detector
    was asked. `box` is what the detector drew about the face, (x0, y0, x1, y1) in pixels. `seconds`
    is how long the photo took, by stage: read (file and cache), decode, detect, crop.
    """

    images: tuple[np.ndarray, ...]
    files: tuple[Path, ...]
    region: tuple[int, int, int, int]
    found: bool | None
    faces: int | None
    box: tuple[float, float, float, float] | None = None
    seconds: Mapping[str, float] = dataclasses.field(default_factory=dict, compare=False)


def region(detection: Detection, spec: CropSpec) -> tuple[int, int, int, int]:
    """The part of the photo to cut, (x0, y0, x1, y1) in pixels, in the proportion of spec.size.

    Of a turned crop it is the upright rectangle about it, of any proportion.
    """
    height, width = detection.shape
    if spec.method == "none":
        return 0, 0, width, height
    if turned(detection, spec):
        return _about(leveling(detection, spec), spec.size)
    if spec.method in FACE_METHODS and detection.box is not None:  # eyes unknown: as face
        x0, y0, x1, y1 = detection.box
        x, y = np.clip((x0 + x1) / 2, 0, width), np.clip((y0 + y1) / 2, 0, height)
        return _around(x, y, max(x1 - x0, y1 - y0) * (1 + spec.margin), spec.size)
    share = min(width, height) / PHOTO_WIDTH
    if spec.center[0] == spec.center[1]:
        return _around(width / 2, height / 2, spec.center[0] * share, spec.size)
    tall, wide = (round(side * share) for side in spec.center)
    left, top = round((width - wide) / 2), round((height - tall) / 2)
    return left, top, left + wide, top + tall


def _around(x: float, y: float, side: float, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """A rectangle about (x, y) in the proportion of `size` that a square of `side` fits into."""
    shorter = min(size)
    width, height = (max(2, round(side * s / shorter)) for s in (size[1], size[0]))
    left, top = round(x - width / 2), round(y - height / 2)
    return left, top, left + width, top + height


def turned(detection: Detection, spec: CropSpec) -> bool:
    """Whether the crop is turned to level the eyes: asked for, and a face was found."""
    return spec.method == "eyes" and detection.landmarks is not None


def leveling(detection: Detection, spec: CropSpec) -> np.ndarray:
    """The similarity transform (2, 3) from the photo to the crop that puts the eyes in place.

    They come to lie level, the point between them in the middle at EYES["height"]. On the shorter
    side their distance is EYES["distance"] / (1 + margin): the crop shows as much of a usual face as
    `face` does with this margin. Coordinates are continuous: a pixel's centre is at a half.
    """
    x0, y0, x1, y1 = detection.box
    longer = max(x1 - x0, y1 - y0)
    left, right = np.array(detection.landmarks[:2])
    middle = np.clip((left + right) / 2, 0, detection.shape[::-1])
    across, down = right - left
    distance = np.clip(np.hypot(across, down), EYES["shortest"] * longer, EYES["longest"] * longer)
    side = max(2.0, distance / EYES["distance"] * (1 + spec.margin))
    angle = np.arctan2(down, across)
    cos, sin = np.array([np.cos(angle), np.sin(angle)]) * min(spec.size) / side
    turn = np.array([[cos, sin], [-sin, cos]])
    place = spec.size[1] / 2, spec.size[0] * EYES["height"]
    return np.column_stack([turn, place - turn @ middle])


def _about(transform: np.ndarray, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The upright rectangle of whole pixels in the photo about the crop that `transform` makes."""
    height, width = size
    corners = np.array([(0, 0), (width, 0), (0, height), (width, height)])
    points = (corners - transform[:, 2]) @ np.linalg.inv(transform[:, :2]).T
    (left, top), (right, bottom) = np.floor(points.min(axis=0)), np.ceil(points.max(axis=0))
    return int(left), int(top), int(right), int(bottom)


def warp(image: np.ndarray, transform: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Turn a (height, width, 3) uint8 photo by a similarity transform and scale it to `size`.

    As in `cut`, edge pixels are repeated beyond the photo and pixels are averaged where it shrinks:
    before the turn, which then changes no scale.
    """
    part = x0, y0, x1, y1 = _about(transform, size)
    scale = min(1.0, np.hypot(*transform[:, 0]))
    height, width = max(1, round((y1 - y0) * scale)), max(1, round((x1 - x0) * scale))
    piece = cut(image, part, (height, width))
    back = np.diag([(x1 - x0) / width, (y1 - y0) / height, 1])  # from the piece to the photo
    back[:2, 2] = x0, y0
    matrix = transform @ back
    matrix[:, 2] += matrix[:, :2] @ (0.5, 0.5) - 0.5  # OpenCV counts from the first pixel's centre
    return cv2.warpAffine(
        piece, matrix, size[::-1], flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
    )


def cut(image: np.ndarray, part: tuple[int, int, int, int], size: tuple[int, int]) -> np.ndarray:
    """Cut `part` out of a (height, width, 3) uint8 photo and scale it to `size`.

    Beyond the photo its edge pixels are repeated. Pixels are averaged where the crop shrinks and
    interpolated (bicubic) where it grows.
    """
    shrink = MAX_CROP_SIDE / max(part[2] - part[0], part[3] - part[1])
    if shrink < 1:  # a wide margin about a face in a large photo needn't fill the memory
        image = cv2.resize(image, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
        part = tuple(round(side * shrink) for side in part)
    x0, y0, x1, y1 = part
    height, width = image.shape[:2]
    piece = image[max(y0, 0) : max(y1, 1), max(x0, 0) : max(x1, 1)]
    beyond = max(-y0, 0), max(y1 - height, 0), max(-x0, 0), max(x1 - width, 0)
    piece = cv2.copyMakeBorder(piece, *beyond, cv2.BORDER_REPLICATE)
    grows = size[0] > piece.shape[0] or size[1] > piece.shape[1]
    method = cv2.INTER_CUBIC if grows else cv2.INTER_AREA
    return cv2.resize(piece, size[::-1], interpolation=method)


def crop(image: np.ndarray, detection: Detection, spec: CropSpec) -> np.ndarray:
    """The crop of a (height, width, 3) uint8 photo that `spec` asks for."""
    if turned(detection, spec):
        piece = warp(image, leveling(detection, spec), spec.size)
    else:
        piece = cut(image, region(detection, spec), spec.size)
    if spec.background == "keep":
        return piece
    return without_background(piece, face_in(detection, spec))


def face_in(detection: Detection, spec: CropSpec) -> tuple[int, int, int, int]:
    """Where the face is in the crop, (x0, y0, x1, y1) in its pixels.

    The middle half of it where no face was found. In a turned crop the box keeps its sides and is
    turned about its middle only, since the box of a tilted head is larger than the head.
    """
    height, width = spec.size
    if detection.box is None:
        return width // 4, height // 4, width - width // 4, height - height // 4
    x0, y0, x1, y1 = detection.box
    if turned(detection, spec):
        transform = leveling(detection, spec)
        scale = np.hypot(*transform[:, 0])
        x, y = transform @ ((x0 + x1) / 2, (y0 + y1) / 2, 1)
        across, down = scale * (x1 - x0) / 2, scale * (y1 - y0) / 2
        corners = x - across, y - down, x + across, y + down
    else:
        part = region(detection, spec)
        scales = width / (part[2] - part[0]), height / (part[3] - part[1])
        corners = [(side - part[i % 2]) * scales[i % 2] for i, side in enumerate(detection.box)]
    limits = width, height, width, height
    return tuple(int(np.clip(c, 0, limit)) for c, limit in zip(corners, limits, strict=True))


def without_background(image: np.ndarray, face: tuple[int, int, int, int]) -> np.ndarray:
    """Black where OpenCV's GrabCut (Rother et al. 2004), told where the face is, sees background.

    The face's inner half is certain, the rest of its box is probable, all else is probably not.
    """
    x0, y0, x1, y1 = face
    mask = np.full(image.shape[:2], cv2.GC_PR_BGD, np.uint8)
    mask[y0:y1, x0:x1] = cv2.GC_PR_FGD
    across, down = (x1 - x0) // 4, (y1 - y0) // 4
    mask[y0 + down : y1 - down, x0 + across : x1 - across] = cv2.GC_FGD
    if (mask == cv2.GC_PR_BGD).any() and (mask == cv2.GC_FGD).any():
        cv2.setRNGSeed(0)  # its clusters start at random; the same photo must give the same crop
        cv2.grabCut(image[:, :, ::-1].copy(), mask, None, None, None, 4, cv2.GC_INIT_WITH_MASK)
    kept = np.isin(mask, (cv2.GC_FGD, cv2.GC_PR_FGD))
    return np.where(kept[:, :, None], image, 0).astype(np.uint8)


def cut_faces(
    photo: np.ndarray, found: Sequence[Detection], specs: Sequence[CropSpec]
) -> tuple[Cropped, ...]:
    """The crops of each face that was `found` in a (height, width, 3) uint8 RGB photo."""
    return tuple(make_cropped([crop(photo, d, s) for s in specs], (), d, specs) for d in found)


def make_cropped(
    images: Sequence[np.ndarray],
    files: tuple[Path, ...],
    detection: Detection,
    specs: Sequence[CropSpec],
    seconds: Mapping[str, float] | None = None,
) -> Cropped:
    part, box = _shown(detection, specs), detection.box
    return Cropped(
        tuple(images), files, part, box is not None, detection.faces, box, dict(seconds or {})
    )


def _shown(detection: Detection, specs: Sequence[CropSpec]) -> tuple[int, int, int, int]:
    """The region of the first face crop, else of the first crop."""
    return region(detection, next((s for s in specs if s.method in FACE_METHODS), specs[0]))
