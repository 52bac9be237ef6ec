"""Answers for a photo, a folder or the eval set: a code a photo, or a row for every face."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from common.base.files import write_frame
from common.data.layout import find_input
from common.inference.annotate import draw_all
from common.inference.checks import check_pictures, check_written
from common.inference.decide import describe_decision
from common.inference.ensemble import check_face_crops
from common.inference.job import Job
from common.inference.predictions import Predictions
from common.inference.report.subjects import of_labels
from common.inference.submissions import read_labels
from common.inference.tables import (
    code_table,
    detail_table,
    face_table,
    print_classes,
    print_faces,
    print_found,
    print_one,
    print_summary,
    report_bad,
)


@dataclasses.dataclass(frozen=True)
class Photos:
    """What a job is asked about: photos' names and files; `single` is one that --input names.

    `table` is the file to write, or none; `drawings` are the photos' copies that --draw asks for,
    `maps` the pictures that --explain does.
    """

    names: Sequence[str]
    paths: Sequence[Path]
    single: bool
    table: Path | None
    drawings: Sequence[Path]
    maps: Sequence[Path]


def find_photos(job: Job, output: Path) -> Photos:
    """The photos that the flags name; UserError where something can't be read or written."""
    flags = job.arguments
    if flags.explain is not None:
        from common.inference.explain import check_explainable  # of the extra [explain]

        check_explainable(job.ensembles)
    names, paths, single = find_input(flags.input, flags.data, flags.allow_bad)
    table = flags.output if single else output
    check_written(flags, table)
    pictures = (check_pictures(flags, flag, names, paths) for flag in ("--draw", "--explain"))
    return Photos(names, paths, single, table, *pictures)


def answer(job: Job, output: Path) -> int:
    """A code for each photo; returns the exit status."""
    flags, codes = job.arguments, job.codes
    photos = find_photos(job, output)
    true = read_labels(flags.labels, photos.names, len(codes)) if flags.labels else None
    people = of_labels(flags.labels, photos.names) if flags.report else None
    answers, decision = job.ask(photos.paths)
    answered = codes.of(answers)
    if photos.single and 0 not in answers.bad:
        print_one(codes, photos.names[0], answers, decision)
    details = detail_table(photos.names, answers, codes.tasks)
    _write(job, photos, code_table(photos.names, answered), details)
    status = report_bad(photos.names, answers.bad, photos.table, flags.allow_bad)
    if not photos.single:
        print_summary(codes, answered, answers)
    if true is not None:
        from common.inference.submissions import print_score  # scikit-learn takes a second

        print_score(codes, true, answered)
    if people is not None:
        from common.inference.report.evaluation import Evaluation
        from common.inference.report.page import write_report  # imports matplotlib

        notes = [f"scored by {flags.labels}", describe_decision(decision, job.merged)]
        write_report(Evaluation(job, true, answers, people, photos.names, photos.paths, notes))
    _draw(job, photos, answers, len(answered))
    return status


def answer_faces(job: Job, output: Path) -> int:
    """A row for each face of each photo; returns the exit status."""
    check_face_crops(job.ensembles)
    photos = find_photos(job, output)
    answers, _ = job.ask(photos.paths)
    table = face_table(photos.names, answers, job.codes)
    if photos.single and not answers.bad:
        print_faces(table, job.codes)
    details = detail_table(table["ImageID"], answers, job.codes.tasks)
    details.insert(1, "face", table["face"])
    _write(job, photos, table, details)
    bad = answers.bad_photos()
    status = report_bad(photos.names, bad, photos.table, job.arguments.allow_bad)
    if not photos.single:
        print_found(answers, len(photos.names))
        print_classes(job.codes, job.codes.of(answers))
    _draw(job, photos, answers, len(table))
    return status


def _write(job: Job, photos: Photos, table: pd.DataFrame, details: pd.DataFrame) -> None:
    with job.stages("write"):
        if photos.table is not None:
            write_frame(photos.table, table)
        if job.arguments.probs is not None:
            write_frame(job.arguments.probs, details)


def _draw(job: Job, photos: Photos, answers: Predictions, rows: int) -> None:
    """Say where the table of `rows` lies, and write what --draw and --explain ask for."""
    if photos.table is not None:
        print(f"{rows:,} rows → {photos.table}")
    if photos.drawings:
        with job.stages("write"):
            number = draw_all(photos.drawings, photos.paths, answers, job.codes)
        print(f"{number:,} photos drawn → {job.arguments.draw}")
    if photos.maps:
        _explain(job, photos, answers)


def _explain(job: Job, photos: Photos, answers: Predictions) -> None:
    from common.inference.explain import explain_all  # of the extra [explain]

    flags = job.arguments
    with job.stages("explain"):
        number = explain_all(
            photos.maps, photos.paths, answers, job.ensembles, job.codes, cache_dir=flags.cache_dir,
            workers=flags.workers, every_face=flags.faces == "all",
        )  # fmt: skip
    print(f"{number:,} photos explained → {flags.explain}")
