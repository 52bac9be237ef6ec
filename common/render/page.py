"""A report as one HTML file that needs nothing else: no network, no scripts, no other file.

It reads on a phone, on paper, and in light or dark as the reader's system is set. Functions return
HTML; plain text that they are given is escaped.
"""

import base64
from collections.abc import Iterable, Sequence
from html import escape

import cv2
import numpy as np

from common.base.errors import printable

THUMBNAIL_SIDE = 144  # px of the longer side
COLOURS = """
:root { color-scheme: light dark; --paper: #fcfcfb; --ink: #1a1a19; --soft: #5f5e59; --faint: #c9c8c2;
  --panel: #f1f0ec; --error: #b3261e; --warning: #8a5a00; --note: #5f5e59; --good: #2a6b2a;
  --series-1: #2a78d6; --series-2: #d9622b; --series-3: #1f8f6f; --series-4: #8a63c9; }
@media screen and (prefers-color-scheme: dark) { :root { --paper: #1a1a19; --ink: #eeede8; --soft: #a5a49d;
  --faint: #55544f; --panel: #262624; --error: #ff8a80; --warning: #f0b955; --note: #a5a49d;
  --good: #7cc47c; --series-1: #5a9de8; --series-2: #e8814f; --series-3: #45b592;
  --series-4: #ab8ce0; } }
"""
STYLE = (
    COLOURS
    + """* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 60rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.4rem; line-height: 1.25; margin: 0.5rem 0; }
h2 { font-size: 1.15rem; margin: 2rem 0 0.5rem; }
h3 { font-size: 1rem; margin: 1.25rem 0 0.5rem; }
.verdict { border-left: 0.3rem solid var(--faint); background: var(--panel); padding: 0.6rem 0.9rem; }
.verdict.error { border-color: var(--error); } .verdict.warning { border-color: var(--warning); }
.verdict.good { border-color: var(--good); }
b.error { color: var(--error); } b.warning { color: var(--warning); } b.note { color: var(--note); }
.verdict a { color: inherit; }
.soft, figcaption { color: var(--soft); font-size: 0.85rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: 0.35rem 0.8rem 0.35rem 0;
  border-bottom: 1px solid var(--faint); }
th { color: var(--soft); font-size: 0.85rem; font-weight: 600; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
th:first-child, td:first-child { overflow-wrap: normal; }
ul { margin: 0.3rem 0; padding-left: 1.1rem; font-size: 0.85rem; }
summary { cursor: pointer; }
details { margin: 0.3rem 0; }
.range { color: var(--soft); white-space: nowrap; }
.scroll { overflow-x: auto; margin: 0.75rem 0; font-size: 0.9rem; }
.scroll th, .scroll td { white-space: nowrap; padding-right: 1.2rem; font-size: 1em; }
@media screen { .scroll th:first-child, .scroll td:first-child { position: sticky; left: 0;
  background: var(--paper); } }
.scroll svg { min-width: 46rem; }
figure { margin: 0; }
svg { display: block; width: 100%; height: auto; }
svg * { stroke-linejoin: round; stroke-linecap: butt; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr));
  gap: 1.5rem; margin: 0.75rem 0; }
.sheet { display: grid; grid-template-columns: repeat(auto-fill, minmax(6.5rem, 1fr)); gap: 0.75rem; }
.sheet img { width: 100%; height: 8.5rem; object-fit: contain; background: var(--panel);
  display: block; }
.sheet figcaption { font-size: 0.7rem; line-height: 1.3; }
@media print { :root { --paper: #fff; } body { max-width: none; padding: 0; }
  figure, tr { break-inside: avoid; } h2, h3, h2 + p, h3 + p { break-after: avoid; }
  .scroll { overflow: visible; font-size: 0.7rem; } .scroll svg { min-width: 0; }
  .sheet { grid-template-columns: repeat(6, 1fr); } .screen { display: none; }
  details::details-content { content-visibility: visible; height: auto; } }
"""
)


def plain(text: str) -> str:
    """Plain text as HTML."""
    return escape(printable(text))


def page(title: str, parts: Iterable[str]) -> str:
    """A whole document of parts that are HTML."""
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{plain(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>",
            f"<h1>{plain(title)}</h1>",
            *parts,
            "</body>\n</html>\n",
        ]
    )


def heading(text: str, level: int = 2) -> str:
    """A heading; level 1 is the page's title."""
    return f"<h{level}>{plain(text)}</h{level}>"


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph; `kind` is a class of the style."""
    return f'<p class="{kind}">{plain(text)}</p>' if kind else f"<p>{plain(text)}</p>"


def verdict(text: str, kind: str) -> str:
    """The outcome, first on the page; `kind` is error, warning or good."""
    return f'<p class="verdict {kind}"><strong>{plain(text)}</strong></p>'


def table(header: Sequence[str], rows: Iterable[Sequence[str]], numbers: Iterable[int] = ()) -> str:
    """A table of cells that are HTML; columns of `numbers` are set to the right."""
    right = set(numbers)

    def line(cells: Sequence[str], tag: str) -> str:
        kinds = (' class="number"' if place in right else "" for place in range(len(cells)))
        inside = (f"<{tag}{kind}>{cell}</{tag}>" for kind, cell in zip(kinds, cells, strict=True))
        return f"<tr>{''.join(inside)}</tr>"

    head = line([plain(name) for name in header], "th")
    body = "\n".join(line(row, "td") for row in rows)
    return f"<table>\n<thead>{head}</thead>\n<tbody>\n{body}\n</tbody>\n</table>"


def scroll(content: str, label: str) -> str:
    """Content that is moved sideways where the page is too narrow for it; `label` says what it is."""
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{plain(label)}">{content}</div>'


def more(summary: str, content: str, *, printed: bool = True) -> str:
    """Content behind a click; on paper it is open, or left out."""
    kind = "" if printed else ' class="screen"'
    return f"<details{kind}><summary>{plain(summary)}</summary>{content}</details>"


def cases(lines: Sequence[str], shown: int, limit: int = 1000) -> str:
    """A list of plain lines: the first `shown`, the others (up to `limit`) behind a click."""

    def items(part: Sequence[str]) -> str:
        return f"<ul>{''.join(f'<li>{plain(line)}</li>' for line in part)}</ul>"

    if len(lines) <= shown:
        return items(lines)
    rest = list(lines[shown:limit])
    if len(lines) > limit:
        rest.append(f"… and {len(lines) - limit:,} more")
    return items(lines[:shown]) + more(f"{len(lines) - shown:,} more", items(rest))


def figures(drawn: Iterable[tuple[str, str]]) -> str:
    """Figures side by side where there is room: (SVG, caption)."""
    inside = (
        f"<figure>{svg}<figcaption>{plain(text)}</figcaption></figure>" for svg, text in drawn
    )
    return f'<div class="figures">{"".join(inside)}</div>'


def sheet(photos: Iterable[tuple[np.ndarray, str]]) -> str:
    """Small photos with captions: (height, width, 3) uint8 RGB and plain text."""
    inside = (
        f'<figure><img src="{thumbnail(photo)}" alt="{plain(text)}">'
        f"<figcaption>{plain(text)}</figcaption></figure>"
        for photo, text in photos
    )
    return f'<div class="sheet">{"".join(inside)}</div>'


def thumbnail(photo: np.ndarray) -> str:
    """A (height, width, 3) uint8 RGB photo, made small, as a data URI."""
    scale = min(1.0, THUMBNAIL_SIDE / max(photo.shape[:2]))
    size = [max(1, round(side * scale)) for side in photo.shape[1::-1]]
    small = cv2.resize(photo, size, interpolation=cv2.INTER_AREA)
    data = cv2.imencode(".jpg", small[:, :, ::-1], (cv2.IMWRITE_JPEG_QUALITY, 80))[1]
    return f"data:image/jpeg;base64,{base64.b64encode(data.tobytes()).decode()}"
