"""The sources' single nets, trained by the same engine on the same crops, split and budget.

    python -m tests.benchmarks.baselines single  --loss focal --aug light …   S3's (S1's: --loss ce+f1)
    python -m tests.benchmarks.baselines heads   --aug light rotate …         S0's
    python -m tests.benchmarks.baselines years   --aug light …                three heads, age in years

They answer with one of 18 codes, so that their macro F1 is the 18-class score itself. `single` has
one output a code; `heads` has three heads (mask, gender, age) on one backbone and learns S0's sum of
class-balanced focal losses, in which age counts five times. `years` counts its three heads alike: one
training of it tells about all three tasks, which is what tests/benchmarks/ablation.py needs.
"""

import dataclasses
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar

from age.recipe import AgeRecipe
from combine import NAMES, TASKS, decode, encode
from common.data.layout import Face
from common.model.recipe import Recipe
from common.training.command import main

if TYPE_CHECKING:
    from albumentations import Compose
    from torch import Tensor, nn

SIZES = tuple(len(task.classes) for task in TASKS)
AGE = AgeRecipe(bins="0-100")
WEIGHTS = (1.0, 1.0, 5.0)  # S0's, in the order of TASKS


@dataclasses.dataclass(frozen=True, kw_only=True)
class SingleRecipe(Recipe):
    """One net, one output for each of the 18 codes: the shape of S1 and S3."""

    task: ClassVar[str] = "single"
    classes: ClassVar[tuple[str, ...]] = NAMES

    def label(self, face: Face) -> int | None:
        labels = [task().label(face) for task in TASKS]
        return None if None in labels else encode(labels)

    def own_augmentation(self) -> "Compose":
        import albumentations as A

        return A.Compose([A.HorizontalFlip(p=0.5)])


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeadsRecipe(SingleRecipe):
    """One net with three heads whose losses are added up: the shape of S0."""

    task: ClassVar[str] = "heads"
    loss: str = "cb_focal"

    @property
    def outputs(self) -> int:
        return sum(SIZES)

    def criterion(self, counts: Sequence[int]) -> "nn.Module":
        parts = [own_loss(self, counts, place) for place in range(len(TASKS))]
        return sum_of_losses(parts, SIZES, WEIGHTS, decode)

    def probabilities(self, logits: "Tensor") -> "Tensor":
        """The product of three softmaxes, in the order of the codes."""
        return joint([part.softmax(dim=1) for part in logits.float().split(SIZES, dim=1)])


@dataclasses.dataclass(frozen=True, kw_only=True)
class YearsRecipe(SingleRecipe):
    """One net with three heads that count alike: mask and gender by --loss, age from years."""

    task: ClassVar[str] = "years"
    sizes: ClassVar[tuple[int, ...]] = (*SIZES[:2], AGE.outputs)

    @property
    def outputs(self) -> int:
        return sum(self.sizes)

    def target(self, face: Face) -> int:
        return self.label(face) * AGE.outputs + AGE.target(face)

    def target_class(self, targets: "Tensor") -> "Tensor":
        return targets // AGE.outputs

    def criterion(self, counts: Sequence[int]) -> "nn.Module":
        parts = [own_loss(self, counts, 0), own_loss(self, counts, 1), AGE.criterion(counts)]
        return sum_of_losses(parts, self.sizes, (1.0,) * 3, self.targets)

    def targets(self, targets: "Tensor") -> "tuple[Tensor, ...]":
        """Each head's own target, of photos whose `target` is given."""
        return *decode(self.target_class(targets))[:2], targets % AGE.outputs

    def probabilities(self, logits: "Tensor") -> "Tensor":
        *others, years = logits.float().split(self.sizes, dim=1)
        return joint([*(part.softmax(dim=1) for part in others), AGE.probabilities(years)])


def joint(parts: "Sequence[Tensor]") -> "Tensor":
    """Every task's (photos, classes) probabilities → those of the codes, (photos, 18)."""
    shares = parts[0]
    for part in parts[1:]:
        shares = (shares[:, :, None] * part[:, None, :]).flatten(1)
    return shares


def own_loss(recipe: SingleRecipe, counts: Sequence[int], place: int) -> "nn.Module":
    """The --loss of the task at `place` in TASKS; `counts` are training photos per code."""
    from common.model.losses import make_loss

    classes = TASKS[place].classes
    photos = dict.fromkeys(classes, 0)
    for code, number in enumerate(counts):
        photos[classes[decode(code)[place]]] += number
    return make_loss(
        recipe.loss,
        photos,
        gamma=recipe.gamma,
        beta=recipe.beta,
        smoothing=recipe.smoothing,
        f1_weight=recipe.f1_weight,
    )


def sum_of_losses(
    parts: "Sequence[nn.Module]",
    sizes: Sequence[int],
    weights: Sequence[float],
    targets: "Callable[[Tensor], Sequence[Tensor]]",
) -> "nn.Module":
    """The weighted sum of the heads' losses, `parts`, on (photos, sum(sizes)) logits.

    `targets` turns a batch's targets into each head's.
    """
    import torch
    from torch import nn

    class HeadsLoss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleList(parts)

        def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            heads = zip(
                weights, self.parts, logits.split(sizes, dim=1), targets(labels), strict=True
            )
            return sum(weight * part(head, true) for weight, part, head, true in heads)

        def extra_repr(self) -> str:
            return f"weights {weights}"

    return HeadsLoss()


if __name__ == "__main__":
    kinds = {"single": SingleRecipe, "heads": HeadsRecipe, "years": YearsRecipe}
    if len(sys.argv) < 2 or sys.argv[1] not in kinds:
        sys.exit(__doc__)
    sys.exit(main(kinds[sys.argv[1]], sys.argv[2:]))
