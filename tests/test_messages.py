"""Lines that a training prints, and the command that trains every task."""

import dataclasses
import subprocess
from pathlib import Path

import pytest
import torch

from age.recipe import AgeRecipe
from common.base.errors import UserError
from common.model.calibration import Calibrated
from common.model.heads import AuxiliaryLoss, Head, MaskedCrossEntropy
from common.model.metrics import score
from common.tools import train_all
from common.training.engine import EpochResult, losses_of
from common.training.messages import (
    best_scores,
    epoch_line,
    loss_line,
    model_line,
    rare_warning,
    time_left,
)
from gender.recipe import GenderRecipe
from mask.recipe import MaskRecipe

HOME = Path(__file__).parents[1]


def test_the_model_line_says_what_is_trained_from_what_and_where():
    origin = f"ImageNet weights from the hub, SHA-256 {'0123456789abcdef' * 4}"
    line = model_line(
        MaskRecipe(size=(96, 64)), torch.nn.Linear(999, 1000), origin, "CPU, 1 thread"
    )
    assert line == (
        "mask | tf_efficientnet_lite0 (1.0M, ImageNet weights from the hub, SHA-256 01234567…) | "
        "96×64 | CPU, 1 thread"
    )


def test_the_heads_loss_stands_beside_the_tasks_own():
    head = Head("years", 2, lambda face: 0, MaskedCrossEntropy())
    criterion = AuxiliaryLoss(torch.nn.CrossEntropyLoss(), 3, [head], weight=2.0)
    logits, targets = torch.randn(4, 5), torch.tensor([[0, 1], [1, 0], [2, -1], [0, 0]])
    total, own = losses_of(criterion, logits, targets)
    assert own == torch.nn.functional.cross_entropy(logits[:, :3], targets[:, 0])
    assert total == pytest.approx(criterion(logits, targets).item())
    assert total > own
    recipe = MaskRecipe(aux=("years",), aux_weight=2.0)
    criterion = AuxiliaryLoss(recipe.criterion([1, 1, 1]), 3, [head], weight=2.0)
    assert loss_line(criterion, recipe) == "loss: cross_entropy (no class weights) + 2 × years"
    result = EpochResult(
        epoch=3,
        lr=2e-4,
        train_loss=0.79,
        heads_loss=4.93,
        val_loss=0.8,
        scores=score([0, 1], [0, 1], 2),
        predictions=Calibrated,
        numbers=None,
        photos_per_second=100,
        seconds=1,
    )
    line = epoch_line(result, 10, "best")
    assert line.startswith("epoch  3/10  loss 0.7900 + 4.9300 heads  val: loss 0.8000  ")
    assert line.endswith("lr 2.0e-04  100/s  best")
    assert "heads" not in epoch_line(dataclasses.replace(result, heads_loss=0.0), 10, "")


def test_the_time_left_is_that_of_all_epochs():
    assert time_left(100, 1, 5) == "about 6.7 min left for 4 epochs"
    assert time_left(10, 4, 5) == "about 2.5 s left for 1 epoch"
    assert time_left(10, 5, 5) == time_left(0, 0, 5) == ""


def test_a_class_that_is_nearly_never_predicted_is_named():
    true, predicted = [0] * 50 + [1] * 12 + [2] * 12, [0] * 50 + [1] + [0] * 11 + [2] * 12
    scores = score(true, predicted, 3)
    figures = {
        "macro_f1": scores.macro_f1,
        "accuracy": scores.accuracy,
        "f1": dict(zip("abc", scores.f1, strict=True)),
        "confusion": scores.confusion.tolist(),
    }
    restored = best_scores(figures)
    assert restored.table("abc") == scores.table("abc")
    warning = rare_warning(restored, MaskRecipe.classes)
    assert "incorrect (predicted once, rightly 1 of 12)" in warning
    assert "not_wear" not in warning
    assert rare_warning(score([0, 1], [0, 1], 2), ("a", "b")) == ""


def test_all_tasks_are_found_beside_common():
    assert train_all.find_tasks(HOME) == [AgeRecipe, GenderRecipe, MaskRecipe]


def test_files_of_one_task_are_refused_and_a_flag_of_one_task_too(capsys):
    recipes = train_all.find_tasks(HOME)
    with pytest.raises(UserError, match="--out names the file of one task"):
        train_all.check_flags(recipes, ["--out", "x.pt"])
    with pytest.raises(SystemExit, match="2"):
        train_all.check_flags(recipes, ["--drop-ages", "57-59"])
    assert "unknown flag --drop-ages" in capsys.readouterr().err
    files = train_all.check_flags(recipes, ["--preset", "scratch", "--epochs", "3"])
    assert [str(file) for file in files] == ["a.pt", "g.pt", "m.pt"]
    assert capsys.readouterr().out == ""


def test_a_failed_training_ends_the_others(monkeypatch, capsys):
    commands = []

    def run(command, check):
        commands.append(command[2:])
        return subprocess.CompletedProcess(command, 2 if command[2] == "gender.train" else 0)

    monkeypatch.setattr(subprocess, "run", run)
    assert train_all.main(["--epochs", "3"]) == 2
    assert commands == [["age.train", "--epochs", "3"], ["gender.train", "--epochs", "3"]]
    ended = capsys.readouterr()
    assert ended.err == "error: gender stopped with status 2; not trained: mask\n"
    assert "next:" not in ended.out


def test_at_the_end_stands_the_line_that_merges_the_models(monkeypatch, capsys):
    monkeypatch.setattr(
        subprocess, "run", lambda command, check: subprocess.CompletedProcess(command, 0)
    )
    assert train_all.main([]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert line == "next: python combine.py --age a.pt --gender g.pt --mask m.pt"
