"""Videos: frames by number, from any container, whole or broken; written whole or not at all."""

import contextlib
import resource
from pathlib import Path

import numpy as np
import pytest

from common.base.errors import UserError
from common.inference.video.clip import FrameReader, scan, whole_clip
from tests import clips
from tests.clips import RATE, hastened, index_first, number_of, numbered, turned, write_clip


def numbers(path: Path) -> list[int]:
    """What the frames of a clip say they are, read one after another."""
    reader = FrameReader(path)
    return [number_of(reader.read(frame)) for frame in range(len(scan(path).times))]


@pytest.mark.parametrize("suffix", clips.CODECS)
def test_frames_by_number_and_time_and_none_lost_where_the_file_is_cut(suffix, tmp_path, capfd):
    """Skipping and going back lead to the same frames; nothing but our words is printed."""
    path = write_clip(tmp_path / f"clip{suffix}", numbered(40))
    clip = scan(path)
    assert (clip.shape, clip.announced, clip.broken(), clip.note()) == ((48, 64), 40, "", "")
    np.testing.assert_allclose(clip.times, np.arange(40) / RATE, atol=0.001)
    assert clip.rate == pytest.approx(RATE, rel=0.001)
    assert numbers(path) == list(range(40))
    reader = FrameReader(path)
    assert [number_of(reader.read(n)) for n in (3, 3, 30, 39, 5)] == [3, 3, 30, 39, 5]
    whole = path.read_bytes()
    whole = index_first(whole) if b"ftyp" in whole[:12] else whole
    path.write_bytes(whole[: len(whole) * 6 // 10])
    cut = scan(path)
    last = len(cut.times) - 1
    assert 5 < last < 35 and cut.broken() == f"cut short: it ends after frame {last}"
    assert numbers(path)[:-1] == list(range(last))  # of the last one half may be there
    assert "".join(capfd.readouterr()) == ""


def test_damaged_frames_are_left_out_and_counted(tmp_path, capfd):
    path = write_clip(tmp_path / "clip.mp4", numbered(40, 120, 160))
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat")
    middle = start + int.from_bytes(data[start - 4 : start]) // 2
    data[middle : middle + 150] = bytes(150)
    path.write_bytes(data)
    clip = scan(path)
    assert clip.damaged > 0 and len(clip.times) + clip.damaged == 40
    assert clip.broken() == f"damaged: {clip.damaged} frames can't be read"
    reader = FrameReader(path)
    read = [reader.read(number) for number in range(len(clip.times))]
    assert number_of(read[0]) == 0 and reader.damaged == clip.damaged
    assert np.array_equal(FrameReader(path).read(len(read) - 1), read[-1])
    assert "".join(capfd.readouterr()) == ""


def test_a_clip_of_fewer_frames_than_its_header_names_is_worth_a_note(tmp_path):
    """It may have been trimmed: that is no error."""
    path = write_clip(tmp_path / "clip.mp4", numbered(40))
    data = bytearray(index_first(path.read_bytes()))
    place = data.index(b"mdat") + len(data) // 3
    data[place:] = bytes(len(data) - place)
    path.write_bytes(data)
    clip = scan(path)
    assert clip.note() == f"its header names 40 frames, {len(clip.times)} can be read"


def test_a_phones_clip_stands_upright(tmp_path):
    path = write_clip(tmp_path / "clip.mp4", numbered(3))
    path.write_bytes(turned(path.read_bytes()))
    clip = scan(path)
    frame = FrameReader(path).read(2)
    assert clip.shape == frame.shape[:2] == (64, 48)
    assert frame[4, -4].min() > 200 and frame[4, 4].max() < 100  # the white corner went right


def test_times_of_a_varying_rate_are_the_files_own(tmp_path):
    path = write_clip(tmp_path / "clip.mp4", numbered(20))
    path.write_bytes(hastened(path.read_bytes(), after=10))
    clip = scan(path)
    expected = np.cumsum([0, *[1 / RATE] * 10, *[0.5 / RATE] * 9])
    np.testing.assert_allclose(clip.times, expected, atol=0.001)
    assert clip.rate == pytest.approx(19 / expected[-1], rel=0.001)


def test_a_file_that_changes_while_it_is_read_is_named(tmp_path):
    path = write_clip(tmp_path / "clip.mkv", numbered(9))
    clip = scan(path)
    write_clip(path, numbered(5))
    with pytest.raises(UserError, match=r"clip.mkv: frame 8 is gone: the file was changed"):
        FrameReader(path).read(len(clip.times) - 1)


# Writing


def test_what_is_written_can_be_read_again(tmp_path):
    """Of odd sides the last pixel is left out."""
    path = tmp_path / "new.mp4"
    with whole_clip(path, 29.97) as write:
        for frame in numbered(12, 65, 97):
            write(frame)
    clip = scan(path)
    assert clip.shape == (64, 96) and clip.rate == pytest.approx(29.97, rel=0.001)
    assert numbers(path) == list(range(12))
    assert [file.name for file in tmp_path.iterdir()] == ["new.mp4"]


@pytest.mark.parametrize("wrong", ["interrupted", "full", "wide", "try"])
def test_a_clip_appears_whole_or_not_at_all(wrong, tmp_path, capfd):
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"old")
    size = (20, 9000) if wrong == "wide" else (240, 320)
    noise = np.random.default_rng(0).integers(0, 256, (9, *size, 3), dtype=np.uint8)
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    said = {"full": "can't be written whole; is the disk full", "wide": "9000 x 20 pixels"}
    expected = pytest.raises(UserError, match=said[wrong]) if wrong in said else (
        pytest.raises(KeyboardInterrupt) if wrong == "interrupted" else contextlib.nullcontext()
    )  # fmt: skip
    try:
        if wrong == "full":
            resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, old[1]))
        with expected, whole_clip(path, RATE, keep=wrong != "try") as write:
            for frame in noise:
                write(frame)
            if wrong == "interrupted":
                raise KeyboardInterrupt
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert [file.name for file in tmp_path.iterdir()] == ["clip.mp4"]
    assert path.read_bytes() == b"old"
    assert "".join(capfd.readouterr()) == ""
