"""Batches of augmented crops and labels, in an order that depends only on the seed."""

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
from common.data.pseudo import DrawnTarget
from common.faces.cache import read_crop
from common.faces.decode import BadPhoto

if TYPE_CHECKING:
    from albumentations import Compose


class FaceDataset(Dataset):
    """Cached crops and labels; items are (3, height, width) uint8 RGB tensors and int64 labels.

    A label is a class index, of shape (), or of shape (targets,) if there are several targets. The
    key (index, seed) gives an augmented crop, and draws a pseudo-label: the same pair gives the same
    pixels and label in any process, so neither the number of workers nor an interruption changes the
    training.
    """

    def __init__(
        self,
        files: Sequence[Path],
        labels: Sequence[int | tuple[int, ...] | DrawnTarget],
        augment: "Sequence[Compose | None]" = (),
    ) -> None:
        """`augment` is empty or has one item per photo; photos may share one."""
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
        augment, label = self.augment[index], self.labels[index]
        if augment is not None and seed is not None:
            image = augmented(augment, image, seed)
        if isinstance(label, DrawnTarget):
            label = label.drawn(seed)
        return to_tensor(image), torch.tensor(label)


def to_tensor(image: np.ndarray) -> torch.Tensor:
    """(height, width, 3) uint8 → (3, height, width) uint8; the model scales it to floats."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


class SeededSampler(Sampler):
    """Shuffles in each epoch; yields (index, seed of the augmentation).

    With `groups`, one per photo, it draws as many photos with replacement, each group equally
    often. Order and seeds depend only on (seed, epoch); `start` skips the photos that a resumed
    epoch has used.
    """

    def __init__(self, length: int, seed: int, groups: Sequence[Hashable] = ()) -> None:
        self.length = length
        self.seed = seed
        sizes = Counter(groups)
        self.weights = np.array([1 / (len(sizes) * sizes[group]) for group in groups])
        self.epoch = 0
        self.start = 0

    def __len__(self) -> int:
        return max(0, self.length - self.start)  # start may lie beyond a last, shorter batch

    def __iter__(self) -> Iterator[tuple[int, int]]:
        rng = np.random.default_rng((self.seed, self.epoch))
        order = self._order(rng)
        seeds = rng.integers(2**32, size=self.length)
        yield from zip(order[self.start :].tolist(), seeds[self.start :].tolist(), strict=True)

    def _order(self, rng: np.random.Generator) -> np.ndarray:
        if len(self.weights):
            return rng.choice(self.length, size=self.length, p=self.weights)
        return rng.permutation(self.length)


class PersonSampler(SeededSampler):
    """Yields every photo once an epoch, with the photos of a person far apart.

    `people` are the persons of the photos, in the photos' order. Each round goes through all people
    in random order and takes another photo of each. Someone with half as many photos as others
    takes part in every other round, so that each photo still comes once; a photo that is listed
    several times comes as often. If all people have equally many photos, and there are more people
    than `batch_size`, no batch has two photos of a person.
    """

    def __init__(self, people: Sequence[Hashable], seed: int, batch_size: int) -> None:
        super().__init__(len(people), seed)
        numbers = {person: number for number, person in enumerate(dict.fromkeys(people))}
        self.people = np.array([numbers[person] for person in people])
        self.photos = np.bincount(self.people)
        count = len(self.photos)
        # The largest shift that keeps batch_size - 1 photos between two of a person.
        self.max_shift = max(0.0, (count - batch_size) / count / 2)

    def _order(self, rng: np.random.Generator) -> np.ndarray:
        """Sort photos by time: the person's round, plus the place in it, plus a random shift.

        A place that is the same in each round keeps the photos of a person apart; the shift, of up
        to `max_shift` rounds, varies the people in a batch.
        """
        order = rng.permutation(self.length)
        people = self.people[order]
        together = np.argsort(people, kind="stable")
        rounds = np.empty(self.length)
        firsts = np.cumsum(self.photos) - self.photos
        rounds[together] = np.arange(self.length) - np.repeat(firsts, self.photos)
        places = rng.permutation(len(self.photos)) / len(self.photos)
        shifts = self.max_shift * rng.random(self.length)
        times = (rounds + places[people] + shifts) / self.photos[people]
        return order[np.argsort(times, kind="stable")]


def own_part(batch: Any) -> Any:
    """Part of a list or tensor for this process; the parts' lengths differ by at most one."""
    start, end = (len(batch) * place // processes() for place in (rank(), rank() + 1))
    return batch[start:end]


class PartSampler(BatchSampler):
    """Yields this process's part of every batch; it may be empty in the last one."""

    def __iter__(self) -> Iterator[list[Any]]:
        yield from map(own_part, super().__iter__())


def _collate(dataset: FaceDataset, items: Sequence[Any]) -> list[torch.Tensor]:
    """Collate a batch, which may be empty."""
    return [part[: len(items)] for part in default_collate(list(items) or [dataset[0]])]


def make_loader(
    dataset: FaceDataset, batch_size: int, *, workers: int, sampler: SeededSampler | None = None
) -> DataLoader:
    """Make a loader of all photos; under torchrun, of this process's part of each batch.

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
    """Augment a (height, width, 3) uint8 RGB image; equal seeds give equal results.

    All transforms share one generator: Compose.set_random_seed would give each the same seed, and
    then transforms of equal p would always be applied together (albumentations 2.0.8).
    """
    compose.set_random_state(np.random.default_rng(seed), random.Random(seed))
    return compose(image=image)["image"]
