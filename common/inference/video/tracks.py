"""Which faces of a clip's frames are one person's: boxes that overlap from frame to frame.

Boxes are compared with where each track was last seen (Bochinski et al. 2017, High-speed tracking-
by-detection without using image information), all at once by the best assignment as in SORT (Bewley
et al. 2016), whose threshold this is too. No pixels are compared: someone who comes back is new.
"""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from common.faces.detector import overlaps

SAME = 0.3  # intersection over union from which two boxes are one face
PATIENCE = 5  # frames looked at in a row in which the detector may miss a face


def follow(
    boxes: np.ndarray, looks: Sequence[int], same: float = SAME, patience: int = PATIENCE
) -> np.ndarray:
    """The track of each face, (faces,), counted from 1 in the order in which they begin.

    `boxes` are (faces, 4), x0, y0, x1, y1; `looks` (faces,) say in which of the frames looked at
    each was seen, 0, 1, 2, …, and ascend. No track has two faces of a frame. A track that was missed
    more than `patience` times is over.
    """
    looks = np.asarray(looks, int)
    tracks = np.zeros(len(looks), int)
    begun, last = 0, np.empty(0, int)  # of each track that may go on, the place of its latest face
    starts = np.unique(looks, return_index=True)[1]
    for new in np.split(np.arange(len(looks)), starts)[1:]:
        last = last[looks[new[0]] - looks[last] <= patience + 1]
        before, after = _matched(boxes[last], boxes[new], same)
        tracks[new[after]] = tracks[last[before]]
        others = np.delete(new, after)
        tracks[others] = begun + 1 + np.arange(len(others))
        begun += len(others)
        last = np.concatenate([np.delete(last, before), new])
    return tracks


def _matched(last: np.ndarray, new: np.ndarray, same: float) -> tuple[np.ndarray, np.ndarray]:
    """Places in `last` and `new` of the pairs whose overlaps, each `same` or more, add up to most."""
    shared = overlaps(last, new)
    before, after = linear_sum_assignment(np.where(shared >= same, shared, 0), maximize=True)
    enough = shared[before, after] >= same
    return before[enough], after[enough]


def mean_by_track(shares: np.ndarray, tracks: np.ndarray) -> np.ndarray:
    """Each face's (…, faces, classes) probabilities replaced by their mean over its whole track.

    Faces without numbers (NaN) get their track's too, and stay so where the track has none.
    """
    _, places = np.unique(tracks, return_inverse=True)
    faces = np.moveaxis(shares, -2, 0)
    known = np.isfinite(faces)
    sums, counts = np.zeros((2, places.max(initial=-1) + 1, *faces.shape[1:]))
    np.add.at(sums, places, np.where(known, faces, 0))
    np.add.at(counts, places, known)
    means = np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)
    return np.moveaxis(means[places], 0, -2)


class Paths:
    """Where the tracks are in every frame, also in those that were not looked at."""

    def __init__(
        self, boxes: np.ndarray, frames: Sequence[int], tracks: np.ndarray, every: int
    ) -> None:
        """`boxes` (faces, 4), `frames` (faces,) ascending, `tracks` (faces,); one in `every` looked at."""
        order = np.argsort(tracks, kind="stable")
        self.numbers, starts = np.unique(tracks[order], return_index=True)
        self._frames = np.split(np.asarray(frames)[order], starts)[1:]
        self._boxes = np.split(boxes[order], starts)[1:]
        self._first = np.array([seen[0] for seen in self._frames])
        self._end = np.array([seen[-1] + every for seen in self._frames])

    def at(self, frame: int) -> tuple[np.ndarray, np.ndarray]:
        """The tracks to be seen in a frame, (faces,), and their boxes, (faces, 4).

        Between two sightings the box moves evenly; after the last it stays until the next look.
        """
        places = np.flatnonzero((self._first <= frame) & (frame < self._end))
        boxes = [self._between(place, frame) for place in places]
        return self.numbers[places], np.array(boxes).reshape(-1, 4)

    def _between(self, place: int, frame: int) -> list[float]:
        seen, boxes = self._frames[place], self._boxes[place]
        return [float(np.interp(frame, seen, side)) for side in boxes.T]
