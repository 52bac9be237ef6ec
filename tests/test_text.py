"""Text tables: alignment in a terminal, and Markdown."""

from common.render.text import columns, escaped, markdown

HEADER = ("class", "photos")
ROWS = [("bare", "1,200"), ("a|b", "7")]


def test_columns_align_names_left_and_numbers_right() -> None:
    assert columns(HEADER, ROWS) == "class  photos\nbare    1,200\na|b         7"
    assert columns(HEADER, ROWS, left=(0, 1)).splitlines()[2] == "a|b    7"
    assert columns(("", "x"), [("", "")]) == "  x\n"


def test_markdown_aligns_numbers_and_escapes_cells() -> None:
    assert markdown(HEADER, ROWS).splitlines() == [
        "| class | photos |",
        "| --- | ---: |",
        "| bare | 1,200 |",
        r"| a\|b | 7 |",
    ]
    assert escaped("<b>*") == r"\<b>\*"
