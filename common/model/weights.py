"""Initial weights of a network: random, pretrained on ImageNet, or from a file."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common.base.errors import UserError
from common.model.checkpoint import read
from common.model.foreign import check_fit, find_tensors, read_foreign
from common.model.network import Classifier, classifier_tensors, create_backbone, normalisation
from common.model.pretrained import find_source
from common.model.recipe import Recipe


def create_classifier(
    recipe: Recipe, *, resumed: bool = False, extra: int = 0
) -> tuple[Classifier, str]:
    """Create a network for training; returns it and a line about the origin of its weights.

    `extra` outputs come after the recipe's. A `resumed` run loads its weights later, so none are
    fetched or read here.
    """
    origin = "random weights"
    if recipe.pretrained and recipe.weights is None and not resumed:
        source = find_source(recipe.model)
        backbone = create_backbone(recipe, extra=extra, create=source.create)
        origin = source.origin(recipe.model)
    else:
        backbone = create_backbone(recipe, extra=extra)
    if resumed:
        origin = "weights of the run to be resumed"
    elif recipe.weights is not None:
        origin = load_weights(backbone, recipe, recipe.weights)
    return Classifier(backbone, *normalisation(recipe, backbone)), origin


def load_weights(backbone: nn.Module, recipe: Recipe, file: Path) -> str:
    """Load a state dict or one of our checkpoints into `backbone`; returns a line about what fitted.

    The classifier is used only from a checkpoint of the same task and classes: another task may have
    the same number of classes. It and tensors of other shapes otherwise keep their values.

    Raises:
        UserError: the file has no weights, or fewer than half of them fit: another architecture.
    """
    content, card = read_foreign(file), weights_card(file)
    if card:
        read(file)  # checks digest and format
    own = backbone.state_dict()
    found = find_tensors(content, own)
    fitting = check_fit(file, recipe.model, found, own)
    if not all(torch.isfinite(tensor).all() for tensor in fitting.values()):
        raise UserError(f"--weights {file}: holds weights that aren't numbers")
    if (card.get("task"), card.get("classes")) != (recipe.task, list(recipe.classes)):
        classifier = classifier_tensors(backbone)
        fitting = {k: v for k, v in fitting.items() if k not in classifier}
    backbone.load_state_dict(fitting, strict=False)
    left = (
        f", not {', '.join(sorted(set(own) - set(fitting))[:4])}" if len(fitting) < len(own) else ""
    )
    where = "" if card else found.stripped()
    return f"{len(fitting)} of {len(own)} tensors from {file}{_origin(card)}{where}{left}"


def weights_card(file: Path) -> dict[str, Any]:
    """The card of a file of weights if it is one of our checkpoints, else {}; not checked."""
    if not zipfile.is_zipfile(file):  # .safetensors, or torch's old format
        return {}
    content = read_foreign(file)
    card = content.get("card") if isinstance(content, Mapping) else None
    ours = isinstance(card, dict) and {"task", "classes", "split", "metrics"} <= set(card)
    return card if ours else {}


def _origin(card: Mapping[str, Any]) -> str:
    """Task, score and split of one of our checkpoints, in brackets."""
    if not card:
        return ""
    score, split = card["metrics"].get("macro_f1"), card["split"]
    words = [card["task"]] + ([f"macro F1 {score:.4f}"] if score is not None else [])
    words.append(f"split {split['hash']}, fold {split['fold']} of {split['folds']} held out")
    return f" ({', '.join(words)})"
