"""Loader processes: decode, detect and crop photos in parallel, and turn their failures into one line."""

import contextlib
import dataclasses
import gc
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import (
    DataLoader,
    Dataset,
)

from common.base.errors import UserError, listed, warn
from common.base.progress import progress
from common.faces.cache import Cropper, EveryFaceCropper, usable_cache
from common.faces.crop import Cropped, CropSpec
from common.faces.decode import BadPhoto

if TYPE_CHECKING:
    pass

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
        found=sum(crop.detected is True for crop in crops),
        fallback=sum(crop.detected is False for crop in crops),
        bad=bad,
    )


def bad_photos(bad: Sequence[tuple[Path | str, str]], total: int, allowed: int) -> str:
    """The message that lists unreadable photos and, where it is needed, names the way round them."""
    way = f" (--allow-bad {len(bad)} goes on without them)" if len(bad) > allowed else ""
    return f"{len(bad)} of {total} photos can't be used and {allowed} are allowed{way}\n" + listed(
        (f"{path}: {reason}" for path, reason in bad), limit=1000
    )
