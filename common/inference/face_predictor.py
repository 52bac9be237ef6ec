"""Predictions for photos in memory, of any kind that Python programs have: what `load` returns."""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from common.base.errors import UserError
from common.faces.crop import Cropped, crop_photo, cut_faces, shared_detector
from common.faces.decode import MIN_SIDE, BadPhoto, decode, read_bytes, upright_pixels
from common.faces.detector import detect_every
from common.inference.decide import Offsets, decide
from common.inference.ensemble import Ensemble, check_face_crops
from common.inference.predictor import Predictor

if TYPE_CHECKING:
    from common.inference.codes import Codes
    from common.inference.options import PredictSettings
    from common.inference.predictions import Predictions

BATCH = 16  # photos whose faces go through the networks together

Photo: TypeAlias = str | Path | bytes | Image.Image | NDArray[np.uint8]
Which = Literal["main", "all"]


@dataclasses.dataclass(frozen=True)
class PredictedFace:
    """A face in a photo, and what the models predict for it.

    Each task's class is also an attribute: `face.mask` is `face.classes["mask"]`.
    """

    box: tuple[float, float, float, float]
    """Left, top, right and bottom edge, in pixels of the upright photo."""
    found: bool
    """False if no face was detected: then the box is the part in the middle that was used."""
    classes: Mapping[str, str]
    """Task → the predicted class."""
    probabilities: Mapping[str, Mapping[str, float]]
    """Task → class → calibrated probability, 0 to 1."""
    numbers: Mapping[str, tuple[float, float, float]]
    """Name of a number behind a task's classes, where a model learned it, such as years → the
    expected value and the ends of an 80% interval."""
    code: int | None
    """The tasks' classes merged into one number; None if a task's model wasn't loaded."""

    def __getattr__(self, name: str) -> str:
        classes: Mapping[str, str] = self.__dict__.get("classes", {})
        if name not in classes:
            raise AttributeError(f"no {name}; predicted: {', '.join(classes)}")
        return classes[name]

    @property
    def years(self) -> float | None:
        """The expected age, if an age model learned years."""
        return self.numbers["years"][0] if "years" in self.numbers else None

    @property
    def years_interval(self) -> tuple[float, float] | None:
        """The ages between which it is with 80% probability, if an age model learned years."""
        return self.numbers["years"][1:] if "years" in self.numbers else None

    def unsure(self, least: float) -> tuple[str, ...]:
        """The tasks whose predicted class has a probability below `least`."""
        return tuple(t for t, name in self.classes.items() if self.probabilities[t][name] < least)

    def to_dict(self) -> dict[str, Any]:
        """The same as plain values, which json.dumps takes."""
        return {
            "box": list(self.box),
            "found": self.found,
            **self.classes,
            "code": self.code,
            **{name: values[0] for name, values in self.numbers.items()},
            **{f"{name}_interval": list(values[1:]) for name, values in self.numbers.items()},
            "probabilities": {task: dict(values) for task, values in self.probabilities.items()},
        }


class FacePredictor:
    """Models of one or several tasks that predict for the faces in photos.

    Threads may share it. It prints nothing and changes nothing in the process.
    """

    def __init__(
        self,
        ensembles: Mapping[str, Ensemble],
        offsets: Offsets,
        codes: "Codes",
        settings: "PredictSettings",
        pool: Executor | None = None,
    ) -> None:
        """Predict by `ensembles` (task → models), decided with `offsets`; networks run in `pool`."""
        self.ensembles, self.offsets, self.codes = ensembles, offsets, codes
        self._predictor = Predictor(ensembles, settings)
        self._pool = pool or _InThisThread()

    @overload
    def __call__(
        self, photos: Photo, *, faces: Which = ..., bgr: bool = ...
    ) -> list[PredictedFace]: ...
    @overload
    def __call__(
        self, photos: Sequence[Photo], *, faces: Which = ..., bgr: bool = ...
    ) -> list[list[PredictedFace]]: ...
    @overload
    def __call__(
        self, photos: Iterable[Photo], *, faces: Which = ..., bgr: bool = ...
    ) -> Iterator[list[PredictedFace]]: ...

    def __call__(
        self, photos: Photo | Iterable[Photo], *, faces: Which = "main", bgr: bool = False
    ) -> list[PredictedFace] | list[list[PredictedFace]] | Iterator[list[PredictedFace]]:
        """Predict for a photo, or for each of several.

        A photo is a path, the bytes of a file, a PIL image, or a (height, width, 3) uint8 array,
        RGB or with `bgr` as OpenCV has them. `faces` is main, for the most prominent face, or all,
        from left to right; in a photo without a face the middle is used, and `found` is False.
        Returns the faces of one photo; of several in a list or tuple, a list of these; of any other
        iterable, an iterator that reads ahead a few photos.

        Raises:
            UserError: a photo can't be used; the message names it.
        """
        if faces not in ("main", "all"):
            raise UserError(f"faces={faces!r}: expected main or all")
        if faces == "all":
            check_face_crops(self.ensembles, "faces='all'")
        if isinstance(photos, (str, Path, bytes, Image.Image, np.ndarray)):
            return next(self._faces([photos], faces, bgr))
        if not isinstance(photos, Iterable):
            raise UserError(f"{type(photos).__name__}: {EXPECTED}")
        found = self._faces(photos, faces, bgr)
        return list(found) if isinstance(photos, Sequence) else found

    def predictions(self, photos: Sequence[tuple[Cropped, ...]]) -> "Predictions":
        """Predict for the crops of each photo's faces, one row a face."""
        return decide(self._predictor.faces(photos, self._pool), self.ensembles, self.offsets)

    def crops(self, pixels: NDArray[np.uint8], faces: Which) -> tuple[Cropped, ...]:
        """Crop the faces in a (height, width, 3) uint8 RGB photo for the models."""
        specs = self._predictor.specs
        if faces == "main":
            return (crop_photo(pixels, specs),)
        return cut_faces(pixels, detect_every(pixels, shared_detector(specs)), specs)

    def _faces(
        self, photos: Iterable[Photo], faces: Which, bgr: bool
    ) -> Iterator[list[PredictedFace]]:
        numbered = enumerate(photos)
        while batch := list(itertools.islice(numbered, BATCH)):
            crops = [self.crops(pixels(photo, number, bgr=bgr), faces) for number, photo in batch]
            yield from self._described(self.predictions(crops), len(batch))

    def _described(self, predictions: "Predictions", photos: int) -> Iterator[list[PredictedFace]]:
        """The faces of each of so many photos."""
        codes = self.codes.of(predictions).tolist() if self.codes.classes else None
        places = predictions.places().tolist()
        for rows in predictions.by_photo(photos):
            yield [
                self._face(predictions, row, places[row], None if codes is None else codes[row])
                for row in rows
            ]

    def _face(
        self, predictions: "Predictions", row: int, box: Sequence[float], code: int | None
    ) -> PredictedFace:
        if row in predictions.bad:
            raise UserError(predictions.bad[row])
        names = {
            task: ensemble.models[0].recipe.classes for task, ensemble in self.ensembles.items()
        }
        probabilities = {
            task: dict(zip(words, predictions.probabilities[task][row].tolist(), strict=True))
            for task, words in names.items()
        }
        classes = {
            task: words[int(predictions.classes[task][row])] for task, words in names.items()
        }
        left, top, right, bottom = box
        return PredictedFace(
            (left, top, right, bottom),
            bool(predictions.detected[row]),
            classes,
            probabilities,
            {name: tuple(values[row].tolist()) for name, values in predictions.numbers.items()},
            code,
        )


EXPECTED = (
    "expected a path, the bytes of a file, a PIL image, or a (height, width, 3) uint8 array of RGB"
)


def pixels(photo: Photo, number: int = 0, *, bgr: bool = False) -> NDArray[np.uint8]:
    """Decode a photo of any kind to (height, width, 3) uint8 RGB; `number` names one without a path.

    Raises:
        UserError: it can't be used.
    """
    if isinstance(photo, (str, Path)):
        return _read(photo)
    try:
        if isinstance(photo, bytes):
            return decode(photo)
        if isinstance(photo, Image.Image):
            return upright_pixels(photo)
        return _array(photo, bgr)
    except BadPhoto as reason:
        raise UserError(f"photo {number}: {reason}") from None


def _read(path: str | Path) -> NDArray[np.uint8]:
    if "://" in str(path)[:9]:
        raise UserError(f"{path}: a URL; download the photo and give its bytes")
    try:
        return decode(read_bytes(Path(path)))
    except BadPhoto as reason:
        raise UserError(f"{path}: {reason}") from None


def _array(photo: Any, bgr: bool) -> NDArray[np.uint8]:
    if not isinstance(photo, np.ndarray):
        raise BadPhoto(f"{type(photo).__name__}: {EXPECTED}")
    if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3:
        raise BadPhoto(f"an array of {photo.shape} {photo.dtype}; {EXPECTED}")
    if min(photo.shape[:2]) < MIN_SIDE:
        height, width = photo.shape[:2]
        raise BadPhoto(f"{width} x {height} pixels; a side has at least {MIN_SIDE}")
    return np.ascontiguousarray(photo[:, :, ::-1] if bgr else photo)


class _InThisThread(Executor):
    """Runs each call at once: torch uses its own threads, and nothing is left to shut down."""

    def submit(self, call: Any, /, *args: Any, **kwargs: Any) -> "Future[Any]":
        future: Future[Any] = Future()
        try:
            future.set_result(call(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)
        return future
