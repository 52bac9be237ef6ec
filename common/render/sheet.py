"""Photos side by side with a few words below each, to be looked over at once."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

TILE = (168, 224)  # px wide and high, as photos of 384 x 512
COLUMNS = 10
FONT_SIZE = 13
LINE = 17  # px from one line of text to the next
GAP = 6

Tile = tuple[np.ndarray | str, Sequence[str]]  # pixels, or why there are none; lines of text


def contact_sheet(
    tiles: Sequence[Tile], columns: int = COLUMNS, size: tuple[int, int] = TILE
) -> Image.Image:
    """An RGB image of all photos, whole, row by row; one without pixels is grey and says why.

    Photos are fitted into `size`, (width, height) in pixels; pixels are (height, width, 3) uint8 RGB.
    """
    columns = min(columns, len(tiles))
    lines = max(len(text) for _, text in tiles)
    width, height = size[0] + GAP, size[1] + lines * LINE + GAP
    sheet = Image.new(
        "RGB", (columns * width + GAP, -(-len(tiles) // columns) * height + GAP), "white"
    )
    draw = ImageDraw.Draw(sheet)
    for place, (photo, text) in enumerate(tiles):
        left, top = GAP + place % columns * width, GAP + place // columns * height
        sheet.paste(_fitted(photo, size), (left, top))
        for number, line in enumerate(text):
            _write(draw, (left, top + size[1] + number * LINE), line, size[0])
    return sheet


def _fitted(photo: np.ndarray | str, size: tuple[int, int]) -> Image.Image:
    if isinstance(photo, str):
        tile = Image.new("RGB", size, "lightgrey")
        _write(ImageDraw.Draw(tile), (GAP, size[1] // 2), photo, size[0])
        return tile
    return ImageOps.pad(Image.fromarray(np.ascontiguousarray(photo)), size, color="white")


def _write(draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str, width: int) -> None:
    """Write black text, cut off where the tile ends."""
    font = ImageFont.load_default(FONT_SIZE)
    shown = text
    while text and draw.textlength(shown, font) > width:
        text = text[:-1]
        shown = text + "…"
    draw.text(place, shown, "black", font)
