"""Draws masks on photos of bare faces: a data set of nine views a person from one.

    python -m common.tools.draw_masks faces data/drawn --sheet sheet.png

SRC is laid out as the competition's, with at least the photo `normal` of each person; a training
on DST then learns from these, from mask1 … mask5, worn rightly, from incorrect_mask and
incorrect_mask2, worn under the nose, on the chin or over the mouth only, and from normal2, a bare face
that a hand, a cup, a scarf or somebody's head hides in part:

    DST/train/train.csv                      the rows of people with such a photo
    DST/train/images/{path}/{view}.jpg       normal is the photo of SRC itself, linked

masks.py and occluders.py draw them. A mask model must learn nothing but the mask, so nothing else
may tell the views
apart: outside mask, straps and shadow the pixels are the bare photo's. As a JPEG photo is not
free of loss, its views are compressed once more, but with its own tables and sampling: what was
rounded once in blocks of 8 x 8 is then rounded to the same numbers, while in other tables, or as
PNG, every drawn view would show other traces of compression than any bare one. Other
formats than JPEG become PNG, which loses nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import hashlib
import io
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin

from common.base.command import Parser, guarded
from common.base.errors import UserError, listed, warn
from common.base.fields import between, explained
from common.base.files import (
    check_free,
    link_or_copy,
    new_entries,
    writable_file,
    write_table,
    write_whole,
)
from common.base.progress import progress
from common.base.run_settings import default_cache, default_workers
from common.data.layout import Face, Person, read_faces, train_dir
from common.faces.cache import Detections, usable_cache
from common.faces.crop import Detection
from common.faces.decode import READABLE, decode, read_bytes
from common.tools.demo.drawing import VIEWS, View
from common.tools.masks import WRONG, draw_mask
from common.tools.occluders import draw_occluder

BARE: View = "normal"
HIDDEN = "normal2"
DRAWN = (*(view for view in VIEWS if view != BARE), "incorrect_mask2", HIDDEN)
SHEET_ROWS, SHEET_HEIGHT = 12, 192  # people, and pixels of a photo


@dataclasses.dataclass(frozen=True)
class Added:
    """Result: numbers of `people` and `photos`; `without` holds (key, reason) of those left bare.

    `own` counts the people who had masked photos already and were left alone.
    """

    people: int
    photos: int
    without: tuple[tuple[str, str], ...]
    own: int

    def described(self) -> str:
        """Text for the user: who stays bare and why, and how much was drawn."""
        lines = []
        if self.without:
            lines += [f"people of whom nothing is drawn: {len(self.without)}"]
            lines += [listed(f"{key}: {reason}" for key, reason in self.without)]
        if self.own:
            lines += [f"{self.own:,} people have masked photos of their own and stay as they are"]
        return "\n".join([*lines, f"{self.photos:,} photos of {self.people:,} people drawn"])


def add_views(data: Path, *, seed: int, cache_dir: Path, workers: int) -> Added:
    """Draw the views DRAWN of each person of the data set who has only the bare one.

    `data` is in the competition's layout; views are written beside the bare photos. The same
    photo, key and `seed` give the same bytes, whoever else is there. Boxes and landmarks are kept in
    `cache_dir`; `workers` are processes.
    """
    from common.data.loading import Photos, in_batches

    views: dict[Person, list[Face]] = {}
    for face in read_faces(data):
        views.setdefault(face.person, []).append(face)
    bare = [faces[0] for faces in views.values() if [face.view for face in faces] == [BARE]]
    folder, warning = usable_cache(cache_dir)
    warn(warning)
    paths = [face.path for face in bare]
    draw = functools.partial(_draw_views, Detections(folder, "mtcnn"), seed)
    reasons: list[str] = []
    with progress(len(bare), "draw", "people") as bar:
        for batch in in_batches(Photos(paths, draw), workers=workers, batch_size=1):
            reasons += batch
            bar.update(len(batch))
    without = [(face.person.key, why) for face, why in zip(bare, reasons, strict=True) if why]
    drawn = len(bare) - len(without)
    return Added(drawn, drawn * len(DRAWN), tuple(without), len(views) - len(bare))


def _draw_views(detections: Detections, seed: int, photo: Path) -> str:
    """Write masked views beside a bare photo, whose folder is the person's key; returns "".

    Raises:
        BadPhoto: no masks can be drawn on it.
    """
    for view, (suffix, data) in masked(photo, photo.parent.name, seed, detections).items():
        write_whole(photo.with_name(view + suffix), data)
    return ""


def masked(path: Path, key: str, seed: int, detections: Detections) -> dict[str, tuple[str, bytes]]:
    """The views DRAWN of the bare photo at `path`: each one's suffix and file.

    `key` is the person's. BadPhoto where the photo can't be read or has no face that masks fit on.
    """
    source = read_bytes(path)
    photo, digest = decode(source), hashlib.sha256(source).hexdigest()
    detection = detections.cached(digest) or detections.detect(digest, photo)
    person = int.from_bytes(hashlib.sha256(key.encode(errors="surrogateescape")).digest()[:8])
    files = {}
    for number, view in enumerate(DRAWN):
        rng = np.random.default_rng((seed, person, number))
        files[view] = encoded(_drawn(view, photo, detection, rng), source)
    return files


def _drawn(
    view: str, photo: NDArray[np.uint8], detection: Detection, rng: np.random.Generator
) -> NDArray[np.uint8]:
    if view == HIDDEN:
        return draw_occluder(photo, detection, rng)
    wrong = view.startswith("incorrect_mask")
    wear = WRONG[rng.integers(len(WRONG))] if wrong else "right"
    return draw_mask(photo, detection, wear, rng)


def encoded(photo: NDArray[np.uint8], source: bytes) -> tuple[str, bytes]:
    """The suffix and file of (height, width, 3) uint8 RGB, compressed as the photo in `source` is."""
    file, image = io.BytesIO(), Image.fromarray(photo)
    with Image.open(io.BytesIO(source), formats=READABLE) as origin:
        if origin.format in ("JPEG", "MPO") and origin.mode in ("L", "RGB"):
            tables, sampling = origin.quantization, JpegImagePlugin.get_sampling(origin)
            image.convert(origin.mode).save(file, "JPEG", qtables=tables, subsampling=sampling)
            return ".jpg", file.getvalue()
    image.save(file, "PNG")
    return ".png", file.getvalue()


def draw_dataset(
    source: Path, target: Path, *, seed: int, cache_dir: Path, workers: int, overwrite: bool = False
) -> Added:
    """Write DIR/train below `target`: the bare photos of `source`, and their masked views.

    Raises:
        UserError: `source` has no bare photo, or `target` a data set, unless `overwrite`.
    """
    home = train_dir(source)
    if (target / "train").resolve() in (home.resolve(), *home.resolve().parents):
        raise UserError(f"{target}: that is where the bare photos are; give another folder")
    if not overwrite:
        check_free([target / "train"], "give a new folder or --overwrite")
    bare = [face for face in read_faces(source) if face.view == BARE]
    if not bare:
        raise UserError(f"{home / 'images'}: nobody has a photo called {BARE}")
    try:
        target.mkdir(parents=True, exist_ok=True)
        with new_entries(target, ["train"]) as fresh:
            _link(bare, fresh / "train")
            return add_views(fresh, seed=seed, cache_dir=cache_dir, workers=workers)
    except OSError as error:
        raise UserError(f"{target}: can't be written ({error.strerror or error})") from error


def _link(bare: Iterable[Face], home: Path) -> None:
    """Write train.csv and the bare photos below `home`: the same files where that is possible."""
    columns = [face.person.columns for face in bare]
    write_table(home / "train.csv", list(columns[0]), [list(row.values()) for row in columns])
    for face in bare:
        folder = home / "images" / face.person.key
        folder.mkdir(parents=True)
        link_or_copy(face.path, folder / face.path.name)


def contact_sheet(data: Path) -> NDArray[np.uint8]:
    """All views of some people of the data set, one in a row, (height, width, 3) uint8 RGB.

    Raises:
        UserError: nobody has all views.
    """
    views: dict[Person, dict[str, Path]] = {}
    for face in read_faces(data):
        views.setdefault(face.person, {})[face.view] = face.path
    whole = [photos for photos in views.values() if photos.keys() >= {BARE, *DRAWN}]
    if not whole:
        number = 1 + len(DRAWN)
        raise UserError(f"{data}: nobody has all {number} views, no picture of them is written")
    chosen = {place * len(whole) // SHEET_ROWS: None for place in range(SHEET_ROWS)}
    rows = [np.hstack([_cell(whole[place][view]) for view in (BARE, *DRAWN)]) for place in chosen]
    widest = max(row.shape[1] for row in rows)
    beyond = [(0, 0, 0, widest - row.shape[1]) for row in rows]
    pairs = zip(rows, beyond, strict=True)
    return np.vstack([cv2.copyMakeBorder(row, *b, cv2.BORDER_CONSTANT) for row, b in pairs])


def _cell(path: Path) -> NDArray[np.uint8]:
    photo = decode(read_bytes(path))
    width = max(1, round(photo.shape[1] * SHEET_HEIGHT / photo.shape[0]))
    return cv2.resize(photo, (width, SHEET_HEIGHT), interpolation=cv2.INTER_AREA)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m common.tools.draw_masks",
        description="Draw masks on photos of bare faces: DST gets each person's bare photo and\n"
        "eight views drawn from it, in the competition's layout.",
        epilog="example:\n  python -m common.tools.draw_masks faces data/drawn --sheet sheet.png",
    )
    add = parser.add_argument
    add(
        "source",
        metavar="SRC",
        type=Path,
        help="folder with train/train.csv and train/images/{path}/normal.jpg; masked photos there "
        "are not used",
    )
    add("target", metavar="DST", type=Path, help="folder that receives train/")
    add(
        "--seed",
        metavar="S",
        type=explained(between(0, 2**63 - 1, int)),
        default=0,
        help="other masks",
    )
    add(
        "--sheet",
        metavar="FILE",
        type=Path,
        help=f"write a picture (.png) of {SHEET_ROWS} people with all views, to look at",
    )
    add(
        "--workers",
        metavar="W",
        type=explained(between(0, 256, int)),
        default=default_workers(),
        help="processes that draw",
    )
    add(
        "--cache-dir",
        metavar="DIR",
        type=Path,
        default=default_cache(),
        help="folder for where faces were found",
    )
    add("--overwrite", action="store_true", help="replace DST/train")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status is 2 after a user's mistake."""
    return guarded(functools.partial(_command, **vars(_parser().parse_args(arguments))))


def _command(
    source: Path, target: Path, sheet: Path | None, *, overwrite: bool, **settings: object
) -> None:
    if sheet is not None:
        if sheet.suffix.lower() != ".png":
            raise UserError(f"--sheet {sheet}: give a name that ends in .png")
        writable_file(sheet, "picture")
        check_free([] if overwrite else [sheet], "give a new name or --overwrite")
    added = draw_dataset(source, target, overwrite=overwrite, **settings)
    print(added.described())
    if sheet is not None:
        picture = cv2.imencode(".png", contact_sheet(target)[..., ::-1])[1]
        write_whole(sheet, picture.tobytes())
        print(f"{sheet}: what they look like")
    people = added.people + len(added.without)
    print(f"{target / 'train'}: {added.photos + people:,} photos of {people:,} people")


if __name__ == "__main__":
    sys.exit(main())
