"""MTCNN (Zhang et al. 2016) around facenet-pytorch's three networks and their weights.

The boxes are those of facenet-pytorch's `MTCNN.detect` to rounding, sooner: levels of the pyramid and
candidates are averaged out of one summed-area table (Crow 1984) in the place of a call for each,
the networks run in channels-last memory, where pooling is vectorised, and boxes stay in NumPy.
"""

import functools
import math
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch.nn import functional
from torchvision.ops import nms

FACTOR = 0.709  # from one level of the pyramid to the next: half the area
CELL, STRIDE = 12, 2  # px that the first network sees of a face, and between its answers
SAME_LEVEL, SAME_FACE = 0.5, 0.7  # overlap from which the less probable of two boxes goes


@functools.cache
def _networks() -> tuple[Any, ...]:
    from facenet_pytorch import ONet, PNet, RNet

    np.empty(1 << 24, np.uint8)  # once freed, malloc keeps smaller blocks: no page faults for each
    nets = PNet(), RNet(), ONet()
    _widen(nets[0], 16)
    for net in nets[1:]:
        net.pool1.forward = _pooled
    return tuple(net.eval().to(memory_format=torch.channels_last) for net in nets)


def _widen(net: Any, channels: int) -> None:
    """Fill the first layer up with channels of zeros: processors take 8 or 16 at a time, not 10."""
    more = channels - net.conv1.out_channels
    for parameter, axis in (
        (net.conv1.weight, 0),
        (net.conv1.bias, 0),
        (net.prelu1.weight, 0),
        (net.conv2.weight, 1),
    ):
        before = [0, 0] * (parameter.ndim - 1 - axis)
        parameter.data = functional.pad(parameter.data, [*before, 0, more])


def _pooled(seen: torch.Tensor) -> torch.Tensor:
    """As MaxPool2d(3, 2, ceil_mode=True) of an even height and width, in half the time."""
    rows = torch.maximum(seen[:, :, ::2], seen[:, :, 1::2])
    torch.maximum(rows[:, :, :-1], seen[:, :, 2::2], out=rows[:, :, :-1])
    columns = torch.maximum(rows[..., ::2], rows[..., 1::2])
    torch.maximum(columns[..., :-1], rows[..., 2::2], out=columns[..., :-1])
    return columns


def levels_below(smallest: int, side: float) -> int:
    """How many levels of the pyramid for faces from `smallest` px are for faces smaller than `side`."""
    return max(0, round(math.log(side / smallest) / -math.log(FACTOR)))


def find(
    image: np.ndarray, smallest: int, thresholds: tuple[float, ...], skipped: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The faces of a (height, width, 3) uint8 RGB photo whose side is `smallest` px or more.

    Boxes (n, 4), x0, y0, x1, y1, probabilities (n,) and landmarks (n, 5, 2), x, y, in pixels and
    float32. `thresholds` are what the three networks' probabilities must reach. Without the `skipped`
    largest levels of the pyramid small faces are missed, and the others are found as with them.
    """
    table = cv2.integral(np.ascontiguousarray(image))
    with torch.inference_mode():
        boxes = _proposed(table, smallest, thresholds[0], skipped)
        boxes = _refined(table, boxes, thresholds[1])
        return _final(table, boxes, thresholds[2])


def _proposed(table: np.ndarray, smallest: int, threshold: float, skipped: int) -> np.ndarray:
    """Squares (n, 4) of any size in which the first network sees a face."""
    pyramid = _pyramid(table.shape[0] - 1, table.shape[1] - 1, smallest, skipped)
    if not pyramid.levels:
        return np.empty((0, 4), np.float32)
    features, probability = _cells(_drawn(table, pyramid), pyramid.levels)
    y, x = np.nonzero((probability >= threshold) & (pyramid.owner >= 0))
    score, owner = probability[y, x], pyramid.owner[y, x]
    scale, top, left = (pyramid.places[:, k, None][owner] for k in range(3))
    cell = (STRIDE * np.column_stack([x, y])).astype(np.float32) - np.hstack([left, top])
    boxes = np.hstack([np.floor((cell + edge) / scale) for edge in (1, CELL)])
    apart = boxes + 2 * max(table.shape) * owner[:, None].astype(np.float32)
    kept = _distinct(apart, score, SAME_LEVEL)
    kept = kept[_distinct(boxes[kept], score[kept], SAME_FACE)]
    head = _networks()[0].conv4_2
    shift = functional.linear(
        features[0, :, y[kept], x[kept]].T, head.weight[:, :, 0, 0], head.bias
    )
    sides = boxes[kept, 2:] - boxes[kept, :2]
    return _squared(boxes[kept] + shift.numpy() * np.tile(sides, 2))


class _Pyramid(NamedTuple):
    """All sizes in which a photo is searched, side by side on one canvas: one call for all.

    `levels` are (scale, top, left, height, width), corners at even pixels, `places` their first
    three as an array; `owner` says of each of the first network's answers to which level it belongs,
    -1 where it looked across an edge.
    """

    levels: tuple[tuple[float, int, int, int, int], ...]
    places: np.ndarray
    owner: np.ndarray
    canvas: tuple[int, int]


@functools.lru_cache(maxsize=8)
def _pyramid(height: int, width: int, smallest: int, skipped: int) -> _Pyramid:
    levels, shelves, bottom = [], [], 0
    scale = CELL / smallest * FACTOR**skipped
    broad = _even(int(width * scale + 1))
    while min(height, width) * scale >= CELL:
        high, wide = int(height * scale + 1), int(width * scale + 1)
        shelf = next((s for s in shelves if s[1] + wide <= broad), None)
        if shelf is None:
            shelf = [bottom, 0]
            shelves.append(shelf)
            bottom += _even(high)
        levels.append((scale, *shelf, high, wide))
        shelf[1] += _even(wide)
        scale *= FACTOR
    owner = np.full([max(0, side // 2 - 5) for side in (bottom, broad)], -1)
    for number, (_, top, left, high, wide) in enumerate(levels):
        y, x = top // 2, left // 2
        owner[y : y + (high - 1) // 2 - 4, x : x + (wide - 1) // 2 - 4] = number
    places = np.array([level[:3] for level in levels], np.float32).reshape(-1, 3)
    return _Pyramid(tuple(levels), places, owner, (bottom, broad))


def _even(number: int) -> int:
    return number + number % 2


def _drawn(table: np.ndarray, pyramid: _Pyramid) -> torch.Tensor:
    """The canvas, (1, 3, height, width), with the photo in all its sizes."""
    canvas = np.zeros((1, *pyramid.canvas, 3), np.float32)
    height, width = (side - 1 for side in table.shape[:2])
    for _, top, left, high, wide in pyramid.levels:
        (above, below), (before, after) = _windows(0, height, high), _windows(0, width, wide)
        rows = table.take(below, axis=0) - table.take(above, axis=0)
        total = rows.take(after, axis=1) - rows.take(before, axis=1)
        pixels = (below - above)[:, None, None] * (after - before)[:, None]
        canvas[0, top : top + high, left : left + wide] = _scaled(total, pixels)
    return torch.from_numpy(canvas).permute(0, 3, 1, 2)


def _cells(
    canvas: torch.Tensor, levels: tuple[tuple[float, int, int, int, int], ...]
) -> tuple[torch.Tensor, np.ndarray]:
    """The first network's features (1, 32, rows, columns) and probabilities (rows, columns)."""
    net = _networks()[0]
    seen = net.prelu1(net.conv1(canvas))
    for _, top, left, high, wide in levels:  # a maximum must not reach across a level's edge
        bottom, right = top + high - 2, left + wide - 2
        seen[:, :, bottom : bottom + 1, left : left + wide] = -torch.inf
        seen[:, :, top : top + high, right : right + 1] = -torch.inf
    seen = torch.maximum(seen[:, :, ::2], seen[:, :, 1::2])  # several times faster than max_pool2d
    seen = torch.maximum(seen[..., ::2], seen[..., 1::2])
    seen = net.prelu3(net.conv3(net.prelu2(net.conv2(seen))))
    head = net.conv4_1
    odds = functional.linear(
        seen[0].permute(1, 2, 0),
        (head.weight[1] - head.weight[0])[:, 0, 0],
        head.bias[1] - head.bias[0],
    )
    return seen, torch.sigmoid(odds).numpy()


def _refined(table: np.ndarray, boxes: np.ndarray, threshold: float) -> np.ndarray:
    """The squares (n, 4) in which the second network still sees a face, moved by it."""
    boxes, crops = _crops(table, boxes, 24)
    if not len(boxes):
        return boxes
    shift, probability = (part.numpy() for part in _answers(_networks()[1], crops, 16))
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
    shift, points, probability = (part.numpy() for part in _answers(_networks()[2], crops, 8))
    sure = np.flatnonzero(probability[:, 1] > threshold)
    boxes, probability = boxes[sure], probability[sure, 1]
    points = points[sure].reshape(-1, 2, 5).transpose(0, 2, 1)
    points = points * (_sides(boxes)[:, None]) + boxes[:, None, :2] - 1
    boxes = _moved(boxes, shift[sure])
    kept = _not_within(boxes, probability)
    return boxes[kept], probability[kept], points[kept]


def _answers(net: torch.nn.Module, crops: torch.Tensor, most: int) -> tuple[torch.Tensor, ...]:
    """Of `most` crops at a time: what a layer makes should stay in the processor's cache."""
    return tuple(map(torch.cat, zip(*map(net, crops.split(most)), strict=True)))


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
    rows = _windows(top[inside, None], high[inside, None], size)
    columns = _windows(left[inside, None], wide[inside, None], size)
    crops = torch.from_numpy(_averages(table, rows, columns))
    return boxes[inside], crops.permute(0, 3, 1, 2)


def _windows(start: Any, length: Any, size: int) -> tuple[np.ndarray, np.ndarray]:
    """First and last edge, each (…, size), of the pixels averaged for each of `size` in a row."""
    steps = np.arange(size + 1) * length
    return start + steps[..., :-1] // size, start - (-steps[..., 1:] // size)


def _averages(
    table: np.ndarray, rows: tuple[np.ndarray, ...], columns: tuple[np.ndarray, ...]
) -> np.ndarray:
    """The photo's means over windows, (n, rows, columns, 3), scaled to -1 to 1 as MTCNN's input."""
    (top, bottom), (left, right) = rows, columns
    corner = functools.partial(_corner, table)
    total = corner(bottom, right) - corner(top, right) - corner(bottom, left) + corner(top, left)
    pixels = (bottom - top)[:, :, None, None] * (right - left)[:, None, :, None]
    return _scaled(total, pixels)


def _scaled(total: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    mean = total.astype(np.float32)
    mean /= pixels.astype(np.float32)
    mean -= np.float32(127.5)
    mean *= np.float32(1 / 128)
    return mean


def _corner(table: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    places = rows[:, :, None] * table.shape[1] + columns[:, None, :]
    return table.reshape(-1, 3).take(places, axis=0)
