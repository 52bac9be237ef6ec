"""What the mask, gender and age tasks share; it knows none of them."""

import os
import sys
from types import TracebackType

# Importing albumentations would otherwise ask the network for a newer version.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
# onnxruntime from 1.29 on would tell its maker about models and this machine.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def _interrupted(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Ctrl-C while a command is still importing; `common.base.command.guarded` sees to the rest."""
    if issubclass(kind, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


if sys.excepthook is sys.__excepthook__:
    sys.excepthook = _interrupted
