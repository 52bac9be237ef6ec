"""An honest score: each person is predicted by models that weren't trained on that person."""

import dataclasses
import functools
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.base.errors import UserError, listed
from common.base.files import write_frame
from common.data.layout import Face, print_left_out, read_faces
from common.data.learned import learned, owners
from common.data.split import make_split, parts_by_person
from common.inference.codes import Codes
from common.inference.decide import (
    check_storable,
    decide,
    default_decision,
    describe_decision,
    offsets_of,
    prior_offsets,
    store_offsets,
)
from common.inference.ensemble import Ensemble, all_models
from common.inference.job import Job, check_output_files
from common.inference.offsets import macro_f1, nested, tune_offsets
from common.inference.predictions import Predictions, Probabilities
from common.inference.submissions import print_score, print_task_score
from common.inference.tables import detail_table, report_bad
from common.inference.votes import Votes, check_votes
from common.model.loaded import LoadedModel
from common.model.metrics import number_errors, number_words

PredictPaths = Callable[[Sequence[Path], Mapping[str, Ensemble]], Probabilities]


@dataclasses.dataclass(frozen=True)
class HeldOutPhotos:
    """Photos of all people that the same models held out."""

    faces: tuple[Face, ...]
    ensembles: dict[str, Ensemble]
    """Task → the models that held these people out."""


@dataclasses.dataclass(frozen=True)
class Decider:
    """Decides classes for held-out photos, with offsets tuned on other people only."""

    parts: Sequence[HeldOutPhotos]
    outputs: Sequence[Probabilities]
    """The probabilities for each of `parts`."""
    ensembles: Mapping[str, Ensemble]
    """Task → the models of all parts together."""
    true: np.ndarray
    """(photos,) codes of the parts' photos, one part after another."""
    codes: Codes

    def decided(self, decision: str) -> Predictions:
        """Predictions for everyone; offsets for a fifth of the people are tuned on the others."""
        offsets = self._nested() if decision == "offsets" else None
        starts = np.cumsum([0, *(len(part.faces) for part in self.parts)])
        decided = []
        for place, (part, output) in enumerate(zip(self.parts, self.outputs, strict=True)):
            if offsets is None:
                own = offsets_of(decision, part.ensembles)
            else:
                rows = slice(starts[place], starts[place + 1])
                own = {task: values[rows] for task, values in offsets.items()}
            decided.append(decide(output, part.ensembles, own))
        return Predictions.joined(decided)

    def tuned(self) -> dict[str, np.ndarray]:
        """Task → (classes,) offsets tuned on everyone, for people who are not among them."""
        means, good = self._means
        tuned = tune_offsets([p[good] for p in means], self.true[good], self._starts(), self.codes)
        return dict(zip(self.codes.classes, tuned, strict=True))

    def _nested(self) -> dict[str, np.ndarray]:
        """Task → (photos, classes) offsets, each photo's tuned on other people."""
        means, good = self._means
        offsets = [np.zeros(values.shape) for values in means]
        best = nested(
            [p[good] for p in means],
            self.true[good],
            fifths(self.parts)[good],
            self._starts(),
            self.codes,
        )
        for of_task, values in zip(offsets, best, strict=True):
            of_task[good] = values
        return dict(zip(self.codes.classes, offsets, strict=True))

    @functools.cached_property
    def _means(self) -> tuple[list[np.ndarray], np.ndarray]:
        """(photos, classes) mean probabilities of each task in the code; where all are numbers."""
        means = [
            np.concatenate(
                [
                    part.ensembles[task].mean(output.by_model[task])
                    for part, output in zip(self.parts, self.outputs, strict=True)
                ]
            )
            for task in self.codes.classes
        ]
        return means, np.isfinite(np.concatenate(means, axis=1)).all(axis=1)

    def _starts(self) -> list[list[np.ndarray]]:
        """Starts of the search: no offsets, and those for equally frequent classes."""
        prior = prior_offsets({task: self.ensembles[task] for task in self.codes.classes})
        return [[np.zeros_like(values) for values in prior.values()], list(prior.values())]


def fifths(parts: Sequence[HeldOutPhotos]) -> np.ndarray:
    """Deal people to five parts as to folds: (photos,) the part of each photo.

    Raises:
        UserError: there are fewer than five people.
    """
    faces = [face for part in parts for face in part.faces]
    return np.array(parts_by_person(faces, 5))


def honest_parts(
    data: Path, ensembles: Mapping[str, Ensemble], codes: Codes
) -> list[HeldOutPhotos]:
    """Group the people whom a model of each task held out by the models that did.

    Only people with a label for each task in the code are kept.

    Raises:
        UserError: there is no one; the models come from different splits, so that one may have
            been trained on those whom another held out; or `data` splits into other folds.
    """
    models = all_models(ensembles)
    people: dict[tuple[tuple[bool, ...], ...], set[str]] = defaultdict(set)
    held = [[set(m.card["split"]["held_out"]) for m in e.models] for e in ensembles.values()]
    for key in sorted(set().union(*(keys for of_task in held for keys in of_task))):
        chosen = tuple(tuple(key in keys for keys in of_task) for of_task in held)
        if all(map(any, chosen)):
            people[chosen].add(key)
    if len({model.card["split"]["hash"] for model in models}) > 1 or not people:
        raise UserError(_refusal(models))
    faces = read_faces(data)
    _check_table(data, faces, models[0].card["split"])
    everyone = set().union(*people.values())
    labelled = _labelled(
        [face for face in faces if face.person.key in everyone],
        [model for task in codes.classes for model in ensembles[task].models],
    )
    parts = [
        HeldOutPhotos(
            tuple(face for face in labelled if face.person.key in keys),
            {t: e.only(kept) for (t, e), kept in zip(ensembles.items(), chosen, strict=True)},
        )
        for chosen, keys in people.items()
    ]
    parts = [part for part in parts if part.faces]
    _refuse_learned(parts)
    return parts


def _refuse_learned(parts: Sequence[HeldOutPhotos]) -> None:
    """Check, by the photos' content, that no model ever learned from those who are scored by it.

    Raises:
        UserError: one did, or the weights that it was started from.
    """
    for part in parts:
        seen = {model.path: learned(model.card) for model in all_models(part.ensembles)}
        people = owners(part.faces) if any(seen.values()) else {}
        for path, photos in seen.items():
            keys = set().union(*(people[photo] for photo in people.keys() & photos))
            if keys:
                raise UserError(
                    f"no honest score: {path}, or the weights it was started from, learned "
                    f"from photos of {len(keys):,} of the people to be scored:\n"
                    f"{listed(sorted(keys))}"
                )


def _labelled(faces: Sequence[Face], models: Sequence[LoadedModel]) -> list[Face]:
    """The photos with a label for every model's task; prints who is left out."""
    labelled = [
        face for face in faces if all(model.recipe.label(face) is not None for model in models)
    ]
    if not labelled:
        raise UserError("no honest score: nobody who was held out has every task's label")
    print_left_out(faces, labelled, "a task's label is missing")
    return labelled


def describe_parts(parts: Sequence[HeldOutPhotos], ensembles: Mapping[str, Ensemble]) -> str:
    """Count the people who are scored, and the models of each task that predict them."""
    people = len({face.person.key for part in parts for face in part.faces})
    total = {task: len(ensemble.models) for task, ensemble in ensembles.items()}
    used = {task: {len(part.ensembles[task].models) for part in parts} for task in total}
    if all(counts == {total[task]} for task, counts in used.items()):
        return f"{people:,} people that none of the {sum(total.values())} models was trained on"
    each = (
        f"{' to '.join(str(n) for n in sorted({min(counts), max(counts)}))} of {total[task]} {task}"
        for task, counts in used.items()
    )
    return (
        f"{people:,} people, each predicted by the models that were not trained on that person: "
        f"{', '.join(each)}"
    )


def _refusal(models: Sequence[LoadedModel]) -> str:
    splits = [(model.path, model.card["split"]) for model in models]
    lines = (
        f"{path}: fold {s['fold']} of {s['folds']}, split {s['hash']}, {len(s['held_out'])} people"
        for path, s in splits
    )
    return (
        "no honest score: the models held different people out; train them on the same "
        f"data with the same --folds, --fold and --limit\n{listed(lines)}"
    )


def _check_table(data: Path, faces: Sequence[Face], split: Mapping) -> None:
    settings = {name: split[name] for name in ("folds", "fold", "limit")}
    here = make_split({face.person for face in faces}, **settings)[1]["hash"]
    if here != split["hash"]:
        raise UserError(
            f"no honest score: {data} holds other people than the training data "
            f"(split {here} here, {split['hash']} in the checkpoints)"
        )


def predict_held_out(
    parts: Sequence[HeldOutPhotos],
    ensembles: Mapping[str, Ensemble],
    decision: str,
    codes: Codes,
    predict: PredictPaths,
) -> Decider:
    """Predict all held-out photos, once it is checked that `decision` can be applied."""
    merged = {task: ensembles[task] for task in codes.classes}
    if decision == "offsets":
        fifths(parts)
        prior_offsets(merged)
    faces = [face for part in parts for face in part.faces]
    recipes = [ensemble.models[0].recipe for ensemble in merged.values()]
    true = codes.encode([np.array([recipe.label(face) for face in faces]) for recipe in recipes])
    outputs = [predict([face.path for face in part.faces], part.ensembles) for part in parts]
    return Decider(parts, outputs, ensembles, true, codes)


def tune_and_store(decider: Decider, tuned: Predictions, how: Mapping[str, Any]) -> None:
    """Compare the decisions on held-out people; store offsets if they score best.

    `tuned` are the predictions with offsets, each person's tuned on others; `how`, the settings of
    the prediction, is stored with the offsets.
    """
    codes = decider.codes
    predictions = {"argmax": decider.decided("argmax"), "offsets": tuned}
    merits = {
        decision: macro_f1(decider.true, codes.of(given), len(codes))
        for decision, given in predictions.items()
    }
    print(f"{len(codes)} codes macro F1: {', '.join(f'{d} {f1:.4f}' for d, f1 in merits.items())}")
    best = max(merits, key=merits.get)
    if best != "offsets":
        print(f"offsets aren't stored: --decide {best} scores as well without them")
        return
    merged = {task: decider.ensembles[task] for task in codes.classes}
    models = all_models(merged)
    tuned_on = {
        "split": models[0].card["split"]["hash"],
        "persons": len({face.person for part in decider.parts for face in part.faces}),
        "photos": len(decider.true),
        "macro_f1": merits,
        **how,
    }
    store_offsets(merged, decider.tuned(), tuned_on)
    print(
        f"offsets tuned on all {tuned_on['persons']:,} people → "
        f"{', '.join(str(model.path) for model in models)}; from now on they decide by default"
    )


def score_held_out(job: Job) -> int:
    """Score each person by the models that weren't trained on them; returns the exit status."""
    options, codes, ensembles = job.options, job.codes, job.ensembles
    if options.tune_offsets:
        check_storable(all_models(job.merged))
    check_output_files(options)
    decision = "offsets" if options.tune_offsets else options.decide or default_decision(job.merged)
    parts = honest_parts(options.train_data, ensembles, codes)
    if options.tune_votes:
        check_votes(job.merged, [part.ensembles for part in parts])
    decider = predict_held_out(parts, ensembles, decision, codes, job.predict)
    with job.stages("decide"):
        predictions = job.marked(decider.decided(decision))
    faces = [face for part in parts for face in part.faces]
    status = report_bad([str(f.path) for f in faces], predictions.bad, None, options.allow_bad)
    if options.probs is not None:
        table = detail_table([photo_name(face) for face in faces], predictions, codes.tasks)
        table.insert(1, "label", decider.true)
        with job.stages("write"):
            write_frame(options.probs, table)
    print_score(codes, decider.true, codes.of(predictions))
    _print_other_tasks(job, faces, predictions)
    notes = [
        *describe_numbers(ensembles, faces, predictions),
        f"on {describe_parts(parts, ensembles)}",
        describe_decision(decision, job.merged, nested=True),
    ]
    print("\n".join(notes))
    if options.report is not None:
        _report(job, faces, decider.true, predictions, notes)
    if options.tune_votes and not status:
        with job.stages("decide"):
            print(_votes(decider).described(job.merged, len({face.person for face in faces})))
    if options.tune_offsets and not status:
        with job.stages("decide"):
            tune_and_store(
                decider,
                predictions,
                {"vote": options.voting, "tta": options.tta, "ttas": dict(options.ttas)},
            )
    return status


def _votes(decider: Decider) -> Votes:
    """The choice among the models that all predicted the same people."""
    tasks = tuple(decider.codes.classes)
    by_model = {
        task: np.concatenate([output.by_model[task] for output in decider.outputs], axis=1)
        for task in tasks
    }
    true = dict(zip(tasks, decider.codes.decode(decider.true), strict=True))
    return Votes(by_model, true, fifths(decider.parts), decider.codes)


def _print_other_tasks(job: Job, faces: Sequence[Face], predictions: Predictions) -> None:
    """Print the scores of the tasks outside the code, on the photos that have their labels."""
    for task, ensemble in job.ensembles.items():
        if task in job.codes.classes:
            continue
        recipe = ensemble.models[0].recipe
        try:
            labels = [recipe.label(face) for face in faces]
        except UserError as error:
            print(f"{task:<8} no score: {error}")
            continue
        rows = [row for row, label in enumerate(labels) if label is not None]
        if not rows:
            print(f"{task:<8} no score: none of these photos has its label")
            continue
        true = np.array([labels[row] for row in rows])
        print_task_score(task, true, predictions.classes[task][rows], len(recipe.classes))


def describe_numbers(
    ensembles: Mapping[str, Ensemble], faces: Sequence[Face], predictions: Predictions
) -> list[str]:
    """Describe the errors of numbers behind classes, such as years: overall and by class."""
    lines = []
    for ensemble in ensembles.values():
        recipe, name = ensemble.models[0].recipe, ensemble.number_name
        if name in predictions.numbers:
            errors = number_errors(recipe, faces, predictions.numbers[name])
            lines += [f"{name}: {number_words(errors)}"] if errors else []
    return lines


def _report(
    job: Job,
    faces: Sequence[Face],
    true: np.ndarray,
    predictions: Predictions,
    notes: Sequence[str],
) -> None:
    """Write the page that --report asks for."""
    from common.inference.report.evaluation import Evaluation
    from common.inference.report.page import write_report  # imports matplotlib
    from common.inference.report.subjects import of_faces

    names = [photo_name(face) for face in faces]
    paths = [face.path for face in faces]
    write_report(Evaluation(job, true, predictions, of_faces(faces), names, paths, notes))


def photo_name(face: Face) -> str:
    """A held-out photo's name: its person's folder and its file."""
    return f"{face.person.key}/{face.path.name}"
