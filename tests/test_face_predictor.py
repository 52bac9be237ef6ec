"""load(): the same predictions as combine.py's, for photos of any kind, in any thread."""

import io
import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image

import combine
from age.recipe import AgeRecipe
from combine import load
from common.base.errors import UserError
from common.inference.face_predictor import FacePredictor, PredictedFace
from common.model.export import export
from gender.recipe import GenderRecipe
from mask.recipe import MaskRecipe
from tests.tiny import ROOT, environment, save_untrained

RECIPES = {"m.pt": MaskRecipe, "g.pt": GenderRecipe, "a.pt": AgeRecipe}


@pytest.fixture(scope="module")
def models(faces, tmp_path_factory) -> Path:
    """A folder with three models that learned nothing, and a second of age."""
    folder = tmp_path_factory.mktemp("models")
    for name, recipe in RECIPES.items():
        save_untrained(recipe, folder / name, faces, sure=40)
    save_untrained(AgeRecipe, folder / "a2.pt", faces, sure=40, seed=5, margin=0.1)
    return folder


@pytest.fixture(scope="module")
def people(models) -> FacePredictor:
    return load(models / "m.pt", models / "g.pt", models / "a.pt", device="cpu")


@pytest.fixture(scope="module")
def photos(faces) -> list[Path]:
    return [face.path for face in faces[:20]]


def values(face: PredictedFace) -> Any:
    """All that is predicted for a face, equal to others up to what a batch's size changes."""
    flat = {f"{t} {c}": p for t, v in face.probabilities.items() for c, p in v.items()}
    return [face.box, face.found, dict(face.classes), face.code, flat]


def test_codes_and_probabilities_are_combines(models, photos, people, tmp_path):
    (tmp_path / "photos").mkdir()
    for number, path in enumerate(photos):
        (tmp_path / "photos" / f"{number:02}.jpg").write_bytes(path.read_bytes())
    words = [f"--{r.task} {models / name}" for name, r in RECIPES.items()]
    line = (
        f"{' '.join(words)} --input {tmp_path / 'photos'} --output {tmp_path / 's.csv'} --device cpu "
        f"--probs {tmp_path / 'p.csv'} --workers 0 --cache-dir {tmp_path / 'cache'}"
    )
    assert combine.main(line.split()) == 0
    found = [faces[0] for faces in people(photos)]
    assert [face.code for face in found] == pd.read_csv(tmp_path / "s.csv")["ans"].tolist()
    table = pd.read_csv(tmp_path / "p.csv")
    for task, classes in (("mask", MaskRecipe.classes), ("age", AgeRecipe.classes)):
        names = [name for name in table.columns if name.startswith(f"{task}_")]
        ours = [list(face.probabilities[task].values()) for face in found]
        np.testing.assert_allclose(ours, table[names], atol=1e-5)
        assert [list(face.probabilities[task]) for face in found] == [list(classes)] * len(found)
    assert [face.found for face in found] == table["face_found"].tolist()


def test_a_photo_of_any_kind_gives_the_same(photos, people):
    path = photos[0]
    image = Image.open(path)
    rgb = np.asarray(image.convert("RGB"))
    (expected,) = people(path)
    assert (expected.mask, expected.gender, expected.age) == tuple(expected.classes.values())
    kinds = str(path), path.read_bytes(), image, rgb, rgb.copy(order="F")
    for photo in kinds:
        (face,) = people(photo)
        assert values(face) == values(expected)
    assert values(people(rgb[:, :, ::-1], bgr=True)[0]) == values(expected)
    assert values(people(cv2.imread(str(path)), bgr=True)[0]) == values(expected)


def test_a_pil_image_is_turned_upright_and_stays_as_it_is(photos, people):
    upright = Image.open(photos[0])
    exif = Image.Exif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    upright.transpose(Image.Transpose.ROTATE_90).save(stream, "PNG", exif=exif)
    turned = Image.open(io.BytesIO(stream.getvalue()))
    before = turned.tobytes()
    assert values(people(turned)[0]) == values(people(np.asarray(upright))[0])
    assert turned.tobytes() == before and turned.getexif()[0x0112] == 6


def test_several_photos_have_a_list_each(photos, people):
    alone = [values(people(photo)[0]) for photo in photos]
    together = people(photos)
    assert isinstance(together, list) and len(together) == len(photos)
    assert [values(faces[0])[:-1] for faces in together] == [value[:-1] for value in alone]
    assert people([]) == []


def test_an_iterator_is_read_as_it_is_used(photos, people):
    given = []

    def endless() -> Any:
        for photo in [*photos, *photos]:
            given.append(photo)
            yield photo

    found = people(endless())
    assert given == []
    first = next(found)
    assert values(first[0])[:-1] == values(people(photos[0])[0])[:-1]
    assert len(given) < len(photos), "only a batch is read ahead"


def test_every_face_of_a_photo(photos, people):
    pair = np.hstack([cv2.resize(cv2.imread(str(p)), (192, 256)) for p in (photos[6], photos[13])])
    left, right = people(pair, bgr=True, faces="all")
    assert left.found and right.found and left.box[0] < right.box[0]
    assert len(people(pair, bgr=True)) == 1


def test_a_wall_has_no_face(people):
    (face,) = people(np.full((80, 60, 3), 99, np.uint8))
    assert not face.found and face.code in range(18)


@pytest.mark.parametrize(
    ("photo", "words"),
    [
        ("none.jpg", r"^none\.jpg: no such file"),
        (Path("."), "not a file"),
        ("https://example.org/a.jpg", "a URL; download the photo"),
        (b"<html>", "^photo 0: not a photo of a known format"),
        (b"", "^photo 0: empty file"),
        (np.zeros((64, 64, 3)), r"an array of \(64, 64, 3\) float64; expected a path"),
        (np.zeros((64, 64), np.uint8), r"an array of \(64, 64\) uint8"),
        (np.zeros((64, 64, 4), np.uint8), r"an array of \(64, 64, 4\) uint8"),
        (np.zeros((3, 64, 64), np.uint8), r"an array of \(3, 64, 64\) uint8"),
        (np.zeros((9, 64, 3), np.uint8), "64 x 9 pixels; a side has at least 20"),
        (Image.new("RGB", (9, 9)), "9 x 9 pixels; a side has at least 20"),
        (Image.new("F", (64, 64)), "floating-point pixels"),
        (7, "^int: expected a path"),
    ],
    ids=lambda value: str(type(value).__name__),
)
def test_what_is_no_photo_is_refused_by_name(people, photo, words):
    with pytest.raises(UserError, match=words):
        people(photo)


def test_a_bad_photo_among_others_is_named(photos, people):
    with pytest.raises(UserError, match=r"^photo 2: not a photo"):
        people([photos[0], photos[1].read_bytes(), b"GIF"])
    with pytest.raises(UserError, match="faces='every': expected main or all"):
        people(photos[0], faces="every")


def test_a_face_is_json(people, photos):
    (face,) = people(photos[0])
    plain = json.loads(json.dumps(face.to_dict()))
    assert plain["mask"] == face.mask and plain["code"] == face.code
    assert plain["probabilities"]["age"] == pytest.approx(dict(face.probabilities["age"]))
    with pytest.raises(AttributeError, match="no hat; predicted: mask, gender, age"):
        _ = face.hat


def test_threads_share_the_models(photos, people):
    alone = [values(people(photo)[0]) for photo in photos]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda photo: values(people(photo)[0]), photos))
    for ours, theirs in zip(together, alone, strict=True):
        assert ours[:-1] == theirs[:-1]


def test_files_know_their_task_and_models_of_a_task_vote(models, people, photos):
    shuffled = load([models / "a.pt", str(models / "m.pt")], models / "g.pt", device="cpu")
    folder = load(models, device="cpu")
    expected = values(people(photos[0])[0])
    assert values(shuffled(photos[0])[0]) == values(folder(photos[0])[0]) == expected
    single = load(models / "a.pt", device="cpu")(photos[0])[0]
    assert (single.code, list(single.classes)) == (None, ["age"])
    second = load(models / "a2.pt", device="cpu")(photos[0])[0]
    vote = load(models / "a.pt", models / "a2.pt", device="cpu")(photos[0])[0]
    mean = {
        name: (single.probabilities["age"][name] + second.probabilities["age"][name]) / 2
        for name in AgeRecipe.classes
    }
    assert vote.probabilities["age"] == pytest.approx(mean, abs=1e-6)


def test_exports_and_checkpoints_mix(models, people, photos, tmp_path):
    export(models / "g.pt", tmp_path / "g.onnx")
    mixed = load(models / "m.pt", tmp_path / "g.onnx", models / "a.pt", device="cpu")
    for photo in photos[:4]:
        (ours,), (theirs,) = mixed(photo), people(photo)
        assert ours.code == theirs.code
        assert ours.probabilities["gender"] == pytest.approx(
            theirs.probabilities["gender"], abs=1e-4
        )


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ([], "no model: name files"),
        (["none.pt"], "none.pt: no such"),
        (["empty"], "holds no m.pt, g.pt, a.pt, nor exports"),
        (["m.pt", "m.pt"], "are the same model"),
    ],
)
def test_files_that_cannot_be_loaded_are_named(models, tmp_path, files, words):
    (tmp_path / "empty").mkdir()
    (tmp_path / "m.pt").write_bytes((models / "m.pt").read_bytes())
    with pytest.raises(UserError, match=words):
        load(*(tmp_path / name for name in files), device="cpu")


def test_a_program_sees_no_output_and_no_change(models, photos, tmp_path):
    program = f"""
import os, signal, sys, warnings
import albumentations, cv2, facenet_pytorch, pandas, scipy.sparse, sklearn.metrics, timm, torch
before = (torch.get_num_threads(), dict(os.environ), sys.excepthook, list(warnings.filters),
          signal.getsignal(signal.SIGINT))
from combine import load
people = load({str(models)!r}, device="cpu")
people({str(photos[0])!r}); people([{str(photos[0])!r}] * 3)
after = (torch.get_num_threads(), dict(os.environ), sys.excepthook, list(warnings.filters),
         signal.getsignal(signal.SIGINT))
names = "threads", "environment", "excepthook", "warnings", "signal"
print([name for name, a, b in zip(names, before, after) if a != b])
"""
    run = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "[]\n", "")


def test_the_documented_code_runs(models, photos, tmp_path):
    """Every block of docs/python.md, one after another, beside the files that it names."""
    for name in RECIPES:
        (tmp_path / name).write_bytes((models / name).read_bytes())
    (tmp_path / "photos").mkdir()
    for name in ("photo.jpg", "one.jpg", "two.jpg", "photos/a.jpg", "photos/b.jpg"):
        (tmp_path / name).write_bytes(photos[6].read_bytes())
    text = (ROOT / "docs" / "python.md").read_text()
    program = "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    first, *rest = run.stdout.splitlines()
    assert re.match(r"\w+ (fe)?male (<30|30-59|>=60) \d+ \(\d", first)
    assert len(rest) == 5 and rest[-1].startswith("age {")


PROGRAM = """
from pathlib import Path

from combine import load

people = load("m.pt", ["g.pt", "g2.pt"], Path("a.pt"), device="cpu", tta="flip")
face = people("photo.jpg")[0]
words: str = face.mask + face.age
box: tuple[float, float, float, float] = face.box
code: int | None = face.code
for faces in people([Path("a.jpg"), b"bytes"], faces="all"):
    chance: float = faces[0].probabilities["age"]["<30"]
for faces in people(path for path in Path("photos").iterdir()):
    print([each.to_dict() for each in faces])
"""
WRONG = {
    'people("a.jpg", faces="every")': "No overload variant",
    "people(7)": "No overload variant",
    'number: int = people("a.jpg")[0].age': 'expression has type "str"',
}


def test_a_users_program_is_type_checked(tmp_path):
    """Mypy --strict takes a right program, and each wrong line is noticed."""
    file = tmp_path / "program.py"
    file.write_text(PROGRAM + "\n".join(WRONG) + "\n")
    words = ["--strict", "--follow-imports=silent", f"--cache-dir={tmp_path / 'types'}", str(file)]
    run = subprocess.run(
        [sys.executable, "-m", "mypy", *words],
        cwd=tmp_path,
        env=environment(tmp_path) | {"MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    errors = [line for line in run.stdout.splitlines() if ": error: " in line]
    start = len(PROGRAM.splitlines())
    for number, words in enumerate(WRONG.values(), start + 1):
        assert any(f"program.py:{number}: " in line and words in line for line in errors), (
            run.stdout
        )
    assert {int(line.split(":")[1]) for line in errors} == set(
        range(start + 1, start + 1 + len(WRONG))
    )


def test_years_are_expected_where_they_were_learned(models, people, photos, faces, tmp_path):
    """Between the classes' borders and within their interval; a model of groups has none."""
    for face in (people(photo)[0] for photo in photos):
        low, high = face.years_interval
        assert 0 <= low <= high and low - 1 <= face.years <= high + 1
        assert face.to_dict()["years"] == face.years
    save_untrained(AgeRecipe, tmp_path / "a.pt", faces, loss="focal", bins="auto")
    (face,) = load(tmp_path / "a.pt", device="cpu")(photos[0])
    assert face.years is None and face.years_interval is None and "years" not in face.to_dict()
    (mixed,) = load(tmp_path / "a.pt", models / "a.pt", device="cpu")(photos[0])
    assert mixed.years == pytest.approx(people(photos[0])[0].years, abs=1e-3)
