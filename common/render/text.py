"""Tables as text: aligned columns for a terminal, and Markdown."""

import re
import textwrap
from collections.abc import Iterable, Sequence

NUMBER = r"[+-]?[\d,.]+%?"


def columns(
    header: Sequence[str], rows: Iterable[Sequence[str]], left: Iterable[int] = (0,)
) -> str:
    """Align cells below their headings, with two spaces between columns.

    Columns named in `left` are aligned to the left, all others to the right. Each row has as many
    cells as `header`; lines carry no trailing spaces.
    """
    lines, left = [header, *rows], set(left)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place in left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ).rstrip()
        for cells in lines
    )


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a Markdown table; a column is aligned to the right where all its cells are numbers."""
    rows = list(rows)
    right = [all(re.fullmatch(NUMBER, row[place]) for row in rows) for place in range(len(header))]
    rule = ["---:" if number else "---" for number in right]
    cells = [map(escaped, header), rule, *(map(escaped, row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def escaped(text: str) -> str:
    """Escape what Markdown would read as markup: table bars, tags and emphasis."""
    return re.sub(r"([|<*])", r"\\\1", text)


def filled(line: str, width: int = 100) -> str:
    """Break a line that holds flags into lines of `width` columns, never inside a flag or a value."""
    return textwrap.fill(
        line, width, subsequent_indent="  ", break_on_hyphens=False, break_long_words=False
    )
