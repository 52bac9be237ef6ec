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
from common.inference.predictions import Predictions

SIDES = ("x0", "y0", "x1", "y1")
WHOLE_NUMBERS = ("face", *SIDES, "code")


def name_column(names: Iterable[str]) -> pd.Series:
    """Names of files, which needn't be UTF-8: pyarrow, where installed, would refuse others."""
    return pd.Series(list(names), dtype=object)


def code_table(names: Sequence[str], codes: np.ndarray) -> pd.DataFrame:
    """A row a photo, in order: ImageID and ans, which is empty where the code is -1."""
    table = pd.DataFrame({"ImageID": name_column(names), "ans": codes}).astype({"ans": "Int64"})
    table["ans"] = table["ans"].mask(table["ans"] < 0)
    return table


def detail_table(
    names: Sequence[str], predictions: Predictions, classes: Mapping[str, Sequence[str]]
) -> pd.DataFrame:
    """A row a photo, in order: ImageID, probabilities, region, face_found, faces.

    `classes`: task → the names of its classes; a column of probabilities for each.
    """
    columns: dict[str, object] = {"ImageID": name_column(names)}
    for task, words in classes.items():
        for index, word in enumerate(words):
            columns[f"{task}_{word}"] = predictions.probabilities[task][:, index].round(6)
    for index, side in enumerate(("x0", "y0", "x1", "y1")):
        columns[side] = predictions.regions[:, index]
    columns |= {"face_found": predictions.detected, "faces": predictions.faces}
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


def print_one(codes: Codes, name: str, predictions: Predictions, decision: str) -> None:
    """One photo's answer, for a person to read."""
    chosen = [int(predictions.classes[task][0]) for task in codes.classes]
    tasks = list(zip(codes.classes.items(), chosen, strict=True))
    print(f"\n{name}: {' / '.join(words[index] for (_, words), index in tasks)}")
    for (task, words), index in tasks:
        shares = predictions.probabilities[task][0]
        others = (f"{n} {p:.1%}" for n, p in zip(words, shares, strict=True) if n != words[index])
        print(f"  {task:<8}{words[index]:<10} {shares[index]:>6.1%}   ({', '.join(others)})")
        likeliest = int(shares.argmax())
        if likeliest != index:
            print(f"          {_unlikely_words(words[likeliest], decision)}")
    print(f"  code    {codes.encode(chosen)}\n  {face_words(predictions)}")


def _unlikely_words(likeliest: str, decision: str) -> str:
    """Why another class than the likeliest answers."""
    if decision == "argmax":
        return f"{likeliest} is likelier on average, but more of the models vote for this"
    return (
        f"{likeliest} is likelier; macro F1 gains by this answer (--decide argmax: the likeliest)"
    )


def face_words(predictions: Predictions) -> str:
    """Whether the first photo's face was found, and where."""
    x0, y0, x1, y1 = map(int, predictions.regions[0])
    place = f"x {x0} to {x1}, y {y0} to {y1}"
    among = (
        f" (the most prominent of {predictions.faces[0]})"
        if (predictions.faces[0] or 0) > 1
        else ""
    )
    if predictions.detected[0] is None:
        return f"no face was looked for; crop: {place}"
    return (
        f"face found{among}; crop: {place}"
        if predictions.detected[0]
        else f"no face found: centre crop: {place}"
    )


def print_summary(codes: Codes, predicted: np.ndarray, predictions: Predictions) -> None:
    """How many faces were found, and how the answers are spread."""
    looked = [found for found in predictions.detected if found is not None]
    if looked:
        print(f"{sum(looked):,} faces, {len(looked) - sum(looked):,} centre crops")
    print_classes(codes, predicted)


def print_classes(codes: Codes, predicted: np.ndarray) -> None:
    """How often each class of each task is in `predicted`, (rows,) codes or -1."""
    given = codes.decode(predicted[predicted >= 0])
    for (task, words), classes in zip(codes.classes.items(), given, strict=True):
        counts = (f"{name} {(classes == i).sum():,}" for i, name in enumerate(words))
        print(f"{task:<8}{', '.join(counts)}")


def face_table(names: Sequence[str], predictions: Predictions, codes: Codes) -> pd.DataFrame:
    """A row a face, photo by photo: ImageID, face, found, x0 to y1, the classes' words, code.

    `names` are the photos'. A word's probability stands beside it, in {task}_probability. The box is
    in pixels of the upright photo and may reach beyond it. Empty where a photo is bad.
    """
    columns: dict[str, object] = {
        "ImageID": name_column(names[photo] for photo in predictions.photos),
        "face": predictions.face_numbers(),
        "found": predictions.detected,
    }
    table = pd.DataFrame(columns | prediction_columns(predictions, codes))
    return table.astype({"found": "boolean"} | dict.fromkeys(WHOLE_NUMBERS, "Int64"))


def prediction_columns(predictions: Predictions, codes: Codes) -> dict[str, object]:
    """Name → a column of what is said of each face: x0 to y1, words, their probabilities, code."""
    columns: dict[str, object] = dict(zip(SIDES, predictions.places().round().T, strict=True))
    predicted = codes.of(predictions)
    bad = predicted < 0
    for task, words in codes.classes.items():
        chosen = predictions.classes[task]
        shares = predictions.probabilities[task][np.arange(len(chosen)), chosen].round(6)
        columns[task] = np.where(bad, None, np.array(words, dtype=object)[chosen])
        columns[f"{task}_probability"] = np.where(bad, np.nan, shares)
    return columns | {"code": np.where(bad, np.nan, predicted)}


def print_faces(table: pd.DataFrame, codes: Codes) -> None:
    """One photo's faces for a person to read, a line each; `table` as `face_table` makes it."""
    found = int(table["found"].sum())
    number = "no face found: centre crop" if not found else f"{found} face{'s' * (found > 1)}"
    print(f"\n{table['ImageID'][0]}: {number}")
    for row in table.to_dict("records"):
        words = "  ".join(
            f"{row[task]:<{max(map(len, names))}} {row[f'{task}_probability']:>6.1%}"
            for task, names in codes.classes.items()
        )
        place = f"x {row['x0']} to {row['x1']}, y {row['y0']} to {row['y1']}"
        print(f"  {row['face']:>2}  {words}  code {row['code']:>2}  {place}")


def print_found(predictions: Predictions, photos: int) -> None:
    """How many faces were found in how many photos, and in how many none."""
    without = sum(found is False for found in predictions.detected)
    print(
        f"{photos:,} photos: {sum(map(bool, predictions.detected)):,} faces, {without:,} photos without "
        "one (their centre was looked at)"
    )
