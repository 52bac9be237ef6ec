"""Measure how much of the heat that --explain draws lies in the lower half of the crop, and below the eyes.

    python -m tests.benchmarks.explain --mask m.pt --gender g.pt --age a.pt --input FOLDER

by task and answered class, of the photos in which a face was found and some place speaks for the
answer. A map that is alike everywhere
has 50% in the lower half and, where crops are turned to put the eyes at .42, 58% below them.
"""

import argparse
import itertools
from collections import defaultdict
from pathlib import Path

import numpy as np

import combine
from common.data.layout import find_input
from common.data.loading import crop_all
from common.faces.crop import EYES, Cropped
from common.inference.decide import decide
from common.inference.ensemble import Ensemble, load_ensemble
from common.inference.explain import heat_map
from common.inference.options import PredictSettings
from common.inference.predictor import predict

ALL = "all"
Shares = dict[str, list[tuple[float, float]]]  # class → of each face: lower half, below the eyes


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for task in combine.TASKS:
        parser.add_argument(f"--{task.task}", type=Path, required=True)
    parser.add_argument("--input", type=Path, required=True, help="folder of photos")
    parser.add_argument("--photos", type=int, default=200, help="how many, the first by name")
    parser.add_argument("--cache-dir", type=Path, default=Path(".bench/cache"))
    arguments = parser.parse_args()
    paths = find_input(arguments.input, None, 0)[1][: arguments.photos]
    print("| task, answer | faces | lower half | below the eyes |\n|---|---|---|---|")
    for task in combine.TASKS:
        ensemble = load_ensemble(task, [getattr(arguments, task.task)], [1.0], "soft", "cpu")
        shares = heat_shares(paths, ensemble, arguments.cache_dir)
        for name in (ALL, *task.classes):
            if shares[name]:
                lower, below = np.mean(shares[name], axis=0)
                print(f"| {task.task}, {name} | {len(shares[name])} | {lower:.0%} | {below:.0%} |")


def heat_shares(paths: list[Path], ensemble: Ensemble, cache_dir: Path) -> Shares:
    """Measure where the heat of the predictions for `paths` lies, of all together and by class."""
    (model,), shares = ensemble.models, defaultdict(list)
    settings = PredictSettings(cache_dir=cache_dir, workers=0)
    answers = decide(predict(paths, {ALL: ensemble}, settings), {ALL: ensemble}, {})
    crops = crop_all(paths, [model.spec], cache_dir, workers=0)
    for crop, chosen in zip(
        itertools.chain.from_iterable(crops), answers.classes[ALL].tolist(), strict=True
    ):
        if isinstance(crop, Cropped) and crop.detected:
            lines = heat_map(ensemble, crop.images[0], chosen).sum(axis=1)
            if not lines.any():
                continue
            starts = (round(len(lines) * share) for share in (0.5, EYES["height"]))
            parts = tuple(lines[start:].sum() / lines.sum() for start in starts)
            for name in (ALL, model.recipe.classes[chosen]):
                shares[name].append(parts)
    return shares


if __name__ == "__main__":
    main()
