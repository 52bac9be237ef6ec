"""One safe way from a file to pixels, used by training, validation and prediction alike."""

import contextlib
import io
import logging
import os
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "PPM", "BMP", "WEBP", "GIF", "TIFF")  # Pillow opens MPO as JPEG
DECODER = 1  # counts up when the same bytes give other pixels: cached crops are then made anew
MAX_PIXELS = 40_000_000
MAX_BYTES = 400_000_000  # 40 million pixels of four channels of 16 bits, and their description
MIN_SIDE = 20

Image.MAX_IMAGE_PIXELS = MAX_PIXELS
_STDERR = threading.Lock()
logging.getLogger("PIL").addHandler(logging.NullHandler())  # else it talks on stderr, too


class BadPhoto(Exception):
    """A photo that can't be used; the message is the reason, without the path."""


def read_bytes(path: Path) -> bytes:
    """The file's bytes; BadPhoto where there are none to be had."""
    try:
        if not path.is_file():  # a FIFO would block for ever
            raise BadPhoto("no such file" if not path.exists() else "not a file")
        if path.stat().st_size > MAX_BYTES:
            raise BadPhoto(f"more than {MAX_BYTES // 10**6} MB")
        return path.read_bytes()
    except OSError as error:
        raise BadPhoto(error.strerror or str(error)) from None


def decode(data: bytes) -> np.ndarray:
    """Turn a photo file's bytes into (height, width, 3) uint8 RGB, upright by its EXIF tag.

    Transparency is laid on white, 16 bits are rescaled to 8, colours of an embedded profile become
    sRGB, of an animation the first frame is taken. Raises BadPhoto for anything that isn't a whole
    photo of a supported format with sides of at least 20 px and at most 40 million pixels; the
    size is read before pixels are decoded.
    """
    if not data:
        raise BadPhoto("empty file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # broken EXIF and the like: the pixels decide
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                _check_size(image)
                if image.format == "PNG":  # load() skips the checksums of the pixels
                    Image.open(io.BytesIO(data), formats=FORMATS).verify()
                with _silent_libtiff() if image.format == "TIFF" else contextlib.nullcontext():
                    image.load()
                return np.asarray(_srgb(_rgb(_upright(image)), image.info.get("icc_profile")))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BadPhoto(f"more than {MAX_PIXELS // 10**6} million pixels") from None
    except UnidentifiedImageError:
        raise BadPhoto(
            f"not a photo of a known format ({', '.join(FORMATS)}), or its header is damaged"
        ) from None
    except BadPhoto:
        raise
    except MemoryError:
        raise BadPhoto("decoding takes more memory than there is") from None
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error, …
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BadPhoto(f"damaged: {reason}") from None


@contextlib.contextmanager
def _silent_libtiff() -> Iterator[None]:
    """What libtiff writes to the process's stderr names no file, and Pillow raises as well."""
    with _STDERR:
        stderr = os.dup(2)
        try:
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), 2)
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def _check_size(image: Image.Image) -> None:
    width, height = image.size
    if min(width, height) < MIN_SIDE:
        raise BadPhoto(f"{width} x {height} pixels; a side has at least {MIN_SIDE}")
    if width * height > MAX_PIXELS:  # the filter of warnings is one for all threads
        raise Image.DecompressionBombError


def _upright(image: Image.Image) -> Image.Image:
    with contextlib.suppress(Exception):  # garbage EXIF: take the pixels as they are
        ImageOps.exif_transpose(image, in_place=True)  # else it copies even an upright photo
    return image


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise BadPhoto("floating-point pixels, whose white is unknown")
    if image.mode.startswith("I"):  # 16 bits, which convert() would clip to white
        values = np.asarray(image)
        if values.max() > 65535:
            raise BadPhoto("32 bits a pixel, whose white is unknown")
        return Image.fromarray((values.clip(0) // 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layer = image if image.mode == "RGBA" else image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


def _srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    if not profile:
        return image
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "sRGB" in ImageCms.getProfileDescription(source):
            return image
        return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"))
    except Exception:  # a broken profile, or one of gray or CMYK: take the pixels as they are
        return image
