"""The page of an audit: verdict, findings, figures, and sheets of the photos in question."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.data.layout import AGE_BORDERS, AGE_GROUPS, GENDERS, MASKS
from common.faces.decode import BadPhoto, decode, read_bytes
from common.render import figures
from common.render.figures import BinnedAxis
from common.render.page import render
from common.tools.audit.photos import BLURRED, BRIGHT, DARK
from common.tools.audit.tables import Finding

if TYPE_CHECKING:
    from common.tools.audit.result import Audit

TEMPLATE = Path(__file__).with_name("audit.html")
SHOWN = 3  # cases of a finding before a click
PHOTOS = 24  # of a finding
SIZES = 8
LEVELS = ("good", "warning", "error")  # by exit status


def page(audit: "Audit") -> str:
    """The whole page as HTML."""
    return render(
        TEMPLATE,
        title=f"Audit of {audit.found.data}",
        outcome=audit.verdict,
        level=LEVELS[audit.status],
        summary=[audit.summary, *audit.details()],
        findings=audit.findings,
        shown=SHOWN,
        drawn=list(_figures(audit)),
        sheets=[sheet for finding in audit.findings if (sheet := _sheet(audit, finding))],
    )


def _figures(audit: "Audit") -> Iterator[tuple[str, str]]:
    """SVG and caption of each figure that there are numbers for."""
    codes = np.array(audit.codes())
    if codes.any():
        columns = [f"{gender}\n{group}" for gender in GENDERS for group in AGE_GROUPS]
        svg = figures.grid(
            codes.reshape(len(MASKS), -1), MASKS, columns, "photos of the 18 classes"
        )
        yield svg, "Photos to train on in each of the 18 classes, in code order row by row."
    ages = {
        gender: [p.age for p in audit.found.people if p.gender == gender and p.age is not None]
        for gender in GENDERS
    }
    unknown = [p.age for p in audit.found.people if not p.gender and p.age is not None]
    ages |= {"unknown": unknown} if unknown else {}
    if any(ages.values()):
        oldest = max(map(max, filter(None, ages.values())))
        bins = np.arange(0, oldest + 2) - 0.5
        first = max(0, min(map(min, filter(None, ages.values()))) - 1)
        marks = [border - 0.5 for border in AGE_BORDERS]
        yield (
            figures.histogram(
                ages, BinnedAxis(bins[first:], "age in years", marks), "ages", of="people"
            ),
            "Ages of the people to train on; dashed lines are the borders between age groups.",
        )
    if not audit.seen:
        return
    if len(audit.sizes) > 1:
        shown = list(audit.sizes.items())[:SIZES]
        rest = len(audit.seen) - sum(count for _, count in shown)
        sizes = {f"{width} x {height}": count for (height, width), count in shown}
        sizes |= {"others": rest} if rest else {}
        yield figures.bars(sizes, "photo sizes", "photos"), "Width x height in pixels."
    yield from _appearance(audit)


def _appearance(audit: "Audit") -> Iterator[tuple[str, str]]:
    lows, highs = zip(*(look.tones for _, look in audit.seen), strict=True)
    tones = {"darkest 5%": lows, "lightest 5%": highs}
    axis = BinnedAxis(np.linspace(0, 255, 52), "gray", (DARK, BRIGHT))
    yield (
        figures.histogram(tones, axis, "exposure", of="photos", stacked=False),
        f"Exposure: the grays below which 5% and 95% of a photo's pixels lie. It is reported where "
        f"the lightest are below {DARK} or the darkest above {BRIGHT}.",
    )
    sharp = {"sharpness": [look.sharpness for _, look in audit.seen]}
    edges = np.geomspace(1, 10_000, 61)
    axis = BinnedAxis(edges, "variance of the Laplacian", (BLURRED,), logarithmic=True)
    yield (
        figures.histogram(sharp, axis, "sharpness", of="photos"),
        f"Sharpness; below {BLURRED} a photo is reported.",
    )


def _sheet(audit: "Audit", finding: Finding) -> tuple[str, list[tuple[np.ndarray, str]]] | None:
    """The title and the photos of a finding, at most PHOTOS; None if none can be read."""
    photos = [(_pixels(path), audit.found.name(path)) for path in finding.photos[:PHOTOS]]
    readable = [
        (pixels, "/".join(Path(n).parts[-2:])) for pixels, n in photos if pixels is not None
    ]
    if not readable:
        return None
    some = len(readable) < len(finding.photos)
    number = f" ({len(readable)} of {len(finding.photos):,})" if some else ""
    return f"{finding.title}{number}", readable


def _pixels(path: Path) -> np.ndarray | None:
    try:
        return decode(read_bytes(path))
    except BadPhoto:  # gone since it was looked at
        return None
