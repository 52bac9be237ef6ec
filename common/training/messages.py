"""Lines that a training prints: the start, each epoch, and the result class by class."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.base.errors import counted
from common.base.stages import duration
from common.model.heads import AuxiliaryLoss
from common.model.metrics import Scores
from common.model.recipe import Recipe
from common.training.engine import EpochResult

RARELY = (
    0.2  # recall, or predictions per photo of a class, below which a class is named in a warning
)
DIGEST = re.compile(r"(SHA-256 [0-9a-f]{8})[0-9a-f]+")  # the card holds it whole


def model_line(recipe: Recipe, model: torch.nn.Module, origin: str, device: str) -> str:
    """Describe the network: its name, size, weights, input and device."""
    number = sum(tensor.numel() for tensor in model.parameters())
    origin = DIGEST.sub(r"\1…", origin)
    size = "×".join(map(str, recipe.size))
    return f"{recipe.task} | {recipe.model} ({millions(number)}, {origin}) | {size} | {device}"


def millions(number: int) -> str:
    """Write a number of parameters: 4.6M, 0.012M."""
    return f"{number / 1e6:.1f}M" if number >= 1e5 else f"{number / 1e6:.3f}M"


def loss_line(criterion: torch.nn.Module, recipe: Recipe) -> str:
    """Describe the training loss in a line: the task's own, and the auxiliary heads'."""
    heads = isinstance(criterion, AuxiliaryLoss)
    own = (criterion.own if heads else criterion).extra_repr()
    words = [w for w in own.split(", ") if w not in ("cross entropy", "smoothing=0.0")]
    details = f" ({', '.join(words)})" if own else ""
    weight = f"{recipe.aux_weight:g} × " if recipe.aux_weight != 1 else ""
    others = "".join(f" + {weight}{name}" for name in recipe.aux) if heads else ""
    return f"loss: {recipe.loss}{details}{others}"


def epoch_line(result: EpochResult, epochs: int, note: str) -> str:
    """Format the line that is printed after each epoch.

    The training loss is the task's own, before a + with what the auxiliary heads add to it.
    """
    heads = f" + {result.heads_loss:.4f} heads" if result.heads_loss else ""
    return (
        f"epoch {result.epoch:>{len(str(epochs))}}/{epochs}  loss {result.train_loss:.4f}{heads}  "
        f"val: loss {result.val_loss:.4f}  macro F1 {result.scores.macro_f1:.4f}  "
        f"accuracy {result.scores.accuracy:.4f}  lr {result.lr:.1e}  "
        f"{result.photos_per_second:.0f}/s  {note}".rstrip()
    )


def time_left(seconds: float, done: int, epochs: int) -> str:
    """Estimate the rest of a training that has taken `seconds` for `done` of its `epochs`."""
    if done == 0 or epochs <= done:
        return ""
    left = seconds / done * (epochs - done)
    return f"about {duration(left)} left for {counted(epochs - done, 'epoch')}"


def best_scores(best: Mapping[str, Any]) -> Scores:
    """Return the scores in a card's figures of an epoch."""
    confusion = np.array(best["confusion"])
    return Scores(
        best["macro_f1"],
        best["accuracy"],
        tuple(best["f1"].values()),
        confusion,
        confusion.sum(axis=1),
    )


def rare_warning(scores: Scores, classes: Sequence[str]) -> str:
    """Name the classes that are nearly never predicted, or hardly ever rightly; "" if there are none."""
    found = []
    numbers = scores.confusion.diagonal(), scores.confusion.sum(axis=0), scores.support
    for name, right, predicted, photos in zip(classes, *numbers, strict=True):
        if photos and min(right, predicted) < RARELY * photos:
            times = "once" if predicted == 1 else f"{predicted:,} times"
            found.append(f"{name} (predicted {times}, rightly {right:,} of {photos:,})")
    if not found:
        return ""
    return (
        f"hardly recognised: {', '.join(found)}; longer training, --sampler class or a --loss that "
        "weights classes may help"
    )


def next_line(task: str, out: Path) -> str:
    """Say what can be done with a trained model."""
    return (
        f"next: python combine.py --{task} {out} …, with a model of each task; "
        "python -m common.tools.train_all trains all of them"
    )
