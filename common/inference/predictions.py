"""Results for photos: probabilities as the models give them, and the classes decided from them."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class PhotoRows:
    """A row for each photo in a list, or where every face is asked for, for each face of each."""

    regions: np.ndarray
    """(rows, 4): the part of the photo that was cropped, x0, y0, x1, y1 in pixels; NaN where bad."""
    boxes: np.ndarray
    """(rows, 4): the detector's box, as `regions`; NaN where no face was detected."""
    detected: Sequence[bool | None]
    """True for a detected face, False for a centre crop; None where no model needs a face."""
    faces: Sequence[int | None]
    """The number of faces in the row's photo; None where no model needs a face."""
    bad: Mapping[int, str]
    """Row → reason why it has no probabilities."""
    photos: np.ndarray
    """(rows,): the index of each row's photo in the list."""

    turned: Sequence[bool] = ()
    """True where the photo seems to stand on its side or head; () where that wasn't tried."""

    def turned_rows(self) -> set[int]:
        """The rows whose photo seems to stand on its side or head: a doubtful prediction."""
        return {row for row, turned in enumerate(self.turned) if turned}

    def by_photo(self, photos: int) -> list[list[int]]:
        """The rows of each of so many photos, bad ones included."""
        rows: list[list[int]] = [[] for _ in range(photos)]
        for row, photo in enumerate(self.photos.tolist()):
            rows[photo].append(row)
        return rows

    def face_numbers(self) -> list[int | None]:
        """Number of each row's face, from 1 in each photo; 0 for a centre crop, None where bad."""
        counts: Counter[int] = Counter()
        numbers: list[int | None] = []
        for photo, detected in zip(self.photos.tolist(), self.detected, strict=True):
            counts[photo] += bool(detected)
            numbers.append(None if detected is None else counts[photo] * detected)
        return numbers

    def places(self) -> np.ndarray:
        """(rows, 4): the box of each face, or the crop's region where no face was detected."""
        return np.where(np.isfinite(self.boxes), self.boxes, self.regions)

    def bad_photos(self) -> dict[int, str]:
        """Index of each photo with a bad row → the reason, the first of several."""
        return {int(self.photos[row]): self.bad[row] for row in sorted(self.bad, reverse=True)}

    def _rows(self, rows: Sequence[int]) -> dict[str, Any]:
        """The shared fields of some rows."""
        turned = self.turned_rows()
        return {
            "regions": self.regions[rows],
            "boxes": self.boxes[rows],
            "detected": [self.detected[row] for row in rows],
            "faces": [self.faces[row] for row in rows],
            "bad": {place: self.bad[row] for place, row in enumerate(rows) if row in self.bad},
            "photos": self.photos[rows],
            "turned": [row in turned for row in rows],
        }


def _joined_rows(parts: Sequence[PhotoRows]) -> dict[str, Any]:
    """The shared fields of several results, one after another."""
    starts = np.cumsum([0, *(len(part.detected) for part in parts)]).tolist()
    return {
        "regions": np.concatenate([part.regions for part in parts]),
        "boxes": np.concatenate([part.boxes for part in parts]),
        "detected": [detected for part in parts for detected in part.detected],
        "faces": [faces for part in parts for faces in part.faces],
        "bad": {
            start + row: reason
            for start, part in zip(starts, parts, strict=False)
            for row, reason in part.bad.items()
        },
        "photos": np.concatenate([part.photos for part in parts]),
        "turned": [
            row in turned
            for part, turned in [(part, part.turned_rows()) for part in parts]
            for row in range(len(part.detected))
        ],
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Probabilities(PhotoRows):
    """Calibrated probabilities of each model, before a class is decided."""

    by_model: Mapping[str, np.ndarray]
    """Task → (models, rows, classes); NaN where bad."""
    numbers: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    """Task → (models, rows, 3): each model's number behind the classes, such as years, and the ends
    of its 80% interval; NaN where bad, or where a model learned only classes."""

    def only(self, rows: Sequence[int]) -> Self:
        """The same for some of the rows."""
        chosen = {
            name: {task: values[:, rows] for task, values in getattr(self, name).items()}
            for name in ("by_model", "numbers")
        }
        return dataclasses.replace(self, **chosen, **self._rows(rows))

    @classmethod
    def joined(cls, parts: Sequence["Probabilities"]) -> "Probabilities":
        """The results of the same models for one batch after another."""
        joined = {
            name: {
                task: np.concatenate([getattr(part, name)[task] for part in parts], axis=1)
                for task in getattr(parts[0], name)
            }
            for name in ("by_model", "numbers")
        }
        return cls(**joined, **_joined_rows(parts))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Predictions(PhotoRows):
    """The predicted class of each task, and the probabilities it was decided from."""

    probabilities: Mapping[str, np.ndarray]
    """Task → (rows, classes): the weighted mean over the task's models; NaN where bad."""
    classes: Mapping[str, np.ndarray]
    """Task → (rows,): indices of the predicted classes; -1 where bad."""
    numbers: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    """Name, such as years → (rows, 3): the mean of the models that learned the number, and of the
    ends of their 80% intervals; NaN where bad. Only the numbers that a model learned."""
    unsure_below: float = 0.0
    """Predictions with a lower probability are marked as unsure; 0: none."""

    def unsure(self) -> list[list[str]]:
        """The tasks of each row whose predicted class has a probability below `unsure_below`."""
        rows = np.arange(len(self.detected))
        low = {
            task: self.probabilities[task][rows, classes] < self.unsure_below  # False where NaN
            for task, classes in self.classes.items()
        }
        return [[task for task, marked in low.items() if marked[row]] for row in rows.tolist()]

    def _number(self, name: str) -> np.ndarray:
        """A number of all rows, (rows, 3); NaN if none of the models learned it."""
        none = np.full((len(self.detected), 3), np.nan)
        return self.numbers.get(name, none)

    def numbers_of(self, row: int) -> dict[str, Any]:
        """A row's numbers for JSON, such as {"years": 43.2, "years_interval": [36.0, 51.0]}."""
        found: dict[str, Any] = {}
        for name, values in self.numbers.items():
            if not np.isfinite(values[row]).all():
                continue
            expected, *interval = values[row].round(1).tolist()
            found |= {name: expected, f"{name}_interval": interval}
        return found

    @classmethod
    def joined(cls, parts: Sequence["Predictions"]) -> "Predictions":
        """The predictions for one list of photos after another, by whichever models."""
        tasks = parts[0].classes
        names = dict.fromkeys(name for part in parts for name in part.numbers)
        return cls(
            probabilities={
                task: np.concatenate([part.probabilities[task] for part in parts]) for task in tasks
            },
            classes={
                task: np.concatenate([part.classes[task] for part in parts]) for task in tasks
            },
            numbers={
                name: np.concatenate([part._number(name) for part in parts]) for name in names
            },
            unsure_below=parts[0].unsure_below,
            **_joined_rows(parts),
        )
