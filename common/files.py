"""Files that appear whole or not at all."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from common.errors import UserError


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
    except BaseException:
        with contextlib.suppress(FileNotFoundError):  # Ctrl-C came just after the rename
            os.unlink(temporary)
        raise


def write_whole(path: Path, data: bytes, mode: int = 0o644, *, sync: bool = False) -> None:
    """Write `data` to `path` whole or not at all."""
    with whole_file(path, mode, sync=sync) as stream:
        stream.write(data)


def writable_file(path: Path) -> Path:
    """`path`, once a file beside it could be written; UserError before an hour of work is lost."""
    try:
        if path.is_dir():
            raise UserError(f"{path}: a folder; expected the name of a file to write")
        with tempfile.TemporaryFile(dir=path.parent):
            return path
    except OSError as error:
        raise UserError(f"{path}: its folder can't be written ({error.strerror})") from None
