"""Delete all that is cached: crops and boxes of faces (`common.faces.cache`), and exports of models.

    python -m common.tools.purge                     those of the usual folder
    python -m common.tools.purge --cache-dir DIR

Nothing else in the folder is touched, and a folder that is no such cache is refused.
"""

import argparse
import contextlib
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from common.base.command import Parser, guarded
from common.base.errors import UserError, counted
from common.base.fields import add_flags
from common.base.run_settings import Run

FOLDER = re.compile(r"(boxes|crops|exports)-[0-9a-f]{12}")
PART = re.compile(r"[0-9a-f]{2}")
CACHE_FILE = re.compile(r"[0-9a-f]{62}\.(json|onnx|png)")
UNFINISHED = re.compile(r"\.[0-9a-f]{48}\.[a-z0-9_]{8}(\.part)?")


def purge(cache: Path) -> tuple[int, int]:
    """Delete what a crop cache holds, and nothing else; how many files, and their bytes.

    Links are not followed.

    Raises:
        UserError: `cache` isn't one.
    """
    if not cache.is_dir():
        raise UserError(f"--cache-dir {cache}: no such folder")
    folders = list(_folders(cache, FOLDER))
    if not folders and any(cache.iterdir()):
        raise UserError(
            f"--cache-dir {cache}: no cache: no boxes-…, crops-… or exports-… folder in it"
        )
    files = size = 0
    for folder in folders:
        for place in (*_folders(folder, PART), folder):
            for entry in _entries(place):
                if entry.is_file(follow_symlinks=False) and _made(entry.name):
                    size += entry.stat(follow_symlinks=False).st_size
                    os.unlink(entry.path)
                    files += 1
            with contextlib.suppress(OSError):  # somebody else's files are in it
                place.rmdir()
    return files, size


def _made(name: str) -> bool:
    return bool(CACHE_FILE.fullmatch(name) or UNFINISHED.fullmatch(name))


def _folders(parent: Path, pattern: re.Pattern) -> Iterator[Path]:
    for entry in _entries(parent):
        if pattern.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
            yield Path(entry.path)


def _entries(folder: Path) -> list[os.DirEntry]:
    with os.scandir(folder) as entries:
        return list(entries)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m common.tools.purge", description=__doc__)
    add_flags(parser, Run, only=("cache_dir",))
    return parser


def _command(cache_dir: Path) -> None:
    files, size = purge(cache_dir)
    print(f"{cache_dir}: {counted(files, 'file')} deleted, {size / 1e6:.1f} MB")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return guarded(lambda: _command(_parser().parse_args(argv).cache_dir))


if __name__ == "__main__":
    sys.exit(main())
