"""The classes of several tasks merged into one code, and back."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from common.inference.predictions import Predictions


@dataclasses.dataclass(frozen=True)
class Codes:
    """Every combination of some tasks' classes, numbered from 0; len() is the number of codes."""

    classes: Mapping[str, Sequence[str]]
    """Task → names of its classes, of the tasks merged into the code; the last changes fastest."""
    others: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    """Task → names of its classes, of the tasks predicted beside the code."""

    @property
    def tasks(self) -> dict[str, Sequence[str]]:
        """Task → names of its classes, of all tasks that are predicted."""
        return {**self.classes, **self.others}

    @property
    def names(self) -> tuple[str, ...]:
        """The class names of every code, in order."""
        return tuple(" ".join(words) for words in itertools.product(*self.classes.values()))

    def __len__(self) -> int:
        return len(self.names)

    def encode(self, classes: Sequence["np.ndarray | int"]) -> "np.ndarray | int":
        """Class indices, one (or one array) for each task in order, to codes."""
        code = 0
        for words, index in zip(self.classes.values(), classes, strict=True):
            code = code * len(words) + index
        return code

    def decode(self, code: "np.ndarray | int") -> tuple["np.ndarray | int", ...]:
        """Codes to class indices, one for each task in order: the inverse of `encode`."""
        classes = []
        for words in reversed(self.classes.values()):
            classes.append(code % len(words))
            code = code // len(words)
        return tuple(reversed(classes))

    def of(self, predictions: "Predictions") -> "np.ndarray":
        """The code of every row, (rows,); -1 where it is bad."""
        codes = self.encode([predictions.classes[task] for task in self.classes])
        codes[list(predictions.bad)] = -1
        return codes
