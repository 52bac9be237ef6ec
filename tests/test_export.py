"""Exports predict as their checkpoints do, are distinguished, and are refused by name where unfit."""

import contextlib
import io
import random
import re
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto

import combine
from age.recipe import AgeRecipe
from common.base.errors import UserError
from common.data.split import make_split
from common.faces.decode import decode, read_bytes
from common.inference.decide import decide
from common.inference.ensemble import Ensemble
from common.inference.options import PredictSettings
from common.inference.predictor import predict
from common.model import checkpoint, export
from common.model.exported import load_exported, pack, parts
from common.model.loaded import LoadedModel, load
from common.model.weights import create_classifier
from gender.recipe import GenderRecipe
from mask.recipe import MaskRecipe
from tests.tiny import ROOT

TINY = {"pretrained": False, "crop": "center"}
RECIPES = (
    MaskRecipe(**TINY, model="test_efficientnet", size=(64, 48), stem_stride=1),
    GenderRecipe(**TINY, model="test_vit", size=(64, 48)),
    AgeRecipe(**TINY, model="test_efficientnet", size=(48, 48), loss="dldl"),  # a logit a year
)


@pytest.fixture(scope="module")
def models(tmp_path_factory, faces) -> Path:
    """m.pt, g.pt and a.pt, untrained, with predictions that differ, and their exports."""
    folder = tmp_path_factory.mktemp("models")
    _, split = make_split({face.person for face in faces}, folds=3, fold=0, limit=None)
    photos = [decode(read_bytes(face.path)) for face in faces[::3]]
    for own in RECIPES:
        torch.manual_seed(0)
        model, _ = create_classifier(own)
        ready = LoadedModel(model, own, checkpoint.crop_spec(own), {}, folder)
        with torch.no_grad():
            classifier = model.backbone.get_classifier()
            answers = model.eval()(torch.stack([ready.transform(photo) for photo in photos]))
            classifier.bias.sub_(answers.mean(dim=0))
            for parameter in classifier.parameters():
                parameter.mul_(20 / answers.std(dim=0).mean())
        prior = [1 / len(own.classes)] * len(own.classes)
        decision = checkpoint.UNCALIBRATED | {"temperature": 3.0, "prior": prior}
        card = checkpoint.make_card(own, model, split=split, metrics={}, decision=decision)
        checkpoint.save(folder / f"{own.task[0]}.pt", card, model.backbone.state_dict())
        assert export.main([str(folder / f"{own.task[0]}.pt")]) == 0
    return folder


def files(folder: Path, kinds: str) -> list[str]:
    """combine.py's flags for models of these kinds: "pt onnx pt", say."""
    names = zip(RECIPES, kinds.split(), strict=True)
    return [
        word for own, kind in names for word in (f"--{own.task}", f"{folder}/{own.task[0]}.{kind}")
    ]


def combined(line: list[str], cache: Path) -> tuple[int, str, str]:
    """The exit status of combine.py, and what it prints on stdout and on stderr."""
    out, err = io.StringIO(), io.StringIO()
    rest = ["--workers", "0", "--device", "cpu", "--cache-dir", str(cache)]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = combine.main([*line, *rest])
    return status, out.getvalue(), err.getvalue()


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.task)
@pytest.mark.parametrize("batch_size", [1, 64])
def test_probabilities_and_classes_are_the_checkpoints(models, faces, cache, recipe, batch_size):
    file = models / f"{recipe.task[0]}.pt"
    pair = {
        "torch": load(file, type(recipe)),
        "onnx": load_exported(file.with_suffix(".onnx"), type(recipe)),
    }
    assert pair["onnx"].card == pair["torch"].card
    assert (pair["onnx"].recipe, pair["onnx"].spec) == (recipe, pair["torch"].spec)
    ensembles = {kind: Ensemble((model,), (1.0,)) for kind, model in pair.items()}
    how = PredictSettings(cache_dir=cache, workers=0, batch_size=batch_size, tta="flip")
    answers = decide(predict([face.path for face in faces], ensembles, how), ensembles, {})
    assert not answers.bad
    expected = answers.probabilities["torch"]
    assert expected.std(axis=0).max() > 0.1
    np.testing.assert_allclose(answers.probabilities["onnx"], expected, atol=1e-4)
    assert np.array_equal(answers.classes["onnx"], answers.classes["torch"])
    assert len(set(answers.classes["onnx"].tolist())) == len(recipe.classes)


@pytest.mark.parametrize("kinds", ["onnx onnx onnx", "pt onnx pt"])
def test_combine_takes_exports_for_checkpoints(models, data, cache, tmp_path, kinds):
    tables = []
    for number, given in enumerate(("pt pt pt", kinds)):
        table = tmp_path / f"{number}.csv"
        line = [*files(models, given), "--data", str(data), "--output", str(table)]
        begun = time.monotonic()
        status, said, _ = combined(line, cache)
        passed = time.monotonic() - begun
        assert status == 0
        tables.append(table.read_text())
    assert tables[0] == tables[1]
    stages = ", ".join(  # where faces are is cached
        rf"{name} [\d.]+ s" for name in ("load", "read", "decode", "crop", "networks", "write")
    )
    line = re.search(rf"^time: ([\d.]+) s; ({stages})", said, re.M)
    seconds = [float(part.split()[1]) for part in line[2].split(", ")]
    tenth = 0.1  # a fast machine has none
    assert max(seconds) - tenth <= float(line[1]) <= passed + tenth
    engines = {"pt": r"torch \(so few .*\)", "onnx": r"onnxruntime 1\.\d+\.\d+, CPU"}
    for own, kind in zip(RECIPES, kinds.split(), strict=True):
        assert re.search(rf"^{own.task}: .*{own.task[0]}\.{kind}, .*, {engines[kind]}$", said, re.M)


def test_held_out_people_are_scored_and_offsets_are_not_stored(models, data, cache):
    line = ["--held-out", "--data", str(data)]
    said = [
        combined([*files(models, kinds), *line], cache)[1]
        for kinds in ("pt pt pt", "onnx onnx onnx")
    ]
    scores = [text.partition("macro F1")[2].partition("time:")[0] for text in said]
    assert scores[0] == scores[1] != ""
    before = (models / "g.onnx").read_bytes()
    line += ["--tune-offsets", "--data", "/nowhere"]  # which is looked for later
    status, _, said = combined([*files(models, "pt onnx pt"), *line], cache)
    assert status == 2
    assert re.fullmatch(r"error: --tune-offsets: .*g\.onnx: only checkpoints .*\n", said)
    assert (models / "g.onnx").read_bytes() == before


def test_a_checkpoint_and_its_export_are_the_same_model(models, data, cache):
    line = [*files(models, "pt pt pt"), "--input", str(next(data.rglob("*.jpg")))]
    line.insert(line.index("--gender"), str(models / "m.onnx"))
    status, _, said = combined(line, cache)
    assert status == 2
    assert re.search(r"--mask: .*m\.pt and .*m\.onnx are the same model", said)


def test_a_file_holds_nothing_about_the_machine(models):
    for file in models.glob("*.onnx"):
        content = file.read_bytes()
        assert str(ROOT).encode() not in content
        assert b"site-packages" not in content


def refusal(file: Path) -> str:
    with pytest.raises(UserError) as error:
        load_exported(file, AgeRecipe)
    said = str(error.value)
    assert said.startswith(f"{file}: ") and "\n" not in said
    return said.removeprefix(f"{file}: ")


def test_damage_is_noticed(models, tmp_path):
    """A changed bit anywhere is refused, and so is every shortened file."""
    whole, file = (models / "a.onnx").read_bytes(), tmp_path / "a.onnx"
    rng = random.Random(0)
    for bit in [rng.randrange(8 * len(whole)) for _ in range(50)] + [0, 8 * len(whole) - 1]:
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        file.write_bytes(flipped)
        assert refusal(file).startswith(("damaged: ", "not exported by this project"))
    for length in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:length])
        assert refusal(file) == "not exported by this project, or cut short"


def outside(graph: onnx.ModelProto) -> None:
    """Moves a tensor, one that lies deep in the model, into another file."""
    tensor = [part for part in parts(graph) if isinstance(part, TensorProto)][-1]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/hostname")


def within_a_node(graph: onnx.ModelProto) -> None:
    tensor = TensorProto(data_type=TensorProto.FLOAT, dims=[1], name="hidden")
    graph.graph.node[0].attribute.append(onnx.helper.make_attribute("value", tensor))
    outside(graph)


def unknown_operator(graph: onnx.ModelProto) -> None:
    graph.graph.node[0].op_type = "Launch"


UNFIT: dict[str, tuple[Callable[[onnx.ModelProto], object], dict, str]] = {
    "weights elsewhere": (outside, {}, "keeps weights in other files"),
    "a node's weights elsewhere": (within_a_node, {}, "keeps weights in other files"),
    "an operator that isn't ONNX's": (
        unknown_operator,
        {},
        "this age checkpoint doesn't fit: onnx",
    ),
    "another task's": (id, {"task": "mask"}, "expected an age checkpoint, got mask"),
    "classes in another order": (
        id,
        {"classes": list(AgeRecipe.classes[::-1])},
        f"its classes are {', '.join(AgeRecipe.classes[::-1])}, expected <30",
    ),
    "a newer format": (id, {"format": 9}, "checkpoint format 9, this version reads 1"),
    "half a recipe": (id, {"recipe": {}}, "this age checkpoint doesn't fit: fields differ"),
    "a recipe that isn't one": (
        id,
        {"recipe": 3},
        "its card has recipe 3, expected names with values",
    ),
    "another size": (
        id,
        {"recipe": AgeRecipe(**TINY, size=(32, 32)).to_dict()},
        "this age checkpoint doesn't fit: from [('images', 'tensor(uint8)', ['batch', 3, 48, 48])]",
    ),
    "no classes": (id, {"classes": None}, "its card has classes None, expected two or more words"),
}


@pytest.mark.parametrize("name", UNFIT)
def test_whole_files_that_do_not_fit_are_refused(models, tmp_path, name):
    change, entries, expected = UNFIT[name]
    graph = onnx.load_model(models / "a.onnx")
    card = checkpoint.read(models / "a.pt")["card"]
    change(graph)
    (tmp_path / "x.onnx").write_bytes(pack(graph, card | entries))
    assert refusal(tmp_path / "x.onnx").startswith(expected)


def huge_constant(graph: onnx.ModelProto) -> None:
    """Add 4 TB to the logits, made from a shape of 16 bytes."""
    shape = onnx.helper.make_tensor("shape", TensorProto.INT64, [1], [10**12])
    nodes = graph.graph.node
    nodes.append(onnx.helper.make_node("Constant", [], ["huge_shape"], value=shape))
    nodes.append(onnx.helper.make_node("ConstantOfShape", ["huge_shape"], ["huge"]))
    nodes.append(onnx.helper.make_node("ReduceMax", ["huge"], ["most"], keepdims=0))
    last = next(node for node in nodes if "logits" in node.output)
    last.output[list(last.output).index("logits")] = "before"
    nodes.append(onnx.helper.make_node("Add", ["before", "most"], ["logits"]))


def test_a_file_that_cannot_be_run_is_refused_before_the_first_photo(models, tmp_path):
    graph = onnx.load_model(models / "a.onnx")
    huge_constant(graph)
    card = checkpoint.read(models / "a.pt")["card"]
    (tmp_path / "x.onnx").write_bytes(pack(graph, card))
    assert "onnxruntime" in refusal(tmp_path / "x.onnx")


def test_files_of_others_are_refused(models, tmp_path):
    file, graph = tmp_path / "x.onnx", onnx.load_model(models / "a.onnx")
    assert refusal(file) == "no such checkpoint"
    shutil.copy(models / "a.pt", file)
    assert refusal(file) == "not exported by this project, or cut short"
    sealed = pack(graph, {})
    del graph.metadata_props[:]
    onnx.save_model(graph, file)
    assert refusal(file) == "not exported by this project, or cut short"
    for content in (sealed, pack(onnx.ModelProto(), {}), pack(onnx.ModelProto(), None)):
        file.write_bytes(content)
        assert refusal(file) == "not exported by this project, or damaged"
    shutil.copy(models / "a.onnx", tmp_path / "x.pt")
    with pytest.raises(UserError, match=r"x\.pt: not a checkpoint, or cut short"):
        load(tmp_path / "x.pt", AgeRecipe)


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_without_the_packages_a_line_names_them(models, data, cache, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    line = [*files(models, "pt onnx pt"), "--input", str(next(data.rglob("*.jpg")))]
    status, _, said = combined(line, cache)
    assert status == 2
    assert re.fullmatch(r"error: .*g\.onnx: .*pip install '\.\[export\]' brings it\n", said)


def test_impossible_exports_are_refused_and_nothing_is_written(models, tmp_path, capsys):
    content = checkpoint.read(models / "m.pt")
    infinite = {k: v + torch.inf for k, v in content["state_dict"].items() if v.is_floating_point()}
    checkpoint.save(tmp_path / "inf.pt", content["card"], content["state_dict"] | infinite)
    checkpoint.save(tmp_path / "other.pt", content["card"] | {"model": "test_resnet"}, infinite)
    (tmp_path / "text.pt").write_text("no weights")
    lines = {
        "inf.pt": "holds weights that aren't numbers",
        "other.pt": "this mask checkpoint doesn't fit",
        "text.pt": "not a checkpoint",
        "none.pt": "no such checkpoint",
        f"inf.pt --out {tmp_path}/m.pt": "expected a name that ends in .onnx",
        f"inf.pt --out {tmp_path}/none/m.onnx": "can't be written",
    }
    for line, expected in lines.items():
        assert export.main(f"{tmp_path}/{line}".split()) == 2
        said = capsys.readouterr().err
        assert expected in said and said.count("\n") == 1
    assert not list(tmp_path.rglob("*.onnx"))
