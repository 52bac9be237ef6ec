"""Explanations of predictions: Grad-CAM heat maps beside the crop.

Grad-CAM (Selvaraju et al. 2017), by Captum, on the backbone's last feature map. Each place of the
map is weighted by how its features raise the log-odds of the predicted class. Unlike a logit,
log-odds compare with the other classes, and unlike a probability they don't saturate where a
network is confident.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import torch
from captum.attr import LayerAttribution, LayerGradCam
from PIL import Image, ImageDraw, ImageFont
from torch import nn

from common.base.errors import UserError, printable
from common.base.progress import progress
from common.data.dataset import to_tensor
from common.data.loading import crop_all
from common.faces.crop import FACE_METHODS, Cropped, CropSpec
from common.inference.annotate import save_copy
from common.inference.codes import Codes
from common.inference.ensemble import Ensemble, all_models
from common.inference.options import PredictSettings
from common.inference.predictions import Predictions
from common.inference.predictor import LOADED, crop_specs
from common.model.loaded import LoadedModel

INFERNO = matplotlib.colormaps["inferno"]  # brightness grows evenly, also for the colour-blind
HEAT = 0.5  # opacity of the colours over the grey crop
PANEL_HEIGHT = 256  # px of a panel's height
GAP, TEXT, LINE = 8, 16, 21  # px: between panels, of letters, from a line of text to the next
BAR = 120  # px of the colour scale
SCALE = "no effect", "raises the prediction most"
HIGHEST = 65_000  # px of a JPEG
NOWHERE = "no part of the crop raises it"  # but, say, the class's frequency in training

Panel = tuple[np.ndarray, Sequence[str]]  # (height, width, 3) uint8 RGB, and lines of text below


class Evidence(nn.Module):
    """The part of a network after its last feature map, which `features` returns.

    Input (photos, channels, height, width), output (photos, classes) log-odds.
    """

    def __init__(self, model: LoadedModel) -> None:
        super().__init__()
        self.loaded, self.backbone = model, model.model.backbone
        self.channels_last = getattr(self.backbone, "output_fmt", "NCHW") == "NHWC"  # as Swin's
        self.map = nn.Identity()  # the layer for Captum

    @torch.no_grad()
    def features(self, images: torch.Tensor) -> torch.Tensor:
        """(photos, 3, height, width) uint8 RGB → (photos, channels, rows, columns).

        A backbone without a feature map returns another shape, or no tensor.
        """
        classifier = self.loaded.model
        features = self.backbone.forward_features(
            classifier.normalised(images.to(classifier.device))
        )
        return features.permute(0, 3, 1, 2) if self.channels_last else features

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        features = self.map(features)
        own = features.permute(0, 2, 3, 1) if self.channels_last else features
        return log_odds(self.loaded.calibrated(self.backbone.forward_head(own)))


def log_odds(probabilities: torch.Tensor) -> torch.Tensor:
    """(photos, classes) probabilities → log-odds of each class against all others together."""
    rest = 1 - torch.eye(probabilities.shape[1]).to(probabilities)
    others = probabilities @ rest  # 1 - probability would round to 0
    smallest = torch.finfo(probabilities.dtype).tiny
    return probabilities.clamp_min(smallest).log() - others.clamp_min(smallest).log()


def check_explainable(ensembles: Mapping[str, Ensemble]) -> None:
    """Check that every model has a feature map that a heat map could show.

    Raises:
        UserError: a model has none.
    """
    for model in all_models(ensembles):
        features = Evidence(model).features(torch.zeros(1, 3, *model.spec.size, dtype=torch.uint8))
        shape = getattr(features, "shape", ())
        if len(shape) != 4 or shape[2:].numel() < 2:
            raise UserError(
                f"--explain: {model.path}: {model.recipe.model} at {model.spec.size[0]} x "
                f"{model.spec.size[1]} has no feature map before its last layer; convolutional "
                "networks and Swin have one"
            )


def heat_map(ensemble: Ensemble, crop: np.ndarray, predicted: int) -> np.ndarray:
    """Map what raises class `predicted` in a (height, width, 3) uint8 RGB crop: (height, width).

    The models' weighted mean, scaled to a maximum of 1; 0 everywhere if nothing raises the class.
    """
    maps = [_scaled(_heat(model, crop, predicted)) for model in ensemble.models]
    return _scaled(np.average(maps, axis=0, weights=ensemble.weights))


def _heat(model: LoadedModel, crop: np.ndarray, predicted: int) -> np.ndarray:
    evidence = Evidence(model)
    features = evidence.features(to_tensor(crop)[None]).requires_grad_()
    method = LayerGradCam(evidence, evidence.map)
    coarse = method.attribute(features, target=predicted, relu_attributions=True)
    fine = LayerAttribution.interpolate(coarse.detach(), crop.shape[:2], "bilinear")
    return fine[0, 0].cpu().numpy()


def _scaled(heat: np.ndarray) -> np.ndarray:
    highest = heat.max()
    return heat / highest if highest > 0 else np.zeros_like(heat)


def explain_all(
    files: Sequence[Path],
    paths: Sequence[Path],
    explainer: "Explainer",
    settings: PredictSettings,
) -> int:
    """Write a picture of each predicted photo to its file; returns how many.

    Each task of a face is a row: the crop and its heat map. Photos are cropped
    again, from the cache, so that any number of them takes the memory of a few.
    """
    predictions = explainer.predictions
    rows = predictions.by_photo(len(paths))
    wanted = [place for place, of_photo in enumerate(rows) if set(of_photo) - set(predictions.bad)]
    batches = crop_all(
        [paths[place] for place in wanted],
        [crop.spec for crop in explainer.crops],
        settings.cache_dir,
        workers=settings.workers,
        batch_size=LOADED,
        every_face=settings.every_face,
    )
    written = 0
    with progress(len(wanted), "explain", "photos", disable=len(wanted) < 2) as bar:
        for place, item in zip(wanted, itertools.chain.from_iterable(batches), strict=True):
            if not isinstance(item, str):  # otherwise it was removed since it was predicted
                crops = item if isinstance(item, tuple) else (item,)
                image = titled(picture(list(explainer.rows(rows[place], crops))), paths[place].name)
                save_copy(image, files[place])
                written += 1
            bar.update(1)
    return written


@dataclasses.dataclass(frozen=True)
class CropModels:
    """A kind of crop, and the models of each task that take it."""

    spec: CropSpec
    ensembles: Mapping[str, Ensemble]


class Explainer:
    """Makes rows of panels that explain `predictions`."""

    def __init__(
        self, predictions: Predictions, ensembles: Mapping[str, Ensemble], codes: Codes
    ) -> None:
        self.predictions, self.ensembles, self.codes = predictions, ensembles, codes
        self.numbers = predictions.face_numbers()
        self.crops = [CropModels(spec, self._taking(spec)) for spec in crop_specs(ensembles)]

    def _taking(self, spec: CropSpec) -> dict[str, Ensemble]:
        taking = {
            task: ensemble.only([model.spec == spec for model in ensemble.models])
            for task, ensemble in self.ensembles.items()
        }
        return {task: ensemble for task, ensemble in taking.items() if ensemble.models}

    def rows(self, rows: Sequence[int], crops: Sequence[Cropped]) -> Iterator[list[Panel]]:
        """Yield a row of panels for each face of a photo and each task: crop, map.

        The photo's predictions are in `rows`. Models of one task with other crops have a row each.
        """
        for row, crop in zip(rows, crops, strict=True):
            if row not in self.predictions.bad:
                number = self.numbers[row] if len(rows) > 1 else None
                pairs = list(zip(self.crops, crop.images, strict=True))
                for task in self.ensembles:
                    for models, image in pairs:
                        if task in models.ensembles:
                            yield self._panels(row, number, task, models, image)

    def _panels(
        self, row: int, number: int | None, task: str, models: CropModels, image: np.ndarray
    ) -> list[Panel]:
        ensemble = models.ensembles[task]
        predicted = int(self.predictions.classes[task][row])
        probability = self.predictions.probabilities[task][row, predicted]
        count, of = len(ensemble.models), len(self.ensembles[task].models)
        part = f" ({count} of {of} models)" if count < of else ""
        words = [f"{task}{part}", f"{self.codes.tasks[task][predicted]} {probability:.1%}"]
        heat = heat_map(ensemble, image, predicted)
        return [
            (image, crop_words(models.spec, self.predictions.detected[row], number)),
            (overlay(image, heat), words if heat.any() else [*words, NOWHERE]),
        ]


def crop_words(spec: CropSpec, detected: bool | None, number: int | None) -> list[str]:
    """Describe a crop: a face, its `number` among several, or the reason for another part."""
    if spec.method not in FACE_METHODS:
        return ["whole photo" if spec.method == "none" else "centre crop"]
    if not detected:
        return ["centre crop:", "no face detected"]
    return ["face" if number is None else f"face {number}"]


def overlay(crop: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Lay the colours of a (height, width) heat map over a (height, width, 3) uint8 RGB crop."""
    grey = np.asarray(Image.fromarray(crop).convert("L").convert("RGB"))
    return (HEAT * INFERNO(heat, bytes=True)[..., :3] + (1 - HEAT) * grey).round().astype(np.uint8)


def picture(rows: Sequence[Sequence[Panel]]) -> Image.Image:
    """Arrange rows of panels, each with its lines of text below, in an RGB image."""
    font = ImageFont.load_default(TEXT)
    scaled = [[(_panel(image), text) for image, text in row] for row in rows]
    widths = [
        math.ceil(max(max(image.width, *map(font.getlength, text)) for image, text in column))
        for column in zip(*scaled, strict=True)
    ]
    high = PANEL_HEIGHT + LINE * max(len(text) for row in rows for _, text in row) + GAP
    sheet = Image.new(
        "RGB", (sum(widths) + GAP * (len(widths) + 1), high * len(rows) + GAP), "white"
    )
    draw = ImageDraw.Draw(sheet)
    for number, row in enumerate(scaled):
        left, top = GAP, GAP + number * high
        for (image, text), width in zip(row, widths, strict=True):
            sheet.paste(image, (left, top))
            draw.multiline_text((left, top + PANEL_HEIGHT), "\n".join(text), "black", font)
            left += width + GAP
    sheet.thumbnail((HIGHEST, HIGHEST))  # a crowd in one photo
    return sheet


def titled(sheet: Image.Image, name: str) -> Image.Image:
    """Put the photo's `name` above a sheet of panels, and the scale of its colours below."""
    font = ImageFont.load_default(TEXT)
    width = max(sheet.width, math.ceil(font.getlength(SCALE[0] + SCALE[1])) + BAR + 4 * GAP)
    while font.getlength(name) > width - 2 * GAP:
        name = f"{name.removesuffix('…')[:-1]}…"
    image = Image.new("RGB", (width, sheet.height + 2 * (LINE + GAP)), "white")
    image.paste(sheet, (0, LINE + GAP))
    draw = ImageDraw.Draw(image)
    draw.text((GAP, GAP), printable(name), "black", font)
    left, top = GAP, image.height - LINE - GAP
    draw.text((left, top), SCALE[0], "black", font)
    left += math.ceil(font.getlength(SCALE[0])) + GAP
    steps = np.tile(np.linspace(0, 1, BAR), (TEXT, 1))
    image.paste(
        Image.fromarray(overlay(np.full((TEXT, BAR, 3), 128, np.uint8), steps)), (left, top)
    )
    draw.text((left + BAR + GAP, top), SCALE[1], "black", font)
    return image


def _panel(image: np.ndarray) -> Image.Image:
    size = round(PANEL_HEIGHT * image.shape[1] / image.shape[0]), PANEL_HEIGHT
    return Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
