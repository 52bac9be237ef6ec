"""Networks: normalisation, input size, stride of the stem, and names that don't exist."""

import dataclasses

import pytest
import torch
from torchvision.transforms.functional import normalize

from common.base.errors import UserError
from common.model.weights import create_classifier
from mask.recipe import MaskRecipe

TINY = MaskRecipe(model="test_efficientnet", size=(48, 48), pretrained=False)


def test_normalisation_is_torchvisions():
    model, origin = create_classifier(TINY)
    model.eval()
    images = torch.randint(256, (2, 3, 48, 48), dtype=torch.uint8)
    mean, std = model.mean.flatten() / 255, model.std.flatten() / 255
    expected = model.backbone(normalize(images / 255, mean.tolist(), std.tolist()))
    assert torch.allclose(model(images), expected, atol=1e-5)
    assert origin == "random weights"


def test_a_model_with_a_fixed_input_takes_another_size():
    model, _ = create_classifier(dataclasses.replace(TINY, model="test_vit", size=(64, 48)))
    assert model.eval()(torch.zeros(1, 3, 64, 48, dtype=torch.uint8)).shape == (1, 3)


@pytest.mark.parametrize(
    "model", ["test_efficientnet", "test_resnet", "tf_mobilenetv3_small_minimal_100"]
)
def test_a_stem_of_stride_1_sees_twice_as_fine_with_the_same_weights(model):
    own, finer = (
        create_classifier(dataclasses.replace(TINY, model=model, stem_stride=stride))[0].backbone
        for stride in (0, 1)
    )
    finer.load_state_dict(own.state_dict())
    images = torch.zeros(2, 3, 96, 64)
    rows, columns = own.eval().forward_features(images).shape[2:]
    assert finer.eval().forward_features(images).shape[2:] == (2 * rows, 2 * columns)


@pytest.mark.parametrize("model", ["test_vit", "convnext_atto", "fastvit_t8"])
def test_a_model_without_a_stem_of_windows_that_overlap_keeps_its_stride(model):
    with pytest.raises(UserError, match=f"--stem-stride 1: {model} doesn't begin with"):
        create_classifier(dataclasses.replace(TINY, model=model, stem_stride=1))


def test_near_names_are_offered():
    with pytest.raises(UserError, match="no such model; did you mean efficientnet_b3"):
        create_classifier(dataclasses.replace(TINY, model="efficientnet_b33"))
