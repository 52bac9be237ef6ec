"""Temperature scaling and calibration error (Guo et al. 2017).

Logits are divided by one number, the temperature, that maximises the likelihood of the held-out
photos' true classes.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize_scalar

from common.data.layout import Face
from common.data.split import parts_by_person
from common.model.recipe import Recipe

# Bounds of the temperature: the best one of an untrained model is infinite.
RANGE = (0.05, 20.0)
PARTS = 5  # folds of cross-fitting
BINS = 15  # of probabilities, as in Guo et al. 2017
ToProbabilities = Callable[[torch.Tensor], torch.Tensor]


def negative_log_likelihood(probabilities: torch.Tensor, true: torch.Tensor) -> float:
    """Mean of -log p(true class), from (photos, classes) probabilities and (photos,) indices."""
    return -probabilities.gather(1, true[:, None]).clamp_min(1e-12).log().mean().item()


def fit_temperature(
    logits: torch.Tensor, true: torch.Tensor, probabilities: ToProbabilities
) -> float:
    """Fit the temperature that maximises the likelihood of `true`, (photos,); 1 without photos.

    `probabilities` turns (photos, outputs) logits into (photos, classes) probabilities.
    """
    if not len(logits):
        return 1.0

    def loss(log_temperature: float) -> float:
        return negative_log_likelihood(probabilities(logits / math.exp(log_temperature)), true)

    bounds = tuple(map(math.log, RANGE))
    return round(math.exp(minimize_scalar(loss, bounds=bounds, method="bounded").x), 4)


def cross_fitted(
    logits: torch.Tensor, true: torch.Tensor, parts: torch.Tensor, probabilities: ToProbabilities
) -> torch.Tensor:
    """Calibrate each part's logits by a temperature fitted on the other parts.

    `parts` is (photos,), with all photos of a person in the same part. Returns (photos, classes)
    probabilities.
    """
    temperatures = torch.ones(len(logits), 1)
    for part in parts.unique():
        others = parts != part
        temperatures[~others] = fit_temperature(logits[others], true[others], probabilities)
    return probabilities(logits / temperatures)


def by_confidence(
    probabilities: np.ndarray, true: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Three (photos,) arrays: confidence, whether the prediction is right, and the bin.

    `probabilities` is (photos, classes); confidence is the predicted class's probability. There are
    BINS bins of equal width.
    """
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == true
    return confidence, right, np.minimum((confidence * BINS).astype(int), BINS - 1)


def expected_calibration_error(probabilities: np.ndarray, true: Sequence[int]) -> float:
    """Expected calibration error, from 0 to 1 (Guo et al. 2017).

    The mean over photos of |confidence - accuracy| in each bin; `probabilities` is (photos, classes).
    """
    confidence, right, bins = by_confidence(probabilities, np.asarray(true))
    return float(np.abs(np.bincount(bins, weights=confidence - right)).sum() / len(confidence))


def training_prior(recipe: Recipe, counts: Sequence[int]) -> list[float]:
    """Fraction of each class in training, by `sampler`; `counts` are training photos per class."""
    if recipe.sampler.startswith("class"):  # draws all classes equally often
        counts = [1] * len(counts)
    return [count / sum(counts) for count in counts]


@dataclasses.dataclass(frozen=True)
class Calibrated:
    """The predictions for the held-out photos after one epoch.

    `logits` are (photos, outputs), `targets` (photos,) class indices; `uncalibrated` and
    `probabilities` are (photos, classes), the latter of logits divided by `temperature`.
    """

    logits: torch.Tensor
    targets: torch.Tensor
    temperature: float
    uncalibrated: torch.Tensor
    probabilities: torch.Tensor


def calibrate(
    logits: torch.Tensor, targets: torch.Tensor, probabilities: ToProbabilities
) -> Calibrated:
    """Fit the temperature to (photos, outputs) logits and (photos,) targets, and apply it."""
    temperature = fit_temperature(logits, targets, probabilities)
    return Calibrated(
        logits, targets, temperature, probabilities(logits), probabilities(logits / temperature)
    )


def make_decision(
    recipe: Recipe, counts: Sequence[int], faces: Sequence[Face], found: Calibrated
) -> dict[str, Any]:
    """Describe for the card how classes follow from logits: temperature, prior, calibration error.

    `counts` are training photos per class, `faces` the held-out ones in the order of `found`. The
    error "after" is cross-fitted by person: no photo is judged by a temperature that it or another
    photo of its person was used for. `temperature` itself is fitted to all photos, and `offsets`
    are not tuned yet.
    """
    people = {face.person for face in faces}
    parts = torch.tensor(parts_by_person(faces, min(PARTS, len(people))))
    after = cross_fitted(found.logits, found.targets, parts, recipe.probabilities)
    errors = (
        expected_calibration_error(probabilities.numpy(), found.targets.numpy())
        for probabilities in (found.uncalibrated, after)
    )
    return {
        "temperature": found.temperature,
        "prior": training_prior(recipe, counts),
        "ece": dict(zip(("before", "after"), errors, strict=True)),
        "offsets": None,
    }
