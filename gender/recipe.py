"""How the gender model is trained."""

import dataclasses
from typing import TYPE_CHECKING, ClassVar

from common.data.layout import Face
from common.presets import presets
from common.recipe import Recipe
from gender import dataset

if TYPE_CHECKING:
    from albumentations import Compose


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenderRecipe(Recipe):
    """Cross entropy, Adam 1e-4, 10 epochs.

    From scratch on 2,160 real persons, two cores, 21 minutes, macro F1 .785 on 540 others
    (2026-11-21): python -m gender.train --model mobilenetv3_small_100 --size 96 --no-pretrained
    --opt adamw --weight-decay 0.05 --lr 2e-3 --sched cosine --warmup-epochs 1 --epochs 20
    """

    task: ClassVar[str] = "gender"
    classes: ClassVar[tuple[str, ...]] = dataset.CLASSES
    presets: ClassVar = presets()

    margin: float = -0.2
    aux: tuple[str, ...] = ("years", "mask")

    def label(self, face: Face) -> int:
        return dataset.label(face)

    def own_augmentation(self) -> "Compose":
        from gender.augmentation import augmentation

        return augmentation()
