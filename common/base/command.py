"""Shared parts of all command lines: the parser, one-line errors, signals and exit codes."""

import argparse
import io
import signal
import sys
import threading
import types
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from common.base.errors import UserError
from common.base.fields import spelled
from common.base.processes import after_main
from common.base.quiet import be_quiet

_received: list[int] = []


def received_signal() -> int | None:
    """Number of the first signal that the running command received; None if there was none.

    Some libraries swallow the exception that a signal raises while they are imported. Long work
    asks here, so that such a signal still stops it.
    """
    return next(iter(_received), None)


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Shows each flag's default, unless it is none, and leaves descriptions as written."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        hidden = (None, argparse.SUPPRESS, False, ())
        if any(action.default is value for value in hidden) or "(default:" in action.help:
            return action.help
        return f"{action.help} (default: {spelled(action.default)})"


class Parser(argparse.ArgumentParser):
    """argparse's parser whose errors are one line and whose flags are never abbreviated."""

    def __init__(self, **settings: Any) -> None:
        settings = {"usage": "%(prog)s [flags]", "formatter_class": HelpFormatter} | settings
        super().__init__(allow_abbrev=False, **settings)

    def parse_known_args(
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        words = sys.argv[1:] if args is None else list(args)
        for name, _, value in (word.partition("=") for word in words):
            if value == "--":  # argparse would drop it and take an empty list
                self.error(f"argument {name}: -- is no value; a file of that name is ./--")
        return super().parse_known_args(words, namespace)

    def error(self, message: str) -> NoReturn:
        after_main()
        self.exit(2, f"error: {message} ({self.prog} --help lists the flags)\n")


def guarded(command: Callable[[], int | None]) -> int:
    """Run `command` and return its exit status.

    A user's mistake is printed in one piece and gives 2. Ctrl-C and SIGTERM give the status that
    shells expect, after the command's processes and temporary files are gone. Imports have no
    effects: what a whole process needs, such as environment variables, is set here.
    """
    be_quiet()
    for stream in (sys.stdout, sys.stderr):  # file names needn't be printable
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    before = _listen()
    try:
        return _unwrapped(command) or 0
    except UserError as error:
        after_main()
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        after_main()
        print(f"error: {error.filename or 'file'}: {error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    finally:
        stopped = _received and isinstance(sys.exception(), SystemExit)
        _received.clear()
        if not stopped:  # otherwise a second signal would interrupt the exit
            for number, handler in before.items():
                signal.signal(number, handler)


def _listen() -> dict[int, Any]:
    """Make SIGTERM and Ctrl-C raise exceptions; returns the previous handlers."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    # A shell's & makes the process ignore Ctrl-C, which must stay so.
    ignored = signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    numbers = [signal.SIGTERM] if ignored else [signal.SIGTERM, signal.SIGINT]
    return {number: signal.signal(number, _stopped) for number in numbers}


def _unwrapped(command: Callable[[], int | None]) -> int | None:
    """Run `command`; unwraps a signal's exception, which Python 3.11 wraps in class creation."""
    try:
        return command()
    except RuntimeError as error:
        if isinstance(error.__cause__, SystemExit | KeyboardInterrupt):
            raise error.__cause__ from None
        raise


def _stopped(number: int, _: types.FrameType | None) -> NoReturn:
    _received.append(number)
    raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)
