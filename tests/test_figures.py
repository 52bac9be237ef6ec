"""common/render: figures, and the parts of a page."""

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from common.render import figures
from common.render.figures import BinnedAxis
from common.render.page import render

DRAWN: dict[str, Callable[[], str]] = {
    "grid": lambda: figures.grid([[1, 20], [0, 3000]], ["a", "b"], ["c", "<d>"], 'a "grid" & more'),
    "empty grid": lambda: figures.grid([[0, 0]], ["a"], ["b", "c"], "zeros"),
    "bars": lambda: figures.bars({"$x$": 3, "y": 10_000}, "bars", "photos"),
    "histogram": lambda: figures.histogram(
        {"a": [1, 2, 2], "b": [3, 99]}, BinnedAxis(range(6), "age", (2.5,)), "ages", of="people"
    ),
    "confusion": lambda: figures.confusion(
        [[9, 1], [0, 1200]], ["a", "b"], ["c", "d"], "confusion"
    ),
    "confusion of nothing": lambda: figures.confusion([[0, 0], [0, 0]], "ab", "ab", "nothing"),
    "intervals": lambda: figures.intervals(
        {"a $1$": (0.5, 0.25, 0.75), "b": (1.0, 0.9, 1.0)}, "groups", "correct", mark=0.7
    ),
    "reliability": lambda: figures.reliability(
        [(0.4, 0.5, 0.2, 0.8), (0.9, 1.0, 0.7, 1.0)], "age", ("probability", "correct")
    ),
    "band": lambda: figures.band(
        [(29, 0.5, 0.2, 0.8), (30, 0.4, 0.1, 0.9)],
        [(29, 0.6)],
        "errors",
        ("age", "wrong"),
        marks=(29.5,),
    ),
    "logarithmic": lambda: figures.histogram(
        {"a": [0, 5, 1e9]},
        BinnedAxis(np.geomspace(1, 100, 5), "x", logarithmic=True),
        "s",
        of="photos",
    ),
}


@pytest.mark.parametrize("draw", DRAWN.values(), ids=DRAWN)
def test_a_figure_is_one_svg_in_the_pages_colours(draw: Callable[[], str]) -> None:
    text = draw()
    root = ElementTree.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg" and root.get("aria-label")
    assert "width" not in root.attrib  # as wide as the page gives it
    assert not re.search(r"#[0-9a-f]{6}\b", text), "a colour that doesn't change with the page's"
    assert "var(--ink)" in text
    assert text == draw()


def test_a_figure_shows_its_numbers_and_names() -> None:
    words = "".join(ElementTree.fromstring(DRAWN["grid"]()).itertext()).split()
    assert {"1", "20", "0", "3,000", "a", "b", "c", "<d>"} <= set(words)
    words = "".join(ElementTree.fromstring(DRAWN["bars"]()).itertext()).split()
    assert {"$x$", "y", "3", "10,000"} <= set(words)
    words = "".join(ElementTree.fromstring(DRAWN["confusion"]()).itertext()).split()
    assert {"9", "1", "0", "1,200", "true", "predicted"} <= set(words)
    words = "".join(ElementTree.fromstring(DRAWN["intervals"]()).itertext()).split()
    assert {"$1$", "b", "correct", "100%"} <= set(words)


class Balance(HTMLParser):
    """The tags that are open, and whether any was closed that wasn't."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, _: object) -> None:
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


PARTS = """{% extends "base.html" %}
{% from "parts.html" import cases, figures, more, pairs, sheet, verdict, wide_table %}
{% block content %}
{{ verdict(evil, "good") }}
{{ wide_table(["a", evil], [[evil, "1"], [evil, (evil, evil)]], evil) }}
{{ cases([evil] * 5, 2) }}
{{ figures([(svg, evil)]) }}
{{ sheet([(photo, evil)]) }}
{% call more(evil, printed=false) %}{{ pairs([(evil, evil)]) }}{% endcall %}
{% endblock %}
"""
CASES = """{% from "parts.html" import cases %}{{ cases(lines, 2, 5) }}"""


def filled(folder: Path, template: str, **values: object) -> str:
    file = folder / "page.html"
    file.write_text(template)
    return render(file, **values)


def test_a_page_is_whole_and_escapes_what_it_is_given(tmp_path: Path) -> None:
    evil = '<script>alert(1)</script>\n\udcff&"'
    photo = np.full((30, 400, 3), 200, np.uint8)
    text = filled(tmp_path, PARTS, title=evil, evil=evil, svg=DRAWN["bars"](), photo=photo)
    parser = Balance()
    parser.feed(text)
    assert not parser.open
    assert "<script" not in text and "\\udcff" in text
    assert text.count("&lt;script") == 20
    text.encode()
    links = set(re.findall(r'(?:src|href)="([^"]{0,20})', text)) - {""}
    assert all(link.startswith(("data:", "#")) for link in links), links


@pytest.mark.parametrize(("lines", "hidden"), [(2, 0), (3, 1), (9, 7)])
def test_more_cases_are_behind_a_click(tmp_path: Path, lines: int, hidden: int) -> None:
    text = filled(tmp_path, CASES, lines=[f"case {n}" for n in range(lines)])
    assert ("<details>" in text) == bool(hidden)
    assert not hidden or f"{hidden} more</summary>" in text
    assert ("… and 4 more" in text) == (lines == 9)
    assert text.count("<li>") == min(lines, 5) + (lines > 5)
