"""A checkpoint's card: printed, as a Hugging Face model card, and published for timm."""

import base64
import csv
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from huggingface_hub import ModelCard
from PIL import Image

from age.recipe import AgeRecipe
from common.data.layout import AGE_GROUPS, age_band
from common.faces.decode import decode, read_bytes
from common.model import checkpoint
from common.model.card import NO_GROUPS, main
from common.model.exported import pack
from common.model.hub import table
from common.model.loaded import load
from common.model.weights import create_classifier
from common.training.groups import by_group
from mask.recipe import MaskRecipe
from tests.tiny import environment, train_tiny


@pytest.fixture(scope="module")
def models(data, faces, tmp_path_factory) -> Path:
    """m.pt, trained in a run; years.pt, whose logits are years; old.pt, of an earlier version."""
    folder = tmp_path_factory.mktemp("models")
    train_tiny(MaskRecipe, data, folder, "--epochs 1 --lr 3e-3 --size 64x48 --stem-stride 1")
    content = checkpoint.read(folder / "m.pt")
    card, tensors = content["card"], content["state_dict"]
    figures = {k: v for k, v in card["metrics"].items() if k != "groups"}
    lacking = ("outputs", "commit", "decision")
    old = {k: v for k, v in card.items() if k not in lacking} | {"metrics": figures}
    checkpoint.save(folder / "old.pt", old, tensors)
    years = AgeRecipe(
        model="test_vit", size=(64, 48), pretrained=False, bins="18-60", weights=Path("/x/face.pt")
    )
    model, _ = create_classifier(years, resumed=True)
    figures |= {"f1": dict.fromkeys(years.classes, 0.5)}
    checkpoint.save(
        folder / "years.pt",
        checkpoint.make_card(years, model, split=card["split"], metrics=figures),
        model.backbone.state_dict(),
    )
    return folder


def said(line: list[str], capsys: pytest.CaptureFixture) -> str:
    """What a command prints that succeeds."""
    assert main(line) == 0
    return capsys.readouterr().out


def refused(line: list[str], capsys: pytest.CaptureFixture) -> str:
    """The one line that a command says that can't be."""
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
    """Person, view and whether the answer is right, of each row of the run's validation.csv."""
    (file,) = models.glob("runs/mask/*/validation.csv")
    rows = list(csv.DictReader(file.read_text().splitlines()))
    classes = MaskRecipe.classes
    return [
        (r["person"], r["view"], r["true"] == max(classes, key=lambda name: float(r[name])))
        for r in rows
    ]


def test_the_printed_card_says_what_the_file_is(models, capsys):
    text = said([str(models / "m.pt")], capsys)
    card = checkpoint.read(models / "m.pt")["card"]
    for words in (
        "mask: wear, incorrect, not_wear", "test_efficientnet, 64 pixels high, 48 wide",
        "--crop eyes, --margin 0.3, faces by facenet-pytorch MTCNN 2.5.3",
        f"4 persons: fold 0 of 3, split {card['split']['hash']}",
        f"macro F1 {card['metrics']['macro_f1']:.4f}", "28 photos", "the likeliest class",
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
    confusion = cells(text, "photos by true class and answer")
    assert [[int(n) for n in row] for row in confusion.values()] == card["metrics"]["confusion"]


def test_groups_are_those_of_the_held_out_answers(models, faces, capsys):
    """Counted anew from validation.csv and the table of persons."""
    text = said([str(models / "m.pt")], capsys)
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
    assert cells(text, "right answers by gender, age, mask") == counted
    for name, groups in (("gender", 2), ("mask", 3)):
        parts = cells(text, f"right answers by {name}").values()
        assert len(parts) <= groups and sum(int(row[1]) for row in parts) == 28


def test_groups_are_of_what_is_known(faces):
    """Nothing by mask where no view tells it; a gender that is missing is a group."""
    chosen = [dataclasses.replace(face, view="photo") for face in faces[:7]]
    nobody = dataclasses.replace(faces[7].person, gender="", key="x")
    chosen.append(dataclasses.replace(chosen[0], person=nobody))
    groups = by_group(chosen, [True] * 7 + [False])
    assert [part["by"] for part in groups] == [["gender"], ["age"], ["gender", "age"]]
    assert groups[0]["rows"] == [[[faces[0].gender], 1, 7, 7], [[""], 1, 1, 0]]
    assert json.loads(json.dumps(groups)) == groups


def test_the_command_is_the_training(models, capsys):
    text = said([str(models / "m.pt")], capsys)
    line = text[text.index("python -m mask.train") : text.index("\n\nby class")]
    words = " ".join(part.rstrip("\\").strip() for part in line.splitlines())
    assert "--size 64x48" in words and "--lr 0.003" in words and "--aux years gender" in words
    assert words.endswith("--folds 3 --fold 0")
    assert "--weights face.pt" in said([str(models / "years.pt")], capsys)  # no folder of another's


def test_files_of_earlier_versions_and_trainings_under_way_say_so(models, capsys):
    text = said([str(models / "old.pt")], capsys)
    assert NO_GROUPS in text and "the network's own, not calibrated" in text
    assert "by class\n" in text
    (unfinished,) = models.glob("runs/mask/*/last.pt")
    assert "a training under way" in said([str(unfinished)], capsys)


def test_an_export_has_the_same_card(models, tmp_path, capsys):
    onnx = pytest.importorskip("onnx")
    card = checkpoint.read(models / "m.pt")["card"]
    (tmp_path / "m.onnx").write_bytes(pack(onnx.ModelProto(ir_version=10), card))
    assert said([str(tmp_path / "m.onnx")], capsys) == said([str(models / "m.pt")], capsys)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "onnx", None)
        assert "pip install '.[export]'" in refused([str(tmp_path / "m.onnx")], capsys)


def test_markdown_is_a_model_card(models, tmp_path, capsys):
    shutil.copy(models / "m.pt", tmp_path)
    said([str(tmp_path / "m.pt"), "--markdown"], capsys)
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
    for file, words in (("years.pt", "The logits are 18, 19, "), ("old.pt", NO_GROUPS[1:])):
        said([str(models / file), "--markdown", str(tmp_path / "x.md")], capsys)
        assert words in (tmp_path / "x.md").read_text()


def test_cells_keep_their_bars_and_numbers_stand_to_the_right():
    assert table(("a|b", "n"), [("<i>", "1,234"), ("*", "0.5")]).splitlines() == [
        r"| a\|b | n |", "| --- | ---: |", r"| \<i> | 1,234 |", r"| \* | 0.5 |",
    ]  # fmt: skip


def test_what_cannot_be_is_said_in_a_line(models, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
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
        ([str(tmp_path / "empty.pt"), "--markdown"], "no epoch of it was validated"),
        ([str(unfinished), "--markdown"], "a training under way"),
        ([str(models / "old.pt"), "--markdown", model], "expected a name that ends in .md"),
        ([model, "--markdown", str(tmp_path / "no" / "m.md")], "its folder can't be written"),
        ([model, "--private"], "--private needs --push-to-hub"),
        ([model, "--push-to-hub", "a/b/c"], "--push-to-hub a/b/c: expected OWNER/MODEL"),
        ([str(tmp_path / "m.onnx"), "--push-to-hub", "a/b"], "no export's"),
        ([model, "--push-to-hub", "a/b"], "no access token"),
    ):
        assert words in refused(line, capsys), words
    monkeypatch.setenv("HF_TOKEN", "hf_none")
    assert "no way to " in refused([model, "--push-to-hub", "a/b"], capsys)  # HF_HUB_OFFLINE
    assert said([str(tmp_path / "empty.pt")], capsys).endswith("no epoch of it was validated\n")
    assert (models / "m.pt").read_bytes() == before
    assert not list(tmp_path.glob("*.md"))


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as a push needs; what is committed lands in `folder`/OWNER/MODEL."""

    folder: Path
    token = "hf_right"

    def do_HEAD(self) -> None:
        owner, name, _, _, file = self.path.strip("/").split("/")
        known = (self.folder / owner / name / file).is_file()
        self._answer({}, 200 if known else 404)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        if self.headers.get("Authorization") != f"Bearer {self.token}" and "yaml" not in self.path:
            return self._answer({"error": "Invalid username or password."}, 401)
        owner, name, what = [*self.path.split("?")[0].split("/"), *[""] * 3][3:6]
        if self.path == "/api/repos/create":
            made = json.loads(body)
            (self.folder / "private").write_text(str(made.get("private", made.get("visibility"))))
            owner = made.get("organization", "me")
            return self._answer({"url": f"{self._own()}/{owner}/{made['name']}"})
        if what == "preupload":
            return self._answer({"files": [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]})  # fmt: skip
        if what == "commit":
            self._commit(self.folder / owner / name, body)
            place = f"{self._own()}/{owner}/{name}/commit/{'0' * 40}"
            return self._answer({"commitUrl": place, "commitOid": "0" * 40})
        return self._answer({})

    def _commit(self, folder: Path, body: bytes) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for entry in map(json.loads, body.splitlines()):
            if entry["key"] == "file":
                content = base64.b64decode(entry["value"]["content"])
                (folder / entry["value"]["path"]).write_bytes(content)

    def _own(self) -> str:
        return "http://{}:{}".format(*self.server.server_address)

    def _answer(self, content: Any, status: int = 200) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[str]:
    """The address of a stand-in for the hub, which keeps what it is given in tmp_path/hub."""
    (tmp_path / "hub").mkdir()
    handler = type("Here", (Hub,), {"folder": tmp_path / "hub"})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield "http://{}:{}".format(*server.server_address)
        server.shutdown()
        thread.join()


def pushed(folder: Path, hub: str, line: list[str], token: str) -> subprocess.CompletedProcess:
    own = environment(folder) | {"HF_ENDPOINT": hub, "HF_TOKEN": token, "HF_HUB_OFFLINE": "0"}
    return subprocess.run(
        [sys.executable, "-m", "common.model.card", *line],
        env=own, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


@pytest.mark.parametrize(("file", "recipe"), [("m.pt", MaskRecipe), ("years.pt", AgeRecipe)])
def test_timm_loads_what_is_published_and_answers_the_same(
    models, faces, hub, tmp_path, file, recipe
):
    """With its own transform, of crops as they are cut in training."""
    line = [str(models / file), "--push-to-hub", "me/faces", "--private"]
    done = pushed(tmp_path, hub, line, Hub.token)
    assert (done.returncode, done.stdout) == (0, f"{models / file} → {hub}/me/faces\n")
    assert (tmp_path / "hub" / "private").read_text() in ("True", "private")
    folder = tmp_path / "hub" / "me" / "faces"
    assert sorted(os.listdir(folder)) == ["README.md", "config.json", "model.safetensors"]
    text = (folder / "README.md").read_text()
    assert 'create_model("hf_hub:me/faces"' in text
    loaded = load(models / file, recipe)
    theirs = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    for line in re.findall(r"^model\..*\.stride = .*", text, re.MULTILINE):
        exec(line, {"model": theirs})
    assert tuple(theirs.pretrained_cfg["label_names"]) == loaded.recipe.output_names
    config = timm.data.resolve_model_data_config(theirs)
    transform = timm.data.create_transform(**config, is_training=False)
    crops = [loaded.transform(decode(read_bytes(face.path))) for face in faces[:5]]
    images = [transform(Image.fromarray(crop.permute(1, 2, 0).numpy())) for crop in crops]
    with torch.inference_mode():
        torch.testing.assert_close(
            theirs(torch.stack(images)), loaded.logits(torch.stack(crops)), rtol=1e-4, atol=1e-4
        )


def test_a_refused_push_is_a_line(models, hub, tmp_path):
    line = [str(models / "m.pt"), "--push-to-hub", "me/faces"]
    done = pushed(tmp_path, hub, line, "hf_wrong")
    assert done.returncode == 2 and not done.stdout
    assert re.fullmatch(r"error: --push-to-hub me/faces: .*401.*\n", done.stderr)
    assert not (tmp_path / "hub" / "me").exists()
