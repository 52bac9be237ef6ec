"""Files that appear whole or not at all."""

import contextlib
import csv
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from common.errors import UserError

if TYPE_CHECKING:
    import pandas as pd


@contextlib.contextmanager
def whole_file(path: Path, mode: int = 0o644, *, sync: bool = False) -> Iterator[IO[bytes]]:
    """A stream whose bytes become `path` at the end, if nothing went wrong until then.

    They are written beside `path` and renamed, so that no other process sees half a file; with
    `sync` they are on the disk before the old file goes.
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:48]}.")
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


def write_whole(
    path: Path, data: bytes | memoryview, mode: int = 0o644, *, sync: bool = False
) -> None:
    """Write `data` to `path` whole or not at all."""
    with whole_file(path, mode, sync=sync) as stream:
        stream.write(data)


def writable_file(path: Path) -> Path:
    """`path`, once a file beside it could be written; UserError before an hour of work is lost."""
    try:
        if path.exists() and not path.is_file():  # a rename would take even a device's place
            kind = "a folder" if path.is_dir() else "not a regular file"
            raise UserError(f"{path}: {kind}; expected the name of a file to write")
        with tempfile.TemporaryFile(dir=path.parent):
            return path
    except OSError as error:
        raise UserError(f"{path}: its folder can't be written ({error.strerror})") from None


def write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV, in a folder that is made where there is none."""
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
    """UserError that ends with the `way` out where a file or a full folder is in the way."""
    for target in targets:
        if target.is_file() or (target.is_dir() and any(target.iterdir())):
            raise UserError(f"{target} exists already: {way}")


@contextlib.contextmanager
def new_entries(directory: Path, names: Sequence[str]) -> Iterator[Path]:
    """A folder to fill; in the end what is called `names` in it moves to `directory`.

    What was called so there makes way. The first of `names` comes last: its presence means
    complete. Where something goes wrong before the end, `directory` stays as it was.
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
