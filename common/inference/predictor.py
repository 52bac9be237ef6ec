"""Crop each photo, or every face of it, once and ask several models about it."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from common.data.crop import Cropped, CropSpec
from common.data.dataset import crop_all
from common.inference.ensemble import Ensemble, all_models
from common.inference.tta import views
from common.progress import progress
from common.training.checkpoint import Loaded


@dataclasses.dataclass(frozen=True)
class Answers:
    """What the models say of a list of photos, in its order; or of their faces, photo by photo.

    Where every face was asked for, "photos" stands for faces below: a photo has a row for each.
    `shares`: task → (models, photos, classes), what each model says, and `probabilities`: task →
    (photos, classes), their mean; NaN where a photo is bad. `chosen`: task → (photos,) class
    indices, -1 where bad. `regions`: (photos, 4) the part of each photo that was looked at,
    x0, y0, x1, y1 in pixels, NaN where bad. `found`: whether a face was found, and `faces`: among
    how many; None where none was looked for. `bad`: index → reason. `boxes`: (photos, 4) the face as
    the detector found it, as `regions`, NaN where there is none. `photos`: (photos,) the place of
    each row's photo in the list.
    """

    shares: dict[str, np.ndarray]
    probabilities: dict[str, np.ndarray]
    chosen: dict[str, np.ndarray]
    regions: np.ndarray
    found: list[bool | None]
    faces: list[int | None]
    bad: dict[int, str]
    boxes: np.ndarray
    photos: np.ndarray

    def classes(self, task: str) -> np.ndarray:
        """The class that the models chose for every photo, (photos,); -1 where a photo is bad."""
        return self.chosen[task]


Ask = Callable[[Sequence[Path], Mapping[str, Ensemble]], Answers]


def predict(
    paths: Sequence[Path],
    ensembles: Mapping[str, Ensemble],
    *,
    cache_dir: Path,
    workers: int,
    batch_size: int = 64,
    tta: str | int | None = None,
    every_face: bool = False,
) -> Answers:
    """Answer for every photo, with a progress bar; each is read, decoded and searched once.

    `ensembles`: task → its models, all on one device. `tta`: see `views`. With `every_face` a photo
    has a row for each of its faces, from left to right, and one for its centre if it has none.
    """
    specs = list(dict.fromkeys(model.spec for model in all_models(ensembles)))
    batches = crop_all(
        paths, specs, cache_dir, workers=workers, batch_size=batch_size, every_face=every_face
    )
    parts, start = [], 0
    with progress(len(paths), "predict", "photos", disable=len(paths) == 1) as bar:
        for batch in batches:
            rows = [(start + i, row) for i, item in enumerate(batch) for row in _rows(item)]
            for first in range(0, len(rows), batch_size):
                parts.append(_answer(rows[first : first + batch_size], specs, ensembles, tta))
            start += len(batch)
            bar.update(len(batch))
    answers = joined(parts)
    for task, ensemble in ensembles.items():
        shares = np.concatenate([part.shares[task] for part in parts], axis=1)
        decided = ensemble.decide(shares)
        answers.shares[task], (answers.probabilities[task], answers.chosen[task]) = shares, decided
    return answers


def _rows(item: Cropped | tuple[Cropped, ...] | str) -> Sequence[Cropped | str]:
    return item if isinstance(item, tuple) else (item,)


def joined(parts: Sequence[Answers]) -> Answers:
    """The answers about several lists of photos, one list after another, as one.

    Without `shares`: each list may have been answered by other models.
    """
    starts = np.cumsum([0, *(len(part.found) for part in parts[:-1])]).tolist()
    tasks = parts[0].probabilities
    return Answers(
        {},
        {task: np.concatenate([part.probabilities[task] for part in parts]) for task in tasks},
        {task: np.concatenate([part.chosen[task] for part in parts]) for task in tasks},
        np.concatenate([part.regions for part in parts]),
        [found for part in parts for found in part.found],
        [faces for part in parts for faces in part.faces],
        {
            start + i: r
            for start, part in zip(starts, parts, strict=True)
            for i, r in part.bad.items()
        },
        np.concatenate([part.boxes for part in parts]),
        np.concatenate([part.photos for part in parts]),
    )


def _no_answers(photos: Sequence[int], ensembles: Mapping[str, Ensemble]) -> Answers:
    n = len(photos)
    sizes = {t: (len(e.models), len(e.models[0].recipe.classes)) for t, e in ensembles.items()}
    return Answers(
        {task: np.full((models, n, classes), np.nan) for task, (models, classes) in sizes.items()},
        {},
        {},
        np.full((n, 4), np.nan),
        [None] * n,
        [None] * n,
        {},
        np.full((n, 4), np.nan),
        np.array(photos),
    )


def _answer(
    rows: Sequence[tuple[int, Cropped | str]],
    specs: Sequence[CropSpec],
    ensembles: Mapping[str, Ensemble],
    tta: str | int | None,
) -> Answers:
    """What the models say of each row's crop, yet without probabilities and classes.

    A row is its photo's place and a crop, or the reason why there is none.
    """
    answers = _no_answers([photo for photo, _ in rows], ensembles)
    answers.bad.update({i: row for i, (_, row) in enumerate(rows) if isinstance(row, str)})
    crops = {i: row for i, (_, row) in enumerate(rows) if isinstance(row, Cropped)}
    if not crops:
        return answers
    places = np.array(list(crops))
    for place, crop in crops.items():
        answers.found[place], answers.faces[place] = crop.found, crop.faces
        answers.regions[place] = crop.region
        if crop.box is not None:
            answers.boxes[place] = crop.box
    images = {s: [crop.images[i] for crop in crops.values()] for i, s in enumerate(specs)}
    for task, ensemble in ensembles.items():
        shares = np.stack(list(_shares(ensemble.models, images, tta)))
        answers.shares[task][:, places] = shares
        for model, share in zip(ensemble.models, shares, strict=True):
            unsure = places[~np.isfinite(share).all(axis=1)]
            reason = f"the {task} model gives no number for it ({model.path})"
            answers.bad.update(dict.fromkeys(unsure.tolist(), reason))
    return answers


def _shares(
    models: Sequence[Loaded], crops: Mapping[CropSpec, Sequence[np.ndarray]], tta: str | int | None
) -> Iterator[np.ndarray]:
    """Each model's probabilities, (photos, classes), for the crops of its kind."""
    recipe, images = None, []
    for model in models:
        if model.recipe != recipe:  # models of the same recipe look at the same views
            recipe = model.recipe
            seen = views(crops[model.spec], recipe, tta)
            images = [torch.from_numpy(view).permute(0, 3, 1, 2) for view in seen]
        images = [view.to(model.model.device) for view in images]
        logits = torch.stack([model.logits(view) for view in images]).mean(dim=0)
        yield model.calibrated(logits).cpu().numpy()
