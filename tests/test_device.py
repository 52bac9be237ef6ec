"""Memory, loaders, threads, precision and GPU of a training."""

import contextlib
import platform
import subprocess
import sys
import types

import pytest
import torch

from common.base.errors import UserError
from common.model.device import amp_dtype, check_kernels, pick_device, share_cores
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
def test_threads_are_what_loaders_leave_or_what_the_flag_sets(
    monkeypatch: pytest.MonkeyPatch, workers: int, most: str, asked: int | None, threads: int
) -> None:
    monkeypatch.setattr("common.model.device.available_cores", lambda: 4)
    monkeypatch.setattr(torch, "set_num_threads", (taken := []).append)
    monkeypatch.setenv("OMP_NUM_THREADS", most)
    share_cores(torch.device("cpu"), workers, asked)
    assert taken == [threads]


@pytest.mark.parametrize(
    ("capability", "dtype"),
    [
        ((6, 0), torch.float16),  # P100
        ((7, 0), torch.float16),  # V100
        ((7, 5), torch.float16),  # T4
        ((8, 0), torch.bfloat16),  # A100
        ((9, 0), torch.bfloat16),  # H100
    ],
)
def test_bfloat16_only_where_it_is_native(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], dtype: torch.dtype
) -> None:
    major, minor = capability
    gpu = types.SimpleNamespace(major=major, minor=minor)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: gpu)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    assert amp_dtype(torch.device("cuda", 0)) == dtype
    assert amp_dtype(torch.device("cpu")) is None


def test_a_gpu_without_kernels_is_named_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def ones(*_: int, **__: object) -> torch.Tensor:
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device")

    monkeypatch.setattr(torch, "ones", ones)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla V100")
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_90"])
    with pytest.raises(UserError, match="Tesla V100 .*7.0.*built for sm_75, sm_90") as caught:
        check_kernels(torch.device("cuda", 0))
    assert "CUDA 12.6" in str(caught.value) and "--device cpu" in str(caught.value)


def test_a_driver_that_torch_cannot_use_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("common.model.device.nvidia_driver", lambda: "470.82.01")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert pick_device("auto").type == "cpu"
    assert "NVIDIA driver (470.82.01)" in capsys.readouterr().err
    assert pick_device("cpu").type == "cpu"
    assert not capsys.readouterr().err
