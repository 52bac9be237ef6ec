"""How good codes are, all tasks together and each by itself."""

from pathlib import Path

import numpy as np

from common.inference.codes import Codes
from common.inference.submissions import in_order, read_codes
from common.training.metrics import score


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
