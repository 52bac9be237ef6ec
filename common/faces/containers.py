"""Structure of a photo file, read before its pixels: the work that decoding would take is limited.

A JPEG may hold many passes over all its pixels, a PNG megabytes of text, a PPM numbers in words.
"""

import re
import struct
import zlib
from typing import NamedTuple

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
TEXTS = (b"tEXt", b"zTXt", b"iTXt")
LONGEST_TEXT = 1_000_000  # bytes, unpacked: Pillow refuses a PNG with more than 2**20
TEXTS_TOGETHER = 4_000_000  # bytes, unpacked
LONGEST_PROFILE = 8_000_000  # bytes, unpacked, of a PNG's colour profile: printers' have 2 to 4 MB
START_OF_SCAN, END_OF_IMAGE = 0xDA, 0xD9
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # SOF0 to SOF15: the marker before the size
ALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a segment
_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")  # after a scan: neither data nor a restart


class JpegHeader(NamedTuple):
    """Width and height in pixels as a JPEG states them, and its number of scans."""

    width: int
    height: int
    scans: int

    @property
    def pixels(self) -> int:
        """Number of pixels."""
        return self.width * self.height


def jpeg_header(data: bytes) -> JpegHeader | None:
    """Read the size and count the scans of a JPEG's first image; None for what isn't a JPEG.

    In a damaged file only what comes before the damage counts, as for the decoder.
    """
    if not data.startswith(b"\xff\xd8\xff"):
        return None
    width = height = scans = 0
    place = 2
    while (marker := _MARKER.search(data, place)) is not None:
        code, place = marker[1][0], marker.end()
        if code == END_OF_IMAGE:
            break
        if code in ALONE:
            continue
        scans += code == START_OF_SCAN
        if code in FRAMES and len(data) >= place + 7:
            height, width = struct.unpack_from(">HH", data, place + 3)
        if len(data) < place + 2:
            break
        place += struct.unpack_from(">H", data, place)[0]
    return JpegHeader(width, height, scans)


def without_long_texts(data: bytes) -> tuple[bytes, bytes | None]:
    """Drop the texts of a PNG that Pillow would refuse; its pixels don't need them.

    Returns the file, and its colour profile if that was dropped, too, because it is long. Short
    texts stay: some programs write the orientation there.
    """
    kept, profile, room, dropped = [PNG_SIGNATURE], None, TEXTS_TOGETHER, False
    place, whole = len(PNG_SIGNATURE), memoryview(data)
    while place + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, place)
        end = place + 12 + length
        if name in TEXTS:
            size = unpacked_text(name, data[place + 8 : end - 4], min(LONGEST_TEXT, room))
            room -= size or 0
            fits = size is not None
        elif name == b"iCCP" and (long := long_profile(data[place + 8 : end - 4])) is not None:
            profile, fits = long, False
        else:
            fits = True
        if fits:
            kept.append(whole[place:end])
        dropped |= not fits
        place = end
    return (b"".join([*kept, whole[place:]]), profile) if dropped else (data, None)


def unpacked_text(name: bytes, content: bytes, most: int) -> int | None:
    """Size of a text chunk in bytes, unpacked; None if it is more than `most`."""
    if name != b"tEXt":
        _, _, rest = content.partition(b"\0")
        if name == b"iTXt":  # flag, method, language and translated keyword come before the text
            if rest[:1] != b"\1":
                return len(content) if len(content) <= most else None
            rest = rest[2:].partition(b"\0")[2].partition(b"\0")[2]
        else:
            rest = rest[1:]
        unpacked = _unpacked(rest, most)
        return None if unpacked is None else len(unpacked)
    return len(content) if len(content) <= most else None


def long_profile(content: bytes) -> bytes | None:
    """A PNG's colour profile if it is longer than Pillow takes; b"" if it is longer than ours."""
    packed = content.partition(b"\0")[2][1:]
    if _unpacked(packed, LONGEST_TEXT) is not None:
        return None
    return _unpacked(packed, LONGEST_PROFILE) or b""


def _unpacked(packed: bytes, most: int) -> bytes | None:
    """Unpack at most `most` bytes; None if there are more. Damaged data ends where it is damaged."""
    try:
        unpacked = zlib.decompressobj().decompress(packed, most + 1)
    except zlib.error:
        return b""
    return unpacked if len(unpacked) <= most else None
