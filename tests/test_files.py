"""common/base/files.py: a file is there whole or as it was before."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from common.base import files
from common.base.errors import UserError
from common.base.files import (
    check_distinct,
    check_free,
    link_or_copy,
    new_entries,
    put_back,
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
    assert writable_file(tmp_path / "new", "table") == tmp_path / "new"
    (tmp_path / "old").write_bytes(b"ImageID,ans\n")
    assert writable_file(tmp_path / "old", "table").read_bytes() == b"ImageID,ans\n"
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
        writable_file(tmp_path / name, "table")
    assert str(error.value) == f"{tmp_path / name}: {reason}"


CONTENTS = {
    "table": b"ImageID,ans\na.jpg,3\n",
    "page": b"\n<!DOCTYPE html>\n<title>report</title>",
    "model": b"PK\x03\x04" + bytes(26),
    "picture": b"\x89PNG\r\n\x1a\n" + bytes(9),
    "video": b"\0\0\0\x20ftypisom" + bytes(9),
    "": b"\x7fELF" + bytes(9),
}
SOMEBODYS = {
    "JPEG": b"\xff\xd8\xff\xe0" + bytes(9),
    "HEIC": b"\0\0\0\x18ftypheic" + bytes(9),
    "WebP": b"RIFF\x10\0\0\0WEBPVP8 ",
    "notes": b"call the plumber\n",
    "JSON": b'{"a": 1}',
}


@pytest.mark.parametrize("there", CONTENTS)
@pytest.mark.parametrize("holds", [kind for kind in CONTENTS if kind])
def test_a_file_is_only_replaced_by_one_of_its_kind(tmp_path, there, holds):
    (tmp_path / "file").write_bytes(CONTENTS[there])
    if there == holds:
        writable_file(tmp_path / "file", holds)
        return
    with pytest.raises(UserError, match=r"file: is .*, which an? .* would replace; name another"):
        writable_file(tmp_path / "file", holds)


@pytest.mark.parametrize("content", SOMEBODYS.values(), ids=SOMEBODYS)
@pytest.mark.parametrize("name", ["photo.jpg", "m.pt", "submission.csv", "noname"])
def test_a_files_name_does_not_tell_what_it_holds(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match="would replace; name another file"):
        writable_file(tmp_path / name, "table")


@pytest.mark.parametrize("name", ["train.csv", "info.csv", "INFO.csv", "photos.csv"])
def test_a_data_sets_tables_are_not_replaced(tmp_path, name):
    (tmp_path / name).write_bytes(CONTENTS["table"])
    with pytest.raises(UserError, match="is another table, with the columns ImageID, ans"):
        writable_file(tmp_path / name, "table", columns=["ImageID"])


@pytest.mark.parametrize("header", ["path,age", "\ufeffid;gender;race;age;path", '"file"\t"years"'])
def test_a_table_of_other_columns_is_not_replaced(tmp_path, header):
    (tmp_path / "faces.csv").write_text(f"{header}\na.jpg,b\n")
    with pytest.raises(UserError, match="is another table, with the columns"):
        writable_file(tmp_path / "faces.csv", "table", columns=["ImageID"])


@pytest.mark.parametrize(
    "way", ["itself", "symbolic link", "hard link", "dots", "link to its folder"]
)
def test_what_is_read_is_not_replaced(tmp_path, way):
    (tmp_path / "deep").mkdir()
    read = tmp_path / "deep" / "read.csv"
    read.write_bytes(CONTENTS["table"])
    path = {"itself": read, "dots": tmp_path / "deep" / ".." / "deep" / "read.csv"}.get(
        way, tmp_path / "other.csv"
    )
    if way == "symbolic link":
        path.symlink_to(read)
    elif way == "hard link":
        path.hardlink_to(read)
    elif way == "link to its folder":
        (tmp_path / "linked").symlink_to(tmp_path / "deep")
        path = tmp_path / "linked" / "read.csv"
    with pytest.raises(UserError, match="is read here and would be replaced"):
        writable_file(path, "table", reads=[tmp_path / "none.pt", read])


def test_two_outputs_are_two_files(tmp_path):
    (tmp_path / "a.csv").touch()
    (tmp_path / "b.csv").hardlink_to(tmp_path / "a.csv")
    for other in (tmp_path / "." / "a.csv", tmp_path / "b.csv"):
        with pytest.raises(UserError, match="--output and --probs: both would write"):
            check_distinct({"--output": tmp_path / "a.csv", "--probs": other, "--report": None})
    check_distinct({"--output": tmp_path / "a.csv", "--probs": tmp_path / "c.csv"})


@pytest.mark.parametrize("before", [None, 0o600, 0o640, 0o664])
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_new_files_obey_the_umask_and_old_ones_keep_their_mode(tmp_path, umask, before):
    path = tmp_path / "file"
    if before is not None:
        path.touch()
        path.chmod(before)
    earlier = os.umask(umask)
    try:
        write_whole(path, b"new")
    finally:
        os.umask(earlier)
    assert stat.S_IMODE(path.stat().st_mode) == (0o666 & ~umask if before is None else before)


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
    writable_file(path, "model")
    assert unfinished.exists()
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    writable_file(tmp_path / "other", "model")
    assert unfinished.exists()
    writable_file(path, "model")
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


def killed_at_rename(folder: Path, number: int, *, exchange: bool) -> None:
    """Run `new_entries` on `folder` in a process that SIGKILL ends before its rename `number`."""
    code = f"""
import os, signal
from pathlib import Path
from common.base import files
done, rename = [], Path.rename
def counted(path, target):
    done.append(path)
    if len(done) == {number}:
        os.kill(os.getpid(), signal.SIGKILL)
    return rename(path, target)
Path.rename = counted
if not {exchange}:
    files._exchanged = lambda a, b: False
with files.new_entries(Path({str(folder)!r}), ["train", "eval"]) as fresh:
    for name in ("train", "eval"):
        (fresh / name).mkdir()
        (fresh / name / "x").write_text("new")
"""
    subprocess.run([sys.executable, "-c", code], check=False, cwd=Path(__file__).parents[1])


@pytest.mark.skipif(sys.platform == "win32", reason="no locks")
@pytest.mark.parametrize("exchange", [True, False])
@pytest.mark.parametrize("number", [1, 2, 3, 4, 5])
def test_a_killed_process_leaves_each_entry_old_or_new(tmp_path, number, exchange):
    names = ("train", "eval")
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_text("old")
    killed_at_rename(tmp_path, number, exchange=exchange)
    if exchange and sys.platform == "linux":
        assert all((tmp_path / name).is_dir() for name in names)
    put_back(tmp_path)
    assert {(tmp_path / name / "x").read_text() for name in names} <= {"old", "new"}
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


@pytest.mark.skipif(sys.platform == "win32", reason="no locks")
def test_old_data_are_put_back_before_they_are_looked_for(tmp_path):
    """Else a command would take the place for free, and replace what it puts back."""
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "x").write_text("old")
    killed_at_rename(tmp_path, 3, exchange=False)
    assert not (tmp_path / "train").exists()
    with pytest.raises(UserError, match="exists already"):
        check_free([tmp_path / "train"], "--overwrite")
    assert (tmp_path / "train" / "x").read_text() == "old"


def test_folders_in_use_and_those_of_others_stay(tmp_path):
    theirs = tmp_path / ".new-password" / "photos"
    theirs.mkdir(parents=True)
    with new_entries(tmp_path, ["a"]) as fresh:
        (fresh / "a").write_text("whole")
        put_back(tmp_path)
        assert (fresh / "a").exists()
    assert (tmp_path / "a").read_text() == "whole"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".new-password", "a"]
    assert theirs.is_dir()
