"""Loader processes: read and crop photos in parallel; their failures become one-line errors."""

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
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from common.base.errors import UserError, listed, warn
from common.base.progress import progress
from common.faces.cache import Cropper, EveryFaceCropper, usable_cache
from common.faces.crop import Cropped, CropSpec
from common.faces.decode import BadPhoto

# Seconds before a worker is considered dead. Both must stay below distributed.STEP_TIMEOUT, so that
# the rank that lost it reports the cause first.
CROP_TIMEOUT, BATCH_TIMEOUT = 300, 30
PHOTO_SECONDS = 30  # for one photo, which is then a bad one; 40 million pixels take 3 s


class Photos(Dataset):
    """Photo i as `read` returns it, or the reason (str) why it can't be used."""

    def __init__(self, paths: Sequence[Path], read: Callable[[Path], Any]) -> None:
        self.paths = paths
        self.read = read

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Any:
        try:
            with time_limit(PHOTO_SECONDS):
                return self.read(self.paths[index])
        except BadPhoto as reason:
            return str(reason)


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise BadPhoto after `seconds`, in a process's main thread; nothing happens in other threads.

    A library's call is interrupted where it returns to Python: Pillow does so every 64 kB.
    """
    alarm = getattr(signal, "SIGALRM", None)  # not on Windows
    if alarm is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def over(*_: object) -> None:
        raise BadPhoto(f"takes more than {seconds:g} s")

    before = signal.signal(alarm, over)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1)  # again: a library may swallow the first
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(alarm, before)


def _crop_to_cache(cropper: Cropper, path: Path) -> Cropped:
    """Crop a photo into the cache; without pixels less is copied between processes."""
    return dataclasses.replace(cropper(path), images=())


def start_worker(_: int) -> None:
    """Prepare a loader process: signals are left to the main process, OpenCV uses one thread.

    Terminals and schedulers signal all processes, but the main one still needs batches. The loader
    process ends with its parent.
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
    gc.freeze()  # collecting the main process's objects would copy their memory: 30 MB a process


def _threads_error(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """Print nothing if the main process ended while it was sent a batch."""
    if not issubclass(kind, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, trace)


def _die_with(parent: int) -> None:
    """End this process when `parent` ends: torch's own watchdog waits forever for a full pipe.

    SIGTERM ends it only if the main process, which needn't be the parent, has sent it.
    """
    main = multiprocessing.parent_process()
    while os.getppid() == parent:
        if not hasattr(signal, "sigtimedwait"):
            time.sleep(1)
        elif (sent := signal.sigtimedwait({signal.SIGTERM}, 1)) and main.pid == sent.si_pid:
            os._exit(0)  # any other exit code makes DataLoader raise
    os._exit(1)


@contextlib.contextmanager
def loader_errors() -> Iterator[None]:
    """Turn a failure or the death of a loader process into a UserError of one line.

    A death is raised anywhere in the main process, not only where it waits for a batch. In Python's
    fork hooks it can't be raised; there the time-out detects it.
    """
    failed, hook = "a loader process failed: ", sys.unraisablehook
    sys.unraisablehook = lambda lost: "DataLoader" in str(lost.exc_value) or hook(lost)
    try:
        yield
    except (ConnectionError, EOFError) as error:  # died while it sent a batch
        raise UserError(f"{failed}{error or 'it ended'}") from None
    except (RuntimeError, UserError) as error:
        if "DataLoader" not in str(error) or str(error).startswith(failed):
            raise
        last = str(error).strip().rpartition("\n")[2]
        raise UserError(failed + last + _advice(str(error))) from None
    finally:
        sys.unraisablehook = hook


def _advice(reason: str) -> str:
    """A way round the failure of a loader process; "" if none is known."""
    words = "shared memory", "shm", "Bus error", "bus error", "No space left"
    if not any(word in reason for word in words):
        return ""
    return (
        "\n  processes pass photos through /dev/shm, which is too small: --workers 0 needs none, "
        "docker run --shm-size 2g (or --ipc host) enlarges it"
    )


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

    An item is the photo's crops, with `every_face` a tuple of them for each face, or the reason
    (str) why the photo can't be used. Without `pixels` crops are written to the cache and `images`
    is empty; this can't be combined with `every_face`. If the cache can't be written, a temporary
    folder is used, with a warning.
    """
    folder, warning = usable_cache(cache_dir)
    warn(warning)
    if every_face:
        read = EveryFaceCropper(specs, folder)
    elif pixels:
        read = Cropper(specs, folder, keep=False)
    else:
        read = functools.partial(_crop_to_cache, Cropper(specs, folder))
    yield from in_batches(Photos(paths, read), workers=workers, batch_size=batch_size)


def in_batches(
    dataset: Dataset, *, workers: int, batch_size: int = 32, timeout: float = CROP_TIMEOUT
) -> Iterator[list[Any]]:
    """Yield the items of `dataset` in order, in lists of `batch_size`, from loader processes.

    Raises:
        UserError: a process failed or died, or no batch arrived for `timeout` seconds.
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
    """Cached crops of a list of photos; `files` has None for a photo that can't be used.

    `detected` photos have a face, `fallback` photos were cropped at the centre; `bad` are the
    photos that can't be used, with the reason.
    """

    files: list[Path | None]
    detected: int
    fallback: int
    bad: list[tuple[Path, str]]

    def summary(self, detector: bool) -> str:
        """A line with the numbers of photos and failures, and if a `detector` ran, of faces."""
        photos = f"{len(self.files):,} photos"
        if not detector:
            return f"{photos}: {len(self.files) - len(self.bad):,} crops, {len(self.bad):,} failed"
        return (
            f"{photos}: {self.detected:,} faces, {self.fallback:,} centre crops, "
            f"{len(self.bad):,} failed"
        )


def prepare_crops(
    paths: Sequence[Path], spec: CropSpec, cache_dir: Path, *, workers: int, allow_bad: int = 0
) -> Prepared:
    """Fill the cache with every photo's crop, with a progress bar.

    Photos are cropped in random order, so that trainings that start together share the work: each
    reads from the cache what the others have cropped.

    Raises:
        UserError: more than `allow_bad` photos can't be used; they are listed.
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
        detected=sum(crop.detected is True for crop in crops),
        fallback=sum(crop.detected is False for crop in crops),
        bad=bad,
    )


def bad_photos(bad: Sequence[tuple[Path | str, str]], total: int, allowed: int) -> str:
    """The message that lists photos that can't be used, and the flag to continue without them."""
    way = f" (--allow-bad {len(bad)} goes on without them)" if len(bad) > allowed else ""
    return f"{len(bad)} of {total} photos can't be used and {allowed} are allowed{way}\n" + listed(
        (f"{path}: {reason}" for path, reason in bad), limit=1000
    )
