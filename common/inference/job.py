"""What one run of combine.py works with: its flags, the tasks, their models, and the time it takes."""

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from common.base.stages import Stages
from common.inference.checks import weights_of
from common.inference.codes import Codes
from common.inference.decide import (
    Offsets,
    decide,
    default_decision,
    describe_decision,
    offsets_of,
)
from common.inference.ensemble import Ensemble, load_ensemble, print_ensembles, slow_files
from common.inference.options import PredictSettings
from common.inference.predictions import Predictions, Probabilities
from common.inference.predictor import predict
from common.model.device import describe_device, pick_device, share_cores
from common.model.recipe import Recipe

SLOW = 20  # s of networks from which a faster engine is worth a word


@dataclasses.dataclass(frozen=True)
class Job:
    """A run: `arguments` are combine.py's flags, `ensembles` task → the models that answer."""

    arguments: argparse.Namespace
    recipes: Sequence[type[Recipe]]
    codes: Codes
    ensembles: Mapping[str, Ensemble]
    stages: Stages

    @property
    def merged(self) -> dict[str, Ensemble]:
        """Task → its models, of the tasks merged into the code."""
        return {task: self.ensembles[task] for task in self.codes.classes}

    @property
    def settings(self) -> PredictSettings:
        """How photos are cropped and shown to the models."""
        flags = self.arguments
        return PredictSettings(
            cache_dir=flags.cache_dir,
            workers=flags.workers,
            batch_size=flags.batch_size,
            tta=flags.tta,
            every_face=flags.faces == "all",
        )

    def predict(self, paths: Sequence[Path], ensembles: Mapping[str, Ensemble]) -> Probabilities:
        """Probabilities of `ensembles`, some of this run's models, for photos."""
        return predict(paths, ensembles, self.settings, self.stages)

    def decided(self) -> tuple[str, Offsets]:
        """What decides on the models' classes, and how."""
        decision = self.arguments.decide or default_decision(self.merged)
        offsets = offsets_of(decision, self.merged)
        print(describe_decision(decision, self.merged))
        return decision, offsets

    def ask(self, paths: Sequence[Path]) -> tuple[Predictions, str]:
        """Predictions for photos, and how they were decided."""
        decision, offsets = self.decided()
        return decide(self.predict(paths, self.ensembles), self.ensembles, offsets), decision

    def print_time(self, total: float) -> None:
        """Where the `total` seconds went, and where another engine would save many of them."""
        overlap = sum(self.stages.seconds.values()) > total
        together = " (loader processes and networks at the same time)" if overlap else ""
        print(f"time: {total:.1f} s; {self.stages.line()}{together}")
        slow = slow_files(self.ensembles)
        if slow and self.stages.seconds["networks"] > max(SLOW, total / 2):
            print(f"on a CPU exports are faster: python -m common.model.export {slow[0]}")


def load_job(
    arguments: argparse.Namespace, recipes: Sequence[type[Recipe]], codes: Codes, stages: Stages
) -> Job:
    """Each task's models on their device, with notes on what differs between them."""
    files = {task: getattr(arguments, task) for task in codes.classes}
    weights = {task: weights_of(arguments, task, len(files[task])) for task in codes.classes}
    vote = arguments.vote or "soft"
    device = pick_device("cpu" if arguments.ray else arguments.device)
    torch.set_num_threads(1)  # more gain nothing here, and beside other work they spin
    with stages("load"):
        ensembles = {
            recipe.task: load_ensemble(
                recipe, files[recipe.task], weights[recipe.task], vote, device
            )
            for recipe in recipes
        }
    share_cores(device, 0)  # among networks; loader processes get their share of any core
    print_ensembles(ensembles, arguments.tta)
    if not arguments.ray:
        print(describe_device(device))
    return Job(arguments, recipes, codes, ensembles, stages)
