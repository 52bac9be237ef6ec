"""Looks through a data folder and says what is wrong with it, before a training stumbles on it.

    python -m common.tools.audit data
    python -m common.tools.audit data --all
    python -m common.tools.audit data --html audit.html

Tables, names, folders, every photo and the folds of all trainings, in one pass that stops at nothing.
Exit status: 0 clean, 1 warnings, 2 errors. Notes are known and handled, and change no status.
"""

import argparse
import dataclasses
import shutil
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.base.command import Parser, guarded
from common.base.errors import printable
from common.base.fields import add_flags
from common.base.files import writable_file, write_whole
from common.base.run_settings import Run
from common.data.layout import AGE_GROUPS, GENDERS, MASKS
from common.tools.audit.tables import (
    CODES,
    EVAL,
    LEVELS,
    Finding,
    Inventory,
    border_ages,
    code_of,
    take_stock,
)

if TYPE_CHECKING:
    from common.tools.audit.photos import Looked

EXAMPLES = 5
INDENT = " " * 9
MEANINGS = {
    "error": "training or prediction stops, or its score is wrong",
    "warning": "for a person to decide",
    "note": "known and handled",
}


@dataclasses.dataclass(frozen=True)
class Audit:
    """All that was found; `findings` are sorted, errors first."""

    found: Inventory
    seen: "Sequence[Looked]"
    sizes: Mapping[tuple[int, int], int]
    findings: Sequence[Finding]

    @property
    def counts(self) -> dict[str, int]:
        """How many findings there are of each level."""
        counts = Counter(finding.level for finding in self.findings)
        return {level: counts[level] for level in LEVELS}

    @property
    def status(self) -> int:
        """The exit status: 0 clean, 1 warnings, 2 errors."""
        return 2 if self.counts["error"] else 1 if self.counts["warning"] else 0

    @property
    def verdict(self) -> str:
        """The outcome in a line."""
        counts = {level: count for level, count in self.counts.items() if count}
        shown = ", ".join(f"{n} {level}{'s' * (n > 1)}" for level, n in counts.items())
        if not self.status:
            return f"clean ({shown})" if shown else "clean"
        return f"{shown}: {MEANINGS['error' if self.status == 2 else 'warning']}"

    @property
    def summary(self) -> str:
        """How much there is, in a line."""
        photos, faces = self.found.photos, self.found.faces
        test = sum(photo.owner == EVAL for photo in photos)
        others = len(photos) - len(faces) - test
        persons = len({face.person for face in faces})
        return (
            f"{len(faces):,} photos of {persons:,} persons to train on, {test:,} photos to predict"
            + (f", {others:,} others" if others else "")
        )

    def details(self) -> Iterator[str]:
        """Ages, sizes and faces, a line each, where there are any."""
        people = [p for p in self.found.people if p.exact and p.age is not None]
        if people:
            years = sorted(person.age for person in people)
            beside = ", ".join(f"{age}: {n:,}" for age, n in border_ages(people).items())
            yield (
                f"ages: {years[0]} to {years[-1]}, median {statistics.median(years):.0f}; beside "
                f"the borders between groups {beside}"
            )
        sizes = [f"{w} x {h}: {count:,}" for (h, w), count in self.sizes.items()]
        rest = [f"{len(sizes) - EXAMPLES} other sizes"] if len(sizes) > EXAMPLES else []
        if sizes:
            yield f"width x height: {', '.join(sizes[:EXAMPLES] + rest)}"
        found = [look.face.faces if look.face.box else 0 for _, look in self.seen if look.face]
        if found:
            counts = Counter(min(faces, 2) for faces in found)
            yield f"faces found: one {counts[1]:,}, several {counts[2]:,}, none {counts[0]:,}"

    def codes(self) -> list[int]:
        """Photos of each of the 18 classes."""
        counts = Counter(map(code_of, self.found.faces))
        return [counts[code] for code in range(len(CODES))]


def audit(data: Path, *, folds: int, workers: int, cache_dir: Path, detect: bool = True) -> Audit:
    """Look through the folder `data`; UserError where there is nothing to look at."""
    from common.tools.audit.photos import examine, look_at_all, sizes

    found = take_stock(data, folds)
    seen, bad = look_at_all(found.photos, cache_dir, workers=workers, detect=detect)
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
    shown = next(
        n for n in range(min(EXAMPLES, len(lines)), 0, -1)
        if n == 1 or len(INDENT + _examples(lines, n)) <= width
    )  # fmt: skip
    yield INDENT + _examples(lines, shown)


def _examples(lines: Sequence[str], number: int) -> str:
    rest = f"; and {len(lines) - number:,} more" if len(lines) > number else ""
    return "; ".join(lines[:number]) + rest


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m common.tools.audit",
        usage="%(prog)s DIR [flags]",
        description="Look through a data folder: what is in it, and what is wrong with it.\n"
        "exit status: 0 clean, 1 warnings, 2 errors",
    )
    add = parser.add_argument
    add("directory", metavar="DIR", type=Path, help="folder with train/, eval/ or both")
    add("--all", action="store_true", help="list every case, not a few of each kind")
    add(
        "--html", metavar="FILE", type=Path, nargs="?", const=Path("audit.html"),
        help="also write one page with figures and photos (audit.html where no name is given)",
    )  # fmt: skip
    add(
        "--faces", action=argparse.BooleanOptionalAction, default=True,
        help="look for faces: slow at first, then remembered in --cache-dir",
    )  # fmt: skip
    add_flags(parser, Run, only=("folds", "workers", "cache_dir"))
    return parser


def _command(options: argparse.Namespace) -> int:
    if options.html is not None:
        writable_file(options.html)
    result = audit(
        options.directory,
        folds=options.folds,
        workers=options.workers,
        cache_dir=options.cache_dir,
        detect=options.faces,
    )
    width = shutil.get_terminal_size((100, 24)).columns
    lines = [f"{options.directory}: {result.summary}"]
    lines += class_table(result.codes()) if result.found.faces else []
    lines += [*result.details(), ""]
    for finding in result.findings:
        lines += described(finding, everything=options.all, width=width)
    lines += ["" if result.findings else "nothing to report", f"verdict: {result.verdict}"]
    print("\n".join(lines))
    if options.html is not None:
        from common.tools.audit.page import page

        write_whole(options.html, page(result).encode(errors="xmlcharrefreplace"))
        print(f"page → {options.html}")
    return result.status


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return guarded(lambda: _command(_parser().parse_args(arguments)))
