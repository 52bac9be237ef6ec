"""The step before the long work: what doesn't fit is named, and nothing is changed by it."""

import dataclasses

import pytest
import torch

from common.base.errors import UserError
from common.model import trial
from common.model.weights import create_classifier
from mask.recipe import MaskRecipe

TINY = MaskRecipe(model="test_efficientnet", size=(48, 48), pretrained=False, batch_size=64)


def tried(recipe: MaskRecipe, photos: int = 1000) -> None:
    trial.trial_step(create_classifier(recipe)[0], recipe, photos)


@pytest.mark.parametrize(
    ("model", "size", "fits"),
    [
        ("test_vit", (100, 100), "96x96"),
        ("inception_v3", (64, 64), "80x80"),
        ("levit_128s", (100, 100), "96x96"),
    ],
)
def test_a_size_that_a_model_does_not_take_is_named_with_one_that_it_takes(model, size, fits):
    recipe = dataclasses.replace(TINY, model=model, size=size)
    height, width = size
    with pytest.raises(UserError) as refused:
        tried(recipe)
    text = str(refused.value)
    assert text.startswith(f"--model {model} doesn't work with --size {height}x{width} (")
    assert text.endswith(f"; --size {fits} works") and "\n" not in text
    side = int(fits.partition("x")[0])
    tried(dataclasses.replace(recipe, size=(side, side)))


@pytest.mark.parametrize("model", ["test_efficientnet", "test_vit"])
def test_the_step_leaves_the_network_and_the_seed_as_they_were(model):
    network, _ = create_classifier(dataclasses.replace(TINY, model=model, drop=0.3))
    network.eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    seed = torch.get_rng_state()
    trial.trial_step(network, TINY, 1000)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), seed) and not network.training
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_batch_that_needs_more_memory_than_there_is_is_refused_with_one_that_fits():
    recipe = dataclasses.replace(TINY, batch_size=10**8)
    with pytest.raises(
        UserError, match=r"--batch-size 100000000: a step .* --batch-size \d+ takes"
    ):
        tried(recipe, photos=10**9)
    tried(recipe, photos=100)  # there aren't more


def test_a_lack_of_memory_in_the_step_names_the_flags(monkeypatch):
    monkeypatch.setattr(trial, "amp_dtype", lambda _: (_ for _ in ()).throw(MemoryError))
    with pytest.raises(UserError, match="a batch of 64 photos needs more memory .*--batch-size 32"):
        tried(TINY)
