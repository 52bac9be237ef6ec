"""What a run may change: `Recipe` (the model and how it learns) and `Run` (where and on what).

Both are frozen dataclasses whose fields become command-line flags (`common.cli`). A task
subclasses `Recipe`, sets its defaults and says what its labels are. Nothing here imports torch,
so that `--help` answers at once.
"""

import abc
import contextlib
import dataclasses
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from common.errors import UserError

if TYPE_CHECKING:
    from albumentations import Compose
    from torch import Tensor, nn

    from common.data.layout import Face


def flag(
    default: Any,
    help: str,
    *,
    group: str,
    parse: Callable[[str], Any] | None = None,
    **argument: Any,
) -> Any:
    """A dataclass field that is also a flag; `argument` goes to argparse's add_argument."""
    metadata = {"help": help, "group": group, "parse": parse, "argument": argument}
    return dataclasses.field(default=default, metadata=metadata)


def image_size(text: str) -> tuple[int, int]:
    """Parse "224" or "384x288" into (height, width) in pixels."""
    if not re.fullmatch(r"\d+(x\d+)?", text):
        raise ValueError("expected 224 or HEIGHTxWIDTH, such as 384x288")
    height, _, width = text.partition("x")
    size = int(height), int(width or height)
    if not 32 <= min(size) <= max(size) <= 1024:
        raise ValueError("a side has 32 to 1024 pixels")
    return size


NUMBERS = {int: "whole number", float: "number"}


def between(low: float, high: float, kind: type = float) -> Callable[[str], Any]:
    """A parser for numbers of `kind` from `low` to `high`, both allowed."""

    def parse(text: str) -> Any:
        with contextlib.suppress(ValueError):
            value = kind(text)
            if low <= value <= high:
                return value
        raise ValueError(f"expected a {NUMBERS[kind]} from {low} to {high}")

    return parse


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe(abc.ABC):
    """How one task's model is built and trained; saved in its checkpoint.

    The defaults that no task changes are those of the source system S2 (three EfficientNet-B3,
    MTCNN crops, Adam, batches of 64, seed 777).
    """

    task: ClassVar[str]
    classes: ClassVar[tuple[str, ...]]

    model: str = flag("efficientnet_b3", "backbone, any name of timm", group="model")
    pretrained: bool = flag(True, "start from timm's ImageNet weights", group="model")
    weights: Path | None = flag(
        None,
        "start from this file instead: a checkpoint of ours or a state dict "
        "(.pt, .pth, .safetensors); the classifier is left out where its shape differs",
        group="model",
        metavar="FILE",
    )
    drop: float = flag(0.0, "dropout before the classifier", group="model", parse=between(0, 0.95))
    size: tuple[int, int] = flag(
        (224, 224), "input size, 224 or HEIGHTxWIDTH", group="input", parse=image_size
    )
    crop: str = flag(
        "face",
        "face: MTCNN's box, else the centre; center: 300 of 384 px of the width; none",
        group="input",
        choices=("face", "center", "none"),
    )
    margin: float = flag(
        0.3, "added to the face box, as a share of its longer side", group="input",
        parse=between(0, 3),
    )  # fmt: skip
    loss: str = flag(
        "cross_entropy", "training loss", group="training", choices=("cross_entropy", "focal")
    )
    gamma: float = flag(
        2.0, "focal loss: how far easy photos count less", group="training", parse=between(0, 10)
    )
    smoothing: float = flag(0.0, "label smoothing", group="training", parse=between(0, 0.9))
    opt: str = flag("adam", "optimizer, any name of timm", group="training")
    lr: float = flag(1e-4, "learning rate", group="training", parse=between(0, 100))
    weight_decay: float = flag(0.0, "weight decay", group="training", parse=between(0, 1))
    sched: str = flag(
        "none", "learning rate schedule of timm, by step", group="training",
        choices=("none", "cosine", "poly", "constant"),
    )  # fmt: skip
    warmup_epochs: float = flag(
        0.0, "epochs of linear warm-up (needs a --sched)", group="training", parse=between(0, 1000)
    )
    epochs: int = flag(10, "epochs", group="training", parse=between(1, 10_000, int))
    batch_size: int = flag(64, "photos in a step", group="training", parse=between(1, 65_536, int))
    clip_grad: float | None = flag(
        None, "largest norm of the gradient", group="training", metavar="NORM",
        parse=between(1e-6, 1e6),
    )  # fmt: skip
    seed: int = flag(
        777, "seed of weights, order and augmentation", group="training",
        parse=between(0, 2**32 - 1, int),
    )  # fmt: skip

    @abc.abstractmethod
    def label(self, face: "Face") -> int:
        """The index in `classes` that is right for `face`; validation always uses this one."""

    def train_label(self, face: "Face") -> int:
        """The index that training is told, where it differs from `label`."""
        return self.label(face)

    def target(self, face: "Face") -> int:
        """What the training loss is given: the class, unless the loss wants something finer."""
        return self.train_label(face)

    @property
    def outputs(self) -> int:
        """How many logits the network has: one a class, unless the loss wants more."""
        return len(self.classes)

    def keep(self, face: "Face") -> bool:
        """Whether training sees `face`; validation sees every one."""
        return True

    @abc.abstractmethod
    def augment(self) -> "Compose":
        """The random changes that training makes to a crop of (height, width, 3) uint8 RGB."""

    def criterion(self, counts: Sequence[int]) -> "nn.Module":
        """The training loss: (logits, labels) → scalar; `counts` are training photos per class."""
        from common.training.losses import make_loss

        return make_loss(self.loss, gamma=self.gamma, smoothing=self.smoothing)

    def probabilities(self, logits: "Tensor") -> "Tensor":
        """Turn (photos, outputs) logits into (photos, classes) probabilities that sum to 1."""
        return logits.float().softmax(dim=1)

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain numbers, strings and lists, for a checkpoint or JSON."""
        return {f.name: plain(getattr(self, f.name)) for f in dataclasses.fields(self)}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "Recipe":
        """The inverse of `to_dict`; ValueError where the fields are another task's or version's."""
        known = {f.name: f for f in dataclasses.fields(cls)}
        if set(fields) != set(known):
            raise ValueError(f"fields differ: {sorted(set(fields) ^ set(known))}")
        return cls(**{name: restored(known[name], value) for name, value in fields.items()})


def plain(value: Any) -> Any:
    """`value` as numbers, strings and lists: what JSON and weights_only files can hold."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    return value


def restored(field: dataclasses.Field, value: Any) -> Any:
    """The inverse of `plain` for a field's value: lists become tuples, paths paths again."""
    if isinstance(value, list):
        return tuple(restored(field, item) for item in value)
    return Path(value) if field.type in (Path, Path | None) and value is not None else value


def available_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
    out: Path | None = flag(
        None, "checkpoint to write (default: the task's letter .pt, in SM_MODEL_DIR if set)",
        group="run", metavar="FILE",
    )  # fmt: skip
    folds: int = flag(
        5, "parts into which persons are split", group="run", parse=between(2, 1000, int)
    )
    fold: int = flag(0, "the part held out for validation", group="run", parse=between(0, 999, int))
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
    workers: int = flag(
        default_workers(), "loader processes", group="run", parse=between(0, 256, int)
    )
    log_dir: Path = flag(Path("runs"), "folder for logs", group="run", metavar="DIR")
    cache_dir: Path = flag(default_cache(), "folder for cropped faces", group="run", metavar="DIR")

    def data_dir(self) -> Path:
        """The folder to read, as given, from SM_CHANNEL_TRAIN or data."""
        return self.data or Path(os.environ.get("SM_CHANNEL_TRAIN", "data"))

    def out_file(self, task: str) -> Path:
        """The checkpoint to write, as given or the task's first letter in SM_MODEL_DIR."""
        return self.out or Path(os.environ.get("SM_MODEL_DIR", "")) / f"{task[0]}.pt"

    def check(self) -> None:
        """UserError where the fields don't fit together."""
        if self.fold >= self.folds:
            raise UserError(
                f"--fold {self.fold}: with --folds {self.folds} it is 0 to {self.folds - 1}"
            )
