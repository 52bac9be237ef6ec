"""Training in the processes that torchrun starts, as if it were one.

Every process takes its part of each batch. The logits of all parts are gathered, so that each
process has the loss of the whole batch, whatever the loss, and its own part's share of the gradient;
the shares are added up before the step. Batch normalisation takes its statistics of the whole batch.
Nothing here does anything where there is one process.
"""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from timm.layers import SyncBatchNormAct, convert_sync_batchnorm
from torch import nn
from torch.autograd.function import FunctionCtx, once_differentiable

from common.base.errors import UserError
from common.base.processes import is_main, launch, processes, rank, restarts

MEET_TIMEOUT = timedelta(seconds=60)
STEP_TIMEOUT = timedelta(seconds=40)  # of one that hangs or is cut off; an end is noticed at once
WORK_TIMEOUT = timedelta(hours=12)  # of the first process's own work, and of cropping


@contextlib.contextmanager
def process_group(device: torch.device, batch_size: int) -> Iterator[None]:
    """Meet the other processes, which part batches of `batch_size` among them, until all are done.

    UserError where that is no whole number of photos for each.
    """
    if processes() == 1:
        yield
        return
    if batch_size % processes():
        raise UserError(
            f"--batch-size {batch_size}: the photos of all {processes()} processes together; "
            f"expected a multiple of {processes()}"
        )
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    with _lost():
        store, number, count = next(dist.rendezvous("env://", timeout=MEET_TIMEOUT))
        if launch() is not None:
            # torch keeps the store, and in it the dead processes' addresses (its issue 135712).
            store = dist.PrefixStore(f"restart{restarts()}", store)
        dist.init_process_group(
            backend, store=store, rank=number, world_size=count, timeout=STEP_TIMEOUT
        )
        _patient()
    yield
    barrier()
    dist.destroy_process_group()


@functools.cache
def _patient() -> dist.ProcessGroup:
    return dist.new_group(backend="gloo", timeout=WORK_TIMEOUT)


@contextlib.contextmanager
def _lost() -> Iterator[None]:
    """Turn the words of a broken or silent connection into one line."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        reason = str(error).strip().partition("\n")[0].rpartition("] ")[2]
        raise UserError(
            "the connection to this training's other processes is lost: stopped, saved files are "
            f"whole ({reason})"
        ) from None


def barrier() -> None:
    """Wait for all processes, for hours if need be."""
    if processes() > 1:
        with _lost():
            dist.barrier(group=_patient())


def from_main(make: Callable[[], Any]) -> Any:
    """What `make` returns in the first process; the others wait for it, for hours if need be."""
    if processes() == 1:
        return make()
    found = [make() if is_main() else None]
    with _lost():
        dist.broadcast_object_list(found, src=0, group=_patient())
    return found[0]


def check_same(digest: Callable[[], str]) -> None:
    """UserError where what a process starts from isn't what the first one does."""
    if processes() == 1:
        return
    own = digest()
    if from_main(lambda: own) != own:
        raise UserError(
            f"process {rank()} has other photos, labels, weights or flags than process 0: all "
            "machines need the same data, files and command"
        )


def highest(number: int) -> int:
    """The highest of all processes' numbers."""
    if processes() == 1:
        return number
    found = torch.tensor(number)
    with _lost():
        dist.all_reduce(found, dist.ReduceOp.MAX)
    return int(found)


def gather(part: torch.Tensor) -> torch.Tensor:
    """(photos of this process, …) → (photos of all, …) in the order of the processes.

    Gradients flow to this process's own part only: each process has the same loss of the whole.
    """
    if processes() == 1:
        return part
    return _Gather.apply(part)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, part: torch.Tensor) -> torch.Tensor:
        with _lost():
            sizes = [torch.tensor(0) for _ in range(processes())]
            dist.all_gather(sizes, torch.tensor(len(part)))
            most = max(map(int, sizes))
            padded = part.new_zeros(most, *part.shape[1:])
            padded[: len(part)] = part
            parts = [torch.empty_like(padded) for _ in sizes]
            dist.all_gather(parts, padded)
        ctx.start, ctx.length = int(sum(sizes[: rank()])), len(part)
        return torch.cat([whole[:size] for whole, size in zip(parts, sizes, strict=True)])

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: torch.Tensor) -> torch.Tensor:
        return gradient[ctx.start : ctx.start + ctx.length]


class _Sum(torch.autograd.Function):
    """The sum over the processes, each of which may use it in its own way."""

    @staticmethod
    def forward(_: FunctionCtx, part: torch.Tensor) -> torch.Tensor:
        total = part.clone()
        with _lost():
            dist.all_reduce(total)
        return total

    @staticmethod
    @once_differentiable
    def backward(_: FunctionCtx, gradient: torch.Tensor) -> torch.Tensor:
        return _Sum.forward(_, gradient.contiguous())


def logits_of(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """The logits of `images`, even where a last, short batch leaves this process none.

    Not all networks take none; only those with batch normalisation have to, as all processes
    exchange statistics.
    """
    if len(images):
        return model(images)
    if model.training and any(isinstance(part, nn.SyncBatchNorm) for part in model.modules()):
        return model(images)
    return model(images.new_zeros(1, *images.shape[1:]))[:0]


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Add up the processes' gradients.

    DistributedDataParallel would take their mean, which is of as many losses, not of one.
    """
    if processes() == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    with _lost():
        dist.all_reduce(flat)
    parts = flat.split([gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view(gradient.shape))


def with_global_batch_norm(model: nn.Module, device: torch.device) -> nn.Module:
    """`model` with batch normalisation over the batches of all processes, by timm and torch."""
    if processes() == 1:
        return model
    model = convert_sync_batchnorm(model)
    if device.type == "cpu":
        for module in model.modules():
            if isinstance(module, nn.SyncBatchNorm):
                module.__class__ = CpuSyncBatchNorm  # timm makes SyncBatchNormAct only
    return model


class CpuSyncBatchNorm(SyncBatchNormAct):
    """torch's SyncBatchNorm, and timm's with an activation, where torch has none: on a CPU."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return super().forward(x)
        x = self._normalised(x)
        for name in ("drop", "act"):
            x = getattr(self, name, nn.Identity())(x)
        return x

    def _normalised(self, x: torch.Tensor) -> torch.Tensor:
        axes = [0, *range(2, x.ndim)]
        shape = (1, -1, *(1,) * (x.ndim - 2))
        count = _Sum.apply(torch.tensor(float(x.numel() // x.shape[1])))
        mean = _Sum.apply(x.sum(axes)) / count
        centered = x - mean.view(shape)
        variance = _Sum.apply(centered.square().sum(axes)) / count
        if self.track_running_stats:
            self._track(mean.detach(), variance.detach() * count / (count - 1))
        y = centered * (variance + self.eps).rsqrt().view(shape)
        return y if self.weight is None else y * self.weight.view(shape) + self.bias.view(shape)

    @torch.no_grad()
    def _track(self, mean: torch.Tensor, variance: torch.Tensor) -> None:
        self.num_batches_tracked.add_(1)
        share = self.momentum if self.momentum is not None else 1 / int(self.num_batches_tracked)
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)
