"""Which device a model runs on."""

import ctypes
import os
import platform
import re

import torch

from common.base.errors import UserError
from common.base.processes import local_processes, local_rank, processes
from common.base.run_settings import available_cores

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h


def pick_device(name: str) -> torch.device:
    """The device called `name`; auto takes CUDA, then MPS, then the CPU. UserError if missing.

    Each process that torchrun starts has a GPU of its own.
    """
    if processes() > 1:
        name = _own(name)
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


def _own(name: str) -> str:
    """The device of this one of several processes; UserError where they would have to share it."""
    name = ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name
    if name not in ("cpu", "cuda"):
        raise UserError(f"--device {name}: under torchrun expected auto, cpu or cuda")
    if name == "cuda" and torch.cuda.is_available():
        if local_rank() >= torch.cuda.device_count():
            raise UserError(
                f"{local_processes()} processes on a machine with {torch.cuda.device_count()} GPUs: "
                "expected as many, --nproc-per-node gpu, or --device cpu"
            )
        torch.cuda.set_device(local_rank())
        name = f"cuda:{local_rank()}"
    return name


def _best() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def share_cores(device: torch.device, workers: int, asked: int | None = None) -> None:
    """Leave a core to each loader process: threads that wait for a taken core wait spinning.

    Measured on two cores: MobileNetV3 trains 30 times slower on two threads beside one busy
    process than on one thread. OMP_NUM_THREADS, where set, is the most that are taken, and
    `asked` threads are taken as they are.
    """
    if device.type == "cpu":
        most = os.environ.get("OMP_NUM_THREADS", "")
        threads = available_cores() - workers
        free = min(threads, int(most) if most.isdecimal() else threads)
        torch.set_num_threads(asked or max(1, free))


def keep_memory(device: torch.device) -> None:
    """Let glibc keep the memory that a training on the CPU frees, for the next step to take.

    By itself glibc gives large tensors back to the system as soon as they are freed, and the kernel
    has to find and clear thousands of pages in the next step. Other C libraries go on as they do,
    and so does glibc where MALLOC_ variables in the environment say how (mallopt(3)).
    """
    said = any(name.startswith("MALLOC_") for name in os.environ)
    if device.type == "cpu" and platform.libc_ver()[0] == "glibc" and not said:
        libc = ctypes.CDLL(None)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        libc.mallopt(M_MMAP_THRESHOLD, 2**30)


def check_compile(backend: str, device: torch.device) -> None:
    """UserError where torch.compile doesn't work with `backend` on `device`, before long work."""
    try:
        torch.compile(lambda x: x * 2 + 1, backend=backend)(torch.ones(8, device=device))
    except Exception as error:  # of a missing compiler, an unknown name, …: each raises its own
        reason = next((line for line in str(error).splitlines() if line.strip()), repr(error))
        raise UserError(f"--torchcompile {backend}: doesn't work here ({reason})") from None


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
