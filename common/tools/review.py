"""List people whose label is most likely wrong, as a table for --label-fixes with their photos.

    python -m gender.train --fold all                 writes g.oof.csv
    python -m common.tools.review --oof g.oof.csv      writes g.review.csv and g.review.png
    python -m gender.train --label-fixes g.review.csv

Before the last command a person looks at the photos and deletes the rows whose label is right: a
low probability proves nothing. If all photos of a person have the same label, as for gender and age,
the predictions for the photos are pooled. A row proposes what --label-fixes can do: the other gender,
the views swapped, a worn mask, else (an age, a single photo) "ignore".

The order is confident learning's (Northcutt et al. 2021, "Confident Learning: Estimating Uncertainty
in Dataset Labels"), the same as cleanlab's `normalized_margin` with `adjust_pred_probs`.
"""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common.base.command import Parser, guarded
from common.base.errors import UserError
from common.base.fields import between, explained
from common.base.files import check_free, whole_file, writable_file, write_frame
from common.base.run_settings import Run
from common.base.tables import read_table
from common.data.label_fixes import VIEW_FIXES, Fix, by_person, fixed, read_fixes
from common.data.layout import GENDERS, Face, read_faces
from common.faces.decode import BadPhoto, decode, read_bytes
from common.render.sheet import contact_sheet

if TYPE_CHECKING:
    import pandas as pd
    from PIL import Image

BESIDE = ("person", "view", "fold", "true")  # the columns of a table that are no class
LAST_DECIMAL = 1e-6  # a probability in the table; it has six decimals
MOST = 300  # rows: a sheet of more is too high to look at


@dataclasses.dataclass(frozen=True)
class Doubt:
    """A likely wrong label, the class `believed` instead, and the probability of each.

    `face` is the photo to judge it by; `what` is the proposal for --label-fixes.
    """

    face: Face
    given: str
    believed: str
    given_probability: float
    probability: float
    what: str


def read_out_of_fold(path: Path) -> tuple[pd.DataFrame, list[str]]:
    """Read the table that --fold all writes; returns it and its classes.

    Raises:
        UserError: it is another kind of table.
    """
    import pandas as pd

    try:
        table = read_table(path, BESIDE)
    except UserError as error:
        raise UserError(f"{error}; expected the .oof.csv of a training with --fold all") from None
    classes = [name for name in table.columns if name not in BESIDE]
    if len(classes) < 2 or table.empty:
        raise UserError(f"{path}: {len(table)} rows and {len(classes)} classes: nothing to review")
    table[classes] = table[classes].apply(pd.to_numeric, errors="coerce")
    probabilities = table[classes].to_numpy(float)
    sums = np.abs(probabilities.sum(axis=1) - 1) < 1e-3
    usual = (probabilities >= 0).all(axis=1) & sums
    twice = table.duplicated(["person", "view"])
    for wrong, reason in (
        (~usual, f"{', '.join(classes)}: expected probabilities whose sum is 1"),
        (~table["true"].isin(classes), f"true: expected one of {', '.join(classes)}"),
        (twice, "a photo that stands further up already"),
    ):
        if wrong.any():
            raise UserError(f"{path}: row {int(np.argmax(wrong)) + 2}: {reason}")
    return table, classes


def match(path: Path, table: pd.DataFrame, faces: Iterable[Face]) -> list[Face]:
    """Find the photo of each row.

    Raises:
        UserError: a row has none.
    """
    photos = {(face.person.key, face.view): face for face in faces}
    keys = list(zip(table["person"], table["view"], strict=True))
    missing = [number for number, key in enumerate(keys, 2) if key not in photos]
    if missing:
        person, view = keys[missing[0] - 2]
        raise UserError(
            f"{path}: row {missing[0]}: --data has no photo {view} of {person!r}, and misses "
            f"{len(missing):,} of {len(keys):,} rows in all: was it made from other data?"
        )
    return [photos[key] for key in keys]


def label_margins(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Normalized margin of confident learning, and the most probable other class, both (n,).

    The margin is self-confidence minus the best other class, after subtracting each class's mean
    self-confidence; negative values mark likely label errors. `probabilities` are (n, classes) by
    models that weren't trained on the row, `labels` (n,) class indices.
    """
    rows = np.arange(len(labels))
    own = probabilities[rows, labels]
    present = [labels == place for place in range(probabilities.shape[1])]
    above = probabilities - [own[where].mean() if where.any() else 1.0 for where in present]
    others = np.where(np.eye(probabilities.shape[1], dtype=bool)[labels], -np.inf, above)
    best_other = np.where(np.isinf(others), -np.inf, probabilities).argmax(axis=1)
    return above[rows, labels] - others.max(axis=1), best_other


def pooled(table: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """Pool a person's photos in one row: the geometric mean of their probabilities, scaled to 1."""
    logs = table.assign(**np.log(table[classes].clip(lower=LAST_DECIMAL)))
    groups = logs.groupby("person", sort=False)
    people = groups.first().reset_index()
    means = np.exp(groups[list(classes)].mean().to_numpy())
    people[classes] = means / means.sum(axis=1, keepdims=True)
    return people


def ranked(rows: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """Add each row's `margin` and the class `believed` instead, and sort the lowest margin first."""
    labels = np.array([classes.index(name) for name in rows["true"]])
    margins, others = label_margins(rows[classes].to_numpy(float), labels)
    found = rows.assign(margin=margins, believed=np.array(classes)[others])
    return found.sort_values("margin", kind="stable", ignore_index=True)


def doubts(table: pd.DataFrame, classes: Sequence[str], faces: Sequence[Face]) -> list[Doubt]:
    """People with a likely wrong label, each once, the most likely first.

    `faces` are the photos of the rows.
    """
    table = table.assign(face=faces)
    of_persons = bool(table.groupby("person")["true"].nunique().eq(1).all())
    rows = ranked(pooled(table, classes) if of_persons else table, classes)
    rows = rows[rows["margin"] < 0].drop_duplicates("person")
    photos = {key: part for key, part in table.groupby("person") if key in set(rows["person"])}
    meaning = {} if of_persons else meanings(table)
    found = []
    for row in rows.to_dict("records"):
        theirs = photos[row["person"]]
        if of_persons:
            bare = theirs[theirs["view"] == "normal"]  # shows most of the face
            face = (bare if len(bare) else theirs)["face"].iloc[0]
            what = row["believed"] if row["believed"] in GENDERS else "ignore"
        else:
            face, what = row["face"], view_fix(theirs, row, meaning)
        given, believed = row["true"], row["believed"]
        found.append(Doubt(face, given, believed, row[given], row[believed], what))
    return found


def meanings(table: pd.DataFrame) -> dict[str, str]:
    """The class of each kind of view that has a single one: of mask1 to mask5, say."""
    labels = table["true"].groupby(table["face"].map(lambda face: face.mask))
    return {kind: part.iloc[0] for kind, part in labels if part.nunique() == 1}


def view_fix(photos: pd.DataFrame, doubted: Mapping[str, Any], meaning: Mapping[str, str]) -> str:
    """The fix of a person's views that gives the doubted photo the class that is believed.

    "ignore" where there is none, or where it gives another photo a less likely class.
    """
    faces, rows = list(photos["face"]), photos.to_dict("records")
    for what in VIEW_FIXES:
        after = fixed(faces, {doubted["person"]: [what]})
        pairs = [(row, face) for row, face in zip(rows, after, strict=True) if face != row["face"]]
        labels = {row["view"]: meaning.get(face.mask) for row, face in pairs}
        likelier = all(row.get(labels[row["view"]], 0) > row[row["true"]] for row, _ in pairs)
        if labels.get(doubted["view"]) == doubted["believed"] and likelier:
            return what
    return "ignore"


def without(doubted: Iterable[Doubt], earlier: Mapping[str, Sequence[str]]) -> list[Doubt]:
    """Keep those for which --label-fixes takes a row beside each person's `earlier` fixes."""

    def free(doubt: Doubt) -> bool:
        whats = earlier.get(doubt.face.person.key, ())
        return all((what in VIEW_FIXES) != (doubt.what in VIEW_FIXES) for what in whats)

    return [doubt for doubt in doubted if free(doubt)]


def table_of(doubted: Sequence[Doubt], earlier: Sequence[Fix]) -> pd.DataFrame:
    """The rows for --label-fixes: the `earlier` ones, then a person each, by rank."""
    import pandas as pd

    rows = [{"id": fix.id, "what": fix.what} for fix in earlier]
    for rank, doubt in enumerate(doubted, 1):
        # A path belongs to one person, and no spreadsheet reads it as a number.
        rows.append(
            {
                "id": doubt.face.person.key,
                "what": doubt.what,
                "rank": str(rank),
                "photo": doubt.face.view,
                "given": doubt.given,
                "given_probability": f"{doubt.given_probability:.3f}",
                "believed": doubt.believed,
                "probability": f"{doubt.probability:.3f}",
            }
        )
    return pd.DataFrame(rows)


def sheet_of(doubted: Sequence[Doubt]) -> Image.Image:
    """The photos in the table's order, with rank, label and belief."""
    captions = [
        (
            f"{rank}  {doubt.face.view}",
            f"{doubt.given}? {doubt.believed} {doubt.probability:.0%}",
            doubt.face.person.key,
        )
        for rank, doubt in enumerate(doubted, 1)
    ]
    photos = (_pixels(doubt.face.path) for doubt in doubted)
    return contact_sheet(list(zip(photos, captions, strict=True)))


def _pixels(path: Path) -> np.ndarray | str:
    """A photo as (height, width, 3) uint8 RGB, or the reason why it can't be decoded."""
    try:
        return decode(read_bytes(path))
    except BadPhoto as reason:
        return str(reason)


def _parser() -> Parser:
    parser = Parser(
        prog="python -m common.tools.review",
        description="List the people whose label is most likely wrong, by the models of a --fold all "
        "training:\na table to be edited for --label-fixes, and a sheet of their photos.",
        epilog="example, after python -m gender.train --fold all:\n"
        "  python -m common.tools.review --oof g.oof.csv",
    )
    add = parser.add_argument
    add("--oof", metavar="FILE", type=Path, required=True, help="table that --fold all wrote")
    add("--data", metavar="DIR", type=Path, help="its data (default: data, or SM_CHANNEL_TRAIN)")
    add(
        "--out",
        metavar="FILE.csv",
        type=Path,
        help="table to write; the sheet is FILE.png (default: g.review.csv for g.oof.csv)",
    )
    add(
        "--top",
        metavar="N",
        type=explained(between(1, MOST, int)),
        default=60,
        help="list at most N people",
    )
    add(
        "--earlier",
        metavar="FILE",
        type=Path,
        help="a table for --label-fixes, such as another task's: its rows come first, and nothing in "
        "it is listed again",
    )
    add("--overwrite", action="store_true", help="replace a table and a sheet made earlier")
    return parser


def review(
    oof: Path, data: Path, out: Path | None, *, top: int, earlier: Path | None, overwrite: bool
) -> None:
    """Write the table and the sheet, and print what to do with them.

    Raises:
        UserError: a table can't be read or doesn't fit `data`, or an output can't be written.
    """
    stem = oof.name.removesuffix(".csv").removesuffix(".oof")
    out = out or oof.with_name(f"{stem}.review.csv")
    if out.suffix != ".csv":
        raise UserError(f"--out {out}: expected a name that ends in .csv")
    sheet = out.with_suffix(".png")
    if not overwrite:
        check_free((out, sheet), "give another --out or --overwrite")
    reads = [oof, *([earlier] if earlier else [])]
    writable_file(out, "table", reads=reads, columns=["id", "what", "rank"])
    writable_file(sheet, "picture")
    table, classes = read_out_of_fold(oof)
    everyone = read_faces(data)
    faces = match(oof, table, everyone)
    kept = read_fixes(str(earlier.absolute())) if earlier else []
    fixes = by_person(kept, {face.person for face in everyone})
    found = without(doubts(table, classes, faces), fixes)
    people = f"a label in doubt: {len(found):,} of {table['person'].nunique():,} people"
    if not found:
        print(people)
        return
    shown = found[:top]
    write_frame(out, table_of(shown, kept))
    with whole_file(sheet) as stream:
        sheet_of(shown).save(stream, "PNG")
    print(
        f"{people}, the first {len(shown)} → {out}, their photos → {sheet}\n"
        "look at the photos, delete the rows whose label is right, then train as before with\n"
        f"  --label-fixes {shlex.quote(str(out))}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status is 2 after a user's mistake."""

    def command() -> None:
        given = vars(_parser().parse_args(arguments))
        review(**given | {"data": Run(data=given["data"]).data_dir()})

    return guarded(command)


if __name__ == "__main__":
    sys.exit(main())
