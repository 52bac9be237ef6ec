"""What a checkpoint says of itself, for a person at a terminal and for those who may use it.

    python -m common.model.card m.pt                           prints its card
    python -m common.model.card m.pt --markdown                writes a model card, m.md
    python -m common.model.card m.pt --push-to-hub me/model    publishes it, for timm

Nothing is asked of the task's code: a card can be read wherever the file goes. Exports (.onnx) have
the same one.
"""

import argparse
import re
import shlex
import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.base.command import Parser, guarded
from common.base.errors import UserError, printable
from common.base.fields import saved_flags
from common.base.files import writable_file, write_whole

Card = Mapping[str, Any]
Table = tuple[str, Sequence[str], list[Sequence[str]]]  # title, header, rows of cells

INDENT = " " * 15
NO_GROUPS = "by group of people: not in this file, which an earlier version made"
NO_EPOCH = "no epoch of it was validated"
UNDER_WAY = "a training under way: weights of its last step, scores of its best epoch"


def read_card(path: Path) -> tuple[dict[str, Any], bool]:
    """The card of a checkpoint or an export, and whether a training is under way in the file.

    UserError where the file isn't a whole one.
    """
    from common.model import checkpoint, exported

    if not exported.is_exported(path):
        content = checkpoint.read(path)
        return content["card"], "training" in content
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint")
    try:
        return exported.read_card(path, path.read_bytes()), False
    except ImportError as error:
        raise UserError(exported.MISSING.format(path, error)) from None


def facts(card: Card) -> Iterator[tuple[str, str]]:
    """Names, and what there is to say to each, in the order to be read."""
    split, figures, libraries = card["split"], card["metrics"], card["libraries"]
    yield "network", f"{card['model']}, {network_input(card)}"
    yield "crop", crop(card)
    limit = f" of {split['limit']:,} persons" if split["limit"] else ""
    yield (
        "held out",
        f"{len(split['held_out']):,} persons: fold {split['fold']} of {split['folds']}{limit}, split "
        f"{split['hash']}",
    )
    if split.get("extra"):
        yield (
            "also saw",
            f"{len(split['extra'])} more tables of people (--extra), all but those held out",
        )
    if figures:
        yield (
            "scores",
            f"macro F1 {figures['macro_f1']:.4f}, accuracy {figures['accuracy']:.4f} on "
            f"{figures['photos']:,} photos of the held-out persons, in epoch {figures['epoch']}, the "
            "best on them",
        )
    yield "probabilities", calibration(card)
    yield "decision", decision(card)
    commit = f" by commit {card['commit']}" if card.get("commit") else ""
    versions = ", ".join(f"{name} {version}" for name, version in libraries.items())
    yield "made", f"{card['created']}{commit}; {versions}"
    yield "sha256", card["sha256"]


def network_input(card: Card) -> str:
    """Size, order and range of what the network takes."""
    ready = card["preprocessing"]
    mean, std = (" ".join(f"{value:.3f}" for value in ready[name]) for name in ("mean", "std"))
    height, width = ready["size"]
    stride = card["recipe"].get("stem_stride")
    stem = f"; stride of the first convolution {stride}" if stride else ""
    return (
        f"{height} pixels high, {width} wide, RGB from 0 to 1, minus {mean}, divided by {std}{stem}"
    )


def crop(card: Card) -> str:
    """What of a photo the network sees."""
    cut = card["preprocessing"]["crop"]
    parts = [f"--crop {cut['method']}", f"--margin {cut['margin']:g}"]
    parts += [f"--background {cut['background']}"] if cut["background"] != "keep" else []
    detector = cut["detector"]
    if detector["name"] != "none":
        parts.append(f"faces by {detector['name']} {detector['version']}")
    return ", ".join(parts)


def calibration(card: Card) -> str:
    """What a probability means."""
    told = _decision(card)
    if not told["ece"]:
        return "the network's own, not calibrated"
    before, after = (told["ece"][name] for name in ("before", "after"))
    return (
        f"temperature {told['temperature']:g}, fitted on the held-out persons; expected calibration "
        f"error {before:.3f} → {after:.3f} (cross-fitted by person)"
    )


def decision(card: Card) -> str:
    """Which class answers."""
    offsets = _decision(card)["offsets"]
    if not offsets:
        return "the likeliest class"
    pairs = zip(card["classes"], offsets["values"], strict=True)
    values, on = ", ".join(f"{name} {value:+.2f}" for name, value in pairs), offsets["tuned_on"]
    return (
        f"the highest log probability plus offset ({values}; tuned to the codes' macro F1 on "
        f"{on['persons']:,} held-out persons)"
    )


def _decision(card: Card) -> Mapping[str, Any]:
    from common.model.checkpoint import decision_of

    return decision_of(card)


def command(card: Card) -> list[str]:
    """The words of the training's command, with every flag of its recipe, but for --data."""
    split = {name: card["split"][name] for name in ("folds", "fold", "limit")}
    return ["python", "-m", f"{card['task']}.train", *saved_flags(card["recipe"] | split)]


def tables(card: Card) -> Iterator[Table]:
    """Held-out figures by class, by true class and answer, and by group of people."""
    import numpy as np

    from common.model.metrics import Scores

    figures, names = card["metrics"], card["classes"]
    counts = np.array(figures["confusion"])
    f1 = tuple(figures["f1"][name] for name in names)
    scores = Scores(
        figures["macro_f1"], figures["accuracy"], f1, counts, counts.sum(axis=1)
    ).rows_of(names)
    rows = [(name, f"{n:,}", *(f"{value:.3f}" for value in rest)) for name, n, *rest in scores]
    yield "by class", ("class", "photos", "recall", "precision", "F1"), rows
    rows = [(name, *(f"{n:,}" for n in row)) for name, row in zip(names, counts, strict=True)]
    yield "photos by true class and answer", ("true", *names), rows
    for part in figures.get("groups", ()):
        rows = [
            (", ".join(v or "not known" for v in values), f"{persons:,}", f"{photos:,}",
             f"{right / photos:.3f}")
            for values, persons, photos, right in part["rows"]
        ]  # fmt: skip
        by = ", ".join(part["by"])
        yield f"right answers by {by}", (by, "persons", "photos", "right"), rows


def described(card: Card, width: int, *, under_way: bool = False) -> str:
    """The card for a terminal of `width` columns; the command in it can be pasted."""
    lines = [("task", f"{card['task']}: {', '.join(card['classes'])}"), *facts(card)]
    lines += [("state", UNDER_WAY)] if under_way else []
    text = [_wrapped(f"{name:<{len(INDENT)}}{said}", width) for name, said in lines]
    flags = re.split(r" (?=--)", shlex.join(command(card)))  # a flag and its values stay in a line
    glued = " ".join(flag.replace(" ", "\0") for flag in flags)
    text.append(_wrapped(f"{'command':<{len(INDENT)}}{glued}", width, " \\").replace("\0", " "))
    found = list(tables(card)) if card["metrics"] else []
    text += [f"\n{title}\n{_columns(header, rows)}" for title, header, rows in found]
    if not card["metrics"].get("groups"):
        text.append(f"\n{NO_GROUPS if found else NO_EPOCH}")
    return "\n".join(printable(line) for part in text for line in part.split("\n"))


def _wrapped(text: str, width: int, end: str = "") -> str:
    lines = textwrap.wrap(
        text, max(width, 60) - len(end), subsequent_indent=INDENT, break_on_hyphens=False,
        break_long_words=False,
    )  # fmt: skip
    return f"{end}\n".join(lines)


def _columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells under their headings, the first to the left and all others to the right."""
    lines = [header, *rows]
    first, *widths = (max(map(len, column)) for column in zip(*lines, strict=True))
    return "\n".join(
        "  ".join([name.ljust(first), *map(str.rjust, cells, widths)]) for name, *cells in lines
    )


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m common.model.card",
        usage="%(prog)s FILE [flags]",
        description="Print what a checkpoint says of itself, or publish the model.",
    )
    add = parser.add_argument
    add("checkpoint", type=Path, metavar="FILE", help="a checkpoint, or an export (.onnx)")
    add(
        "--markdown", type=Path, metavar="CARD", nargs="?", const=Path(),
        help="write a Hugging Face model card to CARD (default: the checkpoint's name with .md)",
    )  # fmt: skip
    add(
        "--push-to-hub", metavar="REPO",
        help="publish weights and model card in the repository REPO, for timm to load",
    )  # fmt: skip
    add("--private", action="store_true", help="a new REPO is for its owner alone")
    return parser


def _command(options: argparse.Namespace) -> None:
    from common.model import hub
    from common.model.checkpoint import fitting

    path, target, repo = options.checkpoint, options.markdown, options.push_to_hub
    if options.private and not repo:
        raise UserError("--private needs --push-to-hub")
    if target is not None:
        target = path.with_suffix(".md") if target == Path() else target
        if target.suffix != ".md":  # `--markdown m.pt` must not take a checkpoint's place
            raise UserError(f"--markdown {target}: expected a name that ends in .md")
        writable_file(target)
    if repo:
        hub.check(repo, path)
    card, under_way = read_card(path)
    with fitting(path, card["task"]):
        if target is None and not repo:
            width = shutil.get_terminal_size((100, 24)).columns
            return print(described(card, width, under_way=under_way))
        if under_way or not card["metrics"]:
            raise UserError(
                f"{path}: {UNDER_WAY if under_way else NO_EPOCH}; publish a finished one"
            )
        text = str(hub.model_card(card, repo))
    if target is not None:
        write_whole(target, text.encode())
        print(f"{path} → {target}")
    if repo:
        print(f"{path} → {hub.push(path, repo, private=options.private)}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    arguments = _parser().parse_args(argv)
    return guarded(lambda: _command(arguments))


if __name__ == "__main__":
    sys.exit(main())
