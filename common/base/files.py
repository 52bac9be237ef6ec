"""Files that appear whole or not at all."""

import contextlib
import csv
import glob
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from common.base.errors import UserError

try:
    import fcntl
except ImportError:  # Windows has no such locks: leftovers stay
    fcntl = None

if TYPE_CHECKING:
    import pandas as pd

TEMPORARY = ".part"
LEFTOVERS = f".*.????????{TEMPORARY}"


@contextlib.contextmanager
def whole_file(
    path: Path, mode: int = 0o644, *, sync: bool = False, place: Path | None = None
) -> Iterator[IO[bytes]]:
    """A stream whose bytes become the file `path` at the end, if no error was raised until then.

    They are written to a temporary file beside `path`, or in the folder `place` of the same disk,
    which is then renamed, so that no other process sees half a file. With `sync` they are on the
    disk before the old file is replaced. `remove_leftovers` removes what a killed process leaves.
    """
    handle, held, temporary = _temporary(place or path.parent, path.name)
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            if sync:
                os.fsync(stream.fileno())
        os.chmod(temporary, mode)
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
    mode: int = 0o644,
    *,
    sync: bool = False,
    place: Path | None = None,
) -> None:
    """Write `data` to `path` whole or not at all."""
    with whole_file(path, mode, sync=sync, place=place) as stream:
        stream.write(data)


def _temporary(folder: Path, name: str) -> tuple[int, int | None, str]:
    """Create a temporary file; returns a handle to write it, one that locks it, and its name.

    The lock ends with the process, so that leftovers of killed processes have none.
    """
    while True:
        handle, temporary = tempfile.mkstemp(TEMPORARY, f".{name[:48]}.", folder)
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


def remove_leftovers(files: Iterable[Path]) -> None:
    """Remove those temporary files (those that match LEFTOVERS) whose process was killed."""
    for file in files:
        with contextlib.suppress(OSError), file.open("rb") as stream:
            if lock(stream.fileno(), wait=False):
                file.unlink()


def writable_file(path: Path) -> Path:
    """Return `path` after a trial file was written beside it, before long work begins.

    Removes what a killed process left of it.

    Raises:
        UserError: the folder can't be written, or `path` is something other than a file.
    """
    try:
        if path.exists() and not path.is_file():  # a rename would replace even a device
            kind = "a folder" if path.is_dir() else "not a regular file"
            raise UserError(f"{path}: {kind}; expected the name of a file to write")
        with tempfile.TemporaryFile(dir=path.parent):
            name = glob.escape(path.name[:48])
            remove_leftovers(path.parent.glob(LEFTOVERS.replace("*", name)))
            return path
    except OSError as error:
        raise UserError(f"{path}: its folder can't be written ({error.strerror})") from None


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
        if target.is_file() or (target.is_dir() and any(target.iterdir())):
            raise UserError(f"{target} exists already: {way}")


@contextlib.contextmanager
def new_entries(directory: Path, names: Sequence[str]) -> Iterator[Path]:
    """A folder to fill, whose entries called `names` move to `directory` at the end.

    Existing entries are replaced. names[0] is moved last: it marks the set as complete. If an error
    is raised before the end, `directory` stays unchanged.
    """
    # Beside the final place: a rename works only within one file system.
    with tempfile.TemporaryDirectory(prefix=".new-", dir=directory) as temporary:
        fresh, retired = Path(temporary, "new"), Path(temporary, "old")
        fresh.mkdir()
        yield fresh
        retired.mkdir()
        for name in reversed(names):
            if (directory / name).exists():
                (directory / name).rename(retired / name)
            (fresh / name).rename(directory / name)
