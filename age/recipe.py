"""How the age model is trained; the defaults are source S2's."""

import dataclasses
from typing import TYPE_CHECKING, ClassVar

from age import dataset
from common.data.layout import Face
from common.recipe import Recipe, between, flag

if TYPE_CHECKING:
    from albumentations import Compose


@dataclasses.dataclass(frozen=True, kw_only=True)
class AgeRecipe(Recipe):
    """Focal loss with gamma 2, Adam 1e-4, 4 epochs.

    S2 also told training that 58 and 59 are old; here that is `--old-from 58`, because the
    command that our users know, `--drop-ages 57-59`, takes those ages out instead.
    """

    task: ClassVar[str] = "age"
    classes: ClassVar[tuple[str, ...]] = dataset.CLASSES

    loss: str = "focal"
    epochs: int = 4
    drop_ages: tuple[tuple[int, int], ...] = flag(
        (),
        "years that training leaves out, such as 57-59 28-29; validation keeps them",
        group="labels",
        parse=dataset.year_range,
        nargs="*",
        metavar="FROM-TO",
    )
    old_from: int = flag(
        60,
        "years from which training, not validation, says old",
        group="labels",
        parse=between(31, 120, int),
        metavar="YEARS",
    )

    def label(self, face: Face) -> int:
        return dataset.label(face)

    def train_label(self, face: Face) -> int:
        return dataset.label(face, self.old_from)

    def keep(self, face: Face) -> bool:
        return not any(first <= face.age <= last for first, last in self.drop_ages)

    def augment(self) -> "Compose":
        from age.augmentation import augmentation

        return augmentation()
