"""common/faces/decode.py: the pixels of odd photos, and what damaged files can't do.

What is refused, and with which words, is in tests/bad_inputs.md.
"""

import io
import os
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.data.listing import EXTENSIONS, is_photo, not_photos
from common.faces import heic
from common.faces.decode import FORMATS, READABLE, BadPhoto, decode, read_bytes
from tests.benchmarks.fuzz import SEEDS, mutated, outcome
from tests.photos import (
    ACCEPTED,
    FRAMES,
    PICTURE,
    REJECTED,
    exif_photo,
    file,
    png_with,
    swapped_profile,
)


@pytest.mark.parametrize(("data", "expected"), ACCEPTED.values(), ids=ACCEPTED)
def test_odd_photos_have_one_fixed_meaning(data: bytes, expected: np.ndarray) -> None:
    photo = decode(data)
    assert photo.dtype == np.uint8 and photo.shape == expected.shape
    assert np.abs(photo.astype(int) - expected).max() <= 3


@pytest.mark.parametrize("extension", sorted(EXTENSIONS))
def test_every_extension_that_counts_as_a_photo_can_be_decoded(extension: str) -> None:
    kind = Image.registered_extensions()[extension]
    assert kind in FORMATS and decode(file(kind)).shape == PICTURE.shape


@pytest.mark.skipif("AVIF" not in READABLE, reason="this Pillow reads no AVIF")
def test_avif_is_decoded_where_pillow_can() -> None:
    assert decode(file("AVIF")).shape == PICTURE.shape


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_are_set_upright(orientation: int, kind: str) -> None:
    photo = decode(exif_photo(orientation, kind))
    assert photo.shape == PICTURE.shape
    assert np.abs(photo.astype(int) - PICTURE).max() <= 3


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


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("kind", ["JPEG", "MPO"])
def test_a_large_jpeg_is_decoded_at_a_smaller_scale(kind: str, orientation: int) -> None:
    """A phone's 48 megapixels: every second pixel either way, set upright."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo = Image.fromarray(PICTURE).resize((6048, 8064), Image.Resampling.NEAREST)
    options = FRAMES if kind == "MPO" else {}
    pixels = decode(file(kind, photo, exif=exif, quality=50, **options))
    expected = (4032, 3024, 3) if orientation == 1 else (3024, 4032, 3)
    assert pixels.shape == expected
    corners = pixels[9, 9], pixels[9, -9], pixels[-9, 9], pixels[-9, -9]
    turned = (0, 1, 2, 3) if orientation == 1 else (2, 0, 3, 1)
    own = PICTURE[0, 0], PICTURE[0, -1], PICTURE[-1, 0], PICTURE[-1, -1]
    assert all(
        np.abs(c - own[t].astype(int)).max() < 9 for c, t in zip(corners, turned, strict=True)
    )


def test_a_long_profile_of_a_png_is_applied() -> None:
    profile = swapped_profile(b"Wide") + bytes(2_000_000)
    photo = decode(png_with(b"iCCP", b"wide\0\0", profile))
    assert np.abs(photo.astype(int) - PICTURE[:, :, [1, 0, 2]]).max() <= 4


def test_a_thousand_mutated_photos_are_photos_or_bad_and_nothing_else(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """tests/benchmarks/fuzz.py goes on from here."""
    seen = {name: {outcome(mutated(name, random.Random(i))) for i in range(80)} for name in SEEDS}
    assert len(seen) * 80 > 1000
    assert {kind for kinds in seen.values() for kind in kinds} == {"photo", "bad"}
    assert capfd.readouterr() == ("", "")


def test_threads_that_decode_damaged_tiffs_leave_stderr_as_it_was(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """What libtiff says is kept from it, for the whole process."""
    data = bytearray(SEEDS["TIFF"])
    data[8:200] = bytes(192)
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(outcome, [bytes(data)] * 200)) == {"bad"}
    os.write(2, b"still here")
    assert capfd.readouterr().err == "still here"


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


def test_the_limit_of_pixels_does_not_hang_on_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    """Filters of warnings are one for all threads: another thread may lift them just then."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(BadPhoto, match="more than 40 million pixels"):
        decode(REJECTED["PNG of 5000 x 8001, just too large"])


def test_heic_is_read_upright_where_pillow_heif_is_installed():
    pillow_heif = pytest.importorskip("pillow_heif")
    pixels = np.zeros((60, 80, 3), np.uint8)
    pixels[:30, :40], pixels[30:] = (255, 0, 0), (0, 0, 255)
    for orientation, shape, red in ((1, (60, 80, 3), (5, 5)), (6, (80, 60, 3), (5, -5))):
        exif, stream = Image.Exif(), io.BytesIO()
        exif[274] = orientation
        pillow_heif.from_pillow(Image.fromarray(pixels)).save(
            stream, exif=exif.tobytes(), quality=95
        )
        decoded = decode(stream.getvalue())
        assert decoded.shape == shape and decoded.dtype == np.uint8
        assert decoded[red][0] > 240 > 20 > decoded[red][2]
        for length in (40, len(stream.getvalue()) - 50):
            with pytest.raises(BadPhoto):
                decode(stream.getvalue()[:length])
    assert "HEIF" not in Image.OPEN, "Pillow's formats belong to the whole process"


def test_heic_is_named_with_the_way_out_where_it_cannot_be_read(tmp_path, monkeypatch):
    monkeypatch.setattr(heic, "readable", lambda: False)
    monkeypatch.setattr("common.faces.decode.readable", lambda: False)
    content = b"\0\0\0\x1cftypheic" + bytes(200)
    with pytest.raises(BadPhoto, match="HEIC: pip install pillow-heif reads it"):
        decode(content)
    (tmp_path / "a.HEIC").write_bytes(content)
    assert not is_photo(tmp_path / "a.HEIC")
    assert not_photos(["a.HEIC"]).endswith(
        "a.HEIC (HEIC: pip install pillow-heif reads it; or convert it to JPEG)"
    )
    assert "HEIC" not in not_photos(["a.txt"])
