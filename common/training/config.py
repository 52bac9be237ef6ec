"""Settings of a training from a file: --config."""

import argparse
import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.base.errors import UserError, first_line, suggestion
from common.base.fields import flags_of, restored
from common.base.run_settings import Run
from common.model.recipe import Recipe

ABOUT = ("task", "split", "commit", "processes", "launch")  # in a run's recipe.json beside settings


def expanded(recipe: type[Recipe], argv: Sequence[str] | None) -> list[str]:
    """The words of a command line with those of its --config FILE before them, which they overrule.

    Raises:
        UserError: the file can't be read, is of another task, or has a setting of no known name.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", type=Path)
    given, rest = parser.parse_known_args(words)
    return words if given.config is None else [*read_config(recipe, given.config), *rest]


def read_config(recipe: type[Recipe], file: Path) -> list[str]:
    """Read the settings in a JSON or YAML file as command-line words.

    The file is a run's recipe.json, or a mapping of flags to values, such as `batch-size: 32`.

    Raises:
        UserError: it can't be read, is of another task, or has a setting of no known name.
    """
    content = _read(file)
    if content.get("task", recipe.task) != recipe.task:
        raise UserError(f"--config {file}: settings of {content['task']}, not of {recipe.task}")
    nested = [content[part] for part in ("recipe", "run") if isinstance(content.get(part), dict)]
    flat = {} if nested else content
    values = {
        str(name).replace("-", "_"): value
        for part in (*nested, flat)
        for name, value in part.items()
        if name not in ABOUT and value is not None
    }
    values.pop("resume", None)
    words: list[str] = []
    for settings in (recipe, Run):
        fields = {field.name: field for field in dataclasses.fields(settings)}
        own = {name: restored(fields[name], values.pop(name)) for name in fields & values.keys()}
        words += flags_of(dataclasses.replace(settings(), **own))
    if values:
        names = [f.name for settings in (recipe, Run) for f in dataclasses.fields(settings)]
        name = next(iter(values))
        raise UserError(f"--config {file}: no setting {name!r}{suggestion(name, names)}")
    return words


def _read(file: Path) -> Mapping[str, Any]:
    import yaml  # JSON is YAML, but its errors are named better by json

    try:
        text = file.read_text(encoding="utf-8-sig")
        content = json.loads(text) if file.suffix == ".json" else yaml.safe_load(text)
    except OSError as error:
        raise UserError(f"--config {file}: {error.strerror}") from None
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"--config {file}: not JSON or YAML: {first_line(error)}") from None
    if not isinstance(content, dict):
        raise UserError(f"--config {file}: expected names with values, such as lr: 0.001")
    return content
