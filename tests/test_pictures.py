"""Pictures of a run: the crops it learned from, curves, the confusion matrix."""

import csv
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from age.recipe import AgeRecipe
from common.model import checkpoint
from common.model.metrics import score
from common.model.network import Classifier
from common.render.sheet import TILE_GAP, TILE_LINE
from common.training.log import RunLog
from common.training.pictures import (
    CONFUSION,
    CROPS,
    CURVES,
    OF_A_BATCH,
    SHEET_CROPS,
    CropSheet,
    confusion_png,
    curves_png,
)
from mask.recipe import MaskRecipe
from tests.tiny import differences, interrupted, last, train_tiny

LINE_OF_FLAGS = (
    "--epochs 2 --lr 1e-3 --size 96 --drop 0.3 --mixup 0.4 --cutmix 1 --aug own light --reprob 0.3 "
    "--mean none --std none"
)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> tuple[Path, Path, list[torch.Tensor]]:
    """A run's folder, the one around it, and the batches that its network was trained on."""
    folder, seen = tmp_path_factory.mktemp("trained"), []
    with pytest.MonkeyPatch.context() as patch:
        forward = Classifier.forward

        def noted(self: Classifier, images: torch.Tensor) -> torch.Tensor:
            if self.training:
                seen.append(images.detach().clone())
            return forward(self, images)

        patch.setattr(Classifier, "forward", noted)
        train_tiny(MaskRecipe, data, folder, LINE_OF_FLAGS)
    (run,) = (folder / "runs" / "mask").iterdir()
    return run, folder, seen


def tiles(sheet: Path, size: int, lines: int) -> list[np.ndarray]:
    """The tiles of crops.jpg, row by row, those that are white at the end included."""
    pixels = np.asarray(Image.open(sheet).convert("RGB"), dtype=float)
    down, across = size + lines * TILE_LINE + TILE_GAP, size + TILE_GAP
    assert pixels.shape[1] == OF_A_BATCH * across + TILE_GAP
    return [
        pixels[top : top + size, left : left + size]
        for top in range(TILE_GAP, pixels.shape[0] - TILE_GAP, down)
        for left in range(TILE_GAP, pixels.shape[1] - TILE_GAP, across)
    ]


def test_the_sheet_shows_the_networks_input(trained):
    """After augmentation and mixing, and whatever is done to the colours next.

    The network's first batch is the trial step's.
    """
    run, _, seen = trained
    shown = tiles(run / CROPS, 96, lines=2)
    given = [image for batch in seen[1:5] for image in batch[:OF_A_BATCH]]
    assert len(shown) == len(given) == SHEET_CROPS
    for tile, image in zip(shown, given, strict=True):
        expected = image.float().permute(1, 2, 0).numpy()
        assert np.abs(tile - expected).mean() < 8, "more than JPEG changes"
    assert np.abs(shown[0] - shown[1]).mean() > 16


def test_pictures_change_no_weight(data, trained, tmp_path, monkeypatch):
    monkeypatch.setattr(RunLog, "add_crops", lambda *_: None)
    monkeypatch.setattr(RunLog, "draw", lambda _: None)
    train_tiny(MaskRecipe, data, tmp_path, LINE_OF_FLAGS)
    assert not list(tmp_path.glob("runs/*/*/*.png"))
    assert not differences(last(tmp_path), last(trained[1]))


def drawn_anew(run: Path) -> dict[str, bytes]:
    """The figures of the tables that lie beside them."""
    rows = list(csv.DictReader((run / "metrics.csv").read_text().splitlines()))
    table = pd.read_csv(run / "validation.csv", keep_default_na=False)
    classes = list(MaskRecipe.classes)
    answers = table[classes].to_numpy().argmax(axis=1)
    scores = score([classes.index(name) for name in table["true"]], answers, len(classes))
    best: dict[str, Any] = {
        "epoch": max(int(row["epoch"]) for row in rows if row["best"] == "1"),
        "photos": len(table),
        "f1": dict(zip(classes, scores.f1, strict=True)),
        "confusion": scores.confusion.tolist(),
    }
    return {CURVES: curves_png(rows, classes, "mask"), CONFUSION: confusion_png(best, "mask")}


def test_the_figures_are_of_the_tables_beside_them(trained):
    run, _, _ = trained
    for name, expected in drawn_anew(run).items():
        assert (run / name).read_bytes() == expected, name


def test_tensorboard_has_the_same(trained):
    run, _, _ = trained
    events = EventAccumulator(str(run)).Reload()
    for name in (CROPS, CURVES, CONFUSION):
        image = events.Images(Path(name).stem)[-1]
        assert image.encoded_image_string == (run / name).read_bytes()
        with Image.open(run / name) as picture:
            assert (image.width, image.height) == picture.size
    best = checkpoint.read(run / "best.pt")["card"]["metrics"]["epoch"]
    assert [image.step for image in events.Images("confusion")] == [best]


def test_a_stopped_run_has_pictures_and_the_resumed_one_brings_them_up_to_date(
    data, tmp_path, capsys
):
    line = "--epochs 2 --lr 1e-3"
    train_tiny(interrupted(2, signal.SIGTERM), data, tmp_path, line)
    (run,) = (tmp_path / "runs" / "mask").iterdir()
    first = (run / CROPS).read_bytes()
    assert len([tile for tile in tiles(run / CROPS, 96, lines=1) if tile.mean() < 250]) == 16
    assert not (run / CURVES).exists()
    (run / CURVES).mkdir()  # can't be written
    status, _ = train_tiny(interrupted(6, signal.SIGTERM), data, tmp_path, "--resume")
    assert status == 128 + signal.SIGTERM
    assert f"warning: {run / CURVES}: not drawn: " in capsys.readouterr().err
    (run / CURVES).rmdir()
    train_tiny(MaskRecipe, data, tmp_path, "--resume")
    assert (run / CROPS).read_bytes() == first
    for name, expected in drawn_anew(run).items():
        assert (run / name).read_bytes() == expected, name
    assert "not drawn" not in capsys.readouterr().err


def test_a_sheet_names_the_classes_of_the_targets():
    """Out of years, with other heads' targets beside them, and of both photos of a mixed one."""
    sheet = CropSheet(AgeRecipe(size=(64, 48), loss="dldl", bins="18-60"))
    images = torch.randint(256, (3, 3, 64, 48), dtype=torch.uint8)
    targets = torch.tensor([[0, 1], [30, 0], [43 + 2, 2]])  # 18 and 48 years; 60 and more
    sheet.add(images, targets, None, 1.0)
    sheet.add(images.float(), targets, targets.flip(0), 0.7)
    assert [text for _, text in sheet.tiles] == [
        ["<30"],
        ["30-59"],
        [">=60"],
        ["70% <30", "30% >=60"],
        ["70% 30-59", "30% 30-59"],
        ["70% >=60", "30% <30"],
    ]
    assert all(
        np.array_equal(tile, image.permute(1, 2, 0))
        for (tile, _), image in zip(sheet.tiles, [*images, *images], strict=True)
    )
    for _ in range(9):
        sheet.add(images[:0], targets[:0], None, 1.0)  # torchrun's part of a short batch
        sheet.add(images, targets, None, 1.0)
    assert sheet.full and len(sheet.tiles) == SHEET_CROPS
