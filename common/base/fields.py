"""Fields of a dataclass that are also flags: declared, parsed, and stored as plain values."""

import argparse
import contextlib
import dataclasses
import math
import os
import re
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.base.errors import UserError


def flag(
    default: Any,
    help: str,
    *,
    group: str,
    parse: Callable[[str], Any] | None = None,
    needs: Mapping[str, Collection[Any]] | None = None,
    aliases: Sequence[str] = (),
    **argument: Any,
) -> Any:
    """A dataclass field that is also a flag; `argument` goes to argparse's add_argument.

    `needs` maps other fields to the values with which this one has an effect, or to () for any
    value but an empty one; one of them must hold (see `check_needs`). `aliases` are further
    spellings of the flag, such as "-b".
    """
    metadata = {
        "help": help,
        "group": group,
        "parse": parse,
        "argument": argument,
        "needs": needs or {},
        "aliases": tuple(aliases),
    }
    return dataclasses.field(default=default, metadata=metadata)


def has_effect(settings: Any, name: str) -> bool:
    """Return whether the field `name` of a dataclass changes anything beside its other fields."""
    needs = needed(settings, name)
    return not needs or any(
        _holds(getattr(settings, other), values) for other, values in needs.items()
    )


def needed(settings: Any, name: str) -> Mapping[str, Collection[Any]]:
    """Return the fields, and their values, that the field `name` needs to have an effect."""
    return declared(type(settings), name).metadata["needs"]


def _holds(value: Any, values: Collection[Any]) -> bool:
    if not values:
        return bool(value)
    return any(item in values for item in (value if isinstance(value, tuple) else (value,)))


def check_needs(settings: Any) -> None:
    """Check that no flag was changed that has no effect beside the others.

    Raises:
        UserError: names the flag, and what it needs.
    """
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)  # what is off or empty needs no effect
        if value and value != field.default and not has_effect(settings, field.name):
            ways = [
                " ".join([f"--{_dashes(other)}", " or ".join(map(str, values))]).strip()
                for other, values in needed(settings, field.name).items()
            ]
            raise UserError(f"--{_dashes(field.name)} needs {' or '.join(ways)}")


def _dashes(name: str) -> str:
    return name.replace("_", "-")


NUMBERS = {int: "whole number", float: "number"}


def between(low: float, high: float, kind: type = float) -> Callable[[str], Any]:
    """Make a parser of numbers of `kind` from `low` to `high`, both included."""

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
    """Parse a part of --mean or --std: a name, or a number for colours from 0 to 1."""
    if text in ("model", "imagenet", "none"):
        return text
    with contextlib.suppress(ValueError):
        if 0 <= float(text) <= 1:
            return float(text)
    raise ValueError("expected model, imagenet, none, or three numbers from 0 to 1")


def names(text: str) -> list[str]:
    """Parse "years,mask" into a list of names."""
    words = [name.strip() for name in text.split(",")]
    if not all(words):
        raise ValueError("expected names, such as years,mask")
    return words


def project_name(text: str) -> str:
    """Parse the name of a project on Weights & Biases."""
    if not re.fullmatch(r"[^/\\#?%:]{1,128}", text):
        raise ValueError("expected a name without / \\ # ? % :, of at most 128 characters")
    return text


def folder_name(text: str) -> str:
    """Parse the name of a new folder."""
    if not re.fullmatch(r"[\w][\w .+=,@-]{0,99}", text) or text.endswith((" ", ".")):
        raise ValueError("expected a name of letters, digits and _ - . + = , @")
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
    """Parse a path; a URI such as s3://bucket/photos stays text."""
    return text if "://" in text else Path(text)


def host_port(text: str) -> tuple[str, int]:
    """Parse "8000" or "0.0.0.0:8000"; the host defaults to 127.0.0.1, this machine only."""
    host, _, port = text.rpartition(":")
    if not re.fullmatch(r"[A-Za-z0-9.-]*", host):
        raise ValueError("expected a port or HOST:PORT")
    return host or "127.0.0.1", between(0, 65_535, int)(port)


def positive(text: str) -> float:
    """Parse a positive, finite number."""
    with contextlib.suppress(ValueError):
        if 0 < float(text) < math.inf:
            return float(text)
    raise ValueError("expected a positive number")


def plain(value: Any) -> Any:
    """Convert `value` to numbers, strings and lists, which JSON and weights_only files can hold."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    return value


def tuples(value: Any) -> Any:
    """Convert the lists of a `plain` value back to tuples; paths stay text."""
    return tuple(map(tuples, value)) if isinstance(value, list) else value


def restored(field: dataclasses.Field, value: Any) -> Any:
    """Undo `plain` for a field's value: lists become tuples, and text becomes a path again."""
    if isinstance(value, list):
        return tuple(restored(field, item) for item in value)
    path = field.type in (Path, Path | None, tuple[Path, ...]) and value is not None
    return Path(value) if path else value


METAVARS = {int: "N", float: "X"}
FILE_FIELDS = ("weights", "label_fixes")


def spelled(value: Any) -> str:
    """Format a field's value: 96x64 for a size, 57-59 28-29 for ranges of years, on, none."""
    if isinstance(value, bool):
        return "on" if value else "off"
    home = os.path.expanduser("~")  # "~" for a user id without a home
    if isinstance(value, Path):
        return str(value).replace(home, "~", 1)
    return "none" if value is None else " ".join(_words(value)) or "none"


def _words(value: Any) -> list[str]:
    """Split a value into the words that are typed after its flag, one for each item of a tuple."""
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
    """Command-line words that change `base`, by default the default settings, to `settings`.

    `parse` reads them back to the same fields; shlex.join makes a line to paste.

    Raises:
        ValueError: a field is None in `settings` only; no flag removes a value.
    """
    base = type(settings)() if base is None else base
    words: list[str] = []
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if value != getattr(base, field.name):
            words += _flag(field.name.replace("_", "-"), value)
    return words


def saved_flags(fields: Mapping[str, Any]) -> list[str]:
    """Command-line words for all `fields` of a saved recipe, so that later defaults don't matter.

    Files are named without their folders, which belong to the machine that trained.
    """
    words: list[str] = []
    for name, value in fields.items():
        if value is not None:
            value = Path(value).name if name in FILE_FIELDS else tuples(value)
            words += _flag(name.replace("_", "-"), value)
    return words


def _flag(name: str, value: Any) -> list[str]:
    if value is None:
        raise ValueError(f"no flag removes --{name}")
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    words = _words(value)
    if len(words) == 1 and words[0].startswith("-"):  # without = it would be read as a flag
        return [f"--{name}={words[0]}"]
    return [f"--{name}", *words]


def _kind(field: dataclasses.Field) -> Callable[[str], Any]:
    kinds = [k for k in typing.get_args(field.type) if k is not types.NoneType]
    return kinds[0] if kinds else field.type


def explained(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """Wrap `parse` so that argparse shows its message instead of "invalid value"."""

    def call(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None

    call.__name__ = getattr(parse, "__name__", "value")
    return call


def declared(settings: type, name: str) -> dataclasses.Field:
    """Return a field as first declared: a task that changes a default needn't repeat the help."""
    fields = (getattr(c, "__dataclass_fields__", {}).get(name) for c in settings.__mro__)
    return next(f for f in fields if f is not None and f.metadata)


def add_flags(
    parser: argparse.ArgumentParser, settings: type, only: Collection[str] | None = None
) -> None:
    """Add a flag for each field of the dataclass `settings`, or `only` for some, by group."""
    groups: dict[str, Any] = {}
    for field in dataclasses.fields(settings):
        if only is not None and field.name not in only:
            continue
        metadata = declared(settings, field.name).metadata
        title = metadata["group"]
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        argument = {"help": metadata["help"], "default": field.default}
        if _kind(field) in METAVARS:
            argument["metavar"] = METAVARS[_kind(field)]
        argument |= metadata["argument"]
        if field.type is bool:
            argument.setdefault("action", argparse.BooleanOptionalAction)
        else:
            argument["type"] = explained(metadata["parse"] or _kind(field))
        spellings = "--" + _dashes(field.name), *metadata["aliases"]
        groups[title].add_argument(*spellings, **argument)


def build(settings: type, values: Mapping[str, Any]) -> Any:
    """Make the dataclass `settings` from parsed values; nested lists become flat tuples."""
    given = {f.name: values[f.name] for f in dataclasses.fields(settings)}
    return settings(**{k: _flat(v) if isinstance(v, list) else v for k, v in given.items()})


def _flat(words: list[Any]) -> tuple[Any, ...]:
    """Flatten parsed words; a word such as years,mask was parsed to a list of its own."""
    return tuple(item for word in words for item in (word if isinstance(word, list) else [word]))
