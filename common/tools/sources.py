"""Labels of other data sets: in file names, in a table, or in names of folders.

A reader returns every photo with its labels, and the files or rows that it can't use. It opens no
photo, and raises a UserError only if a whole folder or table isn't of its kind.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from common.base.errors import UserError, listed
from common.base.tables import read_table
from common.data.layout import AGE_GROUPS, GENDERS, MASKS, age_band
from common.data.listing import find_photos, is_photo

RACES = ("White", "Black", "Asian", "Indian", "Others")  # UTKFace's, by number
OLDEST = 120
NOT_KNOWN = ("", "nan", "null", "na", "n/a", "unknown", "?")
_NAME = re.compile(r"([0-9]{1,3})_([01])_([0-4])_[^_]+")
_WORN = (
    "wear", "worn", "wearing", "with mask", "masked", "mask on", "correct", "correct mask",
    "mask weared correct", "CMFD",
)  # fmt: skip
_WRONG = (
    "incorrect", "incorrectly", "wrong", "wrong mask", "mask weared incorrect",
    "incorrectly worn", "IMFD",
)  # fmt: skip
_BARE = (
    "not wear", "not worn", "not wearing", "no mask", "without mask", "not masked", "unmasked",
    "mask off", "bare",
)  # fmt: skip
ALIASES = dict(zip(MASKS, (_WORN, _WRONG, _BARE), strict=True)) | dict(
    zip(GENDERS, (("m", "man", "men", "males"), ("f", "woman", "women", "females")), strict=True)
)


class Labels(NamedTuple):
    """Labels of a photo, "" where unlabelled; named as the tasks are.

    One of MASKS, one of GENDERS, and years or one of AGE_GROUPS.
    """

    mask: str = ""
    gender: str = ""
    age: str = ""


CLASSES = Labels(MASKS, GENDERS, AGE_GROUPS)


class Years(NamedTuple):
    """First and last year that an age may be, both included."""

    first: int
    last: int

    @property
    def cell(self) -> str:
        """Cell of train.csv: years, a group, or "" if no group holds all of them."""
        if self.first == self.last:
            return str(self.first)
        low, high = age_band(self.first), age_band(self.last)
        return AGE_GROUPS[low] if low == high else ""

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


@dataclasses.dataclass(frozen=True)
class SourcePhoto:
    """A photo of another data set: `name` is its path there, `person` is "" if it is not named.

    `columns` are cells of columns that have no name of ours: labels for other tasks.
    """

    path: Path
    name: str
    labels: Labels
    years: Years | None = None
    race: str = ""
    person: str = ""
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Found:
    """Photos of a data set; `bad` are (file or row, reason) of those that can't be used."""

    photos: list[SourcePhoto]
    bad: list[tuple[str, str]]


@dataclasses.dataclass(frozen=True)
class Columns:
    """Names of a table's columns; by default ours, of which only `path` is required."""

    path: str | None = None
    mask: str | None = None
    gender: str | None = None
    age: str | None = None
    race: str | None = None
    person: str | None = None


FAIRFACE = Columns(path="file", age="age", race="race")
COLUMNS = [field.name for field in dataclasses.fields(Columns)]


def parse_columns(text: str) -> Columns:
    """Parse "path=file,age=years"; ValueError for what isn't a column of ours."""
    pairs = [part.partition("=") for part in text.split(",")]
    given = {ours.strip(): theirs.strip() for ours, _, theirs in pairs}
    if not all(ours in COLUMNS and theirs for ours, theirs in given.items()):
        raise ValueError(f"expected names such as path=file,age=years, of {', '.join(COLUMNS)}")
    return Columns(**given)


def parse_words(text: str) -> dict[str, str]:
    """Parse "0=male,1=female" into words and their meanings."""
    pairs = [part.rpartition("=") for part in text.split(",")]
    if not all(word and meaning for word, _, meaning in pairs):
        raise ValueError("expected words and their meanings, such as 0=male,1=female")
    return {_plain(word): meaning for word, _, meaning in pairs}


def parse_years(text: str) -> Years | None:
    """Parse "25", "20-29", "(25, 32)", "60+", "more than 70", "<30"; None where it isn't known.

    ValueError for anything else.
    """
    words = text.strip().lower().replace("_", " ")
    if words in NOT_KNOWN:
        return None
    for pattern, years in _AGES:
        if found := re.fullmatch(pattern, words):
            parsed = years(*map(int, found.groups()))
            if 0 <= parsed.first <= parsed.last <= OLDEST:
                return parsed
    raise ValueError(f"{text!r}, expected years from 0 to {OLDEST}, or a range such as 20-29")


_AGES: tuple[tuple[str, Callable[..., Years]], ...] = (
    (r"([0-9]{1,3})(?:\.[0-9]+)?", lambda n: Years(n, n)),
    (r"\(?([0-9]{1,3}) ?(?:-|–|,|to|\s) ?([0-9]{1,3})\)?", Years),
    (r"(?:>=|from) ?([0-9]{1,3})", lambda n: Years(n, OLDEST)),
    (
        r"([0-9]{1,3}) ?(?:\+|and (?:over|above|older)|or (?:more|older))",
        lambda n: Years(n, OLDEST),
    ),
    (r"(?:>|more than|over|above|older than) ?([0-9]{1,3})", lambda n: Years(n + 1, OLDEST)),
    (r"<= ?([0-9]{1,3})", lambda n: Years(0, n)),
    (r"(?:<|under|below|less than|younger than) ?([0-9]{1,3})", lambda n: Years(0, n - 1)),
)


def parse_word(text: str, classes: Iterable[str], words: Mapping[str, str]) -> str:
    """The one of `classes` that `text` is, or an alias of; "" where it isn't known.

    `words` holds meanings that the user gave. ValueError for anything else.
    """
    word = _plain(text)
    if text.strip().lower() in NOT_KNOWN and word not in words:
        return ""
    word = _plain(words.get(word, text))
    for name in classes:
        if word in map(_plain, (name, *ALIASES[name])):
            return name
    raise ValueError(f"{text!r}, expected {', '.join(classes)}, or another word for it (--help)")


def _plain(word: str) -> str:
    """Without what differs between spellings: WithMask, with_mask, "with mask"; but -1 is not 1."""
    plain = re.sub(r"[\s_-]+", "", word.lower())
    return word.strip() if plain.isdigit() else plain


def read_utkface(folder: Path) -> Found:
    """Photos called age_gender_race_date.jpg, at any depth of `folder`."""
    photos, bad = [], []
    for name, path in zip(*find_photos(folder), strict=True):
        try:
            photos.append(SourcePhoto(path, name, *parse_name(path.name)))
        except ValueError as reason:
            bad.append((name, str(reason)))
    return Found(photos, bad)


def parse_name(name: str) -> tuple[Labels, Years, str]:
    """Labels, years and race of one of UTKFace's names; ValueError where a part is missing."""
    found = _NAME.fullmatch(name)
    if not found or int(found[1]) > OLDEST:
        raise ValueError("not called age_gender_race_date.jpg")
    age, gender, race = map(int, found.groups())
    return Labels(gender=GENDERS[gender], age=str(age)), Years(age, age), RACES[race]


def read_fairface(source: Path) -> Found:
    """The photos of FairFace's tables: `source` is one, or the folder that holds them all."""
    tables = [source]
    if source.is_dir():
        tables = sorted(path for path in source.glob("*.csv") if not path.name.startswith("."))
    if not tables:
        raise UserError(f"{source}: no table; expected fairface_label_train.csv or the like")
    parts = [read_csv(table, table.parent, FAIRFACE, {}) for table in tables]
    return Found([p for part in parts for p in part.photos], [b for p in parts for b in p.bad])


def read_csv(table: Path, folder: Path, columns: Columns, words: Mapping[str, str]) -> Found:
    """Read the photos of a table, whose paths start in `folder`.

    Raises:
        UserError: it lacks a column that `columns` names, or has no column of labels.
    """
    given = {ours: theirs for ours, theirs in vars(columns).items() if theirs}
    frame = read_table(table, given.values() if columns.path else [COLUMNS[0], *given.values()])
    names = {ours: given.get(ours, ours) for ours in COLUMNS}
    present = {ours: theirs for ours, theirs in names.items() if theirs in frame.columns}
    if not set(Labels._fields) & set(present):
        raise UserError(
            f"{table}: no column {', '.join(Labels._fields)}; found {', '.join(frame.columns)} "
            "(--map tells which is which, such as age=years)"
        )
    others = [name for name in frame.columns if name not in {*COLUMNS, "id", *present.values()}]
    photos, bad, seen = [], [], set()
    for row, values in zip(frame.index + 2, frame.to_dict("records"), strict=True):
        cells = {ours: values[theirs].strip() for ours, theirs in present.items()}
        try:
            photo = _photo(folder, cells, words)
            if photo.path in seen:
                raise ValueError(f"the photo {photo.name} stands in the table twice")
        except ValueError as reason:
            bad.append((f"{table.name} row {row}", str(reason)))
        else:
            seen.add(photo.path)
            cells = {name: values[name].strip() for name in others}
            photos.append(dataclasses.replace(photo, columns=cells))
    return Found(photos, bad)


def _photo(folder: Path, cells: Mapping[str, str], words: Mapping[str, str]) -> SourcePhoto:
    """The photo of a row; ValueError says what is wrong with it."""
    given = Columns(**cells)
    if not given.path:
        raise ValueError("no path")
    path = folder / given.path
    if not is_photo(path.name):
        raise ValueError(f"{given.path}: not the name of a photo")
    if not path.is_file():
        raise ValueError(f"{given.path}: no such photo in {folder}")
    labels, years = read_labels(
        Labels(given.mask or "", given.gender or "", given.age or ""), words
    )
    return SourcePhoto(path, given.path, labels, years, given.race or "", given.person or "")


def read_labels(cells: Labels, words: Mapping[str, str]) -> tuple[Labels, Years | None]:
    """The labels that cells or names of folders stand for; ValueError for any that is none."""
    found: dict[str, Any] = {}
    years = None
    for name, text, classes in zip(Labels._fields, cells, CLASSES, strict=True):
        try:
            if classes == AGE_GROUPS:
                years = parse_years(text)
                found[name] = years.cell if years else ""
            else:
                found[name] = parse_word(text, classes, words)
        except ValueError as error:
            raise ValueError(f"{name} {error}") from None
    return Labels(**found), years


def read_folders(folder: Path) -> Found:
    """Read photos in folders named after the classes of one task, at any depth.

    Raises:
        UserError: the folders' names are no classes, or of several tasks.
    """
    names, paths = find_photos(folder)
    tops = [Path(name).parts[0] if len(Path(name).parts) > 1 else "" for name in names]
    classes = sorted(set(tops) - {""})
    meanings = next(filter(None, (_meanings(task, classes) for task in Labels._fields)), None)
    if not meanings:
        raise UserError(
            f"{folder}: its folders are not the classes of one task, such as "
            f"{', or '.join(' '.join(one) for one in CLASSES)}; found:\n{listed(classes)}"
        )
    photos, bad = [], []
    for name, path, top in zip(names, paths, tops, strict=True):
        if top:
            labels, years = meanings[top]
            photos.append(SourcePhoto(path, name, labels, years))
        else:
            bad.append((name, "in none of the classes' folders"))
    return Found(photos, bad)


def _meanings(task: str, classes: Iterable[str]) -> dict[str, tuple[Labels, Years | None]]:
    """Folder → labels, if all `classes` are of `task`, else {}."""
    try:
        return {one: read_labels(Labels(**{task: one}), {}) for one in classes}
    except ValueError:
        return {}
