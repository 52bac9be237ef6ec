"""Answers about every face of a photo: a row for each face."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from common.base.errors import UserError
from common.faces.crop import FACE_METHODS
from common.inference.codes import Codes
from common.inference.ensemble import Ensemble, all_models
from common.inference.predictor import Answers
from common.inference.tables import name_column

SIDES = ("x0", "y0", "x1", "y1")
WHOLE_NUMBERS = ("face", *SIDES, "code")


def check_face_crops(ensembles: Mapping[str, Ensemble], flag: str = "--faces all") -> None:
    """UserError where a model doesn't look at the detector's face: all faces would be one to it.

    `flag` is what asks for every face.
    """
    for model in all_models(ensembles):
        if model.spec.method not in FACE_METHODS:
            raise UserError(
                f"{flag}: {model.path} looks at the crop {model.spec.method}, not at a face; "
                f"it takes models of --crop {' or '.join(FACE_METHODS)}"
            )


def rows_by_photo(answers: Answers, photos: int) -> list[list[int]]:
    """The rows of the answers about each of so many photos, bad ones included."""
    rows: list[list[int]] = [[] for _ in range(photos)]
    for row, photo in enumerate(answers.photos.tolist()):
        rows[photo].append(row)
    return rows


def face_numbers(answers: Answers) -> list[int | None]:
    """Each row's face, counted from 1 in its photo; 0 where none was found, None where bad."""
    seen: Counter[int] = Counter()
    numbers: list[int | None] = []
    for photo, found in zip(answers.photos.tolist(), answers.found, strict=True):
        seen[photo] += bool(found)
        numbers.append(None if found is None else seen[photo] * found)
    return numbers


def places(answers: Answers) -> np.ndarray:
    """(rows, 4) each face's box, or without a face the part of the photo that was looked at."""
    return np.where(np.isfinite(answers.boxes), answers.boxes, answers.regions)


def bad_by_photo(answers: Answers) -> dict[int, str]:
    """Place of the photo → reason, of photos with a bad row; the first of several reasons."""
    return {int(answers.photos[row]): answers.bad[row] for row in sorted(answers.bad, reverse=True)}


def face_table(names: Sequence[str], answers: Answers, codes: Codes) -> pd.DataFrame:
    """A row a face, photo by photo: ImageID, face, found, x0 to y1, the classes' words, code.

    `names` are the photos'. A word's probability stands beside it, in {task}_probability. The box is
    in pixels of the upright photo and may reach beyond it. Empty where a photo is bad.
    """
    columns: dict[str, object] = {
        "ImageID": name_column(names[photo] for photo in answers.photos),
        "face": face_numbers(answers),
        "found": answers.found,
    }
    table = pd.DataFrame(columns | answer_columns(answers, codes))
    return table.astype({"found": "boolean"} | dict.fromkeys(WHOLE_NUMBERS, "Int64"))


def answer_columns(answers: Answers, codes: Codes) -> dict[str, object]:
    """Name → a column of what is said of each face: x0 to y1, words, their probabilities, code."""
    columns: dict[str, object] = dict(zip(SIDES, places(answers).round().T, strict=True))
    predicted = codes.of(answers)
    bad = predicted < 0
    for task, words in codes.classes.items():
        chosen = answers.classes(task)
        shares = answers.probabilities[task][np.arange(len(chosen)), chosen].round(6)
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


def print_found(answers: Answers, photos: int) -> None:
    """How many faces were found in how many photos, and in how many none."""
    without = sum(found is False for found in answers.found)
    print(
        f"{photos:,} photos: {sum(map(bool, answers.found)):,} faces, {without:,} photos without "
        "one (their centre was looked at)"
    )
