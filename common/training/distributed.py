"""Training in the processes that torchrun starts, with the results of a single one.

Every process takes its part of each batch. The logits of all parts are gathered, so that each
process computes the loss of the whole batch, whatever the loss, and the gradient of its own part;
these are added up before the step. Batch normalisation uses statistics of the whole batch. With a
single process the functions here do nothing.
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

MEET_TIMEOUT = timedelta(seconds=60)  # for all processes to start
STEP_TIMEOUT = timedelta(seconds=40)  # for one that hangs or is cut off; an end is noticed at once
WORK_TIMEOUT = timedelta(hours=12)  # for the first process's own work, and for cropping


@contextlib.contextmanager
def process_group(device: torch.device, batch_size: int) -> Iterator[None]:
    """Join the other processes, which share batches of `batch_size`, until all are done.

    Raises:
        UserError: the batch can't be divided evenly, or another process can't be reached.
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
            # torch keeps the store, with the addresses of dead processes (its issue 135712).
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
    """Turn the error of a broken or silent connection into one line."""
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
    """Call `make` in the first process, and return its result in all; they wait for hours."""
    if processes() == 1:
        return make()
    found = [make() if is_main() else None]
    with _lost():
        dist.broadcast_object_list(found, src=0, group=_patient())
    return found[0]


def check_same(digest: Callable[[], str]) -> None:
    """Check that all processes start alike.

    Raises:
        UserError: the digest differs from the first process's.
    """
    if processes() == 1:
        return
    own = digest()
    if from_main(lambda: own) != own:
        raise UserError(
            f"process {rank()} has other photos, labels, weights or flags than process 0: all "
            "machines need the same data, files and command"
        )


def highest(number: int) -> int:
    """Return the highest of all processes' numbers."""
    if processes() == 1:
        return number
    found = torch.tensor(number)
    with _lost():
        dist.all_reduce(found, dist.ReduceOp.MAX)
    return int(found)


def gather(part: torch.Tensor) -> torch.Tensor:
    """Join (photos of this process, …) to (photos of all, …) in the order of the processes.

    Gradients flow to this process's own part only: each process has the loss of the whole batch.
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
    """Sum over the processes; unlike with all_reduce, gradients are summed as well."""

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
    """Compute the logits of `images`, even if a last, short batch leaves this process none.

    Not all networks accept an empty batch; those with batch normalisation must be called with it,
    as all processes exchange statistics.
    """
    if len(images):
        return model(images)
    if model.training and any(isinstance(part, nn.SyncBatchNorm) for part in model.modules()):
        return model(images)
    return model(images.new_zeros(1, *images.shape[1:]))[:0]


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Add up the processes' gradients.

    DistributedDataParallel takes their mean, which is right for a loss of each process's own.
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
    """Make batch normalisation use the whole batch of all processes, with timm and torch."""
    if processes() == 1:
        return model
    model = convert_sync_batchnorm(model)
    if device.type == "cpu":
        for module in model.modules():
            if isinstance(module, nn.SyncBatchNorm):
                module.__class__ = CpuSyncBatchNorm  # timm can only make SyncBatchNormAct
    return model


class CpuSyncBatchNorm(SyncBatchNormAct):
    """Batch normalisation over all processes on a CPU, which torch's SyncBatchNorm doesn't have.

    It may have dropout and an activation, as timm's layers do.
    """

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
