"""Photo files made by hand: odd ones that decode, and others that don't."""

import io
import struct
import zlib

import cv2
import numpy as np
from PIL import Image, ImageCms

RED, GREEN, BLUE, ORANGE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 160, 0)


def quarters() -> np.ndarray:
    """(64, 48, 3) uint8 RGB: four colours, so that no turn or flip goes unnoticed."""
    picture = np.empty((64, 48, 3), np.uint8)
    picture[:32, :24], picture[:32, 24:] = RED, GREEN
    picture[32:, :24], picture[32:, 24:] = BLUE, ORANGE
    return picture


PICTURE = quarters()
GRAY = np.tile(np.arange(64, dtype=np.uint8)[:, None] * 4, (1, 48))


def file(kind: str, pixels: np.ndarray | Image.Image = PICTURE, **options: object) -> bytes:
    """The bytes of a photo file; a JPEG's colours are exact to a few steps."""
    image = Image.fromarray(pixels) if isinstance(pixels, np.ndarray) else pixels
    if kind in ("JPEG", "MPO"):
        options = {"quality": 100, "subsampling": 0} | options
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(
        ">I", zlib.crc32(name + content)
    )  # fmt: skip


def png_header(width: int, height: int) -> bytes:
    """A PNG that announces a size and holds next to nothing."""
    start = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + start + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def jpeg_header(width: int, height: int) -> bytes:
    data = file("JPEG")
    place = data.index(b"\xff\xc0") + 5
    return data[:place] + struct.pack(">HH", height, width) + data[place + 4 :]


def wrong_checksum(name: bytes) -> bytes:
    """A PNG whose chunk `name` is whole but for its checksum."""
    data = bytearray(file("PNG"))
    place = data.index(name)
    data[place + 4 + struct.unpack(">I", data[place - 4 : place])[0]] ^= 1
    return bytes(data)


def half(kind: str) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (64, 48, 3), dtype=np.uint8)
    data = file(kind, noise)
    return data[: len(data) // 2]


def many_scans(scans: int) -> bytes:
    """A progressive JPEG whose last scan, a pass over all pixels, is there again and again."""
    data = file("JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * (scans - data.count(b"\xff\xda") + 1) + data[-2:]


def png_with(name: bytes, start: bytes, content: bytes, times: int = 1) -> bytes:
    """PICTURE as a PNG with `times` packed chunks of text or a profile before its pixels."""
    data = file("PNG")
    packed = chunk(name, start + zlib.compress(content))
    return data[:33] + packed * times + data[33:]


REJECTED = {
    "no bytes": b"",
    "one byte": b"\xff",
    "HTML": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg" width="99" height="99"/>',
    "PDF": b"%PDF-1.7\n1 0 obj\n<</Type/Catalog>>\nendobj\n%%EOF",
    "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n%%EndComments\n",
    "PSD": b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 99, 99, 8, 3) + bytes(99),
    "TGA": file("TGA"),
    "only a JPEG's start": file("JPEG")[:2],
    "half a JPEG": half("JPEG"),
    "half a PNG": half("PNG"),
    "half a GIF": half("GIF"),
    "half a BMP": half("BMP"),
    "half a PPM": half("PPM"),
    "half a TIFF": half("TIFF"),
    "half a WebP": half("WEBP"),
    "PNG, wrong checksum of the header": wrong_checksum(b"IHDR"),
    "PNG, wrong checksum of the pixels": wrong_checksum(b"IDAT"),
    "PNG of 9000 x 9000": png_header(9000, 9000),
    "PNG of 5000 x 8001, just too large": png_header(5000, 8001),
    "PNG of 5000 x 8000, not too large and empty": png_header(5000, 8000),
    "JPEG of 20000 x 20000": jpeg_header(20_000, 20_000),
    "progressive JPEG of 12000 x 10000": many_scans(10).replace(
        struct.pack(">HH", 64, 48), struct.pack(">HH", 12_000, 10_000)
    ),
    "progressive JPEG of 101 scans": many_scans(101),
    "PPM in words of 40 MB": b"P3 48 64 255\n" + b"0 " * 20_000_000,
    "1 x 1": file("PNG", PICTURE[:1, :1]),
    "1 x 3000": file("PNG", np.zeros((3000, 1, 3), np.uint8)),
    "48 x 19": file("JPEG", PICTURE[:19]),
    "float TIFF": file("TIFF", GRAY.astype(np.float32)),
    "float PFM": b"Pf\n48 64\n-1.0\n" + GRAY.astype(np.float32).tobytes(),
    "TIFF of 32-bit numbers": file("TIFF", GRAY.astype(np.int32) * 2**16),
}


def stored(upright: np.ndarray, orientation: int) -> np.ndarray:
    """How a camera stores a picture under an EXIF orientation, after the standard's words."""
    rows, columns = {
        1: ("top", "left"), 2: ("top", "right"), 3: ("bottom", "right"), 4: ("bottom", "left"),
        5: ("left", "top"), 6: ("right", "top"), 7: ("right", "bottom"), 8: ("left", "bottom"),
    }[orientation]  # fmt: skip
    if "bottom" in (rows, columns):
        upright = upright[::-1]
    if "right" in (rows, columns):
        upright = upright[:, ::-1]
    return upright if orientation < 5 else upright.transpose(1, 0, 2)


def exif_photo(orientation: int, kind: str = "JPEG", **options: object) -> bytes:
    """PICTURE as a camera stores it under an EXIF orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    options |= {"lossless": True} if kind == "WEBP" else {}
    return file(kind, stored(PICTURE, orientation).copy(), exif=exif, **options)


def swapped_profile(name: bytes) -> bytes:
    """The profile of sRGB with red and green exchanged and another name of four letters."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for old, new in ((b"rXYZ", b"####"), (b"gXYZ", b"rXYZ"), (b"####", b"gXYZ")):
        profile = profile.replace(old, new, 1)
    wide = [text.decode().encode("utf-16-be") for text in (b"sRGB", name)]
    return profile.replace(b"sRGB", name).replace(*wide)


def white_under(pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[:, :, None] / 255
    return (pixels * share + 255 * (1 - share)).round()


def deep(extension: str, pixels: np.ndarray) -> bytes:
    """A file of 16 bits a channel, which Pillow can't write."""
    order = [2, 1, 0, 3][: pixels.shape[2]]
    return cv2.imencode(extension, np.ascontiguousarray(pixels[:, :, order]))[1].tobytes()


def transparent_palette() -> bytes:
    image = Image.fromarray(PICTURE).quantize(4)
    return file("PNG", image, transparency=image.getpixel((0, 0)))


WITHOUT_RED = np.where((PICTURE == RED).all(axis=2, keepdims=True), 255, PICTURE)
ALPHA = np.tile(np.arange(48, dtype=np.uint8) * 5, (64, 1))
GRAY_RGB = GRAY[:, :, None].repeat(3, axis=2)
BLACK_OR_WHITE = GRAY_RGB // 128 * 255
SIXTEEN = np.arange(64 * 48, dtype=np.uint16).reshape(64, 48) * 21
SIXTEEN_COLOUR = np.dstack([SIXTEEN, SIXTEEN[::-1], SIXTEEN[:, ::-1]])
SIXTEEN_RGB = (SIXTEEN // 257)[:, :, None].repeat(3, axis=2)
FRAMES = {"save_all": True, "append_images": [Image.new("RGB", (48, 64), "black")]}
ACCEPTED = {
    "trailing bytes on a JPEG": (file("JPEG") + b"\0" * 999, PICTURE),
    "trailing bytes on a PNG": (file("PNG") + b"<html>", PICTURE),
    "PNG named .jpg": (file("PNG"), PICTURE),
    "20 x 20": (file("JPEG", PICTURE[:20, :20]), PICTURE[:20, :20]),
    "progressive JPEG": (file("JPEG", progressive=True), PICTURE),
    "garbage EXIF": (file("JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff\x12"), PICTURE),
    "EXIF without orientation": (file("JPEG", exif=Image.Exif()), PICTURE),
    "CMYK": (file("JPEG", Image.fromarray(PICTURE).convert("CMYK")), PICTURE),
    "gray": (file("JPEG", GRAY), GRAY_RGB),
    "1-bit": (file("PNG", Image.fromarray(GRAY).point(lambda v: v >= 128, "1")), BLACK_OR_WHITE),
    "palette": (file("PNG", Image.fromarray(PICTURE).quantize(4)), PICTURE),
    "palette with transparency": (transparent_palette(), WITHOUT_RED),
    "RGB with a transparent colour": (file("PNG", transparency=RED), WITHOUT_RED),
    "RGBA": (file("PNG", np.dstack([PICTURE, ALPHA])), white_under(PICTURE, ALPHA)),
    "RGBA in WebP": (
        file("WEBP", np.dstack([PICTURE, ALPHA]), lossless=True, exact=True),
        white_under(PICTURE, ALPHA),
    ),
    "LA": (
        file("PNG", Image.fromarray(np.dstack([GRAY, ALPHA]), "LA")), white_under(GRAY_RGB, ALPHA),
    ),
    "16-bit PNG": (file("PNG", SIXTEEN), SIXTEEN_RGB),
    "16-bit TIFF": (file("TIFF", SIXTEEN), SIXTEEN_RGB),
    "16-bit PNG of RGB": (deep(".png", SIXTEEN_COLOUR), SIXTEEN_COLOUR // 257),
    "16-bit PNG of RGBA": (
        deep(".png", np.dstack([SIXTEEN_COLOUR, SIXTEEN])),
        white_under(SIXTEEN_COLOUR // 257, SIXTEEN // 257),
    ),
    "16-bit TIFF of RGB": (deep(".tif", SIXTEEN_COLOUR), SIXTEEN_COLOUR // 257),
    "16-bit PGM": (b"P5 48 64 65535\n" + SIXTEEN.astype(">u2").tobytes(), SIXTEEN_RGB),
    "BMP": (file("BMP"), PICTURE),
    "PPM": (file("PPM"), PICTURE),
    "TIFF": (file("TIFF", compression="tiff_lzw"), PICTURE),
    "progressive JPEG of 100 scans": (many_scans(100), PICTURE),
    "PNG, 4 MB of packed text": (png_with(b"zTXt", b"words\0\0", b"word " * 800_000), PICTURE),
    "PNG, 4 MB of XMP": (png_with(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0", b"<a/>" * 10**6), PICTURE),
    "PNG, 90 texts of 1 MB": (png_with(b"zTXt", b"words\0\0", bytes(10**6), 90), PICTURE),
    "PNG, 4 MB of plain text": (
        file("PNG")[:33] + chunk(b"tEXt", b"words\0" + b"word " * 800_000) + file("PNG")[33:],
        PICTURE,
    ),
    "PNG, profile of 30 MB": (png_with(b"iCCP", b"wide\0\0", bytes(30_000_000)), PICTURE),
    "animated GIF": (file("GIF", **FRAMES), PICTURE),
    "animated PNG": (file("PNG", **FRAMES), PICTURE),
    "animated WebP": (file("WEBP", lossless=True, **FRAMES), PICTURE),
    "a phone's MPO": (file("MPO", **FRAMES), PICTURE),
}  # fmt: skip
