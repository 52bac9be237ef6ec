"""Test whether memory grows with the number of answers.

    python -m tests.benchmarks.memory --data FOLDER --out SCRATCH --photos 100000

answers for the photos of FOLDER again and again, by three exports of a MobileNetV3-small at 96, and
prints the memory of this process and its loader processes (proportional set size: what they share
counts once). SCRATCH keeps the models and the crops, which are made first.
"""

import argparse
import contextlib
import itertools
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from common.base.run_settings import available_cores
from common.data.layout import find_input
from common.inference.options import PredictSettings
from common.inference.predictor import predict
from tests.benchmarks.predict import loaded, make_models

INTERVAL = 1  # s between two looks
WARM = 0.1  # of the time


def children(process: int) -> list[int]:
    """The processes that `process` has started, and theirs."""
    found = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{process}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += [int(child), *children(int(child))]
    return found


def megabytes(process: int) -> float:
    """A process's proportional set size; 0 if it is gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    return 0.0


@contextlib.contextmanager
def watched() -> Iterator[list[tuple[float, float]]]:
    """Grows by (seconds since the start, MB of all processes) until the end."""
    found, done, start = [], threading.Event(), time.perf_counter()

    def watch() -> None:
        while not done.wait(INTERVAL):
            used = sum(map(megabytes, [os.getpid(), *children(os.getpid())]))
            found.append((time.perf_counter() - start, used))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of photos")
    parser.add_argument("--out", type=Path, required=True, help="keeps models and crops")
    parser.add_argument("--photos", type=int, default=100_000)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    ensembles = loaded(make_models(arguments.out, "mobilenetv3_small_100", 96), ".onnx")
    _, paths, _ = find_input(arguments.data, None, 0)
    settings = PredictSettings(cache_dir=arguments.out / "cache", workers=min(8, available_cores()))
    torch.set_num_threads(available_cores())
    predict(paths[: arguments.photos], ensembles, settings)
    many = list(itertools.islice(itertools.cycle(paths), arguments.photos))
    with watched() as found:
        answers = predict(many, ensembles, settings)
    assert len(answers.detected) == len(many) and not answers.bad
    report(np.array(found), len(many))


def report(found: np.ndarray, photos: int) -> None:
    """The table, of (looks, 2) seconds and MB."""
    seconds, used = found[:-1].T  # the last one may see processes end
    warm = used[seconds >= WARM * seconds[-1]]
    print("| what | figure | target |\n|---|---|---|")
    for place in np.linspace(0, len(used) - 1, 11, dtype=int):
        print(f"| after {seconds[place]:.0f} s | {used[place]:,.0f} MB | |")
    print(f"| {photos:,} photos | {photos / seconds[-1]:.0f} photos/s | |")
    print(f"| growth after the first tenth | {warm.max() - warm[0]:.0f} MB | < 100 MB |")


if __name__ == "__main__":
    main()
