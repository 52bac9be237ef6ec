"""common/data/decode.py: what is a photo, what is none, and the pixels of odd ones."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from common.data.decode import FORMATS, BadPhoto, decode, read_bytes
from common.data.layout import EXTENSIONS

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


UNKNOWN, DAMAGED, LARGE = "not a photo of a known format", "damaged: ", "more than 40 million"
REJECTED = {
    "no bytes": (b"", "empty file"),
    "one byte": (b"\xff", UNKNOWN),
    "HTML": (b"<!DOCTYPE html><html><body>404 Not Found</body></html>", UNKNOWN),
    "SVG": (b'<svg xmlns="http://www.w3.org/2000/svg" width="99" height="99"/>', UNKNOWN),
    "PDF": (b"%PDF-1.7\n1 0 obj\n<</Type/Catalog>>\nendobj\n%%EOF", UNKNOWN),
    "EPS": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n%%EndComments\n", UNKNOWN),
    "PSD": (b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 99, 99, 8, 3) + bytes(99), UNKNOWN),
    "TGA": (file("TGA"), UNKNOWN),
    "only a JPEG's start": (file("JPEG")[:2], UNKNOWN),
    "half a JPEG": (half("JPEG"), DAMAGED),
    "half a PNG": (half("PNG"), DAMAGED),
    "half a GIF": (half("GIF"), DAMAGED),
    "half a BMP": (half("BMP"), DAMAGED),
    "half a PPM": (half("PPM"), DAMAGED),
    "half a TIFF": (half("TIFF"), ""),
    "half a WebP": (half("WEBP"), ""),
    "PNG, wrong checksum of the header": (wrong_checksum(b"IHDR"), ""),
    "PNG, wrong checksum of the pixels": (wrong_checksum(b"IDAT"), DAMAGED),
    "JPEG of 9000 x 9000": (jpeg_header(9000, 9000), LARGE),
    "PNG of 9000 x 9000": (png_header(9000, 9000), LARGE),
    "PNG just too large": (png_header(5000, 8001), LARGE),
    "PNG just not too large": (png_header(5000, 8000), DAMAGED),
    "1 x 1": (file("PNG", PICTURE[:1, :1]), "1 x 1 pixels; a side has at least 20"),
    "1 x 3000": (file("PNG", np.zeros((3000, 1, 3), np.uint8)), "1 x 3000 pixels"),
    "19 high": (file("JPEG", PICTURE[:19]), "48 x 19 pixels"),
    "float TIFF": (file("TIFF", GRAY.astype(np.float32)), "floating-point pixels"),
}


@pytest.mark.parametrize(("data", "reason"), REJECTED.values(), ids=REJECTED)
def test_what_is_no_whole_photo_is_refused_with_the_reason(data: bytes, reason: str) -> None:
    with pytest.raises(BadPhoto) as error:
        decode(data)
    assert str(error.value).startswith(reason) and str(error.value)


def white_under(pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[:, :, None] / 255
    return (pixels * share + 255 * (1 - share)).round()


def transparent_palette() -> bytes:
    image = Image.fromarray(PICTURE).quantize(4)
    return file("PNG", image, transparency=image.getpixel((0, 0)))


WITHOUT_RED = np.where((PICTURE == RED).all(axis=2, keepdims=True), 255, PICTURE)
ALPHA = np.tile(np.arange(48, dtype=np.uint8) * 5, (64, 1))
GRAY_RGB = GRAY[:, :, None].repeat(3, axis=2)
BLACK_OR_WHITE = GRAY_RGB // 128 * 255
SIXTEEN = np.arange(64 * 48, dtype=np.uint16).reshape(64, 48) * 21
SIXTEEN_RGB = (SIXTEEN // 257)[:, :, None].repeat(3, axis=2)
FRAMES = {"save_all": True, "append_images": [Image.new("RGB", (48, 64), "black")]}
ACCEPTED = {
    "trailing bytes on a JPEG": (file("JPEG") + b"\0" * 999, PICTURE),
    "trailing bytes on a PNG": (file("PNG") + b"<html>", PICTURE),
    "JPEG of 20 x 20": (file("JPEG", PICTURE[:20, :20]), PICTURE[:20, :20]),
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
    "16-bit PGM": (b"P5 48 64 65535\n" + SIXTEEN.astype(">u2").tobytes(), SIXTEEN_RGB),
    "BMP": (file("BMP"), PICTURE),
    "PPM": (file("PPM"), PICTURE),
    "TIFF": (file("TIFF", compression="tiff_lzw"), PICTURE),
    "animated GIF": (file("GIF", **FRAMES), PICTURE),
    "animated PNG": (file("PNG", **FRAMES), PICTURE),
    "animated WebP": (file("WEBP", lossless=True, **FRAMES), PICTURE),
    "a phone's MPO": (file("MPO", **FRAMES), PICTURE),
}  # fmt: skip


@pytest.mark.parametrize(("data", "expected"), ACCEPTED.values(), ids=ACCEPTED)
def test_odd_photos_have_one_fixed_meaning(data: bytes, expected: np.ndarray) -> None:
    photo = decode(data)
    assert photo.dtype == np.uint8 and photo.shape == expected.shape
    assert np.abs(photo.astype(int) - expected).max() <= 3


@pytest.mark.parametrize("extension", sorted(EXTENSIONS))
def test_every_extension_that_counts_as_a_photo_can_be_decoded(extension: str) -> None:
    kind = Image.registered_extensions()[extension]
    assert kind in FORMATS and decode(file(kind)).shape == PICTURE.shape


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


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_are_set_upright(orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    photo = decode(file(kind, stored(PICTURE, orientation).copy(), exif=exif, **options))
    assert photo.shape == PICTURE.shape
    assert np.abs(photo.astype(int) - PICTURE).max() <= 3


def swapped_profile(name: bytes) -> bytes:
    """The profile of sRGB with red and green exchanged and another name of four letters."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for old, new in ((b"rXYZ", b"####"), (b"gXYZ", b"rXYZ"), (b"####", b"gXYZ")):
        profile = profile.replace(old, new, 1)
    wide = [text.decode().encode("utf-16-be") for text in (b"sRGB", name)]
    return profile.replace(b"sRGB", name).replace(*wide)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize(
    ("profile", "channels"),
    [(swapped_profile(b"Wide"), [1, 0, 2]), (swapped_profile(b"sRGB"), [0, 1, 2]),
     (b"no profile", [0, 1, 2]), (swapped_profile(b"Wide")[:200], [0, 1, 2])],
    ids=["another", "sRGB by name", "garbage", "cut short"],
)  # fmt: skip
def test_colours_are_turned_into_srgb(kind: str, profile: bytes, channels: list[int]) -> None:
    photo = decode(file(kind, icc_profile=profile))
    assert np.abs(photo.astype(int) - PICTURE[:, :, channels]).max() <= 4


SEEDS = {
    "JPEG": file("JPEG", quality=50, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0", icc_profile=b"x" * 20),
    "PNG": file("PNG", icc_profile=swapped_profile(b"Wide")),
    "GIF": file("GIF", **FRAMES),
    "WEBP": file("WEBP"),
    "TIFF": file("TIFF", compression="tiff_lzw"),
    "BMP": file("BMP", Image.fromarray(PICTURE).quantize(4)),
    "PPM": file("PPM", GRAY),
    "MPO": file("MPO", **FRAMES),
}


@settings(max_examples=1000)
@given(
    kind=st.sampled_from(sorted(SEEDS)),
    edits=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=8),
    early=st.booleans(),
    length=st.floats(0, 1) | st.just(1.0),
)
def test_a_mutated_file_is_a_photo_or_bad_and_nothing_else(
    kind: str, edits: list[tuple[float, int]], early: bool, length: float
) -> None:
    """Half of the mutations are in the first 200 bytes, where the headers are."""
    data = bytearray(SEEDS[kind])
    for place, value in edits:
        data[int(place * (min(200, len(data)) if early else len(data)))] = value
    try:
        photo = decode(bytes(data[: round(length * len(data))]))
    except BadPhoto:
        return
    assert photo.dtype == np.uint8 and photo.ndim == 3 and photo.shape[2] == 3
    assert min(photo.shape[:2]) >= 20


def test_bytes_of_what_is_no_file_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.jpg")
    (tmp_path / "link.jpg").symlink_to(tmp_path / "gone.jpg")
    for name, reason in (
        ("fifo.jpg", "not a file"), (".", "not a file"), ("none.jpg", "no such file"),
        ("link.jpg", "no such file"), ("x" * 300, "File name too long"),
    ):  # fmt: skip
        with pytest.raises(BadPhoto, match=f"^{reason}$"):
            read_bytes(tmp_path / name)
    (tmp_path / "photo.jpg").write_bytes(b"content")
    (tmp_path / "alias.jpg").symlink_to(tmp_path / "photo.jpg")
    assert read_bytes(tmp_path / "alias.jpg") == b"content"
