"""Crop each photo once and ask several models about it."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from common.data.crop import Cropped, CropSpec
from common.data.dataset import crop_all, to_tensor
from common.progress import progress
from common.training.checkpoint import Loaded


@dataclasses.dataclass(frozen=True)
class Answers:
    """What the models say of a list of photos, in its order.

    `probabilities`: task → (photos, classes), NaN where a photo is bad. `regions`: (photos, 4)
    the part of each photo that was looked at, x0, y0, x1, y1 in pixels, NaN where bad. `found`:
    whether a face was found, and `faces`: among how many; None where none was looked for. `bad`:
    index → reason.
    """

    probabilities: dict[str, np.ndarray]
    regions: np.ndarray
    found: list[bool | None]
    faces: list[int | None]
    bad: dict[int, str]

    def classes(self, task: str) -> np.ndarray:
        """The likeliest class of every photo, (photos,); -1 where a photo is bad."""
        p = self.probabilities[task]
        return np.where(np.isnan(p[:, 0]), -1, np.nan_to_num(p).argmax(axis=1))


def predict(
    paths: Sequence[Path],
    models: Mapping[str, Loaded],
    *,
    device: torch.device,
    cache_dir: Path,
    workers: int,
    batch_size: int = 64,
) -> Answers:
    """Answer for every photo, with a progress bar; each is read, decoded and searched once."""
    specs = list(dict.fromkeys(model.spec for model in models.values()))
    answers = Answers(
        {t: np.full((len(paths), len(m.recipe.classes)), np.nan) for t, m in models.items()},
        np.full((len(paths), 4), np.nan),
        [None] * len(paths),
        [None] * len(paths),
        {},
    )
    batches = crop_all(paths, specs, cache_dir, workers=workers, batch_size=batch_size)
    with progress(len(paths), "predict", "photos", disable=len(paths) == 1) as bar:
        start = 0
        for batch in batches:
            _answer(batch, start, specs, models, device, answers)
            start += len(batch)
            bar.update(len(batch))
    return answers


def _answer(
    batch: Sequence[Cropped | str],
    start: int,
    specs: Sequence[CropSpec],
    models: Mapping[str, Loaded],
    device: torch.device,
    answers: Answers,
) -> None:
    places = [start + i for i, item in enumerate(batch) if isinstance(item, Cropped)]
    crops = [item for item in batch if isinstance(item, Cropped)]
    answers.bad.update({start + i: r for i, r in enumerate(batch) if isinstance(r, str)})
    if not crops:
        return
    for place, crop in zip(places, crops, strict=True):
        answers.found[place], answers.faces[place] = crop.found, crop.faces
    answers.regions[places] = [crop.region for crop in crops]
    for number, spec in enumerate(specs):
        images = torch.stack([to_tensor(crop.images[number]) for crop in crops]).to(device)
        images = images.contiguous(memory_format=torch.channels_last)
        for task, model in models.items():
            if model.spec == spec:
                shares = model.probabilities(images).cpu().numpy()
                answers.probabilities[task][places] = shares
                unsure = ~np.isfinite(shares).all(axis=1)
                for place in np.array(places)[unsure].tolist():
                    answers.bad[place] = f"the {task} model gives no number for it"
