"""Which device a model runs on."""

import os
import re

import torch

from common.errors import UserError
from common.run_settings import available_cores


def pick_device(name: str) -> torch.device:
    """The device called `name`; auto takes CUDA, then MPS, then the CPU. UserError if missing."""
    if name == "auto":
        return torch.device(_best())
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", name):
        raise UserError(f"--device {name}: expected auto, cpu, mps, cuda or cuda:0, cuda:1, …")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().partition("\n")[0].partition(". ")[0]
        raise UserError(f"--device {name}: not on this machine ({reason})") from None
    return device


def _best() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def share_cores(device: torch.device, workers: int) -> None:
    """Leave a core to each loader process: threads that wait for a taken core wait spinning.

    Measured on two cores: MobileNetV3 trains 30 times slower on two threads beside one busy
    process than on one thread. OMP_NUM_THREADS, where set, is the most that are taken.
    """
    if device.type == "cpu":
        most = os.environ.get("OMP_NUM_THREADS", "")
        threads = available_cores() - workers
        torch.set_num_threads(max(1, min(threads, int(most) if most.isdecimal() else threads)))


def describe_device(device: torch.device) -> str:
    """The device as a person names it."""
    if device.type == "cuda":
        return f"on {torch.cuda.get_device_name(device)} ({device})"
    return (
        f"on the CPU, {torch.get_num_threads()} threads" if device.type == "cpu" else f"on {device}"
    )


def amp_dtype(device: torch.device) -> torch.dtype | None:
    """The type of mixed precision on `device`: bfloat16 where it is native; none on a CPU."""
    if device.type != "cuda":
        return None
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
