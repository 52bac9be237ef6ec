"""torchrun: several processes learn what a single one does; they end, stop and resume together."""

import copy
import csv
import dataclasses
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.layers import BatchNormAct2d
from torch import nn

from common.base.errors import UserError
from common.base.processes import launch
from common.base.run_settings import Search
from common.data.dataset import PartSampler, own_part
from common.model import checkpoint
from common.model.device import pick_device
from common.model.losses import SoftF1Loss
from common.training.distributed import (
    gather,
    highest,
    logits_of,
    process_group,
    sum_gradients,
    with_global_batch_norm,
)
from common.training.pictures import CONFUSION, CROPS, CURVES
from common.training.tune import tune
from mask.recipe import MaskRecipe
from tests.tiny import FLAGS, environment, settings, train_tiny

# An odd number of photos in validation (21) and in the last batch (15). With Adam, rounding would
# grow to whole steps where a gradient is nothing but rounding: of what is normalised afterwards.
LINE = "--epochs 4 --opt sgd --lr 1e-2 --drop 0 --folds 4 --mixup 0.4 --grad-accum-steps 2"

# The mask task, where something happens to process 1 at the step of that number.
HAPPENING = """
import os, signal, sys
from pathlib import Path
from torch import nn
from common.training.command import main
from mask.recipe import MaskRecipe

class Happening(nn.CrossEntropyLoss):
    steps = 0

    def forward(self, logits, labels):
        self.steps += 0.5  # mixup asks twice
        if os.environ["RANK"] == "1" and self.steps == {step}:
            Path("happened").touch()
            os.kill(os.getpid(), signal.{signal})
        return super().forward(logits, labels)

class Recipe(MaskRecipe):
    def criterion(self, counts):
        return Happening()

sys.exit(main(Recipe))
"""


@dataclasses.dataclass
class Ended:
    """End of a torchrun: `seconds` after the last thing that happened, and what `last.pt` holds."""

    status: int
    printed: str
    errors: str
    seconds: float
    last: dict


def torchrun(folder: Path, line: str, happening: tuple[int, str], *, restarts: int = 0) -> Ended:
    script = folder / "happening.py"
    script.write_text(HAPPENING.format(step=happening[0], signal=happening[1]))
    start = f"-m torch.distributed.run --standalone --nproc-per-node 2 --max-restarts {restarts}"
    done = subprocess.run(
        [sys.executable, *start.split(), str(script), *line.split()],
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=300,
    )
    seconds = time.time() - (folder / "happened").stat().st_mtime
    return Ended(done.returncode, done.stdout, done.stderr, seconds, last(folder))


def last(folder: Path) -> dict:
    (file,) = (folder / "runs" / "mask").glob("*/last.pt")
    return checkpoint.read(file)


@pytest.fixture(scope="module")
def together(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Ended]]:
    """A training in two processes: one gets a signal in the first epoch; gone on with, one is
    killed in the second, and again in the third, after torchrun's restart; one process ends it.
    """
    folder = tmp_path_factory.mktemp("together")
    where = f"--data {data} --out {folder / 'm.pt'} --log-dir {folder / 'runs'} --device cpu"
    stopped = torchrun(folder, f"{FLAGS} {where} {LINE}", (2, "SIGTERM"))
    again = f"--resume --log-dir {folder / 'runs'} --device cpu --workers 0"
    killed = torchrun(folder, again, (5, "SIGKILL"), restarts=1)
    train_tiny(MaskRecipe, data, folder, "--resume --folds 4")
    return folder, [stopped, killed]


@pytest.fixture(scope="module")
def alone(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same training, in one process without interruption."""
    folder = tmp_path_factory.mktemp("alone")
    train_tiny(MaskRecipe, data, folder, LINE)
    return folder


def test_a_signal_to_one_process_stops_all_at_the_same_step(together):
    stopped = together[1][0]
    assert stopped.status != 0
    assert stopped.printed.count("stopped in epoch 1 of 4; saved to ") == 1
    assert "2 processes" in stopped.printed and "Traceback" not in stopped.printed
    assert (stopped.last["training"]["epoch"], stopped.last["training"]["step"]) == (0, 2)


def test_a_lost_process_ends_all_and_a_restart_goes_on(together):
    killed = together[1][1]
    assert killed.status != 0 and killed.seconds < 60
    assert "torchrun's restart 1: going on with " in killed.printed
    assert re.findall(r"^epoch (\d)/4", killed.printed, re.MULTILINE) == ["1", "2"]
    assert "connection to this training's other processes is lost" in killed.errors
    assert killed.last["training"]["epoch"] == 2


def test_several_processes_learn_what_one_does(together, alone):
    """Through a stop, two losses of a process and a change of their number."""
    ours, theirs = last(together[0]), last(alone)
    assert ours["state_dict"].keys() == theirs["state_dict"].keys()
    for name, tensor in theirs["state_dict"].items():
        torch.testing.assert_close(ours["state_dict"][name], tensor, rtol=1e-3, atol=1e-4, msg=name)
    for one, other in zip(rows(together[0]), rows(alone), strict=True):
        for name in ("train_loss", "val_loss", "val_macro_f1", "val_accuracy"):
            assert float(one[name]) == pytest.approx(float(other[name]), abs=1e-3), name
    assert ours["card"]["metrics"]["confusion"] == theirs["card"]["metrics"]["confusion"]
    assert ours["card"]["metrics"]["photos"] == 21


def rows(folder: Path) -> list[dict[str, str]]:
    (file,) = (folder / "runs" / "mask").glob("*/metrics.csv")
    return list(csv.DictReader(file.read_text().splitlines()))


def test_one_process_writes(together):
    folder, ended = together
    assert len(list((folder / "runs" / "mask").iterdir())) == 1
    assert len((folder / "runs" / "experiments.csv").read_text().splitlines()) == 2
    assert [row["epoch"] for row in rows(folder)] == ["1", "2", "3", "4"]
    assert ended[0].printed.count("changed from the defaults: --model") == 1
    assert all(list(folder.glob(f"runs/mask/*/{name}")) for name in (CROPS, CURVES, CONFUSION))


class Net(nn.Module):
    """Every kind of batch normalisation that timm's models hold."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=None))
        self.second = nn.Sequential(nn.Conv2d(4, 5, 3), BatchNormAct2d(5, act_layer=nn.SiLU))
        self.head = nn.Sequential(nn.BatchNorm1d(5, affine=False), nn.Linear(5, 3))
        self.unused = nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.second(self.first(x)).mean((2, 3)))


class Reshaping(nn.Module):
    """No batch normalisation, and as with timm's transformers no answer to no photos."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(81, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x.reshape(len(x), -1, 81).mean(1))


def learned(net: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
    """Gradients and buffers after one batch, of which a process sees its part."""
    loss = SoftF1Loss()(gather(logits_of(net, own_part(images))), labels)
    loss.backward()
    sum_gradients(net.parameters())
    found = {f"grad {k}": p.grad for k, p in net.named_parameters() if p.grad is not None}
    return found | dict(net.named_buffers())


def one_of_three(number: int, port: int, folder: Path, lessons: list) -> None:
    os.environ |= {
        "RANK": str(number),
        "LOCAL_RANK": str(number),
        "WORLD_SIZE": "3",
        "LOCAL_WORLD_SIZE": "3",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    with process_group(torch.device("cpu"), 9):
        found = []
        for net, batch in lessons:
            own = with_global_batch_norm(copy.deepcopy(net), torch.device("cpu"))
            found.append(learned(own, *batch))
        torch.save(found, folder / f"{number}.pt")
        assert highest(number * 7) == 14


def test_gradients_and_statistics_are_those_of_the_whole_batch(tmp_path):
    """The loss is no mean over photos; with two photos one of three processes has none."""
    torch.manual_seed(0)
    lessons = [
        (net, (torch.randn(n, 3, 9, 9), torch.arange(n) % 3))
        for net in (Net(), Reshaping())
        for n in (9, 7, 2)
    ]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.start_processes(
        one_of_three, (port, tmp_path, lessons), nprocs=3, start_method="spawn"
    )
    expected = [learned(copy.deepcopy(net), *batch) for net, batch in lessons]
    for number in range(3):
        found = torch.load(tmp_path / f"{number}.pt", weights_only=True)
        for ours, theirs in zip(found, expected, strict=True):
            assert ours.keys() == theirs.keys()
            for name, tensor in theirs.items():
                torch.testing.assert_close(ours[name], tensor, rtol=1e-3, atol=1e-5, msg=name)


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch):
    """Pretends to be one of several processes."""

    def pretend(number: int, count: int, **others: str) -> None:
        found = {
            "RANK": number,
            "LOCAL_RANK": number,
            "WORLD_SIZE": count,
            "LOCAL_WORLD_SIZE": count,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": 1,
        }
        for name, value in (found | others).items():
            monkeypatch.setenv(name, str(value))

    return pretend


@given(photos=st.integers(1, 40), batch=st.integers(1, 12), count=st.integers(1, 5))
def test_the_parts_of_a_batch_make_it_up(photos: int, batch: int, count: int) -> None:
    """Every photo once, in order: nothing is padded, nothing repeated."""
    parts = []
    for number in range(count):
        with pytest.MonkeyPatch.context() as patch:
            process.__wrapped__(patch)(number, count)
            parts.append(list(PartSampler(range(photos), batch, drop_last=False)))
    whole = [[photo for part in step for photo in part] for step in zip(*parts, strict=True)]
    assert whole == [
        list(range(first, min(first + batch, photos))) for first in range(0, photos, batch)
    ]
    sizes = [{len(part) for part in step} for step in zip(*parts, strict=True)]
    assert all(max(step) - min(step) <= 1 for step in sizes)


def test_limits_of_several_processes_are_named(process, data, tmp_path):
    process(0, 3)
    with pytest.raises(UserError, match="--batch-size 16: .*expected a multiple of 3"):
        train_tiny(MaskRecipe, data, tmp_path)
    with pytest.raises(UserError, match="tune runs in one process"):
        tune(*settings(MaskRecipe, data, tmp_path), Search(), ())
    for name in ("mps", "cuda:1"):
        with pytest.raises(UserError, match=f"device {name}: under torchrun expected"):
            pick_device(name)


def test_a_launch_is_told_from_others_on_one_machine_only(process):
    process(1, 2, TORCHELASTIC_ERROR_FILE="/tmp/logs/none_x7/attempt_1/1/error.json")
    assert launch() == "none_x7"
    process(1, 2, LOCAL_WORLD_SIZE="1")
    assert launch() is None
