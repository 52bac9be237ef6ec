"""Cache of crops and detections on disk, by the SHA-256 of the photo's bytes."""

import atexit
import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from common.base.errors import UserError
from common.base.files import LEFTOVERS, remove_leftovers, write_whole
from common.base.stages import Stages
from common.faces.crop import (
    Cropped,
    CropSpec,
    crop,
    crop_settings,
    cut_faces,
    detectors,
    main_spec,
    make_cropped,
    shared_detector,
)
from common.faces.decode import BadPhoto, decode, read_bytes
from common.faces.detector import (
    Detection,
    detect_every,
    detect_if_needed,
    detector_for,
    every_face_detector,
    with_turns,
)

CACHED = "*-????????????"  # boxes-…, crops-…, exports-…: folders of the cache, by kind and digest


class Detections:
    """Cache of the main face's detection; keys are the SHA-256 of a photo's bytes in hexadecimal.

    Files appear whole or not at all, so that processes can share the cache.
    """

    def __init__(self, cache_dir: Path, detector: str | None) -> None:
        self.detector = detector
        self._folder = cache_dir / f"boxes-{settings_digest(detector_for(detector))}"

    def cached(self, key: str) -> Detection | None:
        """Return an earlier detection; None if there is no whole record of it."""
        return next(iter(_read_record(self._record(key))), None)

    def detect(self, key: str, photo: np.ndarray) -> Detection:
        """Detect the face of a (height, width, 3) uint8 RGB photo, and keep the result."""
        detection = detect_if_needed(photo, self.detector)
        _keep_record(self._record(key), [detection])
        return detection

    def turn(self, key: str, photo: np.ndarray, detection: Detection) -> Detection:
        """Note whether the photo stands on its side or head, and keep that, too."""
        detection = with_turns(photo, detection)
        _keep_record(self._record(key), [detection])
        return detection

    def _record(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key[2:]}.json"


class Cropper:
    """Crops the main face of photos for several CropSpecs at once, through a cache on disk.

    A key is the SHA-256 of the photo's bytes; a folder is named by a digest of all settings that
    determine its files. Files appear whole or not at all, so that processes can share the cache.
    Without `keep`, in prediction, new crops aren't added to it: compressing one takes as long as
    cutting it. Photos on whose face the detector isn't sure are then tried turned, too.
    """

    def __init__(self, specs: Sequence[CropSpec], cache_dir: Path, *, keep: bool = True) -> None:
        self.specs = tuple(specs)
        self.keep = keep
        self._names = detectors(specs)
        self._detections = {
            name: Detections(cache_dir, name) for name in dict.fromkeys(self._names)
        }
        self._crops = [
            cache_dir / f"crops-{settings_digest(crop_settings(spec))}" for spec in specs
        ]

    def __call__(self, path: Path) -> Cropped:
        """Crop one photo.

        Raises:
            BadPhoto: the photo can't be used.
            UserError: the cache can't be written.
        """
        stages = Stages()
        with stages("read"):
            data = read_bytes(path)
            key = hashlib.sha256(data).hexdigest()
            files = tuple(folder / key[:2] / f"{key[2:]}.png" for folder in self._crops)
            found = {name: known.cached(key) for name, known in self._detections.items()}
            images = [_read_crop(file) for file in files] if all(found.values()) else [None]
        if any(image is None for image in images):
            with stages("decode"):
                photo = decode(data)
            for name in [name for name, detection in found.items() if detection is None]:
                with stages("detect"):
                    found[name] = self._detections[name].detect(key, photo)
            with stages("crop"):
                images = [
                    crop(photo, found[name], spec)
                    for name, spec in zip(self._names, self.specs, strict=True)
                ]
                if self.keep:
                    for file, image in zip(files, images, strict=True):
                        keep_file(
                            file, cv2.imencode(".png", image[:, :, ::-1], _FAST_PNG)[1].tobytes()
                        )
        name = self._names[main_spec(self.specs)]
        main = found[name]
        if not self.keep and name is not None and main.unsure:
            with stages("detect"):
                main = self._detections[name].turn(key, decode(data), main)
        cropped = make_cropped(images, files, main, self.specs, stages.seconds)
        if self._names[0] is None:
            return dataclasses.replace(cropped, detected=None, faces=None)
        return cropped


class EveryFaceCropper:
    """Crops every face of a photo for several CropSpecs at once.

    Only detections are cached, as by `Cropper`: the detector takes a hundred times as long as
    cutting.
    """

    def __init__(self, specs: Sequence[CropSpec], cache_dir: Path) -> None:
        self.specs = tuple(specs)
        self._detector = shared_detector(specs)
        settings = every_face_detector(self._detector)
        self._detections = cache_dir / f"boxes-{settings_digest(settings)}"

    def __call__(self, path: Path) -> tuple[Cropped, ...]:
        """Crop one photo's faces; without a face, the centre.

        The seconds of the whole photo are those of the first crop.

        Raises:
            BadPhoto: the photo can't be used.
            UserError: the cache can't be written.
        """
        stages = Stages()
        with stages("read"):
            data = read_bytes(path)
            key = hashlib.sha256(data).hexdigest()
        with stages("decode"):
            photo = decode(data)
        return self.faces(photo, key, stages)

    def faces(self, photo: np.ndarray, key: str, stages: Stages) -> tuple[Cropped, ...]:
        """Crop the faces of a (height, width, 3) uint8 RGB photo.

        `key` is a SHA-256 in hexadecimal that no other photo has.
        """
        with stages("read"):
            record = self._detections / key[:2] / f"{key[2:]}.json"
            found = _read_record(record)
        if not found:
            with stages("detect"):
                found = detect_every(photo, self._detector)
                _keep_record(record, found)
        with stages("crop"):
            faces = cut_faces(photo, found, self.specs)
        return dataclasses.replace(faces[0], seconds=stages.seconds), *faces[1:]


# Files as small as with OpenCV's defaults, written in 60% and read in 70% of the time.
_FAST_PNG = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]
if hasattr(cv2, "IMWRITE_PNG_FILTER"):  # older releases choose a filter for each row
    _FAST_PNG += [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP]


def photo_key(crop: Path) -> str:
    """The SHA-256 of the photo, in hexadecimal, whose cached crop is the file `crop`."""
    return crop.parent.name + crop.stem


def settings_digest(settings: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits that name a folder of the cache by its `settings`."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def _keep_record(record: Path, found: Sequence[Detection]) -> None:
    text = json.dumps([dataclasses.asdict(detection) for detection in found]).encode()
    keep_file(record, text + _seal(text))


def _seal(text: bytes) -> bytes:
    """Checksum line of a record: without it a changed digit would go unnoticed."""
    return b"\n%08x" % zlib.crc32(text)


def _read_record(record: Path) -> list[Detection]:
    """Read the detections in a photo; [] if the record is missing or damaged."""
    try:
        data = record.read_bytes()
    except OSError:
        return []
    text = data[: -len(_seal(b""))]
    return [_detection(f) for f in json.loads(text)] if data == text + _seal(text) else []


def _detection(fields: dict[str, Any]) -> Detection:
    return Detection(**fields | {"shape": tuple(fields["shape"])})


def _read_crop(file: Path) -> np.ndarray | None:
    try:
        return read_crop(file)
    except BadPhoto:
        return None


def read_crop(file: Path) -> np.ndarray:
    """Read a cached crop as (height, width, 3) uint8 RGB.

    Raises:
        BadPhoto: the file is missing or damaged.
    """
    data = read_bytes(file)
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    if image is None:
        raise BadPhoto("damaged crop")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def keep_file(file: Path, data: bytes) -> None:
    """Add `file`, DIR/KIND-DIGEST/XX/NAME, to the cache DIR, in folders that others can't read.

    Raises:
        UserError: it can't be written.
    """
    try:
        for folder in (file.parent.parent, file.parent):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_whole(file, data, mode=0o600, place=file.parent.parent)
    except OSError as error:
        raise UserError(f"cache: {file} can't be written ({error.strerror})") from None


def _foreign(folder: Path) -> str:
    """Name the first part of a cache whose owner could read the faces or replace them; else ""."""
    parts = list(folder.glob(CACHED))
    if linked := next((part for part in parts if part.is_symlink()), None):
        return f"{linked.name} is a symbolic link"
    # Root, as in a container, uses the cache of the user whose folder is mounted.
    user = os.getuid() if hasattr(os, "getuid") else 0
    other = next((p for p in [folder, *parts] if user and p.stat().st_uid != user), None)
    return f"{other.name} belongs to another user" if other is not None else ""


def usable_cache(folder: Path) -> tuple[Path, str]:
    """Return a cache folder that can be written, and a warning or "".

    It is `folder`, created if needed, or a temporary folder that is removed when the process ends.
    What killed processes left in the cache is removed.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if foreign := _foreign(folder):
            raise OSError(0, foreign)
        with tempfile.TemporaryFile(dir=folder):
            remove_leftovers(folder.glob(f"{CACHED}/{LEFTOVERS}"))
            return folder, ""
    except OSError as error:
        other = Path(tempfile.mkdtemp(prefix="face-crops-"))
        atexit.register(shutil.rmtree, other, ignore_errors=True)
        return other, f"{folder}: {error.strerror}; crops of this run go to {other}"
