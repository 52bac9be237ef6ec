"""Where and on what a training runs (`Run`), and how long `tune` searches (`Search`).

As in `common.model.recipe` the fields are flags, and nothing here imports torch.
"""

import dataclasses
import os
from pathlib import Path

from common.base.errors import UserError
from common.base.fields import between, flag, fold_number, project_name
from common.base.processes import local_processes


def available_cores() -> int:
    """The cores that this process may use; torchrun's processes share those of their machine."""
    known = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1
    return max(1, cores // local_processes())


def default_workers() -> int:
    """One loader process a core, at most 8."""
    return min(8, available_cores())


def default_cache() -> Path:
    """Where cropped faces are kept: the user's cache folder."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "face-mask-gender-age"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """Where a training reads and writes, and on what it runs; changes no result but `fold`'s."""

    data: Path | None = flag(
        None, "folder with train/train.csv and train/images (default: data, or SM_CHANNEL_TRAIN)",
        group="run", metavar="DIR",
    )  # fmt: skip
    # Here as --data is: a folder of this machine, which another one's checkpoint can't be told by.
    extra: tuple[Path, ...] = flag(
        (), "more folders like --data's to train on; none of their persons is held out, nor is anyone "
        "trained on who has the same photo as someone held out", group="run", nargs="+",
        metavar="DIR",
    )  # fmt: skip
    out: Path | None = flag(
        None, "checkpoint to write (default: the task's letter .pt, in SM_MODEL_DIR if set)",
        group="run", metavar="FILE",
    )  # fmt: skip
    folds: int = flag(
        5, "parts into which persons are split", group="run", parse=between(2, 1000, int)
    )
    fold: int | str = flag(
        0, "the part held out for validation; all: one training for each part", group="run",
        parse=fold_number,
    )  # fmt: skip
    limit: int | None = flag(
        None, "use only N persons, for a try", group="run", metavar="N",
        parse=between(2, 10**9, int),
    )  # fmt: skip
    allow_bad: int = flag(
        0, "go on with up to N unreadable photos", group="run", metavar="N",
        parse=between(0, 10**9, int),
    )  # fmt: skip
    resume: Path | None = flag(
        None,
        "go on with an interrupted run (default: the newest in --log-dir); its flags are taken "
        "from the file",
        group="run",
        metavar="FILE",
        nargs="?",
        const=Path("newest"),
    )
    device: str = flag("auto", "auto, cpu, cuda, cuda:1, mps", group="run")
    amp: bool = flag(True, "mixed precision on a GPU", group="run")
    torchcompile: str | None = flag(
        None, "compile the network with torch.compile (default BACKEND: inductor): slow first steps, "
        "faster ones after them on a GPU", group="run", metavar="BACKEND", nargs="?", const="inductor",
    )  # fmt: skip
    workers: int = flag(
        default_workers(),
        "loader processes, of each process that torchrun starts",
        group="run",
        parse=between(0, 256, int),
    )
    threads: int | None = flag(
        None, "threads of the network on a CPU (default: the cores that loader processes leave); all "
        "cores where nothing else runs, beside anything they wait for each other",
        group="run", metavar="N", parse=between(1, 1024, int),
    )  # fmt: skip
    log_dir: Path = flag(Path("runs"), "folder for logs", group="run", metavar="DIR")
    cache_dir: Path = flag(default_cache(), "folder for cropped faces", group="run", metavar="DIR")
    log_wandb: bool = flag(False, "log to Weights & Biases as well", group="run")
    wandb_project: str = flag(
        "face-mask-gender-age", "project of --log-wandb", group="run", metavar="NAME",
        parse=project_name,
    )  # fmt: skip

    def data_dir(self) -> Path:
        """The folder to read, as given, from SM_CHANNEL_TRAIN or data."""
        return self.data or Path(os.environ.get("SM_CHANNEL_TRAIN", "data"))

    def out_file(self, task: str) -> Path:
        """The checkpoint to write, as given or the task's first letter in SM_MODEL_DIR."""
        return self.out or Path(os.environ.get("SM_MODEL_DIR", "")) / f"{task[0]}.pt"

    @property
    def every_fold(self) -> bool:
        """Whether each fold is held out in turn."""
        return self.fold == "all"

    def fold_files(self, task: str) -> dict[int, Path]:
        """Fold → the checkpoint to write: a.pt, or with --fold all a.fold0.pt and so on."""
        out = self.out_file(task)
        if not self.every_fold:
            return {int(self.fold): out}
        return {i: out.with_suffix(f".fold{i}{out.suffix}") for i in range(self.folds)}

    def check(self) -> None:
        """UserError where the fields don't fit together."""
        if not self.every_fold and self.fold >= self.folds:
            raise UserError(
                f"--fold {self.fold}: with --folds {self.folds} it is 0 to {self.folds - 1}, or all"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Search:
    """How long `tune` searches, and where it remembers."""

    trials: int = flag(
        30, "trainings in all, earlier ones of the same study included", group="search",
        parse=between(1, 10**6, int),
    )  # fmt: skip
    hours: float | None = flag(
        None, "start no further one after so many hours", group="search",
        parse=between(0.001, 10_000),
    )  # fmt: skip
    storage: Path | None = flag(
        None, "SQLite file of the study (default: runs/<task>/tune/study.db)", group="search",
        metavar="FILE",
    )  # fmt: skip
