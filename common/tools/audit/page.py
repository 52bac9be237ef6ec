"""The page of an audit: verdict, findings, figures, and sheets of the photos in question."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.data.layout import AGE_BORDERS, AGE_GROUPS, GENDERS, MASKS
from common.faces.decode import BadPhoto, decode, read_bytes
from common.render import figures
from common.render import page as html
from common.tools.audit.photos import BLURRED, BRIGHT, DARK
from common.tools.audit.tables import Finding

if TYPE_CHECKING:
    from common.tools.audit.command import Audit

SHOWN = 3  # cases of a finding before a click
PHOTOS = 24  # of a finding
SIZES = 8
KINDS = ("good", "warning", "error")  # by exit status


def page(audit: "Audit") -> str:
    """The whole page as HTML."""
    parts = [html.verdict(audit.verdict, KINDS[audit.status])]
    parts += [html.paragraph(line, "soft") for line in (audit.summary, *audit.details())]
    if audit.findings:
        parts += [html.heading("Findings"), _findings(audit)]
    drawn = list(_figures(audit))
    if drawn:
        parts += [html.heading("Figures"), html.figures(drawn)]
    sheets = [part for finding in audit.findings for part in _sheet(audit, finding)]
    if sheets:
        parts += [html.heading("Photos"), *sheets]
    return html.page(f"Audit of {audit.found.data}", parts)


def _findings(audit: "Audit") -> str:
    rows = []
    for finding in audit.findings:
        level = f'<b class="{finding.level}">{finding.level}</b>'
        what = html.plain(finding.title) + html.cases(finding.lines, SHOWN)
        rows.append((level, what, f"{len(finding.lines):,}"))
    return html.table(("", "what", "cases"), rows, numbers=[2])


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
                ages, bins[first:], "ages", "age in years", of="persons", marks=marks
            ),
            "Ages of the persons to train on; dashed lines are the borders between age groups.",
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
    yield (
        figures.histogram(
            {"darkest 5%": lows, "lightest 5%": highs}, np.linspace(0, 255, 52), "exposure", "gray",
            of="photos", marks=(DARK, BRIGHT), stacked=False,
        ),
        f"Exposure: the grays below which 5% and 95% of a photo's pixels lie. It is reported where "
        f"the lightest are below {DARK} or the darkest above {BRIGHT}.",
    )  # fmt: skip
    sharp = {"sharpness": [look.sharpness for _, look in audit.seen]}
    yield (
        figures.histogram(
            sharp, np.geomspace(1, 10_000, 61), "sharpness", "variance of the Laplacian",
            of="photos", marks=(BLURRED,), logarithmic=True,
        ),
        f"Sharpness; below {BLURRED} a photo is reported.",
    )  # fmt: skip


def _sheet(audit: "Audit", finding: Finding) -> Iterator[str]:
    """The photos of a finding under its title, at most PHOTOS of them."""
    photos = [(_pixels(path), audit.found.name(path)) for path in finding.photos[:PHOTOS]]
    readable = [
        (pixels, "/".join(Path(n).parts[-2:])) for pixels, n in photos if pixels is not None
    ]
    if readable:
        rest = len(finding.photos) - len(readable)
        more = f" ({len(readable)} of {len(finding.photos):,})" if rest else ""
        yield html.heading(f"{finding.title}{more}", 3)
        yield html.sheet(readable)


def _pixels(path: Path) -> np.ndarray | None:
    try:
        return decode(read_bytes(path))
    except BadPhoto:  # gone since it was looked at
        return None
