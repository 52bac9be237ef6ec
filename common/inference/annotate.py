"""Copies of photos with a box and the prediction at every face."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from common.base.errors import UserError
from common.base.files import made_folder, whole_file
from common.base.progress import progress
from common.faces.decode import decode, read_bytes
from common.inference.codes import Codes
from common.inference.predictions import Predictions

# Okabe and Ito 2008: eight colours that colour-blind people can tell apart, most distant first
PALETTE = ("#0072B2", "#F0E442", "#D55E00", "#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#000000")
NO_FACE = "#BBBBBB"
LONGER_SIDE = 1280  # px; smaller photos are enlarged, so that the words fit beside small faces
LETTERS = 16  # px of a copy whose longer side has LONGER_SIDE; larger copies have larger letters
QUALITY = 92
MARK = b"drawn by face-mask-gender-age"  # the JPEG comment of a copy, which may be replaced
COMMENT_WITHIN = 4096  # bytes at the start of a JPEG that hold its comment
Box = tuple[float, float, float, float]
Label = tuple[Sequence[str], str]  # lines of text, and a colour


def copies(
    folder: Path, names: Sequence[str], paths: Sequence[Path], flag: str = "--draw"
) -> list[Path]:
    """Name each photo's copy below `folder`, which is made: {name}, or if no JPEG {name}.jpg.

    Raises:
        UserError: a copy would lie outside the folder or replace a photo, or a folder can't be made;
            the message begins with `flag`.
    """
    files, taken = [], set(names)
    for name, path in zip(names, paths, strict=True):
        copy = name
        while not copy.lower().endswith((".jpg", ".jpeg")) or (copy != name and copy in taken):
            copy += ".jpg"
        file = folder / copy
        if not file.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"{flag} {folder}: the copy of {name} would lie outside of it")
        if file.resolve() == path.resolve():
            raise UserError(
                f"{flag} {folder}: the photos themselves lie there; name another folder"
            )
        if file.is_file() and MARK not in file.read_bytes()[:COMMENT_WITHIN]:
            raise UserError(
                f"{flag} {folder}: {file} is there already and isn't a picture of ours; name another "
                "folder"
            )
        files.append(file)
    for parent in {file.parent for file in files}:
        made_folder(parent, flag)
    return files


def draw_all(
    files: Sequence[Path], paths: Sequence[Path], predictions: Predictions, codes: Codes
) -> int:
    """Write a copy of each predicted photo to its file; returns how many."""
    every = predictions.by_photo(len(paths))
    rows = [[row for row in of_photo if row not in predictions.bad] for of_photo in every]
    drawn = [place for place, of_photo in enumerate(rows) if of_photo]
    numbers, boxes = predictions.face_numbers(), predictions.places()
    with progress(len(drawn), "draw", "photos", disable=len(drawn) < 2) as bar:
        for place in drawn:
            photo = decode(read_bytes(paths[place]))
            several = len(rows[place]) > 1
            labels = [
                face_label(row, predictions, codes, numbers[row] if several else None)
                for row in rows[place]
            ]
            image = annotated(photo, boxes[rows[place]], labels)
            save_copy(image, files[place])
            bar.update(1)
    return len(drawn)


def save_copy(image: Image.Image, file: Path) -> None:
    """Write a JPEG with the comment by which a later command knows that it may replace it."""
    with whole_file(file) as stream:
        image.save(stream, "JPEG", quality=QUALITY, comment=MARK)


def face_label(
    row: int, predictions: Predictions, codes: Codes, number: int | None = None
) -> Label:
    """Lines of text for a face, and a colour by the first task's class; `number` among several."""
    words = [names[predictions.classes[task][row]] for task, names in codes.tasks.items()]
    if number is not None:
        words[0] = f"{number}: {words[0]}"
    if predictions.detected[row] is False:
        return ["no face detected", *words], NO_FACE
    return words, PALETTE[predictions.classes[next(iter(codes.classes))][row] % len(PALETTE)]


def annotated(photo: np.ndarray, boxes: np.ndarray, labels: Sequence[Label]) -> Image.Image:
    """Draw boxes, (faces, 4) in pixels, and labels on a (height, width, 3) uint8 RGB photo."""
    height, width = photo.shape[:2]
    scale = max(1.0, LONGER_SIDE / max(height, width))
    size = round(width * scale), round(height * scale)
    image = Image.fromarray(cv2.resize(photo, size, interpolation=cv2.INTER_CUBIC))
    unit = max(image.size) / LONGER_SIDE
    font = ImageFont.load_default(LETTERS * unit)
    draw = ImageDraw.Draw(image)
    frames = [tuple(box) for box in (boxes * scale).tolist()]
    for frame, (_, colour) in zip(frames, labels, strict=True):
        draw.rectangle(frame, outline="black", width=round(5 * unit))
        draw.rectangle(frame, outline=colour, width=round(3 * unit))
    taken = list(frames)
    for frame, (text, colour) in zip(frames, labels, strict=True):
        taken.append(_place(frame, _extent(text, font), image.size, taken))
        _write(draw, taken[-1], text, colour, font)
    return image


def _extent(lines: Sequence[str], font: ImageFont.FreeTypeFont) -> tuple[float, float]:
    """Width and height of lines of text with a margin around them."""
    ascent, descent = font.getmetrics()
    wide = max(font.getlength(line) for line in lines)
    return wide + font.size / 2, len(lines) * (ascent + descent) + font.size / 4


def _place(
    frame: Box, extent: tuple[float, float], size: tuple[int, int], taken: Sequence[Box]
) -> Box:
    """Place a label below, above, beside or on its face, where it covers least of `taken`."""
    x0, y0, x1, y1 = frame
    wide, high = extent
    corners = [(x0, y1), (x0, y0 - high), (x1, y0), (x0 - wide, y0), (x1 - wide, y1)]
    corners += [(x1 - wide, y0 - high), (x1, y1 - high), (x0 - wide, y1 - high), (x0, y1 - high)]
    spots = []
    for x, y in corners:
        left = min(max(0.0, x), max(0.0, size[0] - wide))
        top = min(max(0.0, y), max(0.0, size[1] - high))
        spots.append((left, top, left + wide, top + high))
    return min(spots, key=lambda spot: sum(_overlap(spot, other) for other in taken))


def _overlap(one: Box, other: Box) -> float:
    """Area of the intersection of two rectangles."""
    across = min(one[2], other[2]) - max(one[0], other[0])
    down = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, across) * max(0.0, down)


def _write(
    draw: ImageDraw.ImageDraw,
    spot: Box,
    lines: Sequence[str],
    colour: str,
    font: ImageFont.FreeTypeFont,
) -> None:
    """Write lines of text on a background of `colour`."""
    ascent, descent = font.getmetrics()
    draw.rectangle(spot, fill=colour, outline="black")
    red, green, blue = Image.new("RGB", (1, 1), colour).getpixel((0, 0))
    dark = 0.299 * red + 0.587 * green + 0.114 * blue < 110
    for number, line in enumerate(lines):
        corner = spot[0] + font.size / 4, spot[1] + font.size / 8 + number * (ascent + descent)
        draw.text(corner, line, fill="white" if dark else "black", font=font)
