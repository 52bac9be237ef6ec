"""A run of combine.py: its options, tasks, loaded models and the time spent."""

import contextlib
import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from common.base.errors import UserError
from common.base.files import made_folder, writable_file
from common.base.stages import Stages
from common.data.layout import eval_dir
from common.data.listing import count_files
from common.inference.codes import Codes
from common.inference.decide import (
    Offsets,
    decide,
    default_decision,
    describe_decision,
    offsets_of,
)
from common.inference.engines import Engine, advice, device_for
from common.inference.ensemble import Ensemble, all_models, load_ensemble, print_ensembles
from common.inference.options import Options
from common.inference.predictions import Predictions, Probabilities
from common.inference.predictor import predict
from common.inference.video.clip import announced_frames
from common.model.device import describe_device, pick_device, share_cores
from common.model.recipe import Recipe

MANY = 100_000  # photos, counted no further
SLOW = 20  # s of networks from which a faster engine is worth mentioning


@dataclasses.dataclass(frozen=True)
class Job:
    """A run of combine.py with its models loaded."""

    options: Options
    recipes: Sequence[type[Recipe]]
    """The tasks to predict, in order."""
    codes: Codes
    ensembles: Mapping[str, Ensemble]
    """Task → its models."""
    stages: Stages
    """Seconds spent so far."""

    @property
    def merged(self) -> dict[str, Ensemble]:
        """Task → its models, of the tasks merged into the code."""
        return {task: self.ensembles[task] for task in self.codes.classes}

    def predict(self, paths: Sequence[Path], ensembles: Mapping[str, Ensemble]) -> Probabilities:
        """Probabilities of `ensembles`, some of this run's models, for photos."""
        return predict(paths, ensembles, self.options.settings, self.stages)

    def decision(self) -> tuple[str, Offsets]:
        """Choose and print the decision; returns its name and offsets."""
        decision = self.options.decide or default_decision(self.merged)
        offsets = offsets_of(decision, self.merged)
        print(describe_decision(decision, self.merged))
        return decision, offsets

    def predictions(self, paths: Sequence[Path]) -> tuple[Predictions, str]:
        """Predictions of all models for photos, and the decision's name."""
        decision, offsets = self.decision()
        predicted = decide(self.predict(paths, self.ensembles), self.ensembles, offsets)
        return self.marked(predicted), decision

    def marked(self, predictions: Predictions) -> Predictions:
        """Mark what --unsure asks for."""
        return dataclasses.replace(predictions, unsure_below=self.options.unsure or 0.0)

    def print_time(self, total: float) -> None:
        """Print where the `total` seconds went, and a hint if another engine would save many."""
        overlap = sum(self.stages.seconds.values()) > total
        together = " (loader processes and networks at the same time)" if overlap else ""
        print(f"time: {total:.1f} s; {self.stages.line()}{together}")
        way = advice(all_models(self.ensembles))
        if way and self.stages.seconds["networks"] > max(SLOW, total / 2):
            print(way)


def load_job(
    options: Options, recipes: Sequence[type[Recipe]], codes: Codes, stages: Stages
) -> Job:
    """Load the models of the `recipes` that `options` give, and print what differs between them."""
    device = pick_device("cpu") if options.ray else device_for(options.engine, options.device)
    torch.set_num_threads(1)  # more gain nothing here, and beside other work they spin
    given = [recipe for recipe in recipes if recipe.task in options.models]
    with stages("load"):
        ensembles = {
            recipe.task: load_ensemble(
                recipe,
                options.models[recipe.task],
                options.weights_of(recipe.task),
                options.voting,
                device,
                engine_of(options, recipe.task),
            )
            for recipe in given
        }
        ensembles = {
            task: ensemble.with_detector(options.detector) for task, ensemble in ensembles.items()
        }
    share_cores(device, 0)  # among networks; loader processes get their share of any core
    print_ensembles(ensembles, options.settings)
    if not options.ray:
        print(describe_device(device))
    others = {recipe.task: recipe.classes for recipe in given if recipe.task not in codes.classes}
    return Job(options, given, dataclasses.replace(codes, others=others), ensembles, stages)


def engine_of(options: Options, task: str) -> Engine:
    """The choice of what runs a task's checkpoints in this process."""
    if options.ray:
        return Engine(elsewhere=f"run by Ray's actors (--engine {options.engine})")
    tta = options.settings.tta_of(task)
    views = 2 if tta == "flip" else tta or 1
    return Engine(
        name=options.engine,
        cache_dir=options.cache_dir,
        crops=views * expected_photos(options),
        why_torch="--explain needs its gradients" if options.explain else "",
        announce=lambda line: print(line, flush=True),
    )


def expected_photos(options: Options) -> float:
    """Estimate the number of photos, or frames, to predict; endless for a service."""
    if options.serve is not None:
        return math.inf
    with contextlib.suppress(UserError):  # which is reported where the photos are read
        if options.is_video:
            return announced_frames(options.input) / (options.every or 1)
        if options.held_out:
            return count_files(options.train_data / "train" / "images", MANY)
        place = options.input or eval_dir(options.eval_data)
        if isinstance(place, Path) and place.is_dir():
            return count_files(place, MANY)
    return 1


def check_output_files(options: Options, *tables: Path | None) -> None:
    """Check that the `tables`, --probs and the report can be written; makes the report's folder."""
    reads = options.reads()
    for file in (*tables, options.probs):
        if file is not None:
            writable_file(file, "table", reads=reads, columns=["ImageID"])
    if options.report_file is not None:
        made_folder(options.report, "--report")
        writable_file(options.report_file, "page", reads=reads)
