"""Turns other data sets of faces into the layout that trainings read (common.data.layout).

    python -m common.tools.convert utkface UTKFace data/utk        names: age_gender_race_date.jpg
    python -m common.tools.convert fairface FairFace data/fair     tables: file, age range, gender
    python -m common.tools.convert adience Adience data/adi        tables: fold_0_data.txt, …
    python -m common.tools.convert csv faces.csv data/own --map path=file,age=years
    python -m common.tools.convert folders photos data/own         folders: wear, incorrect, not_wear

    DST/train/train.csv              gender,race,age,path,person; empty cells: not labelled
    DST/train/photos.csv             path,…: labels that differ between photos of a person, if any
    DST/train/images/{path}/{view}   the photos; photo, photo2: how the mask is worn isn't known
    DST/train/sources.csv            photo,source: where each photo comes from

Photos are hard links to those of SRC, which take no space and stay when SRC goes; where the file
system has none, or DST is on another one, and with --copy, they are copies. None is altered.

A person is who SRC says; where it says nothing, everyone is on one photo, and photos that look the
same (common.data.alike) are of one person; a line says so. Photos of a person that are labelled differently,
at two ages, say, get a row each: the column `person` keeps them on one side of every split.
"""

import argparse
import contextlib
import dataclasses
import functools
import os
import re
import sys
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from common.base.command import Parser, guarded
from common.base.errors import UserError, listed
from common.base.fields import between, explained
from common.base.files import check_free, link_or_copy, new_entries, write_table
from common.base.names import name_end
from common.base.progress import progress
from common.base.run_settings import default_cache, default_workers
from common.data.labels import AGE_GROUPS, OLDEST, age_band
from common.data.layout import MASKS, UNKNOWN_VIEW, Face, read_faces
from common.tools import sources
from common.tools.sources import LABEL_CLASSES, Labels, SourcePhoto, SourcePhotos

if TYPE_CHECKING:
    from common.data.alike import Thumbprint

LONGEST_FOLDER = 180  # bytes of a folder: gender, age and a number may follow, LONGEST is 255


NOBODY_NAMED = (
    "nothing tells who is on the photos: each counts as another person, unless two look the same "
    "(--person-from REGEX takes the person from the photos' names)"
)


class TrainRow(NamedTuple):
    """A row of train.csv."""

    gender: str
    race: str
    age: str
    path: str
    person: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conversion:
    """A data set and what becomes of it; the fields are the command line's flags."""

    source: Path
    target: Path
    read: Callable[[Path], SourcePhotos]
    """Reads the photos of `source`."""
    min_age: int
    bare: bool
    draw_masks: bool
    person_from: re.Pattern | None
    look_alikes: bool
    allow_bad: int
    copy: bool
    workers: int
    cache_dir: Path


def convert(to_do: Conversion) -> int:
    """Convert a data set; returns the exit status.

    Raises:
        UserError: DST isn't free, nothing can be used, or more than --allow-bad is bad.
    """
    target = to_do.target
    check_free([target], "give a new folder, or an empty one")
    found = to_do.read(to_do.source)
    old = [photo for photo in found.photos if of_age(photo, to_do.min_age)]
    named, unnamed = with_people(old, to_do.person_from)
    bad = found.bad + unnamed
    refuse(bad, to_do.allow_bad)  # before hours of reading photos
    photos, thumbprints, unreadable = read_thumbprints(named, to_do.workers)
    bad += unreadable
    refuse(bad, to_do.allow_bad)
    for where, reason in bad:
        print(f"left out: {where}: {reason}", file=sys.stderr)
    if not photos:
        raise UserError(f"{to_do.source}: no photo is left to convert")
    people = humans(photos, thumbprints, alike=to_do.look_alikes)
    rows = layout_rows(people, MASKS[-1] if to_do.bare or to_do.draw_masks else "")
    linked = write(target, rows, copy=to_do.copy)
    if to_do.draw_masks:
        draw_masks(target, to_do.cache_dir, to_do.workers)
    counts = count_labels(read_faces(target))
    print("\n".join(summary_lines(target, len(people), counts, linked=linked)))
    if not any(photo.person for photo in photos):
        print(NOBODY_NAMED)
    if several := len({row.person for row in rows} - {""}):
        print(f"{several:,} people have photos with different labels: a row each in train.csv")
    if bad:
        print(f"left out: {len(bad):,} files or rows that can't be used")
    if young := len(found.photos) - len(old):
        print(f"left out: {young:,} photos of people who may be under {to_do.min_age}")
    for line in (*straddling(photos), *next_commands(target, counts)):
        print(line)
    return 0


def draw_masks(target: Path, cache_dir: Path, workers: int) -> None:
    """Draw masked views beside the bare photos of a converted data set, and print how many."""
    from common.tools.draw_masks import add_views

    print(add_views(target, seed=0, cache_dir=cache_dir, workers=workers).described())


def of_age(photo: SourcePhoto, least: int) -> bool:
    """Return False if the person may be younger than `least`."""
    return photo.years is None or photo.years.first >= least


def with_people(
    photos: Sequence[SourcePhoto], pattern: re.Pattern | None
) -> tuple[list[SourcePhoto], list[tuple[str, str]]]:
    """Name the person on each photo by the part of its name that `pattern` matches.

    Returns the photos, and those whose name doesn't match, each with the reason.
    """
    if pattern is None:
        return list(photos), []
    named, bad = [], []
    for photo in photos:
        found = pattern.search(photo.name)
        person = found[found.re.groups and 1] if found else None
        if person:
            named.append(dataclasses.replace(photo, person=person))
        else:
            bad.append((photo.name, f"--person-from {pattern.pattern} finds nobody in the name"))
    return named, bad


def read_thumbprints(
    photos: Sequence[SourcePhoto], workers: int
) -> tuple[list[SourcePhoto], list["Thumbprint"], list[tuple[str, str]]]:
    """Open every photo; returns those that can be read, their thumbprints, and the others."""
    from common.data.alike import looks

    usable, thumbprints, bad = [], [], []
    with progress(len(photos), "read", "photos") as bar:
        for photo, look in zip(photos, looks([p.path for p in photos], workers), strict=True):
            bar.update()
            if isinstance(look, str):
                bad.append((photo.name, look))
            else:
                usable.append(photo)
                thumbprints.append(look)
    return usable, thumbprints, bad


def refuse(bad: Sequence[tuple[str, str]], allowed: int) -> None:
    """Check, before anything is written, that no more files and rows are bad than are allowed.

    Raises:
        UserError: more are.
    """
    if len(bad) > allowed:
        lines = [f"{where}: {reason}" for where, reason in bad]
        raise UserError(
            f"{len(bad)} files or rows can't be used and {allowed} are allowed (--allow-bad "
            f"{len(bad)} goes on without them); nothing was written\n{listed(lines, limit=1000)}"
        )


def humans(
    photos: Sequence[SourcePhoto], looks: Sequence["Thumbprint"], *, alike: bool
) -> dict[str, list[SourcePhoto]]:
    """Person → photos, sorted by name: whom SRC names, else those who look the same, else one each.

    Photos on which nobody is named are compared with one another only.
    """
    from common.data.alike import same_looks

    order = sorted(range(len(photos)), key=lambda i: photos[i].name)
    photos, looks = [photos[i] for i in order], [looks[i] for i in order]
    firsts = [photo.person or photo.name for photo in photos]
    if alike:
        nameless = [i for i, photo in enumerate(photos) if not photo.person]
        for i, first in zip(nameless, same_looks([looks[i] for i in nameless]), strict=True):
            firsts[i] = photos[nameless[first]].name
    found: dict[str, list[SourcePhoto]] = defaultdict(list)
    for first, photo in zip(firsts, photos, strict=True):
        found[first].append(photo)
    return found


def layout_rows(
    people: Mapping[str, Sequence[SourcePhoto]], bare: str
) -> dict[TrainRow, dict[str, SourcePhoto]]:
    """train.csv's rows, each with its photos by view; `bare` is the view where none is known.

    A person whose photos are labelled differently has several.
    """
    taken: set[str] = set()
    people_taken: set[str] = set()
    rows: dict[TrainRow, dict[str, SourcePhoto]] = {}
    for human, photos in people.items():
        groups: dict[tuple[str, str, str], list[SourcePhoto]] = defaultdict(list)
        for photo in photos:
            groups[photo.labels.gender, photo.labels.age, photo.race].append(photo)
        stem = os.path.splitext(human)[0] if human == photos[0].name else human
        name = free_name(stem, people_taken)
        for (gender, age, race), own in sorted(groups.items()):
            path = free_name(f"{name}_{gender}_{age}" if len(groups) > 1 else name, taken)
            row = TrainRow(gender, race, age, path, name if len(groups) > 1 else "")
            rows[row] = name_views(own, bare)
    return rows


def safe_folder(text: str) -> str:
    """`text` as the name of a folder on any system, at most LONGEST_FOLDER bytes long."""
    plain = re.sub(r"[^\w+-]+", "_", unicodedata.normalize("NFC", text))
    return name_end(plain, LONGEST_FOLDER) or "_"


def free_name(text: str, taken: set[str]) -> str:
    """`text` as a folder's name, numbered where it is `taken`; systems may ignore case."""
    name, number = safe_folder(text), 1
    while (free := name if number == 1 else f"{name}-{number}").lower() in taken:
        number += 1
    taken.add(free.lower())
    return free


def name_views(photos: Iterable[SourcePhoto], bare: str) -> dict[str, SourcePhoto]:
    """A person's photos by view: mask1, mask2, incorrect_mask, normal, normal2, photo, …"""
    found: dict[str, SourcePhoto] = {}
    counts: Counter[str] = Counter()
    for photo in photos:
        word = photo.labels.mask or bare or UNKNOWN_VIEW
        counts[word] += 1
        number = str(counts[word]) if word == MASKS[0] or counts[word] > 1 else ""
        found[f"{word}{number}"] = photo
    return found


def write(target: Path, rows: Mapping[TrainRow, Mapping[str, SourcePhoto]], *, copy: bool) -> bool:
    """Write DST/train whole or not at all; returns True if all photos are hard links."""
    made = not target.exists()
    linked = not copy
    try:
        target.mkdir(parents=True, exist_ok=True)
        with new_entries(target, ["train"]) as fresh:
            of_people, of_photos = label_columns(rows)
            table = (
                (*row, *(next(iter(photos.values())).columns.get(name, "") for name in of_people))
                for row, photos in rows.items()
            )
            write_table(fresh / "train" / "train.csv", (*TrainRow._fields, *of_people), table)
            origins, labels = [], []
            with progress(len(rows), "copy" if copy else "link", "people") as bar:
                for row, photos in rows.items():
                    folder = fresh / "train" / "images" / row.path
                    folder.mkdir(parents=True)
                    for view, photo in photos.items():
                        name = f"{view}{suffix(photo.path)}"
                        linked &= link_or_copy(photo.path, folder / name, copy=copy)
                        origins.append((f"{row.path}/{name}", utf8_path(photo.path.absolute())))
                        cells = (photo.columns.get(column, "") for column in of_photos)
                        labels.append((f"{row.path}/{name}", *cells))
                    bar.update()
            write_table(fresh / "train" / "sources.csv", ("photo", "source"), origins)
            if of_photos:
                write_table(fresh / "train" / "photos.csv", ("path", *of_photos), labels)
    except BaseException:
        if made:
            with contextlib.suppress(OSError):
                target.rmdir()
        raise
    return linked


def suffix(photo: Path) -> str:
    """The end of the photo's name, "" where it is none that other programs know."""
    end = photo.suffix.lower()
    return end if re.fullmatch(r"\.[a-z0-9]{1,8}", end) else ""


def label_columns(
    rows: Mapping[TrainRow, Mapping[str, SourcePhoto]],
) -> tuple[list[str], list[str]]:
    """Split the columns that SRC has beside ours: those of people, and those of photos.

    A column belongs to people if no row of train.csv has photos with different cells.
    """
    names = dict.fromkeys(
        name for photos in rows.values() for photo in photos.values() for name in photo.columns
    )
    people = [
        name
        for name in names
        if all(
            len({p.columns.get(name, "") for p in photos.values()}) == 1 for photos in rows.values()
        )
    ]
    return people, [name for name in names if name not in people]


def utf8_path(path: Path) -> str:
    """`path` as UTF-8 text: the names of files needn't be."""
    return str(path).encode(errors="backslashreplace").decode()


def count_labels(faces: Iterable[Face]) -> Labels:
    """For each label how many photos have which class, "" where it isn't known."""
    labels = (
        Labels(face.mask, face.gender, "" if face.age is None else AGE_GROUPS[age_band(face.age)])
        for face in faces
    )
    return Labels(*map(Counter, zip(*labels, strict=True)))


def summary_lines(target: Path, people: int, counts: Labels, *, linked: bool) -> list[str]:
    """Describe what was written: people, photos, and the number of photos of each class."""
    photos = sum(counts.mask.values())
    how = "SRC's are hard links" if linked else "SRC's are copies"
    lines = [f"{target / 'train'}: {people:,} people, {photos:,} photos ({how})"]
    for name, classes, of in zip(Labels._fields, LABEL_CLASSES, counts, strict=True):
        shown = {one: of[one] for one in classes if any(of[c] for c in classes)}
        shown |= {"not known": of[""]} if of[""] else {}
        lines.append(f"  {name:<8}{', '.join(f'{one} {n:,}' for one, n in shown.items())}")
    return lines


def straddling(photos: Iterable[SourcePhoto]) -> list[str]:
    """A line for each range of ages that no group holds."""
    ranges = Counter(str(p.years) for p in photos if p.years is not None and not p.years.cell)
    return [
        f"left out: the age of {n:,} photos: {years} is not within {', '.join(AGE_GROUPS)}"
        for years, n in sorted(ranges.items())
    ]


def next_commands(target: Path, counts: Labels) -> list[str]:
    """List commands to run next: a training for each label with every class, and what others lack."""
    ready, lacking = [], []
    for name, classes, of in zip(Labels._fields, LABEL_CLASSES, counts, strict=True):
        empty = [one for one in classes if not of[one]]
        if not empty:
            ready.append(f"  python -m {name}.train --data {target}")
        elif len(empty) < len(classes):
            lacking.append(
                f"{name}: no photo is {', '.join(empty)}; to be trained on beside others only: "
                f"python -m {name}.train --data OTHERS --extra {target}"
            )
    return (["next:", *ready] if ready else []) + lacking


def regex(text: str) -> re.Pattern:
    """Compile a regular expression; ValueError for none."""
    try:
        return re.compile(text)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from None


_ALIASES = (f"    {name:<16}{', '.join(words)}" for name, words in sources.ALIASES.items())
WORDS = "\n".join(
    (
        "Words for the classes, in any spelling (WithMask, with_mask):",
        *_ALIASES,
        "    years           25, 48.0, 20-29, (25, 32), 20s, 20대, 60+, more than 70, <30, under_30",
        "    not known       an empty cell, None, nan, N/A, u, unknown, -",
    )
)
UTKFACE_HELP = """Photos called age_gender_race_date.jpg (gender 0 male, 1 female), at any depth of SRC: UTKFace's own
and its chips."""
FAIRFACE_HELP = """SRC is one of FairFace's tables (file, age, gender, race), or the folder that holds them; their
photos' paths start there. Ages are ranges, so that train.csv has age groups."""
CSV = """SRC is a table with a row a photo: path, and one or more of mask, gender, age, race, person."""
FOLDERS = (
    "The folders in SRC are called as the classes of one task; photos lie at any depth in them."
)
ADIENCE = """SRC is the folder with Adience's fold_0_data.txt to fold_4_data.txt and faces/ or aligned/. The
photos of one user count as one person's."""


def build_parser() -> argparse.ArgumentParser:
    """The parser of `python -m common.tools.convert`."""
    name = "python -m common.tools.convert"
    parser = Parser(
        prog=name,
        usage=f"{name} LAYOUT SRC DST [flags]",
        description=__doc__,
        epilog=f"{name} LAYOUT --help lists the flags of one",
    )
    kinds = parser.add_subparsers(
        prog=name, metavar="LAYOUT", title="layouts", required=True, dest="layout"
    )
    kind = kinds.add_parser("utkface", help="photos whose names say all", description=UTKFACE_HELP)
    add_layout_flags(kind, sources.read_utkface)
    for layout, text, read, words in (
        ("fairface", "tables of ranges of years", sources.read_fairface, FAIRFACE_HELP),
        ("adience", "tables of users' albums", sources.read_adience, ADIENCE),
        ("folders", "a folder a class", sources.read_folders, FOLDERS),
        ("csv", "any table of photos", sources.read_csv, CSV),
    ):
        kind = kinds.add_parser(layout, help=text, description=words, epilog=WORDS)
        if read is sources.read_csv:
            add_table_flags(kind)
        add_words(kind)
        add_layout_flags(kind, read)
    return parser


def add_table_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that say how a table is to be read."""
    group = parser.add_argument_group("the table")
    group.add_argument(
        "--map",
        metavar="OURS=THEIRS,…",
        type=explained(sources.parse_columns),
        default=sources.Columns(),
        help=f"what the table calls its columns {', '.join(sources.READ_COLUMNS)}, such as "
        "path=file,age=years (default: the same)",
    )
    group.add_argument(
        "--photos", metavar="DIR", type=Path, help="where its paths start (default: SRC's folder)"
    )


def add_words(parser: argparse.ArgumentParser) -> None:
    """The flag that says what cells or names of folders mean."""
    parser.add_argument_group("words").add_argument(
        "--words",
        metavar="WORD=CLASS,…",
        type=explained(sources.parse_words),
        default=sources.NO_WORDS,
        help="what words mean, such as 0=male,1=female,old=60+ (default: the words below)",
    )


def add_layout_flags(parser: argparse.ArgumentParser, read: Callable[..., SourcePhotos]) -> None:
    """Add the flags of every layout, whose photos `read` reads."""
    parser.usage = "%(prog)s SRC DST [flags]"
    parser.set_defaults(read=read)
    add = parser.add_argument
    add("source", metavar="SRC", type=Path, help="what to convert; stays as it is")
    add("target", metavar="DST", type=Path, help="a new or empty folder, which receives train/")
    add_selection(parser.add_argument_group("what to convert"))
    add = parser.add_argument_group("how").add_argument
    add("--copy", action="store_true", help="copy photos, instead of linking them")
    add(
        "--workers",
        metavar="N",
        type=explained(between(0, 256, int)),
        default=default_workers(),
        help="processes that read photos",
    )
    add(
        "--cache-dir",
        metavar="DIR",
        type=Path,
        default=default_cache(),
        help="folder for the faces that --draw-masks finds",
    )


def add_selection(group: argparse._ArgumentGroup) -> None:
    """Add the flags that say which photos are converted, and as whose."""
    add = group.add_argument
    add(
        "--min-age",
        metavar="YEARS",
        type=explained(between(0, OLDEST, int)),
        default=0,
        help="leave out photos of people who may be younger",
    )
    add("--bare", action="store_true", help="where nothing says otherwise, nobody wears a mask")
    add(
        "--draw-masks",
        action="store_true",
        help="--bare, and masks are drawn on these photos (common.tools.draw_masks)",
    )
    add(
        "--person-from",
        metavar="REGEX",
        type=explained(regex),
        help="the part of a photo's path in SRC that says who it is: a group, or all that matches",
    )
    add(
        "--look-alikes",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="photos that look the same are of one person, unless SRC says who is on them",
    )
    add(
        "--allow-bad",
        metavar="N",
        type=explained(between(0, 10**9, int)),
        default=0,
        help="go on without up to N files or rows that can't be used",
    )


def parse_conversion(arguments: Sequence[str] | None) -> Conversion:
    """Parse the command line."""
    given = vars(build_parser().parse_args(arguments))
    table = {"words": given.pop("words")} if "words" in given else {}
    if given.pop("layout") == "csv":
        folder = given.pop("photos") or given["source"].parent
        table |= {"folder": folder, "columns": given.pop("map")}
    given["read"] = functools.partial(given["read"], **table)
    return Conversion(**given)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status is 2 after a user's mistake."""
    return guarded(lambda: convert(parse_conversion(arguments)))


if __name__ == "__main__":
    sys.exit(main())
