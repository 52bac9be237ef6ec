"""A checkpoint describes itself; what else is given for one is in tests/bad_inputs.md."""

import dataclasses
import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from age.recipe import AgeRecipe
from common.errors import UserError
from common.training import checkpoint
from common.training.model import create_classifier
from tests.payloads import PAYLOADS, Canary

TINY = {"model": "test_efficientnet", "size": (48, 48), "pretrained": False}
SPLIT = {"folds": 5, "fold": 0, "limit": None, "hash": "0" * 16, "held_out": ["000001-1_male"]}


@pytest.fixture
def saved(tmp_path) -> Path:
    """A real age checkpoint."""
    recipe = AgeRecipe(**TINY, drop_ages=((57, 59),))
    torch.manual_seed(0)
    model, _ = create_classifier(recipe)
    card = checkpoint.make_card(recipe, model, split=SPLIT, metrics={"macro_f1": 0.5})
    checkpoint.save(tmp_path / "a.pt", card, model.backbone.state_dict())
    return tmp_path / "a.pt"


def test_load_returns_model_transform_and_card(saved):
    loaded = checkpoint.load(saved, AgeRecipe)
    assert loaded.recipe == AgeRecipe(**TINY, drop_ages=((57, 59),))
    assert loaded.card["split"] == SPLIT
    assert loaded.card["classes"] == ["<30", "30-59", ">=60"]
    assert loaded.card["preprocessing"]["mean"] == pytest.approx([0.485, 0.456, 0.406], abs=0.1)
    photo = np.random.default_rng(0).integers(256, size=(80, 60, 3), dtype=np.uint8)
    images = torch.stack([loaded.transform(photo)])
    assert images.shape == (1, 3, 48, 48)
    assert images.dtype == torch.uint8
    probabilities = loaded.probabilities(images)
    assert probabilities.shape == (1, 3)
    assert probabilities.sum().item() == pytest.approx(1)


def test_it_opens_as_plain_data_and_is_not_run(saved):
    content = torch.load(saved, weights_only=True)
    assert set(content) == {"card", "state_dict"}


def test_damage_is_noticed(saved):
    """A changed bit anywhere is refused, and so is every shortened file."""
    whole = saved.read_bytes()
    rng = random.Random(0)
    for bit in [rng.randrange(8 * len(whole)) for _ in range(50)] + [0, 8 * len(whole) - 1]:
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        saved.write_bytes(flipped)
        with pytest.raises(UserError, match=r"a\.pt: "):
            checkpoint.load(saved, AgeRecipe)
    for length in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        saved.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"a\.pt: (not a checkpoint|damaged), or cut short"):
            checkpoint.load(saved, AgeRecipe)


def test_a_payload_runs_where_pickle_opens_it(saved, tmp_path):
    """So that the next test can fail."""
    canary = Canary(tmp_path / "executed")
    PAYLOADS["a bare pickle"](saved, tmp_path / "x.pt", canary)
    pickle.loads((tmp_path / "x.pt").read_bytes())
    assert canary.path.exists()


@pytest.mark.parametrize("name", PAYLOADS)
def test_no_payload_is_executed(saved, tmp_path, name):
    """tests/benchmarks/torture.py takes them through every command."""
    canary = Canary(tmp_path / "executed")
    PAYLOADS[name](saved, tmp_path / "x.pt", canary)
    with pytest.raises(UserError, match=r"x\.pt: not a checkpoint"):
        checkpoint.load(tmp_path / "x.pt", AgeRecipe)
    with pytest.raises(UserError, match=r"--weights .*x\.pt: not a file of weights"):
        create_classifier(AgeRecipe(**TINY, weights=tmp_path / "x.pt"))
    assert not canary.path.exists()


def test_a_file_without_a_seal_is_checked_by_its_content(saved):
    """As earlier versions wrote it."""
    content = torch.load(saved, weights_only=True)
    torch.save(content, saved)
    assert checkpoint.read(saved)["card"] == content["card"]
    content["state_dict"]["conv_stem.weight"][0] += 1
    torch.save(content, saved)
    with pytest.raises(UserError, match="the age checkpoint's digest doesn't match"):
        checkpoint.read(saved)


def test_another_detector_is_noticed(saved, monkeypatch):
    card = checkpoint.read(saved)["card"]
    assert not checkpoint.outdated_detector(card)
    monkeypatch.setattr("common.data.detector.FIRST_LOOK_SHARE", 0.5)
    assert checkpoint.outdated_detector(card)


def test_the_card_says_which_file_it_is(saved):
    card = checkpoint.read(saved)["card"]
    assert card["libraries"]["torch"] == torch.__version__.partition("+")[0]
    assert dataclasses.asdict(checkpoint.load(saved, AgeRecipe).spec)["size"] == (48, 48)
