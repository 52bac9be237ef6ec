"""Measure what votes and mirror images add to the score, and what they cost per photo.

    python -m tests.benchmarks.votes --data DIR --mask m.pt m2.pt --gender g.pt g2.pt --age a.pt a2.pt

predicts the people that the models held out, and scores the first model of each task, the first
two, and so on. Milliseconds are of the networks on the crops, one thread, without the detector.
"""

import argparse
import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from combine import CODES, TASKS
from common.base.run_settings import default_cache
from common.inference.ensemble import Ensemble, load_ensemble
from common.inference.held_out import Decider, HeldOutPhotos, honest_parts
from common.inference.options import PredictSettings
from common.inference.predictions import Probabilities
from common.inference.predictor import predict
from common.model.loaded import LoadedModel
from common.model.metrics import score

BATCH = 64


def main() -> None:
    """Print a row for each number of votes, with and without mirror images."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache-dir", type=Path, default=default_cache())
    for task in TASKS:
        parser.add_argument(f"--{task.task}", type=Path, nargs="+", required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    files = {task: getattr(arguments, task.task) for task in TASKS}
    ensembles = {
        task.task: load_ensemble(task, paths, [1.0] * len(paths), "soft", torch.device("cpu"))
        for task, paths in files.items()
    }
    (part,) = honest_parts(arguments.data, ensembles, CODES)
    paths = [face.path for face in part.faces]
    seen = {
        tta: predict(
            paths, ensembles, PredictSettings(cache_dir=arguments.cache_dir, workers=1, tta=tta)
        )
        for tta in (None, "flip")
    }
    times = {task: [milliseconds(model) for model in e.models] for task, e in ensembles.items()}
    print("| votes | ms a photo | argmax | offsets, nested | mask | gender | age |")
    print("|---|---|---|---|---|---|---|")
    for votes in range(1, max(map(len, times.values())) + 1):
        for tta, answers in seen.items():
            cost = sum(sum(each[:votes]) for each in times.values()) * (2 if tta else 1)
            figures = scores(part, answers, ensembles, votes)
            name = f"{votes} of each{', and mirrored' if tta else ''}"
            print(f"| {name} | {cost:.1f} | {' | '.join(f'{f:.3f}' for f in figures)} |")


def milliseconds(model: LoadedModel) -> float:
    """Time of a photo, in batches of 64: the median of nine."""
    images = torch.zeros(BATCH, 3, *model.spec.size, dtype=torch.uint8)
    spent = []
    for _ in range(9):
        start = time.perf_counter()
        model.logits(images)
        spent.append(time.perf_counter() - start)
    return sorted(spent)[4] / BATCH * 1000


def scores(
    part: HeldOutPhotos, answers: Probabilities, ensembles: Mapping[str, Ensemble], votes: int
) -> list[float]:
    """18-class macro F1 by argmax and nested offsets, then each task's by argmax."""
    chosen = {
        task: e.only([i < votes for i in range(len(e.models))]) for task, e in ensembles.items()
    }
    by_model = {task: answers.by_model[task][: len(e.models)] for task, e in chosen.items()}
    fewer = dataclasses.replace(answers, by_model=by_model)
    true = CODES.encode([np.array([task().label(face) for face in part.faces]) for task in TASKS])
    small = HeldOutPhotos(part.faces, chosen)
    decider = Decider([small], [fewer], chosen, true, CODES)
    codes = {decision: CODES.of(decider.decided(decision)) for decision in ("argmax", "offsets")}
    tasks = zip(TASKS, CODES.decode(true), CODES.decode(codes["argmax"]), strict=True)
    return [
        *(score(true, predicted, len(CODES)).macro_f1 for predicted in codes.values()),
        *(score(y, p, len(task.classes)).macro_f1 for task, y, p in tasks),
    ]


if __name__ == "__main__":
    main()
