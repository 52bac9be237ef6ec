"""Measure how many photos a second `combine.py --serve` answers, and how long a client waits.

    python -m tests.benchmarks.serve --models m.pt g.pt a.pt --photos data/eval/images

Clients on the same machine send a photo each, wait for the answer and send the next. They take part
of the cores, as a browser on the same machine does.
"""

import argparse
import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import numpy as np

from tests.tiny import ROOT

PHOTOS = 100  # different ones, in turn
TASKS = ("mask", "gender", "age")


@contextlib.contextmanager
def service(models: Sequence[Path]) -> Iterator[str]:
    """The URL of the command, run as a user would."""
    files = [f"--{task}={file.resolve()}" for task, file in zip(TASKS, models, strict=True)]
    command = [sys.executable, ROOT / "combine.py", *files, "--serve", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            for line in process.stdout:
                print(line, end="")
                if line.startswith("serving "):
                    yield line.split()[1].rstrip(",")
        finally:
            process.terminate()


async def client(url: str, photos: Sequence[bytes], first: int, until: float) -> list[tuple]:
    """(status, seconds) of one request after another."""
    done = []
    async with httpx.AsyncClient(timeout=120) as http:
        while time.perf_counter() < until:
            photo = photos[(first + len(done)) % len(photos)]
            start = time.perf_counter()
            answer = await http.post(f"{url}/predict", files=[("files", ("x.jpg", photo))])
            done.append((answer.status_code, time.perf_counter() - start))
    return done


async def load(url: str, photos: Sequence[bytes], clients: int, seconds: float) -> str:
    """A row of the table."""
    start = time.perf_counter()
    each = await asyncio.gather(
        *(client(url, photos, 7 * number, start + seconds) for number in range(clients))
    )
    took = time.perf_counter() - start
    waits = [wait for done in each for status, wait in done if status == 200]
    statuses = Counter(status for done in each for status, _ in done)
    half, most = np.percentile(waits, [50, 95]) * 1000
    return f"| {clients} | {len(waits) / took:.1f} | {half:.0f} | {most:.0f} | {statuses[503]} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", type=Path, nargs=3, required=True, metavar="FILE")
    parser.add_argument("--photos", type=Path, required=True, metavar="DIR")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--seconds", type=float, default=30)
    arguments = parser.parse_args()
    files = sorted(file for file in arguments.photos.rglob("*") if file.is_file())[:PHOTOS]
    photos = [file.read_bytes() for file in files]
    print(f"load of the machine before: {os.getloadavg()[0]:.1f}")
    with service(arguments.models) as url:
        asyncio.run(load(url, photos, 2, 3))  # warm
        print("| clients | photos/s | p50, ms | p95, ms | 503 |\n|---|---|---|---|---|")
        for clients in arguments.clients:
            print(asyncio.run(load(url, photos, clients, arguments.seconds)), flush=True)


if __name__ == "__main__":
    main()
