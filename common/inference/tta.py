"""Test-time augmentation: several views of a crop."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from common.model.recipe import Recipe

if TYPE_CHECKING:
    from albumentations import Compose


def views(
    crops: Sequence[np.ndarray], recipe: Recipe, tta: str | int | None
) -> Iterator[np.ndarray]:
    """Yield (photos, height, width, 3) uint8 RGB, one view of all crops at a time.

    The first view is the crops as they are. "flip" adds their mirror images; a number N adds N - 1
    random changes as in training with `recipe`. Random numbers are seeded with the recipe's seed,
    the view's number and the crop's pixels, so that order and batch size change no view.
    """
    clean = np.asarray(crops)
    yield clean
    if tta == "flip":
        yield np.ascontiguousarray(clean[:, :, ::-1])
    elif tta is not None:
        augment = recipe.augment()
        for number in range(1, tta):
            yield np.stack([_changed(crop, augment, recipe.seed, number) for crop in clean])


def _changed(crop: np.ndarray, augment: "Compose", seed: int, number: int) -> np.ndarray:
    from common.data.dataset import augmented  # albumentations takes a second

    digest = hashlib.sha256(f"{seed} {number} ".encode() + crop.tobytes()).digest()
    return augmented(augment, crop, int.from_bytes(digest[:4]))
