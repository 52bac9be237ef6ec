"""Labels of other data sets: in file names, in a table, or in names of folders.

A reader returns every photo with its labels, and the files or rows that it can't use. It decodes no
photo, and raises a UserError only if a whole folder or table isn't of its kind.
"""

import csv
import dataclasses
import itertools
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from common.base.errors import UserError, listed
from common.base.names import FileFinder, folded
from common.base.tables import read_table
from common.data.labels import (
    AGE_GROUPS,
    GENDER_WORDS,
    GENDERS,
    OLDEST,
    Years,
    parse_word,
    parse_years,
    squeezed,
)
from common.data.layout import MASKS
from common.data.listing import find_photos, is_hidden, is_photo

RACES = ("White", "Black", "Asian", "Indian", "Others")  # UTKFace's, by number
_NAME = re.compile(r"([0-9]{1,3})_([01])_([0-4])_[^_]+")
_PASTED = re.compile(r"([0-9]{5})_Mask(?:_[A-Za-z]+)*")  # MaskedFace-Net, by the photo of FFHQ
_BARE_FFHQ = re.compile(r"[0-9]{5}")
_WORN = (
    *("wear", "worn", "wearing", "with mask", "masked", "mask on", "correct", "correct mask"),
    *("mask weared correct", "correctly worn", "CMFD", "착용", "마스크 착용"),
)
_WRONG = (
    *("incorrect", "incorrectly", "wrong", "wrong mask", "mask weared incorrect", "improper"),
    *("incorrectly worn", "improperly worn", "mask incorrect", "IMFD", "잘못 착용"),
)
_BARE = (
    *("not wear", "not worn", "not wearing", "no mask", "non mask", "without mask", "without"),
    *("not masked", "unmasked", "mask off", "bare", "미착용", "마스크 미착용"),
)
MASK_WORDS = dict(zip(MASKS, (_WORN, _WRONG, _BARE), strict=True))
ALIASES = MASK_WORDS | GENDER_WORDS


class Labels(NamedTuple):
    """Labels of a photo, "" where unlabelled; named as the tasks are.

    One of MASKS, one of GENDERS, and years or one of AGE_GROUPS.
    """

    mask: str = ""
    gender: str = ""
    age: str = ""


LABEL_CLASSES = Labels(MASKS, GENDERS, AGE_GROUPS)


class Words(NamedTuple):
    """What the user says that cells mean, for each task; named as the tasks are."""

    mask: Mapping[str, str] = {}
    gender: Mapping[str, str] = {}
    age: Mapping[str, Years | None] = {}


NO_WORDS = Words()


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
class SourcePhotos:
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


FAIRFACE_COLUMNS = Columns(path="file", age="age", race="race")
READ_COLUMNS = [field.name for field in dataclasses.fields(Columns)]


def parse_columns(text: str) -> Columns:
    """Parse "path=file,age=years"; ValueError for what isn't a column of ours."""
    pairs = [part.partition("=") for part in text.split(",")]
    given = {ours.strip(): theirs.strip() for ours, _, theirs in pairs}
    if not all(ours in READ_COLUMNS and theirs for ours, theirs in given.items()):
        raise ValueError(
            f"expected names such as path=file,age=years, of {', '.join(READ_COLUMNS)}"
        )
    return Columns(**given)


def parse_words(text: str) -> Words:
    """Parse "0=male,1=female,20대=20-29" into words and their meanings.

    ValueError for a meaning that is no class and no age, and for two meanings of a word.
    """
    found = Words({}, {}, {})
    for part in next(csv.reader([text], skipinitialspace=True), []):
        word, *meaning = re.split(r"(?<![<>])=", part, maxsplit=1)
        if not (word.strip() and meaning and meaning[0].strip()):
            raise ValueError("expected words and their meanings, such as 0=male,1=female,20s=20-29")
        meanings = _meanings_of(meaning[0])
        if not meanings:
            classes = ", ".join((*MASKS, *GENDERS))
            raise ValueError(f"{meaning[0]!r} is none of {classes}, nor years such as 20-29 or 60+")
        for task, value in meanings.items():
            words: dict[str, Any] = getattr(found, task)
            key = folded(word) if task == Labels._fields[-1] else squeezed(word)
            if words.setdefault(key, value) != value:
                raise ValueError(f"{word!r} has two meanings")
    return found


def _meanings_of(text: str) -> dict[str, str | Years | None]:
    """Task → what `text` means in it, for those where it means anything."""
    found: dict[str, str | Years | None] = {}
    for task, classes in zip(Labels._fields, LABEL_CLASSES, strict=True):
        try:
            found[task] = _parse(text, classes, {})
        except ValueError:
            continue
    return found


def _parse(text: str, classes: Sequence[str], words: Mapping[str, Any]) -> Any:
    """A class or Years of a cell of the task that has these `classes`."""
    if classes == AGE_GROUPS:
        return parse_years(text, words)
    return parse_word(text, {name: ALIASES[name] for name in classes}, words)


def read_utkface(folder: Path) -> SourcePhotos:
    """Photos called age_gender_race_date.jpg, at any depth of `folder`."""
    photos, bad = [], []
    for name, path in zip(*find_photos(folder), strict=True):
        try:
            photos.append(SourcePhoto(path, name, *parse_name(path.name)))
        except ValueError as reason:
            bad.append((name, str(reason)))
    return SourcePhotos(photos, bad)


def parse_name(name: str) -> tuple[Labels, Years, str]:
    """Labels, years and race of one of UTKFace's names; ValueError where a part is missing."""
    found = _NAME.fullmatch(name)
    if not found or int(found[1]) > OLDEST:
        raise ValueError("not called age_gender_race_date.jpg")
    age, gender, race = map(int, found.groups())
    return Labels(gender=GENDERS[gender], age=str(age)), Years(age, age), RACES[race]


def read_fairface(source: Path, words: Words = NO_WORDS) -> SourcePhotos:
    """The photos of FairFace's tables: `source` is one, or the folder that holds them all."""
    tables = [source]
    if source.is_dir():
        tables = sorted(path for path in source.glob("*.csv") if not is_hidden(path.name))
    if not tables:
        raise UserError(f"{source}: no table; expected fairface_label_train.csv or the like")
    return _joined(read_csv(table, table.parent, FAIRFACE_COLUMNS, words) for table in tables)


def _joined(parts: Iterable[SourcePhotos]) -> SourcePhotos:
    parts = list(parts)
    return SourcePhotos(
        [p for part in parts for p in part.photos], [b for p in parts for b in p.bad]
    )


class _Row(NamedTuple):
    """A row of a table: its place for messages, our columns, and others."""

    where: str
    cells: Mapping[str, str]
    others: Mapping[str, str]


def read_csv(
    table: Path, folder: Path, columns: Columns = Columns(), words: Words = NO_WORDS
) -> SourcePhotos:
    """Read the photos of a table, whose paths start in `folder`.

    Raises:
        UserError: it lacks a column that `columns` names, or has no column of labels.
    """
    given = {ours: theirs for ours, theirs in vars(columns).items() if theirs}
    needed = [*given.values()] if columns.path else [READ_COLUMNS[0], *given.values()]
    frame = read_table(table, needed, optional=READ_COLUMNS)
    names = {ours: given.get(ours, ours) for ours in READ_COLUMNS}
    present = {ours: theirs for ours, theirs in names.items() if theirs in frame.columns}
    if not set(Labels._fields) & set(present):
        raise UserError(
            f"{table}: no column {', '.join(Labels._fields)}; found {', '.join(frame.columns)} "
            "(--map tells which is which, such as age=years)"
        )
    others = [
        name for name in frame.columns if name not in {*READ_COLUMNS, "id", *present.values()}
    ]
    rows = (
        _Row(
            f"{table.name} row {number}",
            {ours: values[theirs] for ours, theirs in present.items()},
            {name: values[name] for name in others},
        )
        for number, values in zip(frame.index + 2, frame.to_dict("records"), strict=True)
    )
    return _photos(rows, FileFinder(folder), words)


def _photos(rows: Iterable[_Row], finder: FileFinder, words: Words) -> SourcePhotos:
    photos, bad, seen = [], [], set()
    for row in rows:
        try:
            photo = _photo(finder, row.cells, words)
            if photo.path in seen:
                raise ValueError(f"the photo {photo.name} stands in the table twice")
        except ValueError as reason:
            bad.append((row.where, str(reason)))
        else:
            seen.add(photo.path)
            photos.append(dataclasses.replace(photo, columns=row.others))
    return SourcePhotos(photos, bad)


def _photo(finder: FileFinder, cells: Mapping[str, str], words: Words) -> SourcePhoto:
    """The photo of a row; ValueError says what is wrong with it."""
    given = Columns(**cells)
    if not given.path:
        raise ValueError("no path")
    path = finder.find(given.path)
    if path is None or not path.is_file():
        raise ValueError(f"{given.path}: no such photo in {finder.folder}")
    if not is_photo(path):
        raise ValueError(f"{given.path}: not a photo that can be read here")
    labels, years = parse_labels(
        Labels(given.mask or "", given.gender or "", given.age or ""), words
    )
    return SourcePhoto(path, given.path, labels, years, given.race or "", given.person or "")


def parse_labels(cells: Labels, words: Words = NO_WORDS) -> tuple[Labels, Years | None]:
    """The labels that cells or names of folders stand for; ValueError for any that is none."""
    found: dict[str, Any] = {}
    years = None
    for name, text, classes, ours in zip(Labels._fields, cells, LABEL_CLASSES, words, strict=True):
        try:
            value = _parse(text, classes, ours)
        except ValueError as error:
            example = shlex.quote(f"{text}={'20-29' if classes == AGE_GROUPS else classes[0]}")
            raise ValueError(f"{name} {error} (--words {example} tells what it means)") from None
        if classes == AGE_GROUPS:
            years = value
            value = years.cell if years else ""
        found[name] = value
    return Labels(**found), years


def read_adience(folder: Path, words: Words = NO_WORDS) -> SourcePhotos:
    """Adience's photos: fold_0_data.txt … in `folder`, and faces/USER/… or aligned/USER/….

    All photos of one user's albums count as one person's: nothing else says who is on them.

    Raises:
        UserError: there is no such table.
    """
    tables = [*folder.glob("fold_[0-9]_data.txt")] or [*folder.glob("fold_*_data.txt")]
    tables = tables or [*folder.glob("*/fold_[0-9]_data.txt")]
    if not tables:
        raise UserError(f"{folder}: no table; expected fold_0_data.txt to fold_4_data.txt")
    faces = _adience_faces(tables[0].parent if (tables[0].parent / "faces").is_dir() else folder)
    start = _ADIENCE_FACES.get(faces.name, _ADIENCE_FACES["faces"])
    return _photos(_adience_rows(sorted(tables), start), FileFinder(faces), words)


_ADIENCE = ("user_id", "original_image", "face_id", *Labels._fields[1:])
_ADIENCE_FACES = {"faces": "coarse_tilt_aligned_face", "aligned": "landmark_aligned_face"}


def _adience_faces(folder: Path) -> Path:
    """The folder of the users' folders."""
    return next((folder / name for name in _ADIENCE_FACES if (folder / name).is_dir()), folder)


def _adience_rows(tables: Iterable[Path], start: str) -> Iterator[_Row]:
    for table in tables:
        frame = read_table(table, _ADIENCE)
        for number, row in zip(frame.index + 2, frame.to_dict("records"), strict=True):
            user, photo, face, *labels = (row[name] for name in _ADIENCE)
            cells = dict(zip(Labels._fields[1:], labels, strict=True))
            path = f"{user}/{start}.{face}.{photo}"
            yield _Row(f"{table.name} row {number}", {"path": path, "person": user, **cells}, {})


def read_folders(folder: Path, words: Words = NO_WORDS) -> SourcePhotos:
    """Read photos in folders named after the classes of one task, at any depth.

    The classes' folders may lie in others, such as train and test. Photos of MaskedFace-Net are of
    the person whose photo of FFHQ their names begin with.

    Raises:
        UserError: the folders' names are no classes, or of several tasks.
    """
    names, paths = find_photos(folder)
    parts = [Path(name).parts[:-1] for name in names]
    depth, meanings = _classes(parts, words)
    if not meanings:
        raise UserError(_no_classes(folder, parts))
    people = _pasted(paths)
    photos, bad = [], []
    for name, path, own in zip(names, paths, parts, strict=True):
        if len(own) > depth:
            labels, years = meanings[own[depth]]
            photos.append(SourcePhoto(path, name, labels, years, person=people.get(path, "")))
        else:
            bad.append((name, "in none of the classes' folders"))
    return SourcePhotos(photos, bad)


_Meanings = Mapping[str, tuple[Labels, Years | None]]


def _classes(parts: Sequence[Sequence[str]], words: Words) -> tuple[int, _Meanings]:
    """The first depth at which all folders are classes of one task, and what they mean.

    A depth at which only some are is the last one: a name there is misspelled.
    """
    for depth in itertools.count():
        level = sorted({own[depth] for own in parts if len(own) > depth})
        found = [_meanings(task, level, words) for task in Labels._fields]
        whole = next((meanings for meanings in found if meanings.keys() == set(level)), {})
        if whole or any(found) or not level:
            return depth, whole
    raise AssertionError


def _meanings(task: str, names: Iterable[str], words: Words) -> _Meanings:
    """Folder → labels, for those of the folders' `names` that are classes of `task`."""
    found = {}
    for name in names:
        try:
            found[name] = parse_labels(Labels(**{task: name}), words)
        except ValueError:
            continue
    return found


def _no_classes(folder: Path, parts: Iterable[Sequence[str]]) -> str:
    """A message about folders that are no classes."""
    boxes = next((p.parent for p in folder.glob("**/annotations/*.xml")), None)
    if boxes is not None:
        return (
            f"{folder}: {boxes} says where faces are in photos of several people; cut the faces out "
            "first, into a folder for each class"
        )
    tops = sorted({own[0] for own in parts if own})
    return (
        f"{folder}: its folders are not the classes of one task, such as "
        f"{', or '.join(' '.join(one) for one in LABEL_CLASSES)}, in any spelling (--words "
        f"FOLDER=CLASS says what a name means); found:\n{listed(tops)}"
    )


def _pasted(paths: Iterable[Path]) -> dict[Path, str]:
    """Photo → person, of MaskedFace-Net and of the photos of FFHQ that lie beside it.

    One face is pasted a mask on twice, rightly in CMFD and wrongly in IMFD.
    """
    found = {path: _PASTED.fullmatch(path.stem) for path in paths}
    if not any(found.values()):
        return {}
    people = {path: name[1] for path, name in found.items() if name}
    return people | {path: path.stem for path in found if _BARE_FFHQ.fullmatch(path.stem)}
