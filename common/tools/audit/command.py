"""Inspect a data folder and list what is wrong with it, before a training fails on it.

    python -m common.tools.audit data
    python -m common.tools.audit data --all
    python -m common.tools.audit data --html audit.html

Tables, names, folders, every photo and the folds of all trainings, in one pass that doesn't stop at the first problem.
Exit status: 0 clean, 1 warnings, 2 errors. Notes are known and handled, and change no status.
"""

import argparse
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from common.base.command import Parser, guarded
from common.base.errors import printable
from common.base.fields import add_flags
from common.base.files import writable_file, write_whole
from common.base.run_settings import Run
from common.data.layout import AGE_GROUPS, GENDERS, MASKS
from common.tools.audit.result import Audit
from common.tools.audit.tables import (
    LEVELS,
    Finding,
    take_stock,
)

EXAMPLES = 5
INDENT = " " * 9


def audit(data: Path, *, folds: int, workers: int, cache_dir: Path, detect: bool = True) -> Audit:
    """Inspect the folder `data`.

    Raises:
        UserError: there is nothing in it.
    """
    from common.tools.audit.photos import examine, inspect_all, sizes

    found = take_stock(data, folds)
    seen, bad = inspect_all(found.photos, cache_dir, workers=workers, detect=detect)
    findings = found.findings + examine(seen, bad)
    findings.sort(key=lambda finding: LEVELS.index(finding.level))
    return Audit(found, seen, sizes(seen), findings)


def class_table(codes: Sequence[int]) -> Iterator[str]:
    """The photos of the 18 classes: a row for each way to wear a mask."""
    columns = len(GENDERS) * len(AGE_GROUPS)
    first = max(map(len, MASKS))
    wide = max(8, *(len(f"{count:,}") for count in codes)) + 1
    heads = "".join(gender.rjust(wide).ljust(wide * len(AGE_GROUPS)) for gender in GENDERS)
    yield " " * first + heads.rstrip()
    yield (
        " " * first + "".join(group.rjust(wide) for group in AGE_GROUPS * len(GENDERS)) + "  codes"
    )
    for place, mask in enumerate(MASKS):
        row = codes[place * columns : (place + 1) * columns]
        cells = "".join(f"{count:,}".rjust(wide) for count in row)
        yield f"{mask.ljust(first)}{cells}  {place * columns}-{(place + 1) * columns - 1}"


def described(finding: Finding, *, everything: bool, width: int) -> Iterator[str]:
    """A line that names and counts, and below it a few examples or every case."""
    yield f"{finding.level.ljust(len(INDENT))}{finding.title}: {len(finding.lines):,}"
    lines = [printable(line) for line in finding.lines]
    if everything:
        yield from (INDENT + line for line in lines)
        return
    shown = min(EXAMPLES, len(lines))
    while shown > 1 and len(INDENT + _examples(lines, shown)) > width:
        shown -= 1
    yield INDENT + _examples(lines, shown)


def _examples(lines: Sequence[str], number: int) -> str:
    rest = f"; and {len(lines) - number:,} more" if len(lines) > number else ""
    return "; ".join(lines[:number]) + rest


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m common.tools.audit",
        usage="%(prog)s DIR [flags]",
        description="Inspect a data folder: what is in it, and what is wrong with it.\n"
        "exit status: 0 clean, 1 warnings, 2 errors",
    )
    add = parser.add_argument
    add("data", metavar="DIR", type=Path, help="folder with train/, eval/ or both")
    add(
        "--all",
        dest="everything",
        action="store_true",
        help="list every case, not a few of each kind",
    )
    add(
        "--html",
        metavar="FILE",
        type=Path,
        nargs="?",
        const=Path("audit.html"),
        help="also write one page with figures and photos (audit.html where no name is given)",
    )
    add(
        "--faces",
        dest="detect",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="detect faces: slow at first, then cached in --cache-dir",
    )
    add_flags(parser, Run, only=("folds", "workers", "cache_dir"))
    return parser


def _command(data: Path, *, everything: bool, html: Path | None, **settings: Any) -> int:
    if html is not None:
        writable_file(html, "page")
    result = audit(data, **settings)
    width = shutil.get_terminal_size((100, 24)).columns
    lines = [f"{data}: {result.summary}"]
    lines += class_table(result.codes()) if result.found.faces else []
    lines += [*result.details(), ""]
    for finding in result.findings:
        lines += described(finding, everything=everything, width=width)
    lines += ["" if result.findings else "nothing to report", f"verdict: {result.verdict}"]
    print("\n".join(lines))
    if html is not None:
        from common.tools.audit.page import page  # brings matplotlib

        write_whole(html, page(result).encode(errors="xmlcharrefreplace"))
        print(f"page → {html}")
    return result.status


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return guarded(lambda: _command(**vars(_parser().parse_args(arguments))))
