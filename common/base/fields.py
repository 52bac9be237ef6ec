"""Fields of a dataclass that are also flags: declared, parsed from words, stored as plain values."""

import argparse
import contextlib
import dataclasses
import math
import re
import types
import typing
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any


def flag(
    default: Any,
    help: str,
    *,
    group: str,
    parse: Callable[[str], Any] | None = None,
    **argument: Any,
) -> Any:
    """A dataclass field that is also a flag; `argument` goes to argparse's add_argument."""
    metadata = {"help": help, "group": group, "parse": parse, "argument": argument}
    return dataclasses.field(default=default, metadata=metadata)


NUMBERS = {int: "whole number", float: "number"}


def between(low: float, high: float, kind: type = float) -> Callable[[str], Any]:
    """A parser for numbers of `kind` from `low` to `high`, both allowed."""

    def parse(text: str) -> Any:
        with contextlib.suppress(ValueError):
            value = kind(text)
            if low <= value <= high:
                return value
        raise ValueError(f"expected a {NUMBERS[kind]} from {low} to {high}")

    return parse


def height_width(text: str) -> tuple[int, int]:
    """Parse "300" or "412x244" into (height, width) in pixels."""
    if not re.fullmatch(r"\d+(x\d+)?", text):
        raise ValueError("expected 224 or HEIGHTxWIDTH, such as 384x288")
    height, _, width = text.partition("x")
    return int(height), int(width or height)


def image_size(text: str) -> tuple[int, int]:
    """Parse the size of a network's input, (height, width) in pixels."""
    size = height_width(text)
    if not 32 <= min(size) <= max(size) <= 1024:
        raise ValueError("a side has 32 to 1024 pixels")
    return size


def center_size(text: str) -> tuple[int, int]:
    """Parse the size of the centre crop, (height, width) in pixels of a photo 384 wide."""
    size = height_width(text)
    if not 32 <= min(size) <= max(size) <= 512:
        raise ValueError("a side has 32 to 512 pixels of a photo 384 wide and 512 high")
    return size


def channel_value(text: str) -> str | float:
    """Parse a part of --mean or --std: a name, or a number where colours go from 0 to 1."""
    if text in ("model", "imagenet", "none"):
        return text
    with contextlib.suppress(ValueError):
        if 0 <= float(text) <= 1:
            return float(text)
    raise ValueError("expected model, imagenet, none, or three numbers from 0 to 1")


def names(text: str) -> list[str]:
    """Parse "years,mask" into its words."""
    found = [name.strip() for name in text.split(",")]
    if not all(found):
        raise ValueError("expected names, such as years,mask")
    return found


def project_name(text: str) -> str:
    """`text`, where Weights & Biases takes it as the name of a project."""
    if not re.fullmatch(r"[^/\\#?%:]{1,128}", text):
        raise ValueError("expected a name without / \\ # ? % :, of at most 128 characters")
    return text


def fold_number(text: str) -> int | str:
    """Parse a fold: its number, or all."""
    return text if text == "all" else between(0, 999, int)(text)


def tta_mode(text: str) -> str | int:
    """Parse --tta: "flip" or a number of views."""
    if text == "flip":
        return text
    try:
        return between(2, 100, int)(text)
    except ValueError:
        raise ValueError("expected flip or a whole number from 2 to 100") from None


def photo_place(text: str) -> Path | str:
    """`text` as a path, or as it stands where it is a URI: s3://bucket/photos."""
    return text if "://" in text else Path(text)


def host_port(text: str) -> tuple[str, int]:
    """Parse "8000" or "0.0.0.0:8000"; without a host it is 127.0.0.1, this machine alone."""
    host, _, port = text.rpartition(":")
    if not re.fullmatch(r"[A-Za-z0-9.-]*", host):
        raise ValueError("expected a port or HOST:PORT")
    return host or "127.0.0.1", between(0, 65_535, int)(port)


def positive(text: str) -> float:
    """Parse a weight."""
    with contextlib.suppress(ValueError):
        if 0 < float(text) < math.inf:
            return float(text)
    raise ValueError("expected a positive number")


def plain(value: Any) -> Any:
    """`value` as numbers, strings and lists: what JSON and weights_only files can hold."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    return value


def tuples(value: Any) -> Any:
    """A `plain` value with its lists as tuples again; paths stay text."""
    return tuple(map(tuples, value)) if isinstance(value, list) else value


def restored(field: dataclasses.Field, value: Any) -> Any:
    """The inverse of `plain` for a field's value: lists become tuples, paths paths again."""
    if isinstance(value, list):
        return tuple(restored(field, item) for item in value)
    path = field.type in (Path, Path | None, tuple[Path, ...]) and value is not None
    return Path(value) if path else value


METAVARS = {int: "N", float: "X"}
FILE_FIELDS = ("weights", "label_fixes")


def spelled(value: Any) -> str:
    """A field's value for a person: 96x64 for a size, 57-59 28-29 for ranges of years, on, none."""
    if isinstance(value, bool):
        return "on" if value else "off"
    home = str(Path.home())
    if isinstance(value, Path):
        return str(value).replace(home, "~", 1)
    return "none" if value is None else " ".join(_words(value)) or "none"


def _words(value: Any) -> list[str]:
    """A value as it is typed after its flag; a tuple of tuples takes a word for each."""
    if isinstance(value, Path):
        return [f"./{value}" if str(value).startswith("-") else str(value)]
    if not isinstance(value, tuple):
        return [str(value)]
    if value and all(isinstance(side, int) for side in value):
        return ["x".join(map(str, value)) if len(set(value)) > 1 else str(value[0])]
    return [
        "-".join(map(str, part)) if isinstance(part, tuple) else _words(part)[0] for part in value
    ]


def flags_of(settings: Any, base: Any = None) -> list[str]:
    """The command line's words that turn `base`, else the defaults, into `settings`.

    `parse` reads them back to the same fields; shlex.join makes a line to paste. ValueError where
    a field of `base` has a value that `settings` lacks, as no flag takes a value away.
    """
    base = type(settings)() if base is None else base
    words: list[str] = []
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if value != getattr(base, field.name):
            words += _flag(field.name.replace("_", "-"), value)
    return words


def saved_flags(fields: Mapping[str, Any]) -> list[str]:
    """The words for all `fields` of a saved recipe, so that later defaults don't matter.

    Files are named without their folders, which were on the machine that trained.
    """
    words: list[str] = []
    for name, value in fields.items():
        if value is not None:
            value = Path(value).name if name in FILE_FIELDS else tuples(value)
            words += _flag(name.replace("_", "-"), value)
    return words


def _flag(name: str, value: Any) -> list[str]:
    if value is None:
        raise ValueError(f"no flag takes --{name} away")
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    words = _words(value)
    if len(words) == 1 and words[0].startswith("-"):  # else it would be read as a flag
        return [f"--{name}={words[0]}"]
    return [f"--{name}", *words]


def _kind(field: dataclasses.Field) -> Callable[[str], Any]:
    kinds = [k for k in typing.get_args(field.type) if k is not types.NoneType]
    return kinds[0] if kinds else field.type


def explained(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """Let argparse show a parser's own words instead of "invalid value"."""

    def call(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None

    call.__name__ = getattr(parse, "__name__", "value")
    return call


def _described(settings: type, name: str) -> dataclasses.Field:
    """The field as first declared: a task that changes a default need not repeat the help."""
    fields = (getattr(c, "__dataclass_fields__", {}).get(name) for c in settings.__mro__)
    return next(f for f in fields if f is not None and f.metadata)


def add_flags(
    parser: argparse.ArgumentParser, settings: type, only: Collection[str] | None = None
) -> None:
    """Add a flag for each field (or `only` some) of the dataclass `settings`, under its heading."""
    groups: dict[str, Any] = {}
    for field in dataclasses.fields(settings):
        if only is not None and field.name not in only:
            continue
        metadata = _described(settings, field.name).metadata
        title = metadata["group"]
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        argument = {"help": metadata["help"], "default": field.default}
        if _kind(field) in METAVARS:
            argument["metavar"] = METAVARS[_kind(field)]
        argument |= metadata["argument"]
        if field.type is bool:
            argument["action"] = argparse.BooleanOptionalAction
        else:
            argument["type"] = explained(metadata["parse"] or _kind(field))
        groups[title].add_argument("--" + field.name.replace("_", "-"), **argument)


def build(settings: type, values: Mapping[str, Any]) -> Any:
    """The dataclass `settings` from parsed values; lists, and lists in lists, become tuples."""
    given = {f.name: values[f.name] for f in dataclasses.fields(settings)}
    return settings(**{k: _flat(v) if isinstance(v, list) else v for k, v in given.items()})


def _flat(words: list[Any]) -> tuple[Any, ...]:
    """What several words were parsed to; a word such as years,mask gives a list of its own."""
    return tuple(item for word in words for item in (word if isinstance(word, list) else [word]))
