"""A trained model ready for prediction, opened from a checkpoint."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.data.dataset import to_tensor
from common.faces.crop import CropSpec, crop
from common.faces.detector import detect_if_needed
from common.model.checkpoint import check_task, crop_spec, fill, fitting, read
from common.model.device import mixed_precision
from common.model.recipe import Recipe


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A model with what it needs for prediction.

    `model` turns a batch of `transform`'s crops into logits; `engine` names the library that runs
    it. `card` is the checkpoint's, `path` its file.
    """

    model: Callable[[torch.Tensor], torch.Tensor]
    recipe: Recipe
    spec: CropSpec
    card: dict[str, Any]
    path: Path
    engine: str = "torch"

    def transform(self, photo: np.ndarray) -> torch.Tensor:
        """Crop the face of a photo.

        (height, width, 3) uint8 RGB → (3, height, width) uint8, in the size of `spec`.
        """
        return to_tensor(crop(photo, detect_if_needed(photo, self.spec.used_detector), self.spec))

    @torch.inference_mode()
    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """(photos, 3, height, width) uint8 RGB → (photos, saved outputs) logits."""
        with mixed_precision(self.model.device):
            return self.model(images).float()

    @torch.inference_mode()
    def probabilities(self, images: torch.Tensor) -> torch.Tensor:
        """(photos, 3, height, width) uint8 RGB → (photos, classes) calibrated probabilities."""
        return self.calibrated(self.logits(images))

    def calibrated(self, logits: torch.Tensor) -> torch.Tensor:
        """(photos, saved outputs) logits → (photos, classes) calibrated probabilities."""
        own = logits[:, : self.recipe.outputs]
        return self.recipe.probabilities(own / self.decision["temperature"])

    def number(self, logits: torch.Tensor) -> torch.Tensor | None:
        """(photos, saved outputs) logits → (photos, 3) number and 80% interval; see `Recipe.number`."""
        return self.recipe.number(logits, self.decision["temperature"])

    @property
    def decision(self) -> dict[str, Any]:
        """The card's decision: temperature, prior, calibration error and offsets."""
        return self.card["decision"]

    @property
    def identity(self) -> str:
        """SHA-256 of the model, the same before and after offsets were stored in its file."""
        offsets = self.decision["offsets"]
        return offsets["identity"] if offsets else self.card["sha256"]


def load(path: Path, recipe: type[Recipe], device: torch.device | str = "cpu") -> LoadedModel:
    """Open a checkpoint of `recipe`'s task for prediction.

    Raises:
        UserError: the file is missing or damaged, or another task's.
    """
    return load_content(path, read(path), recipe, device)


def load_content(
    path: Path, content: Mapping[str, Any], recipe: type[Recipe], device: torch.device | str = "cpu"
) -> LoadedModel:
    """Build the model of a checkpoint whose `content` was read from `path`.

    Raises:
        UserError: it is another task's, or doesn't fit.
    """
    from common.model.network import create_backbone  # timm takes seconds, exports don't need it

    card = content["card"]
    with fitting(path, recipe.task):
        check_task(path, card, recipe)
        own = recipe.from_dict(card["recipe"])
        model = fill(path, create_backbone(own, extra=len(own.number_names)), content)
    model = model.to(device, memory_format=torch.channels_last).eval()
    return LoadedModel(model, own, crop_spec(own), card, path)
