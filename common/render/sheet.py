"""Photos with captions: side by side in one image, or small enough to embed in a page."""

import base64
from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

TILE = (168, 224)  # px wide and high, the aspect ratio of the competition's 384 x 512
COLUMNS = 10
FONT_SIZE = 13  # px
TILE_LINE = 17  # px from one line of text to the next
TILE_GAP = 6  # px
THUMBNAIL_SIDE = 144  # px of the longer side
THUMBNAIL_QUALITY = 80  # of JPEG

Tile = tuple[np.ndarray | str, Sequence[str]]  # pixels, or why there are none; lines of text


def contact_sheet(
    tiles: Sequence[Tile], columns: int = COLUMNS, size: tuple[int, int] = TILE
) -> Image.Image:
    """Draw photos row by row with their lines of text below, as an RGB image.

    Photos are (height, width, 3) uint8 RGB and are fitted into `size`, (width, height) in pixels,
    without cropping. A tile without pixels is grey and says why.
    """
    columns = min(columns, len(tiles))
    lines = max(len(text) for _, text in tiles)
    width, height = size[0] + TILE_GAP, size[1] + lines * TILE_LINE + TILE_GAP
    whole = columns * width + TILE_GAP, -(-len(tiles) // columns) * height + TILE_GAP
    sheet = Image.new("RGB", whole, "white")
    draw = ImageDraw.Draw(sheet)
    for place, (photo, text) in enumerate(tiles):
        left, top = TILE_GAP + place % columns * width, TILE_GAP + place // columns * height
        sheet.paste(_fitted(photo, size), (left, top))
        for number, line in enumerate(text):
            _write(draw, (left, top + size[1] + number * TILE_LINE), line, size[0])
    return sheet


def _fitted(photo: np.ndarray | str, size: tuple[int, int]) -> Image.Image:
    if isinstance(photo, str):
        tile = Image.new("RGB", size, "lightgrey")
        _write(ImageDraw.Draw(tile), (TILE_GAP, size[1] // 2), photo, size[0])
        return tile
    return ImageOps.pad(Image.fromarray(np.ascontiguousarray(photo)), size, color="white")


def _write(draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str, width: int) -> None:
    """Write black text, truncated at the tile's right edge."""
    font = ImageFont.load_default(FONT_SIZE)
    shown = text
    while text and draw.textlength(shown, font) > width:
        text = text[:-1]
        shown = text + "…"
    draw.text(place, shown, "black", font)


def data_uri(photo: np.ndarray) -> str:
    """Scale a (height, width, 3) uint8 RGB photo down and encode it as a JPEG data URI."""
    scale = min(1.0, THUMBNAIL_SIDE / max(photo.shape[:2]))
    size = [max(1, round(side * scale)) for side in photo.shape[1::-1]]
    small = cv2.resize(photo, size, interpolation=cv2.INTER_AREA)
    quality = (cv2.IMWRITE_JPEG_QUALITY, THUMBNAIL_QUALITY)
    data = cv2.imencode(".jpg", small[:, :, ::-1], quality)[1]
    return f"data:image/jpeg;base64,{base64.b64encode(data.tobytes()).decode()}"
