"""How the age model is trained."""

import dataclasses
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from age import dataset
from common.base.errors import UserError
from common.base.fields import between, flag
from common.data.layout import AGE_BORDERS, YEAR_BINS, Face, Person, age_band, years_of
from common.model.presets import presets
from common.model.recipe import LOSSES, Recipe, number, one_of

if TYPE_CHECKING:
    from albumentations import Compose
    from optuna import Trial
    from torch import Tensor, nn


@dataclasses.dataclass(frozen=True, kw_only=True)
class AgeRecipe(Recipe):
    """Years as a distribution over 0 to 100, summed to the groups; Adam 1e-4, 4 epochs as in S2.

    What it is worth, from scratch on 2,160 real persons in ten epochs (--preset scratch), macro F1 on
    540 others (2026-11-28, tests/benchmarks/RESULTS.md): years .56, where the sources' losses on three
    groups reach .46; looking at the eyes and the forehead (--margin -0.2) .615 ± .021 (three seeds);
    the groups' own cross entropy beside the years' .627 ± .005; maps twice as fine (--stem-stride 1)
    .669 and .664 (two seeds), and with those a wider look (--margin 0) .677. 25 epochs with
    --mixup 0.2: .690 ± .008 (two seeds). With many framings the closer look has a lower loss, but knows
    the old less; it is the best second vote. --aux mask gender or race helped in no run, so there are
    no further heads.

    S2 also told training that 58 and 59 are old; here that is `--old-from 58`, because the
    command that our users know, `--drop-ages 57-59`, takes those ages out instead.
    """

    task: ClassVar[str] = "age"
    classes: ClassVar[tuple[str, ...]] = dataset.CLASSES
    unlabelled: ClassVar[str] = "no person has an age"
    presets: ClassVar = presets(
        scratch={"mixup": 0.2, "epochs": 25},
        s1={"old_from": 57},
        s2={"loss": "focal", "epochs": 4, "old_from": 58},
        s3={"old_from": 55},
        s4={"drop_ages": ((57, 59), (28, 29))},
    )

    loss: str = flag(
        "dldl",
        "training loss; dldl learns years (a Gaussian of --sigma about the true one), and sums "
        "them to the groups; corn asks whether a face is above each group",
        group="training",
        choices=(*LOSSES, "dldl", "corn"),
    )
    sigma: float = flag(
        3.0, "dldl: spread of the years in training", group="training", parse=between(0.1, 20)
    )
    group_weight: float = flag(
        1.0, "dldl: how much the cross entropy of the three groups counts beside the years'",
        group="training", parse=between(0, 100),
    )  # fmt: skip
    bins: str = flag(
        "auto",
        "dldl: first and last year to learn, which also stand for all before and after; auto: 0-100, "
        "or what train.csv has where its oldest are 60, that is 60 or more",
        group="training",
        parse=dataset.bins,
        metavar="FROM-TO",
    )
    margin: float = 0.0
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

    def knows(self, face: Face) -> bool:
        return dataset.known(face)

    def label(self, face: Face) -> int:
        return dataset.label(face)

    def train_label(self, face: Face) -> int:
        return dataset.label(face, self.old_from)

    @property
    def outputs(self) -> int:
        first, last = self.years
        special = {"dldl": last - first + 1, "corn": len(self.classes) - 1}
        return special.get(self.loss, len(self.classes))

    @property
    def output_names(self) -> tuple[str, ...]:
        first, last = self.years
        above = tuple(f"above {name}" for name in self.classes[:-1])
        special = {"dldl": tuple(map(str, range(first, last + 1))), "corn": above}
        return special.get(self.loss, self.classes)

    @property
    def years(self) -> tuple[int, int]:
        """First and last year that dldl learns."""
        return YEAR_BINS if self.bins == "auto" else dataset.year_range(self.bins)

    def fitted(self, *tables: Collection[Person]) -> "AgeRecipe":
        people = [p for table in tables for p in table if p.age is not None]
        grouped = [person for person in people if not person.exact]
        if grouped:
            here = f"train.csv has an age group for {grouped[0].key}, not years"
            if self.drop_ages or self.old_from != AGE_BORDERS[-1]:
                raise UserError(f"--drop-ages, --old-from: {here}")
        if self.loss != "dldl":
            return self
        if people and len(grouped) == len(people):
            print(f"note: {here}: the groups are learned, with --loss cross_entropy")
            return dataclasses.replace(self, loss="cross_entropy")
        if grouped:
            print(
                f"note: {here}; {len(grouped):,} of {len(people):,} persons teach their group only"
            )
        if self.bins != "auto":
            return self
        return dataclasses.replace(self, bins="{}-{}".format(*years_of(*tables)))

    def target(self, face: Face) -> int:
        """The class; for dldl the year's place in `years`, behind these the group of who has none."""
        if self.loss != "dldl":
            return self.train_label(face)
        if not face.person.exact:
            return self.outputs + self.label(face)
        years = max(face.age, AGE_BORDERS[-1]) if face.age >= self.old_from else face.age
        first, last = self.years
        return min(max(years, first), last) - first

    def target_class(self, targets: "Tensor") -> "Tensor":
        if self.loss != "dldl":
            return targets
        import torch

        borders = torch.tensor(AGE_BORDERS, device=targets.device)
        of_years = torch.bucketize(targets + self.years[0], borders, right=True)
        return torch.where(targets < self.outputs, of_years, targets - self.outputs)

    def criterion(self, counts: Sequence[int]) -> "nn.Module":
        from common.model import losses

        if self.loss == "dldl":
            years = losses.LabelDistributionLoss(*self.years, self.sigma)
            return losses.GroupedLoss(years, self._membership(), self.group_weight)
        return losses.CornLoss() if self.loss == "corn" else super().criterion(counts)

    def probabilities(self, logits: "Tensor") -> "Tensor":
        if self.loss == "corn":
            from common.model.losses import corn_probabilities

            return corn_probabilities(logits)
        shares = super().probabilities(logits)
        return shares @ self._membership().to(shares) if self.loss == "dldl" else shares

    def _membership(self) -> "Tensor":
        """Which year is in which group: (years, classes), 0 and 1."""
        import torch

        first, last = self.years
        groups = torch.tensor([age_band(year) for year in range(first, last + 1)])
        return torch.nn.functional.one_hot(groups, len(self.classes)).float()

    def search_space(self) -> "dict[str, Callable[[Trial], Any]]":
        losses = ("cross_entropy", "focal", "cb_focal", "corn", "dldl")
        return super().search_space() | {
            "loss": one_of("loss", losses),
            "sigma": number("sigma", 1, 6),
            "group_weight": number("group_weight", 0.1, 10, log=True),
        }

    def trains_on(self, face: Face) -> bool:
        return not any(first <= face.age <= last for first, last in self.drop_ages)

    def own_augmentation(self) -> "Compose":
        from age.augmentation import augmentation

        return augmentation()
