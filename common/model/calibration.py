"""Probabilities that mean what they say: temperature scaling, and how far they are off.

Guo et al. 2017, "On Calibration of Modern Neural Networks": logits are divided by one number, the
temperature, that makes the held-out photos' true classes likeliest.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize_scalar

from common.data.layout import Face
from common.data.split import parts_by_person
from common.model.recipe import Recipe

RANGE = (0.05, 20.0)  # of temperatures; models that learned nothing would want an infinite one
PARTS = 5
BINS = 15  # of probabilities
Probabilities = Callable[[torch.Tensor], torch.Tensor]


def negative_log_likelihood(shares: torch.Tensor, true: torch.Tensor) -> float:
    """Mean of -log p(true class), from (photos, classes) probabilities and (photos,) indices."""
    return -shares.gather(1, true[:, None]).clamp_min(1e-12).log().mean().item()


def fit_temperature(
    logits: torch.Tensor, true: torch.Tensor, probabilities: Probabilities
) -> float:
    """The temperature that makes `true`, (photos,), likeliest; 1 without photos.

    `probabilities` turns (photos, outputs) logits into (photos, classes).
    """
    if not len(logits):
        return 1.0

    def loss(log_temperature: float) -> float:
        return negative_log_likelihood(probabilities(logits / math.exp(log_temperature)), true)

    bounds = tuple(map(math.log, RANGE))
    return round(math.exp(minimize_scalar(loss, bounds=bounds, method="bounded").x), 4)


def cross_fitted(
    logits: torch.Tensor, true: torch.Tensor, parts: torch.Tensor, probabilities: Probabilities
) -> torch.Tensor:
    """(photos, classes) probabilities, each part's by the temperature of the other parts.

    `parts` is (photos,); photos of one person are to be in the same part.
    """
    temperatures = torch.ones(len(logits), 1)
    for part in parts.unique():
        others = parts != part
        temperatures[~others] = fit_temperature(logits[others], true[others], probabilities)
    return probabilities(logits / temperatures)


def by_confidence(
    shares: np.ndarray, true: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each photo: its likeliest class's probability, whether that is right, and its bin.

    `shares` is (photos, classes); there are BINS of equal width.
    """
    sure = shares.max(axis=1)
    right = shares.argmax(axis=1) == true
    return sure, right, np.minimum((sure * BINS).astype(int), BINS - 1)


def expected_calibration_error(shares: np.ndarray, true: Sequence[int]) -> float:
    """How far the likeliest class's probability is from how often it is right: 0 to 1.

    The mean over photos of |probability - accuracy| in BINS of equal width (Guo et al. 2017).
    """
    sure, right, places = by_confidence(shares, np.asarray(true))
    return float(np.abs(np.bincount(places, weights=sure - right)).sum() / len(sure))


def training_prior(recipe: Recipe, counts: Sequence[int]) -> list[float]:
    """The share of each class in what training sees; `counts` are its photos."""
    if recipe.sampler.startswith("class"):  # drawn equally often
        counts = [1] * len(counts)
    return [count / sum(counts) for count in counts]


def make_decision(
    recipe: Recipe,
    counts: Sequence[int],
    faces: Sequence[Face],
    logits: torch.Tensor,
    temperature: float,
) -> dict[str, Any]:
    """How answers follow from logits, for the card: temperature, prior, calibration error.

    `faces` are the validation's and `logits` (photos, outputs) the model's answers. The error
    "after" is cross-fitted by person: no one's photos chose the temperature that they are judged
    by. `temperature` itself is of all photos, and `offsets` are not tuned yet.
    """
    true = torch.tensor([recipe.label(face) for face in faces])
    people = {face.person for face in faces}
    parts = torch.tensor(parts_by_person(faces, min(PARTS, len(people))))
    after = cross_fitted(logits, true, parts, recipe.probabilities)
    errors = (
        expected_calibration_error(shares.numpy(), true.numpy())
        for shares in (recipe.probabilities(logits), after)
    )
    return {
        "temperature": temperature,
        "prior": training_prior(recipe, counts),
        "ece": dict(zip(("before", "after"), errors, strict=True)),
        "offsets": None,
    }
