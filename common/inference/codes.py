"""The answers of all tasks merged into one code, and back."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from common.inference.predictor import Answers


@dataclasses.dataclass(frozen=True)
class Codes:
    """Every combination of classes, counted from 0; those of the last task change fastest.

    `classes`: task → the names of its classes. len() is the number of codes.
    """

    classes: Mapping[str, Sequence[str]]

    @property
    def names(self) -> tuple[str, ...]:
        """The words of every code's classes, one code after another."""
        return tuple(" ".join(words) for words in itertools.product(*self.classes.values()))

    def __len__(self) -> int:
        return len(self.names)

    def encode(self, classes: Sequence["np.ndarray | int"]) -> "np.ndarray | int":
        """Class indices, one (or one array) per task in the tasks' order, to codes."""
        code = 0
        for words, index in zip(self.classes.values(), classes, strict=True):
            code = code * len(words) + index
        return code

    def decode(self, code: "np.ndarray | int") -> tuple["np.ndarray | int", ...]:
        """Codes to class indices in the tasks' order: the inverse of `encode`."""
        classes = []
        for words in reversed(self.classes.values()):
            classes.append(code % len(words))
            code = code // len(words)
        return tuple(reversed(classes))

    def of(self, answers: "Answers") -> "np.ndarray":
        """The code of every photo, (photos,); -1 where a photo is bad."""
        codes = self.encode([answers.classes(task) for task in self.classes])
        codes[list(answers.bad)] = -1
        return codes
