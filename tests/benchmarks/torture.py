"""Test the promises about lost work, at full count: kills, signals, flipped bits, full disks, payloads.

    python -m tests.benchmarks.torture                       all, about an hour → TORTURE.md
    python -m tests.benchmarks.torture --only kills signals  these; the table's other rows stay
    python -m tests.benchmarks.torture --only kills --count 5

Trains a tiny network on drawn people. Most trainings are forks of this process, which has imported
everything and started no thread, since an import takes longer than such a training: a kill then hits
the work. Nothing is trained in this process, as autograd's threads don't survive a fork. One in twenty
of them, and all that signals stop, are `python -m mask.train`. Ends with status 1 where anything was
lost.
"""

import argparse
import contextlib
import dataclasses
import functools
import os
import platform
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

import combine
from common.base.errors import UserError
from common.data.layout import read_faces
from common.faces.cache import Cropper, usable_cache
from common.faces.crop import CropSpec
from common.model import checkpoint, export
from common.model.exported import load_exported
from common.model.loaded import load
from common.training import learner, log
from common.training.command import main as command
from common.training.engine import Settings
from mask.recipe import MaskRecipe
from tests.benchmarks.mutation import mutants
from tests.benchmarks.processes import (
    KEPT,
    Place,
    alone,
    await_writing,
    children,
    ended,
    finish,
    forked,
    kept,
    leftovers,
    newest,
    orphans,
    quiet,
    small,
    spoilt,
    whole,
)
from tests.payloads import PAYLOADS, Canary
from tests.tiny import ROOT, differences, interrupted

TABLE = Path(__file__).with_name("TORTURE.md")
HEAD = """# Fault tests

Written by `python -m tests.benchmarks.torture`; a short slice of each is in the tests.

| promise | how | figure | target | date | hardware |
|---|---|---|---|---|---|
"""
LINE = "--epochs 3 --lr 1e-3 --drop 0.3 --sched cosine --warmup-epochs 0.5 --model-ema-decay 0.9"
Found = tuple[int, int, str]  # how many went well, of how many, and what else was seen


def kills(count: int, place: Place) -> Found:
    """SIGKILL, half of the time at a random moment, else just when a file is being written."""
    rng = random.Random(0)
    base = place.new("whole")
    begun = time.monotonic()
    assert finish(place.start(base, LINE)) == 0
    length, expected = time.monotonic() - begun, newest(base)
    done = killed = half = tries = 0
    while killed < count:
        tries += 1
        folder, real = place.new(tries), killed % 20 == 19
        number = place.started(folder, LINE) if real else place.start(folder, LINE)
        if killed % 2 and not real:
            ended_itself = await_writing(number, folder, rng.randrange(10))
            time.sleep(rng.random() * 2e-3)
        else:
            ended_itself = ended(number, rng.random() * (length + (6 if real else 0))) is not None
        before = kept(folder)
        if ended_itself:
            continue  # it was quicker than the kill
        os.kill(number, signal.SIGKILL)
        ended(number, 10)
        killed += 1
        half += bool(leftovers(folder))
        good = whole(before | kept(folder))
        again = "--resume" if list(folder.glob(KEPT[2])) else LINE
        good &= finish(place.start(folder, again)) == 0 and whole({folder / "m.pt"})
        good = good and not leftovers(folder) and not differences(newest(folder), expected)
        done += good
        if not good:
            print(f"kill {tries}: {folder}, files {len(before)}, left {leftovers(folder)}")
        else:
            shutil.rmtree(folder)
    return done, count, f"{half} left a file half written, none after the next run"


def flips(count: int, place: Place) -> Found:
    """A random bit of a checkpoint, and of its export; and each cut short at 50 places."""
    folder = place.new("models")
    assert finish(place.start(folder, "--epochs 1")) == 0
    assert quiet(lambda: export.main([str(folder / "m.pt")]))[0] == 0
    rng, done = random.Random(0), 0
    for name, opened in (("m.pt", load), ("m.onnx", load_exported)):
        data, file = (folder / name).read_bytes(), folder / f"x{name[1:]}"
        for n in range(count + 50):
            if n < count:
                bit = rng.randrange(8 * len(data))
                changed = bytearray(data)
                changed[bit // 8] ^= 1 << bit % 8
            else:
                changed = data[: rng.randrange(len(data))]
            file.write_bytes(changed)
            try:
                opened(file, MaskRecipe)
                print(f"{name}, {n}: accepted")
            except UserError:
                done += 1
    return done, 2 * count + 100, "checkpoint and ONNX export, 50 truncations each"


def full_disk(count: int, place: Place) -> Found:
    """Each file that a training saves meets a full disk when it is replaced."""
    done = 0
    better = mock.patch.object(Settings, "merit", side_effect=lambda *_: time.monotonic())
    for name in ("best.pt", "m.pt", "last.pt", "metrics.csv")[:count]:
        folder = place.new(name)
        with better:  # each epoch is the best one
            assert finish(place.start(folder, LINE, interrupted(6, signal.SIGTERM))) == 143
        before = {file: file.read_bytes() for file in folder.rglob(name)}
        for file in folder.rglob("last.pt"):
            with contextlib.ExitStack() as stack, better:
                for module in (checkpoint, learner, log):
                    stack.enter_context(mock.patch.object(module, "write_whole", small(name)))
                status = finish(place.start(folder, f"--resume {file}"))
        printed = (folder / "printed").read_text()
        said = re.findall(r"^error: .*", printed, re.M)
        good = status == 2 and len(said) == 1 and name in said[0] and "Traceback" not in printed
        good &= before == {file: file.read_bytes() for file in before}
        good = good and not leftovers(folder) and whole(kept(folder))
        done += good
        print("" if good else f"{name}: {status}\n{printed[-1500:]}", end="")
    return done, min(count, 4), "best.pt, m.pt, last.pt, metrics.csv; a line, exit status 2"


def resumes(count: int, place: Place) -> Found:
    """Stopped after each step and resumed with the other number of workers."""
    line, base = LINE.replace("--epochs 3", f"--epochs {count // 4 + 1}"), place.new("whole")
    assert finish(place.start(base, line)) == 0
    expected, done = newest(base), 0
    for step in range(1, count + 1):
        for workers in (0, 2):
            folder, number = (
                place.new(f"{step}-{workers}"),
                (signal.SIGTERM, signal.SIGINT)[step % 2],
            )
            stopping = place.start(folder, f"{line} --workers {workers}", interrupted(step, number))
            stopped = finish(stopping) == 128 + number
            stopped &= newest(folder)["training"]["updates"] == step
            went_on = finish(place.start(folder, f"--resume --workers {2 - workers}")) == 0
            good = stopped and went_on and not differences(newest(folder), expected)
            done += good
            print("" if good else f"step {step}, {workers} workers: {folder}\n", end="")
    return done, 2 * count, "weights, EMA, optimizer, scheduler, counters, figures"


def signals(count: int, place: Place) -> Found:
    """Signals to the process and, every other time, to its group; every fourth from the start on."""
    rng, done, slowest = random.Random(0), 0, 0.0
    for n in range(2 * count):
        number, folder = (signal.SIGTERM, signal.SIGINT)[n % 2], place.new(n)
        process = place.started(folder, f"{LINE} --epochs 9999 --workers 2")
        early = n // 2 % 4 == 3
        while not early and not list(folder.glob("runs/mask/*/recipe.json")):
            assert ended(process, 0.05) is None, (folder / "printed").read_text()
        time.sleep(0.5 + rng.random() * (8 if early else 2))
        begun = time.monotonic()
        (os.killpg if n // 2 % 2 else os.kill)(process, number)
        status = ended(process, 20)
        seconds = time.monotonic() - begun
        printed = (folder / "printed").read_text()
        saved = "to go on: python -m mask.train --resume" in printed and whole(kept(folder))
        right = (128 + number, -number) if early else (128 + number,)  # to a shell the same
        good = status in right and "Traceback" not in printed and not orphans(process)
        good = good and (saved or early)
        done, slowest = done + good, max(slowest, seconds)
        if not good:
            print(f"signal {n}: {status}, early {early}, {seconds:.1f} s\n{printed[-1500:]}")
        finish(process, 0) if status is None else shutil.rmtree(folder)
    return done, 2 * count, f"the slowest {slowest:.1f} s; none left a process"


def stops(place: Place, value: float | Callable[[], Any], words: str, dtype: Any = None) -> bool:
    """Tell whether a training ends with status 2 and one line, its files as after the last whole epoch."""
    one, other = place.new(time.time_ns()), place.new(time.time_ns())
    with mock.patch.object(learner, "amp_dtype", return_value=dtype):
        status = finish(place.start(one, LINE, spoilt(value)))
        finish(place.start(other, LINE, interrupted(4, signal.SIGTERM)))
    printed = (one / "printed").read_text()
    found = re.findall(r"^error: .*", printed, re.M)
    untouched = torch_equal(newest(one)["state_dict"], newest(other)["state_dict"])
    good = status == 2 and len(found) == 1 and words in found[0] and "Traceback" not in printed
    if not (good and untouched and whole(kept(one))):
        print(status, untouched, printed[-1500:])
    return good and untouched and whole(kept(one))


def torch_equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one | other)


def not_finite(count: int, place: Place) -> Found:
    """NaN and infinity, in single precision and in bfloat16 autocast."""
    cases = [(v, t) for v in (float("nan"), float("inf")) for t in (None, torch.bfloat16)][:count]
    done = sum(stops(place, value, "the loss is", dtype) for value, dtype in cases)
    return done, len(cases), "NaN and Inf, with and without bfloat16; the last files as they were"


def no_memory() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")


def memory(count: int, place: Place) -> Found:
    """CUDA's error, raised, and the CPU allocator's own."""
    cases = (no_memory, lambda: torch.empty(2**60))[:count]
    done = sum(stops(place, case, "--batch-size 8 --grad-accum-steps 2") for case in cases)
    return done, len(cases), "CUDA's error and the CPU's"


def workers(count: int, place: Place) -> Found:
    """A loader process is killed while it, or the main process, is at work."""
    rng, done, slowest = random.Random(0), 0, 0.0
    for n in range(count):
        folder = place.new(n)
        cold = f"--cache-dir {folder}/cache" if n % 5 == 4 else ""  # it crops, then
        sign = "cache/crops-*" if cold else "runs/mask/*/recipe.json"
        number = place.start(folder, f"{LINE} --epochs 9999 --workers 1 {cold}")
        while not list(folder.glob(sign)) or len(children(number)) < 1 + (not cold and n % 2):
            assert ended(number, 0.01) is None, (folder / "printed").read_text()
        time.sleep(rng.random())  # with the second child that of validation is there
        while not children(number):  # between cropping and training there is none
            assert ended(number, 0.01) is None, (folder / "printed").read_text()
        begun = time.monotonic()
        os.kill(rng.choice(children(number)), signal.SIGKILL)
        status = ended(number, 60)
        slowest = max(slowest, time.monotonic() - begun)
        printed = (folder / "printed").read_text()
        said = re.findall(r"error: a loader process failed: .*", printed)
        good = status == 2 and len(said) == 1 and "Traceback" not in printed
        done += good and not orphans(number) and whole(kept(folder))
        print("" if good else f"worker {n}: {status}\n{printed[-1500:]}", end="")
        finish(number, 0) if status is None else shutil.rmtree(folder)
    return done, count, f"the slowest {slowest:.1f} s"


def cache(count: int, place: Place) -> Found:
    """Eight processes fill one cache; another is killed until all are through."""
    rng = random.Random(0)
    photos, spec = place.new("photos"), CropSpec("center", 0, (64, 64))
    drawn = [face.path.read_bytes() for face in read_faces(place.data)]
    for n in range(count):  # what follows a photo's end is another key and no other picture
        (photos / f"{n}.jpg").write_bytes(drawn[n % len(drawn)] + b"%d" % n)
    files = sorted(photos.iterdir())

    def fill(folder: Path, seed: int) -> int:
        cropper = Cropper([spec], usable_cache(folder)[0])
        for file in random.Random(seed).sample(files, len(files)):
            cropper(file)
        return 0

    shared, alone = place.folder / "shared", place.folder / "alone"
    fill(alone, 0)
    said = place.folder / "said"
    running = {forked(functools.partial(fill, shared, seed), said): seed for seed in range(8)}
    wanted, killed = 50 if count >= 1000 else 5, 0
    while running:
        for number in list(running):
            if ended(number, 1e-3) is not None:
                del running[number]
        if running and killed < wanted:
            time.sleep(rng.random() * 0.1)
            number = rng.choice(list(running))
            os.kill(number, signal.SIGKILL)
            killed += ended(number, 10) == -signal.SIGKILL
            seed = running.pop(number)
            running[forked(functools.partial(fill, shared, seed), said)] = seed
    print(said.read_text(), end="")
    usable_cache(shared)
    ours, theirs = (
        {f.relative_to(c): f for f in c.rglob("*") if f.is_file()} for c in (shared, alone)
    )
    same = sum(ours[k].read_bytes() == theirs[k].read_bytes() for k in ours.keys() & theirs.keys())
    modes = {oct(f.stat().st_mode & 0o777) for f in (shared, *shared.rglob("*"))}
    good = ours.keys() == theirs.keys() and modes == {"0o700", "0o600"}
    note = f"files identical after {killed} kills; modes {', '.join(sorted(modes))}"
    return same if good else 0, 2 * count, note


def payloads(count: int, place: Place) -> Found:
    """Payloads through combine.py, --weights, --resume and the export, and as an ONNX file."""
    folder, done, made = place.new("models"), 0, list(PAYLOADS.items())[:count]
    assert finish(place.start(folder, "--epochs 1")) == 0
    photo = next(face.path for face in read_faces(place.data))
    for name, make in made:
        for suffix in ("pt", "onnx"):
            file, canary = folder / f"x.{suffix}", Canary(folder / "executed")
            make(folder / "m.pt", file, canary)
            models = f"--mask {file} --gender {folder}/m.pt --age {folder}/m.pt --input {photo}"
            ways = {
                "combine": lambda words=models: combine.main(words.split()),
                "weights": lambda f=file: command(
                    MaskRecipe, place.words(folder, f"--weights {f} --epochs 1")
                ),
                "resume": lambda f=file: command(MaskRecipe, place.words(folder, f"--resume {f}")),
                "export": lambda f=file: export.main([str(f), "--out", f"{folder}/y.onnx"]),
            }
            for way, call in ways.items():
                status, said = quiet(call)
                lines = [x for x in said.splitlines() if not x.startswith("warning: ")]
                good = status == 2 and len(lines) == 1 and not canary.path.exists()
                done += good and "weights_only" not in said
                if not good:
                    print(f"{name}, {suffix}, {way}: {status}, {said}")
    return done, 8 * len(made), f"{len(made)} payloads; refused in a line, none executed"


def seeds(count: int, place: Place) -> Found:
    """The tests with other drawn people and other examples of hypothesis.

    Those that draw neither would only do the same again, so only the first seed has them too.
    With --again only the tests that failed last time are run, each at its seed: pytest remembers
    them, and a test that is mended need not cost the hours of the others.
    """
    done = 0
    for seed in range(count):
        memory = ROOT / ".pytest_cache" / "seeds" / str(seed)
        ended = memory / "ended"
        before = ended.read_text() if place.again and ended.exists() else ""
        if before == str(int(pytest.ExitCode.OK)):
            done += 1
            continue
        chosen = ["-m", "seeded"] if seed else []
        chosen += ["--last-failed"] if before == str(int(pytest.ExitCode.TESTS_FAILED)) else []
        run = subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                "-q",
                "-n",
                "2",
                "--dist",
                "loadfile",
                *chosen,
                f"--hypothesis-seed={seed}",
                "-o",
                "addopts=",
                "-o",
                f"cache_dir={memory}",
            ],
            cwd=ROOT,
            env=os.environ | {"TEST_SEED": str(seed)},
            capture_output=True,
            text=True,
        )
        done += run.returncode == pytest.ExitCode.OK
        memory.mkdir(parents=True, exist_ok=True)
        ended.write_text(str(run.returncode))
        print(f"seed {seed}: {run.stdout.strip().splitlines()[-1]}", flush=True)
        for failure in re.findall(r"^(?:FAILED|ERROR) .*", run.stdout, re.M):
            print(failure, flush=True)
    twice = "; those that failed at first mended and run again" if place.again else ""
    return done, count, f"drawn people and hypothesis; tests that draw neither once{twice}"


@dataclasses.dataclass(frozen=True)
class Promise:
    """A row of the table; `count` is what its target asks for."""

    words: str
    test: Callable[[int, Place], Found]
    count: int
    how: str


PROMISES = {
    "kills": Promise(
        "a kill never destroys a checkpoint; the next run ends as if there was none",
        kills,
        200,
        "SIGKILL in training and saving, resumed",
    ),
    "flips": Promise("corruption is noticed", flips, 1000, "a bit flipped anywhere, cut short"),
    "full": Promise("a full disk costs no file", full_disk, 4, "no room for half of each file"),
    "resumes": Promise(
        "resume is exact", resumes, 30, "stopped at each of 30 steps, 0 and 2 workers"
    ),
    "signals": Promise("preemption is clean", signals, 20, "SIGTERM and SIGINT, exit 143 and 130"),
    "nan": Promise(
        "a loss that is no number stops before the update", not_finite, 4, "a loss of NaN"
    ),
    "memory": Promise("a lack of memory names the way out", memory, 2, "the error in a step"),
    "workers": Promise("a dead loader process never hangs", workers, 50, "SIGKILL, at most 60 s"),
    "cache": Promise("the crop cache is safe to share", cache, 2000, "8 processes, 50 kills"),
    "payloads": Promise("a checkpoint runs no code", payloads, 12, "pickles that run commands"),
    "mutants": Promise(
        "the tests bite", mutants, 7, "modules in which 80 % of mutmut's mutants die"
    ),
    "seeds": Promise("no lucky seeds", seeds, 20, "all tests; hours, so only if asked for"),
}


def write_row(out: Path, promise: Promise, found: Found) -> None:
    """Add the promise's row, or replace it."""
    rows = out.read_text().splitlines()[HEAD.count("\n") :] if out.exists() else []
    done, expected, note = found
    cells = (
        promise.words,
        promise.how,
        f"{done:,} of {expected:,}; {note}",
        f"{expected:,} of {expected:,}",
        datetime.now(UTC).date().isoformat(),
        f"{os.cpu_count()} cores, {platform.machine()}",
    )
    kept = [row for row in rows if not row.startswith(f"| {promise.words} |")]
    order = [p.words for p in PROMISES.values()]
    new = [*kept, f"| {' | '.join(cells)} |"]
    words = [row.split(" | ")[0].removeprefix("| ") for row in new]
    place = {word: order.index(word) if word in order else len(order) for word in words}
    new.sort(key=lambda row: place[row.split(" | ")[0].removeprefix("| ")])
    out.write_text(HEAD + "\n".join(new) + "\n")


def main() -> int:
    """Test the promises, and write a row for each as soon as it is done; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--only",
        nargs="+",
        choices=PROMISES,
        metavar="NAME",
        default=[name for name in PROMISES if name not in ("mutants", "seeds")],
        help=", ".join(PROMISES),
    )
    parser.add_argument("--count", type=int, help="kills, bits, photos, … (default: the target's)")
    parser.add_argument(
        "--again",
        action="store_true",
        help="seeds: only the tests that failed last time, each at its seed",
    )
    parser.add_argument("--out", type=Path, help="table (default: TORTURE.md, without --count)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's & would have all ignore it
    status = 0
    with tempfile.TemporaryDirectory(prefix="torture-") as folder, alone(Path(folder)) as shared:
        for name in options.only:
            promise, begun = PROMISES[name], time.monotonic()
            place = dataclasses.replace(shared, folder=shared.folder / name, again=options.again)
            done, expected, note = found = promise.test(options.count or promise.count, place)
            minutes = (time.monotonic() - begun) / 60
            print(f"{name}: {done:,} of {expected:,}; {note}; {minutes:.1f} min", flush=True)
            status |= done != expected
            out = options.out or (None if options.count else TABLE)
            if out is not None:
                write_row(out, promise, found)
    return status


if __name__ == "__main__":
    sys.exit(main())
