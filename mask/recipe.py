"""How the mask model is trained."""

import dataclasses
from typing import TYPE_CHECKING, ClassVar

from common.data.layout import Face
from common.model.presets import presets
from common.model.recipe import Recipe
from mask import dataset

if TYPE_CHECKING:
    from albumentations import Compose


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskRecipe(Recipe):
    """Cross entropy; years and gender are learned along; Adam 3e-4, 10 epochs as in S2.

    What it is worth, from scratch on 2,160 real persons in ten epochs (--preset scratch), macro F1 on
    540 others (2026-11-28, one seed, tests/benchmarks/RESULTS.md): .972, where the sources' recipes
    reach .85 to .93. Framing as other detectors and people frame a face (--aug framing) costs nothing
    there and gains on photos from the street: .556 by the detector, .493 without.
    """

    task: ClassVar[str] = "mask"
    classes: ClassVar[tuple[str, ...]] = dataset.CLASSES
    unlabelled: ClassVar[str] = (
        "no photo's name says how a mask is worn (mask1, incorrect_mask, normal)"
    )
    presets: ClassVar = presets(s2={"lr": 3e-4}, s4={"loss": "cross_entropy"})
    erasable: ClassVar[float] = 0.5  # below are the mouth and the nose, which the label is about

    aug: tuple[str, ...] = ("light", "framing", "exposure")
    aux: tuple[str, ...] = ("years", "gender")
    lr: float = 3e-4

    def knows(self, face: Face) -> bool:
        return dataset.known(face)

    def label(self, face: Face) -> int:
        return dataset.label(face)

    def own_augmentation(self) -> "Compose":
        from mask.augmentation import augmentation

        return augmentation()
