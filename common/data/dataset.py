"""What the loader processes do: crop photos, and draw augmented training photos from crops."""

import contextlib
import dataclasses
import functools
import gc
import multiprocessing
import os
import signal
import sys
import threading
import time
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

from common.data.crop import (
    Cropped,
    Cropper,
    CropSpec,
    EveryFaceCropper,
    read_crop,
    usable_cache,
)
from common.data.decode import BadPhoto
from common.errors import UserError, listed, warn
from common.processes import processes, rank
from common.progress import progress

if TYPE_CHECKING:
    from albumentations import Compose

# s for a batch; one that was killed while another was started would be waited for without end. Less
# than distributed.STEP_TIMEOUT, so that who waits for it says why before the others give it up.
CROP_TIMEOUT, BATCH_TIMEOUT = 300, 30


class CropDataset(Dataset):
    """Photo paths → Cropped (of every face: a tuple of them), or why a photo can't be used (str)."""

    def __init__(
        self, paths: Sequence[Path], cropper: Cropper | EveryFaceCropper, pixels: bool = True
    ) -> None:
        self.paths = paths
        self.cropper = cropper
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Cropped | tuple[Cropped, ...] | str:
        try:
            cropped = self.cropper(self.paths[index])
        except BadPhoto as reason:
            return str(reason)
        return cropped if self.pixels else dataclasses.replace(cropped, images=())


def start_worker(_: int) -> None:
    """Loader processes leave signals to the main process, keep to one thread and die with it.

    A terminal and a scheduler send theirs to all processes, and the main one still needs batches.
    """
    import cv2

    sys.excepthook = _threads_error
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigtimedwait"):  # all but macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    else:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_die_with, args=(os.getppid(),), daemon=True).start()
    cv2.setNumThreads(0)
    gc.freeze()  # to look through what the main process made would copy it: 30 MB a process


def _threads_error(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """Say nothing where the main process went away while it was handed a batch."""
    if not issubclass(kind, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, trace)


def _die_with(parent: int) -> None:
    """End this process once `parent` is gone: torch's own watch waits for a full pipe for ever.

    The main process, which need not be the parent, may end it by SIGTERM, but nobody else.
    """
    main = multiprocessing.parent_process()
    while os.getppid() == parent:
        if not hasattr(signal, "sigtimedwait"):
            time.sleep(1)
        elif (sent := signal.sigtimedwait({signal.SIGTERM}, 1)) and main.pid == sent.si_pid:
            os._exit(0)  # anything else were an error to the main process
    os._exit(1)


@contextlib.contextmanager
def loader_errors() -> Iterator[None]:
    """Turn what goes wrong in a loader process, or its death, into one line.

    A death is raised at any place in the main process, not only where a batch is waited for; in a hook
    of Python's at a fork it can't be, and is found by the time-out.
    """
    failed, hook = "a loader process failed: ", sys.unraisablehook
    sys.unraisablehook = lambda lost: "DataLoader" in str(lost.exc_value) or hook(lost)
    try:
        yield
    except (ConnectionError, EOFError) as error:  # died while it handed a batch over
        raise UserError(f"{failed}{error or 'it ended'}") from None
    except (RuntimeError, UserError) as error:
        if "DataLoader" not in str(error) or str(error).startswith(failed):
            raise
        last = str(error).strip().rpartition("\n")[2]
        raise UserError(failed + last) from None
    finally:
        sys.unraisablehook = hook


def crop_all(
    paths: Sequence[Path],
    specs: Sequence[CropSpec],
    cache_dir: Path,
    *,
    workers: int,
    batch_size: int = 32,
    pixels: bool = True,
    every_face: bool = False,
) -> Iterator[list[Cropped | tuple[Cropped, ...] | str]]:
    """Crop photos in loader processes; yields batches in the order of `paths`.

    Without `pixels` crops are added to the cache and only their files are named, which saves copying
    between processes; it doesn't go with `every_face`, which yields a tuple of crops a photo.
    Where the cache can't be written it warns, and crops into a folder that goes with the process.
    """
    folder, warning = usable_cache(cache_dir)
    warn(warning)
    cropper = (
        EveryFaceCropper(specs, folder) if every_face else Cropper(specs, folder, keep=not pixels)
    )
    dataset = CropDataset(paths, cropper, pixels)
    yield from in_batches(dataset, workers=workers, batch_size=batch_size)


def in_batches(
    dataset: Dataset, *, workers: int, batch_size: int = 32, timeout: float = CROP_TIMEOUT
) -> Iterator[list[Any]]:
    """The items of `dataset` in order, made by loader processes, a list of `batch_size` at a time.

    Where none comes for `timeout` seconds a process is taken for dead.
    """
    workers = min(workers, len(dataset) // batch_size)
    loader = DataLoader(
        dataset,
        batch_size=batch_size,
        num_workers=workers,
        collate_fn=list,
        timeout=timeout if workers else 0,
        worker_init_fn=start_worker,
        generator=torch.Generator(),
    )
    with loader_errors():
        yield from loader


@dataclasses.dataclass(frozen=True)
class Prepared:
    """Cached crops of a list of photos; `files` holds None where a photo is bad."""

    files: list[Path | None]
    found: int
    fallback: int
    bad: list[tuple[Path, str]]

    def summary(self, looked: bool) -> str:
        """A line for the user: photos, faces, centre crops, failures."""
        photos = f"{len(self.files):,} photos"
        if not looked:
            return f"{photos}: {len(self.files) - len(self.bad):,} crops, {len(self.bad):,} failed"
        return (
            f"{photos}: {self.found:,} faces, {self.fallback:,} centre crops, "
            f"{len(self.bad):,} failed"
        )


def prepare_crops(
    paths: Sequence[Path], spec: CropSpec, cache_dir: Path, *, workers: int, allow_bad: int = 0
) -> Prepared:
    """Fill the cache with every photo's crop, with a progress bar.

    Photos come in random order, so that trainings that start together share the work: each finds in
    the cache what the others have cropped. UserError lists all unreadable photos where there are more
    than `allow_bad`.
    """
    order = np.random.default_rng().permutation(len(paths))
    shuffled, results = [paths[place] for place in order], [""] * len(paths)
    places = iter(order)
    with loader_errors(), progress(len(paths), "crop", "photos") as bar:
        for batch in crop_all(shuffled, [spec], cache_dir, workers=workers, pixels=False):
            for result, place in zip(batch, places, strict=False):
                results[place] = result
            bar.update(len(batch))
    bad = [(p, r) for p, r in zip(paths, results, strict=True) if isinstance(r, str)]
    if len(bad) > allow_bad:
        raise UserError(bad_photos(bad, len(paths), allow_bad))
    crops = [r for r in results if isinstance(r, Cropped)]
    return Prepared(
        files=[r.files[0] if isinstance(r, Cropped) else None for r in results],
        found=sum(crop.found is True for crop in crops),
        fallback=sum(crop.found is False for crop in crops),
        bad=bad,
    )


def bad_photos(bad: Sequence[tuple[Path | str, str]], total: int, allowed: int) -> str:
    """The message that lists unreadable photos and, where it is needed, names the way round them."""
    way = f" (--allow-bad {len(bad)} goes on without them)" if len(bad) > allowed else ""
    return f"{len(bad)} of {total} photos can't be used and {allowed} are allowed{way}\n" + listed(
        (f"{path}: {reason}" for path, reason in bad), limit=1000
    )


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
            from common.data.augmentation import augmented

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
