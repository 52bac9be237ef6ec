"""What runs a checkpoint: which engine is taken and why, that codes stay, and the cache of exports."""

import copy
import errno
import math
import threading
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import torch

import combine
from age.recipe import AgeRecipe
from common.base.errors import UserError
from common.inference import engines
from common.inference.engines import FEW, Engine, load_model
from common.inference.job import engine_of, expected_photos
from common.inference.options import Options, parse
from common.model import checkpoint, export_cache
from common.model.export_cache import CachedExport, network_digest
from common.tools import purge
from gender.recipe import GenderRecipe
from mask.recipe import MaskRecipe
from tests.clips import numbered, write_clip
from tests.tiny import save_untrained

CPU = torch.device("cpu")
RECIPES = {"m.pt": MaskRecipe, "g.pt": GenderRecipe, "a.pt": AgeRecipe}


@pytest.fixture(scope="module")
def models(faces, tmp_path_factory) -> Path:
    """A folder with three models that learned nothing, but whose predictions differ."""
    folder = tmp_path_factory.mktemp("models")
    for name, recipe in RECIPES.items():
        save_untrained(recipe, folder / name, faces, sure=40, crop="center")
    return folder


@pytest.fixture(scope="module")
def exported(models, tmp_path_factory) -> Path:
    """A cache with the exports of all three."""
    cache = tmp_path_factory.mktemp("exported")
    for name in RECIPES:
        CachedExport(cache, models / name, checkpoint.read(models / name)).make()
    return cache


@pytest.fixture
def exporting(models, exported, monkeypatch) -> Iterator[list[Path]]:
    """Exports without the seconds that it takes: returns the files asked for."""
    asked = []

    def made(source, content):
        asked.append(source)
        return CachedExport(exported, source, content).read(), 0.0

    monkeypatch.setattr(export_cache, "exported_bytes", made)
    return asked


def words(models: Path) -> list[str]:
    return [f"--{recipe.task}={models / name}" for name, recipe in RECIPES.items()]


def run(models, data, cache, *line) -> tuple[int, str]:
    """combine.py's exit status and table."""
    out = cache.with_name("codes.csv")
    rest = ["--workers", "0", "--data", str(data), "--output", str(out), "--cache-dir", str(cache)]
    status = combine.main([*words(models), *rest, "--device", "cpu", *line])
    return status, out.read_text() if not status else ""


def test_codes_are_torchs_and_the_models_line_says_what_ran_it(
    models, exported, data, monkeypatch, capsys
):
    """Auto takes the exports that exist, for any number of photos."""
    monkeypatch.setattr(export_cache, "exported_bytes", None)
    tables = {}
    for engine, expected in (
        ("torch", ", torch\n"),
        ("onnxruntime", ", CPU, cached export\n"),
        ("auto", ", CPU, cached export\n"),
    ):
        status, tables[engine] = run(models, data, exported, "--engine", engine)
        assert status == 0 and capsys.readouterr().out.count(expected) == 3
    assert len(set(tables["torch"].split()[1:])) > 3
    assert tables["torch"] == tables["onnxruntime"] == tables["auto"]


def test_few_photos_are_predicted_by_torch_and_many_repay_an_export(
    models, data, cache, exporting, monkeypatch, capsys
):
    assert run(models, data, cache)[0] == 0
    assert capsys.readouterr().out.count(f", torch ({FEW})\n") == 3
    assert not exporting and not list(cache.glob("exports-*"))
    monkeypatch.setattr(engines, "REPAID", 1)
    assert run(models, data, cache)[0] == 0
    said = capsys.readouterr().out
    assert said.count("exporting it for onnxruntime, once") == said.count(", exported in ") == 3
    assert exporting == [models / name for name in RECIPES]
    kept = list(cache.glob("exports-*/*/*.onnx"))
    assert len(kept) == 3 and {file.stat().st_mode & 0o777 for file in kept} == {0o600}
    assert {file.parent.stat().st_mode & 0o777 for file in kept} == {0o700}
    purge.main(["--cache-dir", str(cache)])
    assert not list(cache.glob("exports-*"))


def opened(models: Path, cache: Path, name: str = "onnxruntime", **settings):
    engine = Engine(name=name, cache_dir=cache, **settings)
    return load_model(models / "a.pt", AgeRecipe, CPU, engine)


def broken(*_):
    raise RuntimeError("Unsupported operator\nand 100 lines more")


def missing(name):
    raise PackageNotFoundError(name)


FAILURES = {
    "an operator": ("common.model.export_cache.exported_bytes", broken, "Unsupported operator"),
    "onnxruntime": ("common.inference.engines.open_export", broken, "Unsupported operator"),
    "the cache": ("common.model.export_cache.usable_cache", broken, "Unsupported operator"),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_torch_runs_what_onnxruntime_cannot(models, cache, exporting, monkeypatch, capsys, failure):
    name, replaced, reason = FAILURES[failure]
    cache.mkdir()
    monkeypatch.setattr(name, replaced)
    model = opened(models, cache, "auto", crops=math.inf)
    assert model.engine == "torch (onnxruntime can't)"
    assert model.probabilities(torch.zeros(1, 3, 48, 48)).shape == (1, 3)
    said = capsys.readouterr().err
    assert said == f"warning: {models / 'a.pt'}: torch runs it, as onnxruntime can't: {reason}\n"
    with pytest.raises(UserError) as error:
        opened(models, cache)
    assert str(error.value) == f"{models / 'a.pt'}: onnxruntime can't run it: {reason}"


def test_without_the_extra_torch_runs_it_without_a_warning(models, exported, monkeypatch, capsys):
    monkeypatch.setattr(export_cache, "version", missing)
    model = opened(models, exported, "auto", crops=math.inf)
    assert model.engine == "torch (onnx isn't installed)"
    assert "pip install '.[export]'" in engines.advice([model])
    assert capsys.readouterr().err == ""
    with pytest.raises(UserError, match=r"onnx isn't installed: pip install '\.\[export\]'"):
        opened(models, exported)


def test_torch_where_gradients_are_needed(models, exported):
    options = parse("", list(RECIPES), ["--explain", "maps"])
    reason = engine_of(options, "age").why_torch
    assert opened(models, exported, "auto", why_torch=reason).engine == f"torch ({reason})"


def test_a_wrong_checkpoint_is_refused_as_by_torch(models, exported, tmp_path):
    engine = Engine(name="auto", cache_dir=exported, crops=math.inf)
    with pytest.raises(UserError, match="expected a mask checkpoint, got age"):
        load_model(models / "a.pt", MaskRecipe, CPU, engine)
    content = checkpoint.read(models / "a.pt")
    weights = {k: v + torch.nan for k, v in content["state_dict"].items() if v.is_floating_point()}
    checkpoint.save(tmp_path / "a.pt", content["card"], content["state_dict"] | weights)
    with pytest.raises(UserError, match="holds weights that aren't numbers"):
        load_model(tmp_path / "a.pt", AgeRecipe, CPU, engine)


def test_offsets_stored_after_the_export_count(models, exported, tmp_path):
    """And everything else of the card, too."""
    content = checkpoint.read(models / "a.pt")
    card = copy.deepcopy(content["card"])
    tuned_on = {"persons": 5, "macro_f1": {"offsets": 1.0, "argmax": 0.5}, "models": {}}
    card["decision"]["offsets"] = {
        "values": [0.0, 1.0, 2.0],
        "identity": card["sha256"],
        "tuned_on": tuned_on,
    }
    card["decision"]["temperature"] = 2.0
    checkpoint.save(tmp_path / "a.pt", card, content["state_dict"])
    before, after = opened(models, exported), opened(tmp_path, exported)
    assert after.engine.endswith("cached export") and after.path == tmp_path / "a.pt"
    assert after.decision["offsets"]["values"] == [0.0, 1.0, 2.0]
    image = torch.zeros(1, 3, 48, 48, dtype=torch.uint8)
    assert torch.equal(before.logits(image), after.logits(image))
    assert not torch.equal(before.probabilities(image), after.probabilities(image))


def test_whatever_changes_the_logits_changes_the_digest(models):
    content = checkpoint.read(models / "a.pt")
    digests = {network_digest(content)}
    for place, name, value in (
        ("card", "model", "test_vit"),
        ("recipe", "stem_stride", 1),
        ("card", "outputs", ["<30", ">=60"]),
        ("preprocessing", "size", [48, 64]),
        ("preprocessing", "mean", [0.1, 0.2, 0.3]),
        ("preprocessing", "std", [0.1, 0.2, 0.3]),
    ):
        changed = copy.deepcopy(content)
        card = changed["card"]
        (card if place == "card" else card[place])[name] = value
        digests.add(network_digest(changed))
    changed = copy.deepcopy(content)
    next(iter(changed["state_dict"].values())).view(-1)[0] += 1e-6
    digests.add(network_digest(changed))
    assert len(digests) == 8


@pytest.mark.parametrize("package", export_cache.LIBRARIES)
def test_another_release_exports_anew(models, exported, monkeypatch, package):
    content, version = checkpoint.read(models / "a.pt"), export_cache.version
    assert CachedExport(exported, models / "a.pt", content).read()
    other = {package: "0.1"}
    monkeypatch.setattr(export_cache, "version", lambda name: other.get(name) or version(name))
    assert CachedExport(exported, models / "a.pt", content).read() is None


def test_a_damaged_export_is_made_again(models, cache, exporting):
    opened(models, cache)
    (file,) = cache.glob("exports-*/*/*.onnx")
    whole = file.read_bytes()
    for damaged in (b"", whole[:-1], whole[:500] + b"x" + whole[501:]):
        file.write_bytes(damaged)
        assert "exported in" in opened(models, cache).engine
        assert file.read_bytes() == whole
    assert len(exporting) == 4


@pytest.mark.parametrize("place", ["a file", "a full disk"])
def test_an_export_that_cannot_be_kept_is_used(models, cache, exporting, monkeypatch, place):
    if place == "a file":
        cache.touch()
    else:
        monkeypatch.setattr("common.faces.cache.write_whole", full)
    for _ in range(2):
        assert "exported in" in opened(models, cache).engine
    assert len(exporting) == 2 and not list(cache.glob("*/*/*"))


def full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_many_at_once_export_once(models, cache, exporting):
    """Locks are held by open files: threads stand for processes here."""
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(opened(models, cache).engine))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6 and len(exporting) == 1


def test_a_cache_of_someone_else_is_not_read(models, exported, exporting, tmp_path, monkeypatch):
    (tmp_path / "link").mkdir()
    for folder in exported.glob("exports-*"):
        (tmp_path / "link" / folder.name).symlink_to(folder)
    assert opened(models, tmp_path / "link", "auto").engine == f"torch ({FEW})"
    assert "exported in" in opened(models, tmp_path / "link").engine


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--engine torch --age a.onnx", "--engine torch: a.onnx is an export, which onnxruntime"),
        ("--engine onnxruntime --explain maps", "--explain needs the networks in torch"),
        ("--engine onnxruntime --device cuda", "--engine onnxruntime and --device cuda: "),
        ("--engine torch --submissions a.csv b.csv", "--submissions votes .* without --engine"),
    ],
)
def test_flags_that_contradict_each_other(line, message):
    given = parse("", ["mask", "gender", "age"], line.split())
    with pytest.raises(UserError, match=message):
        given.check()


def test_load_takes_a_cached_export_and_makes_one_only_if_asked(
    models, exported, exporting, cache, monkeypatch
):
    monkeypatch.setattr("common.inference.loading.default_cache", lambda: cache)
    image = torch.randint(256, (64, 64, 3), dtype=torch.uint8).numpy()
    assert combine.load(models, device="cpu")(image)
    assert not exporting and not list(cache.glob("exports-*"))
    fast = combine.load(models, engine="onnxruntime")
    assert len(exporting) == 3
    (face,), (other,) = fast(image), combine.load(models, engine="torch", device="cpu")(image)
    assert face.code == other.code
    assert "cached" in combine.load(models, device="cpu").ensembles["age"].models[0].engine
    with pytest.raises(UserError, match="engine onnxruntim: expected .*did you mean onnxruntime"):
        combine.load(models, engine="onnxruntim")
    with pytest.raises(UserError, match="runs on the CPU here, not on device cuda"):
        combine.load(models, engine="onnxruntime", device="cuda")


def test_the_number_of_photos_is_estimated(data, faces, tmp_path):
    (tmp_path / "empty").mkdir()
    write_clip(tmp_path / "clip.mp4", numbered(12))
    for settings, expected in (
        ({"data": data, "held_out": True}, len(faces)),
        ({"data": data}, len(list((data / "eval" / "images").iterdir())) + 1),
        ({"input": data / "train" / "images"}, len(faces)),
        ({"input": faces[0].path}, 1),
        ({"input": tmp_path / "empty"}, 0),
        ({"input": tmp_path / "gone"}, 1),
        ({"data": tmp_path}, 1),
        ({"input": tmp_path / "clip.mp4"}, 12),
        ({"input": tmp_path / "clip.mp4", "every": 4}, 3),
        ({"input": tmp_path / "gone.mp4"}, 1),
        ({"serve": ("127.0.0.1", 0)}, math.inf),
    ):
        assert expected_photos(Options(**settings)) == expected, settings
    flip = engine_of(Options(input=faces[0].path, tta="flip"), "age")
    assert flip.crops == 2
