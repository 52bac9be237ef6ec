"""Draws a data set of made-up people in the competition's layout.

    python -m common.tools.demo data/demo --people 200

    DIR/train/train.csv              id,gender,race,age,path
    DIR/train/images/{path}/{stem}.jpg      seven photos per person
    DIR/eval/info.csv                ImageID,ans (ans is the placeholder 0)
    DIR/eval/images/{40 hex}.jpg     other people, in no order
    DIR/eval_answers.csv             info.csv with the true codes

The same seed gives the same bytes, whatever the number of workers; person i of the training table
is the same person however many are drawn. people.py says who they are, drawing.py draws them.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from common.base.command import Parser, guarded
from common.base.errors import UserError
from common.base.files import check_free, new_entries, write_table
from common.base.progress import progress
from common.base.run_settings import available_cores
from common.data.layout import GENDERS, age_band
from common.tools.demo.drawing import VIEWS, View, draw_photo
from common.tools.demo.people import BAND_AGES, DrawnPerson, draw_person

TARGETS = ("train", "eval", "eval_answers.csv")  # train/, moved last, says that all are there
# Ids have six digits: the people of the test photos come from beyond them.
FIRST_EVAL_PERSON = 1_000_000
RACE = "Drawn"
JPEG_QUALITY = 92


def person_at(seed: int, index: int) -> DrawnPerson:
    """The person at `index`; gender and age band take turns, so every six people have all six."""
    gender = GENDERS[index % len(GENDERS)]
    band = index // len(GENDERS) % len(BAND_AGES)
    return draw_person(np.random.default_rng((seed, index)), gender, band)


def photo_at(person: DrawnPerson, seed: int, index: int, view: View) -> NDArray[np.uint8]:
    """The photo `view` of the person at `index`, uint8 RGB (512, 384, 3)."""
    return draw_photo(person, view, np.random.default_rng((seed, index, VIEWS.index(view))))


def drawn_code(person: DrawnPerson, view: View) -> int:
    """The competition's class of a photo, 0 to 17."""
    mask = {"incorrect_mask": 1, "normal": 2}.get(view, 0)
    return mask * 6 + GENDERS.index(person.gender) * 3 + age_band(person.age)


def eval_size(people: int, eval_people: int | None) -> int:
    """Number of people to predict: a quarter of `people`, at least six, unless it is given."""
    return max(6, people // 4) if eval_people is None else eval_people


def draw_dataset(
    directory: Path,
    people: int = 200,
    eval_people: int | None = None,
    seed: int = 0,
    workers: int | None = None,
    overwrite: bool = False,
) -> None:
    """Draw `people` people to train on and `eval_people` others to predict into `directory`.

    `eval_people` is a quarter of `people`, at least six, unless given; `workers` is the number of
    cores. With `overwrite`, train/, eval/ and eval_answers.csv make way for the new ones; nothing
    else in `directory` is touched, and nothing at all before every photo is drawn.

    Raises:
        UserError: a number is out of range, a data set is there already, or `directory` can't be
            written.
    """
    eval_people = eval_size(people, eval_people)
    workers = available_cores() if workers is None else workers
    _check_numbers(people, eval_people, seed, workers)
    try:
        if not overwrite:
            check_free((directory / name for name in TARGETS), "give a new folder or --overwrite")
        directory.mkdir(parents=True, exist_ok=True)
        with new_entries(directory, TARGETS) as fresh:
            jobs = _train_jobs(fresh, people, seed) + _eval_jobs(fresh, eval_people, seed)
            _run(jobs, workers)
    except OSError as error:
        raise UserError(f"{directory}: can't be written ({error.strerror or error})") from error


def _check_numbers(people: int, eval_people: int, seed: int, workers: int) -> None:
    for flag, number, low, high in (
        ("--people", people, 1, FIRST_EVAL_PERSON - 1),
        ("--eval-people", eval_people, 1, FIRST_EVAL_PERSON - 1),
        ("--seed", seed, 0, 2**63 - 1),
        ("--workers", workers, 1, 1024),
    ):
        if not low <= number <= high:
            raise UserError(f"{flag} {number}: give a number from {low} to {high}")


DrawJob = Callable[[], None]


def _train_jobs(root: Path, people: int, seed: int) -> list[DrawJob]:
    """Write train.csv; one job per person draws the photos."""
    rows, jobs = [], []
    for index in range(people):
        person = person_at(seed, index)
        identity = f"{index + 1:06d}"
        path = f"{identity}_{person.gender}_{RACE}_{person.age}"
        rows.append((identity, person.gender, RACE, person.age, path))
        names = {view: root / "train" / "images" / path / f"{view}.jpg" for view in VIEWS}
        jobs.append(
            lambda person=person, index=index, names=names: _draw(person, seed, index, names)
        )
    write_table(root / "train" / "train.csv", ("id", "gender", "race", "age", "path"), rows)
    return jobs


def _eval_jobs(root: Path, people: int, seed: int) -> list[DrawJob]:
    """Write info.csv and eval_answers.csv; one job per person draws the photos."""
    rows, jobs = [], []
    for index in range(FIRST_EVAL_PERSON, FIRST_EVAL_PERSON + people):
        person = person_at(seed, index)
        images = {view: _image_id(seed, index, view) for view in VIEWS}
        rows += [(image, drawn_code(person, view)) for view, image in images.items()]
        names = {view: root / "eval" / "images" / image for view, image in images.items()}
        jobs.append(
            lambda person=person, index=index, names=names: _draw(person, seed, index, names)
        )
    # Shuffled, not sorted by name, so that a submission with sorted rows scores badly.
    order = np.random.default_rng((seed, FIRST_EVAL_PERSON, people)).permutation(len(rows))
    shuffled = [rows[place] for place in order]
    header = ("ImageID", "ans")
    write_table(root / "eval" / "info.csv", header, [(image, 0) for image, _ in shuffled])
    write_table(root / "eval_answers.csv", header, shuffled)
    return jobs


def _image_id(seed: int, index: int, view: View) -> str:
    return hashlib.sha1(f"{seed} {index} {view}".encode()).hexdigest() + ".jpg"


def _draw(person: DrawnPerson, seed: int, index: int, names: dict[View, Path]) -> None:
    for view, path in names.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        photo = photo_at(person, seed, index, view)
        _, jpeg = cv2.imencode(".jpg", photo[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY))
        path.write_bytes(jpeg.tobytes())


def _run(jobs: Sequence[DrawJob], workers: int) -> None:
    """Run all jobs; threads suffice, as OpenCV and NumPy draw without the interpreter lock."""
    pool = ThreadPoolExecutor(workers)
    try:
        with progress(len(jobs), "draw", "people") as bar:
            for _ in pool.map(lambda job: job(), jobs):
                bar.update()
    finally:
        pool.shutdown(cancel_futures=True)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m common.tools.demo",
        description="Draw a data set of made-up people in the competition's layout.",
    )
    add = parser.add_argument
    add("directory", metavar="DIR", type=Path, help="folder that receives train/ and eval/")
    add("--people", metavar="N", type=int, default=200, help="people to train on")
    add("--eval-people", metavar="M", type=int, help="people to predict (N / 4, at least 6)")
    add("--seed", metavar="S", type=int, default=0, help="other people, other photos")
    add("--workers", metavar="W", type=int, help="threads that draw (one per core)")
    add("--overwrite", action="store_true", help="replace train/, eval/ and eval_answers.csv")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status is 2 after a user's mistake."""
    return guarded(lambda: _command(**vars(_parser().parse_args(arguments))))


def _command(directory: Path, *, people: int, eval_people: int | None, **settings: Any) -> int:
    # The workers are threads already; OpenCV's own beneath them only get in each other's way.
    cv2.setNumThreads(1)
    draw_dataset(directory, people=people, eval_people=eval_people, **settings)
    photos, others = len(VIEWS), eval_size(people, eval_people)
    print(
        f"{directory}: {people * photos} photos of {people} people in train/, {others * photos} of "
        f"{others} others in eval/, eval_answers.csv"
    )
    return 0
