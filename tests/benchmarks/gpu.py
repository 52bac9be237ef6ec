"""Training and validation speed on a GPU, as rows for RESULTS.md, in about ten minutes.

    python -m tests.benchmarks.gpu --data DIR
    python -m tests.benchmarks.gpu --data DIR --device cpu --steps 4 --people 40

For the default recipe and for --preset large it prints photos per second of the engine's own steps:
on batches that lie in memory (the GPU's limit), with the training's loader processes, without
mixed precision, and of validation; and the most memory that a step takes.
"""

import argparse
import dataclasses
import io
import tempfile
import time
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch

from common.base.run_settings import default_cache
from common.model.device import describe_device, pick_device
from common.training.command import parse
from common.training.engine import Hooks, StopFlag, evaluate, train_one_epoch
from common.training.learner import Learner, RunFiles
from common.training.prepare import prepare
from gender.recipe import GenderRecipe

ROWS = {  # title → flags of gender.train
    "default": "",
    "default, batches of 256": "--batch-size 256",
    "--preset large": "--preset large --no-pretrained",
    "--preset large, batches of 256": "--preset large --no-pretrained --batch-size 256",
}
HEADER = ("recipe", "ready batches", "with loaders", "float32", "validation", "memory")


@dataclasses.dataclass
class Ready:
    """The first batches of a loader, kept in memory and handed out again and again."""

    batches: list[Any]
    batch_sampler: Any
    steps: int

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Any]:
        for step in range(self.steps):
            yield self.batches[step % len(self.batches)]


@dataclasses.dataclass
class Cut:
    """A loader that ends after some steps."""

    loader: Any
    steps: int

    @property
    def batch_sampler(self) -> Any:
        return self.loader.batch_sampler

    def __len__(self) -> int:
        return min(self.steps, len(self.loader))

    def __iter__(self) -> Iterator[Any]:
        for _, batch in zip(range(self.steps), self.loader, strict=False):
            yield batch


def make_learner(options: argparse.Namespace, flags: str, folder: Path) -> Learner:
    """Make the learner of gender.train with `flags`."""
    where = (
        f"--data {options.data} --cache-dir {options.cache_dir} --device {options.device} "
        f"--limit {options.people} --log-dir {folder / 'runs'} --out {folder / 'g.pt'}"
    )
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        prepared, network = prepare(*parse(GenderRecipe, f"{flags} {where}".split()))
        files = RunFiles(folder / "g.pt", prepared.logs / "benchmark")
        files.folder.mkdir(parents=True)
        return Learner(prepared, 0, network, files)


def pace(learner: Learner, loader: Any) -> float:
    """Train one pass over `loader`; returns photos per second."""
    wait(learner.settings.device)
    learner.state.step, learner.state.photos, start = 0, 0, time.perf_counter()
    hooks = Hooks(after_epoch=lambda *_: None)
    with StopFlag() as stop, redirect_stderr(io.StringIO()):
        train_one_epoch(learner.state, loader, learner.settings, hooks, stop)
    wait(learner.settings.device)
    return learner.state.photos / (time.perf_counter() - start)


def wait(device: torch.device) -> None:
    """Wait until a GPU has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(options: argparse.Namespace, flags: str) -> list[str]:
    """Return the cells of one row, after a pass that warms up."""
    with tempfile.TemporaryDirectory() as folder:
        learner = make_learner(options, flags, Path(folder))
        training, validation = learner.loaders
        device, steps = learner.settings.device, options.steps
        ready = Ready(list(Cut(training, 8)), training.batch_sampler, steps)
        pace(learner, ready)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        cells = [pace(learner, ready), pace(learner, Cut(training, steps))]
        memory = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else 0
        mixed = learner.settings
        learner.settings = dataclasses.replace(mixed, amp_dtype=None)
        cells.append(pace(learner, ready))
        start = time.perf_counter()
        with redirect_stderr(io.StringIO()):
            evaluate(learner.state.validated, validation, mixed)
        cells.append(len(validation.dataset) / (time.perf_counter() - start))
    return [f"{cell:,.0f}" for cell in cells] + [f"{memory:.1f} GiB" if memory else "-"]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache-dir", type=Path, default=default_cache())
    parser.add_argument("--device", default="auto")
    parser.add_argument("--steps", type=int, default=200, help="steps that are timed")
    parser.add_argument("--people", type=int, default=600)
    options = parser.parse_args()
    device = pick_device(options.device)
    print(f"torch {torch.__version__}, CUDA {torch.version.cuda}, {describe_device(device)}")
    print("photos per second\n\n| " + " | ".join(HEADER) + " |\n" + "|---" * len(HEADER) + "|")
    for title, flags in ROWS.items():
        try:
            cells = measure(options, flags)
        except torch.cuda.OutOfMemoryError:
            cells = ["out of memory"] + ["-"] * (len(HEADER) - 2)
        print("| " + " | ".join([title, *cells]) + " |", flush=True)


if __name__ == "__main__":
    main()
