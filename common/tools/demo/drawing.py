"""Portraits drawn from numbers alone: the photos of the demo and of every test.

Nothing is copied from a photo. A person (people.py) is painted (canvas.py) from the back to the
front: background, hair behind, body, head, features, signs of age, mask, hair in front. Lengths
are in face units, half the width of a face; colours are RGB, 0 to 255.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from common.tools.demo.canvas import HEIGHT, WIDTH, Canvas, Floats, Frame, curve, ellipse, mirrored
from common.tools.demo.people import DrawnPerson, picked

View = Literal["mask1", "mask2", "mask3", "mask4", "mask5", "incorrect_mask", "normal"]
VIEWS: tuple[View, ...] = get_args(View)

MASK_KINDS = ("surgical", "kf94", "cloth", "dots", "stripes")
# fmt: off
MASK_COLOURS = (
    (236, 240, 244), (150, 200, 226), (30, 30, 34), (168, 214, 196), (232, 176, 190), (70, 84, 120)
)
# fmt: on


def head_half(person: DrawnPerson) -> Floats:
    """The right half of the head's outline, crown to chin."""
    long, jaw = person.face_length, person.jaw + 0.05 * person.sagging
    points = [(0, -1.42), (0.5, -1.34), (0.85, -1.0), (0.99, -0.4), (0.97, 0.15)]
    points += [((0.97 + jaw) / 2 + 0.02, 0.58), (jaw, 0.92 * long)]
    return np.array([*points, (person.chin, 1.27 * long), (0, 1.36 * long)], np.float32)


def cheek(person: DrawnPerson, y: float) -> float:
    """Half the width of the face at the height `y`."""
    half = head_half(person)
    return float(np.interp(y, half[:, 1], half[:, 0]))


def draw_photo(person: DrawnPerson, view: View, rng: np.random.Generator) -> NDArray[np.uint8]:
    """One photo, uint8 RGB (512, 384, 3); pose, light, background and mask come from `rng`."""
    body, face = _pose(rng)
    canvas = Canvas(_background(rng), face)
    light = _light(face, rng.uniform(-0.32, 0.32))
    hair = _hair_texture(person, face, rng)
    _back_hair(canvas, person, hair)
    _body(Canvas(canvas.pixels, body), person)
    _head(canvas, person, light)
    _face(canvas, person, rng)
    _age_signs(canvas, person)
    _beard(canvas, person)
    if view != "normal":
        _mask(canvas, person, _wear(view, rng), light, rng)
    _front_hair(canvas, person, hair)
    return _developed(canvas.pixels, rng)


def _pose(rng: np.random.Generator) -> tuple[Frame, Frame]:
    """Draw positions of the body and the face; the head turns and nods, the body hardly leans."""
    x, y, unit = rng.normal(192, 9), rng.normal(232, 10), rng.normal(88, 5)
    lean, roll, yaw, pitch = rng.normal(0, (0.02, 0.06, 0.07, 0.04)).tolist()
    return Frame(x, y, unit, lean), Frame(x, y, unit, roll, yaw, pitch)


def _background(rng: np.random.Generator) -> Floats:
    """A wall or a room out of focus; drawn small, because it is blurred anyway."""
    top, bottom = rng.uniform(-30, 30, (2, 3)) + rng.uniform(70, 220, (2, 1))
    small = np.linspace(top, bottom, 64, dtype=np.float32)[:, None].repeat(48, axis=1).copy()
    for _ in range(rng.integers(0, 6)):
        corner = rng.integers((-10, -10), (44, 60))
        size = rng.integers(6, 30, 2)
        colour = (rng.uniform(40, 220) + rng.uniform(-40, 40, 3)).tolist()
        cv2.rectangle(small, corner.tolist(), (corner + size).tolist(), colour, -1)
    small = cv2.GaussianBlur(small, (0, 0), rng.uniform(1, 4))
    return cv2.resize(small, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)


def _light(face: Frame, side: float) -> Floats:
    """Brightness (HEIGHT, WIDTH) of a head-shaped ball lit from the front, above and one side."""
    x, y = face.grid(step=4)
    depth = np.sqrt(np.clip(1 - (x / 1.15) ** 2 - (y / 1.75) ** 2, 0, 1))
    light = np.clip(0.6 + 0.42 * depth + side * x * 0.5 - 0.05 * y, 0.35, 1.2)
    return _full_size(light.astype(np.float32))


def _full_size(picture: Floats) -> Floats:
    """From the coarse grid that soft things are computed on to one value per pixel."""
    return cv2.resize(picture, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR)


def _hair_texture(person: DrawnPerson, face: Frame, rng: np.random.Generator) -> Floats:
    """Strands that run from the parting: a picture (HEIGHT, WIDTH, 3) to cut the hair from."""
    x, y = face.grid(step=2)
    angle = np.arctan2(x - 0.3 * person.parting, np.abs(y + 1.5) + 0.35)
    strands = rng.normal(0, 1, (4, 220)).astype(np.float32)
    across, along = (angle / np.pi + 0.5) * 219, np.clip((y + 1.6) * 0.8, 0, 3)
    strand = cv2.remap(strands, across, along.astype(np.float32), cv2.INTER_LINEAR)
    sheen = np.exp(-((y + 1.05 + 0.2 * x * x) ** 2) * 14)
    tone = 1 + 0.17 * strand + 0.25 * sheen
    white = np.clip(person.grey * (1.05 + 0.25 * strand), 0, 1)[..., None]
    base = np.asarray(person.hair, np.float32)
    colour = (base + (np.float32((168, 168, 171)) - base) * white) * tone[..., None]
    return _full_size(colour.astype(np.float32))


def _developed(pixels: Floats, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Add the faults of a small camera: exposure, warmth, blur and noise."""
    gain = rng.uniform(0.84, 1.12) * (1 + rng.normal(0, 0.018, 3))
    pixels = cv2.GaussianBlur(pixels, (5, 5), rng.uniform(0.5, 1.0))
    pixels *= gain.astype(np.float32)
    noise = rng.standard_normal((HEIGHT, WIDTH, 1), np.float32)
    pixels += noise * np.float32(rng.uniform(1.5, 4.5))
    return np.clip(pixels, 0, 255, out=pixels).astype(np.uint8)


def _shade(colour: ArrayLike, factor: float) -> Floats:
    return np.clip(np.asarray(colour, np.float32) * np.float32(factor), 0, 255)


def _body(canvas: Canvas, person: DrawnPerson) -> None:
    neck, wide = person.neck, person.shoulders
    half = [(0, 0.6), (neck, 0.6), (neck, 1.5), (neck + 0.25, 1.85), (0, 2.6)]
    canvas.fill(mirrored(half), _shade(person.skin, 0.86))
    canvas.fill(ellipse(0, 1.25, neck * 1.05, 0.45), _shade(person.skin, 0.6), 0.7, 0.12)
    half = [(0, 2.05), (neck * 0.8, 1.82), (neck + 0.35, 1.72), (wide * 0.8, 2.1), (wide, 2.7)]
    outline = np.array([*half, (wide + 0.1, 4.5), (0, 4.6)])
    canvas.fill(mirrored(outline), person.clothes, soft=0.02)
    collar = curve([(-neck - 0.3, 1.75), (-neck * 0.75, 1.86), (0, 2.07)])
    lines = [collar, collar * (-1, 1)]
    canvas.stroke(lines, _shade(person.clothes, 0.6), 0.8, 0.05, 0.03)
    folds = [
        curve([(s * wide * 0.75, 2.5), (s * wide * 0.7, 3.2), (s * wide * 0.8, 4)]) for s in (-1, 1)
    ]
    canvas.stroke(folds, _shade(person.clothes, 0.6), 0.6, 0.12, 0.12)


def _head(canvas: Canvas, person: DrawnPerson, light: Floats) -> None:
    for side in (-1, 1):
        canvas.fill(ellipse(side * 1.0, 0.12, 0.13, 0.3), _shade(person.skin, 0.8))
        canvas.fill(ellipse(side * 1.02, 0.12, 0.06, 0.18), _shade(person.skin, 0.55), 0.6, 0.03)
    outline = mirrored(head_half(person))
    canvas.fill(outline, person.skin, tone=light)
    red = _shade(person.skin, 1) * (1.02, 0.82, 0.8)
    for side in (-1, 1):
        canvas.fill(ellipse(side * 0.6, 0.38, 0.22, 0.17), red, 0.28 - 0.1 * person.sagging, 0.14)
        hollow = ellipse(side * 0.74, 0.55, 0.14, 0.3)
        canvas.fill(hollow, _shade(person.skin, 0.7), 0.22 + 0.2 * person.sagging, 0.14)
    canvas.fill(ellipse(0, -0.7, 0.5, 0.22), _shade(person.skin, 1.1), 0.3, 0.2)
    canvas.fill(ellipse(0, 1.12, 0.2, 0.1), _shade(person.skin, 1.08), 0.35, 0.1)


def _back_hair(canvas: Canvas, person: DrawnPerson, hair: Floats) -> None:
    if person.tied:
        canvas.fill(ellipse(0.5 * person.parting, -1.62, 0.36, 0.3), hair, soft=0.03, tone=0.8)
    elif person.hair_length > 0.2:
        end = 0.9 + 1.5 * person.hair_length
        half = [
            (0, -1.6),
            (0.75, -1.42),
            (1.15, -0.8),
            (1.27, 0),
            (1.3, 0.7),
            (1.22, end),
            (0.6, end + 0.1),
        ]
        canvas.fill(mirrored([*half, (0, end)]), hair, soft=0.04, tone=0.62)


def _front_hair(canvas: Canvas, person: DrawnPerson, hair: Floats) -> None:
    canvas.fill(_hairline(person), hair, 0.45, 0.1, tone=0.55)
    canvas.fill(_hairline(person), hair, 0.97, 0.03)
    if person.hair_length > 0.2 and not person.tied:
        end = 0.7 + 1.5 * person.hair_length
        for side in (-1, 1):
            lock = [
                (0.62, -1.28),
                (0.98, -1.1),
                (1.2, -0.4),
                (1.27, 0.6),
                (1.2, end),
                (1.0, end + 0.06),
            ]
            lock += [(0.97, 0.8), (0.95, 0.1), (0.84, -0.45), (0.5, -0.95), (0.3, -1.3)]
            outline = curve(np.array(lock) * (side, 1), closed=True)
            canvas.fill(outline, hair, soft=0.03, tone=0.92)


def _hairline(person: DrawnPerson) -> Floats:
    """The hair's front as a closed outline: over the crown, back along the forehead."""
    volume = 0.1 + 0.12 * min(1.0, 2 * person.hair_length) - 0.06 * person.recession
    foot = 0.12 if person.hair_length < 0.2 else 0.3
    outer = [(1.0, foot), (1.04, -0.3), (0.97 + volume / 2, -0.95), (0.55, -1.38 - volume * 0.8)]
    outer = [*outer, (0, -1.44 - volume)]
    back = 0.42 * person.recession
    x = np.linspace(-0.87, 0.87, 11)
    y = -1.04 - back * (1 - 0.3 * np.cos(np.pi * x)) + 0.62 * x**2
    lift = np.abs(x - 0.5 * person.parting)
    y = y + person.fringe * (1 - 0.6 * person.recession) * (0.5 - 0.3 * lift) * (1 - np.abs(x) ** 3)
    brow = list(zip(x, np.maximum(y, -1.42), strict=True))
    left = [(-across, down) for across, down in outer[-2::-1]]
    edge = [(-0.95, foot), (-0.93, -0.35), *brow, (0.93, -0.35), (0.95, foot)]
    return curve([*outer, *left, *edge], closed=True)


def _face(canvas: Canvas, person: DrawnPerson, rng: np.random.Generator) -> None:
    gaze, open_, smile = rng.normal(0, 0.015), rng.uniform(0.85, 1.1), rng.uniform(0.0, 0.09)
    for side in (-1, 1):
        _eye(canvas, person, side, float(gaze), float(open_))
        _brow(canvas, person, side)
    _nose(canvas, person)
    _mouth(canvas, person, float(smile))


def _eye(canvas: Canvas, person: DrawnPerson, side: int, gaze: float, open_: float) -> None:
    x, y, wide = side * person.eye_distance, -0.06, person.eye_width
    high = person.eye_height * open_ * (1 - 0.14 * person.sagging)
    socket = ellipse(x, y - 0.06, wide * 1.35, 0.19)
    canvas.fill(socket, _shade(person.skin, 0.55), 0.62 + 0.12 * person.lashes, 0.1)
    s = np.linspace(-1, 1, 13)
    upper = y - high * (1 - s**2) ** 0.7 - 0.012 * side * s
    lower = y + 0.62 * high * (1 - s**2) - 0.012 * side * s
    across = x + wide * s
    top, low = np.stack([across, upper], 1), np.stack([across, lower], 1)
    canvas.fill(np.concatenate([top, low[::-1]]), (228, 224, 220))
    _iris(canvas, person, (x + gaze, y - 0.01), across, upper, lower)
    lid = _shade(person.skin, 0.2)
    canvas.stroke([top], lid, 0.65 + 0.35 * person.lashes, 0.025 + 0.03 * person.lashes)
    canvas.stroke([low], lid, 0.4, 0.015)
    crease = top[1:-1] - (0, 0.055 - 0.025 * person.sagging)
    canvas.stroke([crease], _shade(person.skin, 0.5), 0.6, 0.02, 0.02)
    if person.lashes > 0.4:
        tip = (x + side * wide * 1.2, y - high * 0.7)
        canvas.stroke([[(x + side * wide * 0.8, y - high * 0.3), tip]], lid, person.lashes, 0.035)


def _iris(
    canvas: Canvas,
    person: DrawnPerson,
    centre: tuple[float, float],
    across: Floats,
    upper: Floats,
    lower: Floats,
) -> None:
    def within_lids(circle: Floats) -> Floats:
        edge = circle[:, 0]
        high, low = np.interp(edge, across, upper), np.interp(edge, across, lower)
        return np.stack([edge, np.clip(circle[:, 1], high, low)], axis=1)

    x, y = centre
    canvas.fill(within_lids(ellipse(x, y, 0.098, 0.098)), _shade(person.iris, 0.6))
    canvas.fill(within_lids(ellipse(x, y + 0.01, 0.075, 0.075)), person.iris)
    canvas.fill(within_lids(ellipse(x, y, 0.042, 0.042)), (10, 8, 8))
    canvas.fill(ellipse(x - 0.03, y - 0.03, 0.016, 0.016), (250, 250, 250), 0.9, 0)


def _brow(canvas: Canvas, person: DrawnPerson, side: int) -> None:
    s = np.linspace(-1, 1, 9)
    x = side * (person.eye_distance + 0.03 + 0.27 * s)
    middle = -0.36 - person.brow_arch * (1 - (s - 0.25) ** 2) + 0.05 * np.clip(s, 0, 1) ** 2
    half = person.brow_height * 0.5 * np.clip(1.05 - s**4 - 0.25 * (s + 1) / 2, 0.1, 1)
    outline = np.concatenate(
        [np.stack([x, middle - half], 1), np.stack([x, middle + half], 1)[::-1]]
    )
    grey = np.float32(person.hair) + 0.5 * person.grey * (120 - np.float32(person.hair))
    canvas.fill(outline, np.minimum(grey, _shade(person.skin, 0.5)), 0.88, 0.022)


def _nose(canvas: Canvas, person: DrawnPerson) -> None:
    wide, dark = person.nose_width, _shade(person.skin, 0.58)
    sides = [curve([(s * 0.14, -0.3), (s * 0.1, 0.0), (s * 0.15, 0.35)]) for s in (-1, 1)]
    canvas.stroke(sides, dark, 0.38, 0.09, 0.07)
    canvas.fill(ellipse(0, 0.53, wide * 1.15, 0.06), dark, 0.55, 0.06)
    canvas.stroke([[(0, -0.25), (0, 0.36)]], _shade(person.skin, 1.2), 0.4, 0.09, 0.06)
    canvas.fill(ellipse(0, 0.4, 0.09, 0.07), _shade(person.skin, 1.25), 0.5, 0.05)
    wings = [
        curve([(s * wide * 0.8, 0.34), (s * wide * 1.15, 0.44), (s * wide * 0.85, 0.52)])
        for s in (-1, 1)
    ]
    canvas.stroke(wings, _shade(person.skin, 0.45), 0.6, 0.025, 0.02)
    for side in (-1, 1):
        canvas.fill(
            ellipse(side * wide * 0.5, 0.505, 0.055, 0.026), _shade(person.skin, 0.25), 0.85, 0.015
        )


def _mouth(canvas: Canvas, person: DrawnPerson, smile: float) -> None:
    wide, high, y = person.mouth_width, person.lip_height * (1 - 0.25 * person.sagging), 0.8
    s = np.linspace(-1, 1, 13)
    line = np.stack([wide * s, y - smile * s**2 + 0.012 * np.cos(2 * np.pi * s)], 1)
    bow = high * (1 - s**2) ** 0.8 * (0.85 - 0.3 * np.exp(-((s * 6) ** 2)))
    under = 1.1 * high * (1 - s**2) ** 0.7
    red = _shade(person.skin, 0.8) * (1, 1 - 0.42 * person.lips, 1 - 0.36 * person.lips)
    for edge, tone in ((-bow, 0.85), (under, 1.0)):
        rim = line + np.stack([0 * s, edge], 1)
        canvas.fill(np.concatenate([line, rim[::-1]]), _shade(red, tone), 0.92, 0.018)
    canvas.stroke([line], _shade(person.skin, 0.28), 0.85, 0.022)
    canvas.fill(ellipse(0, y + 0.55 * high, wide * 0.4, 0.02), _shade(red, 1.3), 0.4, 0.03)
    canvas.fill(
        ellipse(0, y + 1.1 * high + 0.06, wide * 0.55, 0.03), _shade(person.skin, 0.6), 0.5, 0.05
    )


def _beard(canvas: Canvas, person: DrawnPerson) -> None:
    if not person.beard:
        return
    long, jaw = person.face_length, person.jaw
    half = [(0, 1.02), (0.3, 0.98), (0.5, 0.82), (0.46, 0.6), (0, 0.58), (0.5, 0.56), (0.8, 0.45)]
    half += [
        (0.96, 0.1),
        (0.97, 0.35),
        (jaw + 0.05, 0.92 * long),
        (person.chin, 1.3 * long),
        (0, 1.4 * long),
    ]
    colour = np.float32(person.hair) + person.grey * (180 - np.float32(person.hair))
    outline = np.array(half)
    outline = np.concatenate([curve(outline), curve(outline * (-1, 1))[::-1]])
    canvas.fill(outline, colour, 0.25 + 0.6 * (person.beard > 0.5), 0.05)


def _age_signs(canvas: Canvas, person: DrawnPerson) -> None:
    rng = np.random.default_rng(person.detail)
    deep = person.wrinkles
    _wrinkle(canvas, person, _forehead_lines(rng, deep), deep)
    _wrinkle(canvas, person, _crows_feet(person, rng), deep)
    folds = [curve([(s * 0.25, 0.45), (s * 0.42, 0.62), (s * 0.5, 0.85)]) for s in (-1, 1)]
    folds += [curve([(s * 0.42, 0.92), (s * 0.47, 1.08)]) for s in (-1, 1)]
    _wrinkle(canvas, person, folds, deep * 1.1)
    frown = [curve([(s * 0.07, -0.45), (s * 0.085, -0.28)]) for s in (-1, 1)]
    _wrinkle(canvas, person, frown, deep)
    for side in (-1, 1):
        _eye_bag(canvas, person, side)
    _spots(canvas, person, rng)


def _wrinkle(canvas: Canvas, person: DrawnPerson, lines: Sequence[Floats], deep: float) -> None:
    deep = float(np.clip(1.3 * (deep - 0.06), 0, 1))
    canvas.stroke(lines, _shade(person.skin, 0.52), 0.65 * deep, 0.025 + 0.015 * deep, 0.025)
    raised = [line + (0, 0.035) for line in lines]
    canvas.stroke(raised, _shade(person.skin, 1.18), 0.45 * deep, 0.03, 0.02)


def _forehead_lines(rng: np.random.Generator, deep: float) -> list[Floats]:
    x = np.linspace(-1, 1, 7)
    lines = []
    for y in (-0.64, -0.75, -0.86):
        wave = rng.normal(0, 0.012, 7) - 0.05 * np.abs(x)
        lines.append(curve(np.stack([x * rng.uniform(0.42, 0.55), y + wave], 1)))
    return lines


def _crows_feet(person: DrawnPerson, rng: np.random.Generator) -> list[Floats]:
    lines = []
    for side in (-1, 1):
        for slope in (-0.55, -0.1, 0.4):
            start = person.eye_distance + person.eye_width + 0.05
            reach = rng.uniform(0.14, 0.2)
            ends = [(start, -0.05 + slope * 0.07), (start + reach, -0.05 + slope * (0.1 + reach))]
            lines.append(np.array(ends) * (side, 1))
    return lines


def _eye_bag(canvas: Canvas, person: DrawnPerson, side: int) -> None:
    x, wide = side * person.eye_distance, person.eye_width
    s = np.linspace(-1, 1, 9)
    arc = np.stack([x + wide * 0.95 * s, 0.07 + 0.085 * (1 - s**2)], 1)
    canvas.fill(
        ellipse(x, 0.09, wide * 0.9, 0.06), _shade(person.skin, 0.66), 0.5 * person.sagging, 0.05
    )
    _wrinkle(canvas, person, [arc], person.sagging * 0.85)


def _spots(canvas: Canvas, person: DrawnPerson, rng: np.random.Generator) -> None:
    for _ in range(round(14 * person.spots)):
        x, y = rng.uniform(-0.8, 0.8), rng.choice((rng.uniform(-0.95, -0.5), rng.uniform(0.2, 0.6)))
        size = rng.uniform(0.015, 0.035)
        canvas.fill(ellipse(x, y, size, size * 0.8), _shade(person.skin, 0.62), 0.55, 0.012)


def _wear(view: View, rng: np.random.Generator) -> str:
    if view == "incorrect_mask":
        return "chin" if rng.random() < 0.35 else "under nose"
    return "right"


def _mask(
    canvas: Canvas, person: DrawnPerson, wear: str, light: Floats, rng: np.random.Generator
) -> None:
    kind = MASK_KINDS[rng.choice(len(MASK_KINDS), p=(0.38, 0.24, 0.18, 0.1, 0.1))]
    colour = np.float32(picked(rng, MASK_COLOURS))
    top = {"right": 0.17, "under nose": 0.6, "chin": 1.04}[wear] + rng.normal(0, 0.02)
    half = _mask_half(person, kind, wear, top)
    strap = _shade(colour, 0.92) if colour.sum() < 300 else np.float32((232, 232, 232))
    _straps(canvas, half, strap)
    outline = mirrored(half)
    canvas.fill(outline + (0, 0.04), _shade(person.skin, 0.35), 0.5, 0.07)
    canvas.fill(outline, _cloth(canvas.frame, kind, colour, rng), tone=light)
    _mask_folds(canvas, kind, half, colour)


def _mask_half(person: DrawnPerson, kind: str, wear: str, top: float) -> Floats:
    """The right half of the mask's outline, from the bridge of the nose to below the chin."""
    bottom = 1.36 * person.face_length + {"right": 0.05, "under nose": 0.08, "chin": 0.22}[wear]
    peak = 0.0 if kind == "surgical" or wear != "right" else 0.06
    upper, lower = top + 0.15 * (bottom - top), top + 0.62 * (bottom - top)
    side, jaw = 0.97 * cheek(person, upper), 0.99 * cheek(person, min(lower, 1.08))
    points = [(0, top - peak), (0.2, top + 0.01), (0.55 * side, top + 0.3 * (upper - top))]
    points += [(side, upper), (jaw, lower), (0.6 * jaw, bottom - 0.1), (0, bottom)]
    return np.array(points, np.float32)


def _cloth(frame: Frame, kind: str, colour: Floats, rng: np.random.Generator) -> Floats:
    """The mask's fabric: RGB for all, or a picture (HEIGHT, WIDTH, 3) for the patterned ones."""
    if kind not in ("dots", "stripes"):
        return colour
    x, y = frame.grid()
    count = rng.uniform(18, 34)
    wave = np.sin(x * count) * (np.sin(y * count) if kind == "dots" else 1)
    other = np.float32(picked(rng, MASK_COLOURS))
    return np.where((wave > 0.45)[..., None], other, colour)


def _straps(canvas: Canvas, half: Floats, colour: Floats) -> None:
    lines = []
    for side in (-1, 1):
        for corner, ear in ((half[3], (1.05, -0.05)), (half[4], (1.06, 0.34))):
            bend = (corner + ear) / 2 + (0, 0.03)
            lines.append(curve(np.array([corner * (0.98, 1), bend, ear]) * (side, 1)))
    canvas.stroke([line + (0, 0.025) for line in lines], (40, 30, 28), 0.35, 0.03, 0.03)
    canvas.stroke(lines, colour, 0.95, 0.035)


def _mask_folds(canvas: Canvas, kind: str, half: Floats, colour: Floats) -> None:
    top, bottom, side = half[0, 1], half[-1, 1], half[4, 0]
    x = np.linspace(-0.9, 0.9, 9)
    bow = 0.08 * (1 - x**2)
    dark, bright = _shade(colour, 0.72), np.minimum(_shade(colour, 1.15) + 8, 255)
    shares = {"surgical": (0.32, 0.5, 0.68), "kf94": (0.36, 0.66)}.get(kind, ())
    lines = [np.stack([x * side, top + share * (bottom - top) + bow], 1) for share in shares]
    if kind == "cloth":
        lines = [curve([(0, top + 0.05), (0.01, (top + bottom) / 2), (0, bottom - 0.04)])]
    canvas.stroke(lines, dark, 0.75, 0.022, 0.015)
    canvas.stroke([line - (0, 0.03) for line in lines], bright, 0.5, 0.025, 0.02)
    edge = mirrored(half * (0.97, 1) + (0, 0.03))[:20]
    canvas.stroke([edge], dark, 0.4, 0.015, 0.012)
