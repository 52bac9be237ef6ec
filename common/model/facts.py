"""Contents of a checkpoint's card as words and tables, for the terminal and for a model card."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.base.fields import saved_flags

Card = Mapping[str, Any]
Table = tuple[str, Sequence[str], list[Sequence[str]]]  # title, header, rows of cells

NO_EPOCH = "no epoch was validated"
IN_PROGRESS = "training in progress: weights of the last step, scores of the best epoch"


def read_card(path: Path) -> tuple[dict[str, Any], bool]:
    """Read the card of a checkpoint or an export, and whether its training is in progress.

    Raises:
        UserError: the file is missing or damaged.
    """
    from common.model import checkpoint, exported

    if exported.is_exported(path):
        return exported.read_export(path)[0], False
    content = checkpoint.read(path)
    return content["card"], "training" in content


def facts(card: Card) -> Iterator[tuple[str, str]]:
    """Pairs of a name and its description, in reading order."""
    split, scores = card["split"], card["metrics"]
    yield "network", f"{card['model']}, {network_input(card)}"
    if card["origin"]:
        yield "started from", card["origin"]
    yield "crop", crop_flags(card)
    limit = f" of {split['limit']:,} people" if split["limit"] else ""
    yield (
        "held out",
        f"{len(split['held_out']):,} people: fold {split['fold']} of {split['folds']}{limit}, split "
        f"{split['hash']}",
    )
    if split.get("extra"):
        yield "trained on", f"{len(split['extra'])} more data sets (--extra)"
    if scores:
        yield (
            "scores",
            f"macro F1 {scores['macro_f1']:.4f}, accuracy {scores['accuracy']:.4f} on "
            f"{scores['photos']:,} photos of the held-out people, in epoch {scores['epoch']}, the "
            "best on them",
        )
    if scores.get("number"):
        from common.model.metrics import number_words

        yield scores["number"]["name"], number_words(scores["number"])
    yield "probabilities", calibration(card)
    yield "decision", decision_rule(card)
    commit = f" by commit {card['commit']}" if card["commit"] else ""
    versions = ", ".join(f"{name} {version}" for name, version in card["libraries"].items())
    yield "made", f"{card['created']}{commit}; {versions}"
    yield "sha256", card["sha256"]


def network_input(card: Card) -> str:
    """Describe the network's input: size, channel order and normalisation."""
    prepared = card["preprocessing"]
    mean, std = (" ".join(f"{value:.3f}" for value in prepared[name]) for name in ("mean", "std"))
    height, width = prepared["size"]
    stride = card["recipe"]["stem_stride"]
    stem = f"; stride of the first convolution {stride}" if stride else ""
    return (
        f"{height} pixels high, {width} wide, RGB from 0 to 1, minus {mean}, divided by {std}{stem}"
    )


def crop_flags(card: Card) -> str:
    """Describe the crop of a photo, by the flags that set it."""
    crop = card["preprocessing"]["crop"]
    words = [f"--crop {crop['method']}", f"--margin {crop['margin']:g}"]
    words += [f"--background {crop['background']}"] if crop["background"] != "keep" else []
    detector = crop["detector"]
    if detector["name"] != "none":
        words.append(f"faces by {detector['name']} {detector['version']}")
    return ", ".join(words)


def calibration(card: Card) -> str:
    """Describe how probabilities are calibrated."""
    decision = card["decision"]
    if not decision["ece"]:
        return "the network's own, not calibrated"
    before, after = (decision["ece"][name] for name in ("before", "after"))
    return (
        f"temperature {decision['temperature']:g}, fitted on the held-out people; expected "
        f"calibration error {before:.3f} → {after:.3f} (cross-fitted by person)"
    )


def decision_rule(card: Card) -> str:
    """Describe how a class follows from the probabilities."""
    offsets = card["decision"]["offsets"]
    if not offsets:
        return "the most likely class"
    pairs = zip(card["classes"], offsets["values"], strict=True)
    values, people = ", ".join(f"{name} {v:+.2f}" for name, v in pairs), offsets["tuned_on"]
    return (
        f"the highest log probability plus offset ({values}; tuned for the codes' macro F1 on "
        f"{people['persons']:,} held-out people)"
    )


def command(card: Card) -> list[str]:
    """The words of the training command with every flag of its recipe, except --data."""
    split = {name: card["split"][name] for name in ("folds", "fold", "limit")}
    return ["python", "-m", f"{card['task']}.train", *saved_flags(card["recipe"] | split)]


def tables(card: Card) -> Iterator[Table]:
    """Scores on the held-out people: by class, by true and predicted class, by group."""
    import numpy as np

    from common.model.metrics import SCORE_COLUMNS, Scores

    metrics, names = card["metrics"], card["classes"]
    counts = np.array(metrics["confusion"])
    f1 = tuple(metrics["f1"][name] for name in names)
    scores = Scores(metrics["macro_f1"], metrics["accuracy"], f1, counts, counts.sum(axis=1))
    yield "by class", SCORE_COLUMNS, scores.cells(names)
    rows = [(name, *(f"{n:,}" for n in row)) for name, row in zip(names, counts, strict=True)]
    yield "photos by true and predicted class", ("true", *names), rows
    for group in metrics["groups"]:
        by = ", ".join(group["by"])
        rows = [
            (
                ", ".join(v or "unknown" for v in values),
                f"{n:,}",
                f"{photos:,}",
                f"{right / photos:.3f}",
            )
            for values, n, photos, right in group["rows"]
        ]
        yield f"accuracy by {by}", (by, "people", "photos", "accuracy"), rows
