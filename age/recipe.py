"""How the age model is trained; the defaults are source S2's."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from age import dataset
from common.data.layout import AGE_BORDERS, Face, age_band
from common.recipe import Recipe, between, flag

if TYPE_CHECKING:
    from albumentations import Compose
    from torch import Tensor, nn


@dataclasses.dataclass(frozen=True, kw_only=True)
class AgeRecipe(Recipe):
    """Focal loss with gamma 2, Adam 1e-4, 4 epochs.

    With `--loss dldl` the network learns years, as a distribution over 0 to 100, and its answer is
    the distribution summed over each group's years.

    From scratch on 2,160 real persons, two cores, 30 minutes, macro F1 .539 on 540 others
    (2026-11-21; the focal loss: .37 after 12 epochs): python -m age.train --loss dldl
    --model mobilenetv3_small_100 --size 96 --no-pretrained --opt adamw --weight-decay 0.05
    --lr 2e-3 --sched cosine --warmup-epochs 1 --epochs 20

    S2 also told training that 58 and 59 are old; here that is `--old-from 58`, because the
    command that our users know, `--drop-ages 57-59`, takes those ages out instead.
    """

    task: ClassVar[str] = "age"
    classes: ClassVar[tuple[str, ...]] = dataset.CLASSES

    loss: str = flag(
        "focal",
        "training loss; dldl learns years (a Gaussian of --sigma about the true one), and sums "
        "them to the groups",
        group="training",
        choices=("cross_entropy", "focal", "dldl"),
    )
    sigma: float = flag(
        3.0, "dldl: spread of the years in training", group="training", parse=between(0.1, 20)
    )
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

    @property
    def outputs(self) -> int:
        return dataset.YEARS if self.loss == "dldl" else len(self.classes)

    def target(self, face: Face) -> int:
        if self.loss != "dldl":
            return self.train_label(face)
        years = max(face.age, AGE_BORDERS[-1]) if face.age >= self.old_from else face.age
        return min(years, dataset.YEARS - 1)

    def criterion(self, counts: Sequence[int]) -> "nn.Module":
        if self.loss != "dldl":
            return super().criterion(counts)
        from common.training.losses import LabelDistributionLoss

        return LabelDistributionLoss(dataset.YEARS, self.sigma)

    def probabilities(self, logits: "Tensor") -> "Tensor":
        shares = super().probabilities(logits)
        if self.loss != "dldl":
            return shares
        membership = shares.new_zeros(dataset.YEARS, len(self.classes))
        for year in range(dataset.YEARS):
            membership[year, age_band(year)] = 1
        return shares @ membership

    def keep(self, face: Face) -> bool:
        return not any(first <= face.age <= last for first, last in self.drop_ages)

    def augment(self) -> "Compose":
        from age.augmentation import augmentation

        return augmentation()
