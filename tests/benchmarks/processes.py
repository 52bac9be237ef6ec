"""Tiny trainings that are made to be killed, to fail and to find the disk full, and what they leave."""

import contextlib
import dataclasses
import io
import os
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn

from common.base.errors import UserError
from common.base.files import LEFTOVERS, write_whole
from common.model import checkpoint
from common.model.recipe import Recipe
from common.tools.demo.dataset import draw_dataset
from common.training.command import main as command
from mask.recipe import MaskRecipe
from tests.tiny import FLAGS, environment

KEPT = ("m.pt", "runs/mask/*/best.pt", "runs/mask/*/last.pt")


@dataclasses.dataclass(frozen=True)
class Place:
    """A promise's own empty folder, and the drawn people and the warm cache that all share."""

    folder: Path
    data: Path
    cache: Path
    again: bool = False  # only what failed when it was last run

    def words(self, folder: Path, line: str) -> list[str]:
        """The flags of a tiny training below `folder`."""
        where = f"--data {self.data} --out {folder}/m.pt --log-dir {folder}/runs --device cpu"
        return f"{FLAGS} {where} --cache-dir {self.cache} {line}".split()

    def new(self, name: object) -> Path:
        folder = self.folder / str(name)
        folder.mkdir(parents=True)
        return folder

    def start(self, folder: Path, line: str, recipe: type[Recipe] = MaskRecipe) -> int:
        """A training in a fork of this process; its number."""
        return forked(lambda: command(recipe, self.words(folder, line)), folder / "printed")

    def started(self, folder: Path, line: str) -> int:
        """The same as a command; its number, which is its session's, too."""
        with (folder / "printed").open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "mask.train", *self.words(folder, line)],
                cwd=folder,
                env=environment(folder),
                stdout=output,
                stderr=output,
                start_new_session=True,
            ).pid


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[Place]:
    """Drawn people in `folder`, a cache that is warm, one core for each training, no network."""
    draw_dataset(folder / "data", people=12, eval_people=6, seed=0, workers=1)
    variables = environment(folder) | {"TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1"}
    cores = mock.patch("common.model.device.available_cores", return_value=1)
    with mock.patch.dict(os.environ, variables), cores:
        place = Place(folder, folder / "data", folder / "cache" / "face-mask-gender-age")
        assert finish(place.start(place.new("warm"), "--epochs 1")) == 0
        yield place


def forked(call: Callable[[], int], output: Path) -> int:
    """Run `call` in a process and session of its own; the process's number."""
    number = os.fork()
    if number:
        return number
    status: Any = 70
    try:
        os.setsid()
        handle = os.open(output, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.dup2(handle, 1), os.dup2(handle, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        status = call()
    except SystemExit as stop:
        status = stop.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(status)


def ended(number: int, seconds: float) -> int | None:
    """The exit status of a process, negative for a signal; None where it goes on for longer."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found, status = os.waitpid(number, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    return None


def finish(number: int, seconds: float = 300) -> int | None:
    """Wait as `ended` does; what goes on for longer, or outlives its parent, is killed."""
    status = ended(number, seconds)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(number, signal.SIGKILL)
    return ended(number, 10) if status is None else status


def orphans(session: int, seconds: float = 3) -> bool:
    """Tell whether a process of the session is there still after so long."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            os.killpg(session, 0)
        except ProcessLookupError:
            return False
        time.sleep(0.02)
    return True


def quiet(call: Callable[[], int]) -> tuple[int, str]:
    """The exit status and what is said on stderr."""
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        return call(), errors.getvalue()


def small(name: str) -> Callable[..., None]:
    """`write_whole`, for which the disk is full when a file of this name is half written."""

    def write(path: Path, data: bytes | memoryview, *rest: Any, **more: Any) -> None:
        old = resource.getrlimit(resource.RLIMIT_FSIZE)
        if path.name == name:
            resource.setrlimit(resource.RLIMIT_FSIZE, (len(data) // 2, old[1]))
        try:
            write_whole(path, data, *rest, **more)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, old)

    return write


def children(number: int) -> list[int]:
    return [int(n) for n in Path(f"/proc/{number}/task/{number}/children").read_text().split()]


def await_writing(number: int, folder: Path, skip: int) -> bool:
    """Wait until a temporary file is there, `skip` of them being let go; True if the end is first."""
    seen: set[str] = set()
    while True:
        with contextlib.suppress(OSError):  # a folder that comes or goes while it is looked through
            for root in (folder, folder / "runs", *folder.glob("runs/mask/*")):
                seen |= {e.name for e in os.scandir(root) if e.name.endswith(".part")}
        if len(seen) > skip:
            return False
        if ended(number, 3e-4) is not None:
            return True


def leftovers(folder: Path) -> list[Path]:
    return list(folder.rglob(LEFTOVERS))


def kept(folder: Path) -> set[Path]:
    return {file for pattern in KEPT for file in folder.glob(pattern)}


def whole(files: set[Path]) -> bool:
    """Tell whether all are there and can be read."""
    try:
        return all(checkpoint.read(file) for file in files)
    except UserError as error:
        print(error)
        return False


def newest(folder: Path) -> dict[str, Any]:
    files = folder.glob("runs/mask/*/last.pt")
    return checkpoint.read(max(files, key=lambda file: file.stat().st_mtime))


class Spoilt(nn.CrossEntropyLoss):
    """A loss that from the second epoch on is no number, or for which the memory is too small."""

    def __init__(self, value: float | Callable[[], Any]) -> None:
        super().__init__()
        self.value, self.calls = value, 0

    def forward(self, *batch: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if self.calls <= 4:
            return super().forward(*batch)
        value = self.value() if callable(self.value) else self.value
        return super().forward(*batch) + value


def spoilt(value: float | Callable[[], Any]) -> type[MaskRecipe]:
    class Recipe(MaskRecipe):
        def criterion(self, counts: Any) -> nn.Module:
            return Spoilt(value)

    return Recipe
