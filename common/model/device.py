"""Choice of the device that a model runs on, and its settings."""

import ctypes
import os
import platform
import re
from pathlib import Path

import torch

from common.base.errors import UserError, first_line, warn
from common.base.processes import local_processes, local_rank, processes
from common.base.run_settings import available_cores

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # parameters of mallopt, from glibc's malloc.h


def pick_device(name: str) -> torch.device:
    """Return the device `name`, as torch spells it, or for auto the best one: CUDA, MPS, CPU.

    Under torchrun each process gets a GPU of its own.

    Raises:
        UserError: the name is unknown, or this machine has no such device.
    """
    if processes() > 1:
        name = _own(name)
    if name == "auto":
        name = _best()
        if name == "cpu" and (driver := nvidia_driver()):
            warn(
                f"this machine has an NVIDIA driver ({driver}), but torch {torch.__version__} "
                f"(CUDA {torch.version.cuda or 'none'}) can't use it: everything runs on the CPU. "
                "Install a build of torch for the driver's CUDA version: docs/training.md, GPUs"
            )
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", name):
        raise UserError(f"device {name}: expected auto, cpu, mps, cuda or cuda:0, cuda:1, …")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = first_line(error).partition(". ")[0]
        raise UserError(f"device {name} is not available on this machine ({reason})") from None
    if device.type == "cuda":
        check_kernels(device)
        torch.backends.cudnn.benchmark = True  # all batches have one size: the search pays off
    return device


def nvidia_driver() -> str:
    """Return the version of this machine's NVIDIA driver, or "" if it has none."""
    file = Path("/proc/driver/nvidia/version")
    words = file.read_text().split() if file.is_file() else []
    return next((word for word in words if re.fullmatch(r"\d+(\.\d+)+", word)), "")


def check_kernels(device: torch.device) -> None:
    """Run a convolution and its gradient on a GPU, before the long work.

    A build of torch has kernels for some GPUs only, and says so no earlier than a kernel is needed.

    Raises:
        UserError: they don't run.
    """
    try:
        images = torch.ones(2, 3, 16, 16, device=device, requires_grad=True)
        weight = torch.ones(4, 3, 3, 3, device=device)
        torch.nn.functional.conv2d(images, weight).sum().backward()
        torch.cuda.synchronize(device)
    except RuntimeError as error:
        major, minor = torch.cuda.get_device_capability(device)
        built = ", ".join(torch.cuda.get_arch_list()) or "none"
        raise UserError(
            f"{torch.cuda.get_device_name(device)} (compute capability {major}.{minor}): torch "
            f"{torch.__version__} can't compute on it, it was built for {built} "
            f"({first_line(error)})\n  V100 and P100 need a build for CUDA 12.6: docs/training.md, "
            "GPUs; --device cpu works without one"
        ) from None


def _own(name: str) -> str:
    """Return this process's device among several processes.

    Raises:
        UserError: two processes would share a GPU.
    """
    name = ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name
    if name not in ("cpu", "cuda"):
        raise UserError(f"device {name}: under torchrun expected auto, cpu or cuda")
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
    """Set torch's threads so that a core is left for each of `workers` loader processes.

    Threads that wait for a busy core spin: on two cores, MobileNetV3 trains 30 times slower on two
    threads beside one busy process than on one thread. OMP_NUM_THREADS, if set, is an upper limit;
    `asked` overrides both.
    """
    if device.type == "cpu":
        most = os.environ.get("OMP_NUM_THREADS", "")
        threads = available_cores() - workers
        free = min(threads, int(most) if most.isdecimal() else threads)
        torch.set_num_threads(asked or max(1, free))


def keep_memory(device: torch.device) -> None:
    """Let glibc keep the memory that a training step on the CPU frees, for the next step.

    By default glibc returns large tensors to the system when they are freed, and the kernel has to
    find and clear thousands of pages in the next step. Nothing changes with another C library, or
    if the environment has MALLOC_ variables (mallopt(3)).
    """
    configured = any(name.startswith("MALLOC_") for name in os.environ)
    if device.type == "cpu" and platform.libc_ver()[0] == "glibc" and not configured:
        libc = ctypes.CDLL(None)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        libc.mallopt(M_MMAP_THRESHOLD, 2**30)


def check_compile(backend: str, device: torch.device) -> None:
    """Check that torch.compile works with `backend` on `device`.

    Raises:
        UserError: it doesn't.
    """
    try:
        torch.compile(lambda x: x * 2 + 1, backend=backend)(torch.ones(8, device=device))
    except Exception as error:  # kinds differ: a missing compiler, an unknown name, …
        reason = next((line for line in str(error).splitlines() if line.strip()), repr(error))
        raise UserError(f"--torchcompile {backend}: doesn't work here ({reason})") from None


def describe_device(device: torch.device) -> str:
    """Describe the device for a message: on the CPU, 2 threads."""
    if device.type == "cuda":
        return f"on {torch.cuda.get_device_name(device)} ({device})"
    if device.type != "cpu":
        return f"on {device}"
    threads = torch.get_num_threads()
    return f"on the CPU, {threads} thread{'s' if threads > 1 else ''}"


def amp_dtype(device: torch.device) -> torch.dtype | None:
    """Type for mixed precision on `device`, None where there is none, as on a CPU.

    bfloat16 where the GPU computes with it (compute capability 8.0), else float16: V100 and T4 only
    emulate bfloat16, slowly.
    """
    if device.type != "cuda":
        return None
    with torch.cuda.device(device):
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if native else torch.float16


def to_device(images: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Move a batch of images to `device`; a GPU copies it from pinned memory while others compute.

    Channels come last, the memory layout in which convolutions are fastest.
    """
    if device.type == "cuda" and not images.is_pinned():
        images = images.pin_memory()
    return images.to(device, non_blocking=True, memory_format=torch.channels_last)


def mixed_precision(device: torch.device) -> torch.autocast:
    """Return the context in which a network predicts on `device`: in mixed precision on a GPU."""
    dtype = amp_dtype(device)
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)
