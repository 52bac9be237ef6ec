"""Photos side by side with a few words below each, to be looked over at once."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from common.data.decode import BadPhoto, decode, read_bytes

TILE = (168, 224)  # px wide and high, as 384 x 512
COLUMNS = 10
FONT_SIZE = 13
LINE = 17  # px from one line of text to the next
GAP = 6

Tile = tuple[Path, Sequence[str]]  # a photo and its lines of text


def contact_sheet(tiles: Sequence[Tile], columns: int = COLUMNS) -> Image.Image:
    """An RGB image of all photos, whole, row by row; a bad one is grey and says why."""
    columns = min(columns, len(tiles))
    lines = max(len(text) for _, text in tiles)
    width, height = TILE[0] + GAP, TILE[1] + lines * LINE + GAP
    sheet = Image.new(
        "RGB", (columns * width + GAP, -(-len(tiles) // columns) * height + GAP), "white"
    )
    draw = ImageDraw.Draw(sheet)
    for place, (path, text) in enumerate(tiles):
        left, top = GAP + place % columns * width, GAP + place // columns * height
        sheet.paste(_photo(path), (left, top))
        for number, line in enumerate(text):
            _write(draw, (left, top + TILE[1] + number * LINE), line)
    return sheet


def _photo(path: Path) -> Image.Image:
    try:
        photo = Image.fromarray(np.ascontiguousarray(decode(read_bytes(path))))
    except BadPhoto as reason:
        tile = Image.new("RGB", TILE, "lightgrey")
        _write(ImageDraw.Draw(tile), (GAP, TILE[1] // 2), str(reason))
        return tile
    return ImageOps.pad(photo, TILE, color="white")


def _write(draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str) -> None:
    """Write black text, cut off where the tile ends."""
    font = ImageFont.load_default(FONT_SIZE)
    shown = text
    while text and draw.textlength(shown, font) > TILE[0]:
        text = text[:-1]
        shown = text + "…"
    draw.text(place, shown, "black", font)
