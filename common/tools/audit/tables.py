"""Inventory of a data folder, and faults of its tables and names; no photo is opened.

Nothing here stops at the first mistake; each becomes a `Finding`.
"""

import dataclasses
import itertools
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from common.base.errors import UserError
from common.base.names import FileFinder, leads_out, name_key
from common.base.tables import read_table
from common.data.layout import (
    AGE_BORDERS,
    AGE_GROUPS,
    GENDERS,
    MASKS,
    MIXED,
    TRAIN_COLUMNS,
    Face,
    Person,
    age_band,
    train_dir,
    usable_people,
    view_of,
)
from common.data.listing import entries, sorted_out
from common.data.split import assign_folds

LEVELS = ("error", "warning", "note")
EVAL = "eval"
CODES = tuple(itertools.product(MASKS, GENDERS, AGE_GROUPS))  # the 18 classes in code order


@dataclasses.dataclass(frozen=True)
class Finding:
    """One kind of oddity and all of its cases, a line each.

    An `error` makes a training or prediction stop, or its score wrong; a `warning` is for a person to
    decide; a `note` is known and handled. `photos` are those to show.
    """

    level: str
    title: str
    lines: tuple[str, ...]
    photos: tuple[Path, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class AuditedPhoto:
    """A photo to be looked at, its `name` below the folder images, and whose it is.

    `owner` is the human of a person's row, of a photo without a row its folder, of those to predict
    EVAL. `face` is None for the last two.
    """

    path: Path
    name: str
    owner: str
    face: Face | None = None


@dataclasses.dataclass
class Inventory:
    """Contents of the folder `data`; `findings` grows as it is inspected."""

    data: Path
    people: list[Person] = dataclasses.field(default_factory=list)
    photos: list[AuditedPhoto] = dataclasses.field(default_factory=list)
    findings: list[Finding] = dataclasses.field(default_factory=list)

    @property
    def faces(self) -> list[Face]:
        """The photos that a training could use."""
        return [photo.face for photo in self.photos if photo.face]

    def report(self, level: str, title: str, lines: Iterable[str]) -> None:
        """Add a finding, unless there is no line."""
        lines = tuple(lines)
        if lines:
            self.findings.append(Finding(level, title, lines))

    def name(self, path: Path) -> str:
        """The path from the data folder, for a person."""
        return str(path.relative_to(self.data)) if path.is_relative_to(self.data) else str(path)


def take_stock(data: Path, folds: int) -> Inventory:
    """Collect all people, photos and oddities of the tables and names below `data`.

    Raises:
        UserError: there is nothing to train on and nothing to predict.
    """
    found = Inventory(data)
    train, test = _train_part(data), _eval_part(data)
    if train is None and test is None:
        train_dir(data)  # says what was expected, and how to draw some
    if train is not None:
        _take_training(found, train, folds)
    if test is not None:
        _take_eval(found, test)
    return found


def _train_part(data: Path) -> Path | None:
    """The training folder, even where its table or its photos are missing."""
    for folder in (data / "train", data, data.parent if data.name == "images" else data):
        photos = (folder / "images").is_dir() and not (folder / "info.csv").is_file()
        if photos or (folder / "train.csv").is_file():
            return folder
    return None


def _eval_part(data: Path) -> Path | None:
    if (data / "info.csv").is_file():
        return data
    return data / EVAL if (data / EVAL).is_dir() else None


def _take_training(found: Inventory, folder: Path, folds: int) -> None:
    table, images = folder / "train.csv", folder / "images"
    keys: set[str] = set()
    try:
        keys = set(read_table(table, ("path",), optional=TRAIN_COLUMNS)["path"])
        found.people, wrong = usable_people(table)
        found.report("error", f"unusable values in {found.name(table)}", wrong)
        found.report("error", "rows of one path that contradict each other", _conflicts(table))
        found.report("note", f"{found.name(table)} is read in spite of", _dialect(table))
        if not keys:
            raise UserError(f"{table}: no rows")
    except UserError as error:
        found.report("error", "table that can't be used", [str(error).replace("\n", "; ")])
    _compare_rows(found)
    _take_folders(found, images, keys)
    _count_labels(found)
    _compare_folds(found, folds)
    if (folder / MIXED).is_dir():
        lines = [f"{found.name(folder / MIXED)} (python -m common.tools.mixup makes them)"]
        found.report("note", "mixed people that the audit doesn't look at", lines)


def _conflicts(table: Path) -> Iterator[str]:
    rows = defaultdict(list)
    for row in read_table(table, ("path",), optional=TRAIN_COLUMNS).to_dict("records"):
        rows[row["path"]].append(row)
    for path, same in rows.items():
        names = [name for name in same[0] if len({row[name] for row in same}) > 1]
        if path and names:
            values = (" or ".join(sorted({row[name] for row in same})) for name in names)
            pairs = zip(names, values, strict=True)
            yield f"{path}: {', '.join(f'{name} {value}' for name, value in pairs)}"


def _dialect(table: Path) -> Iterator[str]:
    head = table.read_bytes()[:65536]
    if head.startswith(b"\xef\xbb\xbf"):
        yield "a byte order mark"
    first = head.partition(b"\n")[0]
    if b";" in first and b"," not in first:
        yield "semicolons for commas"
    if first.endswith(b"\r"):
        yield "line ends of Windows"


def _compare_rows(found: Inventory) -> None:
    """Find rows that contradict each other or the folder that they name."""
    shared, unequal = [], []
    by_id: dict[str, list[Person]] = defaultdict(list)
    for person in found.people:
        by_id[person.columns.get("id", "").strip()].append(person)
    for identity, people in sorted(by_id.items()):
        if identity and len({person.human for person in people}) > 1:
            labels = {(person.gender, person.age) for person in people}
            lines = unequal if len(labels) > 1 else shared
            lines.append(f"{identity}: {', '.join(person.key for person in people)}")
    found.report("warning", "ids that several people of equal labels share", shared)
    found.report("warning", "ids that several people of different labels share", unequal)
    names = [(person, _name_against_row(person)) for person in found.people]
    zeros = [f"id {p.columns['id']!r} of {p.key}" for p, odd in names if odd == "zeros"]
    found.report("warning", "ids whose leading zeros are lost", zeros)
    contradictions = [f"{p.key}: {odd}" for p, odd in names if odd not in ("", "zeros")]
    found.report("warning", "folder names that contradict their row", contradictions)


def _name_against_row(person: Person) -> str:
    """Compare a folder named id_gender_race_age with its row; "zeros" if only leading zeros differ."""
    identity, *middle = person.key.split("_")
    if len(middle) < 3 or middle[0].lower() not in GENDERS or not middle[-1].isdecimal():
        return ""
    given, odd = person.columns.get("id", "").strip(), []
    if given and given != identity:
        if given.lstrip("0") == identity.lstrip("0"):
            return "zeros"
        odd.append(f"id {given}")
    if person.gender and person.gender != middle[0].lower():
        odd.append(person.gender)
    if person.race and person.race.lower() != "_".join(middle[1:-1]).lower():
        odd.append(person.race)
    if person.age is not None and not _same_age(person, int(middle[-1])):
        odd.append(f"age {person.columns['age'].strip()}")
    return f"the row says {', '.join(odd)}" if odd else ""


def _same_age(person: Person, years: int) -> bool:
    return person.age == years if person.exact else age_band(person.age) == age_band(years)


def _entries(found: Inventory, folder: Path) -> tuple[list[str], list[str]]:
    """Names of the folders and of the other entries in `folder`, sorted, without hidden ones."""
    try:
        names = entries(folder)
    except UserError as error:
        found.report("error", "folder that can't be read", [str(error)])
        return [], []
    folders = [name for name in names if (folder / name).is_dir()]
    return folders, [name for name in names if name not in set(folders)]


def _take_folders(found: Inventory, images: Path, keys: set[str]) -> None:
    """Add the photos of all people and those that no row knows; report what is missing or left."""
    folders, files = _entries(found, images)
    people = {name_key(person.key): person for person in found.people}
    keys = set(map(name_key, keys))
    loose, others = ([images / n for n in names] for names in sorted_out(images, files))
    odd: list[Path] = []
    unknown, empty = [], []
    for folder in folders:
        key = name_key(folder)
        inside, within = _entries(found, images / folder)
        inner, rest = sorted_out(images / folder, within)
        others += [images / folder / name for name in (*inside, *rest)]
        photos = [images / folder / name for name in inner]
        odd += [path for path in photos if not view_of(path.name)] if key in keys else []
        if key not in keys:
            unknown.append(f"{folder} ({len(photos)} photos)")
        elif not any(view_of(path.name) for path in photos):
            empty.append(folder)
        found.photos += [_photo(path, people.get(key)) for path in photos]
    found.photos += [AuditedPhoto(path, path.name, path.name) for path in loose]
    rows = set(people) - set(map(name_key, folders))
    found.report("error", "people without a folder", (_missing(k, folders) for k in sorted(rows)))
    found.report("error", "people without a photo in their folder", empty)
    if keys:  # else the table's own error says enough
        found.report("warning", "folders without a row", unknown)
    found.report("warning", "photos in no person's folder", map(found.name, loose))
    found.report("warning", "photos whose name is no view: not used", map(found.name, odd))
    found.report("note", "other files and folders: not used", map(found.name, others))
    _compare_views(found)


def _photo(path: Path, person: Person | None) -> AuditedPhoto:
    """A photo in a folder of images, which may be that of a `person`."""
    folder, view = path.parent.name, view_of(path.name)
    face = Face(path, view, person) if view and person else None
    return AuditedPhoto(path, f"{folder}/{path.name}", person.human if person else folder, face)


def _missing(key: str, folders: Iterable[str]) -> str:
    """The key, and the folder that only leading zeros or capitals keep from being it."""
    plain = key.lstrip("0").lower()
    near = [name for name in folders if name.lstrip("0").lower() == plain]
    return f"{key} (there is {near[0]})" if near else key


def _compare_views(found: Inventory) -> None:
    """Report people whose views differ from those that most people have, and views that repeat."""
    views: dict[str, Counter] = defaultdict(Counter)
    for face in found.faces:
        views[face.person.key][face.view] += 1
    twice = [f"{k}: {v}" for k, have in views.items() for v, times in have.items() if times > 1]
    found.report("warning", "views that a person has twice", twice)
    sets = Counter(frozenset(have) for have in views.values())
    usual, times = sets.most_common(1)[0] if sets else (frozenset(), 0)
    if 2 * times <= len(views):
        lines = [f"{len(sets)} different sets of views"] if sets else []
        return found.report("note", "people have different views", lines)
    lacking = {k: sorted(usual - set(have)) for k, have in views.items()}
    extra = {k: sorted(set(have) - usual) for k, have in views.items()}
    found.report(
        "warning", "missing views", (f"{k}: {', '.join(v)}" for k, v in lacking.items() if v)
    )
    found.report("warning", "extra views", (f"{k}: {', '.join(v)}" for k, v in extra.items() if v))


def code_of(face: Face) -> int | None:
    """The competition's class of a photo, 0 to 17; None where a part of it isn't known."""
    if not face.mask or not face.gender or face.age is None:
        return None
    return CODES.index((face.mask, face.gender, AGE_GROUPS[age_band(face.age)]))


def spelled_code(code: int) -> str:
    """A class as a person reads it."""
    return f"{code} ({' '.join(CODES[code])})"


def _count_labels(found: Inventory) -> None:
    """Report labels that aren't known, and classes that have no photo."""
    for title, lines in (
        ("people of unknown gender", [p.key for p in found.people if not p.gender]),
        ("people of unknown age", [p.key for p in found.people if p.age is None]),
        (
            "photos of unknown mask",
            [photo.name for photo in found.photos if photo.face and not photo.face.mask],
        ),
    ):
        found.report("note", title, lines)
    counts = Counter(map(code_of, found.faces))
    if set(counts) - {None}:
        absent = (spelled_code(code) for code in range(len(CODES)) if not counts[code])
        found.report("warning", "classes without a photo", absent)


def _compare_folds(found: Inventory, folds: int) -> None:
    """Report classes that a fold lacks; the folds are those of every training."""
    people = {face.person for face in found.faces}
    if not people:
        return
    try:
        assignment = assign_folds(people, folds)
    except UserError as error:
        return found.report("error", "too few people", [f"{error} (--folds)"])
    present: Mapping[int | None, set[int]] = defaultdict(set)
    for face in found.faces:
        present[code_of(face)].add(assignment[face.person.key])
    lines = []
    for code in sorted(set(present) - {None}):
        missing = sorted(set(range(folds)) - present[code])
        if missing:
            shown = ", ".join(map(str, missing))
            lines.append(f"class {spelled_code(code)} in fold {shown} of 0 to {folds - 1}")
    found.report("warning", "classes absent from a fold", lines)


def _take_eval(found: Inventory, folder: Path) -> None:
    """Add the photos to predict; report ids without one and those that no row names."""
    table = folder / "info.csv"
    images = folder / "images" if (folder / "images").is_dir() else folder
    folders, files = _entries(found, images)
    files, _ = sorted_out(images, files)
    names: Sequence[str] = ()
    try:
        names = read_table(table, ("ImageID",), exact=("ImageID",))["ImageID"].tolist()
        found.report("note", f"{found.name(table)} is read in spite of", _dialect(table))
        if not names:
            raise UserError(f"{table}: no rows")
    except UserError as error:
        found.report("error", "table that can't be used", [str(error).replace("\n", "; ")])
    finder = FileFinder(images)
    places = {n: None if leads_out(n) else finder.find(n) for n in dict.fromkeys(names)}
    there = {name: path for name, path in places.items() if path is not None and path.is_file()}
    absent = [name for name in places if name not in there]
    stems = {os.path.splitext(name)[0].lower(): name for name in files}
    hints = ((n, stems.get(os.path.splitext(n)[0].lower(), "")) for n in absent)
    lines = (f"{n or '(empty)'}{f' (there is {hint})' if hint else ''}" for n, hint in hints)
    found.report("error", f"ids of {found.name(table)} without a photo", lines)
    repeated = (f"{n}: {times} rows" for n, times in Counter(names).items() if times > 1)
    found.report("error", f"ids that stand twice in {found.name(table)}", repeated)
    used = set(there.values())
    extra = [name for name in files if images / name not in used]
    found.report("warning", f"photos that {found.name(table)} doesn't list", extra)
    found.photos += [AuditedPhoto(path, name, EVAL) for name, path in there.items()]
    found.photos += [AuditedPhoto(images / name, name, EVAL) for name in extra]


def border_ages(people: Iterable[Person]) -> dict[int, int]:
    """Count people of the ages beside a border between age groups: 29, 30, 59, 60."""
    ages = Counter(person.age for person in people if person.exact)
    return {border + side: ages[border + side] for border in AGE_BORDERS for side in (-1, 0)}
