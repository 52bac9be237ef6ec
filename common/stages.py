"""Where the time went: seconds by stage, for the line at the end of long work."""

import contextlib
import time
from collections import Counter
from collections.abc import Iterator, Mapping


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

    def add(self, seconds: Mapping[str, float]) -> None:
        """Count what another process, or another object, has counted."""
        self.seconds.update(seconds)

    def line(self) -> str:
        """All stages in words, such as "decode 1.2 s, detect 30.4 s, networks 12.0 s"."""
        return ", ".join(f"{name} {seconds:.1f} s" for name, seconds in self.seconds.items())
