"""An honest score: each person is answered for by models that weren't trained on that person."""

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from common.data.layout import Face, read_faces
from common.data.split import make_split
from common.errors import UserError, listed
from common.inference.ensemble import Ensemble
from common.training.checkpoint import Loaded


@dataclasses.dataclass(frozen=True)
class Part:
    """Photos of all persons that the same models held out; `ensembles`: task → these models."""

    faces: tuple[Face, ...]
    ensembles: dict[str, Ensemble]


def honest_parts(data: Path, ensembles: Mapping[str, Ensemble]) -> list[Part]:
    """Everyone whom a model of each task held out, with all models that did.

    UserError where there is no one, where the models don't share one split of all persons (whom
    the one held out the other may have been trained on), or where `data` splits otherwise.
    """
    models = [model for ensemble in ensembles.values() for model in ensemble.models]
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
    return [
        Part(
            tuple(face for face in faces if face.person.key in keys),
            {t: e.only(kept) for (t, e), kept in zip(ensembles.items(), chosen, strict=True)},
        )
        for chosen, keys in people.items()
    ]


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


def _refusal(models: Sequence[Loaded]) -> str:
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
