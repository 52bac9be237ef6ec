"""Small trainings in this process, for tests of their inside."""

import contextlib
import io
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common.base.run_settings import Run
from common.data.layout import Face
from common.data.split import make_split
from common.model import checkpoint
from common.model.recipe import Recipe
from common.model.weights import create_classifier
from common.training.command import parse
from common.training.run import train
from mask.recipe import MaskRecipe

ROOT = Path(__file__).parents[1]
FLAGS = "--model test_efficientnet --size 48 --no-pretrained --batch-size 16 --folds 3 --workers 0"


def settings(recipe: type[Recipe], data: Path, folder: Path, line: str = "") -> tuple[Recipe, Run]:
    """A tiny recipe and run that read `data` and write below `folder`."""
    out = folder / f"{recipe.task[0]}.pt"
    where = f"--data {data} --out {out} --log-dir {folder / 'runs'} --device cpu"
    return parse(recipe, f"{FLAGS} {where} {line}".split())


def train_tiny(recipe: type[Recipe], data: Path, folder: Path, line: str = "") -> tuple[int, str]:
    """Train a few steps; returns the exit status and what was printed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        status = train(*settings(recipe, data, folder, line))
    return status, printed.getvalue()


def environment(folder: Path) -> dict[str, Any]:
    """Variables for a command that may touch nothing outside `folder`."""
    dropped = ("SM_", "HF_", "TQDM_")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(dropped)}
    return kept | {
        "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "HF_HOME": str(folder / "hub"),
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "COLUMNS": "100",
    }


def save_untrained(
    recipe: type[Recipe], file: Path, faces: tuple[Face, ...], sure: float = 1, **fields: Any
) -> None:
    """A checkpoint of a tiny model that learned nothing; `sure` scales its logits."""
    own = recipe(model="test_efficientnet", size=(48, 48), pretrained=False, **fields)
    model, _ = create_classifier(own)
    with torch.no_grad():
        model.backbone.get_classifier().weight.mul_(sure)
    prior = [1 / len(own.classes)] * len(own.classes)
    decision = {"temperature": 1.0, "prior": prior, "ece": None, "offsets": None}
    split = make_split({face.person for face in faces}, folds=2, fold=0, limit=None)[1]
    card = checkpoint.make_card(own, model, split=split, metrics={}, decision=decision)
    checkpoint.save(file, card, model.backbone.state_dict())


def last(folder: Path, task: str = "mask") -> dict[str, Any]:
    """Read the last.pt of the one training below `folder`."""
    (file,) = (folder / "runs" / task).glob("*/last.pt")
    return checkpoint.read(file)


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested dicts and lists by their path."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in pairs:
        if isinstance(item, (dict, list, tuple)):
            yield from _leaves(item, f"{name}/{key}")
        else:
            yield f"{name}/{key}", item


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """List what differs between two last.pt of the same training, except paths and times.

    Weights, moving average, optimizer, scheduler, counters and figures are compared bit by bit.
    """
    ours, theirs = _compared(one), _compared(other)
    return [name for name in ours | theirs if not _same(ours.get(name), theirs.get(name))]


def _compared(content: dict[str, Any]) -> dict[str, Any]:
    training = {k: v for k, v in content["training"].items() if k not in ("run", "seconds")}
    parts = {key: content["card"][key] for key in ("metrics", "decision")}
    return dict(_leaves({"weights": content["state_dict"], "training": training} | parts))


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return torch.equal(one, other)
    return repr(one) == repr(other)


class Interrupting(nn.CrossEntropyLoss):
    """A loss that sends this process a signal at its n-th call."""

    def __init__(self, call: int, number: int) -> None:
        super().__init__()
        self.left, self.number = call, number

    def forward(self, *batch: torch.Tensor) -> torch.Tensor:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), self.number)
        return super().forward(*batch)


def interrupted(call: int, number: int, only: int = 0) -> type[MaskRecipe]:
    """A recipe whose `only`-th training (of --fold all) gets a signal at its n-th step."""
    trainings = itertools.count()

    class Recipe(MaskRecipe):
        def criterion(self, counts: Any) -> nn.Module:
            return Interrupting(call if next(trainings) == only else -1, number)

    return Recipe
