"""Paint for the demo's portraits: a frame, soft shapes on a picture, smooth curves.

Shapes are given in face units: the origin lies between the eyes, x to the right, y down, one unit
is half the width of the face. Colours are RGB, 0 to 255.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float32]
WIDTH, HEIGHT = 384, 512


@dataclass(frozen=True)
class Frame:
    """Position of the face in the photo, in pixels and radians."""

    x: float
    y: float
    unit: float
    roll: float = 0.0
    yaw: float = 0.0
    pitch: float = 0.0

    def place(self, points: ArrayLike) -> Floats:
        """Face units (n, 2) to pixels (n, 2)."""
        x, y = np.asarray(points, np.float32).T
        # Turning a ball moves its middle most and its outline not at all.
        bulge = np.clip(1 - x**2 - (y / 1.5) ** 2, 0, 1)
        x, y = x + self.yaw * bulge, y + self.pitch * bulge
        cos, sin = np.cos(self.roll), np.sin(self.roll)
        turned = np.stack([cos * x - sin * y, sin * x + cos * y], axis=1)
        return (turned * self.unit + (self.x, self.y)).astype(np.float32)

    def grid(self, step: int = 1) -> tuple[Floats, Floats]:
        """The face units x and y of every `step`-th pixel, each (HEIGHT / step, WIDTH / step)."""
        cos, sin = np.cos(self.roll) / self.unit, np.sin(self.roll) / self.unit
        across = (np.arange(0, WIDTH, step, dtype=np.float32) - self.x)[None, :]
        down = (np.arange(0, HEIGHT, step, dtype=np.float32) - self.y)[:, None]
        x = np.float32(cos) * across + np.float32(sin) * down
        y = np.float32(cos) * down - np.float32(sin) * across
        return x - np.float32(self.yaw), y


class Canvas:
    """A photo in the making: float32 RGB (HEIGHT, WIDTH, 3), 0 to 255, painted in face units."""

    def __init__(self, pixels: Floats, frame: Frame) -> None:
        self.pixels = pixels
        self.frame = frame

    def fill(
        self,
        outline: ArrayLike,
        colour: ArrayLike,
        opacity: float = 1.0,
        soft: float = 0.012,
        tone: float | Floats = 1.0,
    ) -> None:
        """Fill a closed outline (n, 2), its edge blurred over `soft`.

        `colour` is RGB or a picture (HEIGHT, WIDTH, 3) to cut from; `tone`, a number or a picture
        (HEIGHT, WIDTH), brightens or darkens it.
        """
        if opacity > 0.01:
            self._paint([outline], None, soft, opacity, colour, tone)

    def stroke(
        self,
        lines: Sequence[ArrayLike],
        colour: ArrayLike,
        opacity: float = 1.0,
        width: float = 0.03,
        soft: float = 0.012,
    ) -> None:
        """Draw open lines, each (n, 2), at once: where they cross they don't add up."""
        if opacity > 0.01 and lines:
            self._paint(lines, width, soft, opacity, colour, 1.0)

    def _paint(
        self,
        shapes: Sequence[ArrayLike],
        width: float | None,
        soft: float,
        opacity: float,
        colour: ArrayLike,
        tone: float | Floats,
    ) -> None:
        placed = [self.frame.place(shape) for shape in shapes]
        blur = soft * self.frame.unit
        box = _box(placed, 2 + 2 * blur + (width or 0) * self.frame.unit)
        patch = self.pixels[box]
        if not patch.size:
            return
        cover = _cover(placed, box, (width or 0) * self.frame.unit, blur)
        paint = np.asarray(colour, np.float32)
        paint = paint[box] if paint.ndim == 3 else paint
        paint = paint * (np.float32(tone) if np.isscalar(tone) else tone[box][..., None])
        patch += cover[..., None] * np.float32(opacity / 255) * (paint - patch)


def _box(placed: Sequence[Floats], margin: float) -> tuple[slice, slice]:
    """The rows and columns that shapes in pixels may touch; empty outside the photo."""
    points = np.concatenate(placed)
    left, top = points.min(axis=0) - margin
    right, bottom = points.max(axis=0) + margin
    rows = slice(max(0, int(top)), max(0, min(HEIGHT, int(bottom) + 1)))
    return rows, slice(max(0, int(left)), max(0, min(WIDTH, int(right) + 1)))


def _cover(
    placed: Sequence[Floats], box: tuple[slice, slice], thick: float, blur: float
) -> NDArray[np.uint8]:
    """Coverage of each pixel in the box by the shapes, 0 to 255; lines if `thick` is set."""
    rows, columns = box
    cover = np.zeros((rows.stop - rows.start, columns.stop - columns.start), np.uint8)
    corner = np.float32((columns.start, rows.start))
    # Sixteenths of a pixel: without them small features jump between poses.
    points = [np.rint((shape - corner) * 16).astype(np.int32) for shape in placed]
    if thick:
        cv2.polylines(cover, points, False, 255, max(1, round(thick)), cv2.LINE_AA, 4)
    else:
        cv2.fillPoly(cover, points, 255, cv2.LINE_AA, 4)
    if blur > 0.4:
        # Not cv2.stackBlur: its result depends on the number of OpenCV's threads.
        size = (2 * round(0.8 * blur) + 1,) * 2
        cover = cv2.blur(cv2.blur(cover, size), size)
    return cover


def curve(points: ArrayLike, closed: bool = False, steps: int = 6) -> Floats:
    """A smooth line through the points (Catmull-Rom): (n, 2) to (about n * steps, 2)."""
    p = np.asarray(points, np.float32)
    p = np.concatenate([p[-1:], p, p[:2]] if closed else [p[:1], p, p[-1:]])
    t = np.linspace(0, 1, steps, endpoint=False, dtype=np.float32)[None, :, None]
    a, b, c, d = (p[i : len(p) - 3 + i, None] for i in range(4))
    line = b + t * (c - a) / 2 + t**2 * (a - 2.5 * b + 2 * c - d / 2)
    line = line + t**3 * (1.5 * (b - c) + (d - a) / 2)
    return line.reshape(-1, 2) if closed else np.concatenate([line.reshape(-1, 2), p[-1:]])


def mirrored(half: ArrayLike) -> Floats:
    """A closed smooth outline from its right half, top to bottom."""
    half = np.asarray(half, np.float32)
    inner = half[half[:, 0] > 1e-6]
    return curve(np.concatenate([half, inner[::-1] * (-1, 1)]), closed=True)


def ellipse(x: float, y: float, width: float, height: float, points: int = 24) -> Floats:
    """Half-axes `width` and `height` around (x, y)."""
    turn = np.linspace(0, 2 * np.pi, points, endpoint=False)
    return np.stack([x + width * np.cos(turn), y + height * np.sin(turn)], axis=1)
