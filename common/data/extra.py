"""Additional data sets for training; none of their people are held out."""

import dataclasses
import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from common.base.errors import UserError
from common.data.layout import Face, Person, read_faces, train_dir
from common.data.split import split_hash


@dataclasses.dataclass(frozen=True)
class Extra:
    """Faces of one --extra data set; person keys are prefixed with extra{n}/.

    `twins` maps each of these people (`Person.human`) who has a photo file in common with people of
    --data to the keys of the latter. `hash` is the `table_hash` of the data set.
    """

    folder: Path
    faces: Sequence[Face]
    twins: Mapping[str, Collection[str]]
    hash: str

    @property
    def people(self) -> set[Person]:
        """The people whose photos these are."""
        return {face.person for face in self.faces}

    def only(self, faces: Iterable[Face]) -> "Extra":
        """The same data set with only these of its faces."""
        return dataclasses.replace(self, faces=list(faces))

    def unseen(self, held_out: Collection[str]) -> list[Face]:
        """Faces to train on if the people with the keys `held_out` validate; prints their number.

        People who share a photo with someone held out are left out.
        """
        seen = {human for human, keys in self.twins.items() if not keys.isdisjoint(held_out)}
        kept = [face for face in self.faces if face.person.human not in seen]
        people = {face.person for face in kept}
        left = len(self.people) - len(people)
        reason = f" ({left:,} people left out, who have the same photo as someone held out)"
        print(
            f"extra: {self.folder}: {len(people):,} people, {len(kept):,} photos"
            f"{reason if left else ''}"
        )
        return kept


def table_hash(faces: Iterable[Face]) -> str:
    """Digest of the people of a table; equal digests mean the same people."""
    return split_hash({face.person.key: 0 for face in faces})


def read_extra(folders: Sequence[Path], data: Path, faces: Sequence[Face]) -> list[Extra]:
    """Read the data sets in `folders`; `faces` are those of the folder `data`.

    Raises:
        UserError: a folder is given twice or is `data`, or its data set is unusable.
    """
    places = {train_dir(data).resolve(): f"--data {data}"}
    extras = []
    for number, folder in enumerate(folders, 1):
        place = train_dir(folder).resolve()
        if place in places:
            raise UserError(f"--extra {folder}: the same folder as {places[place]}")
        places[place] = f"--extra {folder}"
        own = read_faces(folder)
        theirs = [_numbered(face, number) for face in own]
        extras.append(Extra(folder, theirs, same_files(theirs, faces), table_hash(own)))
    return extras


def _numbered(face: Face, number: int) -> Face:
    """Prefix the person's key, so that no person of another table can have it."""
    person = dataclasses.replace(face.person, key=f"extra{number}/{face.person.key}")
    return dataclasses.replace(face, person=person)


def same_files(theirs: Sequence[Face], ours: Sequence[Face]) -> dict[str, set[str]]:
    """Map people of `theirs` (`Person.human`) to the keys of people of `ours` with the same file.

    Only files of equal size are read.
    """
    sizes = {face.path: face.path.stat().st_size for face in (*theirs, *ours)}
    common = {sizes[face.path] for face in theirs} & {sizes[face.path] for face in ours}
    owners = defaultdict(set)
    for face in ours:
        if sizes[face.path] in common:
            owners[_digest(face.path)].add(face.person.key)
    twins = defaultdict(set)
    for face in theirs:
        if sizes[face.path] in common and (keys := owners.get(_digest(face.path))):
            twins[face.person.human] |= keys
    return dict(twins)


def _digest(path: Path) -> bytes:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()
