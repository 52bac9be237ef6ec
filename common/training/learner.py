"""A model with its data, optimizer and schedule, from the first step to the last."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from common.base.errors import UserError
from common.base.fields import plain
from common.base.files import write_whole
from common.base.processes import is_main, processes
from common.base.run_settings import Run, available_cores
from common.base.stages import Stages, duration
from common.data.dataset import make_loader
from common.data.loading import loader_errors
from common.model import checkpoint
from common.model.calibration import make_decision
from common.model.device import amp_dtype
from common.model.heads import AuxiliaryLoss, Head, without_heads
from common.model.network import Classifier
from common.model.recipe import Recipe
from common.model.weights import create_classifier
from common.training import predictions
from common.training.distributed import barrier, check_same, with_global_batch_norm
from common.training.engine import EpochResult, Settings, State, StopFlag, Stopped, finished, fit
from common.training.examples import Data
from common.training.experiments import record
from common.training.groups import by_group
from common.training.log import RunLog
from common.training.mixing import make_mix
from common.training.optimization import make_ema, make_optimizer, make_scheduler
from common.training.resume import BEST, LAST


def make_learner(
    recipe: Recipe, device: torch.device, heads: Sequence[Head], *, resumed: bool
) -> tuple[Classifier, torch.optim.Optimizer, str]:
    """The network on its device, its optimizer, and where its weights come from.

    UserError where the recipe can't be had.
    """
    torch.manual_seed(recipe.seed)
    extra = sum(head.outputs for head in heads)
    model, origin = create_classifier(recipe, resumed=resumed, extra=extra)
    model.backbone = with_global_batch_norm(model.backbone, device)
    model = model.to(device, memory_format=torch.channels_last)
    return model, make_optimizer(recipe, model), origin


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
        heads: Sequence[Head],
        resume: Path | None,
    ) -> None:
        self.recipe, self.run, self.split, self.heads = recipe, run, split, heads
        self.counts, self.held_out = data.counts, data.held_out
        device = model.mean.device
        dtype = amp_dtype(device) if run.amp else None
        self.settings = Settings(
            device, dtype, recipe.clip_grad, recipe.seed, recipe.grad_accum_steps,
            make_mix(recipe), recipe.keep, recipe.patience,
        )  # fmt: skip
        workers = loader_workers(run.workers, device)
        self.loaders = (
            make_loader(data.training, recipe.batch_size, workers=workers, sampler=data.sampler),
            make_loader(data.validation, recipe.batch_size, workers=workers),
        )
        self.state = State(
            model,
            optimizer,
            make_scheduler(recipe, optimizer, self.settings.updates(len(self.loaders[0]))),
            torch.amp.GradScaler(device.type, enabled=dtype is torch.float16),
            make_ema(recipe, model),
        )
        if run.torchcompile:
            model.compile(backend=run.torchcompile)  # in place: the names of the weights stay
        self.stages = Stages()
        self.best: dict[str, Any] = {}
        self.decision = checkpoint.UNCALIBRATED
        if resume:
            self._resume(resume)
        check_same(lambda: self._digest(data))

    def _digest(self, data: Data) -> str:
        """Of all in which torchrun's processes must agree."""
        photos = [file.name for part in (data.training, data.validation) for file in part.files]
        labels = [data.training.labels, data.validation.labels]
        card = {"recipe": self.recipe.to_dict(), "photos": photos, "labels": labels}
        weights = self.state.model.state_dict()
        return checkpoint.digest({"card": card, "weights": weights, **self.state.to_dict()})

    def _resume(self, path: Path) -> None:
        content = checkpoint.read(path)
        saved = content["card"]["split"]
        if any(saved.get(part) != self.split.get(part) for part in ("hash", "held_out", "extra")):
            raise UserError(f"--resume {path}: {self.run.data_dir()} is split otherwise by now")
        self.state.model.backbone.load_state_dict(content["state_dict"])
        self.state.load_dict(content["training"])
        self.best = content["card"]["metrics"]
        self.decision = content["card"]["decision"]
        print(f"resumed: {path}, epoch {self.state.epoch + 1}, step {self.state.step + 1}")

    def train(
        self,
        out: Path,
        folder: Path,
        started: float,
        watch: Callable[[int, float], None] | None = None,
    ) -> int:
        """Fit, save the best epoch to `out`, and say how it went; returns the exit status.

        `watch(epoch, figure of merit)` may end the training after any epoch by raising.
        """
        recipe, state = self.recipe, self.state
        self.out, self.folder, self.watch = out, folder, watch
        if self.best:  # resumed, perhaps to another file than before
            self._publish()
        if finished(state, self.settings, recipe.epochs):
            print(f"nothing left to train: {folder / LAST} has {state.epoch} epochs → {out}")
            return 0
        if is_main():
            self.log = RunLog(folder, recipe, self.run, self.split, state.epoch, self.best)
            self.settings = dataclasses.replace(self.settings, look=self.log.look)
        criterion = recipe.criterion(self.counts)
        if self.heads:
            criterion = AuxiliaryLoss(criterion, recipe.outputs, self.heads, recipe.aux_weight)
        criterion = criterion.to(self.settings.device)
        print(f"loss: {criterion}\nlog: {folder}")
        try:
            with StopFlag() as stop, memory_errors(recipe), loader_errors():
                fit(
                    state, self.loaders, criterion, self._probabilities, recipe.classes,
                    self.settings, epochs=recipe.epochs, title=recipe.task,
                    after_epoch=self._after_epoch, stop=stop, stages=self.stages,
                )  # fmt: skip
            self._draw()
        except Stopped as stopped:
            return self._stopped(stopped.args[0])
        except UserError:
            if processes() == 1:  # where a process is lost torchrun gives the others no time
                self._draw()
            raise
        finally:
            if is_main():
                self._record(time.perf_counter() - started)
                self.log.close()
        if is_main():
            self._finish(time.perf_counter() - started)
        return 0

    def _after_epoch(self, result: EpochResult, best: bool) -> None:
        figures = metrics(result, self.recipe.classes)
        if is_main():
            self.log.epoch(result, figures, best)
            if best:
                self._keep(result, figures)
            print(epoch_line(result, self.recipe.epochs, "best" if best else ""))
            self._save(self.folder / LAST, training=True)
        barrier()
        if self.watch is not None:
            self.watch(result.epoch, self.settings.merit(result.scores, result.val_loss))

    def _keep(self, result: EpochResult, figures: dict[str, Any]) -> None:
        recipe, temperature = self.recipe, result.temperature
        logits = result.logits[:, : recipe.outputs]  # without the auxiliary heads'
        shares = recipe.probabilities(logits / temperature).numpy()
        right = shares.argmax(axis=1) == [recipe.label(face) for face in self.held_out]
        self.best = figures | {"groups": by_group(self.held_out, right)}
        self.decision = make_decision(recipe, self.counts, self.held_out, logits, temperature)
        self._save(self.folder / BEST)
        file = self.folder / predictions.FILE
        predictions.write_predictions(file, recipe, self.held_out, shares)
        self._publish()

    def _save(self, path: Path, training: bool = False) -> None:
        model = self.state.model if training else self.state.answering
        card = checkpoint.make_card(
            self.recipe, model, split=self.split, metrics=self.best, decision=self.decision,
            commit=self.log.commit,
        )  # fmt: skip
        weights = model.backbone.state_dict()
        state = {"run": run_flags(self.run), **self.state.to_dict()} if training else None
        if self.heads and not training:
            weights = without_heads(model.backbone, weights, self.recipe.outputs)
        try:
            checkpoint.save(path, card, weights, state)
        except OSError as error:
            raise UserError(f"{path}: could not be saved ({error.strerror})") from None

    def _probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """The task's own answer, out of the logits of all heads."""
        return self.recipe.probabilities(logits[:, : self.recipe.outputs])

    def _publish(self) -> None:
        """Copy the best epoch's checkpoint to where the user wants it."""
        if not is_main():
            return
        try:
            write_whole(self.out, (self.folder / BEST).read_bytes(), sync=True)
        except OSError as error:
            raise UserError(f"{self.out}: could not be saved ({error.strerror})") from None

    def _stopped(self, number: int) -> int:
        last = self.folder / LAST
        if is_main():
            self._save(last, training=True)
        self._draw()
        barrier()  # else torchrun, seeing one end, might end the one that saves
        print(f"\nstopped in epoch {self.state.epoch + 1} of {self.recipe.epochs}; saved to {last}")
        if self.watch is None:
            start = "python -m" if processes() == 1 else "torchrun (its flags as before) -m"
            print(f"to go on: {start} {self.recipe.task}.train --resume {last}")
        return 128 + number

    def _draw(self) -> None:
        if is_main():
            with self.stages("pictures"):
                self.log.draw()

    def _record(self, seconds: float) -> None:
        if self.best:
            record(
                self.recipe, self.run, self.split, self.best, commit=self.log.commit,
                epochs=self.state.epoch, seconds=seconds, out=self.out, folder=self.folder,
            )  # fmt: skip

    def _finish(self, seconds: float) -> None:
        best, error = self.best, self.decision["ece"]
        if self.state.epoch < self.recipe.epochs:
            print(f"no better epoch in {self.recipe.patience}: training ends")
        if error:  # none where an older version's training was resumed
            print(
                f"calibrated: temperature {self.decision['temperature']:.3g}, expected calibration "
                f"error {error['before']:.3f} → {error['after']:.3f} (cross-fitted by person)"
            )
        print(f"time: {duration(seconds)}; {self.stages.line()}")
        print(
            f"{self.recipe.task}: macro F1 {best['macro_f1']:.4f}, accuracy "
            f"{best['accuracy']:.4f} in epoch {best['epoch']}, on {best['photos']:,} photos of "
            f"{len({f.person for f in self.held_out}):,} persons that training never saw; "
            f"{seconds / 60:.1f} min → {self.out}"
        )


@contextlib.contextmanager
def memory_errors(recipe: Recipe) -> Iterator[None]:
    """Turn a lack of memory, of a GPU's or the machine's, into a line that offers a way round."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        lacks = ("out of memory", "can't allocate memory", "not enough memory")
        if not isinstance(error, MemoryError) and not any(word in str(error) for word in lacks):
            raise
        half, groups = max(1, recipe.batch_size // 2), recipe.grad_accum_steps
        raise UserError(
            f"out of memory with --batch-size {recipe.batch_size}: saved files are untouched; "
            f"--batch-size {half} --grad-accum-steps {groups * 2} takes about half and makes steps "
            "of as many photos; a smaller --size takes less, too"
        ) from None


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


def loader_workers(asked: int, device: torch.device) -> int:
    """Loader processes for cached crops: on a CPU the network needs the cores.

    A loader makes 1,250 photos a second where a thread of even a small network takes 300, so that
    one feeds four threads.
    """
    return min(asked, max(1, available_cores() // 5)) if device.type == "cpu" else asked


def run_flags(run: Run) -> dict[str, Any]:
    """The run's flags as plain values, for --resume; `device` and `resume` are asked anew."""
    flags = {f.name: plain(getattr(run, f.name)) for f in dataclasses.fields(run)}
    return {name: flags[name] for name in flags if name not in ("resume", "device", "workers")}
