"""The report: scores with intervals, errors by group and age, and which models predicted."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.base.files import write_whole
from common.base.stages import duration
from common.data.layout import AGE_BORDERS
from common.data.loading import crop_all
from common.faces.crop import Cropped
from common.inference.ensemble import all_models
from common.inference.report import statistics
from common.inference.report.evaluation import Evaluation, Grouping, TaskPredictions
from common.inference.report.statistics import Bin, Gap, Interval, Proportion
from common.inference.report.subjects import Subjects
from common.inference.submissions import score_notes
from common.model.calibration import expected_calibration_error
from common.model.card import facts
from common.model.loaded import LoadedModel
from common.model.metrics import score
from common.render import figures
from common.render.page import render

TEMPLATE = Path(__file__).with_name("report.html")
ERRORS = 24  # shown for each task
ERRORS_PER_PERSON = 2
CONFUSIONS = 10  # listed, the most frequent
FACES = {True: "face detected", False: "centre crop", None: ""}
DISTANCES = ((1, 2), (3, 5), (6, 10), (11, 120))  # years from a border between age groups

LEAST_SURE = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)  # least probabilities

TableCell = str | tuple[str, str]  # a text, or a text and the range it lies in
# task → (height, width, 3) RGB, caption
CropsByTask = Mapping[str, Sequence[tuple[np.ndarray, str]]]


def write_report(evaluation: Evaluation) -> None:
    """Write the page into the folder that --report names, which exists, and print its path."""
    file = evaluation.job.options.report_file
    with evaluation.job.stages("report"):
        crops = {task.name: list(error_crops(evaluation, task)) for task in evaluation.tasks}
        write_whole(file, report_page(evaluation, crops).encode(errors="xmlcharrefreplace"))
    print(f"report → {file}")


def error_crops(evaluation: Evaluation, task: TaskPredictions) -> Iterator[tuple[np.ndarray, str]]:
    """Yield the input of a task's first model for its most confident errors, with captions."""
    probabilities = evaluation.predictions.probabilities[task.name]
    places = statistics.confident_errors(
        task.y_true,
        task.y_pred,
        probabilities,
        evaluation.subjects.people,
        limit=ERRORS,
        per_person=ERRORS_PER_PERSON,
    )
    spec = evaluation.job.ensembles[task.name].models[0].spec
    paths = [evaluation.paths[place] for place in places]
    cache = evaluation.job.options.cache_dir
    batches = crop_all(paths, [spec], cache, workers=0) if paths else ()
    crops = [crop for batch in batches for crop in batch]
    for place, crop in zip(places, crops, strict=True):
        if isinstance(crop, Cropped):  # otherwise the photo was removed since it was predicted
            label, predicted = task.y_true[place], task.y_pred[place]
            probability = probabilities[place, predicted]
            words = f"true {task.classes[label]}, predicted {task.classes[predicted]}"
            yield crop.images[0], f"{words} ({probability:.0%}): {evaluation.names[place]}"


def report_page(evaluation: Evaluation, crops: CropsByTask) -> str:
    """The whole page as HTML; `crops` are each task's most confident errors."""
    people = len(np.unique(evaluation.subjects.people))
    of = f" of {people:,} people" if evaluation.subjects.same_person else ""
    return render(
        TEMPLATE,
        title=f"Report on {len(evaluation.y_true):,} photos{of}",
        headline=_headline(evaluation),
        widest_gaps=list(_widest_gaps(evaluation)),
        notes=_notes(evaluation),
        scores=_scores(evaluation),
        confusions=_confusions(evaluation),
        classes=[(task.name, _class_rows(evaluation, task)) for task in evaluation.all],
        calibration=list(_calibration(evaluation)),
        thresholds=[f"{least:.0%}" for least in LEAST_SURE],
        sure=[_sure_row(evaluation, task) for task in evaluation.tasks],
        ages=_ages(evaluation),
        groups=_groups(evaluation),
        photo_kinds=list(_photo_kinds(evaluation)),
        crops=crops,
        per_person=ERRORS_PER_PERSON,
        wrong_header=["photos", "people", *(f"{task.name} wrong" for task in evaluation.tasks)],
        names=[task.name for task in evaluation.all],
        times=[(name, duration(s)) for name, s in evaluation.job.stages.seconds.items()],
        models=[_model(model) for model in all_models(evaluation.job.ensembles)],
        statistics=statistics,
    )


def _headline(evaluation: Evaluation) -> str:
    scores = evaluation.scores[evaluation.whole.name]
    f1, accuracy = scores.macro_f1, scores.accuracy
    return (
        f"{evaluation.whole.name} macro F1 {f1.value:.4f} ({_of_95(f1)}), "
        f"accuracy {accuracy.value:.4f} ({_of_95(accuracy)})"
    )


def _of_95(interval: Interval) -> str:
    if math.isnan(interval.low):
        return interval.text()
    return f"95%: {interval.low:.3f} to {interval.high:.3f}"


def _notes(evaluation: Evaluation) -> list[str]:
    whole = evaluation.whole
    notes = [*evaluation.notes, *score_notes(evaluation.job.codes, whole.y_true, whole.y_pred)]
    if not evaluation.subjects.same_person:
        notes.append(
            f"no column person or id in {evaluation.subjects.table}: each photo counts as one of "
            "another person; if a person has several, all intervals are too narrow"
        )
    return [f"{note[:1].upper()}{note[1:]}." for note in notes]


def _scores(evaluation: Evaluation) -> list[list[TableCell]]:
    return [
        [name, _number(scores.macro_f1), _number(scores.accuracy)]
        for name, scores in evaluation.scores.items()
    ]


def _confusions(evaluation: Evaluation) -> dict[str, Any]:
    """Figures of each task and of the codes, and the most frequent confusions of codes."""
    drawn = []
    for task in evaluation.tasks:
        title = f"confusion matrix of {task.name}"
        drawn.append(
            (figures.confusion(_matrix(task), task.classes, task.classes, title), task.name)
        )
    whole = evaluation.whole
    matrix = _matrix(whole)
    numbers = [str(code) for code in range(len(whole.classes))]
    rows = [f"{name}  {code}" for code, name in enumerate(whole.classes)]
    svg = figures.confusion(matrix, rows, numbers, f"confusion matrix of the {whole.name}")
    return {
        "tasks": drawn,
        "codes": [(svg, f"{whole.name}, at the bottom by number")],
        "frequent": list(_frequent(whole, matrix)),
    }


def _matrix(task: TaskPredictions) -> np.ndarray:
    return score(task.y_true, task.y_pred, len(task.classes)).confusion


def _frequent(task: TaskPredictions, matrix: np.ndarray) -> Iterator[list[TableCell]]:
    """Label, prediction and number of photos, the most frequent first."""
    wrong = matrix * (1 - np.eye(len(matrix), dtype=int))
    order = np.argsort(-wrong, axis=None, kind="stable")[:CONFUSIONS]
    support = np.bincount(task.y_true, minlength=len(task.classes))
    for label, predicted in zip(*np.unravel_index(order, wrong.shape), strict=True):
        number, of = wrong[label, predicted], support[label]
        if number:
            count = f"{number:,} of {of:,} ({number / of:.0%})"
            yield [task.classes[label], task.classes[predicted], count]


def _class_rows(evaluation: Evaluation, task: TaskPredictions) -> list[list[TableCell]]:
    people, f1 = evaluation.subjects.people, evaluation.scores[task.name].f1
    rows = []
    for place, name in enumerate(task.classes):
        labelled, predicted = task.y_true == place, task.y_pred == place
        recall: TableCell = "–"
        if labelled.any():
            recall = _percent(statistics.proportion(task.correct[labelled], people[labelled]))
        precision = f"{task.correct[predicted].mean():.1%}" if predicted.any() else "–"
        rows.append([name, f"{labelled.sum():,}", recall, precision, _number(f1[place])])
    return rows


def _calibration(evaluation: Evaluation) -> Iterator[dict[str, Any]]:
    """The reliability of each task's probabilities, as a figure and as rows of its bins."""
    for task in evaluation.tasks:
        probabilities = evaluation.predictions.probabilities[task.name]
        finite = np.isfinite(probabilities).all(axis=1)
        if finite.any():
            people, y_true = evaluation.subjects.people[finite], task.y_true[finite]
            bins = statistics.reliability_bins(probabilities[finite], y_true, people)
            error = expected_calibration_error(probabilities[finite], y_true)
            rows = [
                [f"{b.probability:.1%}", _percent(b.correct), f"{b.correct.photos:,}"] for b in bins
            ]
            yield {"task": task.name, "figure": _reliability(task.name, bins, error), "rows": rows}


def _reliability(task: str, bins: Sequence[Bin], error: float) -> tuple[str, str]:
    photos = sum(b.correct.photos for b in bins)
    excess = sum((b.probability - b.correct.value) * b.correct.photos for b in bins) / photos
    text = (
        f"{task}: expected calibration error {error:.3f}; probabilities {100 * abs(excess):.1f} "
        f"points too {'high' if excess > 0 else 'low'} on average"
    )
    points = [(b.probability, *b.correct.interval) for b in bins]
    return figures.reliability(points, text, ("highest probability", "correct")), text


def _sure_row(evaluation: Evaluation, task: TaskPredictions) -> list[TableCell]:
    """The part of a task's predictions above each of LEAST_SURE, and how often these are correct."""
    probabilities = evaluation.predictions.probabilities[task.name]
    own = probabilities[np.arange(len(task.y_pred)), task.y_pred]
    row: list[TableCell] = [task.name]
    for least in LEAST_SURE:
        kept = own >= least
        if not kept.any():
            row.append("–")
            continue
        correct = statistics.proportion(task.correct[kept], evaluation.subjects.people[kept])
        row.append((f"{correct.value:.1%}", f"of {kept.mean():.0%}"))
    return row


def _ages(evaluation: Evaluation) -> dict[str, Any] | None:
    """Errors by age in years and by distance from a border; None if no age is labelled."""
    subjects = evaluation.subjects
    labelled = ~np.isnan(subjects.years)
    if not labelled.any():
        return None
    oldest = AGE_BORDERS[-1]  # the competition's ages end here
    return {
        "photos": labelled.sum(),
        "clipped": oldest if np.nanmax(subjects.years) == oldest else None,
        "figures": [(_age_figure(task, subjects), task.name) for task in evaluation.tasks],
        "near_borders": list(_near_borders(evaluation)),
        "every_age": _wrong_rows(
            [
                statistics.proportions_by(subjects.years, ~task.correct, subjects.people)
                for task in evaluation.tasks
            ]
        ),
    }


def _age_figure(task: TaskPredictions, subjects: Subjects) -> str:
    each = statistics.proportions_by(subjects.years, ~task.correct, subjects.people)
    smoothed = statistics.smoothed_by_age(subjects.years, ~task.correct, subjects.people)
    return figures.band(
        [(age, *p.interval) for age, p in smoothed.items()],
        [(age, p.value) for age, p in each.items()],
        f"errors of {task.name} by age",
        ("true age in years", "wrong"),
        marks=[border - 0.5 for border in AGE_BORDERS],
    )


def _wrong_rows(tasks: Sequence[Mapping[float, Proportion]]) -> list[list[TableCell]]:
    return [
        [f"{age:.0f}", f"{p.photos:,}", f"{p.people:,}", *(_percent(task[age]) for task in tasks)]
        for age, p in tasks[0].items()
    ]


def _near_borders(evaluation: Evaluation) -> Iterator[list[TableCell]]:
    """Errors by the distance from the nearest border between age groups."""
    away = statistics.years_to_border(evaluation.subjects.years)
    people = evaluation.subjects.people
    for first, last in DISTANCES:
        near = (away >= first) & (away <= last)
        if near.any():
            wrong = [
                statistics.proportion(~t.correct[near], people[near]) for t in evaluation.tasks
            ]
            name = f"{first} to {last}" if last < DISTANCES[-1][1] else f"{first} and more"
            yield [name, f"{wrong[0].photos:,}", f"{wrong[0].people:,}", *map(_percent, wrong)]


def _groups(evaluation: Evaluation) -> dict[str, Any]:
    """Accuracy by group of people: gaps in words, figures and rows of each grouping."""
    subjects, people = evaluation.subjects, evaluation.subjects.people
    groupings = []
    for grouping in evaluation.groupings:
        by_task = {task.name: grouping.proportions(task, people) for task in evaluation.all}
        gaps = (_gap_verdict(evaluation, task, grouping) for task in evaluation.all)
        groupings.append(
            {
                "title": grouping.title,
                "gaps": [gap for gap in gaps if gap],
                "figures": [
                    (_group_figure(task, by_task[task.name], grouping.title), task.name)
                    for task in evaluation.all
                ],
                "rows": _correct_rows(by_task),
            }
        )
    return {
        "races": np.unique(subjects.races[subjects.races != ""]).tolist(),
        "table": subjects.table,
        "groupings": groupings,
    }


def _group_figure(task: TaskPredictions, groups: Mapping[str, Proportion], title: str) -> str:
    spans = {f"{name} ({p.photos:,})": p.interval for name, p in groups.items()}
    return figures.intervals(
        spans, f"{task.name}: correct by {title}", "correct", mark=task.correct.mean()
    )


def _correct_rows(by_task: Mapping[str, Mapping[str, Proportion]]) -> list[list[TableCell]]:
    first = next(iter(by_task.values()))
    return [
        [name, f"{p.photos:,}", f"{p.people:,}", *(_percent(t[name]) for t in by_task.values())]
        for name, p in first.items()
    ]


def _widest_gaps(evaluation: Evaluation) -> Iterator[tuple[str, str]]:
    """Yield the widest gap of each grouping over the codes and tasks, in words, and its level."""
    people = evaluation.subjects.people
    for grouping in evaluation.groupings:
        gaps = [
            (gaps[0].difference.value, task)
            for task in evaluation.all
            if (gaps := statistics.gaps(grouping.proportions(task, people)))
        ]
        if gaps:
            task = max(gaps, key=lambda gap: gap[0])[1]
            yield _gap_verdict(evaluation, task, grouping, others=False)


def _gap_verdict(
    evaluation: Evaluation, task: TaskPredictions, grouping: Grouping, *, others: bool = True
) -> tuple[str, str] | None:
    """The widest gap between groups in words, if any is wide, with the others, and its level."""
    groups = grouping.proportions(task, evaluation.subjects.people)
    gaps = statistics.gaps(groups)
    if not gaps:
        return None
    text = _gap_words(task, groups, gaps[0])
    if others and gaps[1:]:
        rest = (f"{gap.worse} ({100 * gap.difference.value:.0f})" for gap in gaps[1:])
        text += f" Other groups and points below the best: {', '.join(rest)}."
    return text, "error" if gaps[0].difference.low > 0 else "warning"


def _gap_words(task: TaskPredictions, groups: Mapping[str, Proportion], gap: Gap) -> str:
    worse, best = groups[gap.worse], groups[gap.best]
    width, low, high = (f"{100 * points:.0f}" for points in gap.difference)
    chance = ", may be chance" if gap.difference.low <= 0 else ""
    return (
        f"{task.name}: {worse.value:.0%} of {gap.worse} are correct (n = {worse.photos:,} photos "
        f"of {worse.people:,} people), {width} points (95%: {low} to {high}{chance}) below "
        f"{gap.best} ({best.value:.0%}, n = {best.photos:,} of {best.people:,}); everyone: "
        f"{task.correct.mean():.0%}."
    )


def _photo_kinds(evaluation: Evaluation) -> Iterator[dict[str, Any]]:
    """Scores by the first task's label, which differs between a person's photos, and by crop."""
    first, people = evaluation.tasks[0], evaluation.subjects.people
    labels = np.array(first.classes)[first.y_true]
    faces = np.array([FACES[detected] for detected in evaluation.predictions.detected])
    for grouping in (
        Grouping(f"true {first.name}", labels, first.classes),
        Grouping("face", faces, [name for name in FACES.values() if name]),
    ):
        by_task = {task.name: grouping.proportions(task, people) for task in evaluation.all}
        yield {
            "title": grouping.title,
            "correct": _correct_rows(by_task),
            "macro_f1": [
                [name, *(_f1_within(t, grouping.groups == name, people) for t in evaluation.all)]
                for name in next(iter(by_task.values()))
            ],
        }


def _f1_within(task: TaskPredictions, chosen: np.ndarray, people: np.ndarray) -> TableCell:
    """Macro F1 of some photos over the classes among their labels, if there are several."""
    y_true, y_pred = task.y_true[chosen], task.y_pred[chosen]
    if len(np.unique(y_true)) < 2:
        return "–"
    classes = len(task.classes)
    scores = statistics.score_intervals(y_true, y_pred, people[chosen], classes, only_present=True)
    return _number(scores.macro_f1)


def _model(model: LoadedModel) -> dict[str, Any]:
    """A model's card: the main facts, and everything."""
    card = model.card
    return {
        "title": f"{card['task']}: {model.path.name}",
        "facts": [("classes", ", ".join(card["classes"])), *facts(card), ("engine", model.engine)],
        "card": list(_leaves(card)),
    }


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield the leaves of nested dicts by their path; the keys of people are only counted."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, f"{name}.{key}" if name else str(key))
    elif name == "split.held_out":
        yield name, f"{len(value):,} people"
    else:
        yield name, _text(value)


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        separator = " / " if any(isinstance(item, (list, tuple)) for item in value) else ", "
        return separator.join(map(_text, value)) or "none"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _number(interval: Interval) -> TableCell:
    return f"{interval.value:.4f}", interval.text()


def _percent(proportion: Proportion) -> TableCell:
    return f"{proportion.value:.1%}", f"{100 * proportion.low:.0f}–{100 * proportion.high:.0f}"
