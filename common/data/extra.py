"""Other data sets that a training sees beside its own; nobody in them is ever held out."""

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
    """The photos of an --extra folder, the keys of whose persons begin with its number.

    `twins`: who among these persons (`Person.human`) has a photo whose file is the same, byte by
    byte, as one of the training's own persons, whose keys the values are. `hash` is the table's.
    """

    folder: Path
    faces: Sequence[Face]
    twins: Mapping[str, Collection[str]]
    hash: str

    @property
    def people(self) -> set[Person]:
        return {face.person for face in self.faces}

    def only(self, faces: Iterable[Face]) -> "Extra":
        """The same folder with these of its faces."""
        return dataclasses.replace(self, faces=list(faces))

    def unseen(self, held_out: Collection[str]) -> list[Face]:
        """The photos that may be trained on where persons with these keys validate; says how many."""
        seen = {human for human, keys in self.twins.items() if not keys.isdisjoint(held_out)}
        kept = [face for face in self.faces if face.person.human not in seen]
        people = {face.person for face in kept}
        left = len(self.people) - len(people)
        reason = f" ({left:,} persons left out, who have the same photo as someone held out)"
        print(
            f"extra: {self.folder}: {len(people):,} persons, {len(kept):,} photos"
            f"{reason if left else ''}"
        )
        return kept


def table_hash(faces: Iterable[Face]) -> str:
    """A digest of the persons of a table; equal digests mean the same persons."""
    return split_hash({face.person.key: 0 for face in faces})


def read_extra(folders: Sequence[Path], data: Path, faces: Sequence[Face]) -> list[Extra]:
    """The photos of `folders`; `faces` are those of the folder `data`.

    UserError where a folder stands twice or is `data`.
    """
    places = {train_dir(data).resolve(): f"--data {data}"}
    found = []
    for number, folder in enumerate(folders, 1):
        place = train_dir(folder).resolve()
        if place in places:
            raise UserError(f"--extra {folder}: the same folder as {places[place]}")
        places[place] = f"--extra {folder}"
        own = read_faces(folder)
        theirs = [_numbered(face, number) for face in own]
        found.append(Extra(folder, theirs, same_files(theirs, faces), table_hash(own)))
    return found


def _numbered(face: Face, number: int) -> Face:
    """A key that no person of another table can have: theirs are names of folders."""
    person = dataclasses.replace(face.person, key=f"extra{number}/{face.person.key}")
    return dataclasses.replace(face, person=person)


def same_files(theirs: Sequence[Face], ours: Sequence[Face]) -> dict[str, set[str]]:
    """Who of `theirs` (`Person.human`) has the same file as whom of `ours` (keys).

    Only files of the same size are read.
    """
    sizes = {face.path: face.path.stat().st_size for face in (*theirs, *ours)}
    common = {sizes[face.path] for face in theirs} & {sizes[face.path] for face in ours}
    owners = defaultdict(set)
    for face in ours:
        if sizes[face.path] in common:
            owners[_digest(face.path)].add(face.person.key)
    found = defaultdict(set)
    for face in theirs:
        if sizes[face.path] in common and (keys := owners.get(_digest(face.path))):
            found[face.person.human] |= keys
    return dict(found)


def _digest(path: Path) -> bytes:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()
