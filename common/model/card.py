"""Print the card of a checkpoint or an export (.onnx), or write it as a model card.

python -m common.model.card m.pt                print its card
python -m common.model.card m.pt --markdown     write a Hugging Face model card, m.md
"""

import argparse
import re
import shlex
import shutil
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from common.base.command import Parser, guarded
from common.base.errors import UserError, printable
from common.base.files import writable_file, write_whole
from common.model.facts import IN_PROGRESS, NO_EPOCH, Card, command, facts, read_card, tables
from common.render.text import columns

INDENT = " " * 15  # longer than every name in `facts`
LEAST_WIDTH = 60  # columns; lines aren't wrapped more tightly in a narrower terminal


def card_text(card: Card, width: int, *, in_progress: bool = False) -> str:
    """The card for a terminal of `width` columns; its command can be pasted."""
    lines = [("task", f"{card['task']}: {', '.join(card['classes'])}"), *facts(card)]
    lines += [("state", IN_PROGRESS)] if in_progress else []
    text = [_wrapped(f"{name:<{len(INDENT)}}{words}", width) for name, words in lines]
    flags = re.split(r" (?=--)", shlex.join(command(card)))
    glued = " ".join(flag.replace(" ", "\0") for flag in flags)  # a flag stays with its values
    text.append(_wrapped(f"{'command':<{len(INDENT)}}{glued}", width, " \\").replace("\0", " "))
    if card["metrics"]:
        text += [f"\n{title}\n{columns(header, rows)}" for title, header, rows in tables(card)]
    else:
        text.append(f"\n{NO_EPOCH}")
    return "\n".join(printable(line) for part in text for line in part.split("\n"))


def _wrapped(text: str, width: int, end: str = "") -> str:
    lines = textwrap.wrap(
        text,
        max(width, LEAST_WIDTH) - len(end),
        subsequent_indent=INDENT,
        break_on_hyphens=False,
        break_long_words=False,
    )
    return f"{end}\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m common.model.card",
        usage="%(prog)s FILE [flags]",
        description="Print the card of a checkpoint or an export, or write it as a model card.",
    )
    parser.add_argument(
        "checkpoint", type=Path, metavar="FILE", help="a checkpoint, or an export (.onnx)"
    )
    parser.add_argument(
        "--markdown",
        type=Path,
        metavar="CARD",
        nargs="?",
        const=Path(),
        help="write a Hugging Face model card to CARD (default: the checkpoint's name with .md)",
    )
    return parser


def show(path: Path, target: Path | None) -> None:
    """Print the card of `path`, or write it as Markdown to `target`; Path() for a name beside it.

    Raises:
        UserError: the file is missing or damaged, or unfit for a model card.
    """
    from common.model.checkpoint import fitting

    if target is not None:
        target = path.with_suffix(".md") if target == Path() else target
        if target.suffix != ".md":  # `--markdown m.pt` would overwrite a checkpoint
            raise UserError(f"--markdown {target}: expected a name that ends in .md")
        writable_file(target, "text", reads=[path])
    card, in_progress = read_card(path)
    with fitting(path, card["task"]):
        if target is None:
            width = shutil.get_terminal_size((100, 24)).columns
            return print(card_text(card, width, in_progress=in_progress))
        if in_progress or not card["metrics"]:
            reason = IN_PROGRESS if in_progress else NO_EPOCH
            raise UserError(f"{path}: {reason}; a model card needs a finished training")
        from common.model.model_card import model_card

        text = str(model_card(card))
    write_whole(target, text.encode())
    print(f"{path} → {target}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    arguments = _parser().parse_args(argv)
    return guarded(lambda: show(arguments.checkpoint, arguments.markdown))


if __name__ == "__main__":
    sys.exit(main())
