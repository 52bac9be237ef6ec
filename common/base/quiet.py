"""Environment variables that keep other libraries from reporting to the network."""

import contextlib
import os
from collections.abc import Iterator

QUIET = {
    "NO_ALBUMENTATIONS_UPDATE": "1",  # albumentations asks for a newer release when imported
    "ORT_DISABLE_TELEMETRY": "1",  # onnxruntime from 1.29 on reports models and the machine
}


def be_quiet() -> None:
    """Set the variables for the whole process and its children, unless the user has set them."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Set the variables for the import of such a library only, and restore them afterwards."""
    missing = [name for name in QUIET if name not in os.environ]
    be_quiet()
    try:
        yield
    finally:
        for name in missing:
            os.environ.pop(name, None)
