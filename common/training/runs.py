"""The table of all trainings, and the differences between two of them.

    python -m common.training.runs --task age
    python -m common.training.runs --compare 3 7

A training's number is its row in experiments.csv, in any selection and order.
"""

import argparse
import itertools
import json
import re
import shlex
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

from common.base.command import Parser, guarded
from common.base.errors import UserError
from common.base.fields import between, explained, spelled, tuples
from common.render.text import columns
from common.training.experiments import EXPERIMENTS_TABLE, Experiment, read_experiments

SORTS = ("macro_f1", "accuracy", "val_loss", "minutes", "time")
HIGHEST_FIRST = ("macro_f1", "accuracy")
HEADINGS = (
    *("#", "task", "fold"),
    *("macro F1", "accuracy", "val loss", "epoch", "min", "ended (UTC)"),
)
LEFT = (1, 8)  # columns of words; numbers are aligned to the right
LEAST_CHANGES = 40  # characters; if less room is left, the changes get lines of their own
Numbered = tuple[int, Experiment]


def ended(experiment: Experiment) -> str:
    """Return the time at which the training ended, to the minute."""
    return experiment.time[:16].replace("T", " ")


def chosen(
    experiments: Sequence[Experiment], task: str | None, sort: str, last: int | None
) -> list[Numbered]:
    """Select rows, best first within each task, or by time; each with its number."""
    rows = [(n, e) for n, e in enumerate(experiments, 1) if task in (None, e.task)]
    rows.sort(key=lambda row: row[1].time)
    rows = rows[-last:] if last is not None else rows
    if sort == "time":
        return rows
    sign = -1 if sort in HIGHEST_FIRST else 1
    return sorted(rows, key=lambda row: (row[1].task, sign * getattr(row[1], sort)))


def table(rows: Iterable[Numbered], width: int) -> str:
    """Set the rows under their headings, at most `width` columns wide if the changes allow it."""
    rows = list(rows)
    head, *lines = columns(HEADINGS, (_cells(*row) for row in rows), LEFT).splitlines()
    wide = max(map(len, (head, *lines)))
    beside = width - wide - 2 >= LEAST_CHANGES
    printed = [f"{head.ljust(wide)}  changes" if beside else head]
    for line, (_, experiment) in zip(lines, rows, strict=True):
        indent = " " * (wide + 2 if beside else 4)
        changes = _wrapped(_glued(experiment.changes) or "(defaults)", width - len(indent))
        first = [f"{line.ljust(wide)}  {changes.pop(0)}" if beside else line]
        printed += first + [indent + text for text in changes]
    return "\n".join(printed).replace("\N{NO-BREAK SPACE}", " ")


def _glued(changes: str) -> str:
    """Keep a flag and its value in one line."""
    return re.sub("(--[^ ]+) (?!-)", "\\1\N{NO-BREAK SPACE}", changes)


def _cells(number: int, row: Experiment) -> tuple[str, ...]:
    scores = (f"{value:.4f}" for value in (row.macro_f1, row.accuracy, row.val_loss))
    epoch, minutes = f"{row.best_epoch}/{row.epochs}", f"{row.minutes:.1f}"
    return (str(number), row.task, row.fold, *scores, epoch, minutes, ended(row))


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, max(width, 16), break_on_hyphens=False) or [""]


def split_notes(rows: Iterable[Numbered]) -> list[str]:
    """Return a line for each task whose rows were scored on different people."""
    by_task: dict[str, set[tuple[str, str]]] = {}
    for _, row in rows:
        by_task.setdefault(row.task, set()).add((row.split, row.fold))
    return [
        f"note: {task}: {len(splits)} groups of held-out people; compare scores within one only"
        for task, splits in by_task.items()
        if len(splits) > 1
    ]


def find(experiments: Sequence[Experiment], name: str, log_dir: Path) -> Numbered:
    """Find a training by its number or its run's folder.

    Raises:
        UserError: there is none.
    """
    if name.isdecimal():
        if 1 <= int(name) <= len(experiments):
            return int(name), experiments[int(name) - 1]
        raise UserError(
            f"--compare {name}: {log_dir / EXPERIMENTS_TABLE} has rows 1 to {len(experiments)}"
        )
    for number, experiment in enumerate(experiments, 1):
        if (log_dir / experiment.run).resolve() in (
            Path(name).resolve(),
            (log_dir / name).resolve(),
        ):
            return number, experiment
    raise UserError(
        f"--compare {name}: {log_dir / EXPERIMENTS_TABLE} has no such run; expected a row's "
        "number or its folder"
    )


def comparison(pair: Sequence[Numbered], log_dir: Path, width: int) -> str:
    """Set what differs between two trainings: settings, code, split and scores."""
    (_, a), (_, b) = pair
    settings = [_saved_settings(log_dir / row.run) for row in (a, b)]
    absent = "-"
    missing = [row.run for row, saved in zip((a, b), settings, strict=True) if saved is None]
    if missing:
        settings, absent = [_changed_settings(row.changes) for row in (a, b)], "(default)"
    names = list(settings[0] | settings[1])
    fields = [(name, *(saved.get(name, absent) for saved in settings)) for name in names]
    different = [field for field in fields if field[1] != field[2]]
    head = [("", *(f"#{number}" for number, _ in pair))]
    head += [(k, getattr(a, k), getattr(b, k)) for k in ("task", "run", "checkpoint")]
    head += [("ended (UTC)", ended(a), ended(b))]
    head += [(k, getattr(a, k) or "-", getattr(b, k) or "-") for k in ("commit", "split", "fold")]
    blocks = [head, different or [("settings", "the same", "the same")], _scores(a, b)]
    notes = [f"note: {run}/recipe.json can't be read: only changes are shown" for run in missing]
    return "\n".join([_side_by_side(blocks, width), *notes, *_comparability(a, b)])


def _saved_settings(folder: Path) -> dict[str, str] | None:
    """Read recipe.json: field → value as it is typed; None if it can't be read."""
    try:
        saved = json.loads((folder / "recipe.json").read_text())
        fields = saved["recipe"] | {name: saved["split"][name] for name in ("folds", "limit")}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return {name.replace("_", "-"): spelled(tuples(value)) for name, value in fields.items()}


def _changed_settings(changes: str) -> dict[str, str]:
    """Parse flags to names and values: "--lr 0.1 --no-amp" → lr 0.1, amp off."""
    fields: dict[str, list[str]] = {}
    words: list[str] = []
    try:
        typed = shlex.split(changes)
    except ValueError:  # edited by hand
        typed = changes.split()
    for word in typed:
        if word.startswith("--"):
            name, _, value = word.removeprefix("--").partition("=")
            off = name.startswith("no-")
            words = [value] if value else ["off"] if off else []
            fields[name.removeprefix("no-")] = words
        else:
            words.append(word)
    return {name: " ".join(words) or "on" for name, words in fields.items()}


def _scores(a: Experiment, b: Experiment) -> list[tuple[str, ...]]:
    names = (("macro F1", "macro_f1"), ("accuracy", "accuracy"), ("val loss", "val_loss"))
    rows = [(title, getattr(a, name), getattr(b, name)) for title, name in names]
    scores = [(title, f"{x:.4f}", f"{y:.4f}", f"{y - x:+.4f}") for title, x, y in rows]
    epochs = ("best epoch", *(f"{row.best_epoch} of {row.epochs}" for row in (a, b)))
    minutes = b.minutes - a.minutes
    return [*scores, epochs, ("minutes", f"{a.minutes:.1f}", f"{b.minutes:.1f}", f"{minutes:+.1f}")]


def _comparability(a: Experiment, b: Experiment) -> list[str]:
    if a.task != b.task:
        return ["note: different tasks: the scores don't compare"]
    if (a.split, a.fold) != (b.split, b.fold):
        return ["note: different people were held out: the scores don't compare"]
    return []


def _side_by_side(blocks: Iterable[Iterable[tuple[str, ...]]], width: int) -> str:
    """Set blocks of (label, value, value[, difference]) with an empty line between them."""
    rows = [(*row, "", "", "")[:4] for block in blocks for row in (*block, ("",))]
    label = max(len(row[0]) for row in rows)
    room = max(16, (width - label - 14) // 2)
    head, *lines = [
        cells
        for name, a, b, difference in rows
        for cells in itertools.zip_longest(
            [name], _wrapped(a, room), _wrapped(b, room), [difference], fillvalue=""
        )
    ]
    return columns(head, lines, left=range(4)).rstrip()


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m common.training.runs",
        description="List the trainings of --log-dir, or compare two of them.",
    )
    add = parser.add_argument
    add("--log-dir", metavar="DIR", type=Path, default=Path("runs"), help="the trainings' folder")
    add("--task", metavar="TASK", help="only trainings of this task")
    add("--sort", choices=SORTS, default="macro_f1", help="best first; time: newest last")
    count = explained(between(1, 10**9, int))
    add("--last", metavar="N", type=count, help="only the N newest")
    add(
        "--compare",
        metavar=("A", "B"),
        nargs=2,
        help="show the differences between two trainings: numbers of the table, or run folders",
    )
    return parser


def _command(arguments: Sequence[str] | None) -> None:
    options = _parser().parse_args(arguments)
    log_dir = options.log_dir
    experiments = read_experiments(log_dir)
    width = shutil.get_terminal_size((100, 24)).columns
    if options.compare:
        pair = [find(experiments, name, log_dir) for name in options.compare]
        return print(comparison(pair, log_dir, width))
    rows = chosen(experiments, options.task, options.sort, options.last)
    if not rows:
        tasks = ", ".join(sorted({row.task for row in experiments})) or "none"
        raise UserError(f"{log_dir / EXPERIMENTS_TABLE}: no such training; tasks in it: {tasks}")
    print("\n".join([table(rows, width), *split_notes(rows)]))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status is 2 after a user's mistake."""
    return guarded(lambda: _command(arguments))


if __name__ == "__main__":
    sys.exit(main())
