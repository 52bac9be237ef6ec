"""experiments.csv: a row for every training that has a best epoch, however it ended."""

import contextlib
import csv
import dataclasses
import io
import itertools
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from common.base.errors import UserError
from common.base.fields import flags_of
from common.base.files import lock, write_whole
from common.base.run_settings import Run
from common.model.recipe import Recipe

FILE = "experiments.csv"
LOCK = ".experiments.lock"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """A training's row; `changes` are the flags that differ from the task's defaults.

    `time` is the end in UTC, `epochs` were done in `minutes`, scores are the best epoch's, `commit`
    has a + where tracked files were changed, `run` is relative to the log folder if it lies there.
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


HEADER = [field.name for field in dataclasses.fields(Experiment)]


def code_commit(file: Path = Path(__file__)) -> str:
    """The short hash of the commit that `file` is in, + where tracked files differ; "" without."""
    git = ["git", "-C", str(file.parent)]
    commands = (
        # A copy installed below somebody's repository isn't of that repository.
        [*git, "ls-files", "--error-unmatch", file.name],
        [*git, "describe", "--always", "--dirty=+", "--exclude=*"],
    )
    try:
        for command in commands:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=10,
                check=True,
            )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def record(
    recipe: Recipe,
    run: Run,
    split: Mapping[str, Any],
    best: Mapping[str, Any],
    *,
    commit: str,
    epochs: int,
    seconds: float,
    out: Path,
    folder: Path,
) -> None:
    """Add a training's row to the log folder's experiments.csv; a warning where that fails."""
    inside, home = folder.resolve(), run.log_dir.resolve()
    try:
        row = Experiment(
            time=datetime.now(UTC).isoformat(timespec="seconds"),
            task=recipe.task,
            fold=str(split["fold"]),
            changes=changes(recipe, run),
            commit=commit,
            split=split["hash"],
            epochs=epochs,
            best_epoch=best["epoch"],
            macro_f1=round(best["macro_f1"], 6),
            accuracy=round(best["accuracy"], 6),
            val_loss=round(best["loss"], 6),
            minutes=round(seconds / 60, 2),
            checkpoint=str(out.absolute()),
            run=str(inside.relative_to(home) if inside.is_relative_to(home) else inside),
        )
        add(run.log_dir, row)
    except (OSError, ValueError, csv.Error) as error:
        print(f"warning: {run.log_dir / FILE}: no row was added ({error})", file=sys.stderr)


def changes(recipe: Recipe, run: Run) -> str:
    """The flags that differ from the task's defaults and change the result, ready to paste."""
    relevant = dataclasses.replace(Run(), folds=run.folds, limit=run.limit, extra=run.extra)
    return shlex.join(flags_of(recipe) + flags_of(relevant))


def add(log_dir: Path, row: Experiment) -> None:
    """Add `row`, or replace the row of the same run, whose minutes are added to the new one's.

    Several processes may do so at once. A file with other columns is moved to experiments.N.csv.
    """
    path = log_dir / FILE
    with _locked(log_dir / LOCK):
        rows = read_rows(path)
        if rows and rows[0] != HEADER:
            kept = _free_name(path)
            path.rename(kept)
            print(f"note: {path} had other columns: it is {kept} now", file=sys.stderr)
            rows = []
        rows = rows or [HEADER]
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
    place = HEADER.index(name)
    return cells[place] if place < len(cells) else ""


def _write(path: Path, rows: Sequence[Sequence[str]]) -> None:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(rows)
    write_whole(path, stream.getvalue().encode(errors="surrogateescape"))


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time, where the system and the disk know locks."""
    with path.open("ab") as stream:
        lock(stream.fileno())  # without locks trainings that end at once may lose a row
        yield


def _free_name(path: Path) -> Path:
    names = (path.with_name(f"{path.stem}.{n}{path.suffix}") for n in itertools.count(1))
    return next(name for name in names if not name.exists())


def read_rows(path: Path) -> list[list[str]]:
    """The cells of the table's rows, header first; none where there is no file."""
    if not path.exists():
        return []
    text = path.read_bytes().decode("utf-8-sig", errors="surrogateescape")
    return [cells for cells in csv.reader(io.StringIO(text, newline="")) if cells]


def read_experiments(log_dir: Path) -> list[Experiment]:
    """The trainings that `log_dir` holds, first recorded first; UserError for what isn't a row."""
    path = log_dir / FILE
    rows = read_rows(path)
    if not rows:
        raise UserError(
            f"{path}: no such table yet; a training with --log-dir {log_dir} makes it, such as "
            "python -m age.train"
        )
    if rows[0] != HEADER:
        raise UserError(
            f"{path}: has other columns than this version's; the next training moves it aside"
        )
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
