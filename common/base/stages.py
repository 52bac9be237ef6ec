"""Where the time went: seconds by stage, for the line at the end of long work."""

import contextlib
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

T = TypeVar("T")


class Stages:
    """Adds up the seconds of wall time that each stage took, in the order in which they were met.

    Other processes count for themselves and send their `seconds` along; so the sum over the stages
    may be more than went by on the clock.
    """

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Count what runs inside as `name`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - start

    def each(self, items: Iterable[T], waiting: str, working: str) -> Iterator[T]:
        """Hand on `items`; counts the time until each comes, and what is then done with it."""
        with self(waiting):
            iterator, end = iter(items), object()
            item = next(iterator, end)
        while item is not end:
            with self(working):
                yield item
            with self(waiting):
                item = next(iterator, end)

    def add(self, seconds: Mapping[str, float]) -> None:
        """Count what another process, or another object, has counted."""
        self.seconds.update(seconds)

    def line(self) -> str:
        """All stages in words, such as "decode 1.2 s, detect 30.4 s, networks 12.0 min"."""
        return ", ".join(f"{name} {duration(seconds)}" for name, seconds in self.seconds.items())


def duration(seconds: float) -> str:
    """Seconds below two minutes, else minutes."""
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} min"
