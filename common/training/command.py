"""The command line of every task: `main(recipe_class)`; recipe and run fields become flags."""

import argparse
import contextlib
import dataclasses
import os
import shlex
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from common.base.command import Parser, guarded
from common.base.errors import UserError
from common.base.fields import add_flags, build, flags_of, spelled
from common.base.processes import is_main, restarts
from common.base.run_settings import Run, Search
from common.model.recipe import Recipe


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


def _differs(given: Recipe, saved: Recipe) -> str:
    fields = [f.name for f in dataclasses.fields(saved)]
    names = [n for n in fields if getattr(given, n) != getattr(saved, n)]
    return "\n".join(
        f"--{n.replace('_', '-')} is {spelled(getattr(given, n))} here and "
        f"{spelled(getattr(saved, n))} in the run to be resumed: leave it out, or start anew"
        for n in names
    )


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
