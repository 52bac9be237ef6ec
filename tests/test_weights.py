"""First weights of a network: from the hub, a file or a resumed run, and the errors."""

import argparse
import dataclasses
import sys
import types
from pathlib import Path

import numpy as np
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
    words = (
        f" ({card['task']}, macro F1 0.5124, split 1f, fold 1 of 5 held out)"
        if card
        else ", under state_dict"
    )
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


def prefixed(prefix):
    return lambda tensors: {prefix + name: tensor for name, tensor in tensors.items()}


def timm_s_own(tensors):
    """The content that timm's train.py saves, with what it writes beside the weights."""
    args = argparse.Namespace(model=TINY.model, lr=0.1, data_dir=Path("data"))
    return {
        "epoch": 3, "arch": TINY.model, "state_dict": tensors, "optimizer": {"state": {}},
        "version": 2, "args": args, "metric": np.float64(71.2), "scores": np.zeros(3),
    }  # fmt: skip


FOREIGN = {
    "plain": (lambda t: t, ""),
    "half precision": (lambda t: {name: v.half() for name, v in t.items()}, ""),
    "timm's": (timm_s_own, ", under state_dict"),
    "Lightning's": (
        lambda t: {"state_dict": prefixed("model.")(t), "pytorch-lightning_version": "2.4"},
        ", under state_dict, without model. before the names",
    ),
    "DDP": (prefixed("module."), ", without module. before the names"),
    "compiled": (prefixed("_orig_mod."), ", without _orig_mod. before the names"),
    "both": (prefixed("module._orig_mod."), ", without module. and _orig_mod. before the names"),
    "two modules": (prefixed("net.encoder."), ", without net.encoder. before the names"),
    "model_state_dict": (
        lambda t: {"model_state_dict": t, "optimizer_state_dict": {"state": {0: t}}},
        ", under model_state_dict",
    ),
    "nested": (lambda t: {"a": {"b": {"weights": t}}}, ", under a.b.weights"),
    "EMA beside": (lambda t: {"model_ema": prefixed("x.")(t), "model": t}, ", under model"),
    "EMA alone": (lambda t: {"ema": t}, ", under ema"),
}


@pytest.mark.parametrize("old", [False, True], ids=["zip", "torch's old format"])
@pytest.mark.parametrize(("made", "words"), FOREIGN.values(), ids=FOREIGN)
def test_weights_as_others_save_them_are_read(tmp_path, made, words, old):
    source, _ = create_classifier(TINY)
    content = made(source.backbone.state_dict())
    torch.save(content, tmp_path / "w.pt", _use_new_zipfile_serialization=not old)
    model, origin = create_classifier(dataclasses.replace(TINY, weights=tmp_path / "w.pt"))
    own, theirs = model.backbone.conv_stem.weight, source.backbone.conv_stem.weight
    assert torch.allclose(own, theirs, atol=1e-3)
    assert origin.endswith(f"w.pt{words}, not classifier.bias, classifier.weight")


def test_settings_of_a_package_that_is_not_installed_are_passed_over(tmp_path, monkeypatch):
    module = types.ModuleType("pytorch_lightning.settings")
    module.Settings = type("Settings", (dict,), {"__module__": module.__name__})
    monkeypatch.setitem(sys.modules, "pytorch_lightning", types.ModuleType("pytorch_lightning"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    tensors = create_classifier(TINY)[0].backbone.state_dict()
    torch.save({"state_dict": tensors, "hparams": module.Settings(lr=1)}, tmp_path / "w.ckpt")
    monkeypatch.undo()
    _, origin = create_classifier(dataclasses.replace(TINY, weights=tmp_path / "w.ckpt"))
    assert "under state_dict" in origin


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (lambda t: t | {"conv_stem.weight": torch.zeros(1).expand(4 * 10**9)},
         "holds a tensor of 4000000000, more than a file of"),
        (lambda t: {name: v.to("meta") for name, v in t.items()}, "without values of its own"),
        (lambda t: {name: v[:1] for name, v in t.items() if v.ndim}, "have another shape, such as"),
        (lambda t: [1, 2], "holds no tensors by name"),
        (lambda t: {"args": argparse.Namespace(t=t)}, "holds no tensors by name"),
    ],
    ids=["stride of 0", "meta", "another width", "a list", "only settings"],
)  # fmt: skip
def test_weights_that_do_not_fit_are_refused_with_what_was_found(tmp_path, content, reason):
    torch.save(content(create_classifier(TINY)[0].backbone.state_dict()), tmp_path / "w.pt")
    with pytest.raises(UserError, match=rf"--weights .*w\.pt: .*{reason}"):
        create_classifier(dataclasses.replace(TINY, weights=tmp_path / "w.pt"))


@pytest.mark.parametrize("content", [None, b"no weights"])
def test_a_file_without_weights_is_refused(tmp_path, content):
    if content:
        (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(UserError, match=r"--weights .*w\.pt"):
        create_classifier(dataclasses.replace(TINY, weights=tmp_path / "w.pt"))
