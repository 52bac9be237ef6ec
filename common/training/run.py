"""One training from the folder of photos to the checkpoint."""

import contextlib
import dataclasses
import itertools
import math
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Hashable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3

from common.data.dataset import FaceDataset, Prepared, SeededSampler, make_loader, prepare_crops
from common.data.layout import Face, read_faces
from common.data.split import make_split, missing_strata
from common.errors import UserError
from common.files import writable_file, write_whole
from common.recipe import Recipe, Run, plain
from common.report.experiments import record
from common.training import checkpoint
from common.training.device import amp_dtype, describe_device, pick_device, share_cores
from common.training.engine import EpochResult, Settings, State, StopFlag, Stopped, fit
from common.training.log import RunLog
from common.training.mixing import make_mix
from common.training.model import Classifier, create_classifier
from common.training.resume import BEST, LAST
from common.training.wandb_log import check_wandb


@dataclasses.dataclass(frozen=True)
class Data:
    """What a training learns from and is judged by.

    `counts` are training photos per class; `groups`, one a training photo, are what the sampler
    draws equally often, if anything.
    """

    training: FaceDataset
    validation: FaceDataset
    counts: list[int]
    groups: list[Hashable]


def train(recipe: Recipe, run: Run) -> int:
    """Train `recipe` as `run` says; returns the exit status.

    Whatever can be wrong with the flags is found before the photos are cropped.
    """
    started = time.perf_counter()
    device = pick_device(run.device)
    share_cores(device, loader_workers(run.workers, device))
    out, logs = writable_file(run.out_file(recipe.task)), log_root(run.log_dir / recipe.task)
    if run.log_wandb:
        check_wandb()
    faces = read_faces(run.data_dir())
    people, split = make_split(
        {face.person for face in faces}, folds=run.folds, fold=run.fold, limit=run.limit
    )
    print(f"{recipe.task}: {', '.join(recipe.classes)}; {describe_device(device)}")
    shown = ", ".join(f"{name} {value}" for name, value in recipe.to_dict().items())
    print(textwrap.fill(f"recipe: {shown}", width=100, subsequent_indent="  "))
    warn(missing_strata(people, split["held_out"]))
    model, optimizer = make_learner(recipe, device, resumed=run.resume is not None)
    chosen = [face for face in faces if face.person in people]
    prepared = prepare_crops(
        [face.path for face in chosen],
        checkpoint.crop_spec(recipe),
        run.cache_dir,
        workers=run.workers,
        allow_bad=run.allow_bad,
    )
    report_crops(prepared, recipe)
    data = datasets(recipe, chosen, prepared.files, set(split["held_out"]))
    learner = Learner(recipe, run, model, optimizer, split, data)
    folder = run.resume.parent if run.resume else new_run_folder(logs)
    return learner.train(out, folder, started)


def make_learner(
    recipe: Recipe, device: torch.device, *, resumed: bool
) -> tuple[Classifier, torch.optim.Optimizer]:
    """The network on its device and its optimizer; UserError where the recipe can't be had."""
    torch.manual_seed(recipe.seed)
    model, origin = create_classifier(recipe, resumed=resumed)
    model = model.to(device, memory_format=torch.channels_last)
    print(f"model: {recipe.model}, {origin}, input {recipe.size[0]} x {recipe.size[1]}")
    return model, make_optimizer(recipe, model)


class Learner:
    """A model with its data, optimizer and schedule, from the first step to the last."""

    def __init__(
        self,
        recipe: Recipe,
        run: Run,
        model: Classifier,
        optimizer: torch.optim.Optimizer,
        split: dict[str, Any],
        data: Data,
    ) -> None:
        self.recipe, self.run, self.split, self.counts = recipe, run, split, data.counts
        device = model.mean.device
        dtype = amp_dtype(device) if run.amp else None
        self.settings = Settings(
            device, dtype, recipe.clip_grad, recipe.seed, recipe.grad_accum_steps,
            make_mix(recipe), recipe.keep, recipe.patience,
        )  # fmt: skip
        sampler = SeededSampler(len(data.training), recipe.seed, data.groups)
        workers = loader_workers(run.workers, device)
        self.loaders = (
            make_loader(data.training, recipe.batch_size, workers=workers, sampler=sampler),
            make_loader(data.validation, recipe.batch_size, workers=workers),
        )
        self.state = State(
            model,
            optimizer,
            make_scheduler(recipe, optimizer, self.settings.updates(len(self.loaders[0]))),
            torch.amp.GradScaler(device.type, enabled=dtype is torch.float16),
            make_ema(recipe, model),
        )
        self.best: dict[str, Any] = {}
        if run.resume:
            self._resume(run.resume)

    def _resume(self, path: Path) -> None:
        content = checkpoint.read(path)
        saved = content["card"]["split"]
        if saved["hash"] != self.split["hash"] or saved["held_out"] != self.split["held_out"]:
            raise UserError(f"--resume {path}: {self.run.data_dir()} is split otherwise by now")
        self.state.model.backbone.load_state_dict(content["state_dict"])
        self.state.load_dict(content["training"])
        self.best = content["card"]["metrics"]
        print(f"resumed: {path}, epoch {self.state.epoch + 1}, step {self.state.step + 1}")

    def train(self, out: Path, folder: Path, started: float) -> int:
        """Fit, save the best epoch to `out`, and say how it went; returns the exit status."""
        recipe, state = self.recipe, self.state
        self.out, self.folder = out, folder
        if self.best:  # resumed, perhaps to another file than before
            self._publish()
        if state.epoch >= recipe.epochs:
            print(f"nothing left to train: {folder / LAST} has all {recipe.epochs} epochs → {out}")
            return 0
        self.log = RunLog(folder, recipe, self.run, self.split, state.epoch)
        criterion = recipe.criterion(self.counts).to(self.settings.device)
        print(f"loss: {criterion}\nlog: {folder}")
        try:
            with StopFlag() as stop:
                fit(
                    state, self.loaders, criterion, recipe.probabilities, recipe.classes,
                    self.settings, epochs=recipe.epochs, title=recipe.task,
                    after_epoch=self._after_epoch, stop=stop,
                )  # fmt: skip
        except Stopped as stopped:
            return self._stopped(stopped.args[0])
        finally:
            self._record(time.perf_counter() - started)
            self.log.close()
        self._finish(time.perf_counter() - started)
        return 0

    def _after_epoch(self, result: EpochResult, best: bool) -> None:
        figures = metrics(result, self.recipe.classes)
        self.log.epoch(result, figures, best)
        if best:
            self.best = figures
            self._save(self.folder / BEST)
            self._publish()
        print(epoch_line(result, self.recipe.epochs, "best" if best else ""))
        self._save(self.folder / LAST, training=True)

    def _save(self, path: Path, training: bool = False) -> None:
        model = self.state.model if training else self.state.answering
        card = checkpoint.make_card(self.recipe, model, split=self.split, metrics=self.best)
        state = {"run": run_flags(self.run), **self.state.to_dict()} if training else None
        try:
            checkpoint.save(path, card, model.backbone.state_dict(), state)
        except OSError as error:
            raise UserError(f"{path}: could not be saved ({error.strerror})") from None

    def _publish(self) -> None:
        """Copy the best epoch's checkpoint to where the user wants it."""
        try:
            write_whole(self.out, (self.folder / BEST).read_bytes(), sync=True)
        except OSError as error:
            raise UserError(f"{self.out}: could not be saved ({error.strerror})") from None

    def _stopped(self, number: int) -> int:
        last = self.folder / LAST
        self._save(last, training=True)
        print(
            f"\nstopped in epoch {self.state.epoch + 1} of {self.recipe.epochs}; saved to {last}\n"
            f"to go on: python -m {self.recipe.task}.train --resume {last}"
        )
        return 128 + number

    def _record(self, seconds: float) -> None:
        if self.best:
            record(
                self.recipe, self.run, self.split, self.best, commit=self.log.commit,
                epochs=self.state.epoch, seconds=seconds, out=self.out, folder=self.folder,
            )  # fmt: skip

    def _finish(self, seconds: float) -> None:
        best = self.best
        print(
            f"{self.recipe.task}: macro F1 {best['macro_f1']:.4f}, accuracy "
            f"{best['accuracy']:.4f} in epoch {best['epoch']}, on {best['photos']:,} photos of "
            f"{len(self.split['held_out']):,} persons that training never saw; "
            f"{seconds / 60:.1f} min → {self.out}"
        )


def metrics(result: EpochResult, classes: Sequence[str]) -> dict[str, Any]:
    """An epoch's validation figures as plain values, for the card and the log."""
    scores = result.scores
    return {
        "epoch": result.epoch,
        "macro_f1": scores.macro_f1,
        "accuracy": scores.accuracy,
        "f1": dict(zip(classes, scores.f1, strict=True)),
        "confusion": scores.confusion.tolist(),
        "photos": scores.rows,
        "loss": result.val_loss,
    }


def epoch_line(result: EpochResult, epochs: int, note: str) -> str:
    """What a person reads after each epoch."""
    return (
        f"epoch {result.epoch:>{len(str(epochs))}}/{epochs}  loss {result.train_loss:.4f}  "
        f"val: loss {result.val_loss:.4f}  macro F1 {result.scores.macro_f1:.4f}  "
        f"accuracy {result.scores.accuracy:.4f}  lr {result.lr:.0e}  "
        f"{result.photos_per_second:.0f}/s  {note}".rstrip()
    )


def datasets(
    recipe: Recipe, faces: Sequence[Face], files: Sequence[Path | None], validation: set[str]
) -> Data:
    """Pair faces with their crops; only training is filtered and relabelled by the recipe."""
    usable = [(f, c) for f, c in zip(faces, files, strict=True) if c is not None]
    held = [(f, c) for f, c in usable if f.person.key in validation]
    others = [(f, c) for f, c in usable if f.person.key not in validation]
    kept = [(f, c) for f, c in others if recipe.trains_on(f)]
    if not held:
        raise UserError("no usable photo to validate on")
    counts = describe("training", kept, [recipe.train_label(f) for f, _ in kept], recipe.classes)
    if len(kept) < len(others):
        left = {f.person for f, _ in others} - {f.person for f, _ in kept}
        print(f"left out of training: {len(others) - len(kept):,} photos of {len(left):,} persons")
    labels = [recipe.label(f) for f, _ in held]
    describe("validation", held, labels, recipe.classes)
    empty = [name for name, n in zip(recipe.classes, counts, strict=True) if not n]
    if empty:
        raise UserError(f"no training photo of class {', '.join(empty)}: nothing to learn from")
    copies = repeats(recipe, counts)
    kept = [(f, c) for f, c in kept for _ in range(copies[recipe.train_label(f)])]
    usual, rare = recipe.augment(), recipe.augment(rare=True)
    training = FaceDataset(
        [c for _, c in kept],
        [recipe.target(f) for f, _ in kept],
        [rare if copies[recipe.train_label(f)] > 1 else usual for f, _ in kept],
    )
    return Data(
        training,
        FaceDataset([c for _, c in held], labels),
        [n * times for n, times in zip(counts, copies, strict=True)],
        sampler_groups(recipe, [f for f, _ in kept]),
    )


def repeats(recipe: Recipe, counts: Sequence[int]) -> list[int]:
    """How often a photo of each class stands in an epoch: --rare-crops times where it is rare."""
    few = sum(counts) / len(counts) / 2
    copies = [recipe.rare_crops if n < few else 1 for n in counts]
    if recipe.rare_crops > 1:
        rare = [name for name, times in zip(recipe.classes, copies, strict=True) if times > 1]
        print(f"cropped at random, {recipe.rare_crops} times an epoch: {', '.join(rare) or 'none'}")
    return copies


def sampler_groups(recipe: Recipe, faces: Sequence[Face]) -> list[Hashable]:
    """What the sampler draws equally often, for each face; nothing where it only shuffles."""
    if recipe.sampler == "shuffle":
        return []
    if recipe.sampler == "class":
        return [recipe.train_label(face) for face in faces]
    return [(recipe.train_label(face), face.gender) for face in faces]


def describe(
    title: str,
    pairs: Sequence[tuple[Face, Path]],
    labels: Sequence[int],
    classes: Sequence[str],
) -> list[int]:
    """Print how many persons and photos, and how many of each class; returns the latter."""
    found = Counter(labels)
    counts = [found[index] for index in range(len(classes))]
    shares = ", ".join(f"{name} {n:,}" for name, n in zip(classes, counts, strict=True))
    people = {face.person for face, _ in pairs}
    print(f"{title}: {len(people):,} persons, {len(pairs):,} photos ({shares})")
    return counts


def report_crops(prepared: Prepared, recipe: Recipe) -> None:
    """Print what the detector found, and the photos that are left out."""
    print(prepared.summary(looked=checkpoint.crop_spec(recipe).needs_face))
    for path, reason in prepared.bad:
        print(f"left out: {path}: {reason}", file=sys.stderr)


def warn(message: str) -> None:
    """Print a warning, unless there is nothing to say."""
    if message:
        print(f"warning: {message}", file=sys.stderr)


def make_optimizer(recipe: Recipe, model: torch.nn.Module) -> torch.optim.Optimizer:
    """Timm's optimizer by name; UserError for a name that it doesn't know."""
    try:
        return create_optimizer_v2(
            model, opt=recipe.opt, lr=recipe.lr, weight_decay=recipe.weight_decay
        )
    except (ValueError, AssertionError) as error:
        raise UserError(f"--opt {recipe.opt}: {error}") from None


def make_scheduler(recipe: Recipe, optimizer: torch.optim.Optimizer, steps: int) -> Any:
    """Timm's schedule in steps of the optimizer, or None; UserError where it has none such.

    --cycle-epochs restarts it at full height (SGDR, Loshchilov & Hutter 2017).
    """
    cycle = recipe.cycle_epochs or recipe.epochs
    try:
        scheduler, _ = create_scheduler_v2(
            optimizer,
            sched=recipe.sched,
            num_epochs=cycle,
            cycle_limit=math.ceil(recipe.epochs / cycle),
            cycle_decay=1.0,
            decay_epochs=recipe.decay_epochs,
            decay_milestones=recipe.decay_milestones,
            decay_rate=recipe.decay_rate,
            min_lr=recipe.min_lr,
            warmup_epochs=recipe.warmup_epochs,
            warmup_lr=recipe.lr / 100,
            step_on_epochs=False,
            updates_per_epoch=steps,
        )
    except ValueError as error:
        raise UserError(f"--sched {recipe.sched}: {error}") from None
    return scheduler


def make_ema(recipe: Recipe, model: Classifier) -> ModelEmaV3 | None:
    """A moving average of the weights, if asked for; it follows closely at first."""
    if recipe.model_ema_decay is None:
        return None
    return ModelEmaV3(model, decay=recipe.model_ema_decay, use_warmup=True)


def loader_workers(asked: int, device: torch.device) -> int:
    """Loader processes for cached crops: on a CPU the network needs the cores."""
    return min(asked, 1) if device.type == "cpu" else asked


def run_flags(run: Run) -> dict[str, Any]:
    """The run's flags as plain values, for --resume; `device` and `resume` are asked anew."""
    flags = {f.name: plain(getattr(run, f.name)) for f in dataclasses.fields(run)}
    return {name: flags[name] for name in flags if name not in ("resume", "device", "workers")}


def log_root(folder: Path) -> Path:
    """runs/<task>, made and tried; UserError where it can't be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--log-dir: {folder} can't be made ({error.strerror})") from None
    return writable_file(folder / LAST).parent


def new_run_folder(logs: Path) -> Path:
    """runs/<task>/<time>, made anew; runs of the same second are told apart by a number."""
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    for number in itertools.count():
        folder = logs / (f"{stamp}_{number}" if number else stamp)
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            return folder
