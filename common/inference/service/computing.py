"""Threads that compute photos, each within a time limit, for clients that still wait."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from starlette.requests import Request

from common.base.errors import counted
from common.data.loading import PHOTO_SECONDS
from common.inference.service.uploads import Refused

MOST_LOST = 16  # threads over the limit that may still compute before requests are refused

Computed = TypeVar("Computed")


class Gone(Exception):
    """The client has disconnected, or its time is over: nobody waits for the result."""


class Computing:
    """Runs `threads` calls at a time; one that takes too long is given up and replaced."""

    def __init__(self, threads: int) -> None:
        self._places = asyncio.Semaphore(threads)
        self._pool = ThreadPoolExecutor(threads + MOST_LOST, thread_name_prefix="photos")
        self._lost = 0

    async def run(
        self, request: Request, compute: Callable[[Callable[[], None]], Computed], photos: int
    ) -> Computed:
        """Call `compute` in a thread for so many photos; it gets a function to call before each.

        That function raises Gone once nobody waits for the result.

        Raises:
            Refused: the client disconnected, or the time is over.
        """
        left = threading.Event()

        def check() -> None:
            if left.is_set():
                raise Gone

        gone = asyncio.create_task(_disconnected(request))
        try:
            async with self._place(gone):
                call = asyncio.get_running_loop().run_in_executor(self._pool, compute, check)
                seconds = PHOTO_SECONDS * photos
                await asyncio.wait(
                    {call, gone}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
                )
                if call.done():
                    return call.result()
                self._lost += 1
                call.add_done_callback(self._found)
                if gone.done():
                    raise Refused(400, "the client disconnected")
                raise Refused(422, f"{counted(photos, 'photo')} took more than {seconds} s")
        finally:
            left.set()
            gone.cancel()

    @contextlib.asynccontextmanager
    async def _place(self, gone: asyncio.Task) -> AsyncIterator[None]:
        """Wait for a free thread.

        Raises:
            Refused: the client disconnected meanwhile, or too many threads are lost.
        """
        async with self._places:
            if gone.done():
                raise Refused(400, "the client disconnected")
            if self._lost >= MOST_LOST:
                raise Refused(503, "earlier photos take too long", headers={"retry-after": "10"})
            yield

    def _found(self, call: asyncio.Future) -> None:
        """Note that a lost thread is free again; its result or error is of no use."""
        self._lost -= 1
        if not call.cancelled():
            call.exception()


async def _disconnected(request: Request) -> None:
    """Wait until the client disconnects; the request's body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
