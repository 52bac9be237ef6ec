"""Small trainings in this process, for the tests that look inside."""

import contextlib
import io
import os
from pathlib import Path
from typing import Any

from common.cli import parse
from common.recipe import Recipe
from common.run_settings import Run
from common.training.run import train

ROOT = Path(__file__).parents[1]
FLAGS = "--model test_efficientnet --size 48 --no-pretrained --batch-size 16 --folds 3 --workers 0"


def settings(recipe: type[Recipe], data: Path, folder: Path, line: str = "") -> tuple[Recipe, Run]:
    """A tiny recipe and run that read `data` and write below `folder`."""
    out = folder / f"{recipe.task[0]}.pt"
    where = f"--data {data} --out {out} --log-dir {folder / 'runs'} --device cpu"
    return parse(recipe, f"{FLAGS} {where} {line}".split())


def train_tiny(recipe: type[Recipe], data: Path, folder: Path, line: str = "") -> tuple[int, str]:
    """Train a few steps; returns the exit status and what was printed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        status = train(*settings(recipe, data, folder, line))
    return status, printed.getvalue()


def environment(folder: Path) -> dict[str, Any]:
    """Variables for a command that may touch nothing outside `folder`."""
    dropped = ("SM_", "HF_", "TQDM_")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(dropped)}
    return kept | {
        "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "HF_HOME": str(folder / "hub"),
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "COLUMNS": "100",
    }
