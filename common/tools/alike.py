"""Groups of photos that look the same."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch.utils.data import Dataset

from common.data.loading import in_batches
from common.faces.decode import BadPhoto, decode, read_bytes
from common.tools.duplicates import (
    NEAR_BITS,
    NEAR_CORRELATION,
    correlation,
    fingerprint,
    near_pairs,
    thumbnail,
)


class Thumbprint(NamedTuple):
    """A photo's 64-bit fingerprint and its (32, 32) uint8 gray thumbnail."""

    fingerprint: np.uint64
    thumbnail: np.ndarray


class ThumbprintDataset(Dataset):
    """Photo paths → Thumbprint, or the reason why a photo can't be used (str)."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Thumbprint | str:
        try:
            photo = decode(read_bytes(self.paths[index]))
        except BadPhoto as reason:
            return str(reason)
        return Thumbprint(fingerprint(photo), thumbnail(photo))


def looks(paths: Sequence[Path], workers: int) -> Iterator[Thumbprint | str]:
    """Yield each photo's fingerprint and thumbnail, in order, or the reason why it can't be used."""
    for batch in in_batches(ThumbprintDataset(paths), workers=workers):
        yield from batch


def same_looks(seen: Sequence[Thumbprint]) -> list[int]:
    """For each photo the place of the first one that looks the same, often its own.

    Two look the same where their fingerprints differ in at most NEAR_BITS and the correlation of their
    thumbnails is NEAR_CORRELATION or more; so do those that a third one looks the same as.
    """
    pairs = near_pairs(np.array([look.fingerprint for look in seen], dtype=np.uint64), NEAR_BITS)
    same = [
        (i, j) for i, j in pairs
        if correlation(seen[i].thumbnail, seen[j].thumbnail) >= NEAR_CORRELATION
    ]  # fmt: skip
    left, right = np.array(same, dtype=np.int64).reshape(-1, 2).T
    graph = coo_array((np.ones(len(left)), (left, right)), shape=(len(seen), len(seen)))
    _, groups = connected_components(graph, directed=False)
    _, firsts = np.unique(groups, return_index=True)
    return firsts[groups].tolist()
