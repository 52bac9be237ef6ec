"""The training engine: one pass of training, one of validation, and the epochs around them."""

import dataclasses
import math
import signal
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, ClassVar

import numpy as np
import torch
from timm.scheduler.scheduler import Scheduler
from torch import nn
from torch.utils.data import DataLoader

from common.data.dataset import SeededSampler, loader_errors
from common.errors import UserError
from common.progress import progress
from common.training.metrics import Scores, score
from common.training.model import Classifier


class Stopped(Exception):
    """A signal asked the training to end; the argument is its number."""


class StopFlag:
    """Turns SIGINT and SIGTERM into a flag that is looked at between steps; twice means at once."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __enter__(self) -> "StopFlag":
        self._before = {s: signal.signal(s, self._note) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number


@dataclasses.dataclass
class State:
    """All that a training continues from: the learner and how far it has come.

    `epoch` counts whole epochs done and `step` the steps of the epoch under way; `loss_sum` adds
    up the training loss of its `photos`.
    """

    model: Classifier
    optimizer: torch.optim.Optimizer
    scheduler: Scheduler | None
    scaler: torch.amp.GradScaler
    epoch: int = 0
    step: int = 0
    updates: int = 0
    loss_sum: float = 0.0
    photos: int = 0
    seconds: float = 0.0
    best_macro_f1: float = -1.0

    COUNTERS: ClassVar[tuple[str, ...]] = (
        "epoch", "step", "updates", "loss_sum", "photos", "seconds", "best_macro_f1",
    )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Plain values and tensors, for a checkpoint's "training" part."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict() if self.scheduler else None,
            "scaler": self.scaler.state_dict(),
        } | {name: getattr(self, name) for name in self.COUNTERS}

    def load_dict(self, saved: dict[str, Any]) -> None:
        """The inverse of `to_dict`."""
        self.optimizer.load_state_dict(saved["optimizer"])
        if self.scheduler:
            self.scheduler.load_state_dict(saved["scheduler"])
        self.scaler.load_state_dict(saved["scaler"])
        for name in self.COUNTERS:
            setattr(self, name, saved[name])


@dataclasses.dataclass(frozen=True)
class Settings:
    """How steps are made: where, how precisely, and with which limit on the gradient."""

    device: torch.device
    amp_dtype: torch.dtype | None
    clip_grad: float | None
    seed: int

    def autocast(self) -> torch.autocast:
        enabled = self.amp_dtype is not None
        return torch.autocast(self.device.type, dtype=self.amp_dtype, enabled=enabled)

    def to_device(self, images: torch.Tensor) -> torch.Tensor:
        return images.to(self.device, non_blocking=True, memory_format=torch.channels_last)


@dataclasses.dataclass(frozen=True)
class EpochResult:
    """What one epoch brought; `scores` are the validation's, over all rows at once."""

    epoch: int
    lr: float
    train_loss: float
    val_loss: float
    scores: Scores
    photos_per_second: float
    seconds: float


def train_one_epoch(
    state: State,
    loader: DataLoader,
    criterion: nn.Module,
    settings: Settings,
    stop: StopFlag,
    title: str,
) -> None:
    """Train on the rest of the epoch under way; raises Stopped between steps when asked to.

    Every step seeds dropout from (seed, epoch, step): a resumed epoch goes on as if uninterrupted.
    """
    state.model.train()
    sampler: SeededSampler = loader.sampler
    sampler.epoch, sampler.start = state.epoch, state.step * loader.batch_size
    start, before = time.perf_counter(), state.photos
    with loader_errors(), progress(len(sampler), title, "photos", leave=False) as bar:
        for images, labels in loader:
            seed_step(settings.seed, state.epoch, state.step)
            loss = _step(state, settings.to_device(images), labels, criterion, settings)
            state.loss_sum += loss * len(labels)
            state.photos += len(labels)
            bar.update(len(labels))
            bar.set_postfix(
                loss=f"{state.loss_sum / state.photos:.3f}", lr=f"{learning_rate(state):.1e}"
            )
            if stop.signal is not None:
                state.seconds += time.perf_counter() - start
                raise Stopped(stop.signal)
    if state.photos > before:
        state.seconds += time.perf_counter() - start


def _step(
    state: State,
    images: torch.Tensor,
    labels: torch.Tensor,
    criterion: nn.Module,
    settings: Settings,
) -> float:
    with settings.autocast():
        loss = criterion(state.model(images).float(), labels.to(settings.device))
    value = loss.item()
    if not math.isfinite(value):
        raise UserError(
            f"the loss is {value} in epoch {state.epoch + 1}, step {state.step + 1} (lr "
            f"{learning_rate(state):.1e}): stopped before the update, saved files are untouched; "
            "a smaller --lr, --clip-grad 1 or --no-amp may help"
        )
    state.optimizer.zero_grad(set_to_none=True)
    state.scaler.scale(loss).backward()
    if settings.clip_grad is not None:
        state.scaler.unscale_(state.optimizer)
        nn.utils.clip_grad_norm_(state.model.parameters(), settings.clip_grad)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.step += 1
    state.updates += 1
    if state.scheduler is not None:
        state.scheduler.step_update(state.updates)
    return value


def seed_step(seed: int, epoch: int, step: int) -> None:
    """Seed torch's generators for one step."""
    torch.manual_seed(int(np.random.SeedSequence((seed, epoch, step)).generate_state(1)[0]))


def learning_rate(state: State) -> float:
    """The first parameter group's learning rate."""
    return state.optimizer.param_groups[0]["lr"]


@torch.inference_mode()
def evaluate(
    model: Classifier,
    loader: DataLoader,
    probabilities: Callable[[torch.Tensor], torch.Tensor],
    classes: int,
    settings: Settings,
) -> tuple[float, Scores]:
    """Mean negative log-likelihood and scores over every row of `loader`, in full precision."""
    model.eval()
    outputs, labels = [], []
    rows = len(loader.dataset)
    with loader_errors(), progress(rows, "validate", "photos", leave=False) as bar:
        for images, batch_labels in loader:
            outputs.append(probabilities(model(settings.to_device(images))).cpu())
            labels.append(batch_labels)
            bar.update(len(batch_labels))
    p, y = torch.cat(outputs), torch.cat(labels)
    if not p.isfinite().all():
        raise UserError(
            "the model gives no numbers on the validation photos: stopped, saved files are "
            "untouched; a smaller --lr or --clip-grad 1 may help"
        )
    loss = -p.gather(1, y[:, None]).clamp_min(1e-12).log().mean()
    return loss.item(), score(y.tolist(), p.argmax(dim=1).tolist(), classes)


def fit(
    state: State,
    loaders: tuple[DataLoader, DataLoader],
    criterion: nn.Module,
    probabilities: Callable[[torch.Tensor], torch.Tensor],
    classes: Sequence[str],
    settings: Settings,
    *,
    epochs: int,
    title: str,
    after_epoch: Callable[[EpochResult, bool], None],
    stop: StopFlag,
) -> None:
    """Train to the last epoch; `after_epoch(result, is_best)` saves.

    The best epoch is the first with the highest validation macro F1.
    """
    training, validation = loaders
    while state.epoch < epochs:
        lr = learning_rate(state)
        name = f"{title} {state.epoch + 1}/{epochs}"
        train_one_epoch(state, training, criterion, settings, stop, name)
        loss, scores = evaluate(state.model, validation, probabilities, len(classes), settings)
        train_loss = state.loss_sum / max(state.photos, 1)
        rate = state.photos / max(state.seconds, 1e-9)
        result = EpochResult(state.epoch + 1, lr, train_loss, loss, scores, rate, state.seconds)
        best = scores.macro_f1 > state.best_macro_f1
        if best:
            state.best_macro_f1 = scores.macro_f1
        state.epoch, state.step = state.epoch + 1, 0
        state.loss_sum, state.photos, state.seconds = 0.0, 0, 0.0
        after_epoch(result, best)
        if stop.signal is not None and state.epoch < epochs:
            raise Stopped(stop.signal)
