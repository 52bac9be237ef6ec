"""--log-wandb: every epoch is sent, and no training depends on it."""

import csv
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from common.base.errors import UserError
from common.model import checkpoint
from common.training import wandb_log
from common.training.experiments import read_experiments
from mask.recipe import MaskRecipe
from tests.test_training import one_thread  # noqa: F401 (automatic)
from tests.tiny import interrupted, train_tiny


@pytest.fixture
def wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The package, offline, without a login, and forgotten afterwards."""
    import wandb as package

    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    package.teardown()
    yield package
    package.teardown()


def wandb_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("runs/*/*/wandb/offline-run-*/run-*.wandb"))


def test_every_epoch_is_sent_and_no_weight_changes(data, tmp_path, wandb, capsys):
    """Stopped by a signal and resumed: the weights are those of a run without wandb."""
    line = "--epochs 2 --lr 1e-3"
    (tmp_path / "without").mkdir()
    train_tiny(MaskRecipe, data, tmp_path / "without", line)
    status, printed = train_tiny(
        interrupted(6, signal.SIGTERM), data, tmp_path, f"{line} --log-wandb --wandb-project faces"
    )
    assert status == 128 + signal.SIGTERM
    assert "saved to" in printed
    assert [row.epochs for row in read_experiments(tmp_path / "runs")] == [1]
    status, printed = train_tiny(MaskRecipe, data, tmp_path, "--resume")
    assert status == 0
    assert [row.epochs for row in read_experiments(tmp_path / "runs")] == [2]
    wandb.teardown()  # which waits until all is written
    first, second = wandb_files(tmp_path)
    assert first.name == second.name  # the same run goes on
    assert [line for line in printed.splitlines() if line.startswith("wandb")] == [
        f"wandb: offline; to send it: wandb sync {second.parent}"
    ]
    assert "wandb:" not in capsys.readouterr().err
    (metrics,) = tmp_path.glob("runs/mask/*/metrics.csv")
    rows = list(csv.DictReader(metrics.read_text().splitlines()))
    content = second.read_bytes()
    for name in ("train_loss", "val_loss", "best_val_macro_f1", "test_efficientnet", "faces"):
        assert name.encode() in content, name
    for epoch in rows:
        assert epoch["train_loss"].encode() in content
        assert epoch["val_loss"].encode() in content
    for name in ("crops", "curves", "confusion"):
        assert list(tmp_path.glob(f"runs/mask/*/wandb/*/files/media/images/{name}_*")), name
    weights = [
        checkpoint.read(next(folder.glob("runs/mask/*/last.pt")))["state_dict"]
        for folder in (tmp_path, tmp_path / "without")
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])


def test_a_missing_login_or_package_is_reported_before_the_crops(
    data, tmp_path, wandb, monkeypatch
):
    monkeypatch.setattr(
        "common.training.prepare.prepare_crops", lambda *_, **__: pytest.fail("late")
    )
    monkeypatch.setenv("WANDB_MODE", "online")
    with pytest.raises(UserError, match=r"--log-wandb: .*wandb login.*WANDB_MODE=offline"):
        train_tiny(MaskRecipe, data, tmp_path, "--log-wandb")
    monkeypatch.setenv("WANDB_MODE", "sometimes")
    wandb.teardown()
    with pytest.raises(UserError, match="'online', 'offline'"):
        train_tiny(MaskRecipe, data, tmp_path, "--log-wandb")
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"pip install '\.\[wandb\]'"):
        train_tiny(MaskRecipe, data, tmp_path, "--log-wandb")


ROW = {"epoch": "1", "val_macro_f1": "0.5", "best": "1"}
NAMES = {"project": "p", "name": "n"}


def test_without_a_network_the_training_goes_on(tmp_path, wandb, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(wandb_log, "INIT_TIMEOUT", 1)
    wandb_log.check_wandb()
    log = wandb_log.WandbLog(tmp_path, NAMES, {}, [ROW])
    log.epoch(ROW)
    log.close()
    assert capsys.readouterr().err.count("warning: wandb: ") == 1


def test_a_later_failure_ends_no_training(tmp_path, wandb, capsys):
    wandb_log.check_wandb()
    log = wandb_log.WandbLog(tmp_path, NAMES, {}, [])
    log.run.finish()
    log.epoch(ROW)
    log.epoch(ROW)
    log.close()
    assert capsys.readouterr().err.count("warning: wandb: ") == 1
