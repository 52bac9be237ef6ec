"""Files and hardware of a training (`Run`), and the length of a search by `tune` (`Search`).

The fields are also flags, as those of a recipe are; nothing here imports torch.
"""

import dataclasses
import os
import tempfile
from pathlib import Path
from typing import ClassVar, Protocol

from common.base.errors import UserError
from common.base.fields import between, check_needs, flag, fold_number, folder_name, project_name
from common.base.processes import local_processes


def available_cores() -> int:
    """Number of cores for this process; torchrun's processes share those of their machine."""
    limited = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if limited else os.cpu_count() or 1
    return max(1, cores // local_processes())


def default_workers() -> int:
    """One loader process per core, at most 8."""
    return min(8, available_cores())


def default_cache() -> Path:
    """Folder for cropped faces in the user's cache folder; for a user without a home a temporary one.

    Containers are often run under a user id that the system has no name and no home for.
    """
    name, home = "face-mask-gender-age", os.path.expanduser("~")
    if root := os.environ.get("XDG_CACHE_HOME"):
        return Path(root) / name
    if not os.path.isabs(home):
        return Path(tempfile.gettempdir()) / f"{name}-{getattr(os, 'getuid', int)()}"
    return Path(home) / ".cache" / name


class NamesCheckpoint(Protocol):
    """A recipe, or its class: something that has a default name for the checkpoint."""

    checkpoint_name: ClassVar[str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """Files and hardware of a training; of all fields only `fold` changes the result."""

    data: Path | None = flag(
        None,
        "folder with train/train.csv and train/images (default: data, or SM_CHANNEL_TRAIN)",
        group="run",
        metavar="DIR",
        aliases=("--data-dir",),
    )
    # Here, as --data is, and not in the recipe: a checkpoint can't name folders of other machines.
    extra: tuple[Path, ...] = flag(
        (),
        "more folders like --data's to train on; none of their people are held out, and those with "
        "the same photo as someone held out are left out",
        group="run",
        nargs="+",
        metavar="DIR",
    )
    pseudo: Path | None = flag(
        None,
        "also learn from unlabelled photos, with the probabilities that a table of combine.py --probs "
        "has of them; they never validate",
        group="run",
        metavar="FILE",
    )
    pseudo_images: Path | None = flag(
        None,
        "folder of the photos that --pseudo names (default: eval/images in --data)",
        group="run",
        metavar="DIR",
        needs={"pseudo": ()},
    )
    out: Path | None = flag(
        None,
        "checkpoint to write (default: m.pt, g.pt or a.pt, in SM_MODEL_DIR if set)",
        group="run",
        metavar="FILE",
    )
    folds: int = flag(
        5, "number of parts that people are split into", group="run", parse=between(2, 1000, int)
    )
    fold: int | str = flag(
        0,
        "part to hold out for validation; all: one training for each part",
        group="run",
        parse=fold_number,
    )
    limit: int | None = flag(
        None,
        "use only N people, for a try",
        group="run",
        metavar="N",
        parse=between(2, 10**9, int),
    )
    allow_bad: int = flag(
        0,
        "tolerate up to N unreadable photos",
        group="run",
        metavar="N",
        parse=between(0, 10**9, int),
    )
    resume: Path | None = flag(
        None,
        "continue an interrupted run (default: the newest in --log-dir); its flags are taken from "
        "the file",
        group="run",
        metavar="FILE",
        nargs="?",
        const=Path("newest"),
    )
    device: str = flag("auto", "auto, cpu, cuda, cuda:1, mps", group="run")
    amp: bool = flag(True, "mixed precision on a GPU", group="run")
    torchcompile: str | None = flag(
        None,
        "compile the network with torch.compile (default BACKEND: inductor): the first steps are "
        "slow, the others faster on a GPU",
        group="run",
        metavar="BACKEND",
        nargs="?",
        const="inductor",
    )
    workers: int = flag(
        default_workers(),
        "loader processes, for each process that torchrun starts",
        group="run",
        aliases=("-j",),
        parse=between(0, 256, int),
    )
    threads: int | None = flag(
        None,
        "threads of the network on a CPU (default: the cores that loader processes leave); use all "
        "cores only on an idle machine: beside other work, threads wait for each other",
        group="run",
        metavar="N",
        parse=between(1, 1024, int),
    )
    log_dir: Path = flag(Path("runs"), "folder for logs", group="run", metavar="DIR")
    cache_dir: Path = flag(default_cache(), "folder for cropped faces", group="run", metavar="DIR")
    exp_name: str | None = flag(
        None,
        "name of the run's folder in --log-dir/TASK (default: the time)",
        group="run",
        metavar="NAME",
        parse=folder_name,
    )
    log_wandb: bool = flag(False, "log to Weights & Biases as well", group="run")
    wandb_project: str = flag(
        "face-mask-gender-age",
        "project of --log-wandb",
        group="run",
        metavar="NAME",
        parse=project_name,
        needs={"log_wandb": ()},
    )

    def data_dir(self) -> Path:
        """Folder to read: --data, else SM_CHANNEL_TRAIN, else data."""
        return self.data or Path(os.environ.get("SM_CHANNEL_TRAIN", "data"))

    def out_file(self, recipe: NamesCheckpoint | type[NamesCheckpoint]) -> Path:
        """Checkpoint to write: --out, else the recipe's `checkpoint_name` in SM_MODEL_DIR."""
        return self.out or Path(os.environ.get("SM_MODEL_DIR", "")) / recipe.checkpoint_name

    @property
    def every_fold(self) -> bool:
        """True if each fold is held out in turn."""
        return self.fold == "all"

    def fold_files(self, recipe: NamesCheckpoint | type[NamesCheckpoint]) -> dict[int, Path]:
        """Fold → checkpoint to write: a.pt, or with --fold all a.fold0.pt and so on."""
        out = self.out_file(recipe)
        if not self.every_fold:
            return {int(self.fold): out}
        return {i: out.with_suffix(f".fold{i}{out.suffix}") for i in range(self.folds)}

    def check(self) -> None:
        """Check that the fields fit together.

        Raises:
            UserError: the fold isn't one of the folds, or a flag has no effect.
        """
        check_needs(self)
        if not self.every_fold and self.fold >= self.folds:
            raise UserError(
                f"--fold {self.fold}: with --folds {self.folds} it is 0 to {self.folds - 1}, or all"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Search:
    """Length of a search by `tune`, and the file of its study."""

    trials: int = flag(
        30,
        "trainings in all, including earlier ones of the same study",
        group="search",
        parse=between(1, 10**6, int),
    )
    hours: float | None = flag(
        None,
        "start no further training after this many hours",
        group="search",
        parse=between(0.001, 10_000),
    )
    storage: Path | None = flag(
        None,
        "SQLite file of the study (default: runs/<task>/tune/study.db)",
        group="search",
        metavar="FILE",
    )
