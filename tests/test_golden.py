"""Training, combine.py, exports and the service predict the same for 24 photos; the real command serves."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import httpx
import numpy as np
import pandas as pd
import pytest
import torch

import combine
from common.data.layout import Face
from common.faces.decode import decode
from common.faces.detector import detect
from common.inference.ensemble import load_ensemble
from common.inference.options import PredictSettings
from common.inference.service.app import create_app
from common.inference.service.server import every_face
from common.model import export
from common.training.predictions import VALIDATION_TABLE
from tests.serving import served
from tests.tiny import ROOT, environment, train_tiny

PHOTOS = 24
LEARN = "--model test_resnet --epochs 12 --opt adamw --lr 3e-3 --weight-decay 0.02"
TABLE = 1.01e-6  # tables hold six decimals: the last may be one off
Shares = Mapping[str, np.ndarray]  # task → (photos, classes)
Paths = Mapping[tuple[str, str], Path]  # of each person and view


@pytest.fixture(scope="module")
def models(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three trained checkpoints and their exports, with runs/ beside them."""
    folder = tmp_path_factory.mktemp("golden")
    for task in combine.TASKS:
        status, _ = train_tiny(task, data, folder, f"{LEARN} --cache-dir {folder / 'cache'}")
        assert status == 0
        assert export.main([str(folder / f"{task.task[0]}.pt")]) == 0
    return folder


@pytest.fixture(scope="module")
def paths(faces: tuple[Face, ...]) -> Paths:
    return {(face.person.key, face.view): face.path for face in faces}


@pytest.fixture(scope="module")
def validated(models: Path, paths: Paths) -> tuple[pd.DataFrame, Shares]:
    """Person and view of 24 photos that no model was trained on, and their validation's predictions.

    In each a face was found: the service, which asks for all faces, looks for smaller ones too, and
    may answer for one where validation looked at the centre.
    """
    tables = {}
    for task in combine.TASKS:
        (file,) = (models / "runs" / task.task).glob(f"*/{VALIDATION_TABLE}")
        table = pd.read_csv(file, dtype={"person": str})
        rows = zip(table["person"], table["view"], strict=True)
        found = [detect(decode(paths[row].read_bytes())).box is not None for row in rows]
        tables[task.task] = table[found][:PHOTOS].reset_index(drop=True)
    first = next(iter(tables.values()))[["person", "view"]]
    for table in tables.values():
        assert table[["person", "view"]].equals(first)
    return first, {t.task: tables[t.task][list(t.classes)].to_numpy() for t in combine.TASKS}


@pytest.fixture(scope="module")
def photos(validated, paths: Paths, tmp_path_factory) -> list[Path]:
    """The same 24 in the order of their names."""
    folder = tmp_path_factory.mktemp("photos")
    rows = validated[0].itertuples(index=False)
    return [
        Path(shutil.copy(paths[row.person, row.view], folder / f"{place:02}{ending}"))
        for place, row in enumerate(rows)
        if (ending := paths[row.person, row.view].suffix)
    ]


def combined(models: Path, photos: list[Path], kind: str) -> tuple[Shares, list[int]]:
    """Probabilities and codes of combine.py for all photos of the folder."""
    out, probs = models / f"{kind}.csv", models / f"{kind}.probs.csv"
    line = [
        word
        for task in combine.CODES.classes
        for word in (f"--{task}", str(models / f"{task[0]}.{kind}"))
    ]
    line += ["--input", str(photos[0].parent), "--output", str(out), "--probs", str(probs)]
    line += ["--workers", "0", "--device", "cpu", "--cache-dir", str(models / "cache")]
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        assert combine.main(line) == 0
    table = pd.read_csv(probs)
    shares = {
        task: table[[f"{task}_{word}" for word in words]].to_numpy()
        for task, words in combine.CODES.classes.items()
    }
    return shares, pd.read_csv(out)["ans"].tolist()


def asked(models: Path, photos: list[Path]) -> tuple[Shares, list[int]]:
    """Probabilities and codes of the service, for the main face of each photo."""
    ensembles = {
        task.task: load_ensemble(
            task, [models / f"{task.task[0]}.pt"], [1.0], "soft", torch.device("cpu")
        )
        for task in combine.TASKS
    }
    found = []
    app = create_app(
        every_face(ensembles, {}, PredictSettings(cache_dir=Path(), workers=0), 1),
        combine.CODES,
        at_once=1,
        threads=1,
    )
    with served(app) as url:
        for start in range(0, len(photos), 8):
            files = [("files", (p.name, p.read_bytes())) for p in photos[start : start + 8]]
            answer = httpx.post(f"{url}/predict", files=files, timeout=120)
            assert answer.status_code == 200, answer.text
            found += [max(photo["faces"], key=area) for photo in answer.json()["photos"]]
    shares = {
        task: np.array([[face[task]["probabilities"][word] for word in words] for face in found])
        for task, words in combine.CODES.classes.items()
    }
    return shares, [face["code"] for face in found]


def area(face: dict) -> int:
    x0, y0, x1, y1 = face["box"]
    return (x1 - x0) * (y1 - y0)


def test_validation_combine_export_and_service_agree(models, validated, photos):
    expected = validated[1]
    codes = combine.encode([share.argmax(axis=1) for share in expected.values()]).tolist()
    assert len(photos) == PHOTOS and len(set(codes)) > 2
    torch_shares, torch_codes = combined(models, photos, "pt")
    ways = {
        "combine.py": (torch_shares, torch_codes, TABLE),
        "onnx": (*combined(models, photos, "onnx"), 1e-4),
        "service": (*asked(models, photos), TABLE),
    }
    for way, (shares, said, far) in ways.items():
        assert said == codes, way
        for task, share in shares.items():
            np.testing.assert_allclose(share, expected[task], rtol=0, atol=far, err_msg=way)


@pytest.mark.parametrize(
    ("number", "status", "last"), [(signal.SIGINT, 130, "interrupted\n"), (signal.SIGTERM, 143, "")]
)
def test_the_command_serves_until_a_signal(models, photos, tmp_path, number, status, last):
    """Nothing is written, by onnxruntime's telemetry neither."""
    files = [f"--{task}={models / task[0]}.onnx" for task in combine.CODES.classes]
    silenced = ("ORT_DISABLE_TELEMETRY", "CI")  # by our own import, and by chance
    variables = {k: v for k, v in environment(tmp_path).items() if k not in silenced}
    before = sorted(models.rglob("*"))
    process = subprocess.Popen(
        [sys.executable, ROOT / "combine.py", *files, "--serve", "0"],
        cwd=tmp_path,
        env=variables | {"TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        for line in process.stdout:
            if line.startswith("serving http://127.0.0.1:"):
                break
        url = line.split()[1].rstrip(",")
        data = photos[0].read_bytes()
        answer = httpx.post(f"{url}/predict", files=[("files", ("x.jpg", data))], timeout=120)
        assert answer.status_code == 200 and len(answer.json()["photos"]) == 1
        process.send_signal(number)
        assert process.wait(timeout=60) == status
        assert process.stderr.read() == last
    assert sorted(models.rglob("*")) == before and list(tmp_path.iterdir()) == []
