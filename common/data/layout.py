"""The competition's folders and tables, read into `Face` records.

    DIR/train/train.csv                                id,gender,race,age,path[,person]
    DIR/train/images/{path}/{mask1…mask5,incorrect_mask,normal}.{ext}
    DIR/train/images/{path}/{photo,photo2…}.{ext}      how the mask is worn isn't known
    DIR/train/extra/extra.csv, images                  mixed persons, made by common.tools.mixup
    DIR/eval/info.csv                                  ImageID,ans
    DIR/eval/images/{ImageID}

A person is keyed by `path`, not by `id`: the competition's own table has an id that two people
share. An empty cell in `gender` or `age`, or no such column, means that it isn't known; a task
trains on the persons whose label it knows. Any view may be numbered (normal2). Rows with the same
`person` are of one human, at several ages, say: no split parts them. Nothing here opens a photo.
"""

import dataclasses
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from common.base.errors import UserError, listed

if TYPE_CHECKING:
    import pandas as pd

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".webp", ".gif", ".tif", ".tiff"})
VIDEOS = frozenset({".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v"})
GENDERS = ("male", "female")
AGE_BORDERS = (30, 60)
YEAR_BINS = (0, 100)  # that are learned one by one; the ends also stand for those beyond
AGE_GROUPS = ("<30", "30-59", ">=60")
MASKS = ("mask", "incorrect_mask", "normal")  # how a mask is worn, as photos are named
UNKNOWN_VIEW = "photo"
_VIEW = re.compile(r"mask[0-9]+|(incorrect_mask|normal|photo)[0-9]*")


@dataclasses.dataclass(frozen=True, slots=True)
class Person:
    """One row of train.csv; `columns` holds the row as text, whatever columns it has.

    `gender` is "" and `age` None where they aren't known. `age` is in years; where the table has a
    group instead, it is the group's first year, and `exact` is False. `parents` are the keys of the
    persons that a mixed one was made of: none for a real one.
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
        """What all rows of one human share: the column `person`, else the key."""
        return self.columns.get("person", "").strip() or self.key


@dataclasses.dataclass(frozen=True, slots=True)
class Face:
    """One photo of a person; `view` is the file's stem in lower case: mask1, normal, …"""

    path: Path
    view: str
    person: Person

    @property
    def mask(self) -> str:
        """How the mask is worn, one of MASKS: the view without its number; "" where not known."""
        word = self.view.rstrip("0123456789")
        return word if word in MASKS else ""

    @property
    def gender(self) -> str:
        return self.person.gender

    @property
    def age(self) -> int | None:
        return self.person.age

    @property
    def groups(self) -> dict[str, str]:
        """Whose figures are told apart: gender, age group and how the mask is worn, "" not known."""
        age = "" if self.age is None else AGE_GROUPS[age_band(self.age)]
        return {"gender": self.gender, "age": age, "mask": self.mask}


def age_band(years: int) -> int:
    """0 below 30, 1 from 30 to 59, 2 from 60: the official rule."""
    return sum(years >= border for border in AGE_BORDERS)


def print_left_out(faces: Collection[Face], known: Collection[Face], reason: str) -> None:
    """Say how many persons and photos of `faces` aren't `known`, and why; nothing if all are."""
    if len(known) == len(faces):
        return
    everybody = {face.person for face in faces}
    persons = len(everybody - {face.person for face in known})
    print(
        f"left out: {persons:,} of {len(everybody):,} persons, {len(faces) - len(known):,} of "
        f"{len(faces):,} photos: {reason}"
    )


def years_of(*tables: Iterable[Person]) -> tuple[int, int]:
    """First and last year to learn: 0 and 100, unless a table's ages end where the old begin.

    An oldest age of 60 can't but mean 60 or more, as in the competition's table; so may the
    youngest there be clipped. Years of other tables beyond these ends are learned as the ends.
    """
    ages = [[p.age for p in people if p.age is not None and p.exact] for people in tables]
    clipped = any(max(years, default=0) == AGE_BORDERS[-1] for years in ages)
    return (min(map(min, filter(None, ages))), AGE_BORDERS[-1]) if clipped else YEAR_BINS


def is_photo(name: str) -> bool:
    """Whether a file name is a photo's; '._mask1.jpg' is a resource fork, not a photo."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in EXTENSIONS


def is_video(source: Path | str | None) -> bool:
    """Whether --input names a video, by its suffix; folders may be named as they like."""
    return isinstance(source, Path) and source.suffix.lower() in VIDEOS and not source.is_dir()


def read_table(path: Path, columns: Iterable[str]) -> "pd.DataFrame":
    """Read a CSV as text, empty cells as ""; UserError unless it has `columns`.

    Blank lines are left out and not counted: row numbers are index + 2. A row of empty cells stays.

    A byte order mark is skipped; a header without commas may be separated by semicolons.
    """
    import pandas as pd

    try:
        head = path.read_text(encoding="utf-8-sig").partition("\n")[0]
        separator = ";" if ";" in head and "," not in head else ","
        table = pd.read_csv(
            path, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig",
        )  # fmt: skip
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        reason = str(error).strip().rpartition("error: ")[2]
        raise UserError(f"{path}: not a CSV table: {reason}") from None
    if not isinstance(table.index, pd.RangeIndex):  # pandas shifts such rows without a word
        raise UserError(f"{path}: row 2 has more values than the header has names")
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise UserError(f"{path}: no column {', '.join(missing)}; found {', '.join(table.columns)}")
    return table


def train_dir(data: Path) -> Path:
    """The folder with train.csv and images: DIR/train, DIR itself, or where DIR is its images."""
    for folder in (data / "train", data, data.parent if data.name == "images" else data):
        if (folder / "train.csv").is_file() and (folder / "images").is_dir():
            return folder
    raise UserError(
        f"{data}: no training data here; expected {data / 'train' / 'train.csv'} and photos in "
        f"{data / 'train' / 'images'}\n"
        f"to draw a demo set there: python -m common.tools.demo {data} --people 200"
    )


def usable_people(table: Path, columns: Iterable[str] = ()) -> tuple[list[Person], list[str]]:
    """The persons of train.csv sorted by key, and a line for each value that can't be used.

    A row with such a value gives no person; of rows with the same path only the first does.
    `columns` are those that the table must have beside path.
    """
    frame = read_table(table, ("path", *columns))
    rows = list(zip(frame.index + 2, frame.to_dict("records"), strict=True))
    wrong = [(number, problem) for number, row in rows for problem in _problems(row)]
    wrong += [(n, f"path {path!r} stands twice") for n, path in _repeated(frame["path"]) if path]
    unusable = {number for number, _ in wrong}
    people = [_person(row) for number, row in rows if number not in unusable]
    lines = [f"row {number}: {problem}" for number, problem in wrong]
    return sorted(people, key=lambda person: person.key), lines


def read_people(table: Path, columns: Iterable[str] = ()) -> tuple[Person, ...]:
    """The persons of train.csv as `usable_people`; UserError lists every value that can't be used.

    So does a table without rows.
    """
    people, wrong = usable_people(table, columns)
    if wrong:
        raise UserError(f"{table}: {len(wrong)} unusable values\n{listed(wrong)}")
    if not people:
        raise UserError(f"{table}: no rows")
    return tuple(people)


def _problems(row: Mapping[str, str]) -> Iterator[str]:
    if row.get("gender", "").strip().lower() not in (*GENDERS, ""):
        yield f"gender {row['gender']!r}, expected male or female, or nothing"
    age = row.get("age", "").strip()
    years = re.fullmatch(r"[0-9]{1,3}", age)
    if int(age) > 120 if years else age not in (*AGE_GROUPS, ""):
        groups = ", ".join(AGE_GROUPS)
        yield (
            f"age {row['age']!r}, expected a whole number from 0 to 120, a group ({groups}), or "
            "nothing"
        )
    if row["path"] in ("", "..") or Path(row["path"]).name != row["path"]:
        yield f"path {row['path']!r}, expected the name of a folder in images"


def _repeated(column: "pd.Series") -> list[tuple[int, str]]:
    again = column[column.duplicated()]
    return [(int(index) + 2, value) for index, value in again.items()]


def refuse_repeated(table: Path, column: "pd.Series") -> None:
    """UserError lists the rows of `table` whose id stands there already."""
    again = [f"row {number}: {name}" for number, name in _repeated(column)]
    if again:
        raise UserError(f"{table}: {len(again)} rows repeat an id\n{listed(again)}")


def _person(row: Mapping[str, str]) -> Person:
    gender = row.get("gender", "").strip().lower()
    age, race = row.get("age", "").strip(), row.get("race", "")
    if age in AGE_GROUPS:
        first = (0, *AGE_BORDERS)[AGE_GROUPS.index(age)]
        return Person(row["path"], gender, first, race, row, exact=False)
    return Person(row["path"], gender, int(age) if age else None, race, row)


def read_faces(data: Path) -> tuple[Face, ...]:
    """Every photo of every person in the table, sorted by person and view.

    UserError where the table is unusable or a person has no folder or no photo.
    """
    table = train_dir(data) / "train.csv"
    return _photographed(table, read_people(table))


def read_mixed(data: Path) -> tuple[Face, ...]:
    """Every photo of every mixed person (common.tools.mixup), as `read_faces`; () if none were made.

    Their keys begin with "extra/", which no real person's can.
    """
    table = train_dir(data) / "extra" / "extra.csv"
    if not table.parent.exists():
        return ()
    faces = _photographed(table, read_people(table, ("parent_a", "parent_b")))
    return tuple(dataclasses.replace(face, person=_mixed(face.person)) for face in faces)


def _mixed(person: Person) -> Person:
    parents = person.columns["parent_a"], person.columns["parent_b"]
    return dataclasses.replace(person, key=f"extra/{person.key}", parents=parents)


def _photographed(table: Path, people: Iterable[Person]) -> tuple[Face, ...]:
    images = table.parent / "images"
    photos = {person: list(_views(images / person.key)) for person in people}
    empty = [p.key for p, views in photos.items() if not views]
    if empty:
        raise UserError(
            f"{table}: {len(empty)} persons have no folder with photos in {images}\n{listed(empty)}"
        )
    return tuple(Face(path, view, p) for p, views in photos.items() for view, path in views)


def view_of(name: str) -> str:
    """The view that a photo's file name says: its stem in lower case; "" where it is none."""
    stem = os.path.splitext(name)[0].lower()
    return stem if _VIEW.fullmatch(stem) else ""


def _views(folder: Path) -> list[tuple[str, Path]]:
    if not folder.is_dir():
        return []
    found = ((view_of(name), folder / name) for name in _photo_names(folder))
    return sorted((view, path) for view, path in found if view)


def _photo_names(folder: Path) -> list[str]:
    try:
        return [entry.name for entry in os.scandir(folder) if is_photo(entry.name)]
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror}") from None


def eval_dir(data: Path) -> Path:
    """The folder with info.csv and images: DIR/eval or DIR itself."""
    for folder in (data / "eval", data):
        if (folder / "info.csv").is_file():
            return folder
    raise UserError(
        f"{data}: nothing to predict here; expected {data / 'eval' / 'info.csv'} and photos in "
        f"{data / 'eval' / 'images'}; or give --input with a photo or a folder of photos"
    )


def read_eval(folder: Path, allow_bad: int = 0) -> tuple[list[str], list[Path]]:
    """ImageIDs in info.csv's order and their photos, of which `allow_bad` may be missing.

    UserError lists the ids without a photo where there are more, and ids that stand twice.
    """
    table = folder / "info.csv"
    column = read_table(table, ("ImageID",))["ImageID"]
    names = column.tolist()
    if not names:
        raise UserError(f"{table}: no rows")
    refuse_repeated(table, column)
    images = folder / "images" if (folder / "images").is_dir() else folder
    missing = [name for name in names if not (images / name).is_file()]
    if len(missing) > allow_bad:
        raise UserError(
            f"{table}: {len(missing)} of {len(names)} ids have no photo in {images} and {allow_bad} "
            f"are allowed (--allow-bad {len(missing)} goes on without them)\n"
            + listed(missing, limit=1000)
        )
    return names, [images / name for name in names]


def find_input(
    source: Path | None, data: Path | None, allow_bad: int = 0
) -> tuple[list[str], list[Path], bool]:
    """Names and paths of the photos to answer for, and whether it is a single photo.

    `source` is a photo or a folder of photos; without one the eval set is read, in `data`,
    SM_CHANNEL_EVAL or data. `allow_bad` is as for `read_eval`. UserError where there is nothing.
    """
    if source is None:
        default = "data" if data else os.environ.get("SM_CHANNEL_EVAL", "data")
        return *read_eval(eval_dir(data or Path(default)), allow_bad), False
    if source.is_dir():
        table = (source / "info.csv").is_file()
        return *(read_eval(source, allow_bad) if table else find_photos(source)), False
    if not source.exists():
        raise UserError(f"--input {source}: no such photo or folder")
    return [source.name], [source], True


def find_photos(folder: Path) -> tuple[list[str], list[Path]]:
    """Every photo below `folder`, sorted, named by its path from there; links are followed once."""
    seen: set[tuple[int, int]] = set()
    names = []
    for root, folders, files in os.walk(folder, onerror=_refuse, followlinks=True):
        if not _new(root, seen):
            folders.clear()
            continue
        folders[:] = sorted(d for d in folders if not d.startswith("."))
        names += [os.path.relpath(os.path.join(root, f), folder) for f in files if is_photo(f)]
    names.sort()
    if not names:
        raise UserError(f"{folder}: no photos ({' '.join(sorted(EXTENSIONS))}) in it or below")
    return names, [folder / name for name in names]


def _refuse(error: OSError) -> None:
    raise UserError(f"{error.filename}: {error.strerror}")


def _new(folder: str, seen: set[tuple[int, int]]) -> bool:
    status = os.stat(folder)
    identity = status.st_dev, status.st_ino
    return identity not in seen and not seen.add(identity)
