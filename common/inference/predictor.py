"""Crop each photo, or every face of it, once and ask several models about it."""

import contextlib
import dataclasses
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from common.base.progress import progress
from common.base.stages import Stages
from common.data.loading import crop_all
from common.faces.crop import Cropped, CropSpec
from common.inference.ensemble import Ensemble, all_models
from common.inference.tta import views
from common.model.loaded import LoadedModel

LOADED = 8  # photos that a loader process hands over at a time: all end at about the same time
CPU_PIXELS = 150_000  # of crops at a time on a CPU: more crowd its caches, fewer are all overhead


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

    def only(self, rows: Sequence[int]) -> "Answers":
        """The same about some of the rows."""
        rows = list(rows)
        return Answers(
            {task: shares[:, rows] for task, shares in self.shares.items()},
            {task: shares[rows] for task, shares in self.probabilities.items()},
            {task: chosen[rows] for task, chosen in self.chosen.items()},
            self.regions[rows],
            [self.found[row] for row in rows],
            [self.faces[row] for row in rows],
            {place: self.bad[row] for place, row in enumerate(rows) if row in self.bad},
            self.boxes[rows],
            self.photos[rows],
        )


Ask = Callable[[Sequence[Path], Mapping[str, Ensemble]], Answers]
Row = tuple[int, Cropped | str]  # a photo's place, and a crop or the reason why there is none
Shares = dict[str, list["Future[tuple[np.ndarray, float]]"]]  # task → what is yet to be said
T = TypeVar("T")


def predict(
    paths: Sequence[Path],
    ensembles: Mapping[str, Ensemble],
    *,
    cache_dir: Path,
    workers: int,
    batch_size: int = 64,
    tta: str | int | None = None,
    every_face: bool = False,
    stages: Stages | None = None,
) -> Answers:
    """Answer for every photo, with a progress bar; each is read, decoded and searched once.

    `ensembles`: task → its models, all on one device. On a CPU they look at fewer than `batch_size`
    crops at a time where these are large. `tta`: see `views`. With `every_face` a photo has a row
    for each of its faces, from left to right, and one for its centre if it has none. `stages` gets
    the seconds of reading, decoding, detecting, cropping and of the networks, which overlap.
    """
    cropped = crop_all(
        paths, crop_specs(ensembles), cache_dir, workers=workers, batch_size=LOADED,
        every_face=every_face,
    )  # fmt: skip
    return predict_cropped(
        cropped, len(paths), "photos", ensembles, batch_size=batch_size, tta=tta, stages=stages
    )


def predict_cropped(
    cropped: Iterable[Sequence[Cropped | tuple[Cropped, ...] | str]],
    photos: int,
    unit: str,
    ensembles: Mapping[str, Ensemble],
    *,
    batch_size: int,
    tta: str | int | None,
    stages: Stages | None,
) -> Answers:
    """As `predict`, for batches of crops as `crop_all` yields them, of so many `photos`.

    A crop without images, in none of `crop_specs(ensembles)`, gets a row of NaN. `unit` is what the
    progress bar calls a photo.
    """
    stages = stages or Stages()
    models, specs = all_models(ensembles), crop_specs(ensembles)
    parts = []
    with (
        progress(photos, "predict", unit, disable=photos == 1) as bar,
        _threads(models) as (pool, threads),
    ):
        batches = _batches(cropped, min(batch_size, _most(models)))
        asked = ((rows, _ask(rows, specs, ensembles, tta, pool)) for rows in batches)
        for rows, shares in _ahead(asked, threads):
            parts.append(_answer(rows, ensembles, shares, stages))
            bar.update(rows[-1][0] + 1 - bar.n)
    return _decided(parts, ensembles)


def ask_faces(
    faces: Sequence[Cropped],
    ensembles: Mapping[str, Ensemble],
    pool: ThreadPoolExecutor,
    tta: str | int | None = None,
) -> Answers:
    """Answer for the faces of one photo, cut for every spec of `ensembles` as `predict` does.

    The networks run in `pool`, which several threads may share if torch takes one thread a call.
    """
    specs = crop_specs(ensembles)
    parts = [
        _answer(rows, ensembles, _ask(rows, specs, ensembles, tta, pool), Stages())
        for rows in _batches([[tuple(faces)]], _most(all_models(ensembles)))
    ]
    return _decided(parts, ensembles)


def crop_specs(ensembles: Mapping[str, Ensemble]) -> list[CropSpec]:
    """The crops that the models look at, each once."""
    return list(dict.fromkeys(model.spec for model in all_models(ensembles)))


def _decided(parts: Sequence[Answers], ensembles: Mapping[str, Ensemble]) -> Answers:
    """The answers about all of `parts`, with the probabilities and classes that follow."""
    answers = joined(parts)
    for task, ensemble in ensembles.items():
        shares = np.concatenate([part.shares[task] for part in parts], axis=1)
        decided = ensemble.decide(shares)
        answers.shares[task], (answers.probabilities[task], answers.chosen[task]) = shares, decided
    return answers


@contextlib.contextmanager
def _threads(models: Sequence[LoadedModel]) -> Iterator[tuple[ThreadPoolExecutor, int]]:
    """As many threads as torch may use, each for a network of its own, and how many these are.

    Threads that share a network wait for one another spinning, which takes the loader processes'
    cores: see `share_cores`.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    number = threads if _on_cpu(models) else 1
    pool = ThreadPoolExecutor(number)
    try:
        yield pool, number
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


def _on_cpu(models: Sequence[LoadedModel]) -> bool:
    return all(model.model.device.type == "cpu" for model in models)


def _most(models: Sequence[LoadedModel]) -> int:
    """How many crops the models should look at together, at most."""
    largest = max(model.spec.size[0] * model.spec.size[1] for model in models)
    return max(1, CPU_PIXELS // largest) if _on_cpu(models) else 65_536


def _batches(
    cropped: Iterable[Sequence[Cropped | tuple[Cropped, ...] | str]], size: int
) -> Iterator[list[Row]]:
    """The rows of all photos, `size` at a time."""
    rows: list[Row] = []
    for photo, item in enumerate(itertools.chain.from_iterable(cropped)):
        rows += [(photo, row) for row in (item if isinstance(item, tuple) else (item,))]
        while len(rows) >= size:
            yield rows[:size]
            rows = rows[size:]
    if rows:
        yield rows


def _ahead(items: Iterable[T], number: int) -> Iterator[T]:
    """The same items, each once `number` more are under way."""
    waiting: deque[T] = deque()
    for item in items:
        waiting.append(item)
        if len(waiting) > number:
            yield waiting.popleft()
    yield from waiting


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


def _ask(
    rows: Sequence[Row],
    specs: Sequence[CropSpec],
    ensembles: Mapping[str, Ensemble],
    tta: str | int | None,
    pool: ThreadPoolExecutor,
) -> Shares:
    """Have `pool` ask the models about the rows that hold a crop; of each spec all see the same."""
    crops = [row for _, row in rows if _seen(row)]
    if not crops:
        return {}
    images = {s: np.stack([crop.images[i] for crop in crops]) for i, s in enumerate(specs)}
    return {
        task: [
            pool.submit(_shares, tuple(alike), images, tta)
            for _, alike in itertools.groupby(ensemble.models, lambda model: model.recipe)
        ]
        for task, ensemble in ensembles.items()
    }


def _seen(row: Cropped | str) -> bool:
    """Whether there are pixels for the models."""
    return isinstance(row, Cropped) and bool(row.images)


def _answer(
    rows: Sequence[Row], ensembles: Mapping[str, Ensemble], asked: Shares, stages: Stages
) -> Answers:
    """What the models say of each row's crop, yet without probabilities and classes."""
    answers = _no_answers([photo for photo, _ in rows], ensembles)
    answers.bad.update({i: row for i, (_, row) in enumerate(rows) if isinstance(row, str)})
    crops = {i: row for i, (_, row) in enumerate(rows) if isinstance(row, Cropped)}
    places = np.array([i for i, crop in crops.items() if _seen(crop)], dtype=int)
    for place, crop in crops.items():
        stages.add(crop.seconds)
        answers.found[place], answers.faces[place] = crop.found, crop.faces
        answers.regions[place] = crop.region
        if crop.box is not None:
            answers.boxes[place] = crop.box
    for task, futures in asked.items():
        said = [future.result() for future in futures]
        stages.add({"networks": sum(seconds for _, seconds in said)})
        shares = np.concatenate([share for share, _ in said])
        answers.shares[task][:, places] = shares
        for model, share in zip(ensembles[task].models, shares, strict=True):
            unsure = places[~np.isfinite(share).all(axis=1)]
            reason = f"the {task} model gives no number for it ({model.path})"
            answers.bad.update(dict.fromkeys(unsure.tolist(), reason))
    return answers


def _shares(
    models: Sequence[LoadedModel], crops: Mapping[CropSpec, np.ndarray], tta: str | int | None
) -> tuple[np.ndarray, float]:
    """Probabilities, (models, photos, classes), of models that share a recipe; seconds taken."""
    start = time.perf_counter()
    seen = views(crops[models[0].spec], models[0].recipe, tta)
    device = models[0].model.device
    images = [torch.from_numpy(view).permute(0, 3, 1, 2).to(device) for view in seen]
    shares = []
    for model in models:
        logits = torch.stack([model.logits(view) for view in images]).mean(dim=0)
        shares.append(model.calibrated(logits).cpu().numpy())
    return np.stack(shares), time.perf_counter() - start
