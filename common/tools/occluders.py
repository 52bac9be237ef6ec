"""Objects drawn in front of bare faces: hands, cups, phones, scarves, sleeves, other heads.

They hide a part of the lower face, so that a mask model doesn't learn "no mask" as "mouth and nose
in sight". As with the masks of `masks.py`, an object takes the photo's own light, blur and grain, and
pixels beside it stay as they were.

Shapes are outlines (n, 2) on the plane of the face: x in distances of the eyes from the middle
between them, y in heights of the eyes above the mouth, so that the mouth lies at 1 and the chin at
1.66.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from common.faces.crop import Detection
from common.tools.demo.canvas import Floats, ellipse
from common.tools.masks import (
    FINE,
    Appearance,
    HeadPose,
    cloth_colour,
    fine_points,
    head_of,
    look_of,
    smooth_noise,
    with_part,
)

Shape = tuple[Floats, Floats]  # an outline and its colour, RGB 0 to 1
REACH = (-2.2, 2.2, -0.6, 3.2)  # left, right, top and bottom of what may be drawn on
HAIR = ((0.06, 0.05, 0.05), (0.16, 0.11, 0.08), (0.3, 0.22, 0.15), (0.5, 0.48, 0.46))


def draw_occluder(
    photo: NDArray[np.uint8], detection: Detection, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Draw a random object over the lower half of a bare face in (height, width, 3) uint8 RGB.

    Raises:
        BadPhoto: `detection` has no face, or one that is turned too far.
    """
    head = head_of(detection)
    look = look_of(photo, head, rng)
    kind = rng.choice(len(OBJECTS), p=SHARES)
    shapes = OBJECTS[kind](skin_of(photo, head, look), rng)
    if rng.random() < 0.5:
        shapes = [(outline * (-1, 1), colour) for outline, colour in shapes]
    rows, columns = _reach(head, photo.shape[:2])
    size = rows.stop - rows.start, columns.stop - columns.start
    cover = np.zeros(size, np.float32)
    cloth = np.zeros((*size, 3), np.float32)
    for outline, colour in shapes:
        part = _filled(head, outline, (columns.start, rows.start), size)
        inside = cv2.GaussianBlur(part, (0, 0), 0.12 * head.eyes)  # darker towards the edges
        shade = (0.55 + 0.45 * np.clip(inside, 0, 1)) * (1 + 0.05 * smooth_noise(size, (7, 7), rng))
        cloth += part[..., None] * (shade[..., None] * colour - cloth)
        cover = np.maximum(cover, part)
    area, light = photo[rows, columns].astype(np.float32), look.light[rows, columns]
    cover = cv2.GaussianBlur(cover, (0, 0), look.blur)
    drawn = area + cover[..., None] * (look.pictured(cloth, light, rng) - area)
    return with_part(photo, (rows, columns), drawn, cover)


def _in_photo(head: HeadPose, points: Floats) -> Floats:
    """Points (n, 2) on the plane of the face in pixels of the photo."""
    return (points * (head.eyes, head.drop)) @ head.axes + head.origin


def skin_of(photo: NDArray[np.uint8], head: HeadPose, look: Appearance) -> Floats:
    """Colour of the cheeks without the photo's light, RGB 0 to 1."""
    places = np.array([(-0.45, 0.62), (0.45, 0.62), (0, 0.2)])
    x, y = np.clip(
        np.rint(_in_photo(head, places)).astype(int).T, 0, np.array(photo.shape[1::-1])[:, None] - 1
    )
    seen = np.median(photo[y, x].astype(np.float32), axis=0) / 255
    light = max(0.3, float(np.median(look.light[y, x])))
    return np.clip(seen / light / look.white, 0.05, 1).astype(np.float32)


def _reach(head: HeadPose, shape: tuple[int, int]) -> tuple[slice, slice]:
    left, right, top, bottom = REACH
    corners = np.array([(left, top), (right, top), (left, bottom), (right, bottom)])
    x, y = np.clip(_in_photo(head, corners).T, 0, np.array(shape[::-1])[:, None]).astype(int)
    return slice(int(y.min()), int(y.max())), slice(int(x.min()), int(x.max()))


def _filled(
    head: HeadPose, outline: Floats, corner: tuple[int, int], size: tuple[int, int]
) -> Floats:
    """Coverage of each pixel of a part of the photo by the outline, 0 to 1."""
    fine = fine_points(_in_photo(head, outline), corner)
    drawn = np.zeros((size[0] * FINE, size[1] * FINE), np.uint8)
    cv2.fillPoly(drawn, [fine], 255, cv2.LINE_AA, 4)
    return cv2.resize(drawn, size[::-1], interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def _ellipse(centre: tuple[float, float], radii: tuple[float, float], turn: float = 0) -> Floats:
    return _turned(ellipse(0, 0, *radii, points=39), turn) + centre


def _turned(points: Floats, turn: float) -> Floats:
    return points @ np.array([(np.cos(turn), np.sin(turn)), (-np.sin(turn), np.cos(turn))])


def _capsule(start: Floats, end: Floats, radius: float) -> Floats:
    """A stick with round ends, such as a finger."""
    along = np.arctan2(*(end - start)[::-1])
    half = np.linspace(-np.pi / 2, np.pi / 2, 12)[:, None] + along
    tip = end + radius * np.concatenate([np.cos(half), np.sin(half)], axis=1)
    root = start - radius * np.concatenate([np.cos(half), np.sin(half)], axis=1)
    return np.concatenate([tip, root])


def hand(skin: Floats, rng: np.random.Generator) -> list[Shape]:
    """A hand before mouth, chin or cheek: forearm, palm and four fingers."""
    skin = np.clip(skin * rng.uniform(0.8, 1.1), 0, 1)
    centre = np.array([rng.uniform(-0.3, 0.7), rng.uniform(1.15, 1.7)])
    turn = rng.uniform(-1.1, 1.1)  # from upright
    wide = rng.uniform(0.42, 0.6)
    up = np.array([np.sin(turn), -np.cos(turn)])
    side = np.array([up[1], -up[0]])
    shapes = [(_capsule(centre - 2.2 * up, centre - 0.3 * up, wide * 0.62), skin * 0.95)]
    shapes.append((_ellipse(tuple(centre), (wide, wide * 1.1), turn), skin))
    spread, bent = rng.uniform(0, 0.12), rng.uniform(0.35, 1)
    for place, long in zip((-0.72, -0.25, 0.22, 0.68), (0.62, 0.8, 0.76, 0.58), strict=True):
        root = centre + side * place * wide + up * 0.5 * wide
        tip = root + bent * long * (up + side * place * spread * 3)
        shapes.append((_capsule(root, tip, wide * 0.21), skin * rng.uniform(0.9, 1.05)))
    return shapes


def cup(skin: Floats, rng: np.random.Generator) -> list[Shape]:
    """A cup or glass at the mouth, with fingers round it."""
    colour = cloth_colour("cloth", rng)
    top, wide, long = rng.uniform(0.7, 1.05), rng.uniform(0.4, 0.65), rng.uniform(1.0, 1.6)
    x = rng.normal(0, 0.1)
    body = np.array([(-wide, 0), (wide, 0), (0.75 * wide, long), (-0.75 * wide, long)]) + (x, top)
    shapes = [(body, colour), (_ellipse((x, top), (wide, 0.09)), np.clip(colour * 1.25, 0, 1))]
    for i in range(4):
        y = top + 0.35 * long + 0.2 * i
        shapes.append(
            (_capsule(np.array([x + 1.2 * wide, y]), np.array([x, y - 0.04]), 0.095), skin)
        )
    return shapes


def phone(skin: Floats, rng: np.random.Generator) -> list[Shape]:
    """A phone held before the mouth or at the cheek."""
    turn, centre = rng.uniform(-0.9, 0.9), (rng.uniform(-0.1, 0.9), rng.uniform(0.9, 1.5))
    wide, long = rng.uniform(0.33, 0.45), rng.uniform(0.7, 0.95)
    body = np.array([(-wide, -long), (wide, -long), (wide, long), (-wide, long)])
    colour = np.float32(rng.choice([0.06, 0.12, 0.85]) * np.ones(3))
    shapes = [(_turned(body, turn) + centre, colour)]
    return [*shapes, *((_turned(finger, turn) + centre, skin) for finger in _grip(wide, long))]


def _grip(wide: float, long: float) -> list[Floats]:
    heights = np.linspace(-0.3, 0.6, 4) * long
    return [_capsule(np.array([1.4 * wide, y]), np.array([0.3 * wide, y]), 0.09) for y in heights]


def scarf(skin: Floats, rng: np.random.Generator) -> list[Shape]:
    """A scarf or collar up to the chin or the lower lip: no mask, as nose and mouth are bare."""
    colour, top = cloth_colour("cloth", rng), rng.uniform(1.2, 1.6)
    x = np.linspace(-1.6, 1.6, 15)
    edge = top - 0.18 * np.abs(x) + rng.normal(0, 0.03, 15)
    body = np.concatenate([np.stack([x, edge], axis=1), [(1.8, 3.2), (-1.8, 3.2)]])
    shapes = [(body, colour)]
    for _ in range(3):
        low = top + rng.uniform(0.2, 0.9)
        fold = np.stack([x, low - 0.15 * np.abs(x) + rng.normal(0, 0.04, 15)], axis=1)
        shapes.append(
            (np.concatenate([fold, fold[::-1] + (0, 0.25)]), colour * rng.uniform(0.8, 1.1))
        )
    return shapes


def sleeve(skin: Floats, rng: np.random.Generator) -> list[Shape]:
    """An arm across the lower face."""
    colour = cloth_colour("cloth", rng)
    y, slope = rng.uniform(1.15, 1.7), rng.uniform(-0.5, 0.5)
    start, end = np.array([-2.4, y - slope]), np.array([2.4, y + slope])
    return [(_capsule(start, end, rng.uniform(0.35, 0.6)), colour)]


def other_head(skin: Floats, rng: np.random.Generator) -> list[Shape]:
    """The back of somebody's head or shoulder, from below or from the side."""
    hair = np.float32(HAIR[rng.choice(len(HAIR), p=(0.55, 0.25, 0.12, 0.08))])
    if rng.random() < 0.3:
        hair = cloth_colour("cloth", rng)
    radius = rng.uniform(0.9, 1.6)
    if rng.random() < 0.6:
        centre = rng.uniform(-0.8, 0.8), rng.uniform(0.85, 1.35) + radius
    else:
        centre = rng.uniform(0.1, 0.5) + radius, rng.uniform(0.6, 1.6)
    return [(_ellipse(centre, (radius, radius * rng.uniform(0.9, 1.2))), hair)]


OBJECTS: tuple[Callable[[Floats, np.random.Generator], list[Shape]], ...] = (
    *(hand, cup, phone, scarf, sleeve, other_head),
)
SHARES = (0.32, 0.1, 0.1, 0.16, 0.1, 0.22)
