"""Safe decoding of photo files to pixels, the same for training, validation and prediction."""

import contextlib
import io
import logging
import os
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps, JpegImagePlugin, UnidentifiedImageError

from common.faces.containers import PNG_SIGNATURE, jpeg_header, without_long_texts
from common.faces.heic import WAY, is_heic, open_heic, readable

try:
    from PIL import AvifImagePlugin
except ImportError:  # Pillow before 11.3
    _AVIF: tuple[str, ...] = ()
else:
    _AVIF = ("AVIF",) if AvifImagePlugin.SUPPORTED else ()

FORMATS = ("JPEG", "PNG", "PPM", "BMP", "WEBP", "GIF", "TIFF")  # Pillow opens MPO as JPEG
READABLE = (*FORMATS, *_AVIF)
DECODER = 1  # to increase when the same bytes give other pixels: invalidates cached crops
MAX_PIXELS = 40_000_000
MAX_JPEG_PIXELS = 250_000_000  # phones have up to 200; those above MAX_PIXELS are decoded smaller
MAX_SCANS = 100  # of a progressive JPEG: encoders write 10; each is a pass over all pixels
MAX_BUFFERED_PIXELS = 110_000_000  # of a JPEG in several scans, decoded with 6 bytes a pixel
MAX_BYTES = 400_000_000  # MAX_PIXELS of four channels of 16 bits, and metadata
MAX_WORDS = 40_000_000  # bytes of a PPM that is text, which is read number by number: 7 s
MIN_SIDE = 20
TOO_MANY_PIXELS = (
    f"more than {MAX_PIXELS // 10**6} million pixels; a JPEG may have {MAX_JPEG_PIXELS // 10**6}"
)

_STDERR = threading.Lock()


class BadPhoto(Exception):
    """A photo that can't be used; the message is the reason, without the path."""


def read_bytes(path: Path) -> bytes:
    """Read a photo file.

    Raises:
        BadPhoto: there is no such file, it is too large, or it can't be read.
    """
    try:
        if not path.is_file():  # a FIFO would block forever
            raise BadPhoto("no such file" if not path.exists() else "not a file")
        if path.stat().st_size > MAX_BYTES:
            raise BadPhoto(f"more than {MAX_BYTES // 10**6} MB")
        return path.read_bytes()
    except OSError as error:
        raise BadPhoto(error.strerror or str(error)) from None


def decode(data: bytes, least: int | None = None) -> np.ndarray:
    """Decode a photo file's bytes to (height, width, 3) uint8 RGB, upright by its EXIF tag.

    Transparency becomes white, 16 bits are rescaled to 8, colours of an embedded profile are
    converted to sRGB, and of an animation the first frame is decoded. The header's size is checked
    before pixels are decoded, so that a decompression bomb takes no memory. A JPEG of more than
    MAX_PIXELS is decoded at a half, a quarter or an eighth of its size (Pillow's draft mode); with
    `least` so is any, as long as its sides keep at least so many pixels.

    Raises:
        BadPhoto: the bytes aren't a whole photo of a supported format, a side is below MIN_SIDE,
            there are more than MAX_PIXELS pixels, or decoding would take minutes.
    """
    if not data:
        raise BadPhoto("empty file")
    profile = None
    if data.startswith(PNG_SIGNATURE):
        data, profile = without_long_texts(data)
    try:
        with _silent_pillow, _opened(data) as image:
            _check_size(image)
            if least is not None:
                image.draft(None, (least, least))
            if image.format == "PNG":  # load() skips the checksums of the pixels
                Image.open(io.BytesIO(data), formats=READABLE).verify()
            with _silent_libtiff() if image.format == "TIFF" else contextlib.nullcontext():
                image.load()
            profile = profile or image.info.get("icc_profile")
            return np.asarray(_srgb(_rgb(_upright(image)), profile))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        # Raised by Pillow's own limit, above ours, from the header, too.
        raise BadPhoto(TOO_MANY_PIXELS) from None
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


def upright_pixels(image: Image.Image) -> np.ndarray:
    """Turn a PIL image into what `decode` makes of its file; `image` stays as it is.

    Raises:
        BadPhoto: it is too small or too large, can't be loaded, or its white is unknown.
    """
    with _silent_pillow:
        _check_size(image)
        try:
            return np.asarray(_srgb(_rgb(_upright(image.copy())), image.info.get("icc_profile")))
        except BadPhoto:
            raise
        except Exception as error:  # an image that was opened and whose file is damaged
            raise BadPhoto(f"damaged: {' '.join(str(error).split())}") from None


def _opened(data: bytes) -> Image.Image:
    """Open a photo; a JPEG of more than MAX_PIXELS is set to be decoded at a smaller scale.

    Raises:
        BadPhoto: decoding would take minutes, or too much memory.
    """
    if is_heic(data):
        if not readable():
            raise BadPhoto(WAY)
        image = open_heic(data, MAX_PIXELS)
        if image is None:
            raise BadPhoto(TOO_MANY_PIXELS)
        return image
    header = jpeg_header(data)
    if header is None:
        if data[:2] in (b"P1", b"P2", b"P3") and len(data) > MAX_WORDS:
            raise BadPhoto(
                f"numbers in words ({data[:2].decode()}) of more than {MAX_WORDS // 10**6} MB; "
                "a binary PPM is read"
            )
        return Image.open(io.BytesIO(data), formats=READABLE)
    if header.scans > MAX_SCANS:
        raise BadPhoto(f"a JPEG of {header.scans:,} scans; {MAX_SCANS} are allowed")
    if header.pixels <= MAX_PIXELS:
        return Image.open(io.BytesIO(data), formats=READABLE)
    most = MAX_JPEG_PIXELS if header.scans <= 1 else MAX_BUFFERED_PIXELS
    if header.pixels > most:
        kind = "" if header.scans <= 1 else " in a progressive JPEG"
        raise BadPhoto(f"more than {most // 10**6} million pixels{kind}")
    try:
        image = JpegImagePlugin.JpegImageFile(io.BytesIO(data))  # Image.open has a lower limit
    except SyntaxError as error:
        raise UnidentifiedImageError(str(error)) from None
    scale = next(n for n in (2, 4, 8) if header.pixels <= MAX_PIXELS * n * n)
    image.draft(None, (header.width // scale, header.height // scale))
    return image


class _SilentPillow:
    """Silences Pillow's warnings and log, such as of broken EXIF, while any thread decodes.

    Filters of warnings are global, so the first thread to enter changes and the last one to leave
    restores them. The application's handlers still get the log; without any, it goes to stderr.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._threads = 0
        self._handler = logging.NullHandler()

    def __enter__(self) -> None:
        with self._lock:
            self._threads += 1
            if self._threads == 1:
                self._filters = warnings.catch_warnings()
                self._filters.__enter__()
                warnings.simplefilter("ignore")
                logging.getLogger("PIL").addHandler(self._handler)

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._threads -= 1
            if self._threads == 0:
                logging.getLogger("PIL").removeHandler(self._handler)
                self._filters.__exit__(*error)


_silent_pillow = _SilentPillow()


@contextlib.contextmanager
def _silent_libtiff() -> Iterator[None]:
    """Keep libtiff's messages from stderr: they name no file, and Pillow raises them as well."""
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
    if width * height > MAX_PIXELS:
        raise BadPhoto(TOO_MANY_PIXELS)


def _upright(image: Image.Image) -> Image.Image:
    with contextlib.suppress(Exception):  # broken EXIF: take the pixels as they are
        ImageOps.exif_transpose(image, in_place=True)  # or it would copy even an upright photo
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
