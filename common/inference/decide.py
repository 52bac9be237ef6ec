"""Probabilities to classes: the most likely class, or with tuned offsets.

argmax takes probabilities as they are. offsets adds to the log probabilities what the checkpoints
hold, tuned on people on whom the models weren't trained.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from common.base.errors import UserError, warn
from common.base.files import writable_file
from common.inference.ensemble import Ensemble, all_models
from common.inference.predictions import PhotoRows, Predictions, Probabilities
from common.model import checkpoint
from common.model.exported import is_exported
from common.model.loaded import LoadedModel

Offsets = Mapping[str, np.ndarray]


def default_decision(ensembles: Mapping[str, Ensemble]) -> str:
    """The decision unless a flag names one: offsets if all models' were tuned together."""
    held = [model.decision["offsets"] for model in all_models(ensembles)]
    together = all(held) and all(h["tuned_on"] == held[0]["tuned_on"] for h in held)
    return "offsets" if together else "argmax"


def offsets_of(decision: str, ensembles: Mapping[str, Ensemble]) -> Offsets:
    """Task → (classes,) offsets; none for argmax.

    Raises:
        UserError: `decision` is offsets and a checkpoint holds none.
    """
    return {} if decision == "argmax" else stored_offsets(ensembles)


def prior_offsets(ensembles: Mapping[str, Ensemble]) -> Offsets:
    """Task → (classes,) minus the log of each class's share in training, the models' mean.

    Logit adjustment (Menon et al. 2021); where the search for offsets begins.
    """
    return {task: -np.log(_mean(e, lambda d: d["prior"])) for task, e in ensembles.items()}


def stored_offsets(ensembles: Mapping[str, Ensemble]) -> Offsets:
    """Task → (classes,) offsets in the checkpoints; warns if they were tuned with other models."""
    missing = [str(m.path) for m in all_models(ensembles) if not m.decision["offsets"]]
    if missing:
        raise UserError(
            f"--decide offsets: none in {', '.join(missing)}; combine.py --held-out --tune-offsets "
            "with these models tunes and stores them"
        )
    given = identities(ensembles)
    odd = [
        str(model.path)
        for model in all_models(ensembles)
        if model.decision["offsets"]["tuned_on"]["models"] != given
    ]
    if odd:
        warn(f"offsets were tuned together with other models than these: {', '.join(odd)}")
    return {task: _mean(e, lambda d: d["offsets"]["values"]) for task, e in ensembles.items()}


def identities(ensembles: Mapping[str, Ensemble]) -> dict[str, list[str]]:
    """Task → ids of its models, which don't depend on the offsets they hold."""
    return {task: sorted(m.identity for m in e.models) for task, e in ensembles.items()}


def decide(
    probabilities: Probabilities, ensembles: Mapping[str, Ensemble], offsets: Offsets
) -> Predictions:
    """Choose a class for every task and row; `offsets`: task → (classes,) or (rows, classes)."""
    shared = {f.name: getattr(probabilities, f.name) for f in dataclasses.fields(PhotoRows)}
    by_model = probabilities.by_model
    return Predictions(
        probabilities={task: e.mean(by_model[task]) for task, e in ensembles.items()},
        classes={
            task: e.decide(by_model[task], offsets.get(task, 0.0)) for task, e in ensembles.items()
        },
        numbers={
            e.number_name: e.number(probabilities.numbers[task])
            for task, e in ensembles.items()
            if task in probabilities.numbers and np.isfinite(probabilities.numbers[task]).any()
        },
        **shared,
    )


def describe_decision(
    decision: str, ensembles: Mapping[str, Ensemble], *, nested: bool = False
) -> str:
    """The decision in a line; `nested` offsets are tuned here, not the checkpoints'."""
    if decision == "argmax":
        return "decision: argmax (most likely class)"
    if nested:
        return "decision: offsets, nested (tuned for each fifth of the people on the other four)"
    tuned_on = all_models(ensembles)[0].decision["offsets"]["tuned_on"]
    merits = tuned_on["macro_f1"]
    return (
        f"decision: offsets tuned to macro F1 on {tuned_on['persons']:,} held-out people (there "
        f"{merits['offsets']:.4f} nested; argmax {merits['argmax']:.4f})"
    )


def check_storable(models: Sequence[LoadedModel]) -> None:
    """Check before hours of work that `store_offsets` can succeed."""
    for model in models:
        if is_exported(model.path):
            raise UserError(
                f"--tune-offsets: {model.path}: only checkpoints (.pt) take offsets; tune with "
                "those and export them again"
            )
        writable_file(model.path, "model")


def store_offsets(
    ensembles: Mapping[str, Ensemble], offsets: Offsets, tuned_on: Mapping[str, Any]
) -> None:
    """Write `offsets` into every checkpoint's card, with what they were `tuned_on`.

    Each file is replaced whole and keeps all else that it holds.

    Raises:
        UserError: a file changed since its model was loaded.
    """
    tuned_on = {**tuned_on, "models": identities(ensembles)}
    for task, ensemble in ensembles.items():
        for model in ensemble.models:
            _store(model, {"values": offsets[task].tolist(), "tuned_on": tuned_on})


def _store(model: LoadedModel, offsets: Mapping[str, Any]) -> None:
    content = checkpoint.read(model.path)
    card = content["card"]
    if card["sha256"] != model.card["sha256"]:
        raise UserError(f"{model.path}: was changed meanwhile; its offsets aren't stored")
    decision = model.decision | {"offsets": {**offsets, "identity": model.identity}}
    try:
        checkpoint.save(
            model.path,
            card | {"decision": decision},
            content["state_dict"],
            content.get("training"),
        )
    except OSError as error:
        raise UserError(f"{model.path}: could not be saved ({error.strerror})") from None


def _mean(ensemble: Ensemble, values: Callable[[Mapping], Sequence[float]]) -> np.ndarray:
    """The models' weighted mean of a list of numbers that their cards hold."""
    return np.average(
        [values(model.decision) for model in ensemble.models], axis=0, weights=ensemble.weights
    )
