"""experiments.csv: a row for every training that has a best epoch, whether or not it finished."""

import contextlib
import csv
import dataclasses
import io
import shlex
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from common.base.errors import UserError, warn
from common.base.fields import flags_of
from common.base.files import lock, write_whole
from common.base.run_settings import Run
from common.model.recipe import Recipe

EXPERIMENTS_TABLE = "experiments.csv"
LOCK = ".experiments.lock"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """A training's row; `changes` are the flags that differ from the task's defaults.

    `time` is the end in UTC, `epochs` were done in `minutes`, scores are the best epoch's, `commit`
    has a + if tracked files were changed, `run` is relative to the log folder if it is inside.
    """

    time: str
    task: str
    fold: str
    changes: str
    commit: str
    split: str
    epochs: int
    best_epoch: int
    macro_f1: float
    accuracy: float
    val_loss: float
    minutes: float
    checkpoint: str
    run: str


EXPERIMENT_COLUMNS = [field.name for field in dataclasses.fields(Experiment)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """The result of a training: figures of its `best` epoch, and where its files are.

    `epochs` were done in `seconds`; `out` is the checkpoint and `folder` the run's.
    """

    split: Mapping[str, Any]
    best: Mapping[str, Any]
    epochs: int
    seconds: float
    commit: str
    out: Path
    folder: Path


def code_commit(file: Path = Path(__file__)) -> str:
    """Return the short hash of the commit of `file`, with a + if tracked files differ; "" if none."""
    git = ["git", "-C", str(file.parent)]
    commands = (
        # A copy installed below somebody's repository isn't of that repository.
        [*git, "ls-files", "--error-unmatch", file.name],
        [*git, "describe", "--always", "--dirty=+", "--exclude=*"],
    )
    try:
        for command in commands:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=10,
                check=True,
            )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def record(recipe: Recipe, run: Run, outcome: Outcome) -> None:
    """Add a training's row to the log folder's experiments.csv, or warn that it can't be added."""
    inside, home, best = outcome.folder.resolve(), run.log_dir.resolve(), outcome.best
    try:
        row = Experiment(
            time=datetime.now(UTC).isoformat(timespec="seconds"),
            task=recipe.task,
            fold=str(outcome.split["fold"]),
            changes=changes(recipe, run),
            commit=outcome.commit,
            split=outcome.split["hash"],
            epochs=outcome.epochs,
            best_epoch=best["epoch"],
            macro_f1=round(best["macro_f1"], 6),
            accuracy=round(best["accuracy"], 6),
            val_loss=round(best["loss"], 6),
            minutes=round(outcome.seconds / 60, 2),
            checkpoint=str(outcome.out.absolute()),
            run=str(inside.relative_to(home) if inside.is_relative_to(home) else inside),
        )
        add(run.log_dir, row)
    except (OSError, ValueError, csv.Error) as error:
        warn(f"{run.log_dir / EXPERIMENTS_TABLE}: no row was added ({error})")


def changes(recipe: Recipe, run: Run) -> str:
    """Return the flags that differ from the task's defaults and change the result, to be pasted."""
    changing = ("folds", "limit", "extra", "pseudo", "pseudo_images")
    relevant = dataclasses.replace(Run(), **{name: getattr(run, name) for name in changing})
    return shlex.join(flags_of(recipe) + flags_of(relevant))


def add(log_dir: Path, row: Experiment) -> None:
    """Add `row`, or replace the row of the same run, whose minutes are added to the new one's.

    Several processes may do so at once.

    Raises:
        ValueError: the table has other columns.
    """
    path = log_dir / EXPERIMENTS_TABLE
    with _locked(log_dir / LOCK):
        rows = read_rows(path)
        if rows and rows[0] != EXPERIMENT_COLUMNS:
            raise ValueError("the table has other columns; move it away")
        rows = rows or [EXPERIMENT_COLUMNS]
        runs = [_cell(cells, "run") for cells in rows]
        if row.run in runs[1:]:
            place = runs.index(row.run, 1)
            with contextlib.suppress(ValueError):
                minutes = row.minutes + float(_cell(rows[place], "minutes"))
                row = dataclasses.replace(row, minutes=round(minutes, 2))
            rows[place] = _cells(row)
        else:
            rows.append(_cells(row))
        _write(path, rows)


def _cells(row: Experiment) -> list[str]:
    return [str(value) for value in dataclasses.astuple(row)]


def _cell(cells: Sequence[str], name: str) -> str:
    place = EXPERIMENT_COLUMNS.index(name)
    return cells[place] if place < len(cells) else ""


def _write(path: Path, rows: Sequence[Sequence[str]]) -> None:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(rows)
    write_whole(path, stream.getvalue().encode(errors="surrogateescape"))


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Let one process at a time through, if the system and the disk have locks."""
    with path.open("ab") as stream:
        lock(stream.fileno())  # without locks trainings that end at once may lose a row
        yield


def read_rows(path: Path) -> list[list[str]]:
    """Return the cells of the table's rows, header first; none if there is no file."""
    if not path.exists():
        return []
    text = path.read_bytes().decode("utf-8-sig", errors="surrogateescape")
    return [cells for cells in csv.reader(io.StringIO(text, newline="")) if cells]


def read_experiments(log_dir: Path) -> list[Experiment]:
    """Read the trainings of `log_dir`, oldest row first.

    Raises:
        UserError: there is no table, or a row is damaged.
    """
    path = log_dir / EXPERIMENTS_TABLE
    rows = read_rows(path)
    if not rows:
        raise UserError(
            f"{path}: no such table yet; a training with --log-dir {log_dir} makes it, such as "
            "python -m age.train"
        )
    if rows[0] != EXPERIMENT_COLUMNS:
        raise UserError(f"{path}: has other columns than expected: {', '.join(EXPERIMENT_COLUMNS)}")
    return [_experiment(path, number, cells) for number, cells in enumerate(rows[1:], 1)]


def _experiment(path: Path, number: int, cells: Sequence[str]) -> Experiment:
    fields = dataclasses.fields(Experiment)
    if len(cells) != len(fields):
        raise UserError(f"{path}: row {number} has {len(cells)} columns, expected {len(fields)}")
    values = {}
    for field, cell in zip(fields, cells, strict=True):
        try:
            values[field.name] = field.type(cell)
        except ValueError:
            raise UserError(f"{path}: row {number}: {field.name} is {cell!r}") from None
    return Experiment(**values)
