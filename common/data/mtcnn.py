"""MTCNN (Zhang et al. 2016) around facenet-pytorch's three networks and their weights.

The boxes are those of facenet-pytorch's `MTCNN.detect` to rounding, sooner: levels of the pyramid and
candidates are averaged out of one summed-area table (Crow 1984) in the place of a call for each,
the networks run in channels-last memory, where pooling is vectorised, and boxes stay in NumPy.
"""

import functools
from typing import Any

import cv2
import numpy as np
import torch
from torchvision.ops import nms

FACTOR = 0.709  # from one level of the pyramid to the next: half the area
CELL, STRIDE = 12, 2  # px that the first network sees of a face, and between its answers
SAME_LEVEL, SAME_FACE = 0.5, 0.7  # overlap from which the less probable of two boxes goes


@functools.cache
def _networks() -> tuple[Any, ...]:
    from facenet_pytorch import ONet, PNet, RNet

    nets = PNet(), RNet(), ONet()
    return tuple(net.eval().to(memory_format=torch.channels_last) for net in nets)


def find(
    image: np.ndarray, smallest: int, thresholds: tuple[float, ...]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The faces of a (height, width, 3) uint8 RGB photo whose side is `smallest` px or more.

    Boxes (n, 4), x0, y0, x1, y1, probabilities (n,) and landmarks (n, 5, 2), x, y, in pixels and
    float32. `thresholds` are what the three networks' probabilities must reach.
    """
    table = cv2.integral(image)
    with torch.inference_mode():
        boxes = _proposed(table, smallest, thresholds[0])
        boxes = _refined(table, boxes, thresholds[1])
        return _final(table, boxes, thresholds[2])


def _proposed(table: np.ndarray, smallest: int, threshold: float) -> np.ndarray:
    """Squares (n, 4) of any scale in which the first network sees a face."""
    height, width = (side - 1 for side in table.shape[:2])
    scale = CELL / smallest
    levels = []
    while min(height, width) * scale >= CELL:
        levels.append(_level(table, scale, threshold))
        scale *= FACTOR
    found = np.concatenate(levels or [np.empty((0, 9), np.float32)])
    found = found[_distinct(found[:, :4], found[:, 4], SAME_FACE)]
    boxes, shift = found[:, :4], found[:, 5:]
    sides = boxes[:, 2:] - boxes[:, :2]
    return _squared(boxes + shift * np.tile(sides, 2))


def _level(table: np.ndarray, scale: float, threshold: float) -> np.ndarray:
    """Box, probability and shift, (n, 9), of the cells in which the first network sees a face."""
    height, width = (side - 1 for side in table.shape[:2])
    rows = _windows(np.zeros(1, int), np.array([height]), int(height * scale + 1))
    columns = _windows(np.zeros(1, int), np.array([width]), int(width * scale + 1))
    shift, probability = _networks()[0](_averages(table, rows, columns))
    probability = probability[0, 1].numpy()
    y, x = np.nonzero(probability >= threshold)
    cell = STRIDE * np.column_stack([x, y]).astype(np.float32)
    corners = [np.floor((cell + edge) / np.float32(scale)) for edge in (1, CELL)]
    score = probability[y, x]
    found = np.column_stack([*corners, score, shift[0].numpy()[:, y, x].T])
    return found[_distinct(found[:, :4], score, SAME_LEVEL)]


def _refined(table: np.ndarray, boxes: np.ndarray, threshold: float) -> np.ndarray:
    """The squares (n, 4) in which the second network still sees a face, moved by it."""
    boxes, crops = _crops(table, boxes, 24)
    if not len(boxes):
        return boxes
    shift, probability = (part.numpy() for part in _networks()[1](crops))
    sure = np.flatnonzero(probability[:, 1] > threshold)
    sure = sure[_distinct(boxes[sure], probability[sure, 1], SAME_FACE)]
    return _squared(_moved(boxes[sure], shift[sure]))


def _final(
    table: np.ndarray, boxes: np.ndarray, threshold: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes, probabilities and landmarks of the faces that the third network sees."""
    boxes, crops = _crops(table, boxes, 48)
    if not len(boxes):
        return boxes, np.empty(0, np.float32), np.empty((0, 5, 2), np.float32)
    shift, points, probability = (part.numpy() for part in _networks()[2](crops))
    sure = np.flatnonzero(probability[:, 1] > threshold)
    boxes, probability = boxes[sure], probability[sure, 1]
    points = points[sure].reshape(-1, 2, 5).transpose(0, 2, 1)
    points = points * (_sides(boxes)[:, None]) + boxes[:, None, :2] - 1
    boxes = _moved(boxes, shift[sure])
    kept = _not_within(boxes, probability)
    return boxes[kept], probability[kept], points[kept]


def _sides(boxes: np.ndarray) -> np.ndarray:
    """Width and height, (n, 2), both edges counted as MTCNN does."""
    return boxes[:, 2:] - boxes[:, :2] + 1


def _moved(boxes: np.ndarray, shift: np.ndarray) -> np.ndarray:
    return boxes + shift * np.tile(_sides(boxes), 2)


def _squared(boxes: np.ndarray) -> np.ndarray:
    """Squares about the same middles with the longer side."""
    sides = boxes[:, 2:] - boxes[:, :2]
    longer = sides.max(axis=1, keepdims=True)
    corner = boxes[:, :2] + sides * np.float32(0.5) - longer * np.float32(0.5)
    return np.hstack([corner, corner + longer])


def _distinct(boxes: np.ndarray, scores: np.ndarray, overlap: float) -> np.ndarray:
    """Places of the boxes that no more probable one overlaps, the most probable first."""
    return nms(torch.from_numpy(boxes), torch.from_numpy(scores), overlap).numpy()


def _not_within(boxes: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """As `_distinct`, where overlap is the share of the smaller box: no face lies in another."""
    areas, kept = _sides(boxes).prod(axis=1), []
    for place in np.argsort(scores)[::-1]:
        low = np.maximum(boxes[kept, :2], boxes[place, :2])
        high = np.minimum(boxes[kept, 2:], boxes[place, 2:])
        shared = (high - low + 1).clip(0).prod(axis=1)
        if (shared <= SAME_FACE * np.minimum(areas[kept], areas[place])).all():
            kept.append(place)
    return np.array(kept, int)


def _crops(table: np.ndarray, boxes: np.ndarray, size: int) -> tuple[np.ndarray, torch.Tensor]:
    """The boxes that touch the photo, and what they show of it, (n, 3, size, size)."""
    height, width = (side - 1 for side in table.shape[:2])
    left, top, right, bottom = boxes.astype(int).T
    left, top = np.maximum(left, 1) - 1, np.maximum(top, 1) - 1
    wide, high = np.minimum(right, width) - left, np.minimum(bottom, height) - top
    inside = (wide > 0) & (high > 0)
    rows = _windows(top[inside], high[inside], size)
    columns = _windows(left[inside], wide[inside], size)
    return boxes[inside], _averages(table, rows, columns)


def _windows(start: np.ndarray, length: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """First and last edge, each (n, size), of the pixels averaged for each of `size` in a row."""
    steps = np.arange(size + 1) * length[:, None]
    return start[:, None] + steps[:, :-1] // size, start[:, None] - (-steps[:, 1:] // size)


def _averages(
    table: np.ndarray, rows: tuple[np.ndarray, ...], columns: tuple[np.ndarray, ...]
) -> torch.Tensor:
    """The photo's means over windows, (n, 3, rows, columns), scaled to -1 to 1 as MTCNN's input."""
    (top, bottom), (left, right) = rows, columns
    corner = functools.partial(_corner, table)
    total = corner(bottom, right) - corner(top, right) - corner(bottom, left) + corner(top, left)
    pixels = (bottom - top)[:, :, None, None] * (right - left)[:, None, :, None]
    mean = total.astype(np.float32) / pixels.astype(np.float32)
    return torch.from_numpy((mean - np.float32(127.5)) / 128).permute(0, 3, 1, 2)


def _corner(table: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    places = rows[:, :, None] * table.shape[1] + columns[:, None, :]
    return table.reshape(-1, 3).take(places, axis=0)
