"""How a model is built and learns: `Recipe`, whose fields become command-line flags (`common.training.command`).

A task subclasses it, sets its defaults and says what its labels are. Nothing here imports torch,
so that `--help` answers at once.
"""

import abc
import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from common.base.errors import UserError
from common.base.fields import (
    between,
    center_size,
    channel_value,
    flag,
    image_size,
    names,
    plain,
    restored,
)

if TYPE_CHECKING:
    from albumentations import Compose
    from optuna import Trial
    from torch import Tensor, nn

    from common.data.layout import Face, Person

AUGMENTATIONS = (
    "own", "light", "affine", "framing", "colour", "exposure",
    "rotate", "jitter", "equalize", "autoaugment", "randaugment", "none",
)  # fmt: skip
LOSSES = (
    "cross_entropy", "weighted_ce", "label_smoothing", "focal", "cb_focal", "f1", "ce+f1",
)  # fmt: skip
SCHEDULES = (
    "none", "constant", "cosine", "tanh", "poly", "step", "multistep", "wsd", "rsqrt",
)  # fmt: skip
# Fields that older checkpoints lack; their defaults change nothing.
ADDED = {"stem_stride", "randaugment_magnitude"}


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
    unlabelled: ClassVar[str] = "no photo has a label"  # said of a table that can't teach the task

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
    stem_stride: int = flag(
        0, "stride of the first convolution, 0 for the model's own, mostly 2; 1 sees small faces "
        "finer, at two to four times the work", group="model", parse=between(0, 8, int),
    )  # fmt: skip
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
        "affine (turned, scaled, moved a little), framing (more of that, up rather than down), "
        "colour (brightness, contrast), exposure (more of "
        "that, and a tint), rotate (20 degrees), jitter (contrast .1), equalize (half of the "
        "photos), autoaugment (CIFAR10's policy), randaugment (two operations), none",
        group="augmentation", nargs="+", choices=AUGMENTATIONS, metavar="NAME",
    )  # fmt: skip
    randaugment_magnitude: int = flag(
        9, "how strong randaugment's operations are, 0 to 30", group="augmentation", metavar="M",
        parse=between(0, 30, int),
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
    batch_size: int = flag(
        64, "photos in a step; under torchrun of all processes together", group="training",
        parse=between(1, 65_536, int),
    )  # fmt: skip
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

    mixed: bool = flag(
        True,
        "train on mixed persons too, where python -m common.tools.mixup has made some",
        group="labels",
    )
    label_fixes: str | None = flag(
        None,
        "correct labels in training: the competition's known errors (core: sure ones, likely, "
        "single: all), or those in a table with the columns id,what",
        group="labels",
        metavar="FIXES",
    )

    def knows(self, face: "Face") -> bool:
        """Whether `label` can be told of `face`; training and validation leave out all others."""
        return True

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

    @property
    def output_names(self) -> tuple[str, ...]:
        """What each logit stands for."""
        return self.classes

    def target_class(self, targets: "Tensor") -> "Tensor":
        """The classes that a batch of `target`s belongs to, where a loss wants something finer."""
        return targets

    def fitted(self, *tables: "Collection[Person]") -> "Recipe":
        """The recipe for `tables` of persons, where something follows from what they hold.

        UserError where one lacks what the recipe asks for.
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
        from common.model.augmentation import Erasing, compose

        return compose(
            self.aug,
            own=self.own_augmentation,
            magnitude=self.randaugment_magnitude,
            erasing=Erasing(self.erasable, p=self.reprob) if self.reprob else None,
            crop_to=self.size if rare else None,
        )

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
        from common.model.losses import make_loss

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
        if differing := (set(fields) | ADDED) ^ set(known):
            raise ValueError(f"fields differ: {sorted(differing)}")
        return cls(**{name: restored(known[name], value) for name, value in fields.items()})


def number(name: str, low: float, high: float, *, log: bool = False) -> Callable[["Trial"], float]:
    """Asks a trial for a number of three digits from `low` to `high`."""
    return lambda trial: float(f"{trial.suggest_float(name, low, high, log=log):.3g}")


def one_of(name: str, values: Sequence[Any]) -> Callable[["Trial"], Any]:
    """Asks a trial for one of `values`."""
    return lambda trial: trial.suggest_categorical(name, values)
