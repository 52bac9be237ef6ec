"""The sources' single nets, trained by the same engine on the same crops, split and budget.

    python -m tests.benchmarks.baselines single  --loss focal --aug light …   S3's (S1's: --loss ce+f1)
    python -m tests.benchmarks.baselines heads   --aug light rotate …         S0's

Both answer with one of 18 codes, so that their macro F1 is the 18-class score itself. `single` has
one output a code; `heads` has three heads (mask, gender, age) on one backbone and learns S0's sum of
class-balanced focal losses, in which age counts five times.
"""

import dataclasses
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from combine import NAMES, TASKS, decode, encode
from common.cli import main
from common.data.layout import Face
from common.recipe import Recipe

if TYPE_CHECKING:
    from albumentations import Compose
    from torch import Tensor, nn

SIZES = tuple(len(task.classes) for task in TASKS)
WEIGHTS = (1.0, 1.0, 5.0)  # S0's, in the order of TASKS


@dataclasses.dataclass(frozen=True, kw_only=True)
class SingleRecipe(Recipe):
    """One net, one output for each of the 18 codes: the shape of S1 and S3."""

    task: ClassVar[str] = "single"
    classes: ClassVar[tuple[str, ...]] = NAMES

    def label(self, face: Face) -> int:
        return encode([task().label(face) for task in TASKS])

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
        return heads_loss(self, counts)

    def probabilities(self, logits: "Tensor") -> "Tensor":
        """The product of three softmaxes, in the order of the codes."""
        shares = logits.new_ones(len(logits), 1).float()
        for part in logits.float().split(SIZES, dim=1):
            shares = (shares[:, :, None] * part.softmax(dim=1)[:, None, :]).flatten(1)
        return shares


def heads_loss(recipe: HeadsRecipe, counts: Sequence[int]) -> "nn.Module":
    """The weighted sum of every task's own loss, on (photos, 8) logits and (photos,) codes."""
    import torch
    from torch import nn

    from common.training.losses import make_loss

    def own(place: int) -> nn.Module:
        photos = dict.fromkeys(TASKS[place].classes, 0)
        for code, number in enumerate(counts):
            photos[TASKS[place].classes[decode(code)[place]]] += number
        return make_loss(
            recipe.loss, photos, gamma=recipe.gamma, beta=recipe.beta,
            smoothing=recipe.smoothing, f1_weight=recipe.f1_weight,
        )  # fmt: skip

    class HeadsLoss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleList(own(place) for place in range(len(TASKS)))

        def forward(self, logits: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
            heads = zip(WEIGHTS, self.parts, logits.split(SIZES, dim=1), decode(codes), strict=True)
            return sum(weight * part(head, true) for weight, part, head, true in heads)

        def extra_repr(self) -> str:
            return f"weights {WEIGHTS}"

    return HeadsLoss()


if __name__ == "__main__":
    kinds = {"single": SingleRecipe, "heads": HeadsRecipe}
    if len(sys.argv) < 2 or sys.argv[1] not in kinds:
        sys.exit(__doc__)
    sys.exit(main(kinds[sys.argv[1]], sys.argv[2:]))
