"""Photos in folders: all that can be read, whatever they are called; the rest is named.

A file with the suffix of a photo is taken for one, and named with the reason if it can't be decoded.
Any other file is one if its first bytes are a photo's.
"""

import itertools
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

from PIL import Image, UnidentifiedImageError

from common.base.errors import UserError, counted, printable, warn
from common.faces import heic
from common.faces.decode import FORMATS, READABLE

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".webp", ".gif", ".tif", ".tiff"})
VIDEOS = frozenset({".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v"})
SYSTEM_FILES = frozenset({"thumbs.db", "desktop.ini", "icon\r"})  # those with a dot are hidden
HEIC = frozenset({".heic", ".heif"})
NAMED = 10  # of the files that are left out, in a message


def has_photo_suffix(name: str) -> bool:
    """Return True for a visible file's name with the suffix of a photo."""
    return not is_hidden(name) and os.path.splitext(name)[1].lower() in EXTENSIONS


def is_hidden(name: str) -> bool:
    """Return True for files that a user doesn't see: '._mask1.jpg' is a resource fork."""
    return name.startswith(".") or name.lower() in SYSTEM_FILES


def is_photo(path: Path) -> bool:
    """Return True for a file that is called as a photo is, or begins as one does."""
    if is_hidden(path.name) or has_photo_suffix(path.name):
        return not is_hidden(path.name)
    try:
        return path.is_file() and begins_as_photo(path)  # a FIFO would block forever
    except OSError:
        return False


def begins_as_photo(source: Path | IO[bytes]) -> bool:
    """Return True if a file, of which only the head is read, is of a photo's format."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(source, formats=READABLE):
                return True
    except Image.DecompressionBombError:
        return True  # decoding says so
    except (UnidentifiedImageError, OSError, ValueError):
        return heic.readable() and heic.is_heic(_head(source))


def _head(source: Path | IO[bytes]) -> bytes:
    if not isinstance(source, Path):
        source.seek(0)
        return source.read(heic.HEAD_BYTES)
    with source.open("rb") as stream:
        return stream.read(heic.HEAD_BYTES)


def is_video(source: Path | str | None) -> bool:
    """Return True for a video's path, by its suffix; a folder may have any name."""
    return isinstance(source, Path) and source.suffix.lower() in VIDEOS and not source.is_dir()


def find_photos(folder: Path) -> tuple[list[str], list[Path]]:
    """Find every photo below `folder`, sorted by name, which is its path from there.

    Links are followed, each folder once. Files that are no photos are named in a warning.

    Raises:
        UserError: there are no photos, or a folder can't be read.
    """
    files = sorted(_visible_files(folder))
    names = [name for name in files if is_photo(folder / name)]
    others = sorted(set(files) - set(names))
    if not names:
        raise UserError(f"{folder}: no photos in it or below{_instead(others)}")
    warn(not_photos(others))
    return names, [folder / name for name in names]


def _visible_files(folder: Path) -> Iterator[str]:
    seen: set[tuple[int, int]] = set()
    for root, folders, files in os.walk(folder, onerror=_refuse, followlinks=True):
        if not _new(root, seen):
            folders.clear()
            continue
        folders[:] = sorted(d for d in folders if not is_hidden(d))
        for name in files:
            if not is_hidden(name):
                yield os.path.relpath(os.path.join(root, name), folder)


def count_files(folder: Path, most: int) -> int:
    """Count the visible files below `folder`, up to `most`.

    Raises:
        UserError: a folder can't be read.
    """
    return sum(1 for _ in itertools.islice(_visible_files(folder), most))


def not_photos(names: Sequence[str]) -> str:
    """A line about files that are left out; "" if there are none."""
    if not names:
        return ""
    are = "is not a photo" if len(names) == 1 else "are not photos"
    suffixes = {os.path.splitext(name)[1].lower() for name in names}
    way = f" ({heic.WAY})" if suffixes & HEIC and not heic.readable() else ""
    return f"{counted(len(names), 'file')} {are} that can be read here: {named(names)}{way}"


def named(names: Sequence[str]) -> str:
    """The first of `names`, and the number of the others."""
    shown = ", ".join(map(printable, names[:NAMED]))
    return shown + (f" and {len(names) - NAMED:,} more" if len(names) > NAMED else "")


def _instead(others: Sequence[str]) -> str:
    kinds = f"{', '.join(FORMATS[:-1])} and {FORMATS[-1]} are read"
    return f"; {not_photos(others)} ({kinds})" if others else f" ({kinds})"


def entries(folder: Path) -> list[str]:
    """Names of what is in `folder`, sorted, without hidden files.

    Raises:
        UserError: it can't be read.
    """
    try:
        return sorted(name for name in os.listdir(folder) if not is_hidden(name))
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror}") from None


def _refuse(error: OSError) -> None:
    raise UserError(f"{error.filename}: {error.strerror}")


def _new(folder: str, seen: set[tuple[int, int]]) -> bool:
    status = os.stat(folder)
    identity = status.st_dev, status.st_ino
    return identity not in seen and not seen.add(identity)


def sorted_out(folder: Path, names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Part `names` in `folder` into photos and others."""
    names = list(names)
    photos = [name for name in names if is_photo(folder / name)]
    return photos, [name for name in names if name not in set(photos)]
