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
from timm.utils import ModelEmaV3
from torch import nn
from torch.utils.data import DataLoader

from common.base.command import RECEIVED
from common.base.errors import UserError
from common.base.processes import rank
from common.base.progress import progress
from common.base.stages import Stages
from common.data.dataset import SeededSampler, own_part
from common.model.calibration import fit_temperature, negative_log_likelihood
from common.model.metrics import Scores, score
from common.model.network import Classifier
from common.training.distributed import gather, highest, logits_of, sum_gradients
from common.training.mixing import BatchMix


class Stopped(Exception):
    """A signal asked the training to end; the argument is its number."""


class StopFlag:
    """Turns SIGINT and SIGTERM into a flag that is looked at between steps; twice means at once.

    Within a second the same one counts once: `timeout` and schedulers send it to a process and,
    again, to its group. One that came before and was lost in somebody's `except:` counts, too.
    """

    def __init__(self) -> None:
        self.signal: int | None = next(iter(RECEIVED), None)
        self._since = time.monotonic()

    def __enter__(self) -> "StopFlag":
        self._before = {s: signal.signal(s, self._note) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal is None:
            self.signal, self._since = number, time.monotonic()
        elif number != self.signal or time.monotonic() > self._since + 1:
            if callable(self._before[number]):
                self._before[number](number, frame)
            raise KeyboardInterrupt

    def agreed(self) -> int | None:
        """The signal that any process got, as of the same step in all of them."""
        return highest(self.signal or 0) or None


@dataclasses.dataclass
class State:
    """All that a training continues from: the learner and how far it has come.

    `epoch` counts whole epochs done and `step` the batches of the epoch under way; `loss_sum` adds
    up the training loss of its `photos`. `best` is the highest figure of merit so far, in
    `best_epoch`. `ema` is the moving average of the weights, where one is kept.
    """

    model: Classifier
    optimizer: torch.optim.Optimizer
    scheduler: Scheduler | None
    scaler: torch.amp.GradScaler
    ema: ModelEmaV3 | None = None
    epoch: int = 0
    step: int = 0
    updates: int = 0
    loss_sum: float = 0.0
    photos: int = 0
    seconds: float = 0.0
    best: float = -math.inf
    best_epoch: int = 0

    COUNTERS: ClassVar[tuple[str, ...]] = (
        "epoch", "step", "updates", "loss_sum", "photos", "seconds", "best", "best_epoch",
    )  # fmt: skip

    @property
    def answering(self) -> Classifier:
        """The network that is validated and kept."""
        return self.model if self.ema is None else self.ema.module

    def to_dict(self) -> dict[str, Any]:
        """Plain values and tensors, for a checkpoint's "training" part."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict() if self.scheduler else None,
            "scaler": self.scaler.state_dict(),
            "ema": self.ema.module.state_dict() if self.ema else None,
        } | {name: getattr(self, name) for name in self.COUNTERS}

    def load_dict(self, saved: dict[str, Any]) -> None:
        """The inverse of `to_dict`."""
        self.optimizer.load_state_dict(saved["optimizer"])
        if self.scheduler:
            self.scheduler.load_state_dict(saved["scheduler"])
        self.scaler.load_state_dict(saved["scaler"])
        if self.ema:
            self.ema.module.load_state_dict(saved["ema"])
        for name in self.COUNTERS:
            setattr(self, name, saved[name])


@dataclasses.dataclass(frozen=True)
class Settings:
    """How steps are made, and which epoch is kept.

    Gradients of `accumulate` batches make a step; `keep` is macro_f1 or loss; after `patience`
    epochs without a better one training ends. `look` is shown what the network is trained on in
    this process: images, labels, the labels of what is mixed in, if anything, the first ones' share.
    """

    device: torch.device
    amp_dtype: torch.dtype | None
    clip_grad: float | None
    seed: int
    accumulate: int = 1
    mix: BatchMix | None = None
    keep: str = "macro_f1"
    patience: int | None = None
    look: Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None, float], None] | None = None

    def autocast(self) -> torch.autocast:
        enabled = self.amp_dtype is not None
        return torch.autocast(self.device.type, dtype=self.amp_dtype, enabled=enabled)

    def to_device(self, images: torch.Tensor) -> torch.Tensor:
        return images.to(self.device, non_blocking=True, memory_format=torch.channels_last)

    def merit(self, scores: Scores, loss: float) -> float:
        """What the epoch that is kept has most of."""
        return scores.macro_f1 if self.keep == "macro_f1" else -loss

    def updates(self, batches: int) -> int:
        """Steps of the optimizer in an epoch of `batches`; the last may hold fewer."""
        return math.ceil(batches / self.accumulate)


@dataclasses.dataclass(frozen=True)
class EpochResult:
    """What one epoch brought.

    `scores` are the validation's, over all rows at once, and `logits` (photos, outputs) its
    answers, in the order of the data set; `temperature` is what they are divided by to be scored.
    """

    epoch: int
    lr: float
    train_loss: float
    val_loss: float
    scores: Scores
    logits: torch.Tensor
    temperature: float
    photos_per_second: float
    seconds: float


def train_one_epoch(
    state: State,
    loader: DataLoader,
    criterion: nn.Module,
    settings: Settings,
    stop: StopFlag,
    title: str,
    stages: Stages,
) -> None:
    """Train on the rest of the epoch under way; raises Stopped between steps when asked to.

    Every step seeds dropout from (seed, epoch, step): a resumed epoch goes on as if uninterrupted.
    """
    state.model.train()
    batch_size = loader.batch_sampler.batch_size
    sampler: SeededSampler = loader.batch_sampler.sampler
    sampler.epoch, sampler.start = state.epoch, state.step * batch_size
    start, before = time.perf_counter(), state.photos
    batches = state.step + len(loader)
    with progress(len(sampler), title, "photos", leave=False) as bar:
        for images, labels in stages.each(loader, "waiting for photos", "training steps"):
            seed_step(settings.seed, state.epoch, state.step)
            place, first = state.step, state.step // settings.accumulate * settings.accumulate
            group = min(settings.accumulate, batches - first)
            labels = gather(labels.to(settings.device, non_blocking=True))
            loss = _loss(state, settings.to_device(images), labels, criterion, settings)
            state.scaler.scale(loss / group).backward()
            # Only now is a GPU waited for: it has all of the step's work but the update.
            state.loss_sum += _number(loss, state) * len(labels)
            state.step += 1
            if place == first + group - 1:
                _update(state, settings)
            state.photos += len(labels)
            bar.set_postfix(
                loss=f"{state.loss_sum / state.photos:.3f}", lr=f"{learning_rate(state):.1e}",
                refresh=False,
            )  # fmt: skip
            bar.update(len(labels))
            if place == first + group - 1 and (number := stop.agreed()) is not None:
                state.seconds += time.perf_counter() - start
                raise Stopped(number)
    if state.photos > before:
        state.seconds += time.perf_counter() - start


def _loss(
    state: State,
    images: torch.Tensor,
    labels: torch.Tensor,
    criterion: nn.Module,
    settings: Settings,
) -> torch.Tensor:
    """The mean loss of a batch, of all processes' photos together.

    `images` are this process's part of it, `labels` those of all.
    """
    others, share = None, 1.0
    if settings.mix is not None:
        images, labels, others, share = settings.mix(gather(images), labels)
        images = settings.to_device(own_part(images))
    if settings.look is not None:
        settings.look(images, own_part(labels), None if others is None else own_part(others), share)
    with settings.autocast():
        logits = gather(logits_of(state.model, images).float())
        loss = criterion(logits, labels)
        if share < 1:
            loss = share * loss + (1 - share) * criterion(logits, others)
    return loss


def _number(loss: torch.Tensor, state: State) -> float:
    """The loss as a number; UserError where it isn't one."""
    number = loss.item()
    if not math.isfinite(number):
        raise UserError(
            f"the loss is {number} in epoch {state.epoch + 1}, step {state.step + 1} (lr "
            f"{learning_rate(state):.1e}): stopped before the update, saved files are untouched; "
            "a smaller --lr, --clip-grad 1 or --no-amp may help"
        )
    return number


def _update(state: State, settings: Settings) -> None:
    """One step of the optimizer, and of all that follows it."""
    sum_gradients(state.model.parameters())
    if settings.clip_grad is not None:
        state.scaler.unscale_(state.optimizer)
        nn.utils.clip_grad_norm_(state.model.parameters(), settings.clip_grad)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.optimizer.zero_grad(set_to_none=True)
    state.updates += 1
    if state.scheduler is not None:
        state.scheduler.step_update(state.updates)
    if state.ema is not None:
        state.ema.update(state.model, step=state.updates)


def seed_step(seed: int, epoch: int, step: int) -> None:
    """Seed torch's generators, and numpy's, from which timm's mixup draws, for one step.

    Processes drop out at random each in its own way, but mix the same batch.
    """
    derived = int(np.random.SeedSequence((seed, epoch, step)).generate_state(1)[0])
    torch.manual_seed(derived + rank())
    np.random.seed(derived)


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
) -> tuple[float, Scores, torch.Tensor, float]:
    """Mean negative log-likelihood, scores, logits of every row in full precision, temperature.

    The scores are those of calibrated probabilities, as the model will answer with them: where
    several logits make a class, a temperature may change which class is the likeliest.
    """
    model.eval()
    outputs, labels = [], []
    rows = len(loader.dataset)
    with progress(rows, "validate", "photos", leave=False) as bar:
        for images, batch_labels in loader:
            logits = logits_of(model, settings.to_device(images))
            outputs.append(gather(logits.float()).cpu())
            labels.append(gather(batch_labels))
            bar.update(len(labels[-1]))
    logits, y = torch.cat(outputs), torch.cat(labels)
    if not logits.isfinite().all():
        raise UserError(
            "the model gives no numbers on the validation photos: stopped, saved files are "
            "untouched; a smaller --lr or --clip-grad 1 may help"
        )
    temperature = fit_temperature(logits, y, probabilities)
    answers = probabilities(logits / temperature).argmax(dim=1)
    loss = negative_log_likelihood(probabilities(logits), y)
    return loss, score(y.tolist(), answers.tolist(), classes), logits, temperature


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
    stages: Stages,
) -> None:
    """Train to the last epoch, or until patience ends; `after_epoch(result, is_best)` saves.

    The best epoch is the first with the highest macro F1, or the lowest loss, in validation.
    """
    training, validation = loaders
    while not finished(state, settings, epochs):
        lr = learning_rate(state)
        name = f"{title} {state.epoch + 1}/{epochs}"
        train_one_epoch(state, training, criterion, settings, stop, name, stages)
        with stages("validation"):
            loss, scores, logits, temperature = evaluate(
                state.answering, validation, probabilities, len(classes), settings
            )
        train_loss = state.loss_sum / max(state.photos, 1)
        rate = state.photos / max(state.seconds, 1e-9)
        result = EpochResult(
            state.epoch + 1, lr, train_loss, loss, scores, logits, temperature, rate, state.seconds
        )
        merit = settings.merit(scores, loss)
        best = merit > state.best
        if best:
            state.best, state.best_epoch = merit, state.epoch + 1
        state.epoch, state.step = state.epoch + 1, 0
        state.loss_sum, state.photos, state.seconds = 0.0, 0, 0.0
        with stages("saving"):
            after_epoch(result, best)
        if not finished(state, settings, epochs) and (number := stop.agreed()) is not None:
            raise Stopped(number)


def finished(state: State, settings: Settings, epochs: int) -> bool:
    """Whether the last epoch is done, or patience has ended."""
    waited = state.epoch - state.best_epoch
    return state.epoch >= epochs or waited >= (settings.patience or epochs)
