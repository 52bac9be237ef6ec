"""Every source's losses, labels, samplers and augmentation on one backbone, crop, split and budget.

    python -m tests.benchmarks.sources --data DIR --out FOLDER --jobs 2

trains what FOLDER doesn't hold yet (so it can be stopped and started again) and prints the table of
18-class and per-task macro F1 on the shared held-out persons. The budget is for two cores; --budget
replaces it, say on a GPU.
"""

import argparse
import os
import re
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue

import numpy as np

from combine import NAMES, TASKS, decode
from common.training.checkpoint import read
from common.training.metrics import score

BUDGET = (
    "--model mobilenetv3_small_100 --size 96 --no-pretrained --epochs 10 --opt adamw --lr 2e-3 "
    "--weight-decay 0.05 --sched cosine --warmup-epochs 1 --batch-size 64"
)
# Where a preset says otherwise: one crop, normalisation, split and choice of epoch for all.
SHARED = (
    "--crop face --center 300 --mean model --std model --drop 0 --folds 5 --fold 0 --seed 777 "
    "--keep macro_f1 --workers 0"
)
SINGLES = {
    "one net, 18 classes, focal (S3)": ("single", "--aug light --loss focal"),
    "one net, three heads (S0)": ("heads", "--aug light rotate"),
}
TRIPLES = {
    "defaults": ("", "", ""),
    "S2": ("", "", "--preset s2"),  # its mask and gender are the defaults
    "S0": ("--preset s0",) * 3,
    "S1": ("--preset s1",) * 3,
    "S3": ("--preset s3",) * 3,
    "S4": ("--preset s4",) * 3,
}


def jobs() -> dict[tuple[str, str], str]:
    """(module, flags) → name of the checkpoint, each once; the most telling first."""
    wanted = [(f"tests.benchmarks.baselines {kind}", line) for kind, line in SINGLES.values()]
    for place in (2, 0, 1):
        wanted += [(f"{TASKS[place].task}.train", lines[place]) for lines in TRIPLES.values()]
    return {(m, f): re.sub(r"\W+", "_", f"{m} {f}").strip("_") + ".pt" for m, f in wanted}


def train(job: tuple[str, str], out: Path, arguments: argparse.Namespace, cores: Queue) -> None:
    """One training on a core of its own, its output beside the checkpoint."""
    core = cores.get()
    log = out.with_suffix(".log")
    line = f"-m {job[0]} {job[1]} {SHARED} {arguments.budget} --data {arguments.data} --out {out}"
    line += f" --cache-dir {arguments.out / 'cache'} --log-dir {arguments.out / 'runs'}"
    if "s0" in job[1]:  # it restarts its schedule; one cycle of all epochs restarts nothing
        line += " --cycle-epochs " + re.search(r"--epochs (\d+)", arguments.budget)[1]
    print(f"core {core}: python {line}", flush=True)
    command = [sys.executable, *shlex.split(line)]
    with log.open("w") as stream:
        status = subprocess.run(
            command, stdout=stream, stderr=stream, check=False,
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        ).returncode  # fmt: skip
    cores.put(core)
    if status:
        out.unlink(missing_ok=True)
        print(f"failed ({status}): {log}", flush=True)


def main() -> None:
    """Train what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--budget", default=BUDGET)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    cores: Queue[int] = Queue()
    for core in sorted(os.sched_getaffinity(0))[: arguments.jobs]:
        cores.put(core)
    files = {job: arguments.out / name for job, name in jobs().items()}
    missing = [job for job, file in files.items() if not is_finished(file)]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        list(pool.map(lambda job: train(job, files[job], arguments, cores), missing))
    print("| method | 18 classes | mask | gender | age |\n|---|---|---|---|---|")
    for name, (kind, line) in SINGLES.items():
        print_row(name, single_scores(files[f"tests.benchmarks.baselines {kind}", line]))
    for name, lines in TRIPLES.items():
        chosen = [files[f"{t.task}.train", flags] for t, flags in zip(TASKS, lines, strict=True)]
        print_row(name, combined_scores(chosen, arguments))


def is_finished(file: Path) -> bool:
    """Whether a training ended: its checkpoint appears with the first epoch."""
    log = file.with_suffix(".log")
    return file.is_file() and log.is_file() and f"min → {file}" in log.read_text()


def print_row(name: str, scores: list[float]) -> None:
    """A row of the table."""
    print(f"| {name} | {' | '.join(f'{value:.3f}' for value in scores)} |", flush=True)


def single_scores(file: Path) -> list[float]:
    """18-class and per-task macro F1 of a net that answers with codes, from its card."""
    confusion = np.array(read(file)["card"]["metrics"]["confusion"])
    true, predicted = (
        np.repeat(axis.ravel(), confusion.ravel()) for axis in np.indices(confusion.shape)
    )
    parts = zip(TASKS, decode(true), decode(predicted), strict=True)
    per_task = [score(y, p, len(task.classes)).macro_f1 for task, y, p in parts]
    return [score(true, predicted, len(NAMES)).macro_f1, *per_task]


def combined_scores(files: list[Path], arguments: argparse.Namespace) -> list[float]:
    """The same of three models, by combine.py --held-out."""
    flags = [f"--{t.task}={file}" for t, file in zip(TASKS, files, strict=True)]
    flags += ["--held-out", "--data", str(arguments.data)]
    flags += ["--cache-dir", str(arguments.out / "cache")]
    done = subprocess.run(
        [sys.executable, "combine.py", *flags], capture_output=True, text=True, check=True
    )
    found = re.findall(r"^(\w+)(?: codes)? +macro F1 (\d\.\d+)", done.stdout, re.MULTILINE)
    scores = {name: float(value) for name, value in found}
    return [scores[str(len(NAMES))], *(scores[task.task] for task in TASKS)]


if __name__ == "__main__":
    main()
