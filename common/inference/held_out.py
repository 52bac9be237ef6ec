"""An honest score: each person is answered for by models that weren't trained on that person."""

import dataclasses
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.base.errors import UserError, listed
from common.base.files import writable_file, write_frame
from common.data.layout import Face, print_left_out, read_faces
from common.data.split import make_split, parts_by_person
from common.inference.checks import check_report
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
from common.inference.job import Job
from common.inference.offsets import Encode, nested, tune
from common.inference.predictor import Answers, Ask, joined
from common.inference.submissions import print_score
from common.inference.tables import detail_table, report_bad
from common.model.loaded import LoadedModel
from common.model.metrics import score


@dataclasses.dataclass(frozen=True)
class Part:
    """Photos of all persons that the same models held out; `ensembles`: task → these models."""

    faces: tuple[Face, ...]
    ensembles: dict[str, Ensemble]


@dataclasses.dataclass(frozen=True)
class Decider:
    """Chooses held-out photos' classes, by offsets only of those that other persons gave.

    `parts` and what their models say, `answers`; the models of all parts together are `ensembles`.
    `true` is (photos,), the codes of the parts' photos, one part after another, below `codes`;
    `encode` turns each task's (photos,) classes into codes.
    """

    parts: Sequence[Part]
    answers: Sequence[Answers]
    ensembles: Mapping[str, Ensemble]
    true: np.ndarray
    encode: Encode
    codes: int

    def decided(self, decision: str) -> Answers:
        """Everyone's answers; offsets are nested: tuned on four fifths of the persons for one."""
        offsets = self._nested() if decision == "offsets" else None
        starts = np.cumsum([0, *(len(part.faces) for part in self.parts)])
        chosen = []
        for place, (part, answers) in enumerate(zip(self.parts, self.answers, strict=True)):
            if offsets is None:
                own = offsets_of(decision, part.ensembles)
            else:
                rows = slice(starts[place], starts[place + 1])
                own = {task: values[rows] for task, values in offsets.items()}
            chosen.append(decide(answers, part.ensembles, own))
        return joined(chosen)

    def tuned(self) -> dict[str, np.ndarray]:
        """Task → (classes,) offsets, tuned on everyone: for persons who are not among them."""
        shares, good = self._shares()
        tuned = tune(
            [s[good] for s in shares], self.true[good], self._starts(), self.encode, self.codes
        )
        return dict(zip(self.ensembles, tuned, strict=True))

    def _nested(self) -> dict[str, np.ndarray]:
        shares, good = self._shares()
        offsets = [np.zeros(share.shape) for share in shares]
        found = nested(
            [s[good] for s in shares], self.true[good], fifths(self.parts)[good], self._starts(),
            self.encode, self.codes,
        )  # fmt: skip
        for of_task, values in zip(offsets, found, strict=True):
            of_task[good] = values
        return dict(zip(self.ensembles, offsets, strict=True))

    def _shares(self) -> tuple[list[np.ndarray], np.ndarray]:
        """Each task's (photos, classes) probabilities, and where all of them are numbers."""
        shares = [
            np.concatenate([answers.probabilities[task] for answers in self.answers])
            for task in self.ensembles
        ]
        return shares, np.isfinite(np.concatenate(shares, axis=1)).all(axis=1)

    def _starts(self) -> list[list[np.ndarray]]:
        prior = list(prior_offsets(self.ensembles).values())
        return [[np.zeros_like(values) for values in prior], prior]


def fifths(parts: Sequence[Part]) -> np.ndarray:
    """(photos,) which of five parts each photo's person is dealt to, as folds are.

    UserError for fewer than five persons.
    """
    faces = [face for part in parts for face in part.faces]
    return np.array(parts_by_person(faces, 5))


def honest_parts(data: Path, ensembles: Mapping[str, Ensemble]) -> list[Part]:
    """Everyone whom a model of each task held out, with all models that did.

    UserError where there is no one, where the models don't share one split of all persons (whom
    the one held out the other may have been trained on), or where `data` splits otherwise.
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
    answered = set().union(*people.values())
    known = _labelled([face for face in faces if face.person.key in answered], models)
    parts = [
        Part(
            tuple(face for face in known if face.person.key in keys),
            {t: e.only(kept) for (t, e), kept in zip(ensembles.items(), chosen, strict=True)},
        )
        for chosen, keys in people.items()
    ]
    return [part for part in parts if part.faces]


def _labelled(faces: Sequence[Face], models: Sequence[LoadedModel]) -> list[Face]:
    """The photos of which every task's label is known; says whom that leaves out."""
    known = [face for face in faces if all(model.recipe.knows(face) for model in models)]
    if not known:
        raise UserError("no honest score: nobody who was held out has every task's label")
    print_left_out(faces, known, "a task's label isn't known")
    return known


def describe_parts(parts: Sequence[Part], ensembles: Mapping[str, Ensemble]) -> str:
    """How many persons are scored, and by how many models of each task."""
    persons = len({face.person.key for part in parts for face in part.faces})
    total = {task: len(ensemble.models) for task, ensemble in ensembles.items()}
    asked = {task: {len(part.ensembles[task].models) for part in parts} for task in total}
    if all(counts == {total[task]} for task, counts in asked.items()):
        return f"{persons:,} persons that none of the {sum(total.values())} models was trained on"
    each = (
        f"{' to '.join(str(n) for n in sorted({min(counts), max(counts)}))} of {total[task]} {task}"
        for task, counts in asked.items()
    )
    return (
        f"{persons:,} persons, each answered for by the models that were not trained on that "
        f"person: {', '.join(each)}"
    )


def _refusal(models: Sequence[LoadedModel]) -> str:
    splits = [(model.path, model.card["split"]) for model in models]
    lines = (
        f"{path}: fold {s['fold']} of {s['folds']}, split {s['hash']}, {len(s['held_out'])} persons"
        for path, s in splits
    )
    return (
        "no honest score: the models held different persons out; train them on the same "
        f"data with the same --folds, --fold and --limit\n{listed(lines)}"
    )


def _check_table(data: Path, faces: Sequence[Face], split: Mapping) -> None:
    settings = {name: split[name] for name in ("folds", "fold", "limit")}
    found = make_split({face.person for face in faces}, **settings)[1]["hash"]
    if found != split["hash"]:
        raise UserError(
            f"no honest score: {data} holds other persons than the training data "
            f"(split {found} here, {split['hash']} in the checkpoints)"
        )


def ask_held_out(
    parts: Sequence[Part], ensembles: Mapping[str, Ensemble], decision: str, codes: Codes, ask: Ask
) -> Decider:
    """What the models say of all held-out photos; first, whether `decision` can be made of it."""
    if decision == "offsets":
        fifths(parts)
    if decision != "argmax":
        prior_offsets(ensembles)
    faces = [face for part in parts for face in part.faces]
    recipes = [ensemble.models[0].recipe for ensemble in ensembles.values()]
    true = codes.encode([np.array([recipe.label(face) for face in faces]) for recipe in recipes])
    answers = [ask([face.path for face in part.faces], part.ensembles) for part in parts]
    return Decider(parts, answers, ensembles, true, codes.encode, len(codes))


def tune_and_store(decider: Decider, nested: Answers, codes: Codes, how: Mapping[str, Any]) -> None:
    """Compare the decisions on held-out persons; store offsets where they score best.

    `nested` are the answers that offsets give, each person's tuned on others; `how` the models were
    asked is stored too.
    """
    answers = {d: decider.decided(d) for d in ("argmax", "prior")} | {"offsets": nested}
    merits = {
        decision: score(decider.true, codes.of(given), len(codes)).macro_f1
        for decision, given in answers.items()
    }
    print(f"{len(codes)} codes macro F1: {', '.join(f'{d} {f1:.4f}' for d, f1 in merits.items())}")
    best = max(merits, key=merits.get)
    if best != "offsets":
        print(f"offsets aren't stored: --decide {best} scores as well without them")
        return
    models = all_models(decider.ensembles)
    tuned_on = {
        "split": models[0].card["split"]["hash"],
        "persons": len({face.person for part in decider.parts for face in part.faces}),
        "photos": len(decider.true),
        "macro_f1": merits,
        **how,
    }
    store_offsets(decider.ensembles, decider.tuned(), tuned_on)
    print(
        f"offsets tuned on all {tuned_on['persons']:,} persons → "
        f"{', '.join(str(model.path) for model in models)}; from now on they decide by default"
    )


def score_held_out(job: Job) -> int:
    """Score each person by the models that weren't trained on them; returns the exit status."""
    flags, codes, ensembles = job.arguments, job.codes, job.ensembles
    if flags.tune_offsets:
        check_storable(all_models(ensembles))
    if flags.probs is not None:
        writable_file(flags.probs)
    check_report(flags.report)
    decision = "offsets" if flags.tune_offsets else flags.decide or default_decision(ensembles)
    parts = honest_parts(flags.data or Path(os.environ.get("SM_CHANNEL_TRAIN", "data")), ensembles)
    decider = ask_held_out(parts, ensembles, decision, codes, job.predict)
    with job.stages("decide"):
        answers = decider.decided(decision)
    faces = [face for part in parts for face in part.faces]
    status = report_bad([str(f.path) for f in faces], answers.bad, None, flags.allow_bad)
    if flags.probs is not None:
        names = [photo_name(face) for face in faces]
        table = detail_table(names, answers, codes.classes)
        table.insert(1, "label", decider.true)
        with job.stages("write"):
            write_frame(flags.probs, table)
    print_score(codes, decider.true, codes.of(answers))
    notes = [f"on {describe_parts(parts, ensembles)}",
             describe_decision(decision, ensembles, nested=True)]  # fmt: skip
    print("\n".join(notes))
    if flags.report is not None:
        _report(job, faces, decider.true, answers, notes)
    if flags.tune_offsets and not status:
        how = {"vote": flags.vote or "soft", "tta": flags.tta}
        with job.stages("decide"):
            tune_and_store(decider, answers, codes, how)
    return status


def _report(
    job: Job, faces: Sequence[Face], true: np.ndarray, answers: Answers, notes: Sequence[str]
) -> None:
    """Write the page that --report asks for."""
    from common.inference.report.page import Evaluation, write_report  # brings matplotlib
    from common.inference.report.subjects import of_faces

    names = [photo_name(face) for face in faces]
    paths = [face.path for face in faces]
    write_report(Evaluation(job, true, answers, of_faces(faces), names, paths, notes))


def photo_name(face: Face) -> str:
    """A held-out photo's name: its person's folder and its file."""
    return f"{face.person.key}/{face.path.name}"
