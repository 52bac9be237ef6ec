"""Train every task, one after another, with the same flags, and print the line that merges them.

    python -m common.tools.train_all --data data
    python -m common.tools.train_all --epochs 3 --img-size 96

Takes the flags that all tasks have, as `python -m TASK.train --help` lists them. What a task has alone,
such as age's --drop-ages, goes with that task's own command.
"""

import argparse
import contextlib
import importlib
import io
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from common.base.command import Parser, guarded
from common.base.errors import UserError
from common.model.recipe import Recipe
from common.training.command import build_parser, parse

TRAINS = "from common.training.command import main"  # in a task's train.py


def find_tasks(home: Path) -> list[type[Recipe]]:
    """Find the recipes of the tasks that lie beside the folder `common`, in the order of their class.

    A task is a folder with a train.py that calls our command line, whose recipe.py defines a Recipe.
    """
    files = (file for file in sorted(home.glob("*/train.py")) if TRAINS in file.read_text("utf-8"))
    modules = [importlib.import_module(f"{file.parent.name}.recipe") for file in files]
    return [
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, Recipe)
        and value.__module__ == module.__name__
    ]


def check_flags(recipes: Sequence[type[Recipe]], words: Sequence[str]) -> list[Path]:
    """Check the flags with every task's own parser; returns the checkpoints that will be written.

    Raises:
        UserError: --out or --resume is given, which name the file of one task.
    """
    files = []
    for recipe in recipes:
        parser = build_parser(recipe)
        parser.prog = "python -m common.tools.train_all"
        with contextlib.redirect_stdout(io.StringIO()):  # a preset is printed by its training
            _, run = parse(recipe, words, parser)
        if run.out is not None or run.resume is not None:
            flag = "--out" if run.out is not None else "--resume"
            raise UserError(f"{flag} names the file of one task: give it to python -m TASK.train")
        files += [run.out_file(recipe)]
    return files


def train_all(recipes: Sequence[type[Recipe]], words: Sequence[str]) -> int:
    """Train the tasks; returns the exit status of the first that fails, or 0."""
    files = check_flags(recipes, words)
    for number, recipe in enumerate(recipes, 1):
        command = ["-m", f"{recipe.__module__.rpartition('.')[0]}.train", *words]
        print(f"\n{number} of {len(recipes)}: python {shlex.join(command)}", flush=True)
        status = subprocess.run([sys.executable, *command], check=False).returncode
        if status:
            rest = ", ".join(r.task for r in recipes[number:])
            print(
                f"error: {recipe.task} stopped with status {status}"
                + (f"; not trained: {rest}" if rest else ""),
                file=sys.stderr,
            )
            return status if status > 0 else 128 - status
    models = [w for r, f in zip(recipes, files, strict=True) for w in (f"--{r.task}", str(f))]
    print(f"\nnext: python combine.py {shlex.join(models)}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = Parser(
        prog="python -m common.tools.train_all",
        description=__doc__,
        usage="%(prog)s [flags of python -m TASK.train]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _, words = parser.parse_known_args(argv)

    def command() -> int:
        return train_all(find_tasks(Path(__file__).parents[2]), words)

    return guarded(command)


if __name__ == "__main__":
    sys.exit(main())
