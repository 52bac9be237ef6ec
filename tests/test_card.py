"""A checkpoint's card, printed and as a Hugging Face model card; the model in timm."""

import csv
import dataclasses
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from huggingface_hub import ModelCard
from PIL import Image
from timm.models import save_for_hf

from age.recipe import AgeRecipe
from common.data.layout import AGE_GROUPS, age_band
from common.faces.decode import decode, read_bytes
from common.model import checkpoint
from common.model.card import main
from common.model.export import rebuilt
from common.model.exported import pack
from common.model.loaded import load
from common.model.model_card import for_timm, model_card
from common.model.weights import create_classifier
from common.training.predictions import by_group
from mask.recipe import MaskRecipe
from tests.tiny import train_tiny


@pytest.fixture(scope="module")
def models(data, faces, tmp_path_factory) -> Path:
    """m.pt, trained in a run, and years.pt, whose logits are years."""
    folder = tmp_path_factory.mktemp("models")
    train_tiny(MaskRecipe, data, folder, "--epochs 1 --lr 3e-3 --size 64x48 --stem-stride 1")
    card = checkpoint.read(folder / "m.pt")["card"]
    years = AgeRecipe(
        model="test_vit", size=(64, 48), pretrained=False, bins="18-60", weights=Path("/x/face.pt")
    )
    model, _ = create_classifier(years, resumed=True)
    metrics = card["metrics"] | {"f1": dict.fromkeys(years.classes, 0.5), "groups": []}
    checkpoint.save(
        folder / "years.pt",
        checkpoint.make_card(years, model, split=card["split"], metrics=metrics),
        model.backbone.state_dict(),
    )
    return folder


def printed(line: list[str], capsys: pytest.CaptureFixture) -> str:
    """The output of a command that succeeds."""
    assert main(line) == 0
    return capsys.readouterr().out


def refused(line: list[str], capsys: pytest.CaptureFixture) -> str:
    """The one line of an error."""
    assert main(line) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    return error


def cells(text: str, title: str) -> dict[str, list[str]]:
    """The rows below `title` in a printed card: first cell → the others."""
    _, _, rest = text.partition(f"\n{title}\n")
    rows = rest.partition("\n\n")[0].splitlines()[1:]
    parts = (re.split(r" {2,}", row.strip()) for row in rows)
    return {first: others for first, *others in parts}


def validation(models: Path) -> list[tuple[str, str, bool]]:
    """Person, view and correctness of each row of the run's validation.csv."""
    (file,) = models.glob("runs/mask/*/validation.csv")
    rows = list(csv.DictReader(file.read_text().splitlines()))
    classes = MaskRecipe.classes
    return [
        (r["person"], r["view"], r["true"] == max(classes, key=lambda name: float(r[name])))
        for r in rows
    ]


def test_the_printed_card_describes_the_file(models, capsys):
    text = printed([str(models / "m.pt")], capsys)
    card = checkpoint.read(models / "m.pt")["card"]
    for words in (
        "mask: wear, incorrect, not_wear", "test_efficientnet, 64 pixels high, 48 wide",
        "--crop eyes, --margin 0.3, faces by facenet-pytorch MTCNN 2.5.3",
        f"4 people: fold 0 of 3, split {card['split']['hash']}",
        f"macro F1 {card['metrics']['macro_f1']:.4f}", "28 photos", "the most likely class",
        f"temperature {card['decision']['temperature']:g}", card["sha256"], card["created"],
        f"timm {timm.__version__}", f"python {sys.version.split()[0]}",
    ):  # fmt: skip
        assert words in re.sub(r"\s+", " ", text), words
    assert max(map(len, text.splitlines())) <= 100
    by_class = cells(text, "by class")
    assert [row[0] for row in by_class.values()] == ["20", "4", "4"]
    assert [row[3] for row in by_class.values()] == [
        f"{f1:.3f}" for f1 in card["metrics"]["f1"].values()
    ]
    confusion = cells(text, "photos by true and predicted class")
    assert [[int(n) for n in row] for row in confusion.values()] == card["metrics"]["confusion"]


def test_groups_are_those_of_the_held_out_predictions(models, faces, capsys):
    """Counted again from validation.csv and the table of people."""
    text = printed([str(models / "m.pt")], capsys)
    people = {face.person.key: face.person for face in faces}
    expected: dict[str, list[tuple[str, bool]]] = {}
    for key, view, right in validation(models):
        person, worn = people[key], view.rstrip("12345")
        group = f"{person.gender}, {AGE_GROUPS[age_band(person.age)]}, {worn}"
        expected.setdefault(group, []).append((key, right))
    counted = {
        group: [str(len({k for k, _ in rows})), str(len(rows)),
                f"{np.mean([right for _, right in rows]):.3f}"]
        for group, rows in expected.items()
    }  # fmt: skip
    assert cells(text, "accuracy by gender, age, mask") == counted
    for name, groups in (("gender", 2), ("mask", 3)):
        parts = cells(text, f"accuracy by {name}").values()
        assert len(parts) <= groups and sum(int(row[1]) for row in parts) == 28


def test_groups_are_of_labelled_faces(faces):
    """No groups by mask if no file name says it; a missing gender is a group of its own."""
    chosen = [dataclasses.replace(face, view="photo") for face in faces[:7]]
    nobody = dataclasses.replace(faces[7].person, gender="", key="x")
    chosen.append(dataclasses.replace(chosen[0], person=nobody))
    groups = by_group(chosen, [True] * 7 + [False])
    assert [part["by"] for part in groups] == [["gender"], ["age"], ["gender", "age"]]
    assert groups[0]["rows"] == [[[faces[0].gender], 1, 7, 7], [[""], 1, 1, 0]]
    assert json.loads(json.dumps(groups)) == groups


def test_the_command_is_the_training(models, capsys):
    text = printed([str(models / "m.pt")], capsys)
    line = text[text.index("python -m mask.train") : text.index("\n\nby class")]
    words = " ".join(part.rstrip("\\").strip() for part in line.splitlines())
    assert "--size 64x48" in words and "--lr 0.003" in words and "--aux years gender" in words
    assert words.endswith("--folds 3 --fold 0")
    assert "--weights face.pt" in printed([str(models / "years.pt")], capsys)  # without the folder


def test_a_training_in_progress_and_a_model_without_calibration(models, capsys):
    (unfinished,) = models.glob("runs/mask/*/last.pt")
    assert "training in progress" in printed([str(unfinished)], capsys)
    assert "the network's own, not calibrated" in printed([str(models / "years.pt")], capsys)


def test_an_export_has_the_same_card(models, tmp_path, capsys):
    onnx = pytest.importorskip("onnx")
    card = checkpoint.read(models / "m.pt")["card"]
    (tmp_path / "m.onnx").write_bytes(pack(onnx.ModelProto(ir_version=10), card))
    assert printed([str(tmp_path / "m.onnx")], capsys) == printed([str(models / "m.pt")], capsys)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "onnx", None)
        assert "pip install '.[export]'" in refused([str(tmp_path / "m.onnx")], capsys)


def test_markdown_is_a_model_card(models, tmp_path, capsys):
    shutil.copy(models / "m.pt", tmp_path)
    printed([str(tmp_path / "m.pt"), "--markdown"], capsys)
    card = ModelCard.load(tmp_path / "m.md")
    source = checkpoint.read(tmp_path / "m.pt")["card"]
    assert (card.data.library_name, card.data.pipeline_tag) == ("timm", "image-classification")
    assert card.data.license == "mit" and "mask" in card.data.tags
    assert {r.metric_type: r.metric_value for r in card.data.eval_results} == {
        "f1": round(source["metrics"]["macro_f1"], 4),
        "accuracy": round(source["metrics"]["accuracy"], 4),
    }
    for part in source["metrics"]["groups"]:
        for values, persons, photos, right in part["rows"]:
            name = ", ".join(values).replace("<", "\\<")
            assert f"| {name} | {persons} | {photos} | {right / photos:.3f} |" in card.text
    assert "## Limits" in card.text and "Not for decisions about a person" in card.text
    assert not any(key in str(card) for key in source["split"]["held_out"])
    lines = card.text.splitlines()
    widths = [line.replace(r"\|", "").count("|") for line in lines if line.startswith("|")]
    assert min(widths) >= 3
    printed([str(models / "years.pt"), "--markdown", str(tmp_path / "x.md")], capsys)
    assert "The logits are 18, 19, " in (tmp_path / "x.md").read_text()


def test_mistakes_are_errors_of_one_line(models, tmp_path, capsys):
    model, before = str(models / "m.pt"), (models / "m.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(before[:-9])
    content = checkpoint.read(models / "m.pt")
    half = content["card"] | {"metrics": {"macro_f1": 0.5}}
    checkpoint.save(tmp_path / "half.pt", half, content["state_dict"])
    empty = content["card"] | {"metrics": {}}
    checkpoint.save(tmp_path / "empty.pt", empty, content["state_dict"])
    (unfinished,) = models.glob("runs/mask/*/last.pt")
    for line, words in (
        ([str(tmp_path / "none.pt")], "none.pt: no such checkpoint"),
        ([str(tmp_path / "none.onnx")], "none.onnx: no such checkpoint"),
        ([str(tmp_path / "cut.pt")], "cut.pt: damaged, or cut short"),
        ([str(tmp_path / "half.pt")], "half.pt: this mask checkpoint doesn't fit: 'accuracy'"),
        ([str(tmp_path / "empty.pt"), "--markdown"], "no epoch was validated"),
        ([str(unfinished), "--markdown"], "training in progress"),
        ([str(models / "years.pt"), "--markdown", model], "expected a name that ends in .md"),
        ([model, "--markdown", str(tmp_path / "no" / "m.md")], "its folder can't be written"),
    ):
        assert words in refused(line, capsys), words
    assert printed([str(tmp_path / "empty.pt")], capsys).endswith("no epoch was validated\n")
    assert (models / "m.pt").read_bytes() == before
    assert not list(tmp_path.glob("*.md"))


@pytest.mark.parametrize(("file", "recipe"), [("m.pt", MaskRecipe), ("years.pt", AgeRecipe)])
def test_timm_loads_a_published_model_with_the_same_logits(models, faces, tmp_path, file, recipe):
    """With timm's own transform of training's crops, as the code in the model card does."""
    content = checkpoint.read(models / file)
    model, _, _ = rebuilt(models / file, content)
    save_for_hf(model.backbone, tmp_path, safe_serialization=True, **for_timm(content["card"]))
    text = str(model_card(content["card"], "me/faces"))
    assert 'create_model("hf_hub:me/faces"' in text
    loaded = load(models / file, recipe)
    theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    for line in re.findall(r"^model\..*\.stride = .*", text, re.MULTILINE):
        exec(line, {"model": theirs})
    assert tuple(theirs.pretrained_cfg["label_names"]) == loaded.recipe.saved_names
    config = timm.data.resolve_model_data_config(theirs)
    transform = timm.data.create_transform(**config, is_training=False)
    crops = [loaded.transform(decode(read_bytes(face.path))) for face in faces[:5]]
    images = [transform(Image.fromarray(crop.permute(1, 2, 0).numpy())) for crop in crops]
    with torch.inference_mode():
        torch.testing.assert_close(
            theirs(torch.stack(images)), loaded.logits(torch.stack(crops)), rtol=1e-4, atol=1e-4
        )
