"""The one error for a user's mistake, and the wording of messages."""

import difflib
import importlib
import re
import sys
from collections.abc import Iterable

from common.base.processes import is_main

# C0 without tab, newline and carriage return (progress bars), C1, and marks of direction (UAX 9).
CONTROLS = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]"
)


class UserError(Exception):
    """A mistake in the input: the file or row, what it has, and what is allowed.

    Command lines print the message without a traceback and exit with status 2.
    """


def printable(text: str) -> str:
    """`text` in one line that any terminal shows: file names may hold newlines and odd bytes."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def visible(text: str) -> str:
    """`text` whose control codes are shown instead of obeyed, but for tabs and ends of lines.

    A name in a file could otherwise recolour, overwrite or turn around what a terminal shows.
    """
    return text if text.isascii() and text.isprintable() else CONTROLS.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    return repr(match[0])[1:-1]


def counted(number: int, noun: str) -> str:
    """Write a number with its noun: 1 row, 2,000 rows."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def listed(lines: Iterable[str], limit: int = 20) -> str:
    """Join printable, indented `lines`, at most `limit` of them, and count the rest."""
    lines = [printable(line) for line in lines]
    rest = [f"… and {len(lines) - limit} more"] if len(lines) > limit else []
    return "\n".join(f"  {line}" for line in lines[:limit] + rest)


def suggestion(word: str, names: Iterable[str]) -> str:
    """The end of a message: "; did you mean NAME?" for the nearest of `names`, or ""."""
    near = difflib.get_close_matches(word, list(names), 1)
    return f"; did you mean {near[0]}?" if near else ""


def first_line(error: BaseException) -> str:
    """The first line of another library's error; the name of its type if it has no text."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def shortened(text: str, most: int) -> str:
    """`text` on one line of at most `most` characters."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 2]} …"


def need(extra: str, *modules: str, flag: str = "") -> None:
    """Check that the packages of an optional `extra` are installed.

    Raises:
        UserError: a module can't be imported; the message begins with the `flag` that needs it.
    """
    try:
        for module in modules:
            importlib.import_module(module)
    except ImportError as error:
        where = f"{flag}: " if flag else ""
        raise UserError(f"{where}{first_line(error)}; pip install '.[{extra}]' brings it") from None


def warn(message: str) -> None:
    """Print a warning, unless `message` is empty; under torchrun only the main process does."""
    if message and is_main():
        print(f"warning: {message}", file=sys.stderr)
