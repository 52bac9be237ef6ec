"""Shared parts of all command lines: the parser, one-line errors, signals and exit codes."""

import argparse
import contextlib
import io
import signal
import sys
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn, TextIO

from common.base.errors import UserError, printable, suggestion, visible
from common.base.fields import spelled
from common.base.processes import after_main
from common.base.quiet import be_quiet
from common.base.version import version

# Spellings of other projects → ours, for the message about an unknown flag.
ELSEWHERE = {
    "--arch": "--model",
    "--backbone": "--model",
    "--augment": "--aug",
    "--augmentation": "--aug",
    "--batch": "--batch-size",
    "--checkpoint": "--weights",
    "--dropout": "--drop",
    "--early-stopping": "--patience",
    "--ema": "--model-ema-decay",
    "--gpu": "--device",
    "--gpus": "--device",
    "--image-size": "--size",
    "--imgsz": "--size",
    "--label-smoothing": "--smoothing",
    "--learning-rate": "--lr",
    "--num-epochs": "--epochs",
    "--num-workers": "--workers",
    "--optimizer": "--opt",
    "--pretrained-weights": "--weights",
    "--scheduler": "--sched",
}
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


class ShowVersion(argparse.Action):
    """Prints the version, which is only looked up then, and ends the command."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        print(f"face-mask-gender-age {version()}")
        parser.exit()


class Parser(argparse.ArgumentParser):
    """argparse's parser whose errors are one line and whose flags are never abbreviated.

    A misspelled flag or choice gets the nearest right spelling.
    """

    def __init__(self, **settings: Any) -> None:
        settings = {"usage": "%(prog)s [flags]", "formatter_class": HelpFormatter} | settings
        super().__init__(allow_abbrev=False, **settings)
        self.add_argument(
            "--version",
            action=ShowVersion,
            nargs=0,
            default=argparse.SUPPRESS,
            help="show the version and exit",
        )

    def parse_args(
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self.error(self._unknown(unknown))
        return parsed

    def _unknown(self, words: Sequence[str]) -> str:
        """Name the unknown flags among `words`, or the stray values if there are none."""
        flags = dict.fromkeys(word.partition("=")[0] for word in words if word.startswith("-"))
        if flags:
            return ", ".join(f"unknown flag {flag}{self._nearest(flag)}" for flag in flags)
        hint = "; a photo or folder is given with --input" if self._knows("--input") else ""
        return f"no flag before {' '.join(map(repr, words))}{hint}"

    def _nearest(self, flag: str) -> str:
        known = ELSEWHERE.get(flag.replace("_", "-"))
        if known is not None and self._knows(known):
            return f"; did you mean {known}?"
        return suggestion(flag, self._option_string_actions)

    def _knows(self, flag: str) -> bool:
        return flag in self._option_string_actions

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            words = list(map(str, action.choices))
            raise argparse.ArgumentError(
                action,
                f"invalid choice: {value!r} (choose from {', '.join(words)})"
                f"{suggestion(str(value), words)}",
            )

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
        self.exit(2, f"error: {_lines(visible(message))} ({self.prog} --help lists the flags)\n")


def guarded(command: Callable[[], int | None]) -> int:
    """Run `command` and return its exit status.

    A user's mistake is printed in one piece and gives 2. Ctrl-C and SIGTERM give the status that
    shells expect, after the command's processes and temporary files are gone. Imports have no
    effects: what a whole process needs, such as environment variables, is set here.
    """
    be_quiet()
    with _safe(sys.stdout), _safe(sys.stderr):
        return _guarded(command)


def _guarded(command: Callable[[], int | None]) -> int:
    """Run `command`; errors and signals become lines and exit statuses."""
    before = _listen()
    try:
        return _unwrapped(command) or 0
    except UserError as error:
        after_main()
        print(f"error: {_lines(str(error))}", file=sys.stderr)
        return 2
    except OSError as error:
        after_main()
        reason = f"{error.filename or 'file'}: {error.strerror or error}"
        print(f"error: {printable(reason)}", file=sys.stderr)
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


def _lines(text: str) -> str:
    """`text` whose lines can't return to their beginning, over what is there."""
    return text.replace("\r", "\\r")


@contextlib.contextmanager
def _safe(stream: TextIO) -> Iterator[None]:
    """Let `stream` take any text: what is from files may hold odd characters and control codes."""
    if not isinstance(stream, io.TextIOWrapper):
        yield
        return
    stream.reconfigure(errors="backslashreplace")
    write = stream.write
    stream.write = lambda text: write(visible(text))  # print() and loggers take it, too
    try:
        yield
    finally:
        stream.write = write


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
