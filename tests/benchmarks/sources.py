"""Every source's losses, labels, samplers and augmentation on one backbone, crop, split and budget.

    python -m tests.benchmarks.sources --data DIR --out FOLDER --jobs 2

trains what FOLDER doesn't hold yet (so it can be stopped and started again) and prints the table of
18-class and per-task macro F1 on the shared held-out people. The budget is for two cores; --budget
replaces it, say on a GPU.
"""

import argparse
import hashlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Hashable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue

import numpy as np

from combine import NAMES, TASKS, decode
from common.model.checkpoint import read
from common.model.metrics import score

BUDGET = (
    "--model mobilenetv3_small_100 --size 96 --no-pretrained --epochs 10 --opt adamw --lr 2e-3 "
    "--weight-decay 0.05 --sched cosine --warmup-epochs 1 --batch-size 64"
)
# Where a preset says otherwise: one crop, normalisation, split and choice of epoch for all.
SHARED = (
    "--crop face --center 300 --mean model --std model --drop 0 --folds 5 --fold 0 --seed 777 "
    "--keep macro_f1 --workers 0"
)
# glibc gives large tensors back to the system after every step; keeping them saves 16% (RESULTS.md).
MALLOC = {
    "MALLOC_TOP_PAD_": str(2**29),
    "MALLOC_TRIM_THRESHOLD_": str(2**31),
    "MALLOC_MMAP_THRESHOLD_": str(2**31),
}
SINGLES = {
    "one net, 18 classes, focal (S3)": ("single", "--aug light --loss focal"),
    "one net, three heads (S0)": ("heads", "--aug light rotate"),
}
TRIPLES = {
    "S2": ("--preset s2",) * 3,
    "S0": ("--preset s0",) * 3,
    "S1": ("--preset s1",) * 3,
    "S3": ("--preset s3",) * 3,
    "S4": ("--preset s4",) * 3,
}


def jobs() -> list[tuple[str, str]]:
    """(module, flags), each once; the most telling first."""
    wanted = [(f"tests.benchmarks.baselines {kind}", line) for kind, line in SINGLES.values()]
    for place in (2, 0, 1):
        wanted += [(f"{TASKS[place].task}.train", lines[place]) for lines in TRIPLES.values()]
    return list(dict.fromkeys(wanted))


def command(job: tuple[str, str], budget: str) -> str:
    """The module and all flags of a job, but where it reads and writes."""
    line = f"{job[0]} {job[1]} {SHARED} {budget}"
    if "s0" in job[1]:  # it restarts its schedule; one cycle of all epochs restarts nothing
        line += " --cycle-epochs " + re.search(r"--epochs (\d+)", budget)[1]
    return line


def train(line: str, out: Path, arguments: argparse.Namespace, cores: Queue) -> None:
    """One training on a core of its own, its output beside the checkpoint."""
    core = cores.get()
    log = out.with_suffix(".log")
    line = f"-m {line} --data {arguments.data} --out {out}"
    line += f" --cache-dir {arguments.out / 'cache'} --log-dir {arguments.out / 'runs'}"
    print(f"core {core}: python {line}", flush=True)
    words = [sys.executable, *shlex.split(line)]
    with log.open("w") as stream:
        status = subprocess.run(
            words,
            stdout=stream,
            stderr=stream,
            check=False,
            env=os.environ | MALLOC,
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        ).returncode
    cores.put(core)
    if status:
        out.unlink(missing_ok=True)
        print(f"failed ({status}): {log}", flush=True)


def train_all(jobs: Mapping[Hashable, str], arguments: argparse.Namespace) -> dict[Hashable, Path]:
    """Train what arguments.out lacks, arguments.jobs at a time; job → its checkpoint.

    `jobs` are lines such as "age.train --loss focal", which also name the files.
    """
    arguments.out.mkdir(parents=True, exist_ok=True)
    cores: Queue[int] = Queue()
    for core in sorted(os.sched_getaffinity(0))[: arguments.jobs]:
        cores.put(core)
    files = {job: arguments.out / file_name(line) for job, line in jobs.items()}
    missing = [job for job, file in files.items() if not is_finished(file)]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        list(pool.map(lambda job: train(jobs[job], files[job], arguments, cores), missing))
    return files


def file_name(line: str) -> str:
    """A short name of its own for a line of flags."""
    module = line.removeprefix("tests.benchmarks.").partition(" --")[0]
    digest = hashlib.sha256(line.encode()).hexdigest()[:8]
    return re.sub(r"\W+", "_", module) + f"_{digest}.pt"


def main() -> None:
    """Train what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--budget", default=BUDGET)
    arguments = parser.parse_args()
    files = train_all({job: command(job, arguments.budget) for job in jobs()}, arguments)
    print("| method | 18 classes | mask | gender | age |\n|---|---|---|---|---|")
    for name, (kind, line) in SINGLES.items():
        print_row(name, single_scores(files[f"tests.benchmarks.baselines {kind}", line]))
    for name, lines in TRIPLES.items():
        chosen = [files[f"{t.task}.train", flags] for t, flags in zip(TASKS, lines, strict=True)]
        print_row(name, combined_scores(chosen, arguments))


def is_finished(file: Path) -> bool:
    """Tell whether a training ended: its checkpoint appears with the first epoch."""
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
