"""Networks: a timm backbone with its normalisation."""

from collections.abc import Callable, Sequence

import timm
import timm.data
import timm.models
import torch
from torch import nn

from common.base.errors import UserError, first_line, shortened, suggestion
from common.model.recipe import Recipe


class Classifier(nn.Module):
    """A backbone that takes raw pixels.

    Input: (photos, 3, height, width) RGB from 0 to 255, uint8 or float; output: (photos, outputs)
    logits. Normalisation is part of the module, so training, validation and prediction can't differ.
    `mean` and `std` are given for colours from 0 to 1.
    """

    def __init__(self, backbone: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.backbone = backbone
        shape = (1, 3, 1, 1)
        self.register_buffer("mean", torch.tensor(mean).view(shape) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(std).view(shape) * 255, persistent=False)

    @property
    def device(self) -> torch.device:
        """The device of the model, and of the images it takes."""
        return self.mean.device

    def normalised(self, images: torch.Tensor) -> torch.Tensor:
        """Normalise images for the backbone, to float32."""
        return (images.float() - self.mean) / self.std

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.backbone(self.normalised(images))


Create = Callable[..., nn.Module]  # timm.create_model, or something that is called like it


def create_backbone(
    recipe: Recipe, *, extra: int = 0, create: Create = timm.create_model
) -> nn.Module:
    """Create timm's model for `recipe`; `extra` outputs of its classifier come after the recipe's.

    Raises:
        UserError: timm has no model of that name, or it doesn't take images of that size.
    """
    check_model(recipe.model)
    try:
        return backbone_for(
            recipe.model,
            recipe.size,
            recipe.outputs + extra,
            drop=recipe.drop,
            stem_stride=recipe.stem_stride,
            create=create,
        )
    except (AssertionError, ValueError, RuntimeError) as error:
        raise UserError(unfit(recipe, error)) from None


def check_model(name: str, *, pretrained: bool = False) -> None:
    """Check that timm has the model `name`, and with `pretrained` also weights for it.

    Raises:
        UserError: it doesn't; the message names the nearest one that it has.
    """
    architecture, _, tag = name.partition(".")
    if not timm.is_model(name):
        near = suggestion(architecture, timm.list_models())
        raise UserError(f"--model {name}: timm {timm.__version__} has no such model{near}")
    tagged = timm.list_models(f"{architecture}.*", pretrained=True)
    if tag and name not in tagged:
        near = suggestion(name, tagged) or f"; it has {', '.join(tagged) or 'none'}"
        raise UserError(f"--model {name}: timm {timm.__version__} has no such weights{near}")
    if pretrained and not timm.is_model_pretrained(name):
        others = _with_weights(architecture)
        way = f"; {' and '.join(others)} has some" if others else ""
        raise UserError(
            f"--model {name} has no pretrained weights in timm{way}; --no-pretrained starts from "
            "random ones"
        )


def _with_weights(model: str) -> list[str]:
    """Find timm's names of the same network that have weights: efficientnet_b6 → tf_efficientnet_b6.

    A name of former releases has its weights' tag behind a dot today: b3_ns → b3.ns_jft_in1k.
    """
    former, _, tag = model.rpartition("_")
    current = timm.list_models(f"{former}.{tag}*", pretrained=True) if former else []
    prefixed = f"tf_{model}"
    alike = timm.is_model(prefixed) and timm.is_model_pretrained(prefixed)
    return current + ([prefixed] if alike else [])


def unfit(recipe: Recipe, error: Exception) -> str:
    """Describe a model's `error` over images of a size that it doesn't take, with one that it takes."""
    height, width = recipe.size
    fits = size_that_fits(recipe)
    return (
        f"--model {recipe.model} doesn't work with --size {height}x{width} "
        f"({shortened(first_line(error), 120)})"
        + (f"; --size {fits[0]}x{fits[1]} works" if fits else "")
    )


def size_that_fits(recipe: Recipe) -> tuple[int, int] | None:
    """The (height, width) next to the recipe's that its model takes; None where none is known."""
    cfg = timm.models.get_pretrained_cfg(recipe.model)
    own = tuple(cfg.input_size[1:]) if cfg is not None else recipe.size
    sizes = {own}
    for step in (16, 32, 56, 64, 14, 28, 128, 256):
        low, high = (tuple(max(1, s // step + n) * step for s in recipe.size) for n in (0, 1))
        nearest = tuple(max(1, round(s / step)) * step for s in recipe.size)
        sizes |= {low, high, nearest}

    def away(size: tuple[int, int]) -> int:
        return sum(abs(a - b) for a, b in zip(size, recipe.size, strict=True))

    return next((size for size in sorted(sizes, key=away) if _works(recipe, size)), None)


def _works(recipe: Recipe, size: tuple[int, int]) -> bool:
    """Return whether the model takes images of `size`; only shapes are computed, no values."""
    try:
        with torch.device("meta"):
            backbone = backbone_for(
                recipe.model, size, recipe.outputs, stem_stride=recipe.stem_stride
            )
            return backbone.train()(torch.empty(2, 3, *size)).ndim == 2
    except Exception:  # each architecture has its own
        return False


def backbone_for(
    name: str,
    size: tuple[int, int],
    outputs: int,
    *,
    drop: float = 0.0,
    stem_stride: int = 0,
    create: Create = timm.create_model,
) -> nn.Module:
    """Create timm's model `name` for images of `size`, (height, width) in pixels.

    A `stem_stride` of 0 keeps the model's own.

    Raises:
        RuntimeError: timm has no such model.
        UserError: the model doesn't begin with a convolution whose stride can be changed.
    """
    cfg = timm.models.get_pretrained_cfg(name)
    fixed = {"img_size": size} if cfg is not None and cfg.fixed_input_size else {}
    backbone = create(name, num_classes=outputs, drop_rate=drop, **fixed)
    if stem_stride:
        stem = backbone.get_submodule(stem_name(name)) if not fixed else None
        # With patches that don't overlap, another stride would skip pixels or repeat them.
        if not isinstance(stem, nn.Conv2d) or stem.kernel_size <= stem.stride:
            raise UserError(
                f"--stem-stride {stem_stride}: {name} doesn't begin with a convolution whose windows "
                "overlap, as MobileNet, EfficientNet and ResNet do; 0 keeps its stride"
            )
        stem.stride = (stem_stride, stem_stride)
    return backbone


def stem_name(model: str) -> str:
    """Name of the first convolution of timm's `model`; "" if there are several."""
    cfg = timm.models.get_pretrained_cfg(model)
    return cfg.first_conv if cfg is not None and isinstance(cfg.first_conv, str) else ""


def normalisation(recipe: Recipe, backbone: nn.Module) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and standard deviation of `recipe`'s normalisation, for colours from 0 to 1."""
    config = timm.data.resolve_model_data_config(backbone)
    means = {"imagenet": timm.data.IMAGENET_DEFAULT_MEAN, "none": (0.0,) * 3}
    stds = {"imagenet": timm.data.IMAGENET_DEFAULT_STD, "none": (1.0,) * 3}
    return (
        (means | {"model": config["mean"]}).get(recipe.mean[0], recipe.mean),
        (stds | {"model": config["std"]}).get(recipe.std[0], recipe.std),
    )


def classifier_tensors(backbone: nn.Module) -> set[str]:
    """Names of the tensors in a timm model's last layer, or layers."""
    classifier = backbone.get_classifier()
    layers = classifier if isinstance(classifier, (tuple, list)) else (classifier,)
    return {
        f"{name}.{tensor}"
        for name, module in backbone.named_modules()
        if any(module is layer for layer in layers)
        for tensor in module.state_dict()
    }
