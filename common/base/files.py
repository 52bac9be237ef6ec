"""Files that appear whole or not at all, and never in place of something else."""

import contextlib
import csv
import ctypes
import glob
import hashlib
import itertools
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from common.base.errors import UserError, warn

try:
    import fcntl
except ImportError:  # Windows has no such locks: leftovers stay
    fcntl = None

if TYPE_CHECKING:
    import pandas as pd

TEMPORARY = ".part"
WORK = ".new-"  # first letters of the folders of new_entries
# Kinds of files that commands write or read.
FILE_KINDS = {
    "table": "a table",
    "page": "an HTML page",
    "model": "a model",
    "export": "an exported model",
    "picture": "a picture",
    "video": "a video",
    "text": "a text",
}
OTHER = "some other file"
SIGNATURES = (
    ("picture", rb"\xff\xd8\xff|\x89PNG|GIF8|BM|RIFF.{4}WEBP|II\*\0|MM\0\*|P[1-7]\s"),
    ("picture", rb".{4}ftyp(avif|avis|heic|heix|heim|heis|hevc|mif1|msf1)"),
    ("video", rb".{4}ftyp|RIFF.{4}AVI |\x1aE\xdf\xa3"),
    ("model", rb"PK\x03\x04"),
    ("page", rb"\s*<(!doctype html|html)"),
)
DATA_TABLES = (
    "train.csv",
    "photos.csv",
    "sources.csv",
    "info.csv",
)  # of the layout: read, not written
LEFTOVERS = f".*.????????{TEMPORARY}"


@contextlib.contextmanager
def whole_file(
    path: Path, mode: int | None = None, *, sync: bool = False, place: Path | None = None
) -> Iterator[IO[bytes]]:
    """A stream whose bytes become the file `path` at the end, if no error was raised until then.

    They are written to a temporary file beside `path`, or in the folder `place` of the same disk,
    which is then renamed, so that no other process sees half a file. With `sync` they are on the
    disk before the old file is replaced. `remove_leftovers` removes what a killed process leaves.
    Without `mode` a file that is replaced keeps its permissions, and a new one gets those of the
    umask. A symbolic link is replaced, its target stays.
    """
    handle, held, temporary = _temporary(place or path.parent, path.name, _mode(path, mode))
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            if sync:
                os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(FileNotFoundError):  # Ctrl-C came just after the rename
            os.unlink(temporary)
        if isinstance(error, OSError) and error.filename is None:  # write() names no file
            error.filename = str(path)
        raise
    finally:
        if held is not None:
            os.close(held)


def write_whole(
    path: Path,
    data: bytes | memoryview,
    mode: int | None = None,
    *,
    sync: bool = False,
    place: Path | None = None,
) -> None:
    """Write `data` to `path` whole or not at all."""
    with whole_file(path, mode, sync=sync, place=place) as stream:
        stream.write(data)


def _mode(path: Path, mode: int | None) -> int | None:
    """Permissions for a new `path`: `mode`, else those of the file it replaces, None for neither."""
    if mode is None and path.is_file() and not path.is_symlink():
        return stat.S_IMODE(path.stat().st_mode)
    return mode


def _temporary(folder: Path, name: str, mode: int | None) -> tuple[int, int | None, str]:
    """Create a temporary file; returns a handle to write it, one that locks it, and its name.

    Its permissions are `mode`, or for None those of the umask. The lock ends with the process, so
    that leftovers of killed processes have none.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    while True:
        temporary = os.path.join(folder, f".{name[:48]}.{secrets.token_hex(4)}{TEMPORARY}")
        try:
            handle = os.open(temporary, flags, 0o666 if mode is None else mode & 0o600)
        except FileExistsError:
            continue
        try:
            if mode is not None:
                os.chmod(temporary, mode)
        except BaseException:
            os.close(handle)
            os.unlink(temporary)
            raise
        held = os.dup(handle) if lock(handle) else None
        if held is None or os.fstat(handle).st_nlink:
            return handle, held, temporary
        os.close(handle)  # another process removed it as a leftover before it was locked
        os.close(held)


def lock(handle: int, *, wait: bool = True) -> bool:
    """Lock an open file for this process; returns False where that isn't possible."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        return False
    return True


@contextlib.contextmanager
def held_folder(folder: Path) -> Iterator[None]:
    """Keep a folder for this process, until the end of the block or of the process.

    Raises:
        UserError: another process keeps it.
    """
    with _open_folder(folder) as handle:
        if handle is not None:
            with contextlib.suppress(OSError):  # a file system without locks
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise UserError(f"{folder}: another process is training in it") from None
        yield


def remove_leftovers(files: Iterable[Path]) -> None:
    """Remove those temporary files (those that match LEFTOVERS) whose process was killed."""
    for file in files:
        with contextlib.suppress(OSError), file.open("rb") as stream:
            if lock(stream.fileno(), wait=False):
                file.unlink()


def writable_file(
    path: Path, holds: str, *, reads: Iterable[Path] = (), columns: Sequence[str] = ()
) -> Path:
    """Return `path` after a trial file was written beside it, before long work begins.

    Removes what a killed process left of it. `holds` is the kind of its new content, one of
    FILE_KINDS, `reads` are the files that the command reads, and `columns` begin a new table's header.

    Raises:
        UserError: the folder can't be written, or the file that is there must not be replaced.
    """
    try:
        if path.exists() and not path.is_file():  # a rename would replace even a device
            kind = "a folder" if path.is_dir() else "not a regular file"
            raise UserError(f"{path}: {kind}; expected the name of a file to write")
        check_replaceable(path, holds, reads, columns)
        with tempfile.TemporaryFile(dir=path.parent):
            name = glob.escape(path.name[:48])
            remove_leftovers(path.parent.glob(LEFTOVERS.replace("*", name)))
            return path
    except OSError as error:
        raise UserError(f"{path}: its folder can't be written ({error.strerror})") from None


def check_replaceable(
    path: Path, holds: str, reads: Iterable[Path] = (), columns: Sequence[str] = ()
) -> None:
    """Check that the file at `path`, if there is one, is a result of the same kind of command.

    Files are told apart by their content: a photo, a model or a table of labels is never replaced
    by something else, whatever it is called.

    Raises:
        UserError: it is read by this command, or holds something else than the new content.
    """
    for file in reads:
        if file.resolve() == path.resolve() or (
            file.exists() and path.exists() and file.samefile(path)
        ):
            raise UserError(f"{path}: is read here and would be replaced; name another file")
    if not path.is_file() or not path.stat().st_size:
        return
    found = kind_of(path)
    if found != holds:
        raise UserError(
            f"{path}: is {FILE_KINDS.get(found, OTHER)}, which {FILE_KINDS[holds]} would replace; "
            "name another file"
        )
    if holds == "table":
        header = first_cells(path)
        if path.name.lower() in DATA_TABLES or header[: len(columns)] != list(columns):
            raise UserError(
                f"{path}: is another table, with the columns {', '.join(header)}; name another file"
            )


def kind_of(path: Path) -> str:
    """Tell what a file is by its first bytes: one of FILE_KINDS, or "" for anything else."""
    with path.open("rb") as stream:
        head = stream.read(4096)
    for kind, signature in SIGNATURES:
        if re.match(signature, head, re.DOTALL | re.IGNORECASE):
            return kind
    if head.startswith(b"\x08") and path.suffix.lower() == ".onnx":
        return "export"
    if path.suffix.lower() == ".md" and b"\0" not in head:
        return "text"
    return "table" if re.match(rb"[^\n\0]*[,;\t][^\0]*$", head, re.DOTALL) else ""


def first_cells(path: Path) -> list[str]:
    """The names in the first line of a table, whatever separates them."""
    with path.open(encoding="utf-8-sig", errors="replace") as stream:
        names = re.split(r"[,;\t]", stream.readline(100_000))
    return [name.strip().strip('"') for name in names]


def check_distinct(outputs: Mapping[str, Path | None]) -> None:
    """Check that no two outputs, by the flag that names each, are the same file.

    Raises:
        UserError: two are.
    """
    given = [(flag, path) for flag, path in outputs.items() if path is not None]
    for (flag, path), (other, second) in itertools.combinations(given, 2):
        same = path.exists() and second.exists() and path.samefile(second)
        if same or path.resolve() == second.resolve():
            raise UserError(f"{flag} and {other}: both would write {path}; name different files")


def made_folder(folder: Path, flag: str) -> Path:
    """Return `folder`, created if it doesn't exist.

    Raises:
        UserError: it can't be created; the message begins with the `flag` that names it.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{flag} {folder}: a file; expected the name of a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{flag} {folder}: can't be created ({error.strerror})") from None
    return folder


def link_or_copy(source: Path, target: Path, *, copy: bool = False) -> bool:
    """Make `target` a hard link to the file `source`, or a copy of it; returns True for a link.

    With `copy` it is always a copy.
    """
    real = source.resolve()
    if not copy:
        with contextlib.suppress(OSError):  # another file system, or one without links
            os.link(real, target)
            return True
    shutil.copyfile(real, target)
    return False


def sha256(path: Path) -> str:
    """Digest a file's bytes, as hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV; its folder is created if needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def write_frame(path: Path, table: "pd.DataFrame", **settings: Any) -> None:
    """Write a pandas table as CSV, whole or not at all; `settings` go to its `to_csv`."""
    text = table.to_csv(index=False, lineterminator="\n", **settings)
    write_whole(path, text.encode(errors="surrogateescape"))  # file names needn't be UTF-8


def check_free(targets: Iterable[Path], way: str) -> None:
    """Check that no file or filled folder would be overwritten.

    Raises:
        UserError: one would; the message ends with the `way` out.
    """
    for target in targets:
        for folder in (target.parent, target):
            put_back(folder)
        if target.is_file() or (target.is_dir() and any(target.iterdir())):
            raise UserError(f"{target} exists already: {way}")


@contextlib.contextmanager
def new_entries(directory: Path, names: Sequence[str]) -> Iterator[Path]:
    """A folder to fill, whose entries called `names` move to `directory` at the end.

    Existing entries are replaced. names[0] is moved last: it marks the set as complete. If an error
    is raised before the end, `directory` stays unchanged. A process that is killed leaves each entry
    whole, old or new, and a folder that the next call of this or of `put_back` removes.
    """
    put_back(directory)
    # Beside the final place: a rename works only within one file system.
    with _work_folder(directory) as temporary:
        fresh, retired = temporary / "new", temporary / "old"
        fresh.mkdir()
        yield fresh
        retired.mkdir()
        for name in reversed(names):
            _replace(directory / name, fresh / name, retired / name)


def _replace(place: Path, new: Path, old: Path) -> None:
    """Move `new` to `place`; what was there stays at `new` or `old`."""
    if os.path.lexists(place):
        if _exchanged(new, place):
            return
        place.rename(old)  # `put_back` undoes this if the process is killed now
    new.rename(place)


def _exchanged(a: Path, b: Path) -> bool:
    """Let two paths change places in one step; returns False where the system can't."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):  # not Linux, or an old C library
        return False
    here, exchange = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of <fcntl.h> and <stdio.h>
    return rename(here, os.fsencode(a), here, os.fsencode(b), exchange) == 0


@contextlib.contextmanager
def _work_folder(directory: Path) -> Iterator[Path]:
    """A new folder in `directory`, locked and then removed, by which `put_back` knows it."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=WORK, dir=directory))
        with locked_folder(folder):
            if not folder.is_dir():  # another process removed it before it was locked
                continue
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            return


@contextlib.contextmanager
def locked_folder(folder: Path, *, wait: bool = False) -> Iterator[bool]:
    """Lock a folder until the end of the block; False where that fails, or without `wait` is taken."""
    with _open_folder(folder) as handle:
        yield handle is not None and lock(handle, wait=wait)


@contextlib.contextmanager
def _open_folder(folder: Path) -> Iterator[int | None]:
    """A handle of a folder that can be locked, unlocked at the end; None where there are no locks."""
    if fcntl is None:
        yield None
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        yield handle
    finally:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_UN)  # forked processes may hold the handle, too
        os.close(handle)


def put_back(directory: Path) -> None:
    """Undo what killed processes left of `new_entries` in `directory`, with a warning."""
    for folder in directory.glob(f"{WORK}????????"):
        with contextlib.suppress(OSError), locked_folder(folder) as left:
            if not left or not {part.name for part in folder.iterdir()} <= {"new", "old"}:
                continue  # in use, or somebody else's
            for old in folder.glob("old/*"):
                place = directory / old.name
                if not os.path.lexists(place):
                    old.rename(place)
                    warn(f"{place}: put back; the command that was replacing it had been killed")
            shutil.rmtree(folder)
