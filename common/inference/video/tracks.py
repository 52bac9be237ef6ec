"""Track faces through a clip by boxes that overlap from frame to frame.

Boxes are compared with the last box of each track (Bochinski et al. 2017, High-speed tracking-by-
detection without using image information), all at once by the best assignment, as in SORT (Bewley
et al. 2016). Pixels are not compared: a face that reappears later starts a new track.
"""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from common.faces.detector import overlaps

MIN_OVERLAP = 0.3  # intersection over union of boxes of one face: SORT's threshold
MAX_MISSED = 5  # processed frames in a row without a detection, until a track ends


def follow(
    boxes: np.ndarray,
    steps: Sequence[int],
    overlap: float = MIN_OVERLAP,
    missed: int = MAX_MISSED,
) -> np.ndarray:
    """Number the track of each face, (faces,), from 1 in the order in which tracks begin.

    `boxes` are (faces, 4), x0, y0, x1, y1; `steps` (faces,) count the processed frames, ascending.
    A track has at most one face in a frame, and ends when more than `missed` frames lack it.
    """
    steps = np.asarray(steps, int)
    tracks = np.zeros(len(steps), int)
    begun, last = 0, np.empty(0, int)  # index of the latest face of each track that isn't over
    starts = np.unique(steps, return_index=True)[1]
    for new in np.split(np.arange(len(steps)), starts)[1:]:
        last = last[steps[new[0]] - steps[last] <= missed + 1]
        before, after = _matched(boxes[last], boxes[new], overlap)
        tracks[new[after]] = tracks[last[before]]
        others = np.delete(new, after)
        tracks[others] = begun + 1 + np.arange(len(others))
        begun += len(others)
        last = np.concatenate([np.delete(last, before), new])
    return tracks


def _matched(last: np.ndarray, new: np.ndarray, least: float) -> tuple[np.ndarray, np.ndarray]:
    """Indices in `last` and `new` of the pairs that overlap most, each by `least` or more."""
    shared = overlaps(last, new)
    before, after = linear_sum_assignment(np.where(shared >= least, shared, 0), maximize=True)
    enough = shared[before, after] >= least
    return before[enough], after[enough]


def mean_by_track(probabilities: np.ndarray, tracks: np.ndarray) -> np.ndarray:
    """Replace each face's (…, faces, classes) probabilities by the mean over its track.

    NaN is left out of the mean, and stays if the whole track has nothing else.
    """
    _, places = np.unique(tracks, return_inverse=True)
    faces = np.moveaxis(probabilities, -2, 0)
    finite = np.isfinite(faces)
    sums, counts = np.zeros((2, places.max(initial=-1) + 1, *faces.shape[1:]))
    np.add.at(sums, places, np.where(finite, faces, 0))
    np.add.at(counts, places, finite)
    means = np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)
    return np.moveaxis(means[places], 0, -2)


class Paths:
    """The boxes of tracks in every frame, also in frames that were not processed."""

    def __init__(
        self, boxes: np.ndarray, frames: Sequence[int], tracks: np.ndarray, every: int
    ) -> None:
        """Take `boxes` (faces, 4), `frames` (faces,) ascending and `tracks` (faces,).

        Every `every`-th frame was processed.
        """
        order = np.argsort(tracks, kind="stable")
        self.numbers, starts = np.unique(tracks[order], return_index=True)
        self._frames = np.split(np.asarray(frames)[order], starts)[1:]
        self._boxes = np.split(boxes[order], starts)[1:]
        self._first = np.array([frames[0] for frames in self._frames])
        self._end = np.array([frames[-1] + every for frames in self._frames])

    def at(self, frame: int) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of the tracks in a frame, (faces,), and their boxes, (faces, 4).

        Boxes are interpolated between detections; the last stays until the next processed frame.
        """
        places = np.flatnonzero((self._first <= frame) & (frame < self._end))
        boxes = [self._between(place, frame) for place in places]
        return self.numbers[places], np.array(boxes).reshape(-1, 4)

    def _between(self, place: int, frame: int) -> list[float]:
        frames, boxes = self._frames[place], self._boxes[place]
        return [float(np.interp(frame, frames, side)) for side in boxes.T]
