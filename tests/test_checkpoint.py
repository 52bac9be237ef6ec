"""A checkpoint describes itself; what else is given for one is in tests/bad_inputs.md."""

import dataclasses
import hashlib
import io
import math
import pickle
import platform
import random
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import torch

from age.recipe import AgeRecipe
from common.base.errors import UserError
from common.inference.ensemble import load_ensemble
from common.model import checkpoint
from common.model.loaded import load
from common.model.weights import create_classifier
from mask.recipe import MaskRecipe
from tests.payloads import PAYLOADS, Canary, seal

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
    loaded = load(saved, AgeRecipe)
    assert loaded.recipe == AgeRecipe(**TINY, drop_ages=((57, 59),))
    assert loaded.card["split"] == SPLIT
    assert loaded.card["classes"] == ["<30", "30-59", ">=60"]
    photo = np.random.default_rng(0).integers(256, size=(80, 60, 3), dtype=np.uint8)
    images = torch.stack([loaded.transform(photo)])
    assert images.shape == (1, 3, 48, 48)
    assert images.dtype == torch.uint8
    probabilities = loaded.probabilities(images)
    assert probabilities.shape == (1, 3)
    assert probabilities.sum().item() == pytest.approx(1)


def test_photos_are_cropped_as_the_recipe_says():
    fields = {"margin": 0.5, "size": (96, 64), "center": (350, 244), "background": "grabcut"}
    spec = checkpoint.crop_spec(AgeRecipe(crop="eyes", **fields))
    assert fields.items() <= dataclasses.asdict(spec).items() and spec.method == "eyes"


def test_probabilities_are_calibrated(saved):
    content, logits = checkpoint.read(saved), torch.arange(101)[None] / 10
    decision = content["card"]["decision"] | {"temperature": 2.0}
    checkpoint.save(saved, content["card"] | {"decision": decision}, content["state_dict"])
    (model,) = load_ensemble(AgeRecipe, [saved], [1.0], "soft", torch.device("cpu")).models
    assert torch.equal(model.calibrated(logits), model.recipe.probabilities(logits / 2))


def test_a_model_goes_to_the_device_that_is_asked_for(saved):
    assert load(saved, AgeRecipe, "meta").model.mean.is_meta


def test_another_tasks_checkpoint_is_refused_by_name(saved):
    with pytest.raises(UserError, match=r"a\.pt: expected a mask checkpoint, got age$"):
        load(saved, MaskRecipe)


def test_it_opens_as_plain_data_and_is_not_run(saved):
    content = torch.load(saved, weights_only=True)
    assert set(content) == {"card", "state_dict"}


def test_it_is_an_archive_with_its_digest_as_the_comment(saved):
    data, comment = saved.read_bytes(), zipfile.ZipFile(saved).comment
    assert comment == b"sha256 " + hashlib.sha256(data[: -len(comment)]).hexdigest().encode()
    assert data[: -len(comment)].endswith(len(comment).to_bytes(2, "little"))


def test_what_a_training_needs_to_go_on_comes_back(saved, tmp_path):
    content = checkpoint.read(saved)
    training = {"epoch": 3, "random": {"numpy": [1, 2.5, None], "torch": torch.arange(4)}}
    checkpoint.save(tmp_path / "last.pt", content["card"], content["state_dict"], training)
    found = checkpoint.read(tmp_path / "last.pt")["training"]
    assert repr(found) == repr(training)


def test_damage_is_noticed(saved):
    """A changed bit anywhere is refused, and so is every shortened file."""
    whole = saved.read_bytes()
    rng = random.Random(0)
    for bit in [rng.randrange(8 * len(whole)) for _ in range(50)] + [0, 8 * len(whole) - 1]:
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        saved.write_bytes(flipped)
        with pytest.raises(UserError, match=r"a\.pt: "):
            load(saved, AgeRecipe)
    for length in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        saved.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"a\.pt: (not a checkpoint|damaged), or cut short"):
            load(saved, AgeRecipe)


def test_a_payload_runs_where_pickle_opens_it(saved, tmp_path):
    """Prove that payloads work, so that the next test can fail."""
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
        load(tmp_path / "x.pt", AgeRecipe)
    with pytest.raises(UserError, match=r"--weights .*x\.pt: not a file of weights"):
        create_classifier(AgeRecipe(**TINY, weights=tmp_path / "x.pt"))
    assert not canary.path.exists()


def test_no_two_contents_have_one_digest():
    two = torch.zeros(2)
    values = [
        None,
        True,
        1,
        1.0,
        12,
        "1",
        "",
        [],
        {},
        [1],
        [2],
        [1, 2],
        [2, 1],
        [12],
        [[1], 2],
        [[1, 2]],
        {"a": 1},
        {"a": 2},
        {"b": 1},
        {"a": {}},
        {"a": {}, "b": 1},
        {"a": {"b": 1}},
        two,
        two + 1,
        two[None],
        two.int(),
        two.double(),
        torch.zeros(3),
        [two],
        {"a": two},
    ]
    contents = [{"card": {"x": value}} for value in values]
    contents += [{"card": {}}, {"card": {}, "training": {}}, {"card": {}, "state_dict": {}}]
    assert len({checkpoint.content_digest(content) for content in contents}) == len(contents)
    assert checkpoint.content_digest({"card": {"sha256": ""}}) == checkpoint.content_digest(
        {"card": {}}
    )


def test_another_detector_is_noticed(saved, monkeypatch):
    card = checkpoint.read(saved)["card"]
    assert not checkpoint.outdated_detector(card)
    monkeypatch.setattr("common.faces.detector.FIRST_PASS_SHARE", 0.5)
    assert checkpoint.outdated_detector(card)
    model, _ = create_classifier(whole := AgeRecipe(**TINY, crop="center"))
    assert not checkpoint.outdated_detector(
        checkpoint.make_card(whole, model, split=SPLIT, metrics={})
    )


def test_the_card_describes_its_file(saved):
    card = checkpoint.read(saved)["card"]
    assert (card["format"], card["task"], card["model"]) == (1, "age", "test_efficientnet")
    assert (card["outputs"], card["commit"]) == ([str(years) for years in range(101)], "")
    assert card["metrics"] == {"macro_f1": 0.5}
    assert card["preprocessing"]["size"] == [48, 48]
    assert card["preprocessing"]["mean"] == pytest.approx([0.485, 0.456, 0.406])
    assert card["preprocessing"]["std"] == pytest.approx([0.229, 0.224, 0.225])
    assert card["libraries"]["torch"] == torch.__version__.partition("+")[0]
    assert card["libraries"]["python"] == platform.python_version()
    assert datetime.now(UTC) - datetime.fromisoformat(card["created"]) < timedelta(minutes=5)
    assert dataclasses.asdict(load(saved, AgeRecipe).spec)["size"] == (48, 48)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"decision": {"temperature": math.nan}}, "temperature nan, expected a number above 0"),
        ({"decision": {"temperature": 0}}, "temperature 0, expected a number above 0"),
        ({"decision": {"temperature": True}}, "temperature True, expected a number above 0"),
        ({"decision": {"prior": [math.inf] * 3}}, "prior [inf, inf, inf], expected a number for"),
        ({"decision": {"prior": [0.5]}}, "prior [0.5], expected a number for each class"),
        ({"decision": {"offsets": [1]}}, "offsets [1], expected a number for each class"),
        ({"recipe": {"size": [2**20, 2**20]}}, "size [1048576, 1048576], expected height and"),
        ({"recipe": {"size": 3}}, "size 3, expected height and width from 1 to 4096 pixels"),
        ({"recipe": {"margin": 1e300}}, "margin 1e+300, expected a number from 0 to 10"),
        ({"preprocessing": {"std": [0, 1, 1]}}, "std [0, 1, 1], expected three numbers"),
        ({"preprocessing": {"mean": ["a"] * 3}}, "mean ['a', 'a', 'a'], expected three numbers"),
        ({"split": None}, "split None, expected names with values"),
        ({"task": "\x1b[31mage"}, "task '\\x1b[31mage', expected a word"),
        ({"classes": ["a" * 10**6, "b"]}, "classes ['aaaa"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_values_that_no_training_writes_are_refused_by_name(saved, change, reason) -> None:
    content = checkpoint.read(saved)
    card = dict(content["card"])
    for name, value in change.items():
        card[name] = card[name] | value if isinstance(value, dict) else value
    checkpoint.save(saved, card, content["state_dict"])
    with pytest.raises(UserError) as refused:
        checkpoint.read(saved)
    assert str(refused.value).startswith(f"{saved}: its card has {reason}")
    assert len(str(refused.value)) < 300


def test_a_tensor_larger_than_its_file_is_refused_before_it_is_copied(saved) -> None:
    content = checkpoint.read(saved)
    file, card = io.BytesIO(), content["card"]
    huge = content["state_dict"] | {"huge": torch.zeros(1).expand(4 * 10**9)}
    torch.save({"card": card, "state_dict": huge}, file)
    saved.write_bytes(file.getvalue())
    seal(saved)
    with pytest.raises(UserError, match="holds a tensor of 4000000000, more than a file of"):
        checkpoint.read(saved)


def test_a_packed_archive_that_grows_is_refused_before_it_is_unpacked(saved) -> None:
    with zipfile.ZipFile(saved, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.comment = b""
        archive.writestr("a/data/bomb", bytes(30_000_000))
    seal(saved)
    with pytest.raises(UserError, match=r"a\.pt: .* bytes that unpack to 3\d,\d{3},\d{3}"):
        checkpoint.read(saved)
