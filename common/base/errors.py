"""The one error a user's mistake raises."""

import sys
from collections.abc import Iterable

from common.base.processes import is_main


class UserError(Exception):
    """A mistake in the input: which file or row, what was found, what is allowed.

    Command lines print the message without a traceback and exit with status 2.
    """


def printable(text: str) -> str:
    """`text` in one line that any terminal shows: file names may hold newlines and odd bytes."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def listed(lines: Iterable[str], limit: int = 20) -> str:
    """Put printable `lines` under one another, at most `limit` of them, and count the rest."""
    lines = [printable(line) for line in lines]
    rest = [f"… and {len(lines) - limit} more"] if len(lines) > limit else []
    return "\n".join(f"  {line}" for line in lines[:limit] + rest)


def warn(message: str) -> None:
    """Print a warning, once for all processes, unless there is nothing to say."""
    if message and is_main():
        print(f"warning: {message}", file=sys.stderr)
