"""Auxiliary heads: further labels that a network learns in training (Caruana 1997, "Multitask learning").

Several labels of a face train the backbone better than one. Each head adds output rows to the last
linear layer; they are dropped when a checkpoint is saved.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn
from torch.nn import functional as F

from common.base.errors import UserError
from common.data.layout import AGE_GROUPS, Face, age_band, years_of
from common.model.losses import LabelDistributionLoss
from common.model.network import classifier_tensors
from common.model.recipe import Recipe

YEARS = "years"
SIGMA = 3.0  # years; the default of --sigma
MOST_CLASSES = 50  # a column with more values is more likely an id than a class
UNLABELLED = -1  # target of a face without the label


@dataclasses.dataclass(frozen=True)
class Head:
    """One auxiliary head; `label` gives a face's target for `criterion`, or UNLABELLED."""

    name: str
    outputs: int
    label: Callable[[Face], int]
    criterion: nn.Module


def make_heads(recipe: Recipe, *tables: Sequence[Face]) -> list[Head]:
    """Make the heads that --aux names, for `tables`, each the faces of one data set.

    "years" is learned as a distribution, or as groups if the table has only those. Other names are
    attributes of `Face` or columns of the table, whose values are the classes. Years and attributes
    that are missing here, or the same for everyone, are left out with a note.

    Raises:
        UserError: a name is the task itself, or a column without 2 to MOST_CLASSES values.
    """
    if recipe.task in recipe.aux:
        raise UserError(f"--aux {recipe.task}: the model predicts it anyway")
    faces = [face for table in tables for face in table]
    absent = [name for name in recipe.aux if _absent(name, faces)]
    if absent:
        print(f"note: --aux {' '.join(absent)}: left out, the data have no two values of it")
    names = [name for name in recipe.aux if name not in absent]
    span = recipe.number_names if recipe.number_name == YEARS else ()
    return [_years(span, *tables) if name == YEARS else _classes(name, faces) for name in names]


def _absent(name: str, faces: Sequence[Face]) -> bool:
    if name == YEARS:
        return all(face.age is None for face in faces)
    attribute = isinstance(getattr(Face, name, None), property)
    return attribute and len({_value(face, name) for face in faces} - {""}) < 2


def _years(span: Sequence[str], *tables: Sequence[Face]) -> Head:
    """The head for years; `span` has those to learn, if the recipe says so."""
    faces = [face for table in tables for face in table]
    if all(face.person.exact for face in faces):
        people = ({face.person for face in table} for table in tables)
        first, last = (int(span[0]), int(span[-1])) if span else years_of(*people)
        # Without the error of the mean year, which would outweigh the task's own loss.
        complete = all(
            face.age is not None for face in faces
        )  # then no step waits for a GPU's mask
        loss = LabelDistributionLoss if complete else MaskedYearsLoss
        criterion = loss(first, last, SIGMA, expectation=0.0)
        return Head(YEARS, last - first + 1, functools.partial(_place, first, last), criterion)
    return Head(YEARS, len(AGE_GROUPS), _group, MaskedCrossEntropy())


def _place(first: int, last: int, face: Face) -> int:
    return UNLABELLED if face.age is None else min(max(face.age, first), last) - first


def _group(face: Face) -> int:
    return UNLABELLED if face.age is None else age_band(face.age)


def _classes(name: str, faces: Sequence[Face]) -> Head:
    values = sorted({_value(face, name) for face in faces} - {""})
    if not 2 <= len(values) <= MOST_CLASSES:
        columns = dict.fromkeys(c for face in faces for c in face.person.columns)
        raise UserError(
            f"--aux {name}: {len(values)} different values, 2 to {MOST_CLASSES} can be learned; "
            f"allowed are years, mask, gender and columns of train.csv ({', '.join(columns)})"
        )
    places: Mapping[str, int] = {value: place for place, value in enumerate(values)}
    return Head(
        name,
        len(values),
        lambda face: places.get(_value(face, name), UNLABELLED),
        MaskedCrossEntropy(),
    )


def _value(face: Face, name: str) -> str:
    """The attribute or cell `name` of `face`; "" if it is missing."""
    word = getattr(face, name, None)
    return word if isinstance(word, str) else face.person.columns.get(name, "").strip()


class MaskedCrossEntropy(nn.Module):
    """Cross entropy over the photos whose label isn't UNLABELLED; 0 without any."""

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        total = F.cross_entropy(logits, labels, ignore_index=UNLABELLED, reduction="sum")
        return total / (labels != UNLABELLED).sum().clamp_min(1)


class MaskedYearsLoss(LabelDistributionLoss):
    """Loss of years over the photos whose label isn't UNLABELLED; 0 without any."""

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        given = labels != UNLABELLED
        return super().forward(logits[given], labels[given]) if given.any() else 0 * logits.sum()


class AuxiliaryLoss(nn.Module):
    """The task's own loss plus `weight` times each head's loss.

    Takes (photos, own outputs + the heads' outputs) logits and (photos, 1 + heads) targets.
    """

    def __init__(self, own: nn.Module, outputs: int, heads: Sequence[Head], weight: float) -> None:
        super().__init__()
        self.sizes = [outputs, *(head.outputs for head in heads)]
        self.weight = weight
        self.own = own
        self.heads = nn.ModuleDict({head.name: head.criterion for head in heads})

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return torch.add(*self.parts(logits, targets))

    def parts(
        self, logits: torch.Tensor, targets: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the task's own loss, and what all heads add to it."""
        own, *others = logits.split(self.sizes, dim=1)
        heads = zip(self.heads.values(), others, targets.T[1:], strict=True)
        return self.own(own, targets[:, 0]), self.weight * sum(
            criterion(part, labels) for criterion, part, labels in heads
        )

    def extra_repr(self) -> str:
        return f"weight of each head: {self.weight}"


def saved_rows(recipe: Recipe, heads: Sequence[Head]) -> list[int]:
    """Rows of the classifier that a checkpoint keeps: the task's own, then the number's head's."""
    rows, start = list(range(recipe.outputs)), recipe.outputs
    for head in heads:
        if recipe.number_names and head.name == recipe.number_name:
            rows += range(start, start + head.outputs)
        start += head.outputs
    return rows


def without_heads(
    backbone: nn.Module, state: Mapping[str, torch.Tensor], rows: Sequence[int]
) -> dict[str, torch.Tensor]:
    """Copy the state dict of `backbone` with only these `rows` of its classifier."""
    names = classifier_tensors(backbone)
    return {k: v[list(rows)].clone() if k in names else v for k, v in state.items()}
