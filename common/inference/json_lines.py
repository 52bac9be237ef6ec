"""Predictions as JSON lines: one object a photo, for other programs to read."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from common.inference.codes import Codes
from common.inference.predictions import Predictions

DIGITS = 6


def json_lines(names: Sequence[str], predictions: Predictions, codes: Codes) -> Iterator[str]:
    """Yield a line for each photo, in order: its faces, or the reason why there is no prediction.

    {"photo": "a.jpg", "faces": [{"found": true, "box": [x0, y0, x1, y1], "mask": "wear", …,
    "years": 24.1, "years_interval": [19, 30], "code": 0, "probabilities": {"mask": {"wear": 0.98,
    …}, …}}]}, or {"photo": "b.jpg", "error": …}. Years are there if the age model learned them, and
    with --unsure the names of doubtful tasks. The box is in pixels of the upright photo and may reach
    beyond it; `found` is false where no face was detected and the centre was used, null where no
    model needs a face.
    """
    bad, predicted = predictions.bad_photos(), codes.of(predictions).tolist()
    unsure = predictions.unsure()
    places = predictions.places().round()
    for photo, rows in enumerate(predictions.by_photo(len(names))):
        line: dict[str, Any] = {"photo": names[photo]}
        if photo in bad:
            line["error"] = bad[photo]
        else:
            line["faces"] = [
                {
                    "found": predictions.detected[row],
                    "box": list(map(int, places[row])),
                    **_classes(row, predictions, codes),
                    "code": predicted[row],
                    **({"unsure": unsure[row]} if predictions.unsure_below else {}),
                    "probabilities": _probabilities(row, predictions, codes),
                }
                for row in rows
            ]
        yield json.dumps(line)  # ASCII: file names needn't be valid text


def _classes(row: int, predictions: Predictions, codes: Codes) -> dict[str, Any]:
    names = {
        task: words[int(predictions.classes[task][row])] for task, words in codes.tasks.items()
    }
    return names | predictions.numbers_of(row)


def _probabilities(row: int, predictions: Predictions, codes: Codes) -> dict[str, Any]:
    return {
        task: dict(
            zip(words, predictions.probabilities[task][row].round(DIGITS).tolist(), strict=True)
        )
        for task, words in codes.tasks.items()
    }
