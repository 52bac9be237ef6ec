"""The command line of every task: `main(recipe_class)`; recipe and run fields become flags."""

import argparse
import contextlib
import dataclasses
import io
import os
import shlex
import signal
import sys
import textwrap
import threading
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from common.errors import UserError
from common.flags import tuples
from common.processes import after_main, is_main, restarts
from common.recipe import Recipe
from common.run_settings import Run, Search

METAVARS = {int: "N", float: "X"}
FILE_FIELDS = ("weights", "label_fixes")
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


def spelled(value: Any) -> str:
    """A field's value for a person: 96x64 for a size, 57-59 28-29 for ranges of years, on, none."""
    if isinstance(value, bool):
        return "on" if value else "off"
    home = str(Path.home())
    if isinstance(value, Path):
        return str(value).replace(home, "~", 1)
    return "none" if value is None else " ".join(_words(value)) or "none"


def _words(value: Any) -> list[str]:
    """A value as it is typed after its flag; a tuple of tuples takes a word for each."""
    if isinstance(value, Path):
        return [f"./{value}" if str(value).startswith("-") else str(value)]
    if not isinstance(value, tuple):
        return [str(value)]
    if value and all(isinstance(side, int) for side in value):
        return ["x".join(map(str, value)) if len(set(value)) > 1 else str(value[0])]
    return [
        "-".join(map(str, part)) if isinstance(part, tuple) else _words(part)[0] for part in value
    ]


def flags_of(settings: Recipe | Run, base: Recipe | Run | None = None) -> list[str]:
    """The command line's words that turn `base`, else the defaults, into `settings`.

    `parse` reads them back to the same fields; shlex.join makes a line to paste. ValueError where
    a field of `base` has a value that `settings` lacks, as no flag takes a value away.
    """
    base = type(settings)() if base is None else base
    words: list[str] = []
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if value != getattr(base, field.name):
            words += _flag(field.name.replace("_", "-"), value)
    return words


def saved_flags(fields: Mapping[str, Any]) -> list[str]:
    """The words for all `fields` of a saved recipe, so that later defaults don't matter.

    Files are named without their folders, which were on the machine that trained.
    """
    words: list[str] = []
    for name, value in fields.items():
        if value is not None:
            value = Path(value).name if name in FILE_FIELDS else tuples(value)
            words += _flag(name.replace("_", "-"), value)
    return words


def _flag(name: str, value: Any) -> list[str]:
    if value is None:
        raise ValueError(f"no flag takes --{name} away")
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    words = _words(value)
    if len(words) == 1 and words[0].startswith("-"):  # else it would be read as a flag
        return [f"--{name}={words[0]}"]
    return [f"--{name}", *words]


def _kind(field: dataclasses.Field) -> Callable[[str], Any]:
    kinds = [k for k in typing.get_args(field.type) if k is not types.NoneType]
    return kinds[0] if kinds else field.type


def explained(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """Let argparse show a parser's own words instead of "invalid value"."""

    def call(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None

    call.__name__ = getattr(parse, "__name__", "value")
    return call


def _described(settings: type, name: str) -> dataclasses.Field:
    """The field as first declared: a task that changes a default need not repeat the help."""
    fields = (getattr(c, "__dataclass_fields__", {}).get(name) for c in settings.__mro__)
    return next(f for f in fields if f is not None and f.metadata)


def add_flags(
    parser: argparse.ArgumentParser, settings: type, only: Collection[str] | None = None
) -> None:
    """Add a flag for each field (or `only` some) of the dataclass `settings`, under its heading."""
    groups: dict[str, Any] = {}
    for field in dataclasses.fields(settings):
        if only is not None and field.name not in only:
            continue
        metadata = _described(settings, field.name).metadata
        title = metadata["group"]
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        argument = {"help": metadata["help"], "default": field.default}
        if _kind(field) in METAVARS:
            argument["metavar"] = METAVARS[_kind(field)]
        argument |= metadata["argument"]
        if field.type is bool:
            argument["action"] = argparse.BooleanOptionalAction
        else:
            argument["type"] = explained(metadata["parse"] or _kind(field))
        groups[title].add_argument("--" + field.name.replace("_", "-"), **argument)


def build_parser(recipe: type[Recipe], verb: str = "train") -> argparse.ArgumentParser:
    """The parser of `python -m <task>.train`, or of `tune`, which takes all of its flags."""
    what = {"train": "Train the", "tune": "Search for a better recipe for the"}[verb]
    parser = Parser(
        prog=f"python -m {recipe.task}.{verb}",
        description=f"{what} {recipe.task} model ({', '.join(recipe.classes)}).",
        epilog="example, for a machine without a GPU and a network:\n"
        f"  python -m {recipe.task}.{verb} --preset scratch",
    )
    if verb == "tune":
        add_flags(parser, Search)
    parser.add_argument(
        "--preset", choices=sorted(recipe.presets), help="start from all values of a source system "
        "(S0 to S4), or of what learns most without a GPU and pretrained weights (scratch); other "
        "flags win"
    )  # fmt: skip
    add_flags(parser, recipe)
    add_flags(parser, Run)
    return parser


def parse_search(
    recipe: type[Recipe], argv: Sequence[str] | None = None
) -> tuple[Recipe, Run, Search, set[str]]:
    """Read the command line of `tune`; the names are those of the flags that were given."""
    parser = build_parser(recipe, "tune")
    names = [f.name for settings in (recipe, Run, Search) for f in dataclasses.fields(settings)]
    absent = object()
    empty = argparse.Namespace(**dict.fromkeys(names, absent))
    found = vars(parser.parse_args(argv, empty))
    given = {name for name in names if found[name] is not absent}
    search = build(Search, vars(parser.parse_args(argv)))
    return *parse(recipe, argv, parser), search, given


def parse(
    recipe: type[Recipe],
    argv: Sequence[str] | None = None,
    parser: argparse.ArgumentParser | None = None,
) -> tuple[Recipe, Run]:
    """Read the command line; with --resume, the interrupted run's flags are the defaults.

    Started anew by torchrun, a training goes on with what it has saved, if anything.
    """
    parser = parser or build_parser(recipe)
    values = vars(parser.parse_args(argv))
    saved = None
    if values["preset"]:
        parser.set_defaults(**_preset(recipe, values["preset"]))
        values = vars(parser.parse_args(argv))
    restarted = None
    if restarts():
        from common.training.resume import saved_in_this_launch

        restarted = saved_in_this_launch(recipe, values["log_dir"])
        values["resume"] = restarted or values["resume"]
    if values["resume"] is not None:
        from common.training.resume import find_resume

        values["resume"], saved, run = find_resume(recipe, values["resume"], values["log_dir"])
        parser.set_defaults(**dataclasses.asdict(saved), **run)
        values = vars(parser.parse_args(argv)) | {"resume": values["resume"]}
    chosen, run = build(recipe, values), build(Run, values)
    if restarted:
        chosen = saved  # the same command; what it left to the data is settled by now
    elif saved is not None and chosen != saved:
        raise UserError(_differs(chosen, saved))
    chosen.check()
    run.check()
    return chosen, run


def _preset(recipe: type[Recipe], name: str) -> Mapping[str, Any]:
    """The values of a source, printed as the flags that they stand for."""
    values = recipe.presets[name]
    changes = [
        word
        for settings in (recipe, Run)
        for word in flags_of(build(settings, dataclasses.asdict(settings()) | dict(values)))
    ]
    line = shlex.join(changes) or "the defaults"
    print(textwrap.fill(f"--preset {name} is {line}", width=100, subsequent_indent="  "))
    return values


def build(settings: type, values: Mapping[str, Any]) -> Any:
    """The dataclass `settings` from parsed values; lists, and lists in lists, become tuples."""
    given = {f.name: values[f.name] for f in dataclasses.fields(settings)}
    return settings(**{k: _flat(v) if isinstance(v, list) else v for k, v in given.items()})


def _flat(words: list[Any]) -> tuple[Any, ...]:
    """What several words were parsed to; a word such as years,mask gives a list of its own."""
    return tuple(item for word in words for item in (word if isinstance(word, list) else [word]))


def _differs(given: Recipe, saved: Recipe) -> str:
    fields = [f.name for f in dataclasses.fields(saved)]
    names = [n for n in fields if getattr(given, n) != getattr(saved, n)]
    return "\n".join(
        f"--{n.replace('_', '-')} is {spelled(getattr(given, n))} here and "
        f"{spelled(getattr(saved, n))} in the run to be resumed: leave it out, or start anew"
        for n in names
    )


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


def main(recipe: type[Recipe], argv: Sequence[str] | None = None) -> int:
    """Train one task from the command line; returns the exit status."""

    def command() -> int:
        chosen, run = parse(recipe, argv)
        from common.training.run import train

        return train(chosen, run)

    return guarded(command if is_main() else _muted(command))


def _muted(command: Callable[[], int | None]) -> Callable[[], int | None]:
    """`command` without what it prints, in those of torchrun's processes that only compute."""

    def muted() -> int | None:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            return command()

    return muted


def tune(recipe: type[Recipe], argv: Sequence[str] | None = None) -> int:
    """Search for a better recipe from the command line; returns the exit status."""

    def command() -> int:
        chosen, run, search, given = parse_search(recipe, argv)
        from common.training.tune import tune

        return tune(chosen, run, search, given)

    return guarded(command)
