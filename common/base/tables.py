"""Tables of text, as spreadsheets, pandas, Windows and public data sets write them.

One reader for every table that a user gives, so that the same file is good everywhere or nowhere:
commas, semicolons, tabs or bars between cells; UTF-8, UTF-16 or cp949; any line ends; `sep=;` and
lines that begin with # before the header.
"""

import codecs
import csv
import io
import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.base.errors import UserError, listed, printable, suggestion
from common.base.names import folded, tidy

if TYPE_CHECKING:
    import pandas as pd

DELIMITERS = (",", "\t", ";", "|")
_SEPARATOR_LINE = re.compile(r'"?sep=([^"])"?[,;\t|]*', re.IGNORECASE)
_END = "\0end of the table"  # a line that is a part of the last cell if a quote isn't closed
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_table(
    path: Path,
    columns: Iterable[str],
    *,
    optional: Iterable[str] = (),
    exact: Collection[str] = (),
) -> "pd.DataFrame":
    """Read a table as text: cells are `tidy`, but for those of `exact` columns; empty ones are "".

    Row numbers, as a spreadsheet shows them, are index + 2. Rows without any value are left out.
    Names of `columns` and `optional` ones are found in any case and spacing.

    Raises:
        UserError: the file can't be read, isn't a table, lacks one of `columns`, or has two of the
            same name.
    """
    import pandas as pd

    columns = list(columns)
    rows = _records(path, _text(path), columns)
    if not rows:
        raise UserError(f"{path}: not a CSV table: No columns to parse from file")
    (_, header), *body = rows
    names = _named(path, header, columns, optional)
    _refuse_long(path, names, body)
    table = {}
    for i, name in enumerate(names):
        cells = [row[i] if i < len(row) else "" for _, row in body]
        table[name] = cells if name in exact else list(map(tidy, cells))
    for i, name in enumerate(names):
        if not tidy(header[i]) and not any(table[name]):
            del table[name]  # an empty column at the end
    index = [number - 2 for number, _ in body]
    return pd.DataFrame(table, index=pd.Index(index, dtype="int64"), dtype=object)


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    try:
        text = _decoded(data)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: not UTF-8 text ({error.reason} at byte {error.start}), nor UTF-16 or cp949; "
            "save it as CSV UTF-8"
        ) from None
    if "\0" in text:
        raise UserError(f"{path}: not a CSV table: it has zero bytes")
    return text


def _decoded(data: bytes) -> str:
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return data.decode(encoding)
    for high, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):  # most letters are ASCII
        zeros, others = data[high:64:2].count(0), data[1 - high : 64 : 2].count(0)
        if zeros > len(data[:64]) / 4 and zeros > 4 * others:
            return data.decode(encoding)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        lenient = data.decode(errors="replace")
        damaged = lenient.count("\ufffd")
        if sum(not c.isascii() for c in lenient) > 9 * damaged:
            raise  # UTF-8 with a damaged place, which cp949 would turn into other names
        try:
            return data.decode("cp949")
        except UnicodeDecodeError:
            raise error from None


def _records(path: Path, text: str, columns: Sequence[str]) -> list[tuple[int, list[str]]]:
    """The header and the rows that have a value, each with its number, from 1."""
    lines = list(io.StringIO(text, newline=""))
    start, delimiter = _header_line(lines, columns)
    first = lines[start] if start < len(lines) else ""
    delimiter = delimiter or _delimiter(first, columns)
    spaced = f"{delimiter} " in first
    reader = csv.reader([*lines[start:], _END], delimiter=delimiter, skipinitialspace=spaced)
    rows: list[tuple[int, list[str]]] = []
    number = start
    try:
        for number, cells in enumerate(reader, start + 1):
            rows.append((number, cells))
    except csv.Error as error:
        raise UserError(f"{path}: not a CSV table: row {number + 1}: {error}") from None
    last, end = rows.pop()
    if end != [_END]:
        raise UserError(f"{path}: not a CSV table: row {last}: a quote is never closed")
    filled = [(n, row) for n, row in rows if any(map(tidy, row))]
    return [*filled[:1], *(r for r in filled[1:] if not _is_remark(r[1], filled[0][1]))]


def _is_remark(row: Sequence[str], header: Sequence[str]) -> bool:
    return len(header) > 1 and row[0].lstrip().startswith("#") and not any(map(tidy, row[1:]))


def _header_line(lines: Sequence[str], columns: Sequence[str]) -> tuple[int, str]:
    """The place of the header, and the delimiter that a line `sep=;` before it names, or ""."""
    delimiter = ""
    for place, line in enumerate(lines):
        bare = line.rstrip("\r\n").lstrip("\ufeff")
        separator = _SEPARATOR_LINE.fullmatch(bare)
        if separator:
            delimiter = separator[1]
        elif bare.strip().startswith("#") and not _has(bare, columns):
            continue
        elif bare.strip(" ,;\t|"):
            return place, delimiter
    return len(lines), delimiter


def _has(line: str, columns: Sequence[str]) -> bool:
    """Return True if a line that begins with # is a header with all `columns`."""
    return any(not _missing(_split(line, one), columns) for one in DELIMITERS)


def _delimiter(line: str, columns: Sequence[str]) -> str:
    """The delimiter with which most of `columns` are in the header, then most names at all."""

    def fit(one: str) -> tuple[int, int]:
        names = _split(line, one)
        return -len(_missing(names, columns)), len(names)

    return max(DELIMITERS, key=fit)


def _split(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), [])
    except csv.Error:
        return []


def _folded(name: str) -> str:
    return folded(name).lstrip("#").replace(" ", "")


def _missing(names: Iterable[str], columns: Iterable[str]) -> list[str]:
    present = set(map(_folded, names))
    return [name for name in columns if _folded(name) not in present]


def _named(
    path: Path, header: Sequence[str], columns: Sequence[str], optional: Iterable[str]
) -> list[str]:
    """The header's names, spelled as `columns` and the `optional` ones are."""
    known = {_folded(name): name for name in (*optional, *columns)}
    names = []
    for place, cell in enumerate(header, 1):
        name = printable(tidy(cell)) or f"column {place}"
        names.append(known.get(_folded(cell), name))
    counts: dict[str, int] = {}
    for name in names:
        counts[folded(name)] = counts.get(folded(name), 0) + 1
    for name in names:
        if counts[folded(name)] > 1:
            number = "two" if counts[folded(name)] == 2 else counts[folded(name)]
            raise UserError(f"{path}: {number} columns are named {name}; expected one")
    missing = [name for name in columns if name not in names]
    if missing:
        raise UserError(
            f"{path}: no column {', '.join(missing)}; found {', '.join(names)}"
            f"{suggestion(missing[0], names)}"
        )
    return names


def _refuse_long(
    path: Path, names: Sequence[str], rows: Iterable[tuple[int, Sequence[str]]]
) -> None:
    wrong = [
        f"row {number} has more values than the header has names: {len(row)} and {len(names)}"
        for number, row in rows
        if any(map(tidy, row[len(names) :]))
    ]
    if wrong:
        raise UserError(f"{path}: {wrong[0]}" if len(wrong) == 1 else f"{path}:\n{listed(wrong)}")
