"""Finished tables of ImageID,ans: read, scored, compared and voted on."""

import argparse
import dataclasses
import itertools
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from common.base.errors import UserError, listed
from common.base.files import writable_file, write_frame
from common.data.layout import read_table, refuse_repeated
from common.inference.checks import check_submissions, weights_of
from common.inference.codes import Codes
from common.inference.tables import code_table
from common.inference.voting import vote_codes
from common.model.metrics import score


def read_codes(path: Path, codes: int, *, empty: bool = False) -> dict[str, int]:
    """A table of ImageID,ans; UserError lists rows whose ans isn't 0 to `codes` - 1.

    Where `empty` is allowed, a row without an answer becomes -1.
    """
    table = read_table(path, ("ImageID", "ans"))
    allowed = {str(code) for code in range(codes)} | ({""} if empty else set())
    wrong = [
        f"row {row.Index + 2}: {row.ImageID}: {row.ans!r}"
        for row in table.itertuples()
        if row.ans.strip() not in allowed
    ]
    if wrong:
        raise UserError(
            f"{path}: {len(wrong)} rows whose ans isn't 0 to {codes - 1}\n{listed(wrong)}"
        )
    refuse_repeated(path, table["ImageID"])
    answers = [int(ans) if ans.strip() else -1 for ans in table["ans"]]
    return dict(zip(table["ImageID"], answers, strict=True))


def in_order(labels: Mapping[str, int], names: Iterable[str], path: Path) -> np.ndarray:
    """The codes of `names`, in their order; UserError where one has no row in `path`."""
    names = list(names)
    missing = [name for name in names if name not in labels]
    if missing:
        raise UserError(f"{path}: no row for {len(missing)} photos\n{listed(missing)}")
    return np.array([labels[name] for name in names])


def read_labels(path: Path, names: Sequence[str], codes: int) -> np.ndarray:
    """The true codes of `names`, in their order; UserError where one has no row."""
    return in_order(read_codes(path, codes), names, path)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What tables decided together: `codes` of `names`, (rows,), -1 where none has an answer.

    `votes` is (tables, rows); `tied` says where several codes had the most votes.
    """

    names: list[str]
    votes: np.ndarray
    codes: np.ndarray
    tied: np.ndarray

    def summary(self) -> str:
        """A line for the user: on how many rows all agree, and how many were tied."""
        agreed = (self.votes == self.votes[0]).all(axis=0) & (self.votes[0] >= 0)
        return (
            f"{len(self.votes)} tables of {len(self.names):,} rows: all agree on {agreed.sum():,}; "
            f"{self.tied.sum():,} ties went to the earlier table"
        )


def vote_tables(files: Sequence[Path], weights: Sequence[float], codes: int) -> Verdict:
    """Vote on tables that hold the same ids, in the order of the first; UserError if they don't."""
    for first, second in itertools.combinations(files, 2):
        if first.resolve() == second.resolve():
            raise UserError(
                f"--submissions: {second} stands twice; --submission-weights says how much it counts"
            )
    tables = [read_codes(file, codes, empty=True) for file in files]
    names = list(tables[0])
    for file, table in zip(files, tables, strict=True):
        odd = [f"{name}: not in {file}" for name in names if name not in table]
        odd += [f"{name}: not in {files[0]}" for name in table if name not in tables[0]]
        if odd:
            raise UserError(f"{file}: {len(odd)} ids differ from {files[0]}\n{listed(odd)}")
    votes = np.stack(
        [in_order(table, names, file) for file, table in zip(files, tables, strict=True)]
    )
    return Verdict(names, votes, *vote_codes(votes, weights, codes))


def vote_submissions(arguments: argparse.Namespace, output: Path, codes: Codes) -> int:
    """Write the codes that most of the finished tables hold; returns the exit status."""
    check_submissions(arguments, output, codes.classes)
    weights = weights_of(arguments, "submission", len(arguments.submissions))
    writable_file(output)
    verdict = vote_tables(arguments.submissions, weights, len(codes))
    labels = arguments.labels
    true = read_labels(labels, verdict.names, len(codes)) if labels is not None else None
    write_frame(output, code_table(verdict.names, verdict.codes))
    if true is not None:
        print_score(codes, true, verdict.codes)
    print(verdict.summary())
    print(f"{len(verdict.names):,} rows → {output}")
    empty = (verdict.codes < 0).sum()
    if empty:
        kind = "error" if empty > arguments.allow_bad else "warning"
        print(
            f"{kind}: {empty} rows are empty in every table, and stay empty (--allow-bad {empty} "
            "allows that)", file=sys.stderr,
        )  # fmt: skip
    return 2 if empty > arguments.allow_bad else 0


def print_score(codes: Codes, true: np.ndarray, predicted: np.ndarray) -> None:
    """Print scores over all rows at once, of the codes and of each task, and the table of classes.

    Both are (rows,) codes; -1 in `predicted` is no answer.
    """
    names = codes.names
    overall = score(true, predicted, len(names))
    print(f"\n{overall.table(names)}\n")
    parts = zip(codes.classes.items(), codes.decode(true), codes.decode(predicted), strict=True)
    for (task, classes), y, p in parts:
        scores = score(y, np.where(predicted < 0, -1, p), len(classes))
        print(f"{task:<8} macro F1 {scores.macro_f1:.4f}   accuracy {scores.accuracy:.4f}")
    print(
        f"{len(names)} codes macro F1 {overall.macro_f1:.4f}   accuracy {overall.accuracy:.4f}   "
        f"({overall.rows:,} photos)"
    )
    for note in score_notes(codes, true, predicted):
        print(f"note: {note}")


def score_notes(codes: Codes, true: np.ndarray, predicted: np.ndarray) -> list[str]:
    """What a reader of the score must know: answers and classes that are missing."""
    unanswered, absent = sum(predicted < 0), len(codes) - len(np.unique(true))
    notes = [f"{unanswered} photos have no answer and count as wrong"] if unanswered else []
    if absent:
        notes.append(f"{absent} of {len(codes)} classes have no photo here and count as F1 0")
    return notes


def score_file(codes: Codes, output: Path, labels: Path) -> None:
    """Score a finished table; UserError where it or `labels` lacks a row of the other."""
    answers, true = read_codes(output, len(codes), empty=True), read_codes(labels, len(codes))
    in_order(answers, true, output)  # a table with missing rows has no score
    print_score(codes, in_order(true, answers, labels), in_order(answers, answers, output))
