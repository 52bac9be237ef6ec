"""How probabilities become a class: the likeliest, or shifted by a prior or by tuned offsets.

Each decision adds offsets to a task's log probabilities: argmax none; prior minus the logarithm of
the class's share in training (logit adjustment, Menon et al. 2021); offsets those that the
checkpoints hold, tuned on persons whom the models had not seen.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from common.base.errors import UserError, warn
from common.base.files import writable_file
from common.inference.ensemble import Ensemble, all_models
from common.inference.predictor import Answers
from common.model import checkpoint
from common.model.exported import is_exported
from common.model.loaded import LoadedModel

Offsets = Mapping[str, np.ndarray]


def default_decision(ensembles: Mapping[str, Ensemble]) -> str:
    """What decides where the user doesn't say: offsets, if all models' were tuned together."""
    held = [model.decision["offsets"] for model in all_models(ensembles)]
    together = all(held) and all(h["tuned_on"] == held[0]["tuned_on"] for h in held)
    return "offsets" if together else "argmax"


def offsets_of(decision: str, ensembles: Mapping[str, Ensemble]) -> Offsets:
    """Task → (classes,) offsets; UserError where a checkpoint doesn't hold what `decision` needs."""
    if decision == "argmax":
        return {}
    return (prior_offsets if decision == "prior" else stored_offsets)(ensembles)


def prior_offsets(ensembles: Mapping[str, Ensemble]) -> Offsets:
    """Minus the log of each class's share in training, the mean over a task's models."""
    for model in all_models(ensembles):
        if not model.decision["prior"]:
            raise UserError(
                f"{model.path}: doesn't say how frequent its classes were in training: made by an "
                "earlier version; train it again, or --decide argmax"
            )
    return {task: -np.log(_mean(e, lambda d: d["prior"])) for task, e in ensembles.items()}


def stored_offsets(ensembles: Mapping[str, Ensemble]) -> Offsets:
    """The offsets that the checkpoints hold; a warning where they were tuned with other models."""
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
    """Task → which models answer for it, whatever offsets they hold."""
    return {task: sorted(m.identity for m in e.models) for task, e in ensembles.items()}


def decide(answers: Answers, ensembles: Mapping[str, Ensemble], offsets: Offsets) -> Answers:
    """The same answers, with the classes chosen by `offsets`: (classes,) or (photos, classes)."""
    chosen = {
        task: ensemble.decide(answers.shares[task], offsets.get(task, 0.0))[1]
        for task, ensemble in ensembles.items()
    }
    return dataclasses.replace(answers, chosen=chosen)


def describe_decision(
    decision: str, ensembles: Mapping[str, Ensemble], *, nested: bool = False
) -> str:
    """Which class answers, for a person to read; `nested` offsets are not the checkpoints'."""
    if decision == "argmax":
        return "decided by argmax: the likeliest class"
    if decision == "prior":
        return "decided by prior: the likeliest class if training had seen all equally often"
    if nested:
        return "decided by offsets, nested: for each fifth of the persons tuned on the other four"
    told = all_models(ensembles)[0].decision["offsets"]["tuned_on"]
    return (
        f"decided by offsets that were tuned to macro F1 on {told['persons']:,} held-out persons "
        f"(there {told['macro_f1']['offsets']:.4f} nested; argmax {told['macro_f1']['argmax']:.4f})"
    )


def check_storable(models: Sequence[LoadedModel]) -> None:
    """UserError where `store_offsets` would fail, before hours of work."""
    for model in models:
        if is_exported(model.path):
            raise UserError(
                f"--tune-offsets: {model.path}: only checkpoints (.pt) take offsets; tune with "
                "those and export them again"
            )
        writable_file(model.path)


def store_offsets(
    ensembles: Mapping[str, Ensemble], offsets: Offsets, tuned_on: Mapping[str, Any]
) -> None:
    """Write `offsets` into every checkpoint's card, with what they were `tuned_on`.

    Each file appears whole, with all else that it holds; UserError where it changed meanwhile.
    """
    told = {**tuned_on, "models": identities(ensembles)}
    for task, ensemble in ensembles.items():
        for model in ensemble.models:
            _store(model, {"values": offsets[task].tolist(), "tuned_on": told})


def _store(model: LoadedModel, offsets: Mapping[str, Any]) -> None:
    content = checkpoint.read(model.path)
    card = content["card"]
    if card["sha256"] != model.card["sha256"]:
        raise UserError(f"{model.path}: was changed meanwhile; its offsets aren't stored")
    decision = model.decision | {"offsets": {**offsets, "identity": model.identity}}
    try:
        checkpoint.save(
            model.path, card | {"decision": decision}, content["state_dict"],
            content.get("training"),
        )  # fmt: skip
    except OSError as error:
        raise UserError(f"{model.path}: could not be saved ({error.strerror})") from None


def _mean(ensemble: Ensemble, values: Callable[[Mapping], Sequence[float]]) -> np.ndarray:
    """The models' weighted mean of a list of numbers that their cards hold."""
    return np.average(
        [values(model.decision) for model in ensemble.models], axis=0, weights=ensemble.weights
    )
