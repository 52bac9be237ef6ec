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
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from common.errors import UserError

if TYPE_CHECKING:
    from albumentations import Compose
    from optuna import Trial
    from torch import Tensor, nn

    from common.data.layout import Face, Person


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


AUGMENTATIONS = (
    "own", "light", "affine", "colour", "exposure",
    "rotate", "jitter", "equalize", "autoaugment", "none",
)  # fmt: skip
LOSSES = (
    "cross_entropy", "weighted_ce", "label_smoothing", "focal", "cb_focal", "f1", "ce+f1",
)  # fmt: skip
SCHEDULES = (
    "none", "constant", "cosine", "tanh", "poly", "step", "multistep", "wsd", "rsqrt",
)  # fmt: skip


def height_width(text: str) -> tuple[int, int]:
    """Parse "300" or "412x244" into (height, width) in pixels."""
    if not re.fullmatch(r"\d+(x\d+)?", text):
        raise ValueError("expected 224 or HEIGHTxWIDTH, such as 384x288")
    height, _, width = text.partition("x")
    return int(height), int(width or height)


def image_size(text: str) -> tuple[int, int]:
    """Parse the size of a network's input, (height, width) in pixels."""
    size = height_width(text)
    if not 32 <= min(size) <= max(size) <= 1024:
        raise ValueError("a side has 32 to 1024 pixels")
    return size


def center_size(text: str) -> tuple[int, int]:
    """Parse the size of the centre crop, (height, width) in pixels of a photo 384 wide."""
    size = height_width(text)
    if not 32 <= min(size) <= max(size) <= 512:
        raise ValueError("a side has 32 to 512 pixels of a photo 384 wide and 512 high")
    return size


def channel_value(text: str) -> str | float:
    """Parse a part of --mean or --std: a name, or a number where colours go from 0 to 1."""
    if text in ("model", "imagenet", "none"):
        return text
    with contextlib.suppress(ValueError):
        if 0 <= float(text) <= 1:
            return float(text)
    raise ValueError("expected model, imagenet, none, or three numbers from 0 to 1")


def names(text: str) -> list[str]:
    """Parse "years,mask" into its words."""
    found = [name.strip() for name in text.split(",")]
    if not all(found):
        raise ValueError("expected names, such as years,mask")
    return found


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

    Where nothing better was measured (tests/benchmarks/RESULTS.md) the defaults are those of the
    source system S2: three EfficientNet-B3, MTCNN, Adam, batches of 64, seed 777.
    """

    task: ClassVar[str]
    classes: ClassVar[tuple[str, ...]]
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    erasable: ClassVar[float] = 1.0  # share of the height, from above, that may be erased

    model: str = flag("efficientnet_b3", "backbone, any name of timm", group="model")
    pretrained: bool = flag(True, "start from timm's ImageNet weights", group="model")
    weights: Path | None = flag(
        None,
        "start from this file instead: a checkpoint of ours or a state dict "
        "(.pt, .pth, .safetensors), of any task or data set; the classifier is taken only from the "
        "same task and classes",
        group="model",
        metavar="FILE",
    )
    drop: float = flag(0.0, "dropout before the classifier", group="model", parse=between(0, 0.95))
    size: tuple[int, int] = flag(
        (224, 224), "input size, 224 or HEIGHTxWIDTH", group="input", parse=image_size,
        metavar="PIXELS",
    )  # fmt: skip
    crop: str = flag(
        "eyes",
        "face: MTCNN's box, else the centre; eyes: turned, moved and scaled so that MTCNN's eyes are "
        "level and always at one place, else the centre; center: the --center; none: the whole photo",
        group="input",
        choices=("face", "eyes", "center", "none"),
    )
    center: tuple[int, int] = flag(
        (300, 300), "the centre crop, in pixels of a photo 384 wide: 300, 350, 412x244",
        group="input", parse=center_size, metavar="PIXELS",
    )  # fmt: skip
    margin: float = flag(
        0.3, "added to the face box, as a share of its longer side, or below 0 taken away; eyes: shows as "
        "much as face",
        group="input", parse=between(-0.5, 3),
    )  # fmt: skip
    background: str = flag(
        "keep", "grabcut: what OpenCV's GrabCut, told where the face is, takes for background "
        "becomes black", group="input", choices=("keep", "grabcut"),
    )  # fmt: skip
    mean: tuple[str | float, ...] = flag(
        ("model",), "subtracted from the colours: the model's own, imagenet, none, or three numbers",
        group="input", parse=channel_value, nargs="+", metavar="MEAN",
    )  # fmt: skip
    std: tuple[str | float, ...] = flag(
        ("model",), "then divided by: the model's own, imagenet, none, or three numbers",
        group="input", parse=channel_value, nargs="+", metavar="STD",
    )  # fmt: skip
    aug: tuple[str, ...] = flag(
        ("light", "affine", "colour"),
        "what training changes at random, one or several: own (S2's for the task), light (flip), "
        "affine (turned, scaled, moved a little), colour (brightness, contrast), exposure (more of "
        "that, and a tint), rotate (20 degrees), jitter (contrast .1), equalize (half of the "
        "photos), autoaugment (CIFAR10's policy), none",
        group="augmentation", nargs="+", choices=AUGMENTATIONS, metavar="NAME",
    )  # fmt: skip
    reprob: float = flag(
        0.0, "random erasing: share of photos; the mask task erases only the upper half",
        group="augmentation", parse=between(0, 1),
    )  # fmt: skip
    rare_crops: int = flag(
        1, "photos of a rare class (under half of an equal share) stand N times in an epoch, if N is "
        "over 1 each time cropped at random", group="augmentation", parse=between(1, 100, int),
    )  # fmt: skip
    mixup: float = flag(
        0.0, "mixup's alpha: photos and labels are blended", group="augmentation",
        parse=between(0, 10),
    )  # fmt: skip
    cutmix: float = flag(
        0.0, "CutMix's alpha: a box comes from another photo", group="augmentation",
        parse=between(0, 10),
    )  # fmt: skip
    mix_within_class: bool = flag(
        False, "mixup and CutMix only among photos of the same class", group="augmentation"
    )
    sampler: str = flag(
        "shuffle", "shuffle: every photo once; person: every photo once, those of a person far apart; "
        "class, class-gender: drawn with replacement, equally often from each class (of each gender)",
        group="training", choices=("shuffle", "person", "class", "class-gender"),
    )  # fmt: skip
    loss: str = flag("cross_entropy", "training loss", group="training", choices=LOSSES)
    gamma: float = flag(
        2.0, "focal losses: how far easy photos count less", group="training", parse=between(0, 10)
    )
    beta: float = flag(
        0.9999, "cb_focal: classes weigh by their effective number of photos", group="training",
        parse=between(0.999, 0.9999999),
    )  # fmt: skip
    f1_weight: float = flag(
        0.5, "ce+f1: share of the F1 loss", group="training", parse=between(0, 1)
    )
    smoothing: float = flag(
        0.0, "label smoothing (label_smoothing: 0.1 where none is given)", group="training",
        parse=between(0, 0.9),
    )  # fmt: skip
    aux: tuple[str, ...] = flag(
        (), "what the network also learns while it trains, not part of its answer: years, mask, "
        "gender, columns of train.csv; --aux alone: nothing more", group="training", nargs="*",
        parse=names, metavar="NAME",
    )  # fmt: skip
    aux_weight: float = flag(
        1.0, "how much the loss of each --aux counts beside the task's own", group="training",
        parse=between(0.001, 100),
    )  # fmt: skip
    opt: str = flag("adam", "optimizer, any name of timm", group="training")
    lr: float = flag(1e-4, "learning rate", group="training", parse=between(0, 100))
    weight_decay: float = flag(0.0, "weight decay", group="training", parse=between(0, 1))
    sched: str = flag(
        "none", "learning rate schedule of timm, by step", group="training", choices=SCHEDULES
    )
    cycle_epochs: int | None = flag(
        None, "cosine, tanh, poly: start again every N epochs", group="training", metavar="N",
        parse=between(1, 10_000, int),
    )  # fmt: skip
    decay_epochs: float | None = flag(
        None, "step: epochs between decays; wsd, rsqrt: epochs (or share) of the decay at the end",
        group="training", parse=between(0.01, 10_000),
    )  # fmt: skip
    decay_milestones: tuple[float, ...] = flag(
        (), "multistep: the epochs that decay", group="training", nargs="*", metavar="EPOCH",
        parse=between(0.01, 10_000),
    )  # fmt: skip
    decay_rate: float = flag(
        0.1, "step, multistep: the learning rate's factor; poly: the power", group="training",
        parse=between(0, 10),
    )  # fmt: skip
    min_lr: float = flag(
        0.0, "lowest learning rate of a schedule", group="training", parse=between(0, 100)
    )
    warmup_epochs: float = flag(
        0.0, "epochs of linear warm-up (needs a --sched)", group="training", parse=between(0, 1000)
    )
    epochs: int = flag(10, "epochs", group="training", parse=between(1, 10_000, int))
    batch_size: int = flag(64, "photos in a step", group="training", parse=between(1, 65_536, int))
    grad_accum_steps: int = flag(
        1, "batches whose gradients are added up to one step", group="training",
        parse=between(1, 65_536, int),
    )  # fmt: skip
    clip_grad: float | None = flag(
        None, "largest norm of the gradient", group="training", metavar="NORM",
        parse=between(1e-6, 1e6),
    )  # fmt: skip
    model_ema_decay: float | None = flag(
        None, "validate and keep a moving average of the weights (slower at first)",
        group="training", metavar="DECAY", parse=between(0.5, 0.999999),
    )  # fmt: skip
    keep: str = flag(
        "macro_f1", "the epoch that is kept: best macro_f1, or lowest loss, on the held-out persons",
        group="training", choices=("macro_f1", "loss"),
    )  # fmt: skip
    patience: int | None = flag(
        None, "stop after N epochs without a better one", group="training", metavar="N",
        parse=between(1, 10_000, int),
    )  # fmt: skip
    seed: int = flag(
        777, "seed of weights, order and augmentation", group="training",
        parse=between(0, 2**32 - 1, int),
    )  # fmt: skip

    extra: bool = flag(
        True,
        "train on mixed persons too, where python -m common.data.mixup has made some",
        group="labels",
    )
    label_fixes: str | None = flag(
        None,
        "correct labels in training: the competition's known errors (core: sure ones, likely, "
        "single: all), or those in a table with the columns id,what",
        group="labels",
        metavar="FIXES",
    )

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

    def target_class(self, targets: "Tensor") -> "Tensor":
        """The classes that a batch of `target`s belongs to, where a loss wants something finer."""
        return targets

    def fitted(self, people: "Collection[Person]") -> "Recipe":
        """The recipe for a table of `people`, where something follows from what it holds.

        UserError where the table lacks what the recipe asks for.
        """
        return self

    def trains_on(self, face: "Face") -> bool:
        """Whether training sees `face`; validation sees every one."""
        return True

    @abc.abstractmethod
    def own_augmentation(self) -> "Compose":
        """The task's own augmentation of a crop of (height, width, 3) uint8 RGB."""

    def augment(self, *, rare: bool = False) -> "Compose":
        """The random changes that training makes to a crop, of a `rare` class or not."""
        from common.data.augmentation import compose

        return compose(self, rare=rare)

    def search_space(self) -> dict[str, Callable[["Trial"], Any]]:
        """What `tune` may try for a field, asked of an Optuna trial."""
        augmentations = ("light", "light affine colour", "light affine exposure", "own", "none")
        return {
            "lr": number("lr", self.lr / 10, self.lr * 10, log=True),
            "weight_decay": number("weight_decay", 1e-6, 0.2, log=True),
            "opt": one_of("opt", ("adam", "adamw", "madgrad")),
            "sched": one_of("sched", ("constant", "cosine")),
            "batch_size": one_of("batch_size", (32, 64, 128)),
            "drop": number("drop", 0, 0.5),
            "smoothing": number("smoothing", 0, 0.2),
            "aug": lambda t: tuple(t.suggest_categorical("aug", augmentations).split()),
            "mixup": one_of("mixup", (0.0, 0.2, 0.4)),
            "sampler": one_of("sampler", ("shuffle", "class")),
        }

    def criterion(self, counts: Sequence[int]) -> "nn.Module":
        """The training loss: (logits, targets) → scalar; `counts` are training photos per class."""
        from common.training.losses import make_loss

        return make_loss(
            self.loss, dict(zip(self.classes, counts, strict=True)), gamma=self.gamma,
            beta=self.beta, smoothing=self.smoothing, f1_weight=self.f1_weight,
        )  # fmt: skip

    def check(self) -> None:
        """UserError where the fields don't fit together, before any work is done."""
        for name, value in (("mean", self.mean), ("std", self.std)):
            named = len(value) == 1 and isinstance(value[0], str)
            numbers = len(value) == 3 and all(isinstance(v, float) for v in value)
            if not named and not numbers:
                raise UserError(f"--{name} takes model, imagenet, none, or three numbers")
        if 0.0 in self.std:
            raise UserError("--std: colours can't be divided by 0")
        if "none" in self.aug and len(self.aug) > 1:
            raise UserError("--aug none goes with no other")
        if len(set(self.aux)) < len(self.aux):
            raise UserError(f"--aux {' '.join(self.aux)}: a name stands twice")
        if self.mix_within_class and not (self.mixup or self.cutmix):
            raise UserError("--mix-within-class needs --mixup or --cutmix")
        self._check_schedule()

    def _check_schedule(self) -> None:
        if self.warmup_epochs and self.sched == "none":
            raise UserError("--warmup-epochs needs a schedule, such as --sched constant")
        if self.cycle_epochs and self.sched not in ("cosine", "tanh", "poly"):
            raise UserError("--cycle-epochs needs --sched cosine, tanh or poly")
        if self.sched == "step" and not self.decay_epochs:
            raise UserError("--sched step needs --decay-epochs, such as 3")
        if self.sched == "rsqrt" and not self.warmup_epochs:
            raise UserError("--sched rsqrt needs --warmup-epochs")
        if self.sched == "multistep" and not self.decay_milestones:
            raise UserError("--sched multistep needs --decay-milestones, such as 5 8")

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


def number(name: str, low: float, high: float, *, log: bool = False) -> Callable[["Trial"], float]:
    """Asks a trial for a number of three digits from `low` to `high`."""
    return lambda trial: float(f"{trial.suggest_float(name, low, high, log=log):.3g}")


def one_of(name: str, values: Sequence[Any]) -> Callable[["Trial"], Any]:
    """Asks a trial for one of `values`."""
    return lambda trial: trial.suggest_categorical(name, values)


def project_name(text: str) -> str:
    """`text`, where Weights & Biases takes it as the name of a project."""
    if not re.fullmatch(r"[^/\\#?%:]{1,128}", text):
        raise ValueError("expected a name without / \\ # ? % :, of at most 128 characters")
    return text


def fold_number(text: str) -> int | str:
    """Parse a fold: its number, or all."""
    return text if text == "all" else between(0, 999, int)(text)


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
    workers: int = flag(
        default_workers(), "loader processes", group="run", parse=between(0, 256, int)
    )
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
