"""Answers as tables and as words."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from common.base.errors import printable
from common.base.files import write_frame
from common.data.loading import bad_photos
from common.inference.codes import Codes
from common.inference.predictor import Answers


def name_column(names: Iterable[str]) -> pd.Series:
    """Names of files, which needn't be UTF-8: pyarrow, where installed, would refuse others."""
    return pd.Series(list(names), dtype=object)


def code_table(names: Sequence[str], codes: np.ndarray) -> pd.DataFrame:
    """A row a photo, in order: ImageID and ans, which is empty where the code is -1."""
    table = pd.DataFrame({"ImageID": name_column(names), "ans": codes}).astype({"ans": "Int64"})
    table["ans"] = table["ans"].mask(table["ans"] < 0)
    return table


def detail_table(
    names: Sequence[str], answers: Answers, classes: Mapping[str, Sequence[str]]
) -> pd.DataFrame:
    """A row a photo, in order: ImageID, probabilities, region, face_found, faces.

    `classes`: task → the names of its classes; a column of probabilities for each.
    """
    columns: dict[str, object] = {"ImageID": name_column(names)}
    for task, words in classes.items():
        for index, word in enumerate(words):
            columns[f"{task}_{word}"] = answers.probabilities[task][:, index].round(6)
    for index, side in enumerate(("x0", "y0", "x1", "y1")):
        columns[side] = answers.regions[:, index]
    columns |= {"face_found": answers.found, "faces": answers.faces}
    whole_numbers = dict.fromkeys(("x0", "y0", "x1", "y1", "faces"), "Int64")
    return pd.DataFrame(columns).astype({"face_found": "boolean"} | whole_numbers)


def report_bad(
    names: Sequence[str], bad: Mapping[int, str], output: Path | None, allowed: int
) -> int:
    """List the `bad` of the photos, also in {output}.failed.csv; returns the exit status.

    `bad`: place in `names` → reason.
    """
    failed = output.with_name(f"{output.name}.failed.csv") if output is not None else None
    if failed is not None:
        failed.unlink(missing_ok=True)
    if not bad:
        return 0
    rows = [(names[index], reason) for index, reason in sorted(bad.items())]
    kind = "error" if len(rows) > allowed else "warning"
    single = len(names) == 1
    words = printable(": ".join(rows[0])) if single else bad_photos(rows, len(names), allowed)
    print(f"{kind}: {words}", file=sys.stderr)
    if failed is not None:
        write_frame(failed, pd.DataFrame(rows, columns=["ImageID", "reason"], dtype=object))
        print(f"their answer is empty; the reasons are also in {failed}", file=sys.stderr)
    return 2 if len(rows) > allowed else 0


def print_one(codes: Codes, name: str, answers: Answers, decision: str) -> None:
    """One photo's answer, for a person to read."""
    chosen = [int(answers.classes(task)[0]) for task in codes.classes]
    tasks = list(zip(codes.classes.items(), chosen, strict=True))
    print(f"\n{name}: {' / '.join(words[index] for (_, words), index in tasks)}")
    for (task, words), index in tasks:
        shares = answers.probabilities[task][0]
        others = (f"{n} {p:.1%}" for n, p in zip(words, shares, strict=True) if n != words[index])
        print(f"  {task:<8}{words[index]:<10} {shares[index]:>6.1%}   ({', '.join(others)})")
        likeliest = int(shares.argmax())
        if likeliest != index:
            print(f"          {_unlikely_words(words[likeliest], decision)}")
    print(f"  code    {codes.encode(chosen)}\n  {face_words(answers)}")


def _unlikely_words(likeliest: str, decision: str) -> str:
    """Why another class than the likeliest answers."""
    if decision == "argmax":
        return f"{likeliest} is likelier on average, but more of the models vote for this"
    return (
        f"{likeliest} is likelier; macro F1 gains by this answer (--decide argmax: the likeliest)"
    )


def face_words(answers: Answers) -> str:
    """Whether the first photo's face was found, and where."""
    x0, y0, x1, y1 = map(int, answers.regions[0])
    place = f"x {x0} to {x1}, y {y0} to {y1}"
    among = f" (the most prominent of {answers.faces[0]})" if (answers.faces[0] or 0) > 1 else ""
    if answers.found[0] is None:
        return f"no face was looked for; crop: {place}"
    return (
        f"face found{among}; crop: {place}"
        if answers.found[0]
        else f"no face found: centre crop: {place}"
    )


def print_summary(codes: Codes, predicted: np.ndarray, answers: Answers) -> None:
    """How many faces were found, and how the answers are spread."""
    looked = [found for found in answers.found if found is not None]
    if looked:
        print(f"{sum(looked):,} faces, {len(looked) - sum(looked):,} centre crops")
    print_classes(codes, predicted)


def print_classes(codes: Codes, predicted: np.ndarray) -> None:
    """How often each class of each task is in `predicted`, (rows,) codes or -1."""
    given = codes.decode(predicted[predicted >= 0])
    for (task, words), classes in zip(codes.classes.items(), given, strict=True):
        counts = (f"{name} {(classes == i).sum():,}" for i, name in enumerate(words))
        print(f"{task:<8}{', '.join(counts)}")
