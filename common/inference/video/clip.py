"""Read and write videos safely; for photos see `common.faces.decode`.

OpenCV's FFmpeg decodes. The container is checked by its first bytes before, because FFmpeg would
follow a playlist to other files and addresses.
"""

import contextlib
import dataclasses
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np

from common.base.errors import UserError
from common.base.files import new_entries
from common.base.progress import progress
from common.faces.decode import MAX_PIXELS, MIN_SIDE

MP4, AVI, MATROSKA = "MP4 or MOV", "AVI", "MKV or WEBM"
MP4_STARTS = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot")
MAX_DAMAGED = 250  # frames in a row: ten seconds at the usual rate; after more the clip ends
NOTHING = "no frame of it can be read: it is damaged, cut short or holds no pictures"
RATES = 0.1, 1000.0  # frames a second with which MPEG-4 can be written
USUAL_RATE = 25.0  # frames a second, for a clip of one frame
MIN_DECODED_SHARE = 0.9  # note if fewer of the announced frames decode


def silence_opencv() -> None:
    """Keep OpenCV's and FFmpeg's messages about damaged videos from stderr."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # read when the first video is opened
    (cv2.setLogLevel if hasattr(cv2, "setLogLevel") else cv2.utils.logging.setLogLevel)(0)


@dataclasses.dataclass(frozen=True)
class Clip:
    """A video's frames, counted from 0, upright."""

    path: Path
    times: np.ndarray
    """(frames,): the time of each in seconds; intervals may vary."""
    shape: tuple[int, int]
    """Height and width."""
    damaged: int
    """The number of frames that could not be decoded and are not counted."""
    cut_short: bool
    """True if the file ends before its last frame."""
    announced: int
    """The number of frames in the header, 0 if it has none."""

    @property
    def rate(self) -> float:
        """Mean frames a second."""
        passed = self.times[-1] - self.times[0]
        rate = (len(self.times) - 1) / passed if passed > 0 else USUAL_RATE
        return float(np.clip(rate, *RATES))

    def broken(self) -> str:
        """Describe what is damaged, "" if nothing."""
        last = len(self.times) - 1
        wrong = [f"cut short: it ends after frame {last:,}"] if self.cut_short else []
        wrong += [f"damaged: {self.damaged:,} frames can't be read"] if self.damaged else []
        return ", ".join(wrong)

    def note(self) -> str:
        """Describe missing frames, maybe no error: a trimmed clip may announce hidden ones."""
        if self.broken() or len(self.times) >= MIN_DECODED_SHARE * self.announced:
            return ""
        return f"its header names {self.announced:,} frames, {len(self.times):,} can be read"


class FrameReader:
    """Reads frames by number; it only seeks forwards, which is exact in every format.

    It opens the file at the first call, so that each process has its own position in it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._capture: cv2.VideoCapture | None = None
        self._next = 0
        self.damaged = 0
        self.shape = 0, 0  # (height, width) once open; OpenCV scales frames of another size

    def grab(self) -> bool:
        """Decode the next frame that isn't damaged; returns False at the end."""
        capture = self.capture()
        for failed in range(MAX_DAMAGED + 1):
            if capture.grab():
                self.damaged += failed
                self._next += 1
                return True
        return False

    def read(self, number: int) -> np.ndarray:
        """Read frame `number`, as `scan` counts, as (height, width, 3) uint8 RGB.

        Raises:
            UserError: the file was changed since it was scanned.
        """
        if number < self._next:
            self._capture, self._next = None, 0
        image = None
        if all(self.grab() for _ in range(number + 1 - self._next)):
            _, image = self.capture().retrieve()
        if image is None:
            raise UserError(
                f"{self.path}: frame {number:,} is gone: the file was changed meanwhile"
            )
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)

    def capture(self) -> cv2.VideoCapture:
        """OpenCV's capture, opened.

        Raises:
            UserError: OpenCV can't open the file as a video.
        """
        if self._capture is None:
            # Threads don't survive a fork into loader processes, and vary at damaged frames.
            settings = [cv2.CAP_PROP_N_THREADS, 1]
            file = str(self.path.resolve())  # FFmpeg reads "file:x.mp4" as an address
            silence_opencv()
            self._capture = cv2.VideoCapture(file, cv2.CAP_FFMPEG, settings)
            sides = cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_WIDTH
            self.shape = tuple(int(self._capture.get(side)) for side in sides)
            if min(self.shape) <= 0:  # 0 if not open
                raise UserError(f"{self.path}: {NOTHING}")
        return self._capture


def scan(path: Path) -> Clip:
    """Decode a whole video once, with a progress bar, to count its frames before long work.

    Raises:
        UserError: the file isn't a video of a known format, has no frame, or its frames exceed the
            limits on the size of photos.
    """
    cut_short = is_cut_short(path)
    reader = FrameReader(path)
    capture = reader.capture()
    height, width = reader.shape
    if width * height > MAX_PIXELS:
        raise UserError(f"{path}: frames of more than {MAX_PIXELS // 10**6} million pixels")
    if min(width, height) < MIN_SIDE:
        raise UserError(f"{path}: {width} x {height} pixels; a side has at least {MIN_SIDE}")
    announced = _announced(capture)
    times = []
    with progress(announced or None, "read", "frames") as bar:
        while reader.grab():
            times.append(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
            bar.update()
    if not times:
        raise UserError(f"{path}: {NOTHING}")
    return Clip(path, np.array(times), reader.shape, reader.damaged, cut_short, announced)


def announced_frames(path: Path) -> int:
    """The number of frames in a video's header, 0 if it has none.

    Raises:
        UserError: the file isn't a video of a known format.
    """
    is_cut_short(path)  # refuses playlists, which OpenCV would follow
    return _announced(FrameReader(path).capture())


def _announced(capture: cv2.VideoCapture) -> int:
    frames = capture.get(cv2.CAP_PROP_FRAME_COUNT)
    return int(frames) if 0 < frames < 10**9 else 0  # out of range if unknown


def is_cut_short(path: Path) -> bool:
    """Check if a part of the file extends beyond its end.

    Raises:
        UserError: the file can't be read, or isn't a video of a known format.
    """
    try:
        if not path.is_file():
            raise UserError(f"{path}: {'not a file' if path.exists() else 'no such video'}")
        with path.open("rb") as file:
            ends = _parts(file, path)
            size = path.stat().st_size
            return any(end > size for end in itertools.islice(ends, 100_000))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None


def _parts(file: BinaryIO, path: Path) -> Iterator[int]:
    """Yield the end of each outermost part of a video file, according to its header, in bytes."""
    start = file.read(12)
    if start[4:8] in MP4_STARTS:
        return _mp4_parts(file)
    if start[:4] == b"RIFF" and start[8:] == b"AVI ":
        return _avi_parts(file)
    if start[:4] == b"\x1a\x45\xdf\xa3":
        return _matroska_parts(file)
    if not start:
        raise UserError(f"{path}: empty file")
    raise UserError(f"{path}: not a video of a known format ({MP4}, {AVI}, {MATROSKA})")


def _mp4_parts(file: BinaryIO) -> Iterator[int]:
    """Boxes (ISO 14496-12): size, name. A size of 1 means 8 more bytes of it, 0 to the end."""
    place = file.seek(0)
    while len(head := file.read(16)) >= 8:
        size = int.from_bytes(head[:4])
        size = int.from_bytes(head[8:]) if size == 1 else size
        if size < 8:
            return
        yield place + size
        place = file.seek(place + size)


def _avi_parts(file: BinaryIO) -> Iterator[int]:
    """RIFF chunks, several in a large file: name, size, which is unknown while it is recorded."""
    place = file.seek(0)
    while (head := file.read(8))[:4] == b"RIFF":
        place += 8 + int.from_bytes(head[4:], "little")
        yield place
        place = file.seek(place + place % 2)


def _matroska_parts(file: BinaryIO) -> Iterator[int]:
    """EBML elements (RFC 8794): name, size; leading zero bits give the length of both."""
    place = file.seek(0)
    while len(head := file.read(16)) > 4 and head[0] >> 4:
        name = 9 - head[0].bit_length()
        length = 9 - head[name].bit_length()
        size = int.from_bytes(head[name : name + length]) & ((1 << 7 * length) - 1)
        if length > 8 or size == (1 << 7 * length) - 1:  # unknown: a live recording
            return
        place += name + length + size
        yield place
        file.seek(place)


@contextlib.contextmanager
def whole_clip(
    file: Path, rate: float, *, keep: bool = True
) -> Iterator[Callable[[np.ndarray], None]]:
    """Yield a function that writes frames, (height, width, 3) uint8 RGB of one size, to `file`.

    The file is MPEG-4 without sound, `rate` frames a second, and appears complete or not at all;
    the last pixel of an odd side is cut off. Without `keep` it is written for a test and removed.

    Raises:
        UserError: the file can't be written.
    """
    written = 0
    silence_opencv()
    writer = cv2.VideoWriter()

    def write(frame: np.ndarray) -> None:
        nonlocal written
        height, width = (side // 2 * 2 for side in frame.shape[:2])
        if not written:
            code = cv2.VideoWriter.fourcc(*"mp4v")
            writer.open(str(part), cv2.CAP_FFMPEG, code, rate, (width, height))
            if not writer.isOpened():
                raise UserError(f"{file}: can't be written as MPEG-4 of {width} x {height} pixels")
        writer.write(cv2.cvtColor(frame[:height, :width], cv2.COLOR_RGB2BGR))
        written += 1

    try:
        with new_entries(file.parent, [file.name] if keep else []) as folder:
            part = (folder / file.name).resolve()
            yield write
            writer.release()
            if _count(part) != written:  # OpenCV reports no error
                raise UserError(f"{file}: can't be written whole; is the disk full?")
    except OSError as error:
        raise UserError(f"{file}: can't be written ({error.strerror})") from None
    finally:
        writer.release()


def _count(file: Path) -> int:
    silence_opencv()
    capture = cv2.VideoCapture(str(file), cv2.CAP_FFMPEG)
    return int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
