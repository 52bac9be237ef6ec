"""Models of one task that answer together."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from common.base.errors import UserError, warn
from common.faces.crop import FACE_METHODS
from common.inference.voting import hard_vote, soft_vote
from common.model.checkpoint import outdated_detector
from common.model.exported import is_exported, load_exported
from common.model.loaded import LoadedModel, load
from common.model.recipe import Recipe


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """One task's models; `weights` are positive, one a model.

    Their probabilities are the weighted mean. `vote` says which class they answer with: soft, the
    likeliest of that mean; hard, the one that most of them, by weight, think likeliest. Offsets to
    the logarithms of probabilities, of the mean or of each model's own, may make another likeliest.
    """

    models: tuple[LoadedModel, ...]
    weights: tuple[float, ...]
    vote: str = "soft"

    def only(self, chosen: Sequence[bool]) -> "Ensemble":
        """The same without the models whose place in `chosen` is False."""
        models = itertools.compress(self.models, chosen)
        weights = itertools.compress(self.weights, chosen)
        return dataclasses.replace(self, models=tuple(models), weights=tuple(weights))

    def decide(
        self, shares: np.ndarray, offsets: np.ndarray | float = 0.0
    ) -> tuple[np.ndarray, np.ndarray]:
        """(models, photos, classes) → (photos, classes) probabilities, (photos,) classes.

        `offsets` are (classes,) or (photos, classes). Where a model has no number, the class is -1.
        """
        mean = soft_vote(shares, self.weights)
        shifted = shares * np.exp(offsets)
        if self.vote == "hard":
            chosen = hard_vote(shifted, self.weights)
        else:
            chosen = soft_vote(shifted, self.weights).argmax(axis=1)
        return mean, np.where(np.isfinite(shares).all(axis=(0, 2)), chosen, -1)


def all_models(ensembles: Mapping[str, Ensemble]) -> list[LoadedModel]:
    """The models of every task, one task after another."""
    return [model for ensemble in ensembles.values() for model in ensemble.models]


def load_ensemble(
    recipe: type[Recipe],
    files: Sequence[Path],
    weights: Sequence[float],
    vote: str,
    device: torch.device,
) -> Ensemble:
    """Open checkpoints of `recipe`'s task, or exports; UserError where the same stands twice.

    An export runs on the CPU whatever `device` is.
    """
    models = tuple(
        load_exported(file, recipe) if is_exported(file) else load(file, recipe, device)
        for file in files
    )
    for first, second in itertools.combinations(models, 2):
        if first.identity == second.identity:
            raise UserError(
                f"--{recipe.task}: {first.path} and {second.path} are the same model, which votes "
                f"once; --{recipe.task}-weights says how much it counts"
            )
    return Ensemble(models, tuple(weights), vote)


def slow_files(ensembles: Mapping[str, Ensemble]) -> list[Path]:
    """The checkpoints that torch runs on the CPU, where onnxruntime would run their exports faster."""
    return [
        model.path
        for model in all_models(ensembles)
        if model.model.device.type == "cpu" and not is_exported(model.path)
    ]


def print_ensembles(ensembles: Mapping[str, Ensemble], tta: str | int | None) -> None:
    """A line a model, how they vote, and notes on what differs between them."""
    for task, ensemble in ensembles.items():
        for model, weight in zip(ensemble.models, ensemble.weights, strict=True):
            counts = f", weight {weight:g}" if len(set(ensemble.weights)) > 1 else ""
            words = f"{model.recipe.model}, {_crop_words(model)}, {model.engine}{counts}"
            print(f"{task}: {model.path}, {words}")
            if outdated_detector(model.card):
                warn(f"{model.path}: trained on another detector's crops")
            if "decision" not in model.card:
                warn(
                    f"{model.path}: made by an earlier version: its probabilities aren't calibrated"
                )
    if len({model.spec for model in all_models(ensembles)}) > 1:
        print("note: the models look at different crops; each photo is cut for each of them")
    sizes = {task: len(ensemble.models) for task, ensemble in ensembles.items()}
    if max(sizes.values()) > 1:
        vote = next(iter(ensembles.values())).vote
        print(f"{vote} vote of {', '.join(f'{n} {task}' for task, n in sizes.items())} models")
    if tta is not None:
        others = "its mirror image" if tta == "flip" else f"{tta - 1} random changes of it"
        print(f"each model looks at the crop and {others}")


def _crop_words(model: LoadedModel) -> str:
    spec = model.spec
    margin = f" {spec.margin:+.0%}" if spec.method in FACE_METHODS else ""
    return f"crop {spec.method}{margin}, {spec.size[0]} x {spec.size[1]}"
