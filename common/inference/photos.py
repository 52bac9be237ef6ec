"""Predictions for photos: a code for each photo, or a row for each face."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from common.base.errors import counted
from common.base.files import write_frame
from common.data.layout import find_input
from common.data.learned import learned, photo_digest
from common.inference.annotate import copies, draw_all
from common.inference.codes import Codes
from common.inference.decide import describe_decision
from common.inference.ensemble import all_models, check_face_crops
from common.inference.job import Job, check_output_files
from common.inference.json_lines import json_lines
from common.inference.predictions import Predictions
from common.inference.report.subjects import of_labels
from common.inference.submissions import read_labels
from common.inference.tables import (
    code_table,
    detail_table,
    face_table,
    print_classes,
    print_detected,
    print_faces,
    print_one,
    print_summary,
    report_bad,
    warn_turned,
)
from common.model.loaded import LoadedModel


@dataclasses.dataclass(frozen=True)
class PhotoList:
    """The photos to predict, and the files to write for them."""

    names: Sequence[str]
    paths: Sequence[Path]
    single: bool
    """True for a photo that --input names itself."""
    table: Path | None
    """The table to write, if any."""
    drawings: Sequence[Path]
    """A copy of each photo, if --draw asks for them."""
    explanations: Sequence[Path]
    """A picture for each photo, if --explain asks for them."""


def photos_to_predict(job: Job) -> PhotoList:
    """Find the photos, make the folders to write to, and check before any work that files can be.

    Raises:
        UserError: something can't be read or written.
    """
    options = job.options
    if options.explain is not None:
        from common.inference.explain import check_explainable  # of the extra [explain]

        check_explainable(job.ensembles)
    names, paths, single = find_input(options.input, options.data, options.allow_bad)
    table = options.output if single or options.json else options.output_file
    check_output_files(options, table)
    drawings, explanations = (
        copies(folder, names, paths, flag) if folder is not None else []
        for folder, flag in ((options.draw, "--draw"), (options.explain, "--explain"))
    )
    return PhotoList(names, paths, single, table, drawings, explanations)


def predict_photos(job: Job) -> int:
    """Predict a code for each photo; returns the exit status."""
    options, codes = job.options, job.codes
    photos = photos_to_predict(job)
    true = read_labels(options.labels, photos.names, len(codes)) if options.labels else None
    subjects = of_labels(options.labels, photos.names) if options.report else None
    predictions, decision = job.predictions(photos.paths)
    predicted = codes.of(predictions)
    if options.json:
        print_json(photos, predictions, codes)
    elif photos.single and 0 not in predictions.bad:
        print_one(codes, photos.names[0], predictions, decision)
    _write(job, photos, code_table(photos.names, predicted), predictions)
    status = report_bad(photos.names, predictions.bad, photos.table, options.allow_bad)
    warn_turned(photos.names, predictions)
    if not photos.single:
        print_summary(codes, predictions)
    if true is not None:
        from common.inference.submissions import print_score  # scikit-learn takes a second

        print_score(codes, true, predicted)
        print_trained_on(photos.paths, all_models(job.ensembles))
    if subjects is not None:
        from common.inference.report.evaluation import Evaluation
        from common.inference.report.page import write_report  # brings matplotlib

        notes = [f"scored by {options.labels}", describe_decision(decision, job.merged)]
        write_report(
            Evaluation(job, true, predictions, subjects, photos.names, photos.paths, notes)
        )
    _draw(job, photos, predictions, len(predicted))
    return status


def print_trained_on(paths: Sequence[Path], models: Sequence[LoadedModel]) -> None:
    """Print a note if a model learned from some of the photos that are scored."""
    seen = frozenset().union(*(learned(model.card) for model in models))
    number = sum(photo_digest(path) in seen for path in paths if path.is_file()) if seen else 0
    if number:
        print(
            f"note: {counted(number, 'photo')} of these trained a model, which flatters the score"
        )


def predict_faces(job: Job) -> int:
    """Predict a row for each face of each photo; returns the exit status."""
    check_face_crops(job.ensembles)
    photos = photos_to_predict(job)
    predictions, _ = job.predictions(photos.paths)
    table = face_table(photos.names, predictions, job.codes)
    if job.options.json:
        print_json(photos, predictions, job.codes)
    elif photos.single and not predictions.bad:
        print_faces(table, job.codes)
    _write(job, photos, table, predictions)
    status = report_bad(photos.names, predictions.bad_photos(), photos.table, job.options.allow_bad)
    if not photos.single:
        print_detected(predictions, len(photos.names))
        print_classes(job.codes, predictions)
    _draw(job, photos, predictions, len(table))
    return status


def print_json(photos: PhotoList, predictions: Predictions, codes: Codes) -> None:
    """Print a line of JSON for each photo to the process's stdout, which --json keeps for them."""
    for line in json_lines(photos.names, predictions, codes):
        print(line, file=sys.__stdout__, flush=True)


def _write(job: Job, photos: PhotoList, table: pd.DataFrame, predictions: Predictions) -> None:
    """Write the table of codes or faces, and the probabilities if --probs asks for them."""
    with job.stages("write"):
        if photos.table is not None:
            write_frame(photos.table, table)
        if job.options.probs is not None:
            details = detail_table(table["ImageID"], predictions, job.codes.tasks)
            if "face" in table:
                details.insert(1, "face", table["face"])
            write_frame(job.options.probs, details)


def _draw(job: Job, photos: PhotoList, predictions: Predictions, rows: int) -> None:
    """Print the path of the table of `rows`, and write what --draw and --explain ask for."""
    options = job.options
    if photos.table is not None:
        print(f"{counted(rows, 'row')} → {photos.table}")
    if photos.drawings:
        with job.stages("write"):
            number = draw_all(photos.drawings, photos.paths, predictions, job.codes)
        print(f"{counted(number, 'photo')} drawn → {options.draw}")
    if photos.explanations:
        from common.inference.explain import Explainer, explain_all  # of the extra [explain]

        explainer = Explainer(predictions, job.ensembles, job.codes)
        with job.stages("explain"):
            number = explain_all(photos.explanations, photos.paths, explainer, options.settings)
        print(f"{counted(number, 'photo')} explained → {options.explain}")
