"""Processes that are made to be killed, and a disk that is full when a certain file is written."""

import contextlib
import io
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.files import write_whole


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
    """As `ended`; what goes on for longer, or outlives its parent, is killed."""
    status = ended(number, seconds)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(number, signal.SIGKILL)
    return ended(number, 10) if status is None else status


def orphans(session: int, seconds: float = 3) -> bool:
    """Whether a process of the session is there still after so long."""
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
