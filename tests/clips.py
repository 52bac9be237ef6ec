"""Videos for tests: frames that tell their number, and MP4 files changed by hand."""

import struct
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

from common.inference.video.clip import silence_opencv

silence_opencv()

CODECS = {".mp4": "mp4v", ".mov": "mp4v", ".m4v": "mp4v", ".avi": "MJPG", ".mkv": "FFV1"}
RATE = 20.0


def write_clip(path: Path, frames: Iterable[np.ndarray], rate: float = RATE) -> Path:
    """Write (height, width, 3) uint8 RGB frames; of MKV the pixels stay nearly as they are."""
    writer = cv2.VideoWriter()
    code = cv2.VideoWriter.fourcc(*CODECS[path.suffix.lower()])
    for frame in frames:
        if not writer.isOpened():
            writer.open(str(path), cv2.CAP_FFMPEG, code, rate, frame.shape[1::-1])
            assert writer.isOpened()
        writer.write(np.ascontiguousarray(frame[:, :, ::-1]))
    writer.release()
    return path


def numbered(count: int, height: int = 48, width: int = 64) -> list[np.ndarray]:
    """Black frames with a white upper left corner, and below their number as 8 white or black bits."""
    frames = np.zeros((count, height, width, 3), np.uint8)
    frames[:, : height // 4, : width // 4] = 255
    for number, bit in np.ndindex(count, 8):
        block = slice(bit * width // 8, (bit + 1) * width // 8)
        frames[number, height // 2 :, block] = 255 * (number >> bit & 1)
    return list(frames)


def number_of(frame: np.ndarray) -> int:
    """Which of `numbered` a frame is."""
    bits = np.array_split(frame[frame.shape[0] // 2 :], 8, axis=1)
    return sum((block.mean() > 127) << bit for bit, block in enumerate(bits))


def boxes(data: bytes) -> dict[bytes, bytes]:
    """An MP4 file's outermost parts by name."""
    parts, place = {}, 0
    while place < len(data):
        size = int.from_bytes(data[place : place + 4])
        parts[data[place + 4 : place + 8]] = data[place : place + size]
        place += size
    return parts


def index_first(data: bytes) -> bytes:
    """An MP4 file with its index before its frames, so that the rest can be lost."""
    parts = boxes(data)
    moov = bytearray(parts.pop(b"moov"))
    table = moov.index(b"stco") + 8
    number = int.from_bytes(moov[table : table + 4])
    places = struct.unpack_from(f">{number}I", moov, table + 4)
    struct.pack_into(f">{number}I", moov, table + 4, *(place + len(moov) for place in places))
    return parts.pop(b"ftyp") + moov + b"".join(parts.values())


def turned(data: bytes) -> bytes:
    """An MP4 file whose header asks for a quarter turn to the right, as phones write it."""
    place = data.index(b"tkhd") + 44
    return (
        data[:place]
        + struct.pack(">9i", 0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30)
        + data[place + 36 :]
    )


def hastened(data: bytes, after: int) -> bytes:
    """An MP4 file whose frames last half as long from number `after` on."""
    data = bytearray(data)
    table = data.index(b"stts") + 8
    one, frames, ticks = struct.unpack_from(">3I", data, table)
    assert one == 1 and boxes(bytes(data)).keys() >= {b"moov"}
    data[table : table + 12] = struct.pack(">5I", 2, after, ticks, frames - after, ticks // 2)
    for name in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stts"):
        place = data.index(name) - 4
        size = int.from_bytes(data[place : place + 4])
        data[place : place + 4] = (size + 8).to_bytes(4)
    return bytes(data)
