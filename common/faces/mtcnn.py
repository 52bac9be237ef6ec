"""MTCNN (Zhang et al. 2016) with facenet-pytorch's three networks and their weights.

The boxes are those of facenet-pytorch's `MTCNN.detect` up to rounding, 5 times as fast: levels of
the pyramid and candidates are averaged from one summed-area table (Crow 1984) instead of a call for
each, the networks run in channels-last memory, where pooling is vectorised, and boxes stay in
NumPy.
"""

import functools
import math
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch.nn import functional
from torchvision.ops import nms

FACTOR = 0.709  # scale of one level of the pyramid relative to the one before: half the area
CELL, STRIDE = 12, 2  # px: the first network's input, and the distance of its outputs
SAME_LEVEL, SAME_FACE = 0.5, 0.7  # overlap above which the less probable of two boxes is dropped


@functools.cache
def _networks() -> tuple[Any, ...]:
    from facenet_pytorch import ONet, PNet, RNet

    np.empty(
        1 << 24, np.uint8
    )  # once it is freed, malloc reuses smaller blocks without page faults
    nets = PNet(), RNet(), ONet()
    _widen(nets[0], 16)
    for net in nets[1:]:
        net.pool1.forward = _pooled
    return tuple(net.eval().to(memory_format=torch.channels_last) for net in nets)


def _widen(net: Any, channels: int) -> None:
    """Pad the first layer with zero channels: processors take 8 or 16 at a time, not 10."""
    more = channels - net.conv1.out_channels
    for parameter, axis in (
        (net.conv1.weight, 0),
        (net.conv1.bias, 0),
        (net.prelu1.weight, 0),
        (net.conv2.weight, 1),
    ):
        before = [0, 0] * (parameter.ndim - 1 - axis)
        parameter.data = functional.pad(parameter.data, [*before, 0, more])


def _pooled(features: torch.Tensor) -> torch.Tensor:
    """MaxPool2d(3, 2, ceil_mode=True) for an even height and width, in half the time."""
    rows = torch.maximum(features[:, :, ::2], features[:, :, 1::2])
    torch.maximum(rows[:, :, :-1], features[:, :, 2::2], out=rows[:, :, :-1])
    columns = torch.maximum(rows[..., ::2], rows[..., 1::2])
    torch.maximum(columns[..., :-1], rows[..., 2::2], out=columns[..., :-1])
    return columns


def levels_below(smallest: int, side: float) -> int:
    """Number of levels for faces below `side` px in the pyramid for faces from `smallest` px."""
    return max(0, round(math.log(side / smallest) / -math.log(FACTOR)))


def find_faces(
    image: np.ndarray, smallest: int, thresholds: tuple[float, ...], skipped: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Detect the faces of `smallest` px or more in a (height, width, 3) uint8 RGB photo.

    Returns boxes (n, 4), x0, y0, x1, y1, probabilities (n,), and landmarks (n, 5, 2), x, y, in
    pixels and float32. `thresholds` are the least probabilities of the three networks. The
    `skipped` largest levels of the pyramid are left out: small faces are missed, others unchanged.
    """
    table = cv2.integral(np.ascontiguousarray(image))
    with torch.inference_mode():
        boxes = _proposed(table, smallest, thresholds[0], skipped)
        boxes = _refined(table, boxes, thresholds[1])
        return _final(table, boxes, thresholds[2])


def _proposed(table: np.ndarray, smallest: int, threshold: float, skipped: int) -> np.ndarray:
    """Squares (n, 4) of any size in which the first network detects a face."""
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
    """Layout of all sizes of a photo side by side on one canvas, for one call of the network.

    `levels` are (scale, top, left, height, width), with corners at even pixels, `places` their
    first three values as an array. `owner` is the level of each of the first network's outputs, or
    -1 if its input crosses a level's edge. `canvas` is (height, width).
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
    """Draw the photo in all its sizes on the canvas, (1, 3, height, width)."""
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
    features = net.prelu1(net.conv1(canvas))
    for _, top, left, high, wide in levels:  # no maximum across a level's edge
        bottom, right = top + high - 2, left + wide - 2
        features[:, :, bottom : bottom + 1, left : left + wide] = -torch.inf
        features[:, :, top : top + high, right : right + 1] = -torch.inf
    features = torch.maximum(
        features[:, :, ::2], features[:, :, 1::2]
    )  # several times faster than max_pool2d
    features = torch.maximum(features[..., ::2], features[..., 1::2])
    features = net.prelu3(net.conv3(net.prelu2(net.conv2(features))))
    head = net.conv4_1
    # torch.nn.functional.linear takes a vector as weight only in later releases of torch
    weight = (head.weight[1] - head.weight[0])[:, 0, 0]
    log_odds = features[0].permute(1, 2, 0) @ weight + (head.bias[1] - head.bias[0])
    return features, torch.sigmoid(log_odds).numpy()


def _refined(table: np.ndarray, boxes: np.ndarray, threshold: float) -> np.ndarray:
    """Squares (n, 4) that the second network confirms and shifts."""
    boxes, crops = _crops(table, boxes, 24)
    if not len(boxes):
        return boxes
    shift, probability = (part.numpy() for part in _outputs(_networks()[1], crops, 16))
    sure = np.flatnonzero(probability[:, 1] > threshold)
    sure = sure[_distinct(boxes[sure], probability[sure, 1], SAME_FACE)]
    return _squared(_moved(boxes[sure], shift[sure]))


def _final(
    table: np.ndarray, boxes: np.ndarray, threshold: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes, probabilities and landmarks of the faces that the third network confirms."""
    boxes, crops = _crops(table, boxes, 48)
    if not len(boxes):
        return boxes, np.empty(0, np.float32), np.empty((0, 5, 2), np.float32)
    shift, points, probability = (part.numpy() for part in _outputs(_networks()[2], crops, 8))
    sure = np.flatnonzero(probability[:, 1] > threshold)
    boxes, probability = boxes[sure], probability[sure, 1]
    points = points[sure].reshape(-1, 2, 5).transpose(0, 2, 1)
    points = points * (_sides(boxes)[:, None]) + boxes[:, None, :2] - 1
    boxes = _moved(boxes, shift[sure])
    kept = _not_within(boxes, probability)
    return boxes[kept], probability[kept], points[kept]


def _outputs(net: torch.nn.Module, crops: torch.Tensor, batch: int) -> tuple[torch.Tensor, ...]:
    """Run `net` on small batches, so that its features stay in the processor's cache."""
    return tuple(map(torch.cat, zip(*map(net, crops.split(batch)), strict=True)))


def _sides(boxes: np.ndarray) -> np.ndarray:
    """Width and height, (n, 2); MTCNN counts both edges."""
    return boxes[:, 2:] - boxes[:, :2] + 1


def _moved(boxes: np.ndarray, shift: np.ndarray) -> np.ndarray:
    return boxes + shift * np.tile(_sides(boxes), 2)


def _squared(boxes: np.ndarray) -> np.ndarray:
    """Squares with the same centres and the longer side."""
    sides = boxes[:, 2:] - boxes[:, :2]
    longer = sides.max(axis=1, keepdims=True)
    corner = boxes[:, :2] + sides * np.float32(0.5) - longer * np.float32(0.5)
    return np.hstack([corner, corner + longer])


def _distinct(boxes: np.ndarray, scores: np.ndarray, overlap: float) -> np.ndarray:
    """Indices of the boxes that no more probable one overlaps, the most probable first."""
    return nms(torch.from_numpy(boxes), torch.from_numpy(scores), overlap).numpy()


def _not_within(boxes: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Like `_distinct`, with overlap as a share of the smaller box: no face lies in another."""
    areas, kept = _sides(boxes).prod(axis=1), []
    for index in np.argsort(scores)[::-1]:
        low = np.maximum(boxes[kept, :2], boxes[index, :2])
        high = np.minimum(boxes[kept, 2:], boxes[index, 2:])
        shared = (high - low + 1).clip(0).prod(axis=1)
        if (shared <= SAME_FACE * np.minimum(areas[kept], areas[index])).all():
            kept.append(index)
    return np.array(kept, int)


def _crops(table: np.ndarray, boxes: np.ndarray, size: int) -> tuple[np.ndarray, torch.Tensor]:
    """The boxes that overlap the photo, and their content scaled to (n, 3, size, size)."""
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
    """First and last edge, each (…, size), of the pixels to average for each of `size` pixels."""
    steps = np.arange(size + 1) * length
    return start + steps[..., :-1] // size, start - (-steps[..., 1:] // size)


def _averages(
    table: np.ndarray, rows: tuple[np.ndarray, ...], columns: tuple[np.ndarray, ...]
) -> np.ndarray:
    """Means of the photo over windows, (n, rows, columns, 3), scaled to -1 to 1, MTCNN's input."""
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
