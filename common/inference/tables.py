"""Predictions as tables, and as text in a terminal."""

import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from common.base.errors import counted, printable, warn
from common.base.files import write_frame
from common.data.loading import bad_photos
from common.inference.codes import Codes
from common.inference.predictions import Predictions

SIDES = ("x0", "y0", "x1", "y1")
WHOLE_NUMBERS = ("face", *SIDES, "code")
TURNED_SHOWN = 5  # names of photos on their side or head


def name_column(names: Iterable[str]) -> pd.Series:
    """File names as a column of objects: they needn't be UTF-8, which pyarrow would refuse."""
    return pd.Series(list(names), dtype=object)


def code_table(names: Sequence[str], codes: np.ndarray) -> pd.DataFrame:
    """A row for each photo, in order: ImageID and ans, which is empty where the code is -1."""
    table = pd.DataFrame({"ImageID": name_column(names), "ans": codes}).astype({"ans": "Int64"})
    table["ans"] = table["ans"].mask(table["ans"] < 0)
    return table


def detail_table(
    names: Sequence[str], predictions: Predictions, classes: Mapping[str, Sequence[str]]
) -> pd.DataFrame:
    """A row for each photo, in order: ImageID, probabilities, years, region, face_found, faces.

    `classes`: task → the names of its classes; each has a column of probabilities.
    """
    columns: dict[str, object] = {"ImageID": name_column(names)}
    for task, words in classes.items():
        for index, word in enumerate(words):
            columns[f"{task}_{word}"] = predictions.probabilities[task][:, index].round(6)
    columns |= number_columns(predictions) | unsure_column(predictions)
    for index, side in enumerate(SIDES):
        columns[side] = predictions.regions[:, index]
    columns |= {"face_found": predictions.detected, "faces": predictions.faces}
    whole_numbers = dict.fromkeys((*SIDES, "faces"), "Int64")
    return pd.DataFrame(columns).astype({"face_found": "boolean"} | whole_numbers)


def face_table(names: Sequence[str], predictions: Predictions, codes: Codes) -> pd.DataFrame:
    """A row for each face, by photo: ImageID, face, found, x0 to y1, class names, code.

    `names` are the photos'. The probability of each class name is in {task}_probability. The box is
    in pixels of the upright photo and may reach beyond it. Cells are empty where a photo is bad.
    """
    columns: dict[str, object] = {
        "ImageID": name_column(names[photo] for photo in predictions.photos),
        "face": predictions.face_numbers(),
        "found": predictions.detected,
    }
    table = pd.DataFrame(columns | prediction_columns(predictions, codes))
    return table.astype({"found": "boolean"} | dict.fromkeys(WHOLE_NUMBERS, "Int64"))


def prediction_columns(predictions: Predictions, codes: Codes) -> dict[str, object]:
    """Column name → a value for each row: x0 to y1, class names, their probabilities, code."""
    columns: dict[str, object] = dict(zip(SIDES, predictions.places().round().T, strict=True))
    predicted = codes.of(predictions)
    bad = predicted < 0
    for task, words in codes.tasks.items():
        classes = predictions.classes[task]
        values = predictions.probabilities[task][np.arange(len(classes)), classes].round(6)
        columns[task] = np.where(bad, None, np.array(words, dtype=object)[classes])
        columns[f"{task}_probability"] = np.where(bad, np.nan, values)
    columns |= number_columns(predictions) | unsure_column(predictions)
    return columns | {"code": np.where(bad, np.nan, predicted)}


def number_columns(predictions: Predictions) -> dict[str, object]:
    """Column name → a value for each row: years, years_low, years_high, where they were learned."""
    return {
        f"{name}{end}": values[:, place].round(1)
        for name, values in predictions.numbers.items()
        for place, end in enumerate(("", "_low", "_high"))
    }


def unsure_column(predictions: Predictions) -> dict[str, object]:
    """The column unsure, which names tasks for each row, if --unsure asks for it."""
    if not predictions.unsure_below:
        return {}
    return {"unsure": [" ".join(tasks) for tasks in predictions.unsure()]}


def print_unsure(predictions: Predictions) -> None:
    """Print how many predictions of each task are unsure, if --unsure asks for it."""
    if predictions.unsure_below:
        counts = Counter(task for tasks in predictions.unsure() for task in tasks)
        each = ", ".join(f"{task} {counts[task]:,}" for task in predictions.classes)
        total = f"of {len(predictions.detected):,}"
        print(f"unsure (probability below {predictions.unsure_below:g}): {each} {total}")


def report_bad(
    names: Sequence[str], bad: Mapping[int, str], output: Path | None, allowed: int
) -> int:
    """Print the bad photos, and list them in {output}.failed.csv; returns the exit status.

    `bad`: index in `names` → reason.
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
        print(f"their rows are empty; the reasons are also in {failed}", file=sys.stderr)
    return 2 if len(rows) > allowed else 0


def print_one(codes: Codes, name: str, predictions: Predictions, decision: str) -> None:
    """Print one photo's predictions with all probabilities."""
    chosen = {task: int(predictions.classes[task][0]) for task in codes.tasks}
    unsure = predictions.unsure()[0]
    print(f"\n{name}: {' / '.join(codes.tasks[task][index] for task, index in chosen.items())}")
    for task, index in chosen.items():
        words, values = codes.tasks[task], predictions.probabilities[task][0]
        others = (f"{n} {p:.1%}" for n, p in zip(words, values, strict=True) if n != words[index])
        note = "   unsure" if task in unsure else ""
        print(f"  {task:<8}{words[index]:<10} {values[index]:>6.1%}   ({', '.join(others)}){note}")
        top = int(values.argmax())
        if top != index:
            print(f"          {_unlikely_words(words[top], decision)}")
    for name, values in predictions.numbers.items():
        expected, low, high = values[0].round().astype(int)
        print(f"  {name:<8}about {expected}   (80%: {low} to {high})")
    code = codes.encode([chosen[task] for task in codes.classes])
    print(f"  code    {code}\n  {face_words(predictions)}")


def _unlikely_words(top: str, decision: str) -> str:
    """Say why another class than the most likely one is predicted."""
    if decision == "argmax":
        return f"{top} is more likely on average, but more of the models vote for this class"
    return (
        f"{top} is more likely; offsets prefer this class for a better macro F1 "
        "(--decide argmax: the most likely)"
    )


def warn_turned(names: Sequence[str], predictions: Predictions) -> None:
    """Warn about photos that seem to stand on their side or head: their crop is of no use."""
    turned = list(
        dict.fromkeys(names[predictions.photos[r]] for r in sorted(predictions.turned_rows()))
    )
    if turned:
        some = ", ".join(map(printable, turned[:TURNED_SHOWN]))
        more = f" and {len(turned) - TURNED_SHOWN} more" if len(turned) > TURNED_SHOWN else ""
        warn(
            f"{counted(len(turned), 'photo')} on the side or head, by the face: doubtful predictions "
            f"until turned upright: {some}{more}"
        )


def face_words(predictions: Predictions) -> str:
    """Say whether the first photo's face was detected, and where the crop is."""
    x0, y0, x1, y1 = map(int, predictions.regions[0])
    crop = f"x {x0} to {x1}, y {y0} to {y1}"
    if predictions.detected[0] is None:
        return f"face detection not used; crop: {crop}"
    if not predictions.detected[0]:
        return f"no face detected: centre crop: {crop}"
    faces = predictions.faces[0] or 0
    among = f" (the most prominent of {faces})" if faces > 1 else ""
    return f"face detected{among}; crop: {crop}"


def print_faces(table: pd.DataFrame, codes: Codes) -> None:
    """Print one photo's faces, a line each; `table` as `face_table` makes it."""
    detected = int(table["found"].sum())
    number = counted(detected, "face") if detected else "no face detected: centre crop"
    print(f"\n{table['ImageID'][0]}: {number}")
    for row in table.to_dict("records"):
        words = "  ".join(
            f"{row[task]:<{max(map(len, names))}} {row[f'{task}_probability']:>6.1%}"
            f"{'?' if task in row.get('unsure', '').split() else ''}"
            for task, names in codes.tasks.items()
        )
        place = f"x {row['x0']} to {row['x1']}, y {row['y0']} to {row['y1']}"
        print(f"  {row['face']:>2}  {words}  code {row['code']:>2}  {place}")


def print_detected(predictions: Predictions, photos: int) -> None:
    """Print the number of faces in so many photos, and of photos without one."""
    without = sum(detected is False for detected in predictions.detected)
    print(
        f"{counted(photos, 'photo')}: {counted(sum(map(bool, predictions.detected)), 'face')}, "
        f"{counted(without, 'photo')} without one (centre crop)"
    )


def print_summary(codes: Codes, predictions: Predictions) -> None:
    """Print the numbers of faces and of predictions by class."""
    detected = [d for d in predictions.detected if d is not None]
    if detected:
        centre = counted(len(detected) - sum(detected), "centre crop")
        print(f"{counted(sum(detected), 'face')}, {centre}")
    print_classes(codes, predictions)


def print_classes(
    codes: Codes, predictions: Predictions, rows: np.ndarray | slice = slice(None)
) -> None:
    """Print how often each class of each task is predicted in some `rows`."""
    good = codes.of(predictions)[rows] >= 0
    for task, words in codes.tasks.items():
        classes = predictions.classes[task][rows][good]
        counts = (f"{name} {(classes == i).sum():,}" for i, name in enumerate(words))
        print(f"{task:<8}{', '.join(counts)}")
    print_unsure(predictions)
