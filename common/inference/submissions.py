"""Finished tables of ImageID,ans: read, scored, compared and voted on."""

import dataclasses
import itertools
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from common.base.errors import UserError, counted, listed
from common.base.files import writable_file, write_frame
from common.base.names import path_key, whole_number
from common.base.tables import read_table
from common.data.layout import refuse_repeated
from common.inference.codes import Codes
from common.inference.options import Options
from common.inference.tables import code_table
from common.inference.voting import vote_codes
from common.model.metrics import score


def read_codes(path: Path, codes: int, *, empty: bool = False) -> dict[str, int]:
    """Read a table of ImageID,ans; if `empty` cells are allowed they become -1.

    Raises:
        UserError: some ans isn't 0 to `codes` - 1, or an id is repeated.
    """
    table = read_table(path, ("ImageID", "ans"), exact=("ImageID",))
    table["code"] = [-1 if not ans and empty else whole_number(ans) for ans in table["ans"]]
    wrong = [
        f"row {row.Index + 2}: {row.ImageID}: {row.ans!r}"
        for row in table.itertuples()
        if row.code not in range(-1 if empty else 0, codes)
    ]
    if wrong:
        raise UserError(
            f"{path}: {counted(len(wrong), 'row')} whose ans isn't 0 to {codes - 1}\n{listed(wrong)}"
        )
    refuse_repeated(path, table["ImageID"])
    return dict(zip(table["ImageID"], map(int, table["code"]), strict=True))


def in_order(labels: Mapping[str, int], names: Iterable[str], path: Path) -> np.ndarray:
    """Codes of `names`, in their order; names are compared by `path_key`.

    Raises:
        UserError: a name isn't in `labels`, which come from `path`.
    """
    names = list(names)
    labels = {path_key(name): code for name, code in labels.items()}
    missing = [name for name in names if path_key(name) not in labels]
    if missing:
        raise UserError(f"{path}: no row for {counted(len(missing), 'photo')}\n{listed(missing)}")
    return np.array([labels[path_key(name)] for name in names])


def read_labels(path: Path, names: Sequence[str], codes: int) -> np.ndarray:
    """Read the true codes of `names` from a table, in their order."""
    return in_order(read_codes(path, codes), names, path)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The result of a vote of finished tables."""

    names: list[str]
    votes: np.ndarray
    """(tables, rows) codes, -1 where a table has none."""
    codes: np.ndarray
    """(rows,) codes with most votes, -1 where no table has one."""
    tied: np.ndarray
    """(rows,) True where several codes had most votes."""

    def summary(self) -> str:
        """The numbers of rows on which all agree, and of ties."""
        agreed = (self.votes == self.votes[0]).all(axis=0) & (self.votes[0] >= 0)
        return (
            f"{len(self.votes)} tables of {len(self.names):,} rows: all agree on {agreed.sum():,}; "
            f"{counted(self.tied.sum(), 'tie')} went to the earlier table"
        )


def vote_tables(files: Sequence[Path], weights: Sequence[float], codes: int) -> Verdict:
    """Vote on tables with the same ids, in the order of the first.

    Raises:
        UserError: ids differ, or a table is given twice.
    """
    for first, second in itertools.combinations(files, 2):
        if first.resolve() == second.resolve():
            raise UserError(
                f"--submissions: {second} is given twice; --submission-weights sets its weight"
            )
    tables = [read_codes(file, codes, empty=True) for file in files]
    names = list(tables[0])
    for file, table in zip(files, tables, strict=True):
        keys, first_keys = set(map(path_key, table)), set(map(path_key, names))
        odd = [f"{name}: not in {file}" for name in names if path_key(name) not in keys]
        odd += [f"{name}: not in {files[0]}" for name in table if path_key(name) not in first_keys]
        if odd:
            raise UserError(f"{file}: other ids than in {files[0]}\n{listed(odd)}")
    votes = np.stack(
        [in_order(table, names, file) for file, table in zip(files, tables, strict=True)]
    )
    return Verdict(names, votes, *vote_codes(votes, weights, codes))


def vote_submissions(options: Options, codes: Codes) -> int:
    """Write the codes with most votes in the finished tables; returns the exit status."""
    labels = options.labels
    output = writable_file(options.output_file, "table", reads=options.reads(), columns=["ImageID"])
    weights = options.submission_weights or (1.0,) * len(options.submissions)
    verdict = vote_tables(options.submissions, weights, len(codes))
    true = read_labels(labels, verdict.names, len(codes)) if labels is not None else None
    write_frame(output, code_table(verdict.names, verdict.codes))
    if true is not None:
        print_score(codes, true, verdict.codes)
    print(verdict.summary())
    print(f"{counted(len(verdict.names), 'row')} → {output}")
    empty = (verdict.codes < 0).sum()
    if empty:
        kind = "error" if empty > options.allow_bad else "warning"
        print(
            f"{kind}: {counted(empty, 'row')} without a code in any table, left empty "
            f"(--allow-bad {empty} allows that)",
            file=sys.stderr,
        )
    return 2 if empty > options.allow_bad else 0


def print_score(codes: Codes, true: np.ndarray, predicted: np.ndarray) -> None:
    """Print scores over all rows at once, of the codes and of each task, and the table of classes.

    Both are (rows,) codes; -1 in `predicted` is none.
    """
    names = codes.names
    overall = score(true, predicted, len(names))
    print(f"\n{overall.table(names)}\n")
    parts = zip(codes.classes.items(), codes.decode(true), codes.decode(predicted), strict=True)
    for (task, classes), y, p in parts:
        print_task_score(task, y, np.where(predicted < 0, -1, p), len(classes))
    print(
        f"{len(names)} codes macro F1 {overall.macro_f1:.4f}   accuracy {overall.accuracy:.4f}   "
        f"({counted(overall.rows, 'photo')})"
    )
    for note in score_notes(codes, true, predicted):
        print(f"note: {note}")


def print_task_score(task: str, true: np.ndarray, predicted: np.ndarray, classes: int) -> None:
    """Print a task's scores in a line; both arrays are (rows,) class indices, -1 for none."""
    scores = score(true, predicted, classes)
    print(f"{task:<8} macro F1 {scores.macro_f1:.4f}   accuracy {scores.accuracy:.4f}")


def score_notes(codes: Codes, true: np.ndarray, predicted: np.ndarray) -> list[str]:
    """Notes for a reader of the score: predictions and classes that are missing."""
    missing, absent = sum(predicted < 0), len(codes) - len(np.unique(true))
    notes = (
        [f"{counted(missing, 'photo')} without a prediction, counted as wrong"] if missing else []
    )
    if absent:
        notes.append(f"{absent} of {len(codes)} classes without a photo here, counted as F1 0")
    return notes


def score_file(codes: Codes, output: Path, labels: Path) -> None:
    """Score a finished table.

    Raises:
        UserError: it or `labels` lacks a row of the other.
    """
    predicted, true = read_codes(output, len(codes), empty=True), read_codes(labels, len(codes))
    in_order(predicted, true, output)  # a table with missing rows has no score
    print_score(codes, in_order(true, predicted, labels), np.array(list(predicted.values())))
