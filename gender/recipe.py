"""How the gender model is trained."""

import dataclasses
from typing import TYPE_CHECKING, ClassVar

from common.data.layout import Face
from common.model.presets import presets
from common.model.recipe import Recipe
from gender import dataset

if TYPE_CHECKING:
    from albumentations import Compose


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenderRecipe(Recipe):
    """Cross entropy; years and how the mask is worn are learned along; Adam 1e-4, 10 epochs as in S2.

    What it is worth, from scratch on 2,160 real persons in ten epochs (--preset scratch), macro F1 on
    540 others (2026-11-28, tests/benchmarks/RESULTS.md): .897, in 25 .905, where the sources' recipes
    reach .65 to .74. A little of the face's surroundings (--margin 0.1) is worth .01 beside a closer
    look (-0.2), --mixup 0.2 a tenth of the loss (.252 instead of .277), and lets 25 epochs gain.
    """

    task: ClassVar[str] = "gender"
    classes: ClassVar[tuple[str, ...]] = dataset.CLASSES
    unlabelled: ClassVar[str] = "no person has a gender"
    presets: ClassVar = presets(scratch={"mixup": 0.2, "epochs": 25})

    margin: float = 0.1
    aux: tuple[str, ...] = ("years", "mask")

    def knows(self, face: Face) -> bool:
        return dataset.known(face)

    def label(self, face: Face) -> int:
        return dataset.label(face)

    def own_augmentation(self) -> "Compose":
        from gender.augmentation import augmentation

        return augmentation()
