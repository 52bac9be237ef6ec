"""How a training uses the machine."""

import platform
import subprocess
import sys

import pytest
import torch

from common.model.device import share_cores
from common.training.prepare import loader_workers
from tests.tiny import ROOT

STEPS = """
import resource, torch
from common.model.device import keep_memory
keep_memory(torch.device("cpu"))
for _ in range(20):
    torch.ones(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(8):
    torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told")
def test_a_step_finds_the_memory_of_the_one_before() -> None:
    """64 MB are 16,384 pages; after the first steps the kernel is asked for none."""
    done = subprocess.run(
        [sys.executable, "-c", STEPS], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 1000


@pytest.mark.parametrize(
    ("cores", "asked", "loaders"), [(1, 8, 1), (2, 8, 1), (2, 0, 0), (16, 8, 3)]
)
def test_a_loader_feeds_four_threads(
    monkeypatch: pytest.MonkeyPatch, cores: int, asked: int, loaders: int
) -> None:
    monkeypatch.setattr("common.training.prepare.available_cores", lambda: cores)
    assert loader_workers(asked, torch.device("cpu")) == loaders
    assert loader_workers(asked, torch.device("cuda")) == asked


@pytest.mark.parametrize(
    ("workers", "most", "asked", "threads"),
    [
        (1, "", None, 3),
        (0, "", None, 4),
        (9, "", None, 1),
        (1, "2", None, 2),
        (1, "16", None, 3),
        (1, "2", 4, 4),
    ],
)
def test_threads_are_what_loaders_leave_or_what_was_asked(
    monkeypatch: pytest.MonkeyPatch, workers: int, most: str, asked: int | None, threads: int
) -> None:
    monkeypatch.setattr("common.model.device.available_cores", lambda: 4)
    monkeypatch.setattr(torch, "set_num_threads", (taken := []).append)
    monkeypatch.setenv("OMP_NUM_THREADS", most)
    share_cores(torch.device("cpu"), workers, asked)
    assert taken == [threads]
