"""The version of this project."""

import configparser
import importlib.metadata
from pathlib import Path

NAME = "face-mask-gender-age"


def version() -> str:
    """Return the version in the setup.cfg of a clone, else that of the installed package."""
    settings = configparser.ConfigParser()
    settings.read(Path(__file__).parents[2] / "setup.cfg")
    if settings.get("metadata", "name", fallback="") == NAME:
        return settings.get("metadata", "version")
    try:
        return importlib.metadata.version(NAME)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
