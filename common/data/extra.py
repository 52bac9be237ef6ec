"""Additional data sets for training; none of their people are held out."""

import dataclasses
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from common.base.errors import UserError, counted
from common.base.files import sha256
from common.data.alike import same_between
from common.data.layout import Face, Person, read_faces, train_dir
from common.data.split import split_hash


@dataclasses.dataclass(frozen=True)
class Extra:
    """Faces of one --extra data set; person keys are prefixed with extra{n}/.

    `twins` maps each of these people (`Person.human`) who has a photo in common with people of --data,
    be it saved anew or resized, to the keys of the latter. `hash` is the `table_hash` of the data set.
    With `pseudo` the photos have pseudo-labels and name nobody: each has a person of its own.
    """

    folder: Path
    faces: Sequence[Face]
    twins: Mapping[str, Collection[str]]
    hash: str
    pseudo: bool = False

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
        left, photos = len(self.people) - len(people), counted(len(kept), "photo")
        if self.pseudo:
            line = f"pseudo-labels: {self.folder}: {photos}"
            reason = f"{left:,} left out, which show"
        else:
            line = f"extra: {self.folder}: {len(people):,} people, {photos}"
            reason = f"{left:,} people left out, who have the same photo as"
        print(f"{line} ({reason} someone held out)" if left else line)
        return kept


def table_hash(faces: Iterable[Face]) -> str:
    """Digest of the people of a table; equal digests mean the same people."""
    return split_hash({face.person.key: 0 for face in faces})


def read_extra(
    folders: Sequence[Path], data: Path, faces: Sequence[Face], workers: int = 0
) -> list[Extra]:
    """Read the data sets in `folders`; `faces` are those of the folder `data`.

    Photos are compared in `workers` loader processes.

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
        twins = same_photos(theirs, faces, workers)
        extras.append(Extra(folder, theirs, twins, table_hash(own)))
    return extras


def _numbered(face: Face, number: int) -> Face:
    """Prefix the person's key, so that no person of another table can have it."""
    person = dataclasses.replace(face.person, key=f"extra{number}/{face.person.key}")
    return dataclasses.replace(face, person=person)


def same_photos(theirs: Sequence[Face], ours: Sequence[Face], workers: int) -> dict[str, set[str]]:
    """Map people of `theirs` (`Person.human`) to the keys of people of `ours` with the same photo.

    Photos are the same if they look so, or have the same bytes (a photo of one gray looks like none).
    """
    owners, humans = defaultdict(set), defaultdict(set)
    for face in ours:
        owners[face.path].add(face.person.key)
    for face in theirs:
        humans[face.path].add(face.person.human)
    twins = defaultdict(set)
    pairs = same_files(list(owners), list(humans)) + same_between(
        list(owners), list(humans), workers
    )
    for our, their in pairs:
        for human in humans[their]:
            twins[human] |= owners[our]
    return dict(twins)


def same_files(ours: Collection[Path], theirs: Collection[Path]) -> list[tuple[Path, Path]]:
    """Pairs of a file of `ours` and one of `theirs` of the same bytes; only equal sizes are read."""
    sizes = {path: path.stat().st_size for path in (*ours, *theirs)}
    common = {sizes[path] for path in ours} & {sizes[path] for path in theirs}
    known = defaultdict(list)
    for path in ours:
        if sizes[path] in common:
            known[sha256(path)].append(path)
    return [
        (our, path)
        for path in theirs
        if sizes[path] in common
        for our in known.get(sha256(path), ())
    ]
