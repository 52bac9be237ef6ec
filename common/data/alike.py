"""Photos that show the same picture, saved at another size or quality or changed a little.

pHash (Zauner 2010, Implementation and benchmarking of perceptual image hash functions): the signs,
about their median, of a small gray photo's low frequencies. Faces that were aligned share many of
them: of 2,700 people, a few hundred pairs differ in 8 bits or fewer. `correlation` of their thumbnails
tells the same picture (above .99 after another size or quality) from another face (below .96).
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from common.data.loading import Photos, in_batches
from common.faces.decode import decode, read_bytes

SIDE = 32  # px that the photo is scaled to
KEPT = 8  # frequencies along each side; the lowest, which say how bright edges are, are left out
NEAR_BITS = 8  # of two fingerprints of the same picture
NEAR_CORRELATION = 0.97  # of their thumbnails
BLOCK = 1024  # hashes compared with all others at once: 8 bytes × BLOCK × hashes in memory


def thumbnail(photo: np.ndarray) -> np.ndarray:
    """A (height, width, 3) uint8 RGB photo as (32, 32) uint8 gray, whatever its proportion."""
    gray = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)
    return cv2.resize(gray, (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def fingerprint(photo: np.ndarray) -> np.uint64:
    """The 64-bit perceptual hash of a (height, width, 3) uint8 RGB photo.

    Equal pictures differ in a few bits, pictures that have nothing in common in 32 on average.
    """
    frequencies = cv2.dct(thumbnail(photo).astype(np.float32))[1 : KEPT + 1, 1 : KEPT + 1]
    return np.packbits(frequencies > np.median(frequencies)).view(np.uint64)[0]


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Correlation of two thumbnails, -1 to 1; 0 if one of them is a single gray."""
    a, b = a - a.mean(), b - b.mean()
    size = np.linalg.norm(a) * np.linalg.norm(b)
    return float((a * b).sum() / size) if size else 0.0


def near_pairs(hashes: np.ndarray, distance: int) -> np.ndarray:
    """Find pairs of (n,) uint64 `hashes` within `distance` bits: (pairs, 2) int64 indices, i < j.

    Sorted by i, then j. All pairs are compared, a block at a time: a second for 20,000 hashes,
    whatever the distance.
    """
    hashes = np.asarray(hashes, dtype=np.uint64)
    blocks = list(_near(hashes, distance))
    return np.concatenate(blocks) if blocks else np.empty((0, 2), dtype=np.int64)


def _near(hashes: np.ndarray, distance: int) -> Iterator[np.ndarray]:
    for start in range(0, len(hashes), BLOCK):
        differences = hashes[start : start + BLOCK, None] ^ hashes[None, start:]
        pairs = np.argwhere(_bits(differences) <= distance)
        yield pairs[pairs[:, 0] < pairs[:, 1]] + start


def near_between(ours: np.ndarray, theirs: np.ndarray, distance: int) -> np.ndarray:
    """Find `ours` (n,) and `theirs` (m,) uint64 within `distance` bits: (pairs, 2) int64 indices."""
    blocks = [np.empty((0, 2), dtype=np.int64)]
    for start in range(0, len(ours), BLOCK):
        differences = ours[start : start + BLOCK, None] ^ theirs[None]
        blocks.append(np.argwhere(_bits(differences) <= distance) + (start, 0))
    return np.concatenate(blocks)


def _bits(numbers: np.ndarray) -> np.ndarray:
    """Count the set bits of each uint64; returns uint8."""
    if hasattr(np, "bitwise_count"):
        return np.bitwise_count(numbers)
    return _counted(numbers)


_BITS = np.unpackbits(np.arange(2**16, dtype=np.uint16).view(np.uint8)).reshape(-1, 16).sum(1)
_BITS = _BITS.astype(np.uint8)


def _counted(numbers: np.ndarray) -> np.ndarray:
    """`np.bitwise_count` for NumPy 1, which has none: a table of all 16-bit numbers."""
    parts = np.ascontiguousarray(numbers).view(np.uint16).reshape(*numbers.shape, 4)
    return sum(_BITS[parts[..., i]] for i in range(4))


class Thumbprint(NamedTuple):
    """A photo's 64-bit fingerprint and its (32, 32) uint8 gray thumbnail."""

    fingerprint: np.uint64
    thumbnail: np.ndarray


def thumbprint(path: Path) -> Thumbprint:
    """Decode a photo and return its fingerprint and thumbnail.

    Raises:
        BadPhoto: the photo can't be used.
    """
    photo = decode(read_bytes(path))
    return Thumbprint(fingerprint(photo), thumbnail(photo))


def quick_thumbprint(path: Path) -> Thumbprint:
    """The same of a photo decoded at a smaller scale, in a third of the time.

    To be compared with others of its kind: it differs a little from that of `thumbprint`.

    Raises:
        BadPhoto: the photo can't be used.
    """
    photo = decode(read_bytes(path), least=2 * SIDE)
    return Thumbprint(fingerprint(photo), thumbnail(photo))


def looks(
    paths: Sequence[Path], workers: int, read: Callable[[Path], Thumbprint] = thumbprint
) -> Iterator[Thumbprint | str]:
    """Yield each photo's fingerprint and thumbnail, in order, or the reason why it can't be used."""
    for batch in in_batches(Photos(paths, read), workers=workers):
        yield from batch


def same_looks(seen: Sequence[Thumbprint]) -> list[int]:
    """For each photo the place of the first one that looks the same, often its own.

    Two look the same where their fingerprints differ in at most NEAR_BITS and the correlation of their
    thumbnails is NEAR_CORRELATION or more; so do those that a third one looks the same as.
    """
    pairs = near_pairs(np.array([look.fingerprint for look in seen], dtype=np.uint64), NEAR_BITS)
    same = [
        (i, j)
        for i, j in pairs
        if correlation(seen[i].thumbnail, seen[j].thumbnail) >= NEAR_CORRELATION
    ]
    return connected(len(seen), same)


def same_between(
    ours: Sequence[Path], theirs: Sequence[Path], workers: int
) -> list[tuple[Path, Path]]:
    """Pairs of a photo of `ours` and one of `theirs` that look the same; bad photos have none."""
    seen, others = (_good(paths, workers) for paths in (ours, theirs))
    hashes = (
        np.array([look.fingerprint for _, look in part], dtype=np.uint64) for part in (seen, others)
    )
    return [
        (seen[i][0], others[j][0])
        for i, j in near_between(*hashes, NEAR_BITS)
        if correlation(seen[i][1].thumbnail, others[j][1].thumbnail) >= NEAR_CORRELATION
    ]


def _good(paths: Sequence[Path], workers: int) -> list[tuple[Path, Thumbprint]]:
    """The photos among `paths` that can be used, with their thumbprints."""
    found = zip(paths, looks(paths, workers, quick_thumbprint), strict=True)
    return [(path, look) for path, look in found if not isinstance(look, str)]


def connected(number: int, pairs: Sequence[tuple[int, int]]) -> list[int]:
    """For each of `number` places the first one that `pairs` connect with it, often its own."""
    left, right = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    graph = coo_array((np.ones(len(left)), (left, right)), shape=(number, number))
    _, groups = connected_components(graph, directed=False)
    _, firsts = np.unique(groups, return_index=True)
    return firsts[groups].tolist()
