"""Two hosts on one machine, and what becomes of their common work where one is killed or cut off.

A host is a network namespace with an end of a cable (ip-netns(8), veth(4)): its processes reach the
other's only by the cable. Needs Linux, root and Debian's iproute2. The files are the same on both.
"""

import contextlib
import math
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd

from age.recipe import AgeRecipe
from gender.recipe import GenderRecipe
from mask.recipe import MaskRecipe
from tests.benchmarks.processes import Place, finish, kept, whole
from tests.tiny import ROOT

HOSTS = ("10.9.0.1", "10.9.0.2")
BIN = Path(sys.executable).parent
LINE = "--opt sgd --lr 1e-2 --batch-size 16"
MINUTE = 60  # s; the most that a training goes on when a host is lost


def ip(words: str) -> str:
    return subprocess.run(["ip", *words.split()], check=True, capture_output=True, text=True).stdout


@contextlib.contextmanager
def two_hosts() -> Iterator[list[str]]:
    """The names of two hosts, whose processes end with them."""
    names = [f"host{end}-{os.getpid()}" for end in range(2)]
    try:
        for name in names:
            ip(f"netns add {name}")
        ip(f"link add cable netns {names[0]} type veth peer name cable netns {names[1]}")
        for name, address in zip(names, HOSTS, strict=True):
            ip(f"-n {name} addr add {address}/24 dev cable")
            ip(f"-n {name} link set cable up")
            ip(f"-n {name} link set lo up")
        yield names
    finally:
        for name in names:
            kill(name)
            ip(f"netns del {name}")


def kill(host: str) -> None:
    """End a host: all of its processes."""
    while numbers := ip(f"netns pids {host}").split():
        for number in numbers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(number), signal.SIGKILL)
        time.sleep(0.1)


def cut(host: str) -> None:
    """Pull the cable: what is sent goes nowhere, and nobody is told."""
    ip(f"-n {host} link set cable down")


def on(host: str, words: list[str], folder: Path, **variables: str) -> subprocess.Popen:
    """Start a command of this environment on a host."""
    with (folder / f"printed-{host}").open("ab") as output:
        return subprocess.Popen(
            ["ip", "netns", "exec", host, BIN / words[0], *words[1:]], cwd=ROOT,
            env=os.environ | {"GLOO_SOCKET_IFNAME": "cable"} | variables,
            stdout=output, stderr=output,
        )  # fmt: skip


def hosts(count: int, place: Place) -> tuple[int, int, str]:
    """The first `count` of: one result, one host killed, the cable pulled, Ray's host killed."""
    if os.geteuid() or shutil.which("ip") is None:
        sys.exit("hosts: needs root and iproute2's ip")
    done, seconds, chosen = 0, [], list(CHECKS)[:count]
    for name in chosen:
        folder = place.new(name.replace(" ", "-"))
        good, passed = False, math.inf
        with two_hosts() as names, contextlib.suppress(subprocess.TimeoutExpired):
            good, passed = CHECKS[name](names, folder, place)
        seconds.append(passed)
        done += good
        if not good:
            print(f"{name}: failed, {folder}")
            print(*(file.read_text()[-2000:] for file in folder.glob("printed*")), sep="\n")
    note = f"{', '.join(chosen)}; a training stops after {max(seconds):.0f} s at most"
    return done, len(chosen), note


def started(names: list[str], folder: Path, place: Place, epochs: int) -> list[subprocess.Popen]:
    """A training with torchrun, one process on each host."""
    training = ["-m", "mask.train", *place.words(folder, f"{LINE} --epochs {epochs}")]
    torchrun = f"--nnodes 2 --nproc-per-node 1 --master-addr {HOSTS[0]} --master-port 29500"
    return [
        on(name, ["torchrun", *torchrun.split(), "--node-rank", str(rank), *training], folder)
        for rank, name in enumerate(names)
    ]


def losses(folder: Path) -> list[float]:
    (file,) = folder.glob("runs/mask/*/metrics.csv")
    return pd.read_csv(file)["val_loss"].tolist()


def same(names: list[str], folder: Path, place: Place) -> tuple[bool, float]:
    """Two hosts learn what one process does."""
    alone = place.new("alone")
    good = finish(place.start(alone, f"{LINE} --epochs 3")) == 0
    good &= all(run.wait(300) == 0 for run in started(names, folder, place, 3))
    if not good:
        return False, 0
    pairs = zip(losses(alone), losses(folder), strict=True)
    return all(math.isclose(*pair, rel_tol=1e-4) for pair in pairs), 0


def lost(fault: Callable[[str], None]) -> "Check":
    """A fault of the second host stops the first, whose files are whole."""

    def check(names: list[str], folder: Path, place: Place) -> tuple[bool, float]:
        runs = started(names, folder, place, 9999)
        until = time.monotonic() + 300
        while not list(folder.glob("runs/mask/*/last.pt")) and time.monotonic() < until:
            time.sleep(0.2)
        fault(names[1])
        begun = time.monotonic()
        statuses = [run.wait(2 * MINUTE) for run in runs]
        seconds = time.monotonic() - begun
        files = kept(folder)
        return 0 not in statuses and bool(files) and whole(files) and seconds < MINUTE, seconds

    return check


def answers(names: list[str], folder: Path, place: Place) -> tuple[bool, float]:
    """A host of a Ray cluster is killed in the middle: every photo has its one answer."""
    models = []
    for recipe in (MaskRecipe, GenderRecipe, AgeRecipe):
        model = f"{folder}/{recipe.task}.pt"
        assert finish(place.start(folder, f"--epochs 1 --out {model}", recipe)) == 0
        models += [f"--{recipe.task}", model]
    for copy in range(60):
        (folder / f"photos/{copy}").mkdir(parents=True)
        for photo in (place.data / "eval/images").iterdir():
            os.link(photo, folder / f"photos/{copy}/{photo.name}")
    secret = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32),
              "RAY_USAGE_STATS_ENABLED": "0"}  # fmt: skip
    ray = ["ray", "start", "--num-cpus", "1", "--node-ip-address"]
    own = tempfile.mkdtemp(prefix="ray-")  # a socket's path has 107 bytes at most
    head = ["--head", "--port", "6379", "--include-dashboard", "false", "--temp-dir", own]
    assert on(names[0], [*ray, HOSTS[0], *head], folder, **secret).wait(120) == 0
    second = [*ray, HOSTS[1], "--address", f"{HOSTS[0]}:6379"]
    assert on(names[1], second, folder, **secret).wait(120) == 0
    line = ["python", "combine.py", *models, "--input", f"{folder}/photos", "--cache-dir",
            str(place.cache), "--output", f"{folder}/codes"]  # fmt: skip
    run = on(names[0], [*line, "--ray", f"{HOSTS[0]}:6379"], folder, **secret)
    while len(list(folder.glob("codes/*.parquet"))) < 4 and run.poll() is None:
        time.sleep(0.05)
    early = run.poll() is None
    kill(names[1])
    good = run.wait(300) == 0 and early
    shutil.rmtree(own, ignore_errors=True)
    table = pd.read_parquet(folder / "codes")
    copies = table["ans"].groupby(table["ImageID"].str.rpartition("/")[2])
    return good and len(table) == table["ImageID"].nunique() == 60 * len(copies) and bool(
        (copies.nunique() == 1).all() and table["error"].isna().all()
    ), 0  # fmt: skip


Check = Callable[[list[str], Path, Place], tuple[bool, float]]
CHECKS: dict[str, Check] = {
    "one result": same,
    "a host killed": lost(kill),
    "the cable pulled": lost(cut),
    "a host of Ray's killed": answers,
}
