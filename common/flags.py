"""Fields of a dataclass that are also flags: declared, parsed from words, stored as plain values."""

import contextlib
import dataclasses
import math
import re
from collections.abc import Callable
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
