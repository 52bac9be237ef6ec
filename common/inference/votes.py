"""Choice of the models that vote, and of their weights, on people held out.

Greedy selection with replacement (Caruana et al. 2004, "Ensemble selection from libraries of
models"): model after model is added, each time the one with which the mean probabilities have the
lowest log loss. A model that is chosen twice has twice the weight. The log loss is used since macro
F1 jumps with single photos.
"""

import shlex
from collections.abc import Mapping, Sequence

import numpy as np

from common.base.errors import UserError
from common.inference.codes import Codes
from common.inference.ensemble import Ensemble
from common.inference.offsets import macro_f1
from common.inference.voting import soft_vote

MOST_MODELS = 20  # models to add at most: weights in steps of a twentieth
LEAST_PROBABILITY = 1e-12  # so that its logarithm is a number


def chosen_weights(by_model: np.ndarray, true: np.ndarray) -> list[int]:
    """How often each model is chosen, from (models, photos, classes) probabilities and classes.

    Of equally good models the first is chosen.
    """
    own = np.take_along_axis(by_model, true[None, :, None], axis=2)[..., 0]  # of the true class
    total, counts = np.zeros(own.shape[1]), np.zeros(len(own), int)
    best, weights = np.inf, counts
    for step in range(1, MOST_MODELS + 1):
        losses = -np.log(np.maximum((total + own) / step, LEAST_PROBABILITY)).mean(axis=1)
        chosen = int(losses.argmin())
        counts = counts + (np.arange(len(own)) == chosen)
        total = total + own[chosen]
        if losses[chosen] < best:
            best, weights = losses[chosen], counts
    return (weights // np.gcd.reduce(weights)).tolist()


def check_votes(ensembles: Mapping[str, Ensemble], parts: Sequence[Mapping[str, Ensemble]]) -> None:
    """Check that every model held out everyone who is scored.

    `parts` are the ensembles that score each part of the people.

    Raises:
        UserError: they held out different people.
    """
    for part in parts:
        if any(len(part[task].models) < len(e.models) for task, e in ensembles.items()):
            raise UserError(
                "--tune-votes: the models held out different people; give models of the same --fold"
            )


class Votes:
    """The choice among models of the same held-out people, and what it is worth.

    `by_model`: task → (models, photos, classes) probabilities; `true`: task → (photos,) classes;
    `parts`: (photos,) the part of each photo, with a person's photos in one.
    """

    def __init__(
        self,
        by_model: Mapping[str, np.ndarray],
        true: Mapping[str, np.ndarray],
        parts: np.ndarray,
        codes: Codes,
    ) -> None:
        good = np.isfinite(np.concatenate([p.sum(axis=2) for p in by_model.values()])).all(axis=0)
        self.by_model = {task: values[:, good] for task, values in by_model.items()}
        self.true = {task: values[good] for task, values in true.items()}
        self.parts, self.codes = parts[good], codes

    def weights(self, rows: np.ndarray | slice = slice(None)) -> dict[str, list[int]]:
        """Task → each model's weight, chosen on these photos."""
        return {
            task: chosen_weights(values[:, rows], self.true[task][rows])
            for task, values in self.by_model.items()
        }

    def merits(self) -> tuple[float, float]:
        """Macro F1 of the codes with equal votes, and with votes chosen on other people."""
        equal = {task: soft_vote(p, [1] * len(p)) for task, p in self.by_model.items()}
        chosen = {task: np.empty_like(values) for task, values in equal.items()}
        for part in np.unique(self.parts):
            mine = self.parts == part
            for task, weights in self.weights(~mine).items():
                chosen[task][mine] = soft_vote(self.by_model[task][:, mine], weights)
        return self._macro_f1(equal), self._macro_f1(chosen)

    def _macro_f1(self, means: Mapping[str, np.ndarray]) -> float:
        tasks = self.codes.classes
        true, given = (
            self.codes.encode([classes[task] for task in tasks])
            for classes in (self.true, {task: means[task].argmax(axis=1) for task in tasks})
        )
        return macro_f1(true, given, len(self.codes))

    def described(self, ensembles: Mapping[str, Ensemble], people: int) -> str:
        """What the choice is worth, and the flags that vote so."""
        equal, chosen = self.merits()
        flags = []
        for task, weights in self.weights().items():
            files = [str(model.path) for model in ensembles[task].models]
            kept = [(file, w) for file, w in zip(files, weights, strict=True) if w]
            flags += [f"--{task}", *(file for file, _ in kept)]
            if len({weight for _, weight in kept}) > 1:
                flags += [f"--{task}-weights", *(str(weight) for _, weight in kept)]
        return (
            f"{len(self.codes)} codes macro F1: equal votes {equal:.4f}, chosen {chosen:.4f} (votes "
            f"chosen for each fifth of the people on the other four)\n"
            f"chosen on all {people:,} people: {shlex.join(flags)}"
        )
