"""Models of one task that vote."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from common.base.errors import UserError, warn
from common.faces.crop import FACE_METHODS
from common.faces.detector import check_detector
from common.inference.engines import TORCH, Engine, load_model
from common.inference.options import PredictSettings
from common.inference.voting import hard_vote, soft_vote
from common.model.checkpoint import outdated_detector
from common.model.loaded import LoadedModel
from common.model.recipe import Recipe


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """One task's models, which vote."""

    models: tuple[LoadedModel, ...]
    weights: tuple[float, ...]
    """A positive number for each model; only their proportions count."""
    vote: str = "soft"
    """soft: the most likely class of the weighted mean; hard: the class that most models, by weight,
    find most likely."""

    def only(self, chosen: Sequence[bool]) -> "Ensemble":
        """The same without the models at whose index `chosen` is False."""
        models = itertools.compress(self.models, chosen)
        weights = itertools.compress(self.weights, chosen)
        return dataclasses.replace(self, models=tuple(models), weights=tuple(weights))

    def with_detector(self, name: str | None) -> "Ensemble":
        """The same with faces detected by `name`; with None, by the detector of the training.

        Raises:
            UserError: the detector's weights are missing.
        """
        if name is not None:
            specs = [dataclasses.replace(model.spec, detector=name) for model in self.models]
            pairs = zip(self.models, specs, strict=True)
            return dataclasses.replace(
                self, models=tuple(dataclasses.replace(m, spec=spec) for m, spec in pairs)
            ).with_detector(None)
        for model in self.models:
            check_detector(model.spec.used_detector)
        return self

    def mean(self, by_model: np.ndarray) -> np.ndarray:
        """(models, rows, classes) probabilities → their weighted mean, (rows, classes)."""
        return soft_vote(by_model, self.weights)

    @property
    def number_name(self) -> str:
        """Name of the number behind the task's classes, "" if there is none."""
        return self.models[0].recipe.number_name

    def number(self, by_model: np.ndarray) -> np.ndarray:
        """(models, rows, 3) numbers → (rows, 3): the weighted mean of the models that have one."""
        known = np.isfinite(by_model)
        weights = np.array(self.weights)[:, None, None] * known
        total = weights.sum(axis=0)
        means = (np.where(known, by_model, 0) * weights).sum(axis=0) / np.where(total > 0, total, 1)
        return np.where(total > 0, means, np.nan)

    def decide(self, by_model: np.ndarray, offsets: np.ndarray | float = 0.0) -> np.ndarray:
        """(models, rows, classes) probabilities → (rows,) classes; -1 where one isn't a number.

        `offsets`, (classes,) or (rows, classes), are added to the logarithms of the probabilities.
        """
        shifted = by_model * np.exp(offsets)
        if self.vote == "hard":
            classes = hard_vote(shifted, self.weights)
        else:
            classes = soft_vote(shifted, self.weights).argmax(axis=1)
        return np.where(np.isfinite(by_model).all(axis=(0, 2)), classes, -1)


def all_models(ensembles: Mapping[str, Ensemble]) -> list[LoadedModel]:
    """The models of every task, one task after another."""
    return [model for ensemble in ensembles.values() for model in ensemble.models]


def load_ensemble(
    recipe: type[Recipe],
    files: Sequence[Path],
    weights: Sequence[float],
    vote: str,
    device: torch.device,
    engine: Engine = TORCH,
) -> Ensemble:
    """Open checkpoints of `recipe`'s task, or exports, which run on the CPU whatever `device` is.

    `engine` chooses what runs checkpoints.

    Raises:
        UserError: a file is no model of the task, or two are the same model.
    """
    models = tuple(load_model(file, recipe, device, engine) for file in files)
    for first, second in itertools.combinations(models, 2):
        if first.identity == second.identity:
            raise UserError(
                f"--{recipe.task}: {first.path} and {second.path} are the same model, which votes "
                f"once; --{recipe.task}-weights sets its weight"
            )
    return Ensemble(models, tuple(weights), vote)


def print_ensembles(ensembles: Mapping[str, Ensemble], settings: PredictSettings) -> None:
    """Print a line for each model, the kind of vote, and test-time augmentation."""
    for task, ensemble in ensembles.items():
        for model, weight in zip(ensemble.models, ensemble.weights, strict=True):
            counts = f", weight {weight:g}" if len(set(ensemble.weights)) > 1 else ""
            words = f"{model.recipe.model}, {_crop_words(model)}, {model.engine}{counts}"
            print(f"{task}: {model.path}, {words}")
            if outdated_detector(model.card):
                warn(f"{model.path}: trained on another detector's crops")
    sizes = {task: len(ensemble.models) for task, ensemble in ensembles.items()}
    if max(sizes.values()) > 1:
        vote = next(iter(ensembles.values())).vote
        print(f"{vote} vote of {', '.join(f'{n} {task}' for task, n in sizes.items())} models")
    for tta, tasks in itertools.groupby(ensembles, settings.tta_of):
        if tta is not None:
            others = "its mirror image" if tta == "flip" else f"{tta - 1} random changes of it"
            names = f" of {', '.join(tasks)}" if settings.ttas else ""
            print(f"each model{names} gets the crop and {others}")


def _crop_words(model: LoadedModel) -> str:
    spec = model.spec
    margin = f" {spec.margin:+.0%}" if spec.method in FACE_METHODS else ""
    detector = f" by {spec.detector}" if spec.used_detector not in (None, "mtcnn") else ""
    return f"crop {spec.method}{margin}{detector}, {spec.size[0]} x {spec.size[1]}"


def check_face_crops(ensembles: Mapping[str, Ensemble], flag: str = "--faces all") -> None:
    """Check that every model takes the crop of a face, else all faces would be alike to it.

    Raises:
        UserError: a model takes another crop; the message begins with `flag`.
    """
    for model in all_models(ensembles):
        if model.spec.method not in FACE_METHODS:
            raise UserError(
                f"{flag}: {model.path} takes the crop {model.spec.method}, not a face; models of "
                f"--crop {' or '.join(FACE_METHODS)} are needed"
            )
