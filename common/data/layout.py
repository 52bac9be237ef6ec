"""The competition's folders and tables, read into `Face` records.

    DIR/train/train.csv                                id,gender,race,age,path[,person][,…]
    DIR/train/images/{path}/{mask1…mask5,incorrect_mask,normal}.{any}
    DIR/train/images/{path}/{photo,photo2…}.{any}      not labelled with how the mask is worn
    DIR/train/photos.csv                               path,… (optional): labels of single photos
    DIR/train/mixed/mixed.csv, images                  mixed people, made by common.tools.mixup
    DIR/eval/info.csv                                  ImageID,ans
    DIR/eval/images/{ImageID}

The key of a person is `path`, not `id`: in the competition's own table two people share an id. Names
may differ in their Unicode form between table and disk, and labels are read by common.data.labels. An
empty cell, or a missing column gender or age, means that the label is unknown; a task trains on the
faces that are labelled for it. Further columns are labels of tasks, too. Any view may be numbered
(normal2). Rows with the same `person` are one human, for example at several ages, and stay on one
side of every split. No photo is decoded here.
"""

import dataclasses
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from common.base.errors import UserError, counted, listed, suggestion, warn
from common.base.names import FileFinder, leads_out, path_key
from common.base.tables import read_table
from common.data.labels import (
    AGE_BORDERS,
    AGE_GROUPS,
    GENDER_WORDS,
    age_band,
    parse_word,
    parse_years,
)
from common.data.labels import (
    GENDERS as GENDERS,
)
from common.data.listing import entries, find_photos, named, not_photos, sorted_out
from common.data.unsorted import photo_names, way_to_convert

if TYPE_CHECKING:
    import pandas as pd

YEAR_BINS = (0, 100)  # first and last year to learn; they include all years before and after
MASKS = ("mask", "incorrect_mask", "normal")  # ways to wear a mask, as photos are named
UNKNOWN_VIEW = "photo"
MIXED = "mixed"  # folder of mixed people in train, and the beginning of their keys
PERSON_COLUMNS = ("gender", "age", "race", "person")  # that train.csv alone may have
TRAIN_COLUMNS = ("id", "path", *PERSON_COLUMNS)
_VIEW = re.compile(r"mask[0-9]+|(incorrect_mask|normal|photo)[0-9]*")


@dataclasses.dataclass(frozen=True, slots=True)
class Person:
    """One row of train.csv; `columns` holds all its cells as text.

    `gender` is "" and `age` None if unknown. `age` is in years; if the table has an age group
    instead, it is the group's first year, and `exact` is False. `parents` are the keys of the
    people that a mixed person was made of; real people have none.
    """

    key: str
    gender: str
    age: int | None
    race: str = ""
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict, compare=False)
    parents: tuple[str, ...] = ()
    exact: bool = True

    @property
    def human(self) -> str:
        """Key that all rows of one human share: the column `person`, else the row's own key."""
        return self.columns.get("person", "").strip() or self.key


@dataclasses.dataclass(frozen=True, slots=True)
class Face:
    """One photo of a person; `view` is the file's stem in lower case: mask1, normal, …

    `columns` holds the cells of the photo's row in photos.csv as text. `probabilities` of a task's
    classes are those of a photo with pseudo-labels, which has no others.
    """

    path: Path
    view: str
    person: Person
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict, compare=False)
    probabilities: Mapping[str, tuple[float, ...]] = dataclasses.field(
        default_factory=dict, compare=False
    )

    @property
    def mask(self) -> str:
        """The view without its number, one of MASKS; "" if the photo isn't labelled."""
        word = self.view.rstrip("0123456789")
        return word if word in MASKS else ""

    @property
    def gender(self) -> str:
        """Gender of the person, one of GENDERS; "" if unknown."""
        return self.person.gender

    @property
    def age(self) -> int | None:
        """Age of the person in years; None if unknown."""
        return self.person.age

    @property
    def groups(self) -> dict[str, str]:
        """Subgroup labels for evaluation, "" where unknown."""
        age = "" if self.age is None else AGE_GROUPS[age_band(self.age)]
        return {"gender": self.gender, "age": age, "mask": self.mask}

    def column(self, name: str) -> str:
        """The cell of a column of labels: in the photo's row of photos.csv, else in train.csv.

        It is "" if the cell is empty, and for photos without a row in photos.csv if only that table
        has the column.

        Raises:
            UserError: neither table has the column.
        """
        for columns in (self.columns, self.person.columns):
            if name in columns:
                return columns[name]
        present = [*self.person.columns, *(n for n in self.columns if n != "path")]
        folder = self.path.parent.parent.parent
        raise UserError(
            f"{folder / 'train.csv'}: no column {name}, nor in photos.csv; the columns are "
            f"{', '.join(present)}{suggestion(name, present)}"
        )


def print_left_out(faces: Collection[Face], kept: Collection[Face], reason: str) -> None:
    """Print the numbers of people and photos of `faces` that aren't `kept`, if any, and why."""
    if len(kept) == len(faces):
        return
    everybody = {face.person for face in faces}
    people = len(everybody - {face.person for face in kept})
    print(
        f"left out: {people:,} of {len(everybody):,} people, {len(faces) - len(kept):,} of "
        f"{len(faces):,} photos: {reason}"
    )


def years_of(*tables: Iterable[Person]) -> tuple[int, int]:
    """First and last year to learn from the tables: 0 and 100, unless one's ages end at 60.

    If 60 is a table's oldest age, it means 60 or more, as in the competition's table, and its
    youngest age may stand for all younger ones. Years of other tables beyond these two are learned
    as the nearest of them.
    """
    ages = [[p.age for p in people if p.age is not None and p.exact] for people in tables]
    clipped = any(max(years, default=0) == AGE_BORDERS[-1] for years in ages)
    return (min(map(min, filter(None, ages))), AGE_BORDERS[-1]) if clipped else YEAR_BINS


def train_dir(data: Path) -> Path:
    """Find the folder with train.csv and images: DIR/train, DIR, or its parent if DIR is images.

    Raises:
        UserError: there is none; the message says how to make one from what is there.
    """
    for folder in (data / "train", data, data.parent if data.name == "images" else data):
        if (folder / "train.csv").is_file() and (folder / "images").is_dir():
            return folder
    way = way_to_convert(data)
    if not way and not (data.is_dir() and any(data.iterdir())):
        way = f"to draw a demo set there: python -m common.tools.demo {data} --people 200"
    way = way or "python -m common.tools.convert --help: how to bring photos into this layout"
    raise UserError(
        f"{data}: no training data here; expected {data / 'train' / 'train.csv'} and photos in "
        f"{data / 'train' / 'images'}\n{way}"
    )


def usable_people(table: Path, columns: Iterable[str] = ()) -> tuple[list[Person], list[str]]:
    """Read the people of train.csv, sorted by key, and a message for each value that is unusable.

    A row with such a value is left out; of rows with the same path only the first is kept. The
    table must have `columns` and path.

    Raises:
        UserError: the table can't be read.
    """
    frame = read_table(table, ("path", *columns), optional=TRAIN_COLUMNS)
    frame["path"] = frame["path"].map(_folder_name)
    rows = list(zip(frame.index + 2, frame.to_dict("records"), strict=True))
    wrong = [(number, problem) for number, row in rows for problem in _problems(row)]
    wrong += _stands_twice(frame["path"])
    unusable = {number for number, _ in wrong}
    people = [_person(row) for number, row in rows if number not in unusable]
    return sorted(people, key=lambda person: person.key), _row_lines(wrong)


def read_people(table: Path, columns: Iterable[str] = ()) -> tuple[Person, ...]:
    """Read the people of train.csv, sorted by key.

    Raises:
        UserError: the table can't be read or has no rows; or values are unusable, which are listed.
    """
    people, wrong = usable_people(table, columns)
    if wrong:
        raise UserError(f"{table}: {len(wrong)} unusable values\n{listed(wrong)}")
    if not people:
        raise UserError(f"{table}: no rows")
    _warn_of_wide_ages(table, people)
    return tuple(people)


def _folder_name(path: str) -> str:
    """Without ./ before and / behind it, as scripts write it."""
    return re.sub(r"^(?:\.[/\\])+|[/\\]+$", "", path)


def _row_lines(wrong: Iterable[tuple[int, str]]) -> list[str]:
    return [f"row {number}: {problem}" for number, problem in wrong]


def _stands_twice(column: "pd.Series") -> list[tuple[int, str]]:
    return [(n, f"path {path!r} appears twice") for n, path in _repeated(column) if path]


def _problems(row: Mapping[str, str]) -> Iterator[str]:
    try:
        parse_word(row.get("gender", ""), GENDER_WORDS)
    except ValueError as error:
        yield f"gender {error}"
    try:
        parse_years(row.get("age", ""))
    except ValueError as error:
        yield f"age {error}"
    path = row["path"]
    if path in ("", "..") or Path(path).name != path or leads_out(path):
        yield f"path {path!r}, expected the name of a folder in images"


def _repeated(column: "pd.Series") -> list[tuple[int, str]]:
    again = column[column.map(path_key).duplicated()]
    return [(int(index) + 2, value) for index, value in again.items()]


def refuse_repeated(table: Path, column: "pd.Series") -> None:
    """Check that no id appears twice in a `column` of `table`.

    Raises:
        UserError: some do; their rows are listed.
    """
    again = [f"row {number}: {name}" for number, name in _repeated(column)]
    if again:
        raise UserError(f"{table}: {len(again)} rows repeat an id\n{listed(again)}")


def _person(row: Mapping[str, str]) -> Person:
    gender = parse_word(row.get("gender", ""), GENDER_WORDS)
    years, race = parse_years(row.get("age", "")), row.get("race", "")
    if years is None or not years.cell:
        return Person(row["path"], gender, None, race, row)
    if years.cell in AGE_GROUPS:
        first = (0, *AGE_BORDERS)[AGE_GROUPS.index(years.cell)]
        return Person(row["path"], gender, first, race, row, exact=False)
    return Person(row["path"], gender, years.first, race, row)


def _warn_of_wide_ages(table: Path, people: Iterable[Person]) -> None:
    """Warn of ranges that no age group holds: these people have no age."""
    wide = [p.columns["age"] for p in people if p.age is None and _is_wide(p.columns.get("age"))]
    if wide:
        warn(
            f"{table}: the age of {len(wide):,} people, such as {wide[0]!r}, is within none of "
            f"{', '.join(AGE_GROUPS)}: taken as unknown"
        )


def _is_wide(age: str | None) -> bool:
    return bool(age) and parse_years(age) is not None


def read_faces(data: Path) -> tuple[Face, ...]:
    """Read every photo of every person in train.csv, sorted by person and view.

    Raises:
        UserError: a table is unusable, or a person has no folder or no photo.
    """
    table = train_dir(data) / "train.csv"
    faces = _photographed(table, read_people(table))
    photos = table.with_name("photos.csv")
    return _with_photo_labels(photos, faces) if photos.exists() else faces


def _with_photo_labels(table: Path, faces: Collection[Face]) -> tuple[Face, ...]:
    """Add the rows of photos.csv to their photos.

    Raises:
        UserError: the table is unusable, or a row is of no photo; all such rows are listed.
    """
    frame = read_table(table, ("path",), optional=TRAIN_COLUMNS)
    theirs = [name for name in PERSON_COLUMNS if name in frame.columns]
    if theirs:
        raise UserError(f"{table}: column {', '.join(theirs)}: belongs in train.csv")
    photos = {f"{face.person.key}/{face.path.name}": face for face in faces}
    spelled = {path_key(path): path for path in photos}
    frame["path"] = [
        path if path in photos else spelled.get(path_key(path), path) for path in frame["path"]
    ]
    rows = dict(zip(frame["path"], frame.to_dict("records"), strict=True))
    wrong = [
        (index + 2, f"path {path!r}, expected PERSON/FILE of a photo in images")
        for index, path in frame["path"].items()
        if path not in photos
    ]
    wrong += _stands_twice(frame["path"])
    if wrong:
        raise UserError(f"{table}: {len(wrong)} unusable values\n{listed(_row_lines(wrong))}")
    # A photo without a row has its person's labels, and empty ones where only this table has any.
    own = frame.columns.difference(list(next(iter(faces)).person.columns))
    empty = dict.fromkeys(own, "")
    return tuple(
        dataclasses.replace(face, columns=rows.get(path, empty)) for path, face in photos.items()
    )


def mixed_table(home: Path) -> Path:
    """Path of the table of mixed people in `home`, the folder of train.csv."""
    return home / MIXED / f"{MIXED}.csv"


def read_mixed(data: Path) -> tuple[Face, ...]:
    """Read every photo of every mixed person (common.tools.mixup), like `read_faces`.

    Their keys begin with "mixed/", which no real person's can. Labels that only train.csv or
    photos.csv have are unknown.

    Raises:
        UserError: the table is unusable, or a mixed person has no photo.
    """
    home = train_dir(data)
    table = mixed_table(home)
    if not table.parent.exists():
        return ()
    labels = {
        name: ""
        for other in (home / "train.csv", home / "photos.csv")
        if other.exists()
        for name in read_table(other, ("path",), optional=TRAIN_COLUMNS).columns
    }
    faces = _photographed(table, read_people(table, ("parent_a", "parent_b")))
    return tuple(dataclasses.replace(f, person=_mixed(f.person, labels)) for f in faces)


def _mixed(person: Person, labels: Mapping[str, str]) -> Person:
    return dataclasses.replace(
        person,
        key=f"{MIXED}/{person.key}",
        parents=(person.columns["parent_a"], person.columns["parent_b"]),
        columns={**labels, **person.columns},
    )


def _photographed(table: Path, people: Iterable[Person]) -> tuple[Face, ...]:
    images = table.parent / "images"
    finder, folders = FileFinder(images), Folders(images)
    photos = {person: folders.views(finder.find(person.key)) for person in people}
    empty = [p.key for p, views in photos.items() if not views]
    if empty:
        raise UserError(
            f"{table}: {len(empty)} people have no folder with photos in {images}\n{listed(empty)}"
        )
    folders.warn()
    return tuple(Face(path, view, p) for p, views in photos.items() for view, path in views)


def view_of(name: str) -> str:
    """Get the view from a photo's file name: its stem in lower case; "" if it isn't a view."""
    stem = os.path.splitext(name)[0].lower()
    return stem if _VIEW.fullmatch(stem) else ""


class Folders:
    """Views in the folders of people, and what else is there, for one warning of each kind."""

    def __init__(self, images: Path) -> None:
        self.images = images
        self._odd: list[str] = []
        self._others: list[str] = []

    def views(self, folder: Path | None) -> list[tuple[str, Path]]:
        """Views and paths of the photos in a person's `folder`, sorted; [] if there is none."""
        if folder is None or not folder.is_dir():
            return []
        names = entries(folder)
        photos, others = sorted_out(folder, names)
        self._others += [f"{folder.name}/{name}" for name in others]
        self._odd += [f"{folder.name}/{name}" for name in photos if not view_of(name)]
        return sorted((view_of(name), folder / name) for name in photos if view_of(name))

    def warn(self) -> None:
        """Warn of photos whose names are no views, and of what isn't a photo."""
        if self._odd:
            warn(
                f"{self.images}: {counted(len(self._odd), 'photo')} left out, called otherwise than "
                f"mask1, incorrect_mask, normal or photo: {named(self._odd)}"
            )
        if self._others:
            warn(f"{self.images}: {not_photos(self._others)}")


def eval_dir(data: Path) -> Path:
    """Find the folder with info.csv and images: DIR/eval or DIR itself.

    Raises:
        UserError: there is none.
    """
    for folder in (data / "eval", data):
        if (folder / "info.csv").is_file():
            return folder
    number = len(photo_names(data)) if data.is_dir() else 0
    way = "give --input with a photo or a folder of photos"
    if number:
        way = f"--input {data} predicts the {counted(number, 'photo')} below it"
    raise UserError(
        f"{data}: nothing to predict here; expected {data / 'eval' / 'info.csv'} and photos in "
        f"{data / 'eval' / 'images'}; or {way}"
    )


def eval_images(folder: Path) -> Path:
    """Folder of the photos beside info.csv in `folder`."""
    return folder / "images" if (folder / "images").is_dir() else folder


def read_eval(folder: Path, allow_bad: int = 0) -> tuple[list[str], list[Path]]:
    """Read the ImageIDs in info.csv's order, byte for byte, and the paths of their photos.

    Raises:
        UserError: the table is unusable, an id appears twice or leads out of the folder, or more
            than `allow_bad` photos are missing, which are listed.
    """
    table = folder / "info.csv"
    column = read_table(table, ("ImageID",), exact=("ImageID",))["ImageID"]
    names = column.tolist()
    if not names:
        raise UserError(f"{table}: no rows")
    refuse_repeated(table, column)
    images = eval_images(folder)
    outside = [
        f"row {n}: {name}"
        for n, name in zip(column.index + 2, names, strict=True)
        if leads_out(name)
    ]
    if outside:
        raise UserError(
            f"{table}: {counted(len(outside), 'id')} outside of {images}; expected names of photos "
            f"in it\n{listed(outside)}"
        )
    finder = FileFinder(images)
    paths = [finder.find(name) for name in names]
    missing = [n for n, path in zip(names, paths, strict=True) if path is None or path.is_dir()]
    if len(missing) > allow_bad:
        raise UserError(
            f"{table}: {len(missing)} of {len(names)} ids have no photo in {images} and "
            f"{allow_bad} are allowed (--allow-bad {len(missing)} goes on without them)\n"
            + listed(missing, limit=1000)
        )
    return names, [path or images / name for name, path in zip(names, paths, strict=True)]


def find_input(
    source: Path | None, data: Path | None, allow_bad: int = 0
) -> tuple[list[str], list[Path], bool]:
    """Find the photos to predict: names, paths, and True for a single photo.

    `source` is a photo or a folder of photos; without one the eval set is read, in `data`,
    SM_CHANNEL_EVAL or data. `allow_bad` is as for `read_eval`.

    Raises:
        UserError: there are no photos, or too many of the eval set's are missing.
    """
    if source is None:
        default = "data" if data else os.environ.get("SM_CHANNEL_EVAL", "data")
        return *read_eval(eval_dir(data or Path(default)), allow_bad), False
    if source.is_dir():
        table = (source / "info.csv").is_file()
        return *(read_eval(source, allow_bad) if table else find_photos(source)), False
    if not source.exists():
        raise UserError(f"{source}: no such photo or folder")
    return [source.name], [source], True
