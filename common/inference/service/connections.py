"""Connections of clients: a limited number of them, and limited time to send a request's headers."""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_SECONDS = 10  # for the first line and all headers
MOST_CONNECTIONS = 512
SPARE_FILES = 64  # that the process needs besides its connections


def most_connections() -> int:
    """Number of connections at a time: MOST_CONNECTIONS, or fewer where the system allows fewer."""
    try:
        import resource
    except ImportError:  # Windows
        return MOST_CONNECTIONS
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return MOST_CONNECTIONS
    return max(1, min(MOST_CONNECTIONS, files - SPARE_FILES, files // 2))


class LimitedConnection(H11Protocol):
    """A connection that ends where its headers take too long.

    A new one beyond the limit ends the oldest that waits for a request, so that clients that open
    connections and send nothing can't keep others out.
    """

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._since = self.loop.time()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waits(self) -> bool:
        """True while no request is in progress."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Accept a connection, or end the oldest that waits, or this one if none does."""
        super().connection_made(transport)
        if len(self.connections) > most_connections():
            waiting = [c for c in self.connections if c is not self and c.waits]
            oldest = min(waiting, key=lambda connection: connection._since, default=self)
            self.connections.discard(oldest)
            oldest.transport.abort()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the time limit."""
        self._stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes; the time limit ends with the last header."""
        super().data_received(data)
        self._watch()

    def _watch(self) -> None:
        if not self.waits:
            self._stop()
        elif self._timer is None and not self.transport.is_closing():
            self._since = self.loop.time()
            self._timer = self.loop.call_later(HEADER_SECONDS, self._expire)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire(self) -> None:
        self._timer = None
        if self.waits and not self.transport.is_closing():
            self.transport.abort()
