"""Write mixed people to train on, each a mixture of two real ones.

    python -m common.tools.mixup data --who "male 30-39, 60+" --copies 1

    DIR/train/mixed/mixed.csv            id,gender,race,age,path,parent_a,parent_b,weight
    DIR/train/mixed/images/{path}/{view}.jpg

A photo is the pixel-wise mean of the same view of two people of one gender and age band: mixup
(Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization") in advance, as source S4 did it,
and within a class, so that labels need no mixing. The paper draws the weight from a Beta
distribution, whose mass lies near 0 and 1. A mixture that is almost a real person adds nothing, so
the weight here is uniform from 0.3 to 0.7.

The table, the photos and the split of the real people are not changed. A training uses a mixed
person only if it trains on both parents.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from common.base.command import Parser, guarded
from common.base.errors import UserError, listed
from common.base.fields import between, explained
from common.base.files import check_free, new_entries, write_table
from common.base.progress import progress
from common.data.layout import MIXED, Face, Person, read_faces, train_dir
from common.data.split import describe_stratum, stratum
from common.faces.decode import BadPhoto, decode, read_bytes

WEIGHTS = (0.3, 0.7)
MIXED_QUALITY = 95
_WHO = re.compile(r"(?:(male|female)\b)?\s*(?:([0-9]{1,3})(?:(\+)|-([0-9]{1,3}))?)?")

PhotosByView = Mapping[Person, Mapping[str, Path]]  # view → file, of each person
Stratum = tuple["Group", str, int]  # with gender and age band


@dataclasses.dataclass(frozen=True)
class Group:
    """Real people of a gender ("" for both), `first` to `last` years old; `text` as it was typed."""

    text: str
    gender: str
    first: int
    last: int

    def __contains__(self, person: Person) -> bool:
        right = self.gender in ("", person.gender)
        return right and self.first <= person.age <= self.last


class MixedRow(NamedTuple):
    """A row of mixed.csv; the race is empty where the parents' differ."""

    id: str
    gender: str
    race: str
    age: int
    path: str
    parent_a: str
    parent_b: str
    weight: float


@dataclasses.dataclass(frozen=True)
class Mixture:
    """A mixed person: `weight` × the photos of `a` + (1 − `weight`) × those of `b`."""

    id: str
    group: Group
    a: Person
    b: Person
    weight: float

    @property
    def age(self) -> int:
        """Weighted mean of the parents' years, rounded; it lies in their age band."""
        return round(self.weight * self.a.age + (1 - self.weight) * self.b.age)

    @property
    def path(self) -> str:
        return f"{self.id}_{self.a.gender}_{self.age}"

    def row(self) -> MixedRow:
        a, b = self.a, self.b
        race = a.race if a.race == b.race else ""
        return MixedRow(self.id, a.gender, race, self.age, self.path, a.key, b.key, self.weight)


def parse_who(text: str) -> tuple[Group, ...]:
    """Parse "male 30-39, 60+" into groups: a gender, years, or both.

    Raises:
        ValueError: a part is something else.
    """
    return tuple(_group(" ".join(part.split()).lower()) for part in text.split(","))


def _group(text: str) -> Group:
    found = _WHO.fullmatch(text)
    if not text or not found:
        raise ValueError(
            f"{text!r} is no group; expected male or female, years such as 30-39, 60+ or 18, or both"
        )
    gender, years, upwards, last = found.groups()
    first = int(years or 0)
    group = Group(text, gender or "", first, int(last or first) if years and not upwards else 120)
    if not first <= group.last <= 120:
        raise ValueError(f"{text!r}: years run upwards, to at most 120")
    return group


def cells(people: Iterable[Person], groups: Sequence[Group]) -> dict[Stratum, list[Person]]:
    """Sort people who may be mixed with each other into cells: group, gender and age band.

    The people of a cell are sorted by key. Someone who fits several groups counts in the first, and
    someone without a gender or an age in none.
    """
    found: dict[Stratum, list[Person]] = {}
    labelled = (person for person in people if person.gender and person.age is not None)
    for person in sorted(labelled, key=lambda person: person.key):
        group = next((group for group in groups if person in group), None)
        if group:
            found.setdefault((group, *stratum(person)), []).append(person)
    return found


def plan(photos: PhotosByView, groups: Sequence[Group], copies: int, seed: int) -> list[Mixture]:
    """Draw `copies` mixed people for each person of the groups who has a partner.

    A partner is another person of the cell with a view in common; none is drawn twice before all
    were drawn once. The result depends on the people and `seed`, not on their order.
    """
    rng = np.random.default_rng(seed)
    mixtures: list[Mixture] = []
    for (group, _, _), people in cells(photos, groups).items():
        for a in people:
            partners = [b for b in people if b is not a and _shared(photos, a, b)]
            if not partners:
                continue
            drawn = np.resize(rng.permutation(len(partners)), copies)
            weights = rng.uniform(*WEIGHTS, copies).round(4)
            for place, weight in zip(drawn, weights.tolist(), strict=True):
                identity = f"mix{len(mixtures) + 1:06d}"
                mixtures.append(Mixture(identity, group, a, partners[place], weight))
    return mixtures


def _shared(photos: PhotosByView, a: Person, b: Person) -> list[str]:
    return sorted(photos[a].keys() & photos[b].keys())


def mix(first: NDArray[np.uint8], second: NDArray[np.uint8], weight: float) -> NDArray[np.uint8]:
    """Blend two photos: `weight` × first + (1 − `weight`) × second, rounded.

    PhotosByView are (height, width, 3) uint8; the second is scaled to the size of the first.
    """
    height, width = first.shape[:2]
    if second.shape != first.shape:
        shrinks = height <= second.shape[0] and width <= second.shape[1]
        method = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
        second = cv2.resize(second, (width, height), interpolation=method)
    return cv2.addWeighted(first, weight, second, 1 - weight, 0)


def write_mixed(folder: Path, mixtures: Sequence[Mixture], photos: PhotosByView) -> int:
    """Write the table and the photos into `folder`; returns the number of photos.

    Raises:
        UserError: photos can't be read; lists all of them.
    """
    write_table(folder / f"{MIXED}.csv", MixedRow._fields, (mixture.row() for mixture in mixtures))
    count, bad = 0, {}
    with progress(len(mixtures), "mix", "people") as bar:
        for one in mixtures:
            images = folder / "images" / one.path
            images.mkdir(parents=True)
            for view in _shared(photos, one.a, one.b):
                paths = photos[one.a][view], photos[one.b][view]
                bad |= _write_mixed(images / f"{view}.jpg", paths, one.weight)
                count += 1
            bar.update()
    if bad:
        lines = listed((f"{path}: {reason}" for path, reason in sorted(bad.items())), limit=1000)
        raise UserError(f"{len(bad)} photos can't be used; nothing was written\n{lines}")
    return count


def _write_mixed(file: Path, paths: tuple[Path, Path], weight: float) -> dict[Path, str]:
    """Mix two photo files; returns the reason for each that can't be read."""
    bad, decoded = {}, []
    for path in paths:
        try:
            decoded.append(decode(read_bytes(path)))
        except BadPhoto as reason:
            bad[path] = str(reason)
    if not bad:
        mixed = mix(*decoded, weight)[..., ::-1]
        _, jpeg = cv2.imencode(".jpg", mixed, (cv2.IMWRITE_JPEG_QUALITY, MIXED_QUALITY))
        file.write_bytes(jpeg.tobytes())
    return bad


def by_view(faces: Iterable[Face]) -> PhotosByView:
    """The photos of each person by view."""
    photos: dict[Person, dict[str, Path]] = {}
    for face in faces:
        photos.setdefault(face.person, {})[face.view] = face.path
    return photos


def mix_people(
    directory: Path, who: Sequence[Group], copies: int, seed: int, overwrite: bool
) -> None:
    """Write train/mixed below `directory` and print what is in it.

    Raises:
        UserError: the folder exists and not `overwrite`, there is nobody to mix, or a photo can't be
            read.
    """
    home = train_dir(directory)
    if not overwrite:
        check_free([home / MIXED], "--overwrite replaces it")
    photos = by_view(read_faces(directory))
    mixtures = plan(photos, who, copies, seed)
    print("\n".join(summary(mixtures, photos, who)))
    if not mixtures:
        raise UserError("--who: no group has two people of one gender and age band to mix")
    with new_entries(home, [MIXED]) as fresh:
        count = write_mixed(fresh / MIXED, mixtures, photos)
    print(
        f"{home / MIXED}: {len(mixtures):,} mixed people, {count:,} photos; trainings use those whose "
        "parents are both trained on, --no-mixed leaves all out"
    )


def summary(
    mixtures: Sequence[Mixture], photos: PhotosByView, groups: Sequence[Group]
) -> list[str]:
    """Describe each group in a line, and each gender and age band with people who have no partner."""
    mixed, found = {one.a for one in mixtures}, cells(photos, groups)
    lines = []
    for group in groups:
        real = sum(len(people) for cell, people in found.items() if cell[0] == group)
        made = [one for one in mixtures if one.group == group]
        count = sum(len(_shared(photos, one.a, one.b)) for one in made)
        lines.append(f"{group.text}: {real:,} people → {len(made):,} mixed, {count:,} photos")
    for (group, gender, band), people in found.items():
        if alone := [person.key for person in people if person not in mixed]:
            who = describe_stratum(gender, band)
            lines.append(f"{group.text}: {who} has no other to mix with: {', '.join(alone)}")
    return lines


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m common.tools.mixup",
        description="Write mixed people to train on into DIR/train/mixed, each a mixture of two real\n"
        "ones of the same gender and age band.",
        epilog="example, source S4's groups:\n"
        '  python -m common.tools.mixup data --who "male 30-39, 60+" --copies 1',
    )
    add = parser.add_argument
    add("directory", metavar="DIR", type=Path, help="folder with train/train.csv and train/images")
    add(
        "--who",
        metavar="GROUPS",
        type=explained(parse_who),
        required=True,
        help="male or female, years such as 30-39, 60+ or 18, or both; several with commas",
    )
    add(
        "--copies",
        metavar="N",
        type=explained(between(1, 1000, int)),
        default=1,
        help="mixed people for each real one of the groups",
    )
    add(
        "--seed",
        metavar="S",
        type=explained(between(0, 2**63 - 1, int)),
        default=0,
        help="other partners, other weights",
    )
    add("--overwrite", action="store_true", help="replace DIR/train/mixed")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status is 2 after a user's mistake."""
    return guarded(lambda: mix_people(**vars(_parser().parse_args(arguments))))


if __name__ == "__main__":
    sys.exit(main())
