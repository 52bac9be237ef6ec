"""HEIC, the format of phones' photos, by pillow-heif if that is installed (the extra [heic])."""

import importlib.util
import io
import re

from PIL import Image, UnidentifiedImageError

HEAD = re.compile(rb".{4}ftyp(heic|heix|heim|heis|hevc|mif1|msf1)", re.DOTALL)
HEAD_BYTES = 12
WAY = "HEIC: pip install pillow-heif reads it; or convert it to JPEG"


def is_heic(head: bytes) -> bool:
    """Return True for the first bytes, HEAD_BYTES or more, of a HEIC file."""
    return HEAD.match(head) is not None


def readable() -> bool:
    """Return True if pillow-heif is installed; it isn't imported."""
    return importlib.util.find_spec("pillow_heif") is not None


def open_heic(data: bytes, most: int) -> Image.Image | None:
    """Open a HEIC file's first picture, upright; None if it has more than `most` pixels.

    pillow-heif isn't registered with Pillow, which would change what the whole process reads.

    Raises:
        UnidentifiedImageError: the header is damaged.
        OSError, ValueError: the pixels are.
    """
    import pillow_heif

    try:
        picture = pillow_heif.open_heif(io.BytesIO(data))
    except (ValueError, SyntaxError, EOFError) as error:
        raise UnidentifiedImageError(str(error)) from None
    width, height = picture.size
    if width * height > most:
        return None
    image = picture.to_pillow()
    pillow_heif.set_orientation(image.info)  # the pixels are upright already
    image.info.pop("exif", None)
    return image
