"""First weights of a network: from the hub, a file or a resumed run, and the errors."""

import dataclasses

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from age.recipe import AgeRecipe
from common.base.errors import UserError
from common.model import checkpoint
from common.model.weights import create_classifier
from gender.recipe import GenderRecipe
from mask.recipe import MaskRecipe

TINY = MaskRecipe(model="test_efficientnet", size=(48, 48), pretrained=False)


def test_without_a_network_the_message_names_the_ways_out(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    before = constants.HF_HUB_OFFLINE
    with pytest.raises(UserError, match=r"(?s)efficientnet_b0.*--weights FILE.*--no-pretrained"):
        create_classifier(MaskRecipe(model="efficientnet_b0"))
    assert before == constants.HF_HUB_OFFLINE


def test_a_resumed_run_needs_neither_network_nor_weights(tmp_path):
    from_hub = dataclasses.replace(TINY, pretrained=True)
    for recipe in (from_hub, dataclasses.replace(TINY, weights=tmp_path / "gone.pt")):
        _, origin = create_classifier(recipe, resumed=True)
        assert origin == "weights of the run to be resumed"


def test_weights_of_another_task_fill_all_but_the_classifier(tmp_path):
    torch.manual_seed(0)
    source, _ = create_classifier(TINY)
    torch.save({"state_dict": source.backbone.state_dict()}, tmp_path / "m.pt")
    torch.manual_seed(1)
    recipe = GenderRecipe(model=TINY.model, size=TINY.size, weights=tmp_path / "m.pt")
    model, origin = create_classifier(recipe)
    assert torch.equal(model.backbone.conv_stem.weight, source.backbone.conv_stem.weight)
    assert model.backbone.classifier.out_features == 2
    assert "not classifier.bias, classifier.weight" in origin


@pytest.mark.parametrize(
    ("card", "taken"),
    [
        ({"task": "age", "classes": AgeRecipe.classes}, True),
        ({"task": "mask", "classes": AgeRecipe.classes}, False),
        ({"task": "age", "classes": ("young", "grown", "old")}, False),
        (None, False),
    ],
    ids=["its own", "another task's", "other classes", "unknown"],
)
@pytest.mark.parametrize("name", ["test_efficientnet", "test_resnet", "convnext_atto"])
def test_only_a_classifier_of_the_same_task_and_classes_is_taken(tmp_path, name, card, taken):
    """Even where another's has as many classes, as those of mask and age."""
    torch.manual_seed(0)
    recipe = AgeRecipe(model=name, size=(48, 48), pretrained=False)
    source = create_classifier(recipe)[0].backbone
    nn.init.ones_(source.get_classifier().bias)
    about = {"split": {"hash": "1f", "fold": 1, "folds": 5}, "metrics": {"macro_f1": 0.51239}}
    if card:
        about |= card | {"classes": list(card["classes"]), "format": checkpoint.FORMAT}
        checkpoint.save(tmp_path / "w.pt", about, source.state_dict())
    else:
        torch.save({"state_dict": source.state_dict()}, tmp_path / "w.pt")
    torch.manual_seed(1)
    model, origin = create_classifier(dataclasses.replace(recipe, weights=tmp_path / "w.pt"))
    head, theirs = model.backbone.get_classifier(), source.get_classifier()
    assert torch.equal(head.weight, theirs.weight) is taken
    own, total = model.backbone.state_dict(), len(source.state_dict())
    different = [key for key, v in source.state_dict().items() if not torch.equal(v, own[key])]
    assert len(different) == (0 if taken else 2)
    assert origin.startswith(f"{total - len(different)} of {total} tensors from {tmp_path}/w.pt")
    words = f" ({card['task']}, macro F1 0.5124, split 1f, fold 1 of 5 held out)" if card else ""
    assert origin.partition("w.pt")[2].partition(", not ")[0] == words


def test_weights_in_safetensors_have_no_card(tmp_path):
    torch.manual_seed(0)
    source, _ = create_classifier(TINY)
    save_file(source.backbone.state_dict(), tmp_path / "w.safetensors")
    recipe = dataclasses.replace(TINY, weights=tmp_path / "w.safetensors")
    model, origin = create_classifier(recipe)
    assert torch.equal(model.backbone.conv_stem.weight, source.backbone.conv_stem.weight)
    assert origin.endswith("w.safetensors, not classifier.bias, classifier.weight")


def test_weights_of_another_architecture_are_refused(tmp_path):
    other, _ = create_classifier(dataclasses.replace(TINY, model="test_resnet"))
    torch.save(other.backbone.state_dict(), tmp_path / "r.pt")
    with pytest.raises(UserError, match="holds another architecture"):
        create_classifier(dataclasses.replace(TINY, weights=tmp_path / "r.pt"))


@pytest.mark.parametrize("content", [None, b"no weights"])
def test_a_file_without_weights_is_refused(tmp_path, content):
    if content:
        (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(UserError, match=r"--weights .*w\.pt"):
        create_classifier(dataclasses.replace(TINY, weights=tmp_path / "w.pt"))
