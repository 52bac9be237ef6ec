"""One step of a network before the long work: its errors come at once, in one line."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from common.base.errors import UserError, counted
from common.model.device import amp_dtype
from common.model.network import Classifier, unfit
from common.model.recipe import Recipe

CPU_BATCH = 2  # of the step on a CPU, where it takes a second; a GPU takes the whole batch
LACKS = ("out of memory", "can't allocate memory", "not enough memory")
CGROUP = Path("/sys/fs/cgroup/memory.max")  # limit of a container, cgroup v2


def out_of_memory(error: BaseException) -> bool:
    """Return whether `error` is a lack of memory, of a GPU or the machine."""
    return isinstance(error, MemoryError) or any(word in str(error) for word in LACKS)


def memory_advice(recipe: Recipe) -> str:
    """Name the flags that take less memory than `recipe`."""
    half, groups = max(1, recipe.batch_size // 2), recipe.grad_accum_steps
    return (
        f"--batch-size {half} --grad-accum-steps {groups * 2} takes about half and makes steps "
        "of as many photos; a smaller --size takes less, too"
    )


def trial_step(model: Classifier, recipe: Recipe, photos: int) -> None:
    """Run one forward and backward step of `model`, which stays as it was, and so does the seed.

    A batch has `recipe.batch_size` of `photos`. On a CPU the step has two of them, and the memory of
    the whole batch is estimated from it.

    Raises:
        UserError: the model doesn't take images of that size, or the memory isn't enough.
    """
    batch = min(recipe.batch_size, photos)
    step = batch if model.device.type == "cuda" else min(batch, CPU_BATCH)
    try:
        with _unchanged(model), _counted_bytes() as kept:
            images = torch.zeros(max(step, CPU_BATCH), 3, *recipe.size, device=model.device)
            dtype = amp_dtype(model.device)
            with torch.autocast(model.device.type, dtype=dtype, enabled=dtype is not None):
                logits = model.train()(images)
            logits.float().sum().backward()
    except (RuntimeError, AssertionError, ValueError, IndexError, TypeError, MemoryError) as error:
        if out_of_memory(error):
            raise UserError(_too_little(recipe)) from None
        raise UserError(unfit(recipe, error)) from None
    if model.device.type == "cpu":
        check_memory(recipe, sum(kept.values()) // max(step, CPU_BATCH), batch)


def check_memory(recipe: Recipe, photo: int, batch: int) -> None:
    """Check that the machine has the memory for a step, `photo` bytes for each of a `batch`.

    Raises:
        UserError: it hasn't.
    """
    there = machine_memory()
    if there is not None and photo * batch > there:
        most = max(1, there // 2 // photo)
        raise UserError(
            f"--batch-size {recipe.batch_size}: a step of {recipe.model} at {recipe.size[0]} x "
            f"{recipe.size[1]} takes about {photo * batch / 1e9:,.0f} GB, and this machine has "
            f"{there / 1e9:,.0f}; --batch-size {most} takes half of that"
        )


def machine_memory() -> int | None:
    """Bytes of memory of this machine or container; None where it isn't known."""
    try:
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        return None
    with contextlib.suppress(OSError, ValueError):  # "max" is no limit
        there = min(there, int(CGROUP.read_text()))
    return there


def _too_little(recipe: Recipe) -> str:
    height, width = recipe.size
    return (
        f"--model {recipe.model} --size {height}x{width}: a batch of "
        f"{counted(recipe.batch_size, 'photo')} needs more memory than there is; "
        f"{memory_advice(recipe)}"
    )


@contextlib.contextmanager
def _unchanged(model: nn.Module) -> Iterator[None]:
    """Restore the model's buffers, mode and gradients, and the random generators."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    training, device = model.training, next(model.parameters()).device
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])
        model.zero_grad(set_to_none=True)
        model.train(training)


@contextlib.contextmanager
def _counted_bytes() -> Iterator[dict[int, int]]:
    """Count the bytes that a step keeps for its gradients, by storage."""
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, nn.Parameter):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept
