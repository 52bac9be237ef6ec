"""What every command line shares: the parser, one-line errors, signals and exit codes."""

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

RECEIVED: list[int] = []  # signals that `guarded` was sent


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Shows each flag's default, except where it is none, and leaves descriptions as written."""

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
            if value == "--":  # argparse would drop it and go on with an empty list
                self.error(f"argument {name}: -- is no value; a file of that name is ./--")
        return super().parse_known_args(words, namespace)

    def error(self, message: str) -> NoReturn:
        after_main()
        self.exit(2, f"error: {message} ({self.prog} --help lists the flags)\n")


def guarded(command: Callable[[], int | None]) -> int:
    """Run `command`; a user's mistake is printed in one piece and gives exit status 2.

    Ctrl-C and SIGTERM end it with the status that shells expect, after its processes and
    temporary files are gone.
    """
    for stream in (sys.stdout, sys.stderr):  # a file's name needn't be printable
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
        stopped = RECEIVED and isinstance(sys.exception(), SystemExit)
        RECEIVED.clear()
        if not stopped:  # else a second one would cut the end short
            for number, handler in before.items():
                signal.signal(number, handler)


def _listen() -> dict[int, Any]:
    """Have SIGTERM and Ctrl-C raise what ends a command; returns the handlers of before."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    ignored = signal.getsignal(signal.SIGINT) is not signal.default_int_handler  # by a shell's &
    numbers = [signal.SIGTERM] if ignored else [signal.SIGTERM, signal.SIGINT]
    return {number: signal.signal(number, _stopped) for number in numbers}


def _unwrapped(command: Callable[[], int | None]) -> int | None:
    """Run `command`; what a signal raises while a class is made, Python 3.11 wraps."""
    try:
        return command()
    except RuntimeError as error:
        if isinstance(error.__cause__, SystemExit | KeyboardInterrupt):
            raise error.__cause__ from None
        raise


def _stopped(number: int, _: types.FrameType | None) -> NoReturn:
    RECEIVED.append(number)
    raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)
