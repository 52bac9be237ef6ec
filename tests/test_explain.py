"""combine.py --explain: heat lies where the evidence is, and no prediction changes."""

import dataclasses
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import combine
from age.recipe import AgeRecipe
from common.base.errors import UserError
from common.data.split import make_split
from common.inference.decide import decide
from common.inference.ensemble import Ensemble
from common.inference.explain import (
    GAP,
    LINE,
    NOWHERE,
    PANEL_HEIGHT,
    Explainer,
    check_explainable,
    heat_map,
    log_odds,
    picture,
    titled,
)
from common.inference.options import PredictSettings
from common.inference.predictor import predict
from common.model import checkpoint
from common.model.checkpoint import crop_spec
from common.model.loaded import LoadedModel
from common.model.network import Classifier
from common.model.recipe import Recipe
from common.model.weights import create_classifier
from gender.recipe import GenderRecipe
from mask.recipe import MaskRecipe

TASKS = (MaskRecipe, GenderRecipe, AgeRecipe)
CELL = 8  # px


class ColourBackbone(nn.Module):
    """Its last map says how red, green and blue each cell is, the evidence for group 0, 1 and 2."""

    def __init__(self, head: torch.Tensor, output_fmt: str) -> None:
        super().__init__()
        self.head, self.output_fmt = nn.Parameter(head), output_fmt

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        others = images.sum(dim=1, keepdim=True) - images
        cells = F.avg_pool2d((images - others).clamp_min(0), CELL)
        return cells.permute(0, 2, 3, 1) if self.output_fmt == "NHWC" else cells

    def forward_head(self, features: torch.Tensor) -> torch.Tensor:
        dims = (1, 2) if self.output_fmt == "NHWC" else (2, 3)
        return features.mean(dim=dims) @ self.head

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(images))


def colour_model(loss: str = "focal", output_fmt: str = "NCHW", sure: float = 30.0) -> LoadedModel:
    """An age model that takes red for young, green for middle-aged and blue for old."""
    recipe = AgeRecipe(pretrained=False, crop="none", size=(64, 48), loss=loss)
    groups = recipe._membership().T if loss == "dldl" else torch.eye(3)
    backbone = ColourBackbone(sure * groups, output_fmt)
    model = Classifier(backbone, (0.0,) * 3, (1.0,) * 3).eval()
    card = {"decision": checkpoint.UNCALIBRATED}
    return LoadedModel(model, recipe, crop_spec(recipe), card, Path("x.pt"))


def patches(*cells: tuple[int, int], brightest: int | None = None) -> np.ndarray:
    """A dark (64, 48, 3) crop with a red, a green and a blue cell."""
    crop = np.full((64, 48, 3), 9, np.uint8)
    for channel, (row, column) in enumerate(cells):
        light = 120 if brightest not in (None, channel) else 200
        crop[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL, channel] = light
    return crop


CELLS = st.lists(
    st.tuples(st.integers(0, 7), st.integers(0, 5)), min_size=3, max_size=3, unique=True
)


@pytest.mark.parametrize("output_fmt", ["NCHW", "NHWC"])
@pytest.mark.parametrize("loss", ["focal", "dldl"])
@given(cells=CELLS, chosen=st.integers(0, 2), sure=st.floats(0.01, 1e4))
def test_heat_lies_on_the_cell_of_the_predicted_group(loss, output_fmt, cells, chosen, sure):
    """Also where the network is so sure that its probabilities are flat, and of years in groups."""
    ensemble = Ensemble((colour_model(loss, output_fmt, sure),), (1.0,))
    heat = heat_map(ensemble, patches(*cells, brightest=chosen), chosen)
    row, column = cells[chosen]
    assert heat.shape == (64, 48) and heat.min() >= 0 and heat.max() == 1
    assert np.unravel_index(heat.argmax(), heat.shape)[0] // CELL == row
    y, x = np.indices(heat.shape)
    near = (abs(y - row * CELL - 3.5) <= CELL) & (abs(x - column * CELL - 3.5) <= CELL)
    assert heat[near].sum() > 0.95 * heat.sum()


def test_a_class_without_evidence_has_no_heat():
    ensemble = Ensemble((colour_model(),), (1.0,))
    crop = patches((1, 1))  # red alone, so nothing is middle-aged
    assert heat_map(ensemble, crop, 0).max() == 1
    assert not heat_map(ensemble, crop, 1).any()


def test_heat_maps_are_averaged_by_weight_whatever_the_scale_of_logits():
    cells = (1, 1), (6, 4), (6, 0)
    loud, quiet = colour_model(sure=1000.0), colour_model(sure=0.1)
    with torch.no_grad():
        loud.model.backbone.head.copy_(loud.model.backbone.head.roll(-1, dims=0))  # blue for young
    heat = heat_map(Ensemble((loud, quiet), (1.0, 4.0)), patches(*cells), 0)
    red, blue = (heat[r * CELL : (r + 1) * CELL, c * CELL : (c + 1) * CELL].max()
                 for r, c in (cells[0], cells[2]))  # fmt: skip
    assert red == 1 and blue == pytest.approx(1 / 4, abs=0.01)


@given(st.lists(st.floats(-40, 40), min_size=2, max_size=4))
def test_log_odds_are_those_of_the_logits_and_keep_their_gradient(values):
    logits = torch.tensor([values], requires_grad=True)
    odds = log_odds(logits.softmax(dim=1))
    for chosen in range(len(values)):
        others = logits[0, [c for c in range(len(values)) if c != chosen]]
        expected = logits[0, chosen] - others.logsumexp(dim=0)
        assert odds[0, chosen].item() == pytest.approx(expected.item(), abs=1e-3)
        (gradient,) = torch.autograd.grad(odds[0, chosen], logits, retain_graph=True)
        assert gradient[0, chosen].item() == pytest.approx(1, abs=1e-3)


def random_model(recipe: type[Recipe], **fields: object) -> LoadedModel:
    own = recipe(**{"pretrained": False, "size": (64, 64)} | fields)
    torch.manual_seed(own.seed)
    model, _ = create_classifier(own)
    with torch.no_grad():
        model.backbone.get_classifier().weight.mul_(10)
    card = {"decision": checkpoint.UNCALIBRATED}
    return LoadedModel(model.eval(), own, crop_spec(own), card, Path(f"{own.model}.pt"))


@pytest.mark.parametrize("name", timm.list_models("test_*"))
def test_every_kind_of_backbone_has_a_heat_map_or_is_refused_by_name(name):
    size = (160, 160) if timm.models.get_pretrained_cfg(name).fixed_input_size else (96, 64)
    ensembles = {"any": Ensemble((random_model(MaskRecipe, model=name, size=size),), (1.0,))}
    if "vit" in name and name not in ("test_maxvit",):
        with pytest.raises(UserError, match=f"^--explain: {name}.pt: {name} at .* no feature map"):
            check_explainable(ensembles)
        return
    check_explainable(ensembles)
    crop = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    maps = [heat_map(ensembles["any"], crop, chosen) for chosen in range(3)]
    assert all(heat.shape == size and heat.min() >= 0 and heat.max() <= 1 for heat in maps)
    assert max(heat.max() for heat in maps) == 1 and len({heat.tobytes() for heat in maps}) > 1


# The pictures


@pytest.fixture(scope="module")
def street(faces, tmp_path_factory) -> Path:
    """A folder: a bad photo, two people in one, one person, and a wall."""
    folder = tmp_path_factory.mktemp("street")
    people = [cv2.imread(str(face.path)) for face in faces if face.view == "normal"]
    cv2.imwrite(str(folder / "one.png"), people[0])
    (folder / "deep").mkdir()
    cv2.imwrite(str(folder / "deep" / "pair.jpg"), np.hstack(people[1:3]))
    cv2.imwrite(str(folder / "wall.png"), np.full((80, 60, 3), 99, np.uint8))
    (folder / "bad.jpg").write_bytes(b"<html>")
    return folder


@pytest.fixture(scope="module")
def boxes(tmp_path_factory) -> Path:
    """A cache that these tests share."""
    return tmp_path_factory.mktemp("cache")


def test_a_row_names_the_prediction_and_the_crop(street, boxes):
    """The class that offsets chose, with its own map; voters of other crops beside theirs."""
    eyes, face = {"crop": "eyes"}, {"crop": "face", "size": (64, 48), "margin": 0.1}
    ensembles = {
        "mask": Ensemble(
            (random_model(MaskRecipe, model="test_efficientnet", **eyes),
             random_model(MaskRecipe, model="test_resnet", **face)), (1.0, 1.0)
        ),
        "age": Ensemble((random_model(AgeRecipe, model="test_mambaout", **face),), (1.0,)),
    }  # fmt: skip
    codes = combine.Codes({task.task: task.classes for task in (MaskRecipe, AgeRecipe)})
    paths = [street / "one.png", street / "wall.png"]
    output = predict(paths, ensembles, PredictSettings(cache_dir=boxes, workers=0))
    plain = decide(output, ensembles, {})
    other = (plain.classes["age"][0] + 1) % 3
    answers = decide(output, ensembles, {"age": 50.0 * np.eye(3)[other]})
    crops = list(np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8))
    shown = dataclasses.make_dataclass("Shown", ["images"])([crops[0], crops[1][:, :48]])
    rows = list(Explainer(answers, ensembles, codes).rows([0], [shown]))
    assert [len(row) for row in rows] == [2, 2, 2], "mask by each of its models, then age"
    row = [panel for part in rows for panel in part]
    words = [list(text) for _, text in row]
    mask = codes.classes["mask"][answers.classes["mask"][0]]
    share = answers.probabilities["mask"][0].max()
    age = f"{codes.classes['age'][other]} {answers.probabilities['age'][0, other]:.1%}"
    assert [text[0] for text in words] == [
        "face", "mask (1 of 2 models)", "face", "mask (1 of 2 models)", "face", "age",
    ]  # fmt: skip
    assert [text[1] for text in words if text[1:]] == [f"{mask} {share:.1%}"] * 2 + [age]
    assert [image.shape[1] for image, _ in row] == [64, 64, 48, 48, 48, 48]
    before = [p for part in Explainer(plain, ensembles, codes).rows([0], [shown]) for p in part]
    same = [np.array_equal(a, b) for (a, _), (b, _) in zip(row, before, strict=True)]
    assert same == [True, True, True, True, True, False]
    for row in Explainer(answers, ensembles, codes).rows([1], [shown]):
        assert row[0][1] == ["centre crop:", "no face detected"]


def test_a_panel_without_evidence_says_so(tmp_path, cache):
    red = tmp_path / "red.png"
    cv2.imwrite(str(red), patches((1, 1))[:, :, ::-1])
    ensembles = {"age": Ensemble((colour_model(),), (1.0,))}
    output = predict([red], ensembles, PredictSettings(cache_dir=cache, workers=0))
    answers = decide(output, ensembles, {"age": np.array([-50.0, 0, 0])})
    explainer = Explainer(answers, ensembles, combine.Codes({"age": AgeRecipe.classes}))
    shown = dataclasses.make_dataclass("Shown", ["images"])([patches((1, 1))])
    (((_, crop_words), (_, words)),) = explainer.rows([0], [shown])
    assert crop_words == ["whole photo"] and words[-1] == NOWHERE


@settings(max_examples=25)
@given(
    shape=st.tuples(st.integers(16, 300), st.integers(16, 300)),
    letters=st.integers(1, 40),
    rows=st.integers(1, 3),
)
def test_words_are_whole_and_crops_fill_their_panels(shape, letters, rows):
    """A long line widens its column; nothing is written outside, or over another panel."""
    height, width = shape
    grey = np.full((height, width, 3), 128, np.uint8)
    row = [(grey, ["face"]), (grey, ["x", "W" * letters])]
    image = np.asarray(picture([row] * rows)).astype(int)
    assert (image[:GAP] == 255).all()
    assert (image[:, 2 - GAP :] == 255).all(), "a W is a little wider than it says"
    wide = round(PANEL_HEIGHT * width / height)
    assert (image[GAP : GAP + PANEL_HEIGHT, GAP : GAP + wide] == 128).all()
    inked = np.flatnonzero((image[GAP + PANEL_HEIGHT :] < 100).any(axis=(0, 2)))
    assert inked.max() - inked.min() > 8 * letters


@pytest.mark.parametrize("name", ["a.jpg", "long " * 40 + ".jpg"])
def test_a_title_and_a_scale_stand_around_the_panels(name):
    grey = np.full((64, 64, 3), 128, np.uint8)
    sheet = picture([[(grey, ["face"]), (grey, ["mask", "wear 99%"])]])
    image = np.asarray(titled(sheet, name)).astype(int)
    above = (image.shape[0] - sheet.height) // 2
    assert (image[above : above + sheet.height, : sheet.width] == np.asarray(sheet)).all()
    assert (image[:above] < 100).any() and (image[:, 1 - GAP :] == 255).all()
    assert np.ptp(image[above + sheet.height :], axis=2).max() > 50, "the scale has colours"


# The command


@pytest.fixture(scope="module")
def models(faces, tmp_path_factory) -> Path:
    """m.pt, g.pt and a.pt, untrained, of unlike backbones and crops; v.pt, which has no map."""
    folder = tmp_path_factory.mktemp("models")
    split = make_split({face.person for face in faces}, folds=2, fold=0, limit=None)[1]
    for recipe, name, fields in (
        (MaskRecipe, "m", {"model": "test_efficientnet", "crop": "eyes"}),
        (GenderRecipe, "g", {"model": "test_mambaout", "crop": "face"}),
        (AgeRecipe, "a", {"model": "test_resnet", "crop": "eyes", "loss": "dldl"}),
        (MaskRecipe, "v", {"model": "test_vit", "crop": "face"}),
    ):
        loaded = random_model(recipe, **fields)
        card = checkpoint.make_card(loaded.recipe, loaded.model, split=split, metrics={})
        checkpoint.save(folder / f"{name}.pt", card, loaded.model.backbone.state_dict())
    return folder


def run(models: Path, boxes: Path, line: str, *words: str | Path) -> int:
    """combine.py with these models and flags; `words` may hold blanks."""
    files = [f"--{task.task}={models / task.task[0]}.pt" for task in TASKS]
    how = f"--device cpu --workers 0 --cache-dir {boxes}".split()
    return combine.main([*files, *how, *line.split(), *map(str, words)])


def pictures(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_pictures_are_written_and_predictions_stay(models, boxes, street, tmp_path, capsys):
    """Byte by byte, and the same pictures again, whatever else is asked about beside a photo."""
    line = f"--input {street} --allow-bad 1 --tta flip --workers 1 --output {tmp_path}/{{0}}.csv " \
           f"--probs {tmp_path}/{{0}}-p.csv"  # fmt: skip
    assert run(models, boxes, line.format("plain")) == 0
    assert run(models, boxes, f"{line.format('seen')} --explain {tmp_path / 'maps'}") == 0
    assert f"3 photos explained → {tmp_path / 'maps'}" in capsys.readouterr().out
    for end in (".csv", "-p.csv"):
        assert (tmp_path / f"seen{end}").read_bytes() == (tmp_path / f"plain{end}").read_bytes()
    once = pictures(tmp_path / "maps")
    assert sorted(once) == ["deep/pair.jpg", "one.png.jpg", "wall.png.jpg"]
    (tmp_path / "again").mkdir()
    alone = f"--tta flip --batch-size 1 --explain {tmp_path / 'again'} --input"
    assert run(models, boxes, alone, street / "one.png") == 0
    assert pictures(tmp_path / "again") == {"one.png.jpg": once["one.png.jpg"]}


def test_every_face_has_its_row(models, boxes, street, tmp_path):
    line = f"--faces all --input {street} --allow-bad 1 --output {tmp_path / 'faces.csv'}"
    assert run(models, boxes, f"{line} --explain {tmp_path / 'maps'}") == 0
    pair = cv2.imread(str(tmp_path / "maps" / "deep" / "pair.jpg"))
    one = cv2.imread(str(tmp_path / "maps" / "one.png.jpg"))
    rows = [
        PANEL_HEIGHT + lines * LINE + GAP for lines in (2, 3)
    ]  # the third where nothing raises the class
    around = GAP + 2 * (LINE + GAP)  # title and scale
    assert one.shape[0] - around in [3 * row for row in rows], "a row a task"
    assert pair.shape[0] - around in [6 * row for row in rows], "of two faces"
    assert one.shape[1] >= 2 * PANEL_HEIGHT


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--held-out", "--explain goes with photos to predict"),
        ("--submissions a.csv b.csv", "--explain goes with photos to predict"),
        ("--ray", "without --explain"),
        ("--draw {maps}", "--explain and --draw must be different folders"),
        ("--mask {models}/m.onnx", "m.onnx is an export, which has no gradients"),
        ("--input {street} --mask {models}/v.pt", "v.pt: test_vit at 64 x 64 has no feature map"),
        ("--input {street} --explain {street}/maps", "--explain {street}/maps: lies in the folder"),
        ("--input {street}/one.png --explain {street}/one.png", "--explain {street}/one.png: "),
    ],
)
def test_what_cannot_work_is_refused_before_any_work(
    line, words, models, boxes, street, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("common.inference.job.predict", None)
    places = {"maps": tmp_path / "maps", "models": models, "street": street}
    before = sorted(street.rglob("*"))
    assert run(models, boxes, f"--explain {tmp_path / 'maps'} {line.format(**places)}") == 2
    error = capsys.readouterr().err
    assert words.format(**places) in error and error.count("\n") == 1
    assert sorted(street.rglob("*")) == before and not (tmp_path / "maps").exists()


def test_a_missing_package_is_named_with_what_brings_it(
    models, boxes, street, tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    assert run(models, boxes, f"--input {street} --explain {tmp_path / 'maps'}") == 2
    error = capsys.readouterr().err
    assert "captum" in error and "pip install '.[explain]' brings it" in error
