"""Measure how mask models that were trained on drawn masks do on real ones, in street photos.

    python -m tests.benchmarks.street --scenes DIR --mask m.pt [more.pt …] [--detector both]

DIR holds images/ and faces.csv (image, mask, x0, y0, x1, y1). Each face is cut out three times: by
the table's box, from forehead to chin; by that box moved up to where MTCNN's would lie; and by what
the detector finds in twice the box, as in a user's photo. How many of them the detector finds when
it looks for every face in the whole photos, as with --faces all, is printed too.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from scipy.optimize import linear_sum_assignment

from common.data.dataset import to_tensor
from common.faces.crop import crop
from common.faces.decode import decode
from common.faces.detector import Detection, detect, detect_every, overlaps
from common.model.loaded import LoadedModel, load
from common.model.metrics import score
from common.model.recipe import DETECTORS
from mask.recipe import MaskRecipe

AROUND = 2.0  # sides of a face's box that the detector is shown
COLUMNS = 14  # faces in a row of the sheet
SAME = 0.4  # intersection over union from which a found box is the annotated face
LOWER = 0.15  # of its height: how far an annotated box lies below MTCNN's, median over both
Faces = list[tuple[np.ndarray, Detection]]


def read(scenes: Path, table: pd.DataFrame) -> dict[str, np.ndarray]:
    """Name → photo of each image in the table."""
    return {name: decode((scenes / "images" / name).read_bytes()) for name in table.image.unique()}


def every_face(scenes: Path, table: pd.DataFrame, detector: str) -> tuple[int, int]:
    """Count how many of the table's faces are among every face of its photo, and how many others are."""
    hits, boxes = 0, 0
    for name, photo in read(scenes, table).items():
        annotated = table.loc[table.image == name, ["x0", "y0", "x1", "y1"]].to_numpy(float)
        found = [face.box for face in detect_every(photo, detector) if face.box is not None]
        same = overlaps(annotated, np.array(found).reshape(-1, 4)) >= SAME
        hits += int(same[linear_sum_assignment(same, maximize=True)].sum())
        boxes += len(found)
    return hits, boxes - hits


def faces_in(scenes: Path, table: pd.DataFrame, detector: str) -> dict[str, Faces]:
    """Cut out every row's face; way of detecting it → (photo, face in it) of every row."""
    photos = read(scenes, table)
    found: dict[str, Faces] = {"table": [], "table, moved up": [], "detector": []}
    for row in table.itertuples():
        photo = photos[row.image]
        for name, share in (("table", 0), ("table, moved up", LOWER)):
            rise = (row.y1 - row.y0) * share
            box = (row.x0, row.y0 - rise, row.x1, row.y1 - rise)
            found[name].append((photo, Detection(photo.shape[:2], box)))
        reach = max(row.x1 - row.x0, row.y1 - row.y0) * AROUND / 2
        x, y = (row.x0 + row.x1) / 2, (row.y0 + row.y1) / 2
        left, top = max(0, round(x - reach)), max(0, round(y - reach))
        part = photo[top : round(y + reach), left : round(x + reach)]
        found["detector"].append((part, detect(part, detector)))
    return found


def answers(models: list[LoadedModel], faces: Faces) -> np.ndarray:
    """The mean of the models' probabilities, (faces, classes)."""
    return np.mean(
        [
            m.probabilities(torch.stack([to_tensor(crop(*face, m.spec)) for face in faces])).numpy()
            for m in models
        ],
        axis=0,
    )


def sheet(faces: Faces, true: np.ndarray, predicted: np.ndarray, model: LoadedModel) -> np.ndarray:
    """All faces as `model` sees them by true class, and below the wrong ones the answer; RGB."""
    cells = []
    for i in np.lexsort((predicted, true)):
        cell = cv2.resize(crop(*faces[i], model.spec), (96, 96))
        cell = cv2.copyMakeBorder(cell, 0, 14, 0, 0, cv2.BORDER_CONSTANT)
        if true[i] != predicted[i]:
            answer, place = MaskRecipe.classes[predicted[i]], (2, 107)
            cv2.putText(cell, answer, place, cv2.FONT_HERSHEY_PLAIN, 0.9, (255, 255, 0))
        cells.append(cell)
    cells += [np.zeros_like(cells[0])] * (-len(cells) % COLUMNS)
    return np.vstack([np.hstack(cells[i : i + COLUMNS]) for i in range(0, len(cells), COLUMNS)])


def main() -> None:
    """Print F1 and confusion for the annotated and the detected faces."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--scenes", type=Path, required=True)
    parser.add_argument("--mask", type=Path, nargs="+", required=True)
    parser.add_argument("--detector", choices=DETECTORS, default="mtcnn")
    parser.add_argument(
        "--sheet",
        type=Path,
        help="a picture of the faces that the detector gave, with the wrong answers",
    )
    arguments = parser.parse_args()
    models = [load(file, MaskRecipe) for file in arguments.mask]
    table = pd.read_csv(arguments.scenes / "faces.csv")
    true = table["mask"].map(MaskRecipe.classes.index).to_numpy()
    faces = faces_in(arguments.scenes, table, arguments.detector)
    number = sum(found.box is not None for _, found in faces["detector"])
    print(f"{len(table)} faces, of which the detector finds {number}")
    hits, others = every_face(arguments.scenes, table, arguments.detector)
    print(f"every face of the whole photos: {hits} of them, and {others} other boxes\n")
    for name, these in faces.items():
        predicted = answers(models, these).argmax(axis=1)
        scores = score(true, predicted, len(MaskRecipe.classes))
        print(f"by {name}: macro F1 {scores.macro_f1:.3f}, accuracy {scores.accuracy:.3f}")
        print(scores.table(MaskRecipe.classes))
        print(f"confusion (rows are true)\n{scores.confusion}")
        worn = score(true != 2, predicted != 2, 2)  # the last class is a bare face
        print(f"mask or not: macro F1 {worn.macro_f1:.3f}\n")
    if arguments.sheet:
        cv2.imwrite(str(arguments.sheet), sheet(these, true, predicted, models[0])[:, :, ::-1])


if __name__ == "__main__":
    main()
