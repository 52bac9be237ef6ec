"""Photos to probabilities: each photo, or each face in it, is cropped once for all models."""

import contextlib
import itertools
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from tqdm import tqdm

from common.base.progress import progress
from common.base.stages import Stages
from common.data.loading import crop_all
from common.faces.crop import Cropped, CropSpec
from common.inference.ensemble import Ensemble, all_models
from common.inference.options import PredictSettings
from common.inference.predictions import Probabilities
from common.inference.tta import views
from common.model.device import to_device
from common.model.loaded import LoadedModel

LOADED = 8  # photos a loader process hands over at a time: few, so that all end at about one time
CPU_PIXELS = 150_000  # of a batch on a CPU: larger ones crowd its caches, smaller ones are overhead


Row = tuple[int, Cropped | str]  # the index of a photo, and a crop or the reason for none
TaskResult = tuple[np.ndarray, np.ndarray, float]  # models' probabilities, their numbers, seconds
Pending = dict[str, list["Future[TaskResult]"]]  # by task
Crops = Iterable[Sequence[Cropped | tuple[Cropped, ...] | str]]  # in batches, as from `crop_all`
T = TypeVar("T")


def predict(
    paths: Sequence[Path],
    ensembles: Mapping[str, Ensemble],
    settings: PredictSettings,
    stages: Stages | None = None,
) -> Probabilities:
    """Predict for every photo, with a progress bar; see `Predictor`."""
    return Predictor(ensembles, settings, stages).photos(paths)


class Predictor:
    """Crops each photo once for all models and collects their probabilities.

    `ensembles`: task → its models, all on one device. `stages` gets the seconds of reading,
    decoding, detecting, cropping and of the networks, which overlap.
    """

    def __init__(
        self,
        ensembles: Mapping[str, Ensemble],
        settings: PredictSettings,
        stages: Stages | None = None,
    ) -> None:
        self.ensembles, self.settings = ensembles, settings
        self.stages = stages or Stages()
        self.models, self.specs = all_models(ensembles), crop_specs(ensembles)

    def photos(self, paths: Sequence[Path]) -> Probabilities:
        """Predict for photo files, each read, decoded and searched for faces once.

        With `settings.every_face` a photo has a row for each of its faces, from left to right, and
        one for its centre if there is none.
        """
        cropped = crop_all(
            paths,
            self.specs,
            self.settings.cache_dir,
            workers=self.settings.workers,
            batch_size=LOADED,
            every_face=self.settings.every_face,
        )
        with progress(len(paths), "predict", "photos", disable=len(paths) == 1) as bar:
            return self.crops(cropped, bar)

    def crops(self, cropped: Crops, bar: tqdm) -> Probabilities:
        """Predict for crops as `crop_all` yields them for `specs`; `bar` counts their photos.

        A crop without images gets a row of NaN. On a CPU batches are smaller than
        `settings.batch_size` where the crops are large.
        """
        parts = []
        with _threads(self.models) as (pool, threads):
            batches = _batches(cropped, min(self.settings.batch_size, _most(self.models)))
            submitted = ((rows, self._submit(rows, pool)) for rows in batches)
            for rows, pending in _ahead(submitted, threads):
                parts.append(self._collect(rows, pending))
                bar.update(rows[-1][0] + 1 - bar.n)
        return Probabilities.joined(parts)

    def faces(self, photos: Sequence[tuple[Cropped, ...]], pool: Executor) -> Probabilities:
        """Predict for the faces of each photo, each cut for `specs`.

        The networks run in `pool`, which several threads may share if torch takes one thread a call.
        """
        batches = _batches([photos], _most(self.models))
        return Probabilities.joined(
            [self._collect(rows, self._submit(rows, pool)) for rows in batches]
        )

    def _submit(self, rows: Sequence[Row], pool: Executor) -> Pending:
        """Start the models on the rows that hold a crop; models of one recipe share its views."""
        crops = [row for _, row in rows if _has_images(row)]
        if not crops:
            return {}
        images = {s: np.stack([crop.images[i] for crop in crops]) for i, s in enumerate(self.specs)}
        return {
            task: [
                pool.submit(_probabilities, tuple(alike), images, self.settings.tta_of(task))
                for _, alike in itertools.groupby(ensemble.models, lambda model: model.recipe)
            ]
            for task, ensemble in self.ensembles.items()
        }

    def _collect(self, rows: Sequence[Row], pending: Pending) -> Probabilities:
        """Wait for the models' probabilities for the rows."""
        n = len(rows)
        crops = {i: row for i, (_, row) in enumerate(rows) if isinstance(row, Cropped)}
        bad = {i: row for i, (_, row) in enumerate(rows) if isinstance(row, str)}
        regions, boxes = np.full((n, 4), np.nan), np.full((n, 4), np.nan)
        for place, crop in crops.items():
            self.stages.add(crop.seconds)
            regions[place] = crop.region
            if crop.box is not None:
                boxes[place] = crop.box
        places = np.array([i for i, crop in crops.items() if _has_images(crop)], dtype=int)
        by_model, numbers = {}, {}
        for task, ensemble in self.ensembles.items():
            models, classes = ensemble.models, len(ensemble.models[0].recipe.classes)
            by_model[task] = np.full((len(models), n, classes), np.nan)
            numbers[task] = np.full((len(models), n, 3), np.nan)
            if task in pending:
                by_model[task][:, places], numbers[task][:, places] = self._wait(pending[task])
            for model, values in zip(models, by_model[task], strict=True):
                broken = places[~np.isfinite(values[places]).all(axis=1)]
                reason = f"the {task} model's output isn't a number ({model.path})"
                bad |= dict.fromkeys(broken.tolist(), reason)
        return Probabilities(
            by_model=by_model,
            numbers=numbers,
            regions=regions,
            boxes=boxes,
            detected=[crops[i].detected if i in crops else None for i in range(n)],
            faces=[crops[i].faces if i in crops else None for i in range(n)],
            bad=bad,
            photos=np.array([photo for photo, _ in rows], dtype=int),
            turned=[i in crops and crops[i].turned for i in range(n)],
        )

    def _wait(self, pending: Sequence["Future[TaskResult]"]) -> tuple[np.ndarray, np.ndarray]:
        """(models, photos, classes) probabilities of a task's models, (models, photos, 3) numbers."""
        results = [future.result() for future in pending]
        self.stages.add({"networks": sum(seconds for *_, seconds in results)})
        probabilities, numbers, _ = zip(*results, strict=True)
        return np.concatenate(probabilities), np.concatenate(numbers)


def crop_specs(ensembles: Mapping[str, Ensemble]) -> list[CropSpec]:
    """The different crops that the models take, each once."""
    return list(dict.fromkeys(model.spec for model in all_models(ensembles)))


@contextlib.contextmanager
def _threads(models: Sequence[LoadedModel]) -> Iterator[tuple[ThreadPoolExecutor, int]]:
    """A pool with a thread for each that torch may use, and their number.

    Each thread runs a network of its own: threads that share one spin while they wait for each
    other, which takes the loader processes' cores (see `share_cores`).
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
    """The largest batch, in crops."""
    largest = max(model.spec.size[0] * model.spec.size[1] for model in models)
    return max(1, CPU_PIXELS // largest) if _on_cpu(models) else 65_536


def _batches(cropped: Crops, size: int) -> Iterator[list[Row]]:
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
    """Yield the same items, each after `number` more have been started."""
    waiting: deque[T] = deque()
    for item in items:
        waiting.append(item)
        if len(waiting) > number:
            yield waiting.popleft()
    yield from waiting


def _has_images(row: Cropped | str) -> bool:
    return isinstance(row, Cropped) and bool(row.images)


def _probabilities(
    models: Sequence[LoadedModel], crops: Mapping[CropSpec, np.ndarray], tta: str | int | None
) -> TaskResult:
    """Predict by models that share a recipe.

    Returns probabilities (models, photos, classes), numbers (models, photos, 3), NaN without any,
    and the seconds taken.
    """
    start = time.perf_counter()
    device = models[0].model.device
    images = [
        to_device(torch.from_numpy(view).permute(0, 3, 1, 2), device)
        for view in views(crops[models[0].spec], models[0].recipe, tta)
    ]
    probabilities, numbers = [], []
    for model in models:
        logits = torch.stack([model.logits(view) for view in images]).mean(dim=0)
        probabilities.append(model.calibrated(logits).cpu().numpy())
        number = model.number(logits)
        none = np.full((len(logits), 3), np.nan)
        numbers.append(none if number is None else number.cpu().numpy())
    return np.stack(probabilities), np.stack(numbers), time.perf_counter() - start
