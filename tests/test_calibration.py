"""Temperature scaling: the right temperature is fitted, and its effect is measured on other people."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from age.recipe import AgeRecipe
from common.model.calibration import (
    cross_fitted,
    expected_calibration_error,
    fit_temperature,
    training_prior,
)
from common.model.loaded import load
from common.model.metrics import score
from tests.tiny import train_tiny

TEMPERATURES = st.floats(0.3, 4)


def simulated(recipe: AgeRecipe, rows: int = 4000) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, and true classes drawn from the probabilities that they stand for."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(rows, recipe.outputs, generator=generator)
    shares = recipe.probabilities(logits)
    return logits, torch.multinomial(shares, 1, generator=generator)[:, 0]


@pytest.mark.parametrize("loss", ["cross_entropy", "dldl"])
@settings(max_examples=20)
@given(temperature=TEMPERATURES)
def test_the_temperature_of_simulated_logits_is_fitted(loss, temperature):
    recipe = AgeRecipe(loss=loss)
    logits, true = simulated(recipe)
    found = fit_temperature(logits * temperature, true, recipe.probabilities)
    assert found == pytest.approx(temperature, rel=0.1)


def test_without_photos_logits_stay_as_they_are():
    recipe = AgeRecipe(loss="cross_entropy")
    none = torch.zeros(0, dtype=torch.long)
    assert fit_temperature(torch.zeros(0, 3), none, recipe.probabilities) == 1


def test_calibrated_probabilities_have_a_small_error_and_sharpened_ones_a_large():
    recipe = AgeRecipe(loss="cross_entropy")
    logits, true = simulated(recipe)
    errors = [
        expected_calibration_error(recipe.probabilities(logits * sharp).numpy(), true.numpy())
        for sharp in (1, 3)
    ]
    assert errors[0] < 0.03 and errors[1] > 0.1


def test_a_calibration_error_by_hand():
    """Three photos at .9, two of them right, and one at .5, wrong: |.9 - 2/3| * 3/4 + .5 / 4."""
    shares = np.array([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.5, 0.5]])
    expected = abs(0.9 - 2 / 3) * 3 / 4 + 0.5 / 4
    assert expected_calibration_error(shares, [0, 0, 1, 1]) == pytest.approx(expected)
    assert expected_calibration_error(np.array([[1.0, 0.0]]), [0]) == 0


def test_a_persons_own_photos_do_not_choose_the_temperature_that_judges_them():
    recipe = AgeRecipe(loss="cross_entropy")
    logits, true = simulated(recipe, 400)
    parts = torch.arange(400) % 4
    before = cross_fitted(logits, true, parts, recipe.probabilities)
    flipped = torch.where(parts == 2, (true + 1) % 3, true)
    after = cross_fitted(logits, flipped, parts, recipe.probabilities)
    assert torch.equal(before[parts == 2], after[parts == 2])
    assert not torch.equal(before[parts != 2], after[parts != 2])


def test_a_sampler_that_balances_the_classes_leaves_a_flat_prior():
    assert training_prior(AgeRecipe(), [6, 3, 1]) == [0.6, 0.3, 0.1]
    assert training_prior(AgeRecipe(sampler="class"), [6, 3, 1]) == [1 / 3] * 3


def test_training_ends_with_a_temperature_that_every_prediction_uses(data, tmp_path):
    """The words, the card, validation.csv and the loaded model agree on years summed to groups."""
    status, printed = train_tiny(AgeRecipe, data, tmp_path, "--epochs 1 --loss dldl --lr 3e-3")
    assert status == 0
    loaded = load(tmp_path / "a.pt", AgeRecipe)
    decision = loaded.decision
    error = decision["ece"]
    assert f"temperature {decision['temperature']:.3g}, expected calibration" in printed
    assert f"error {error['before']:.3f} → {error['after']:.3f}" in printed
    assert decision["temperature"] != 1 and sum(decision["prior"]) == pytest.approx(1)
    (file,) = (tmp_path / "runs" / "age").glob("*/validation.csv")
    table = pd.read_csv(file)
    shares = table[list(AgeRecipe.classes)].to_numpy()
    true = [AgeRecipe.classes.index(name) for name in table["true"]]
    assert score(true, shares.argmax(axis=1), 3).macro_f1 == pytest.approx(
        loaded.card["metrics"]["macro_f1"]
    )
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (2, 3, 48, 48), dtype=torch.uint8, generator=generator)
    expected = loaded.recipe.probabilities(loaded.logits(images) / decision["temperature"])
    assert torch.equal(loaded.probabilities(images), expected)
