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
from tqdm import tqdm

from common.base.command import received_signal
from common.base.errors import UserError
from common.base.processes import rank
from common.base.progress import progress
from common.base.stages import Stages, duration
from common.data.dataset import SeededSampler, own_part
from common.model.calibration import Calibrated, calibrate, negative_log_likelihood
from common.model.device import to_device
from common.model.heads import AuxiliaryLoss
from common.model.metrics import Scores, score
from common.model.network import Classifier
from common.model.recipe import Recipe
from common.training.distributed import gather, highest, logits_of, sum_gradients
from common.training.mixing import BatchMix


class Stopped(Exception):
    """A signal asked the training to end; the argument is its number."""


class StopFlag:
    """Turns SIGINT and SIGTERM into a flag that is checked between steps; a second one ends at once.

    Repeats within one second are ignored: `timeout` and schedulers signal the process and its
    group. A signal received before the context was entered is honoured.
    """

    def __init__(self) -> None:
        self.signal: int | None = received_signal()
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
        """Return the signal that any of torchrun's processes got, the same at this step in all."""
        return highest(self.signal or 0) or None


@dataclasses.dataclass
class State:
    """Everything that changes during a training, and that --resume restores.

    `epoch` counts finished epochs and `step` the batches of the current one; `loss_sum` is the sum
    of the training loss over its `photos`, `own_sum` that of the task's own loss without auxiliary
    heads, `seconds` the time they took. `best` is the highest
    figure of merit so far, reached in `best_epoch`. `ema` is the moving average of the weights, if
    one is kept.
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
    own_sum: float = 0.0
    photos: int = 0
    seconds: float = 0.0
    best: float = -math.inf
    best_epoch: int = 0

    COUNTERS: ClassVar[tuple[str, ...]] = (
        "epoch",
        "step",
        "updates",
        "loss_sum",
        "own_sum",
        "photos",
        "seconds",
        "best",
        "best_epoch",
    )

    @property
    def validated(self) -> Classifier:
        """The network that is validated and saved: the moving average, if one is kept."""
        return self.model if self.ema is None else self.ema.module

    def to_dict(self) -> dict[str, Any]:
        """Return plain values and tensors, for a checkpoint's "training" part."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict() if self.scheduler else None,
            "scaler": self.scaler.state_dict(),
            "ema": self.ema.module.state_dict() if self.ema else None,
        } | {name: getattr(self, name) for name in self.COUNTERS}

    def load_dict(self, saved: dict[str, Any]) -> None:
        """Restore what `to_dict` returned."""
        self.optimizer.load_state_dict(saved["optimizer"])
        if self.scheduler:
            self.scheduler.load_state_dict(saved["scheduler"])
        self.scaler.load_state_dict(saved["scaler"])
        if self.ema:
            self.ema.module.load_state_dict(saved["ema"])
        for name in self.COUNTERS:
            setattr(self, name, saved.get(name, getattr(self, name)))


@dataclasses.dataclass(frozen=True)
class Settings:
    """Constants of a training, from the first step to the last.

    `criterion` is the training loss: (logits of the task and of all heads, targets) → scalar. `saved`
    are the logits that a checkpoint keeps.
    `amp_dtype` is the type of mixed precision, if any, and `mix` blends the photos of a batch.
    """

    recipe: Recipe
    device: torch.device
    amp_dtype: torch.dtype | None
    criterion: nn.Module
    saved: Sequence[int]
    mix: BatchMix | None = None

    def autocast(self) -> torch.autocast:
        """Return the context of the forward pass, in mixed precision if that is on."""
        enabled = self.amp_dtype is not None
        return torch.autocast(self.device.type, dtype=self.amp_dtype, enabled=enabled)

    def to_device(self, images: torch.Tensor) -> torch.Tensor:
        """Move a batch to the device, in the memory layout that convolutions are fastest on."""
        return to_device(images, self.device)

    def merit(self, scores: Scores, loss: float) -> float:
        """Return the figure whose highest value marks the best epoch, as --keep says."""
        return scores.macro_f1 if self.recipe.keep == "macro_f1" else -loss

    def updates(self, batches: int) -> int:
        """Count the optimizer's steps in an epoch of `batches`; the last may add up fewer."""
        return math.ceil(batches / self.recipe.grad_accum_steps)


@dataclasses.dataclass(frozen=True)
class EpochResult:
    """Figures of one epoch; `scores` and `val_loss` are over all held-out photos at once.

    `numbers` are those of `Recipe.number`, `lr` is that of the epoch's end, `train_loss` the task's
    own, to which the auxiliary heads add `heads_loss`.
    """

    epoch: int
    lr: float
    train_loss: float
    heads_loss: float
    val_loss: float
    scores: Scores
    predictions: Calibrated
    numbers: torch.Tensor | None
    photos_per_second: float
    seconds: float


@dataclasses.dataclass(frozen=True)
class Hooks:
    """Calls beside the training, and the time that each stage takes.

    `after_epoch(result, is_best)` logs and saves. `on_batch` is given what this process's network
    is trained on: images, targets, the targets of what is mixed in, or None, and the first ones'
    weight.
    """

    after_epoch: Callable[[EpochResult, bool], None]
    on_batch: Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None, float], None] | None = None
    stages: Stages = dataclasses.field(default_factory=Stages)


def train_one_epoch(
    state: State, loader: DataLoader, settings: Settings, hooks: Hooks, stop: StopFlag
) -> None:
    """Train on the rest of the current epoch.

    Every step seeds dropout from (seed, epoch, step): a resumed epoch goes on as if uninterrupted.

    Raises:
        Stopped: a signal came; the state is that between two steps.
        UserError: the loss is not finite.
    """
    state.model.train()
    batch_size = loader.batch_sampler.batch_size
    sampler: SeededSampler = loader.batch_sampler.sampler
    sampler.epoch, sampler.start = state.epoch, state.step * batch_size
    start, before = time.perf_counter(), state.photos
    batches, accumulate = state.step + len(loader), settings.recipe.grad_accum_steps
    title = f"{settings.recipe.task} {state.epoch + 1}/{settings.recipe.epochs}"
    losses = RunningLoss(state, every=loss_interval(settings.device))
    with progress(len(sampler), title, "photos", leave=False) as bar:
        for images, targets in hooks.stages.each(loader, "waiting for photos", "training steps"):
            seed_step(settings.recipe.seed, state.epoch, state.step)
            first = state.step // accumulate * accumulate
            group = min(accumulate, batches - first)
            updates = state.step == first + group - 1
            targets = gather(targets.to(settings.device, non_blocking=True))
            loss, own = _loss(state, settings.to_device(images), targets, settings, hooks)
            state.scaler.scale(loss / group).backward()
            losses.add(torch.stack((loss, own)), len(targets))
            state.step += 1
            if updates:
                _update(state, settings)
            state.photos += len(targets)
            bar.set_postfix(
                loss=f"{losses.mean():.3f}",
                lr=f"{learning_rate(state):.1e}",
                left=_left(state, settings, batches * batch_size, bar),
                refresh=False,
            )
            bar.update(len(targets))
            if updates and (number := stop.agreed()) is not None:
                losses.read()
                state.seconds += time.perf_counter() - start
                raise Stopped(number)
    losses.read()
    if state.photos > before:
        state.seconds += time.perf_counter() - start


def _loss(
    state: State, images: torch.Tensor, targets: torch.Tensor, settings: Settings, hooks: Hooks
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean loss of a batch, over the photos of all processes, and the task's own part.

    `images` are this process's part of the batch, `targets` those of all processes.
    """
    others, weight = None, 1.0
    if settings.mix is not None:
        images, targets, others, weight = settings.mix(gather(images), targets)
        images = settings.to_device(own_part(images))
    if hooks.on_batch is not None:
        mixed_in = None if others is None else own_part(others)
        hooks.on_batch(images, own_part(targets), mixed_in, weight)
    with settings.autocast():
        logits = gather(logits_of(state.model, images).float())
        loss, own = losses_of(settings.criterion, logits, targets)
        if weight < 1:
            loss_of_others, own_of_others = losses_of(settings.criterion, logits, others)
            loss = weight * loss + (1 - weight) * loss_of_others
            own = weight * own + (1 - weight) * own_of_others
    return loss, own.detach()


def losses_of(
    criterion: nn.Module, logits: torch.Tensor, targets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the loss to minimise, and the part of it that is the task's own."""
    if not isinstance(criterion, AuxiliaryLoss):
        loss = criterion(logits, targets)
        return loss, loss
    own, heads = criterion.parts(logits, targets)
    return own + heads, own


def _left(state: State, settings: Settings, photos: int, bar: tqdm) -> str:
    """Estimate the time that the rest of the training takes, epochs of `photos` each."""
    rate = bar.format_dict["rate"] or (bar.n / max(bar.format_dict["elapsed"], 1e-9))
    epochs = settings.recipe.epochs - state.epoch - 1
    rest = bar.total - bar.n + epochs * photos
    return duration(rest / rate).replace(" ", "") if rate else "?"


def loss_interval(device: torch.device) -> int:
    """Return after how many steps a loss is read: each reading waits for all that a GPU has to do."""
    return 1 if device.type == "cpu" else 20


class RunningLoss:
    """Adds up an epoch's losses in `state.loss_sum`, and reads them from the device now and then.

    With `every` 1 a loss that isn't finite is noticed before the update that it would spoil, else at
    most `every` steps later: before anything is saved, in any case.
    """

    def __init__(self, state: State, every: int) -> None:
        self.state, self.every = state, every
        self.sum: torch.Tensor | float = 0.0  # of the loss, and of its own part
        self.steps, self.photos, self.counted = 0, 0, state.photos

    def add(self, loss: torch.Tensor, photos: int) -> None:
        """Add a batch of `photos`: its mean loss, and of this the task's own part, as (2,).

        Raises:
            UserError: a loss was read that is not finite.
        """
        if self.every == 1:
            self._count(loss.detach() * photos, photos)
            return
        self.sum = self.sum + loss.detach() * photos
        self.steps, self.photos = self.steps + 1, self.photos + photos
        if self.steps == self.every:
            self.read()

    def read(self) -> None:
        """Read what was added since the last reading.

        Raises:
            UserError: it is not finite.
        """
        if self.steps:
            self._count(self.sum, self.photos)
            self.sum, self.steps, self.photos = 0.0, 0, 0

    def mean(self) -> float:
        """Return the mean of the task's own loss in this epoch, as far as it has been read."""
        return self.state.own_sum / max(self.counted, 1)

    def _count(self, sums: torch.Tensor, photos: int) -> None:
        loss, own = sums.tolist()
        self.state.loss_sum += self._finite(loss)
        self.state.own_sum += own
        self.counted += photos

    def _finite(self, number: float) -> float:
        state = self.state
        if not math.isfinite(number):
            raise UserError(
                f"the loss is {number} in epoch {state.epoch + 1}, step {state.step + 1} (lr "
                f"{learning_rate(state):.1e}): stopped before the update, saved files are untouched; "
                "a smaller --lr, --clip-grad 1 or --no-amp may help"
            )
        return number


def _update(state: State, settings: Settings) -> None:
    """Step the optimizer, the schedule and the moving average."""
    sum_gradients(state.model.parameters())
    if settings.recipe.clip_grad is not None:
        state.scaler.unscale_(state.optimizer)
        nn.utils.clip_grad_norm_(state.model.parameters(), settings.recipe.clip_grad)
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

    torchrun's processes draw different dropout, but mix the batch alike.
    """
    derived = int(np.random.SeedSequence((seed, epoch, step)).generate_state(1)[0])
    torch.manual_seed(derived + rank())
    np.random.seed(derived)


def learning_rate(state: State) -> float:
    """Return the learning rate of the first parameter group."""
    return state.optimizer.param_groups[0]["lr"]


@torch.inference_mode()
def evaluate(
    model: Classifier, loader: DataLoader, settings: Settings
) -> tuple[float, Scores, Calibrated, torch.Tensor | None]:
    """Predict every row: mean negative log-likelihood, scores, predictions, and numbers if any.

    The scores are those of calibrated probabilities, which the saved model predicts with: if
    several logits make up a class, the temperature can change which class is the most probable.

    Raises:
        UserError: a logit is not finite.
    """
    model.eval()
    outputs, targets = [], []
    recipe = settings.recipe
    with progress(len(loader.dataset), "validate", "photos", leave=False) as bar:
        for images, batch in loader:
            with settings.autocast():
                logits = logits_of(model, settings.to_device(images))
            outputs.append(gather(logits.float()))
            targets.append(gather(batch))
            bar.update(len(targets[-1]))
    logits, y = torch.cat(outputs).cpu(), torch.cat(targets)  # once: each copy waits for the GPU
    if not logits.isfinite().all():
        raise UserError(
            "the model gives no numbers on the validation photos: stopped, saved files are "
            "untouched; a smaller --lr or --clip-grad 1 may help"
        )
    own = logits[:, : recipe.outputs]  # without the auxiliary heads'
    found = calibrate(own, y, recipe.probabilities)
    predicted = found.probabilities.argmax(dim=1)
    loss = negative_log_likelihood(found.uncalibrated, y)
    numbers = recipe.number(logits[:, settings.saved], found.temperature)
    return loss, score(y.tolist(), predicted.tolist(), len(recipe.classes)), found, numbers


def fit(
    state: State,
    loaders: tuple[DataLoader, DataLoader],
    settings: Settings,
    hooks: Hooks,
    stop: StopFlag,
) -> None:
    """Train to the last epoch, or until patience ends, and validate after each.

    The best epoch is the first with the highest macro F1, or the lowest loss, in validation.

    Raises:
        Stopped: a signal came.
        UserError: the loss or a logit is not finite.
    """
    training, validation = loaders
    while not finished(state, settings.recipe):
        train_one_epoch(state, training, settings, hooks, stop)
        with hooks.stages("validation"):
            loss, scores, found, numbers = evaluate(state.validated, validation, settings)
        result = EpochResult(
            epoch=state.epoch + 1,
            lr=learning_rate(state),
            train_loss=state.own_sum / max(state.photos, 1),
            heads_loss=(state.loss_sum - state.own_sum) / max(state.photos, 1),
            val_loss=loss,
            scores=scores,
            predictions=found,
            numbers=numbers,
            photos_per_second=state.photos / max(state.seconds, 1e-9),
            seconds=state.seconds,
        )
        merit = settings.merit(scores, loss)
        best = merit > state.best
        if best:
            state.best, state.best_epoch = merit, state.epoch + 1
        state.epoch, state.step = state.epoch + 1, 0
        state.loss_sum, state.own_sum, state.photos, state.seconds = 0.0, 0.0, 0, 0.0
        with hooks.stages("saving"):
            hooks.after_epoch(result, best)
        if not finished(state, settings.recipe) and (number := stop.agreed()) is not None:
            raise Stopped(number)


def finished(state: State, recipe: Recipe) -> bool:
    """Tell whether the last epoch is done, or patience has ended."""
    waited = state.epoch - state.best_epoch
    return state.epoch >= recipe.epochs or waited >= (recipe.patience or recipe.epochs)
