"""The training of one fold: steps, validation, checkpoints, and what is printed about them."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from common.base.errors import UserError, warn
from common.base.fields import plain
from common.base.files import write_whole
from common.base.processes import is_main, processes
from common.base.run_settings import Run
from common.base.stages import Stages, duration
from common.data.dataset import make_loader
from common.data.learned import learned, packed, short
from common.data.loading import loader_errors
from common.faces.cache import photo_key
from common.model import checkpoint
from common.model.calibration import make_decision
from common.model.device import amp_dtype
from common.model.heads import AuxiliaryLoss, saved_rows, without_heads
from common.model.metrics import number_errors, number_words
from common.model.network import Classifier
from common.model.recipe import Recipe
from common.model.trial import memory_advice, out_of_memory
from common.model.weights import weights_card
from common.training import predictions
from common.training.distributed import barrier, check_same
from common.training.engine import (
    EpochResult,
    Hooks,
    Settings,
    State,
    StopFlag,
    Stopped,
    finished,
    fit,
)
from common.training.examples import Data, Example, datasets
from common.training.experiments import Outcome, record
from common.training.log import LogConfig, RunLog
from common.training.messages import (
    best_scores,
    epoch_line,
    loss_line,
    next_line,
    rare_warning,
    time_left,
)
from common.training.mixing import make_mix
from common.training.optimization import make_ema, make_scheduler
from common.training.prepare import Network, PreparedRun, loader_workers
from common.training.resume import BEST, LAST, check_unchanged, contents

Watch = Callable[[int, float], None]


@dataclasses.dataclass(frozen=True)
class RunFiles:
    """Places that one training writes: the best epoch to `out`, everything else to `folder`.

    `resume` is the checkpoint that it goes on with, if any.
    """

    out: Path
    folder: Path
    resume: Path | None = None


class Learner:
    """One fold's training: network, data, optimizer and schedule, from the first step to the last."""

    def __init__(
        self,
        prepared: PreparedRun,
        fold: int,
        network: Network,
        files: RunFiles,
        watch: Watch | None = None,
    ) -> None:
        """Make a training that is ready to begin, or to go on where `files.resume` stopped.

        `watch(epoch, figure of merit)` may end it after any epoch by raising.

        Raises:
            UserError: a data set is empty, or the checkpoint doesn't fit.
        """
        recipe, run = prepared.recipe, prepared.run
        self.recipe, self.run, self.heads = recipe, run, prepared.heads
        self.split, self.files, self.watch = prepared.folds[fold].split, files, watch
        data = datasets(recipe, prepared.folds[fold].examples, prepared.crops)
        self.counts, self.held_out = data.counts, data.held_out
        dtype = amp_dtype(prepared.device) if run.amp else None
        criterion = self._criterion().to(prepared.device)
        rows = saved_rows(recipe, self.heads)
        self.settings = Settings(recipe, prepared.device, dtype, criterion, rows, make_mix(recipe))
        workers = loader_workers(run.workers, prepared.device)
        self.loaders = (
            make_loader(data.training, recipe.batch_size, workers=workers, sampler=data.sampler),
            make_loader(data.validation, recipe.batch_size, workers=workers),
        )
        self.state = self._state(network)
        if run.torchcompile:
            network.model.compile(backend=run.torchcompile)  # in place: weights keep their names
        self.best: dict[str, Any] = {}
        self.decision = checkpoint.UNCALIBRATED
        self.origin = network.origin
        examples = [e for e in prepared.folds[fold].examples if e.face.path in prepared.crops]
        self.contents = contents(examples, prepared.crops)
        self.learned = _learned(recipe, examples, prepared.crops)
        if files.resume:
            self._resume(files.resume)
        check_same(lambda: self._digest(data))
        self.stages = Stages()
        self.log = self._log()
        on_batch = self.log.add_crops if self.log else None
        self.hooks = Hooks(self._after_epoch, on_batch, self.stages)

    def _criterion(self) -> torch.nn.Module:
        own = self.recipe.criterion(self.counts)
        if not self.heads:
            return own
        return AuxiliaryLoss(own, self.recipe.outputs, self.heads, self.recipe.aux_weight)

    def _state(self, network: Network) -> State:
        steps = self.settings.updates(len(self.loaders[0]))
        uses_scaler = self.settings.amp_dtype is torch.float16
        return State(
            network.model,
            network.optimizer,
            make_scheduler(self.recipe, network.optimizer, steps),
            torch.amp.GradScaler(self.settings.device.type, enabled=uses_scaler),
            make_ema(self.recipe, network.model),
        )

    def _digest(self, data: Data) -> str:
        """Hash recipe, files, labels and weights, to check that all processes start alike."""
        photos = [file.name for part in (data.training, data.validation) for file in part.files]
        labels = [data.training.labels, data.validation.labels]
        card = {"recipe": self.recipe.to_dict(), "photos": photos, "labels": labels}
        weights = self.state.model.state_dict()
        return checkpoint.content_digest({"card": card, "weights": weights, **self.state.to_dict()})

    def _resume(self, path: Path) -> None:
        content = checkpoint.read(path)
        saved = content["card"]["split"]
        if any(saved.get(part) != self.split.get(part) for part in ("hash", "held_out", "extra")):
            raise UserError(
                f"--resume {path}: {self.run.data_dir()} has been split otherwise since"
            )
        check_unchanged(path, self.run.data_dir(), content["training"]["contents"], self.contents)
        self.state.model.backbone.load_state_dict(content["state_dict"])
        self.state.load_dict(content["training"])
        self.best = content["card"]["metrics"]
        self.decision = content["card"]["decision"]
        self.origin = content["card"]["origin"]
        self.learned = content["card"]["learned"]
        print(f"resumed: {path}, epoch {self.state.epoch + 1}, step {self.state.step + 1}")

    def _log(self) -> RunLog | None:
        """Open the log, in the process that writes, if there is anything left to train."""
        if not is_main() or finished(self.state, self.recipe):
            return None
        config = LogConfig(self.recipe, self.run, self.split)
        return RunLog(self.files.folder, config, self.state.epoch, self.best)

    def train(self, started: float) -> int:
        """Train, save the best epoch, and print the result; returns the exit status.

        `started` is the perf_counter() from which the time of the training is counted.
        """
        state, files = self.state, self.files
        if self.best:  # resumed, perhaps to another file than before
            self._publish()
        if finished(state, self.recipe):
            last = files.folder / LAST
            print(f"nothing left to train: {last} has {state.epoch} epochs → {files.out}")
            print(f"  --weights {files.out} --epochs N, without --resume, trains on from it")
            return 0
        print(loss_line(self.settings.criterion, self.recipe))
        print(f"full recipe: {files.folder / 'recipe.json'}")
        self.began, self.begun_at = time.perf_counter(), state.epoch
        try:
            with StopFlag() as stop, memory_errors(self.recipe), loader_errors():
                fit(state, self.loaders, self.settings, self.hooks, stop)
            self._draw()
        except Stopped as stopped:
            return self._stopped(stopped.args[0])
        except UserError:
            if processes() == 1:  # torchrun gives the others no time once a process is lost
                self._draw()
            raise
        finally:
            if self.log:
                self._record(time.perf_counter() - started)
                self.log.close()
        if is_main():
            self._report(time.perf_counter() - started)
        return 0

    def _after_epoch(self, result: EpochResult, best: bool) -> None:
        figures = metrics(result, self.recipe.classes)
        if self.log:
            self.log.epoch(result, figures, best)
            if best:
                self._keep(result, figures)
            seconds, done = time.perf_counter() - self.began, result.epoch - self.begun_at
            left = time_left(seconds, done, self.recipe.epochs - self.begun_at)
            note = "  ".join(filter(None, ("best" if best else "", left)))
            print(epoch_line(result, self.recipe.epochs, note))
            self._save_last()
        barrier()
        if self.watch is not None:
            self.watch(result.epoch, self.settings.merit(result.scores, result.val_loss))

    def _keep(self, result: EpochResult, figures: dict[str, Any]) -> None:
        """Save the best epoch so far, with its predictions."""
        found = result.predictions
        probabilities, targets = found.probabilities.numpy(), found.targets.numpy()
        right = probabilities.argmax(axis=1) == targets
        self.best = figures | {"groups": predictions.by_group(self.held_out, right)}
        if result.numbers is not None:
            numbers = result.numbers.numpy()
            self.best["number"] = number_errors(self.recipe, self.held_out, numbers)
        self.decision = make_decision(self.recipe, self.counts, self.held_out, found)
        model = self.state.validated
        weights = model.backbone.state_dict()
        if self.heads:
            weights = without_heads(model.backbone, weights, self.settings.saved)
        self._save(self.files.folder / BEST, model, weights)
        file = self.files.folder / predictions.VALIDATION_TABLE
        classes = [self.recipe.classes[target] for target in targets]
        predictions.write_predictions(file, self.recipe, self.held_out, classes, probabilities)
        self._publish()

    def _save_last(self) -> Path:
        """Save all that --resume needs."""
        path, model = self.files.folder / LAST, self.state.model
        training = {
            "run": run_flags(self.run),
            "contents": self.contents,
            **self.state.to_dict(),
        }
        self._save(path, model, model.backbone.state_dict(), training)
        return path

    def _save(
        self,
        path: Path,
        model: Classifier,
        weights: Mapping[str, torch.Tensor],
        training: Mapping[str, Any] | None = None,
    ) -> None:
        card = checkpoint.make_card(
            self.recipe,
            model,
            split=self.split,
            metrics=self.best,
            decision=self.decision,
            commit=self.log.commit,
            origin=self.origin,
            learned=self.learned,
        )
        try:
            checkpoint.save(path, card, weights, training)
        except OSError as error:
            raise UserError(f"{path}: could not be saved ({error.strerror})") from None

    def _publish(self) -> None:
        """Copy the best epoch's checkpoint to --out."""
        if not is_main():
            return
        out = self.files.out
        try:
            write_whole(out, (self.files.folder / BEST).read_bytes(), sync=True)
        except OSError as error:
            raise UserError(f"{out}: could not be saved ({error.strerror})") from None

    def _stopped(self, number: int) -> int:
        if self.log:
            self._save_last()
        self._draw()
        barrier()  # torchrun ends the others when one has ended, perhaps while it saves
        last = self.files.folder / LAST
        print(f"\nstopped in epoch {self.state.epoch + 1} of {self.recipe.epochs}; saved to {last}")
        if self.watch is None:
            start = "python -m" if processes() == 1 else "torchrun (its flags as before) -m"
            print(f"to go on: {start} {self.recipe.task}.train --resume {last}")
        return 128 + number

    def _draw(self) -> None:
        if self.log:
            with self.stages("pictures"):
                self.log.draw()

    def _record(self, seconds: float) -> None:
        if self.best:
            outcome = Outcome(
                split=self.split,
                best=self.best,
                epochs=self.state.epoch,
                seconds=seconds,
                commit=self.log.commit,
                out=self.files.out,
                folder=self.files.folder,
            )
            record(self.recipe, self.run, outcome)

    def _report(self, seconds: float) -> None:
        best, error = self.best, self.decision["ece"]
        if self.state.epoch < self.recipe.epochs:
            print(f"no better epoch in {self.recipe.patience}: training ends")
        print(
            f"calibrated: temperature {self.decision['temperature']:.3g}, expected calibration "
            f"error {error['before']:.3f} → {error['after']:.3f} (cross-fitted by person)"
        )
        print(f"time: {duration(seconds)}; {self.stages.line()}")
        scores = best_scores(best)
        print(f"\n{scores.table(self.recipe.classes)}")
        warn(rare_warning(scores, self.recipe.classes))
        if best.get("number"):
            print(f"{best['number']['name']}: {number_words(best['number'])}")
        print(
            f"{self.recipe.task}: macro F1 {best['macro_f1']:.4f}, accuracy "
            f"{best['accuracy']:.4f} in epoch {best['epoch']}, on {best['photos']:,} photos of "
            f"{len({f.person for f in self.held_out}):,} people that training never saw; "
            f"{seconds / 60:.1f} min → {self.files.out}"
        )
        if self.watch is None and not self.run.every_fold:
            print(next_line(self.recipe.task, self.files.out))


def _learned(recipe: Recipe, examples: Iterable[Example], crops: Mapping[Path, Path]) -> str:
    """The photos that this training learns from, and those that the --weights learned from."""
    photos = {short(photo_key(crops[e.face.path])) for e in examples if e.trained_on}
    card = weights_card(recipe.weights) if recipe.weights is not None else {}
    return packed(photos | learned(card))


@contextlib.contextmanager
def memory_errors(recipe: Recipe) -> Iterator[None]:
    """Turn a lack of memory, of a GPU or the machine, into one line that names a way round."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise UserError(
            f"out of memory with --batch-size {recipe.batch_size}: saved files are untouched; "
            f"{memory_advice(recipe)}"
        ) from None


def metrics(result: EpochResult, classes: Sequence[str]) -> dict[str, Any]:
    """Return an epoch's validation figures as plain values, for the card and the log."""
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


def run_flags(run: Run) -> dict[str, Any]:
    """Return the run's flags as plain values, for --resume.

    Not those that belong to the machine or the command: `device`, `workers` and `resume`.
    """
    flags = {f.name: plain(getattr(run, f.name)) for f in dataclasses.fields(run)}
    return {name: flags[name] for name in flags if name not in ("resume", "device", "workers")}
