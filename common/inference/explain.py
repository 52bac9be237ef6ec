"""Where in a face an answer comes from: Grad-CAM heat maps beside the crop.

Grad-CAM (Selvaraju et al. 2017), by Captum, on the last map of features of the backbone. Each place
of the map is weighed by how its features raise the log-odds of the class that was answered. Unlike
a logit these are against the other classes, and unlike a probability they don't go flat where a
network is sure.
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

from common.base.errors import UserError
from common.base.files import whole_file
from common.base.progress import progress
from common.data.dataset import to_tensor
from common.data.loading import crop_all
from common.faces.crop import FACE_METHODS, Cropped, CropSpec
from common.inference.codes import Codes
from common.inference.ensemble import Ensemble, all_models
from common.inference.predictions import Predictions
from common.inference.predictor import LOADED, crop_specs
from common.model.loaded import LoadedModel

COLOURS = matplotlib.colormaps["inferno"]  # as bright as the map is high, to any eye
HEAT = 0.5  # share of the colours in an overlay; the rest is the crop in grey
SIDE = 256  # px of a panel's height
GAP, TEXT, LINE = 8, 16, 21  # px: between panels, of letters, from a line of text to the next
HIGHEST = 65_500  # px of a JPEG
QUALITY = 92
NOWHERE = "no place speaks for it"  # but, say, how frequent the class was in training

Panel = tuple[np.ndarray, Sequence[str]]  # (height, width, 3) uint8 RGB, and lines of text below


class Evidence(nn.Module):
    """What a network makes of its last map of features, which `features` returns.

    Input (photos, channels, height, width), output (photos, classes) log-odds.
    """

    def __init__(self, model: LoadedModel) -> None:
        super().__init__()
        self.loaded, self.backbone = model, model.model.backbone
        self.channels_last = getattr(self.backbone, "output_fmt", "NCHW") == "NHWC"  # as Swin's
        self.map = nn.Identity()  # what Captum looks at

    @torch.no_grad()
    def features(self, images: torch.Tensor) -> torch.Tensor:
        """(photos, 3, height, width) uint8 RGB → (photos, channels, rows, columns).

        Of a backbone that has no map: any other shape, or no tensor.
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


def log_odds(shares: torch.Tensor) -> torch.Tensor:
    """(photos, classes) probabilities → the logarithm of each against all others together."""
    others = shares @ (1 - torch.eye(shares.shape[1]).to(shares))  # 1 - share would round to 0
    smallest = torch.finfo(shares.dtype).tiny
    return shares.clamp_min(smallest).log() - others.clamp_min(smallest).log()


def check_explainable(ensembles: Mapping[str, Ensemble]) -> None:
    """UserError where a model's backbone has no map of features that a heat map could show."""
    for model in all_models(ensembles):
        features = Evidence(model).features(torch.zeros(1, 3, *model.spec.size, dtype=torch.uint8))
        shape = getattr(features, "shape", ())
        if len(shape) != 4 or shape[2:].numel() < 2:
            raise UserError(
                f"--explain: {model.path}: {model.recipe.model} at {model.spec.size[0]} x "
                f"{model.spec.size[1]} has no map of features before its last layer; convolutional "
                "networks and Swin have one"
            )


def heat_map(ensemble: Ensemble, crop: np.ndarray, chosen: int) -> np.ndarray:
    """Where a (height, width, 3) uint8 RGB crop speaks for class `chosen`: (height, width).

    The models' weighted mean, from 0 to 1 at its highest place; 0 everywhere if no place does.
    """
    maps = [_scaled(_heat(model, crop, chosen)) for model in ensemble.models]
    return _scaled(np.average(maps, axis=0, weights=ensemble.weights))


def _heat(model: LoadedModel, crop: np.ndarray, chosen: int) -> np.ndarray:
    evidence = Evidence(model)
    features = evidence.features(to_tensor(crop)[None]).requires_grad_()
    method = LayerGradCam(evidence, evidence.map)
    coarse = method.attribute(features, target=chosen, relu_attributions=True)
    fine = LayerAttribution.interpolate(coarse.detach(), crop.shape[:2], "bilinear")
    return fine[0, 0].cpu().numpy()


def _scaled(heat: np.ndarray) -> np.ndarray:
    highest = heat.max()
    return heat / highest if highest > 0 else np.zeros_like(heat)


def explain_all(
    files: Sequence[Path],
    paths: Sequence[Path],
    predictions: Predictions,
    ensembles: Mapping[str, Ensemble],
    codes: Codes,
    *,
    cache_dir: Path,
    workers: int,
    every_face: bool = False,
) -> int:
    """Write a picture of each photo that has an answer to its file; returns how many.

    A face is a row: each crop that models looked at, and beside it a heat map for each task. Photos
    are cropped again, from the cache, so that any number of them takes the memory of a few.
    """
    rows = predictions.by_photo(len(paths))
    wanted = [place for place, of_photo in enumerate(rows) if set(of_photo) - set(predictions.bad)]
    explainer = Explainer(predictions, ensembles, codes)
    batches = crop_all(
        [paths[place] for place in wanted], [view.spec for view in explainer.views], cache_dir,
        workers=workers, batch_size=LOADED, every_face=every_face,
    )  # fmt: skip
    written = 0
    with progress(len(wanted), "explain", "photos", disable=len(wanted) < 2) as bar:
        for place, item in zip(wanted, itertools.chain.from_iterable(batches), strict=True):
            if not isinstance(item, str):  # else it went away since
                crops = item if isinstance(item, tuple) else (item,)
                image = picture(list(explainer.rows(rows[place], crops)))
                with whole_file(files[place]) as stream:
                    image.save(stream, "JPEG", quality=QUALITY)
                written += 1
            bar.update(1)
    return written


@dataclasses.dataclass(frozen=True)
class View:
    """A crop that models look at, and of each task those that do."""

    spec: CropSpec
    ensembles: Mapping[str, Ensemble]


class Explainer:
    """Rows of panels about `answers`."""

    def __init__(
        self, predictions: Predictions, ensembles: Mapping[str, Ensemble], codes: Codes
    ) -> None:
        self.predictions, self.ensembles, self.codes = predictions, ensembles, codes
        self.numbers = predictions.face_numbers()
        self.views = [View(spec, self._looking(spec)) for spec in crop_specs(ensembles)]

    def _looking(self, spec: CropSpec) -> dict[str, Ensemble]:
        looking = {
            task: ensemble.only([model.spec == spec for model in ensemble.models])
            for task, ensemble in self.ensembles.items()
        }
        return {task: ensemble for task, ensemble in looking.items() if ensemble.models}

    def rows(self, rows: Sequence[int], crops: Sequence[Cropped]) -> Iterator[list[Panel]]:
        """The panels of one photo's faces, which have these `rows` of the predictions."""
        for row, crop in zip(rows, crops, strict=True):
            if row not in self.predictions.bad:
                number = self.numbers[row] if len(rows) > 1 else None
                views = zip(self.views, crop.images, strict=True)
                yield [panel for view in views for panel in self._panels(row, number, *view)]

    def _panels(
        self, row: int, number: int | None, view: View, crop: np.ndarray
    ) -> Iterator[Panel]:
        yield crop, crop_words(view.spec, self.predictions.detected[row], number)
        for task, ensemble in view.ensembles.items():
            chosen = int(self.predictions.classes[task][row])
            share = self.predictions.probabilities[task][row, chosen]
            models, of = len(ensemble.models), len(self.ensembles[task].models)
            part = f" ({models} of {of} models)" if models < of else ""
            words = [f"{task}{part}", f"{self.codes.classes[task][chosen]} {share:.1%}"]
            heat = heat_map(ensemble, crop, chosen)
            yield overlay(crop, heat), words if heat.any() else [*words, NOWHERE]


def crop_words(spec: CropSpec, found: bool | None, number: int | None) -> list[str]:
    """What a crop shows: a face, its `number` among several, or why not."""
    if spec.method not in FACE_METHODS:
        return ["whole photo" if spec.method == "none" else "centre crop"]
    if not found:
        return ["centre crop:", "no face found"]
    return ["face" if number is None else f"face {number}"]


def overlay(crop: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """A (height, width, 3) uint8 RGB crop in grey under the colours of a (height, width) heat map."""
    grey = np.asarray(Image.fromarray(crop).convert("L").convert("RGB"))
    return (HEAT * COLOURS(heat, bytes=True)[..., :3] + (1 - HEAT) * grey).round().astype(np.uint8)


def picture(rows: Sequence[Sequence[Panel]]) -> Image.Image:
    """An RGB image of rows of panels, each with its lines of text below."""
    font = ImageFont.load_default(TEXT)
    scaled = [[(_panel(image), text) for image, text in row] for row in rows]
    widths = [
        math.ceil(max(max(image.width, *map(font.getlength, text)) for image, text in column))
        for column in zip(*scaled, strict=True)
    ]
    high = SIDE + LINE * max(len(text) for row in rows for _, text in row) + GAP
    sheet = Image.new(
        "RGB", (sum(widths) + GAP * (len(widths) + 1), high * len(rows) + GAP), "white"
    )
    draw = ImageDraw.Draw(sheet)
    for number, row in enumerate(scaled):
        left, top = GAP, GAP + number * high
        for (image, text), width in zip(row, widths, strict=True):
            sheet.paste(image, (left, top))
            draw.multiline_text((left, top + SIDE), "\n".join(text), "black", font)
            left += width + GAP
    sheet.thumbnail((HIGHEST, HIGHEST))  # a crowd in one photo
    return sheet


def _panel(image: np.ndarray) -> Image.Image:
    size = round(SIDE * image.shape[1] / image.shape[0]), SIDE
    return Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
