"""Command lines of every task, `python -m <task>.train` and `.tune`; their flags are fields."""

import argparse
import contextlib
import dataclasses
import os
import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal

from common.base.command import Parser, guarded
from common.base.errors import UserError
from common.base.fields import add_flags, build, flags_of, spelled
from common.base.processes import is_main, restarts
from common.base.run_settings import Run, Search
from common.model.recipe import Recipe
from common.render.text import filled
from common.training.config import expanded

Verb = Literal["train", "tune"]
PURPOSES = {"train": "Train the", "tune": "Search for a better recipe for the"}


def main(recipe: type[Recipe], argv: Sequence[str] | None = None, verb: Verb = "train") -> int:
    """Run a task's command line; returns the exit status."""

    def command() -> int:
        if verb == "tune":
            chosen, run, search, given = parse_search(recipe, argv)
            from common.training.tune import tune

            return tune(chosen, run, search, given)
        chosen, run = parse(recipe, argv)
        from common.training.run import train

        return train(chosen, run)

    return guarded(command if is_main() else _muted(command))


def _muted(command: Callable[[], int]) -> Callable[[], int]:
    """Return `command` without its output, for those of torchrun's processes that only compute."""

    def muted() -> int:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            return command()

    return muted


def build_parser(recipe: type[Recipe], verb: Verb = "train") -> argparse.ArgumentParser:
    """Build the parser of `python -m <task>.train`, or of `tune`, which takes all of its flags."""
    presets = sorted(recipe.presets)
    example = f"python -m {recipe.task}.{verb}"
    epilog = f"example:\n  {example} --data data --epochs 5"
    if "scratch" in presets:
        epilog = (
            f"example, for a machine without a GPU and a network:\n  {example} --preset scratch"
        )
    parser = Parser(
        prog=example,
        description=f"{PURPOSES[verb]} {recipe.task} model ({', '.join(recipe.classes)}).",
        epilog=epilog,
    )
    if verb == "tune":
        add_flags(parser, Search)
    if presets:
        parser.add_argument(
            "--preset",
            choices=presets,
            help="start from all values of a source system (S0 to S4), or of what learns most "
            "without a GPU and pretrained weights (scratch); other flags win",
        )
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="settings from a JSON or YAML file, such as a run's recipe.json; flags overrule them",
    )
    add_flags(parser, recipe)
    add_flags(parser, Run)
    return parser


def parse_search(
    recipe: type[Recipe], argv: Sequence[str] | None = None
) -> tuple[Recipe, Run, Search, set[str]]:
    """Parse the command line of `tune`; returns also the names of the fields that it sets."""
    parser, argv = build_parser(recipe, "tune"), expanded(recipe, argv)
    names = [f.name for settings in (recipe, Run, Search) for f in dataclasses.fields(settings)]
    given = _given(parser, names, argv)
    search = build(Search, vars(parser.parse_args(argv)))
    return *parse(recipe, argv, parser), search, given


def _given(
    parser: argparse.ArgumentParser, names: Collection[str], argv: Sequence[str] | None
) -> set[str]:
    """Return those of the fields `names` that the command line sets."""
    absent = object()
    empty = argparse.Namespace(**dict.fromkeys(names, absent))
    parsed = vars(parser.parse_args(argv, empty))
    return {name for name in names if parsed[name] is not absent}


def parse(
    recipe: type[Recipe],
    argv: Sequence[str] | None = None,
    parser: argparse.ArgumentParser | None = None,
) -> tuple[Recipe, Run]:
    """Parse the command line; with --resume, the interrupted run's flags are the defaults.

    A training that torchrun restarts continues from what it has saved, if anything.

    Raises:
        UserError: flags don't fit together, or there is nothing to resume.
    """
    parser, argv = parser or build_parser(recipe), expanded(recipe, argv)
    values = vars(parser.parse_args(argv))
    saved = None
    if values.get("preset"):
        parser.set_defaults(**_preset(recipe, values["preset"]))
        values = vars(parser.parse_args(argv))
    restarted = None
    if restarts():
        from common.training.resume import saved_in_this_launch

        restarted = saved_in_this_launch(recipe, values["log_dir"])
        values["resume"] = restarted or values["resume"]
    if values["resume"] is not None:
        from common.training.resume import PLACES, check_own_places, find_resume

        values["resume"], saved, run = find_resume(recipe, values["resume"], values["log_dir"])
        agreed = {name: values[name] for name in _given(parser, PLACES, argv)}
        check_own_places(values["resume"], run | agreed, values)
        parser.set_defaults(**dataclasses.asdict(saved), **run)
        values = vars(parser.parse_args(argv)) | {"resume": values["resume"]}
    chosen, run = build(recipe, values), build(Run, values)
    if restarted:
        chosen = saved  # the same command, with what depends on the data filled in
    elif saved is not None and chosen != saved:
        raise UserError(_differences(chosen, saved))
    chosen.check()
    run.check()
    return chosen, run


def _preset(recipe: type[Recipe], name: str) -> Mapping[str, Any]:
    """Return the values of a preset, and print them as flags."""
    values = recipe.presets[name]
    changes = [
        word
        for settings in (recipe, Run)
        for word in flags_of(build(settings, dataclasses.asdict(settings()) | dict(values)))
    ]
    print(filled(f"--preset {name} is {shlex.join(changes) or 'the defaults'}"))
    return values


def _differences(given: Recipe, saved: Recipe) -> str:
    fields = [f.name for f in dataclasses.fields(saved)]
    names = [n for n in fields if getattr(given, n) != getattr(saved, n)]
    lines = [
        f"--{n.replace('_', '-')} is {spelled(getattr(given, n))} here and "
        f"{spelled(getattr(saved, n))} in the run to be resumed: leave it out, or start anew"
        for n in names
    ]
    if "epochs" in names and given.epochs > saved.epochs:
        lines.append(f"  more epochs: --weights {given.checkpoint_name} without --resume goes on")
    return "\n".join(lines)
