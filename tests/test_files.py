"""common/base/files.py: a file is there whole or as it was before."""

import os
import signal
import stat
from pathlib import Path

import pytest

from common.base import files
from common.base.errors import UserError
from common.base.files import (
    link_or_copy,
    remove_leftovers,
    whole_file,
    writable_file,
    write_whole,
)


@pytest.mark.parametrize("sync", [False, True])
def test_the_file_appears_only_when_all_of_it_is_written(sync: bool, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with whole_file(path, sync=sync) as stream:
        stream.write(b"new")
        stream.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("stop", [ValueError, OSError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("old", [b"old", None])
def test_an_interruption_leaves_what_was_there(
    old: bytes | None, stop: type[BaseException], tmp_path: Path
) -> None:
    path = tmp_path / "file"
    if old is not None:
        path.write_bytes(old)

    def interrupted() -> None:
        with whole_file(path) as stream:
            stream.write(b"half of the new")
            raise stop

    with pytest.raises(stop):
        interrupted()
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == ({path: old} if old else {})


def test_an_interruption_after_the_rename_keeps_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C just then must stay a KeyboardInterrupt."""
    replace = os.replace

    def replace_and_stop(*paths: str) -> None:
        replace(*paths)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", replace_and_stop)
    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "file", b"new")
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {"file": b"new"}


@pytest.mark.parametrize(("mode", "expected"), [({}, 0o644), ({"mode": 0o600}, 0o600)])
def test_the_mode_is_the_one_asked_for(mode: dict[str, int], expected: int, tmp_path: Path) -> None:
    write_whole(tmp_path / "file", b"", **mode)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == expected


@pytest.mark.parametrize("letter", ["x", "\N{GRINNING FACE}"], ids=["ASCII", "4 bytes a letter"])
def test_names_as_long_as_the_file_system_takes(letter: str, tmp_path: Path) -> None:
    path = tmp_path / (letter * (255 // len(letter.encode())))
    write_whole(path, b"content")
    assert path.read_bytes() == b"content"


def test_a_file_that_can_be_written_is_returned_and_not_touched(tmp_path: Path) -> None:
    assert writable_file(tmp_path / "new") == tmp_path / "new"
    (tmp_path / "old").write_bytes(b"old")
    assert writable_file(tmp_path / "old").read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["old"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (".", "a folder; expected the name of a file to write"),
        ("none/file", "its folder can't be written (No such file or directory)"),
        ("file/below", "its folder can't be written (Not a directory)"),
    ],
)
def test_a_file_that_cannot_be_written_is_an_error_at_once(
    name: str, reason: str, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError) as error:
        writable_file(tmp_path / name)
    assert str(error.value) == f"{tmp_path / name}: {reason}"


def test_what_a_killed_process_left_is_removed_but_not_what_is_being_written(
    tmp_path: Path,
) -> None:
    path, (reader, writer) = tmp_path / "m[1].pt", os.pipe()
    child = os.fork()
    if child == 0:
        with whole_file(path) as stream:
            stream.write(b"half")
            os.write(writer, b"!")
            signal.pause()
    os.read(reader, 1)
    for end in (reader, writer):
        os.close(end)
    (tmp_path / ".m[1].pt.txt").touch()
    (unfinished,) = tmp_path.glob(".*.part")
    writable_file(path)
    assert unfinished.exists()
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    writable_file(tmp_path / "other")
    assert unfinished.exists()
    writable_file(path)
    assert [file.name for file in tmp_path.iterdir()] == [".m[1].pt.txt"]


def test_a_file_that_was_taken_for_a_leftover_is_started_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By another process, between being made and being locked."""
    lock, others = files.lock, [tmp_path]

    def late(handle: int, **options: bool) -> bool:
        if others:
            remove_leftovers(others.pop().iterdir())
        return lock(handle, **options)

    monkeypatch.setattr(files, "lock", late)
    write_whole(tmp_path / "file", b"new")
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {"file": b"new"}


def test_a_photo_is_linked_or_else_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, alias = tmp_path / "source", tmp_path / "alias"
    source.write_bytes(b"photo")
    alias.symlink_to(source)
    assert link_or_copy(alias, tmp_path / "link")
    assert (tmp_path / "link").samefile(source)
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError("no links")))
    assert not link_or_copy(alias, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"photo"
    assert not (tmp_path / "copy").samefile(source) and not (tmp_path / "copy").is_symlink()
