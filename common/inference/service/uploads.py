"""Photos out of a multipart request, kept in memory and within limits."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import NamedTuple

from starlette.datastructures import FormData
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

FIELD = "files"
MOST_FILES = 16
FILE_BYTES = 10_000_000
REQUEST_BYTES = 40_000_000
READ_SECONDS = 30  # for a request's body, so that slow senders don't keep others out
logging.getLogger("python_multipart").addHandler(logging.NullHandler())  # else on stderr, at will


class Refused(Exception):
    """A request that gets no answer: the HTTP status, why, and of which files (name → reason)."""

    def __init__(
        self,
        status: int,
        detail: str,
        files: Mapping[int, tuple[str, str]] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers = status, detail, dict(headers or {})
        self.files = [{"name": name, "reason": reason} for name, reason in (files or {}).values()]


class Upload(NamedTuple):
    """A file that a client sent: the name that it gave, and the bytes."""

    name: str
    data: bytes


class _Parser(MultiPartParser):
    """Reads the body to its limit, whatever length the headers tell, and to its last boundary.

    Files stay in memory, where Starlette would write larger ones to the disk.
    """

    spool_max_size = REQUEST_BYTES

    def __init__(self, request: Request) -> None:
        body = self._whole(request)
        super().__init__(request.headers, body, max_files=MOST_FILES, max_fields=MOST_FILES)
        self._ended = False

    def on_end(self) -> None:
        self._ended = True

    async def _whole(self, request: Request) -> AsyncGenerator[bytes, None]:
        size = 0
        async for chunk in request.stream():
            size += len(chunk)
            if size > REQUEST_BYTES:
                raise Refused(413, f"the request has more than {REQUEST_BYTES // 10**6} MB")
            yield chunk
        if not self._ended:  # a last file that is cut short must not go unnoticed
            raise MultiPartException("the multipart body ends before its last boundary")


async def read_uploads(request: Request) -> list[Upload]:
    """The files of a multipart request, at least one; Refused says what is wrong with it."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        raise Refused(415, f"expected multipart/form-data with photos as {FIELD}")
    try:
        async with asyncio.timeout(READ_SECONDS):
            form = await _Parser(request).parse()
    except TimeoutError:
        raise Refused(408, f"the body didn't come within {READ_SECONDS} s") from None
    except MultiPartException as error:
        raise Refused(400, error.message) from None
    except ClientDisconnect:
        raise Refused(400, "the client went away") from None
    try:
        return _uploads(form)
    finally:
        await form.close()


def _uploads(form: FormData) -> list[Upload]:
    uploads = []
    for name, item in form.multi_items():
        if name != FIELD or isinstance(item, str):
            raise Refused(422, f"part {name!r}: expected only photos, as files called {FIELD}")
        uploads.append(Upload(item.filename or "", item.file.read()))
    if not uploads:
        raise Refused(422, f"no photos: expected one or more files called {FIELD}")
    _check(uploads)
    return uploads


def _check(uploads: Sequence[Upload]) -> None:
    reason = f"more than {FILE_BYTES // 10**6} MB"
    large = {
        place: (upload.name, reason)
        for place, upload in enumerate(uploads)
        if len(upload.data) > FILE_BYTES
    }
    if large:
        raise Refused(413, f"{len(large)} of {len(uploads)} files: {reason}", large)
