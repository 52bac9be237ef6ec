"""Check of the values in a card: a file can hold any, and a digest only says that they are its own."""

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from common.base.errors import UserError, printable, shortened

LONGEST_SIDE = 4096  # px of a crop; flags take 1024
HIGHEST_MARGIN = 10.0  # of the face's side; flags take 1
LONGEST_WORD = 100  # letters of a task or class

Value = tuple[str, Any, Callable[[Any], bool], str]  # name, value, test, what is allowed


def check_card(path: Path, card: Mapping[str, Any]) -> None:
    """Check the values that a prediction or a page computes with, as far as the card has them.

    Raises:
        UserError: one has another kind, or is out of range; names it.
    """
    for name, value, allowed, words in _values(card):
        if not allowed(value):
            shown = printable(shortened(repr(value), 60))
            raise UserError(f"{path}: its card has {name} {shown}, expected {words}")


def _values(card: Mapping[str, Any]) -> Iterator[Value]:
    """Yield each value with its test."""
    yield "task", card["task"], _is_name, "a word"
    if "classes" in card:
        yield "classes", card["classes"], _are_names, "two or more words"
    for name in ("recipe", "preprocessing", "split", "metrics", "decision", "libraries"):
        if name in card:
            yield name, card[name], lambda value: isinstance(value, Mapping), "names with values"
    yield from _crop_values(card.get("recipe", {}), card.get("preprocessing", {}))
    yield from _decision_values(card.get("decision", {}), len(card.get("classes", ())))


def _crop_values(recipe: Mapping[str, Any], prepared: Mapping[str, Any]) -> Iterator[Value]:
    sides = f"height and width from 1 to {LONGEST_SIDE} pixels"
    for name, given in (("size", recipe), ("center", recipe), ("size", prepared)):
        if name in given:
            yield name, given[name], _is_size, sides
    if "margin" in recipe:
        within = f"a number from 0 to {HIGHEST_MARGIN:g}"
        yield (
            "margin",
            recipe["margin"],
            lambda v: _is_number(v) and 0 <= v <= HIGHEST_MARGIN,
            within,
        )
    if "mean" in prepared:
        yield "mean", prepared["mean"], _are_colours, "three numbers from 0 to 1"
    if "std" in prepared:
        yield (
            "std",
            prepared["std"],
            lambda v: _are_colours(v) and 0 not in v,
            "three numbers from 0 to 1, none of them 0",
        )


def _decision_values(decision: Mapping[str, Any], classes: int) -> Iterator[Value]:
    if "temperature" in decision:
        words = "a number above 0"
        yield "temperature", decision["temperature"], lambda v: _is_number(v) and v > 0, words
    if decision.get("prior") is not None:
        yield (
            "prior",
            decision["prior"],
            lambda v: _are_numbers(v, classes) and min(v) >= 0,
            "a number for each class",
        )
    if decision.get("offsets") is not None:
        yield (
            "offsets",
            decision["offsets"],
            lambda v: isinstance(v, Mapping) and _are_numbers(v.get("values"), classes),
            "a number for each class",
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _are_numbers(values: Any, count: int) -> bool:
    return (
        isinstance(values, list | tuple) and len(values) == count and all(map(_is_number, values))
    )


def _are_colours(values: Any) -> bool:
    return _are_numbers(values, 3) and all(0 <= value <= 1 for value in values)


def _is_size(values: Any) -> bool:
    whole = _are_numbers(values, 2) and all(isinstance(value, int) for value in values)
    return whole and all(1 <= value <= LONGEST_SIDE for value in values)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= LONGEST_WORD and value.isprintable()


def _are_names(values: Any) -> bool:
    return isinstance(values, list | tuple) and len(values) > 1 and all(map(_is_name, values))
