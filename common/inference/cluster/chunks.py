"""Photos of a folder, object store or table, in chunks that any machine can fetch by itself.

A source is a folder of photos, a URI (s3://bucket/prefix, gs://…, file:///…) with photos below it,
or Parquet: a file, or a folder or URI with such files, with a column `path` (a path, also one that
starts at the table's folder, or a URI) or `bytes` (a photo file's content), and maybe `ImageID`.
The source alone determines the chunks, so that a chunk's number identifies its photos.
"""

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import posixpath
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import FileInfo, FileSelector, FileSystem, FileType

from common.base.errors import UserError, first_line, warn
from common.data.layout import find_input
from common.data.listing import (
    EXTENSIONS,
    begins_as_photo,
    has_photo_suffix,
    is_hidden,
    not_photos,
)
from common.faces.decode import MAX_BYTES

CHUNK = 1000  # photos at most: a minute of a core, which is lost if the core fails
CHUNKS = 256  # at least, to keep as many cores busy, as long as each has SMALLEST photos
SMALLEST = 16
FETCHERS = 16  # threads: object stores have a high latency but serve many at once
ATTEMPTS = 4  # to read from an object store, over seven seconds
ROWS_AT_ONCE = 64  # rows in memory at a time: the content of a photo has megabytes
CONTENT = {  # columns with a photo, of which the first present is used, and their types
    "bytes": (pa.binary(), pa.large_binary()),
    "path": (pa.string(), pa.large_string()),
}
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")

Place = Path | tuple[FileSystem, str]


@dataclasses.dataclass(frozen=True)
class Listed:
    """Photos by name; `places` are paths below the URI `root`, or with "" paths of the machine."""

    root: str
    names: tuple[str, ...]
    places: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def fetch(self, folder: Path) -> tuple[list[str], list[Path]]:
        """Names and files of the photos; remote ones are copied to `folder`."""
        if not self.root:
            return list(self.names), [Path(place) for place in self.places]
        system, base = opened(self.root)
        places = [(system, posixpath.join(base, place)) for place in self.places]
        return list(self.names), _copied(places, folder)


@dataclasses.dataclass(frozen=True)
class Rows:
    """Rows from `start` to before `stop` of the Parquet table `name` below `root`, path or URI."""

    root: str
    name: str
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def fetch(self, folder: Path) -> tuple[list[str], list[Path]]:
        """Names and files of the photos; remote ones are copied to `folder`."""
        names: list[str] = []
        places: list[Place] = []
        for number, row in enumerate(_rows(self), self.start):
            path = row.get("path") or ""
            given = row.get("ImageID")
            names.append(str((path or f"{self.name}:{number}") if given is None else given))
            if "bytes" in row:
                places.append(folder / f"row{number}")
                places[-1].write_bytes(row["bytes"] or b"")
            else:
                places.append(_place(path, self.root, self.name))
        return names, _copied(places, folder)


Chunk = Listed | Rows


@dataclasses.dataclass(frozen=True)
class Work:
    """All photos of a source."""

    place: str
    """Path or URI of the source."""
    digest: str
    """SHA-256 of the names, sizes and times of the photos' files, or of the tables."""
    chunks: tuple[Chunk, ...]

    @property
    def photos(self) -> int:
        return sum(map(len, self.chunks))


def find_work(source: Path | str | None, data: Path | None, allow_bad: int = 0) -> Work:
    """List the photos of `source`, a path or a URI, in chunks; without one the eval set of `data`.

    A path's photos are those of `find_input`.

    Raises:
        UserError: there are no photos, or they can't be listed.
    """
    if source is None:
        return _found(None, data, allow_bad)
    place = str(source.absolute() if isinstance(source, Path) else source)
    what = f"--input {source}"
    with _explained(what):
        root, files = _files(place)
        tables = [name for name in files if name.endswith(".parquet")]
        photos = [name for name in files if _is_visible_photo(name)]
        if not tables and not isinstance(source, Path):
            photos, others = _sorted_out(root, files, set(photos))
            warn(not_photos(others))
        if tables and photos:
            raise UserError(
                f"{what}: holds photos ({photos[0]}) and Parquet tables ({tables[0]}); expected "
                "the one or the other"
            )
    if tables:
        return _tables(place, root, {table: files[table] for table in tables})
    if isinstance(source, Path):
        return _found(source, data, allow_bad)
    if not photos:
        kinds = " ".join(sorted(EXTENSIONS))
        raise UserError(f"{what}: no photos ({kinds}) and no .parquet files there")
    return _listed(place, photos, photos, root, [files[photo] for photo in photos])


def _found(source: Path | None, data: Path | None, allow_bad: int) -> Work:
    """Photos in folders of this machine, which all others must be able to open, too."""
    names, paths, _ = find_input(source, data, allow_bad)
    place = source if source is not None else paths[0].parent
    places = [str(path.absolute()) for path in paths]
    return _listed(str(place.absolute()), names, places, "", [_stamp_of(path) for path in paths])


def _stamp_of(path: Path) -> str:
    """Size and time of a file, which change with its content; "" where there is none."""
    try:
        found = path.stat()
    except OSError:
        return ""
    return f"{found.st_size} {found.st_mtime_ns}"


def _stamp(info: FileInfo) -> str:
    """The same for a file of any file system."""
    return f"{info.size} {info.mtime_ns}"


def opened(place: str) -> tuple[FileSystem, str]:
    """Open the file system of a URI or an absolute path; returns it and the path in it.

    A URI's query, such as ?region=us-east-1, is passed to the file system.
    """
    if not _URI.match(place):
        return _system("file:///")[0], place
    parts = urlsplit(place)
    system, base = _system(parts._replace(path="" if parts.netloc else "/", fragment="").geturl())
    return system, posixpath.join(base, unquote(parts.path).lstrip("/"))


@functools.lru_cache(maxsize=64)  # opening one may take a round trip
def _system(uri: str) -> tuple[FileSystem, str]:
    return FileSystem.from_uri(uri)


@contextlib.contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turn pyarrow's errors about a file system or a table into one line."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{what}: no such file, folder or prefix") from None
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{what}: {first_line(error)}") from None


def _files(place: str) -> tuple[str, dict[str, str]]:
    """List all files at or below `place`: a root path or URI, and relative path → size and time."""
    system, base = opened(place)
    single = system.get_file_info(base)
    if single.type == FileType.File:
        files = {posixpath.basename(base): _stamp(single)}
        if not _URI.match(place):
            return posixpath.dirname(base), files
        parts = urlsplit(place)
        return parts._replace(path=posixpath.dirname(parts.path)).geturl(), files
    found = system.get_file_info(FileSelector(base, recursive=True))
    start = len(base.rstrip("/")) + 1
    names = {info.path[start:]: _stamp(info) for info in found if info.type == FileType.File}
    return place, dict(sorted(names.items()))


def _is_visible_photo(name: str) -> bool:
    return has_photo_suffix(posixpath.basename(name)) and not re.search(r"(^|/)\.", name)


def _sorted_out(root: str, files: Iterable[str], photos: set[str]) -> tuple[list[str], list[str]]:
    """Part the visible `files` of a URI into photos, by suffix or content, and others."""
    system, base = opened(root)
    shown = [name for name in files if not any(map(is_hidden, name.split("/")))]
    for name in shown:
        if name not in photos:
            with system.open_input_file(posixpath.join(base, name)) as stream:
                if begins_as_photo(stream):
                    photos.add(name)
    return [n for n in shown if n in photos], [n for n in shown if n not in photos]


def _size(photos: int) -> int:
    """The number of photos in a chunk, for so many in all."""
    return min(CHUNK, max(SMALLEST, -(-photos // CHUNKS)))


def _listed(
    place: str, names: Sequence[str], places: Sequence[str], root: str, stamps: Sequence[str]
) -> Work:
    size = _size(len(names))
    chunks = tuple(
        Listed(root, tuple(names[start : start + size]), tuple(places[start : start + size]))
        for start in range(0, len(names), size)
    )
    return Work(_without_login(place), _digest([*names, *stamps]), chunks)


def _tables(place: str, root: str, tables: Mapping[str, str]) -> Work:
    counts = {table: _checked(root, table) for table in tables}
    size = _size(sum(counts.values()))
    chunks = tuple(
        Rows(root, table, start, min(start + size, count))
        for table, count in counts.items()
        for start in range(0, count, size)
    )
    if not chunks:
        raise UserError(f"{place}: no rows")
    return Work(
        _without_login(place),
        _digest([f"{table} {count} {tables[table]}" for table, count in counts.items()]),
        chunks,
    )


def _without_login(place: str) -> str:
    return re.sub("//[^/@]*@", "//", place) if _URI.match(place) else place


def _digest(lines: Sequence[str]) -> str:
    sha = hashlib.sha256()
    for line in lines:
        sha.update(json.dumps(line).encode())
    return sha.hexdigest()


@contextlib.contextmanager
def _table(root: str, name: str) -> Iterator[pq.ParquetFile]:
    system, base = opened(root)
    with system.open_input_file(posixpath.join(base, name)) as stream:
        yield pq.ParquetFile(stream)


def _checked(root: str, name: str) -> int:
    """Check the columns of a Parquet file; returns its number of rows.

    Raises:
        UserError: it can't be read, or has no column with photos.
    """
    with _explained(name), _table(root, name) as file:
        kinds = {field.name: field.type for field in file.schema_arrow}
        found = next((column for column in CONTENT if column in kinds), None)
        if found is None:
            raise UserError(f"{name}: no column path or bytes; found {', '.join(kinds)}")
        if kinds[found] not in CONTENT[found]:
            expected = CONTENT[found][0]
            raise UserError(f"{name}: column {found} is {kinds[found]}, expected {expected}")
        return file.metadata.num_rows


def _rows(rows: Rows) -> Iterator[dict[str, Any]]:
    """Yield each row as column → value, reading only the row groups that are needed."""
    with _table(rows.root, rows.name) as file:
        counts = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        ends = list(itertools.accumulate(counts))
        groups = [
            i for i, end in enumerate(ends) if end > rows.start and end - counts[i] < rows.stop
        ]
        columns = file.schema_arrow.names
        content = next(column for column in CONTENT if column in columns)
        wanted = [name for name in ("ImageID", content) if name in columns]
        at = ends[groups[0]] - counts[groups[0]]
        for batch in file.iter_batches(ROWS_AT_ONCE, row_groups=groups, columns=wanted):
            first = max(0, rows.start - at)
            yield from batch.slice(first, max(0, rows.stop - at - first)).to_pylist()
            at += len(batch)


def _place(path: str, root: str, table: str) -> Place:
    """Locate the photo that a table calls `path`."""
    if _URI.match(path):
        return opened(path)
    system, base = opened(root)
    whole = posixpath.join(base, posixpath.dirname(table), path)
    return (system, whole) if _URI.match(root) and not path.startswith("/") else Path(whole)


def _copied(places: Sequence[Place], folder: Path) -> list[Path]:
    """Copy remote photos to `folder`; returns all files. Missing photos have no file."""
    files = [
        place if isinstance(place, Path) else folder / str(number)
        for number, place in enumerate(places)
    ]
    remote = [(p, f) for p, f in zip(places, files, strict=True) if not isinstance(p, Path)]
    with ThreadPoolExecutor(FETCHERS) as pool:
        list(pool.map(lambda pair: _copy(*pair[0], pair[1]), remote))
    return files


def _copy(system: FileSystem, place: str, file: Path) -> None:
    """Copy a photo, or enough of it to see that it is too large; a missing photo is skipped.

    Raises:
        OSError: the photo exists but can't be read, even after retries.
    """
    for attempt in range(ATTEMPTS):
        try:
            with system.open_input_stream(place) as stream:
                file.write_bytes(stream.read(MAX_BYTES + 1))
                return
        except OSError:
            if system.get_file_info(place).type != FileType.File:
                return
            if attempt == ATTEMPTS - 1:
                raise
            time.sleep(2**attempt)
