"""Seconds by stage, for the line about time at the end of long work."""

import contextlib
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

T = TypeVar("T")


class Stages:
    """Wall time in seconds by stage, in the order of first use.

    Other processes measure their own `seconds` and send them along, so the sum over the stages may
    exceed the time on the clock.
    """

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Add the time that the block takes to the stage `name`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - start

    def each(self, items: Iterable[T], waiting: str, working: str) -> Iterator[T]:
        """Yield `items`; time until each arrives is added to `waiting`, its use to `working`."""
        with self(waiting):
            iterator, end = iter(items), object()
            item = next(iterator, end)
        while item is not end:
            with self(working):
                yield item
            with self(waiting):
                item = next(iterator, end)

    def add(self, seconds: Mapping[str, float]) -> None:
        """Add the seconds by stage of another process or object."""
        self.seconds.update(seconds)

    def line(self) -> str:
        """All stages in a line, such as "decode 1.2 s, detect 30.4 s, networks 12.0 min"."""
        return ", ".join(f"{name} {duration(seconds)}" for name, seconds in self.seconds.items())


def duration(seconds: float) -> str:
    """`seconds` in words: in seconds below two minutes, else in minutes."""
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} min"
