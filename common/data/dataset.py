"""Batches of augmented crops and labels, in an order that follows from the seed alone."""

import functools
import random
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    Sampler,
    SequentialSampler,
    default_collate,
)

from common.base.errors import UserError
from common.base.processes import processes, rank
from common.data.loading import BATCH_TIMEOUT, start_worker
from common.faces.cache import read_crop
from common.faces.decode import BadPhoto

if TYPE_CHECKING:
    from albumentations import Compose


class FaceDataset(Dataset):
    """Cached crops and labels; items are (3, height, width) uint8 RGB tensors and int64 labels.

    A label is a class index, () in shape, or where a training has several targets (targets,).
    Asked with (index, seed) it augments: the same pair gives the same pixels in any process, so
    neither the number of workers nor an interruption changes what a training sees.
    """

    def __init__(
        self,
        files: Sequence[Path],
        labels: Sequence[int] | Sequence[tuple[int, ...]],
        augment: "Sequence[Compose | None]" = (),
    ) -> None:
        """`augment` holds each photo's own, or nothing; photos may share one."""
        self.files = files
        self.labels = labels
        self.augment = augment or (None,) * len(files)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, key: int | tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        index, seed = key if isinstance(key, tuple) else (key, None)
        try:
            image = read_crop(self.files[index])
        except BadPhoto as reason:
            raise UserError(f"{self.files[index]}: {reason}; start again to crop anew") from None
        augment = self.augment[index]
        if augment is not None and seed is not None:
            image = augmented(augment, image, seed)
        return to_tensor(image), torch.tensor(self.labels[index])


def to_tensor(image: np.ndarray) -> torch.Tensor:
    """(height, width, 3) uint8 → (3, height, width) uint8; scaling to floats is the model's."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


class SeededSampler(Sampler):
    """Shuffles anew each epoch and hands every photo the seed of its augmentation.

    With `groups`, one a photo, it draws as many photos with replacement, each group equally often.
    Order and seeds follow from (seed, epoch) alone; `start` skips what a resumed epoch has seen.
    """

    def __init__(self, length: int, seed: int, groups: Sequence[Hashable] = ()) -> None:
        self.length = length
        self.seed = seed
        sizes = Counter(groups)
        self.shares = np.array([1 / (len(sizes) * sizes[group]) for group in groups])
        self.epoch = 0
        self.start = 0

    def __len__(self) -> int:
        return max(0, self.length - self.start)  # a stop after the last, shorter batch

    def __iter__(self) -> Iterator[tuple[int, int]]:
        rng = np.random.default_rng((self.seed, self.epoch))
        order = self._order(rng)
        seeds = rng.integers(2**32, size=self.length)
        yield from zip(order[self.start :].tolist(), seeds[self.start :].tolist(), strict=True)

    def _order(self, rng: np.random.Generator) -> np.ndarray:
        if len(self.shares):
            return rng.choice(self.length, size=self.length, p=self.shares)
        return rng.permutation(self.length)


class PersonSampler(SeededSampler):
    """Every photo once an epoch, like a shuffle, but the photos of a person far apart.

    `people` are the persons of the photos, in their order. Round after round goes through all
    persons in random order and takes another photo of each. Someone with half as many photos as
    others takes part in every other round, so that each photo still comes once, and a photo that
    stands several times in the list as often as it stands there. Where all have equally many photos
    and there are more persons than `batch_size`, no batch holds a person twice.
    """

    def __init__(self, people: Sequence[Hashable], seed: int, batch_size: int) -> None:
        super().__init__(len(people), seed)
        numbers = {person: number for number, person in enumerate(dict.fromkeys(people))}
        self.people = np.array([numbers[person] for person in people])
        self.photos = np.bincount(self.people)
        persons = len(self.photos)
        self.loose = max(0.0, (persons - batch_size) / persons / 2)  # keeps batch_size - 1 between

    def _order(self, rng: np.random.Generator) -> np.ndarray:
        """Sorted by time in the epoch: the person's round, place in it, and a shift of the place.

        A place that stays the same from round to round keeps the photos of a person apart; the
        shift, of up to `loose` of a round, changes who meets whom.
        """
        order = rng.permutation(self.length)
        people = self.people[order]
        together = np.argsort(people, kind="stable")
        rounds = np.empty(self.length)
        firsts = np.cumsum(self.photos) - self.photos
        rounds[together] = np.arange(self.length) - np.repeat(firsts, self.photos)
        places = rng.permutation(len(self.photos)) / len(self.photos)
        shifts = self.loose * rng.random(self.length)
        times = (rounds + places[people] + shifts) / self.photos[people]
        return order[np.argsort(times, kind="stable")]


def own_part(batch: Any) -> Any:
    """The part of a list or tensor that is this process's; their lengths differ by at most one."""
    start, end = (len(batch) * place // processes() for place in (rank(), rank() + 1))
    return batch[start:end]


class PartSampler(BatchSampler):
    """Of every batch the part that is this process's; of a last, short one it may be empty."""

    def __iter__(self) -> Iterator[list[Any]]:
        yield from map(own_part, super().__iter__())


def _collate(dataset: FaceDataset, items: Sequence[Any]) -> list[torch.Tensor]:
    """A batch that may be empty."""
    return [part[: len(items)] for part in default_collate(list(items) or [dataset[0]])]


def make_loader(
    dataset: FaceDataset, batch_size: int, *, workers: int, sampler: SeededSampler | None = None
) -> DataLoader:
    """A loader that keeps every row, of which torchrun's processes get each their part.

    Only a last training batch of a single photo is left out: batch normalisation can't use it.
    """
    single = sampler is not None and len(dataset) % batch_size == 1 and len(dataset) > batch_size
    return DataLoader(
        dataset,
        batch_sampler=PartSampler(sampler or SequentialSampler(dataset), batch_size, single),
        collate_fn=functools.partial(_collate, dataset),
        num_workers=workers,
        persistent_workers=workers > 0,
        timeout=BATCH_TIMEOUT if workers else 0,
        worker_init_fn=start_worker,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),
    )


def augmented(compose: "Compose", image: np.ndarray, seed: int) -> np.ndarray:
    """`image` as changed by `compose`; equal seeds change it equally.

    All transforms draw from one generator. Compose.set_random_seed gives each the same seed, and
    then those of the same p come together or not at all (albumentations 2.0.8).
    """
    compose.set_random_state(np.random.default_rng(seed), random.Random(seed))
    return compose(image=image)["image"]
