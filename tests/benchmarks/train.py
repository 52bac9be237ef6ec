"""Speed of a training, beside a plain loop on timm's own loader, and beside no loader at all.

    python -m tests.benchmarks.train --data DIR
    python -m tests.benchmarks.train --data DIR --model efficientnet_b0 --size 224 --steps 6

Both sides read the same cached crops and train the same backbone, batch and optimizer in float32.
Each has a process of its own and, of some numbers of loader processes and threads, its best; ours
is what counts with its defaults. Passes of --steps steps take turns, and the fastest counts; a
number that was twice as slow as the best in the first round isn't tried again. Prints a table.
"""

import argparse
import dataclasses
import functools
import gc
import io
import math
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import ImageDataset, create_loader, resolve_model_data_config
from timm.optim import create_optimizer_v2
from torch import nn
from torch.utils.data import BatchSampler, DataLoader

from common.base.run_settings import available_cores, default_cache, default_workers
from common.base.stages import Stages
from common.data.dataset import FaceDataset, SeededSampler, make_loader
from common.training.command import parse
from common.training.engine import Hooks, StopFlag, train_one_epoch
from common.training.learner import Learner, RunFiles
from common.training.prepare import loader_workers, prepare
from mask.recipe import MaskRecipe

CPU = torch.device("cpu")
PHOTOS = 18_900  # a whole training set: of the memory's row


@dataclasses.dataclass(frozen=True)
class Job:
    """The training of both sides."""

    data: Path
    cache_dir: Path
    model: str
    size: int
    batch_size: int
    steps: int
    folder: Path

    @property
    def photos(self) -> int:
        return self.steps * self.batch_size


Layout = tuple[int, int]  # loader processes, threads of the network
Measure = Callable[[Job, Layout], float]


@functools.cache
def our_learner(job: Job) -> Learner:
    """Make the learner of `mask.train --preset scratch`, with timm's stem, on enough people."""
    persons = max(40, math.ceil(job.photos / 7 * 1.5))
    line = (
        f"--preset scratch --stem-stride 0 --model {job.model} --size {job.size} --batch-size {job.batch_size} "
        f"--aug light affine colour --loss cross_entropy --aux --device cpu --limit {persons} "
        f"--data {job.data} --cache-dir {job.cache_dir} "
        f"--log-dir {job.folder / 'runs'} --out {job.folder / 'm.pt'}"
    )
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        prepared, network = prepare(*parse(MaskRecipe, line.split()))
        files = RunFiles(job.folder / "m.pt", prepared.logs / "benchmark")
        files.folder.mkdir()
        return Learner(prepared, 0, network, files)


def our_files(job: Job) -> list[Path]:
    """List as many cached crops as the steps need."""
    return list(our_learner(job).loaders[0].dataset.files[: job.photos])


def one_pass(learner: Learner, loader: "DataLoader | Ready", stages: Stages) -> float:
    """Return photos per second of the engine's own epoch over `loader`."""
    learner.state.step, learner.state.photos = 0, 0
    hooks = Hooks(after_epoch=lambda *_: None, stages=stages)
    start = time.perf_counter()
    with StopFlag() as stop, redirect_stderr(io.StringIO()):
        train_one_epoch(learner.state, loader, learner.settings, hooks, stop)
    return learner.state.photos / (time.perf_counter() - start)


@functools.cache
def our_loader(job: Job, workers: int) -> DataLoader:
    """Make a training's loader over as many photos as the steps need, with its processes started."""
    whole = our_learner(job).loaders[0].dataset
    part = FaceDataset(*(list(x[: job.photos]) for x in (whole.files, whole.labels, whole.augment)))
    loader = make_loader(
        part, job.batch_size, workers=workers, sampler=SeededSampler(job.photos, 0)
    )
    warm_up(loader)
    return loader


def warm_up(loader: DataLoader) -> None:
    """Start the loader's processes, which outlast an epoch."""
    for _ in loader:
        pass


def ours(job: Job, layout: Layout) -> float:
    """Return photos per second of a training as users have it."""
    workers, threads = layout
    torch.set_num_threads(threads)
    return one_pass(our_learner(job), our_loader(job, workers), Stages())


@dataclasses.dataclass
class Ready:
    """Batches in memory, in place of a loader."""

    batches: list[Any]
    batch_sampler: BatchSampler

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)


@functools.cache
def ready_batches(job: Job) -> Ready:
    """Load all batches into memory."""
    sampler = SeededSampler(job.photos, 0)
    batches = BatchSampler(sampler, job.batch_size, drop_last=False)
    return Ready(list(our_loader(job, 0)), batches)


def without_loader(job: Job, layout: Layout) -> float:
    """Return photos per second of the same steps on ready-made tensors."""
    torch.set_num_threads(layout[1])
    return one_pass(our_learner(job), ready_batches(job), Stages())


@functools.cache
def plain_training(job: Job) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Make the backbone and optimizer of `our_learner` with timm."""
    model = timm.create_model(job.model, num_classes=len(MaskRecipe.classes))
    model = model.to(memory_format=torch.channels_last).train()
    return model, create_optimizer_v2(model, opt="adamw", lr=2e-3, weight_decay=0.05)


@functools.cache
def plain_loader(job: Job, workers: int) -> Any:
    """Make timm's loader, its transforms as strong as ours: flips, framing, colours."""
    config = resolve_model_data_config(plain_training(job)[0])
    loader = create_loader(
        ImageDataset(str(job.folder / "crops")),
        input_size=(3, job.size, job.size),
        batch_size=job.batch_size,
        is_training=True,
        scale=(0.8, 1.0),
        ratio=(0.9, 1.1),
        hflip=0.5,
        color_jitter=0.15,
        mean=config["mean"],
        std=config["std"],
        interpolation="bilinear",
        num_workers=workers,
        persistent_workers=workers > 0,
        device=CPU,
    )
    warm_up(loader)
    return loader


def plain(job: Job, layout: Layout) -> float:
    """Return photos per second of a plain loop on timm's loader."""
    workers, threads = layout
    torch.set_num_threads(threads)
    model, optimizer = plain_training(job)
    criterion, photos, total = nn.CrossEntropyLoss(), 0, 0.0
    loader = plain_loader(job, workers)
    start = time.perf_counter()
    for images, labels in loader:
        loss = criterion(model(images.contiguous(memory_format=torch.channels_last)), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        total += loss.item() * len(labels)
        photos += len(labels)
    return photos / (time.perf_counter() - start)


def end_loaders() -> None:
    """End the loaders' processes before their parent ends, which torch takes for a failure."""
    our_loader.cache_clear()
    plain_loader.cache_clear()
    gc.collect()


def memory(job: Job, layout: Layout) -> list[float]:
    """Return peak resident GB of this process and of each loader, training on `PHOTOS` files."""
    learner, (workers, threads) = our_learner(job), layout
    torch.set_num_threads(threads)
    whole = learner.loaders[0].dataset
    copies = math.ceil(PHOTOS / len(whole))
    files, labels, augment = (
        (list(x) * copies)[:PHOTOS] for x in (whole.files, whole.labels, whole.augment)
    )
    sampler = SeededSampler(PHOTOS, 0)
    loader = make_loader(
        FaceDataset(files, labels, augment), job.batch_size, workers=workers, sampler=sampler
    )
    learner.state.step = len(loader) - job.steps
    with StopFlag() as stop, redirect_stderr(io.StringIO()):
        hooks = Hooks(after_epoch=lambda *_: None)
        train_one_epoch(learner.state, loader, learner.settings, hooks, stop)
    loaders = [process.pid for process in multiprocessing.active_children()]
    return [peak(pid) for pid in ("self", *loaders)]


def peak(pid: int | str) -> float:
    """Return the peak resident memory of a process in GB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (kilobytes,) = (line.split()[1] for line in lines if line.startswith("VmHWM"))
    return int(kilobytes) * 1024 / 1e9


def link_crops(job: Job, files: list[Path]) -> None:
    """Link the crops into a folder of one class, as timm expects photos."""
    folder = job.folder / "crops" / "face"
    folder.mkdir(parents=True)
    for number, file in enumerate(files):
        (folder / f"{number}.png").symlink_to(file.resolve())


def best_rates(
    job: Job, tried: dict[tuple[Measure, Layout], ProcessPoolExecutor], repeats: int
) -> dict[tuple[Measure, Layout], float]:
    """Return the best rate of each measure and layout; hopeless ones are tried once."""
    rates = dict.fromkeys(tried, 0.0)
    for repeat in range(repeats):
        most = {
            measure: max(r for (m, _), r in rates.items() if m is measure) for measure, _ in tried
        }
        for (measure, layout), process in tried.items():
            if not repeat or 2 * rates[measure, layout] >= most[measure]:
                rate = process.submit(measure, job, layout).result()
                rates[measure, layout] = max(rates[measure, layout], rate)
    return rates


def table(
    rates: dict[tuple[Measure, Layout], float], default: Layout, gigabytes: list[float], job: Job
) -> str:
    """Set all figures as a Markdown table."""
    mine, ready = rates[ours, default], rates[without_loader, default]
    theirs = max(rate for (measure, _), rate in rates.items() if measure is plain)
    rows = [
        (f"{job.model}, {job.size} px, batches of {job.batch_size}", "", ""),
        ("ours / a plain loop on timm's loader", f"{mine / theirs:.2f}", ">= 1.00"),
        ("ours / the same steps on ready-made tensors", f"{mine / ready:.2f}", ">= 0.95"),
        (
            f"peak memory of {PHOTOS:,} photos: main, loaders",
            ", ".join(f"{x:.2f} GB" for x in gigabytes),
            "< 2 GB each",
        ),
    ]
    names = {ours: "ours", without_loader: "ready-made tensors", plain: "timm's loader"}
    for (measure, (workers, threads)), rate in rates.items():
        mark = " (default)" if measure is ours and (workers, threads) == default else ""
        what = f"{names[measure]}, {workers} loaders, {threads} threads{mark}"
        rows.append((what, f"{rate:.0f} photos/s", ""))
    head = "| what | figure | target |\n|---|---|---|\n"
    return head + "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="as of python -m mask.train")
    parser.add_argument("--cache-dir", type=Path, default=default_cache())
    parser.add_argument("--model", default="mobilenetv3_small_100")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = vars(parser.parse_args())
    repeats, cores = arguments.pop("repeats"), available_cores()
    workers = loader_workers(default_workers(), CPU)
    default = workers, max(1, cores - workers)
    layouts = dict.fromkeys([default, (0, cores), (1, cores), (2, cores)])
    spawn = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(1, spawn) as here,
        ProcessPoolExecutor(1, spawn) as there,
    ):
        job = Job(**arguments, folder=Path(folder))
        link_crops(job, here.submit(our_files, job).result())
        tried = {(ours, layout): here for layout in layouts}
        tried |= {(plain, layout): there for layout in layouts}
        tried[without_loader, default] = here
        rates = best_rates(job, tried, repeats)
        for process in (here, there):
            process.submit(end_loaders).result()
        with ProcessPoolExecutor(1, spawn) as fresh:
            gigabytes = fresh.submit(memory, job, default).result()
    print(table(rates, default, gigabytes, job))


if __name__ == "__main__":
    main()
