"""Geometry of face crops: one function cuts them for training and prediction.

    face    the detector's box, expanded to the input's aspect ratio and by `margin`
    eyes    a similarity transform that puts both eyes at fixed positions
    center  a fixed part of the photo
    none    the whole photo

`common.faces.cache` keeps detections and a training's crops on disk.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from common.faces.decode import DECODER
from common.faces.detector import Detection, detect_if_needed, detector_for

FACE_METHODS = ("face", "eyes")  # those that need the detector
PHOTO_WIDTH = 384  # px: width of the competition's photos, the unit of the centre crop's size
MAX_CROP_SIDE = 4096  # px of a photo to cut before scaling: limits the memory of wide margins
FEW_COLOURS = 8  # a drawing in so few has areas of one colour, on which GrabCut takes minutes
EYES = {
    "distance": 0.37,  # median ratio of the eyes' distance to the box's longer side
    "shortest": 0.25,  # limits of that ratio: beyond them landmarks are wrong
    "longest": 0.6,
    "height": 0.42,  # of the eyes, from above, in crop heights
}


@dataclasses.dataclass(frozen=True)
class CropSpec:
    """Settings of a crop: `method` face, eyes, center or none; `size` (height, width) in pixels.

    `margin` is a share of the box's longer side; `center` (height, width) is the size of the centre
    crop in pixels of a photo 384 wide; `background` is keep or grabcut; `detector` is
    mtcnn, centerface or both.
    """

    method: str
    margin: float
    size: tuple[int, int]
    center: tuple[int, int] = (300, 300)
    background: str = "keep"
    interpolation: Literal["area or cubic"] = "area or cubic"
    detector: str = "mtcnn"

    @property
    def needs_face(self) -> bool:
        """True if the crop needs a detection."""
        return self.method in FACE_METHODS or self.background == "grabcut"

    @property
    def used_detector(self) -> str | None:
        """Name of the detector that the crop needs, if any."""
        return self.detector if self.needs_face else None


def crop_settings(spec: CropSpec) -> dict[str, Any]:
    """All settings that determine a crop, as plain values for cache keys and checkpoints."""
    settings = dataclasses.asdict(spec) | {
        "size": list(spec.size),
        "center": list(spec.center),
        "decoder": DECODER,
        "border": "replicate",
    }
    if spec.method == "eyes":
        settings["eyes"] = EYES
    if spec.background == "grabcut":
        settings["grabcut"] = {"of": "a detected face", "fewest_colours": FEW_COLOURS}
    return settings | {"detector": detector_for(spec.used_detector)}


@dataclasses.dataclass(frozen=True)
class Cropped:
    """Crops of one face, or of the centre of a photo without a face.

    `images` are (height, width, 3) uint8 RGB, one for each CropSpec, `files` their cached files.
    `region` is the part of the photo that the first face crop (or else the first crop) shows, as
    (x0, y0, x1, y1) in pixels; it may reach beyond the photo, and encloses a rotated crop.
    `detected` is True if there is a face, `faces` the number of candidates for it; both are None if
    no spec needs the detector; `turned` is True if the photo seems to stand on its side or head.
    `box` is the detector's (x0, y0, x1, y1) in pixels. `seconds` are
    spent on the photo by stage: read (file and cache), decode, detect, crop.
    """

    images: tuple[np.ndarray, ...]
    files: tuple[Path, ...]
    region: tuple[int, int, int, int]
    detected: bool | None
    faces: int | None
    box: tuple[float, float, float, float] | None = None
    turned: bool = False
    seconds: Mapping[str, float] = dataclasses.field(default_factory=dict, compare=False)


def region(detection: Detection, spec: CropSpec) -> tuple[int, int, int, int]:
    """The part of the photo to cut, (x0, y0, x1, y1) in pixels, with the aspect ratio of spec.size.

    For a rotated crop it is the upright rectangle around it, of any aspect ratio.
    """
    height, width = detection.shape
    if spec.method == "none":
        return 0, 0, width, height
    if is_rotated(detection, spec):
        return _about(leveling_transform(detection, spec), spec.size)
    if (
        spec.method in FACE_METHODS and detection.box is not None
    ):  # without landmarks, eyes is cut as face
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
    """Smallest rectangle around (x, y) with the aspect ratio of `size` that covers a square."""
    shorter = min(size)
    width, height = (max(2, round(side * s / shorter)) for s in (size[1], size[0]))
    left, top = round(x - width / 2), round(y - height / 2)
    return left, top, left + width, top + height


def is_rotated(detection: Detection, spec: CropSpec) -> bool:
    """Return True if the crop is rotated to level the eyes: method eyes, and landmarks detected."""
    return spec.method == "eyes" and detection.landmarks is not None


def leveling_transform(detection: Detection, spec: CropSpec) -> np.ndarray:
    """The similarity transform (2, 3) from the photo to the crop that puts the eyes in place.

    In the crop the eyes are level, and the point between them is in the middle, EYES["height"] of
    the height from above. Their distance is EYES["distance"] / (1 + margin) of the shorter side, so
    that `eyes` and `face` show about the same part of a typical face. Coordinates are continuous:
    the first pixel's centre is at 0.5.
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
    """The upright rectangle of whole pixels in the photo around the crop of `transform`."""
    height, width = size
    corners = np.array([(0, 0), (width, 0), (0, height), (width, height)])
    points = (corners - transform[:, 2]) @ np.linalg.inv(transform[:, :2]).T
    (left, top), (right, bottom) = np.floor(points.min(axis=0)), np.ceil(points.max(axis=0))
    return int(left), int(top), int(right), int(bottom)


def warp(image: np.ndarray, transform: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Apply a similarity transform to a (height, width, 3) uint8 photo; the crop has `size`.

    As in `cut`, edge pixels are repeated beyond the photo, and pixels are averaged if the crop is
    smaller: scaling comes before the rotation, which then keeps the scale.
    """
    part = x0, y0, x1, y1 = _about(transform, size)
    scale = min(1.0, np.hypot(*transform[:, 0]))
    height, width = max(1, round((y1 - y0) * scale)), max(1, round((x1 - x0) * scale))
    piece = cut(image, part, (height, width))
    back = np.diag([(x1 - x0) / width, (y1 - y0) / height, 1])  # from the piece to the photo
    back[:2, 2] = x0, y0
    matrix = transform @ back
    matrix[:, 2] += matrix[:, :2] @ (0.5, 0.5) - 0.5  # OpenCV's origin is the first pixel's centre
    return cv2.warpAffine(
        piece, matrix, size[::-1], flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
    )


def cut(image: np.ndarray, part: tuple[int, int, int, int], size: tuple[int, int]) -> np.ndarray:
    """Cut `part` (x0, y0, x1, y1) out of a (height, width, 3) uint8 photo and scale it to `size`.

    Beyond the photo its edge pixels are repeated. Pixels are averaged if the crop is smaller than
    `part`, and interpolated (bicubic) if it is larger.
    """
    shrink = MAX_CROP_SIDE / max(part[2] - part[0], part[3] - part[1])
    if shrink < 1:
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
    """Crop a (height, width, 3) uint8 photo as `spec` says; without a face no background is cut off."""
    if is_rotated(detection, spec):
        piece = warp(image, leveling_transform(detection, spec), spec.size)
    else:
        piece = cut(image, region(detection, spec), spec.size)
    if spec.background == "keep":
        return piece
    if detection.box is None or _colours(piece) < FEW_COLOURS:
        return piece
    return _without_background(piece, face_in(detection, spec))


def _colours(image: np.ndarray) -> int:
    """Number of different colours in a (height, width, 3) uint8 image."""
    return len(np.unique(image.astype(np.int32) @ (1, 256, 65536)))


def face_in(detection: Detection, spec: CropSpec) -> tuple[int, int, int, int]:
    """The face's box in the crop, (x0, y0, x1, y1) in its pixels; without a face its middle half.

    In a rotated crop the box keeps its size and stays upright, since the detector's box of a tilted
    head is larger than the head.
    """
    height, width = spec.size
    if detection.box is None:
        return width // 4, height // 4, width - width // 4, height - height // 4
    x0, y0, x1, y1 = detection.box
    if is_rotated(detection, spec):
        transform = leveling_transform(detection, spec)
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


def _without_background(image: np.ndarray, face: tuple[int, int, int, int]) -> np.ndarray:
    """Blacken what OpenCV's GrabCut (Rother et al. 2004) takes for background.

    It starts with the inner half of the `face` box as certain foreground, the rest of the box as
    probable foreground, and all else as probable background.
    """
    x0, y0, x1, y1 = face
    mask = np.full(image.shape[:2], cv2.GC_PR_BGD, np.uint8)
    mask[y0:y1, x0:x1] = cv2.GC_PR_FGD
    across, down = (x1 - x0) // 4, (y1 - y0) // 4
    mask[y0 + down : y1 - down, x0 + across : x1 - across] = cv2.GC_FGD
    if (mask == cv2.GC_PR_BGD).any() and (mask == cv2.GC_FGD).any():
        cv2.setRNGSeed(0)  # GrabCut starts at random, and the same photo must give the same crop
        cv2.grabCut(image[:, :, ::-1].copy(), mask, None, None, None, 4, cv2.GC_INIT_WITH_MASK)
    kept = np.isin(mask, (cv2.GC_FGD, cv2.GC_PR_FGD))
    return np.where(kept[:, :, None], image, 0).astype(np.uint8)


def detectors(specs: Sequence[CropSpec]) -> list[str | None]:
    """The detector for each of `specs`: its own, or for crops that need none the first that is used."""
    names = [spec.used_detector for spec in specs]
    main = next((name for name in names if name is not None), None)
    return [main if name is None else name for name in names]


def crop_photo(photo: np.ndarray, specs: Sequence[CropSpec]) -> Cropped:
    """Crop the main face of a (height, width, 3) uint8 RGB photo, as the cache's `Cropper` does."""
    names = detectors(specs)
    found = {name: detect_if_needed(photo, name) for name in dict.fromkeys(names)}
    images = [crop(photo, found[name], spec) for name, spec in zip(names, specs, strict=True)]
    cropped = make_cropped(images, (), found[names[main_spec(specs)]], specs)
    needless = names[0] is None
    return dataclasses.replace(cropped, detected=None, faces=None) if needless else cropped


def shared_detector(specs: Sequence[CropSpec]) -> str:
    """The detector that detects every face for all of `specs`: theirs, or both if they differ."""
    names = {spec.detector for spec in specs if spec.needs_face}
    return names.pop() if len(names) == 1 else "both" if names else "mtcnn"


def cut_faces(
    photo: np.ndarray, faces: Sequence[Detection], specs: Sequence[CropSpec]
) -> tuple[Cropped, ...]:
    """Crop each of the detected `faces` of a (height, width, 3) uint8 RGB photo."""
    return tuple(make_cropped([crop(photo, d, s) for s in specs], (), d, specs) for d in faces)


def make_cropped(
    images: Sequence[np.ndarray],
    files: tuple[Path, ...],
    detection: Detection,
    specs: Sequence[CropSpec],
    seconds: Mapping[str, float] | None = None,
) -> Cropped:
    """Describe the crops of one detection; see `Cropped`."""
    part, box = _shown(detection, specs), detection.box
    return Cropped(
        tuple(images),
        files,
        part,
        box is not None,
        detection.faces,
        box,
        bool(detection.turned),
        dict(seconds or {}),
    )


def _shown(detection: Detection, specs: Sequence[CropSpec]) -> tuple[int, int, int, int]:
    """The region of the first face crop, else of the first crop."""
    return region(detection, specs[main_spec(specs)])


def main_spec(specs: Sequence[CropSpec]) -> int:
    """Index of the crop whose region is shown: the first face crop, else the first."""
    return next((i for i, spec in enumerate(specs) if spec.method in FACE_METHODS), 0)
