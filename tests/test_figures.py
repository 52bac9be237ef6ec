"""common/report/figures.py and html.py: what a page is made of."""

import re
from collections.abc import Callable
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest

from common.render import figures
from common.render import page as html

DRAWN: dict[str, Callable[[], str]] = {
    "grid": lambda: figures.grid([[1, 20], [0, 3000]], ["a", "b"], ["c", "<d>"], 'a "grid" & more'),
    "empty grid": lambda: figures.grid([[0.0, 0.0]], ["a"], ["b", "c"], "zeros", form="{:.2f}"),
    "bars": lambda: figures.bars({"$x$": 3, "y": 10_000}, "bars", "photos"),
    "histogram": lambda: figures.histogram(
        {"a": [1, 2, 2], "b": [3, 99]}, np.arange(6), "ages", "age", of="persons", marks=(2.5,)
    ),
    "confusion": lambda: figures.confusion(
        [[9, 1], [0, 1200]], ["a", "b"], ["c", "d"], "confusion"
    ),
    "confusion of nothing": lambda: figures.confusion([[0, 0], [0, 0]], "ab", "ab", "nothing"),
    "intervals": lambda: figures.intervals(
        {"a $1$": (0.5, 0.25, 0.75), "b": (1.0, 0.9, 1.0)}, "groups", "right", mark=0.7
    ),
    "reliability": lambda: figures.reliability(
        [(0.4, 0.5, 0.2, 0.8), (0.9, 1.0, 0.7, 1.0)], "age", ("probability", "right")
    ),
    "band": lambda: figures.band(
        [(29, 0.5, 0.2, 0.8), (30, 0.4, 0.1, 0.9)],
        [(29, 0.6)],
        "errors",
        ("age", "wrong"),
        marks=(29.5,),
    ),
    "logarithmic": lambda: figures.histogram(
        {"a": [0, 5, 1e9]}, np.geomspace(1, 100, 5), "s", "x", of="photos", logarithmic=True
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
    assert {"9", "1", "0", "1,200", "true", "answered"} <= set(words)
    words = "".join(ElementTree.fromstring(DRAWN["intervals"]()).itertext()).split()
    assert {"$1$", "b", "right", "100%"} <= set(words)


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


def test_a_page_is_whole_and_escapes_what_it_is_given() -> None:
    evil = "<script>alert(1)</script>\n\udcff&"
    photo = np.full((30, 400, 3), 200, np.uint8)
    text = html.page(
        evil,
        [
            html.verdict(evil, "good"),
            html.heading(evil),
            html.paragraph(evil, "soft"),
            html.table(("a", evil), [("1", html.cases([evil] * 5, 2))], numbers=[0]),
            html.figures([(DRAWN["bars"](), evil)]),
            html.sheet([(photo, evil)]),
            html.scroll(html.more(evil, html.table((evil,), []), printed=False), evil),
        ],
    )
    parser = Balance()
    parser.feed(text)
    assert not parser.open
    assert "<script" not in text and "\\udcff" in text
    text.encode()
    links = set(re.findall(r'(?:src|href)="([^"]{0,20})', text)) - {""}
    assert all(link.startswith(("data:", "#")) for link in links), links


@pytest.mark.parametrize(("lines", "hidden"), [(2, 0), (3, 1), (9, 7)])
def test_more_cases_are_behind_a_click(lines: int, hidden: int) -> None:
    text = html.cases([f"case {n}" for n in range(lines)], shown=2, limit=5)
    assert ("<details>" in text) == bool(hidden)
    assert not hidden or f"{hidden} more</summary>" in text
    assert ("… and 4 more" in text) == (lines == 9)
    assert text.count("<li>") == min(lines, 5) + (lines > 5)
