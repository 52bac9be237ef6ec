"""Settings and labels of the age model."""

import dataclasses
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from age import augmentation, dataset
from common.base.errors import UserError
from common.base.fields import between, flag
from common.data.layout import AGE_BORDERS, YEAR_BINS, Face, Person, age_band, years_of
from common.model.presets import presets
from common.model.recipe import LOSSES, Recipe
from common.training.search_space import number, one_of

if TYPE_CHECKING:
    from optuna import Trial
    from torch import Tensor, nn


@dataclasses.dataclass(frozen=True, kw_only=True)
class AgeRecipe(Recipe):
    """Years learned as a distribution over 0 to 100 and summed to groups, for five epochs at 192 px.

    Macro F1 on 540 held-out people, trained on 2,160 others (one seed each, 2026-12-01,
    tests/benchmarks/RESULTS.md): at 128 px .683, loss .653; with --loss focal .701, loss .715, and
    at 192 px .713, loss .701, in 89 minutes of one core beside other work. Fine-tuning overfits soon: with less
    mixup, augmentation and averaging the loss is .685 after one epoch and .724 after five. A loss of
    three groups, such as focal, learns years along (--aux years): .687 after three epochs, without .523.

    From random weights, after ten epochs (--preset scratch; 2026-11-28):

        .46            the sources' losses on three groups
        .56            years
        .615 ± .021    and a crop of the eyes and the forehead, --margin -0.2 (three seeds)
        .627 ± .005    and the cross entropy of the groups
        .669, .664     and feature maps twice as fine, --stem-stride 1 (two seeds)
        .677           and a wider crop again, --margin 0
        .690 ± .008    and 25 epochs with --mixup 0.2 (two seeds)

    With much --aug framing the closer crop has a lower loss, but recognises old people less well; it
    is the best second model of a vote. --aux mask, gender or race helped in no run.

    S2 also trained with 59 as old: here that is `--old-from 59`, since `--drop-ages 57-59` leaves that
    age out.
    """

    task: ClassVar[str] = "age"
    number_name: ClassVar[str] = "years"
    classes: ClassVar[tuple[str, ...]] = dataset.CLASSES
    checkpoint_name: ClassVar[str] = "a.pt"
    unlabelled: ClassVar[str] = "no person has an age"
    presets: ClassVar = presets(
        scratch={"aug": ("light", "affine", "colour"), "mixup": 0.2, "epochs": 25},
        large={"lr": 2e-4},
        s1={"old_from": 57},
        s2={"loss": "focal", "epochs": 4, "old_from": 59},
        s3={"old_from": 55},
        s4={"drop_ages": ((57, 59), (28, 29)), "smoothing": 0.1},
    )

    loss: str = flag(
        "dldl",
        "training loss; dldl learns years (a Gaussian of --sigma around the true one) and sums them "
        "to the groups",
        group="training",
        choices=(*LOSSES, "dldl"),
    )
    sigma: float = flag(
        3.0,
        "dldl: standard deviation of the target, in years",
        group="training",
        parse=between(0.1, 20),
        needs={"loss": ("dldl",)},
    )
    group_weight: float = flag(
        1.0,
        "dldl: weight of the groups' cross entropy relative to the years' loss",
        group="training",
        parse=between(0, 100),
        needs={"loss": ("dldl",)},
    )
    bins: str = flag(
        "auto",
        "dldl, --aux years: first and last year to learn, which include all years before and after; "
        "auto: 0-100, or those of train.csv if its oldest people are 60, which means 60 or more",
        group="training",
        parse=dataset.bins,
        metavar="FROM-TO",
        needs={"loss": ("dldl",), "aux": ("years",)},
    )
    size: tuple[int, int] = (192, 192)
    aug: tuple[str, ...] = ("light", "framing", "exposure", "randaugment")
    margin: float = 0.0
    aux: tuple[str, ...] = ("years",)  # for losses of groups; dldl learns years by itself
    drop: float = 0.3
    mixup: float = 0.8
    lr: float = 4e-4
    warmup_epochs: float = 0.3
    model_ema_decay: float = 0.998
    drop_ages: tuple[tuple[int, int], ...] = flag(
        (),
        "years to leave out of training, such as 57-59 28-29; validation keeps them",
        group="labels",
        parse=dataset.year_range,
        nargs="*",
        metavar="FROM-TO",
    )
    old_from: int = flag(
        60,
        "first year that training, not validation, labels as old",
        group="labels",
        parse=between(31, 120, int),
        metavar="YEARS",
    )

    label = staticmethod(dataset.label)
    own_augmentation = staticmethod(augmentation.augmentation)

    def train_label(self, face: Face) -> int | None:
        return dataset.label(face, self.old_from)

    def trains_on(self, face: Face) -> bool:
        return not any(first <= face.age <= last for first, last in self.drop_ages)

    @property
    def output_names(self) -> tuple[str, ...]:
        return self._year_names() if self.loss == "dldl" else self.classes

    @property
    def number_names(self) -> tuple[str, ...]:
        beside = self.loss != "dldl" and "years" in self.aux and self.bins != "auto"
        return self._year_names() if beside else ()

    def _year_names(self) -> tuple[str, ...]:
        first, last = self.years
        return tuple(map(str, range(first, last + 1)))

    @property
    def years(self) -> tuple[int, int]:
        """First and last year that dldl, or the auxiliary head of years, learns."""
        return YEAR_BINS if self.bins == "auto" else dataset.year_range(self.bins)

    def fitted(self, *tables: Collection[Person]) -> "AgeRecipe":
        people = [p for table in tables for p in table if p.age is not None]
        grouped = [person for person in people if not person.exact]
        if grouped:
            here = f"train.csv has an age group for {grouped[0].key}, not years"
            if self.drop_ages or self.old_from != AGE_BORDERS[-1]:
                raise UserError(f"--drop-ages, --old-from: {here}")
        bins = "{}-{}".format(*years_of(*tables)) if self.bins == "auto" else self.bins
        if self.loss != "dldl":
            learned = "years" in self.aux and not grouped
            return dataclasses.replace(self, bins=bins if learned else "auto")
        if people and len(grouped) == len(people):
            print(f"note: {here}: training on groups, with --loss cross_entropy")
            return dataclasses.replace(self, loss="cross_entropy", bins="auto")
        if grouped:
            print(f"note: {here}; {len(grouped):,} of {len(people):,} people train the groups only")
        aux = tuple(name for name in self.aux if name != "years")
        return dataclasses.replace(self, bins=bins, aux=aux)

    def target(self, face: Face) -> int:
        """The class; for dldl the index of the year in `years`, or `outputs` plus the group."""
        if self.loss != "dldl":
            return self.train_label(face)
        if not face.person.exact:
            return self.class_target(self.label(face))
        years = max(face.age, AGE_BORDERS[-1]) if face.age >= self.old_from else face.age
        first, last = self.years
        return min(max(years, first), last) - first

    def class_target(self, index: int) -> int:
        return self.outputs + index if self.loss == "dldl" else index

    def target_class(self, targets: "Tensor") -> "Tensor":
        if self.loss != "dldl":
            return targets
        import torch

        borders = torch.tensor(AGE_BORDERS, device=targets.device)
        of_years = torch.bucketize(targets + self.years[0], borders, right=True)
        return torch.where(targets < self.outputs, of_years, targets - self.outputs)

    def criterion(self, counts: Sequence[int]) -> "nn.Module":
        if self.loss != "dldl":
            return super().criterion(counts)
        from common.model.losses import GroupedLoss, LabelDistributionLoss

        years = LabelDistributionLoss(*self.years, self.sigma)
        return GroupedLoss(years, self._membership(), self.group_weight)

    def probabilities(self, logits: "Tensor") -> "Tensor":
        outputs = super().probabilities(logits)
        return outputs @ self._membership().to(outputs) if self.loss == "dldl" else outputs

    def true_number(self, face: Face) -> float | None:
        return face.age if face.person.exact else None

    def number(self, logits: "Tensor", temperature: float) -> "Tensor | None":
        if self.loss == "dldl":
            logits = logits / temperature
        elif self.number_names:
            logits = logits[:, self.outputs :]  # never scaled: the temperature is the groups'
        else:
            return None
        import torch

        chances = logits.softmax(dim=1).cumsum(dim=1)
        first, last = self.years
        years = torch.arange(first, last + 1, device=logits.device)
        expected = last - chances[:, :-1].sum(dim=1)  # the sum of each year's chance to be older
        ends = [years[(chances < end).sum(dim=1).clamp_max(last - first)] for end in (0.1, 0.9)]
        return torch.stack([expected, *(end.to(expected) for end in ends)], dim=1)

    def _membership(self) -> "Tensor":
        """(years, classes) matrix of 0 and 1: which year belongs to which group."""
        import torch

        first, last = self.years
        groups = torch.tensor([age_band(year) for year in range(first, last + 1)])
        return torch.nn.functional.one_hot(groups, len(self.classes)).float()

    def search_space(self) -> "dict[str, Callable[[Trial], Any]]":
        return {
            "loss": one_of("loss", ("cross_entropy", "focal", "cb_focal", "dldl")),
            "sigma": number("sigma", 1, 6),
            "group_weight": number("group_weight", 0.1, 10, log=True),
        }
