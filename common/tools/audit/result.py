"""The result of an audit, for the terminal and for the page."""

import dataclasses
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from common.tools.audit.tables import CODES, EVAL, LEVELS, Finding, Inventory, border_ages, code_of

if TYPE_CHECKING:
    from common.tools.audit.photos import Inspected

EXAMPLES = 5  # sizes of photos that are named
MEANINGS = {
    "error": "training or prediction stops, or its score is wrong",
    "warning": "for a person to decide",
    "note": "known and handled",
}


@dataclasses.dataclass(frozen=True)
class Audit:
    """Result of an audit; `findings` are sorted, errors first."""

    found: Inventory
    seen: "Sequence[Inspected]"
    sizes: Mapping[tuple[int, int], int]
    findings: Sequence[Finding]

    @property
    def counts(self) -> dict[str, int]:
        """Number of findings of each level."""
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
        """Numbers of people and photos, in a line."""
        photos, faces = self.found.photos, self.found.faces
        test = sum(photo.owner == EVAL for photo in photos)
        others = len(photos) - len(faces) - test
        people = len({face.person for face in faces})
        return (
            f"{len(faces):,} photos of {people:,} people to train on, {test:,} photos to predict"
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
