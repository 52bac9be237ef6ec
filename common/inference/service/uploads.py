"""Photos from a multipart request, kept in memory and within limits."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import NamedTuple

from starlette.datastructures import FormData
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from common.inference.service.reasons import reason_code

FIELD = "files"
MAX_FILES = 16
FILE_BYTES = 10_000_000
REQUEST_BYTES = 40_000_000
READ_SECONDS = 30  # for a request's body, so that slow clients don't block others


class Refused(Exception):
    """A request without predictions: HTTP status, reason, and the bad files as (name, reason)."""

    def __init__(
        self,
        status: int,
        detail: str,
        files: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers = status, detail, dict(headers or {})
        self.files = [
            {"name": name, "reason": reason, "code": reason_code(reason)} for name, reason in files
        ]


class Upload(NamedTuple):
    """An uploaded file: the name that the client gave, and the content."""

    name: str
    data: bytes


class _TooLarge(MultiPartException):
    pass


class _Parser(MultiPartParser):
    """Reads the body up to the limit, whatever length its headers state, and to its end."""

    spool_max_size = REQUEST_BYTES  # Starlette writes larger files to the disk

    def __init__(self, request: Request) -> None:
        body = self._whole(request)
        super().__init__(request.headers, body, max_files=MAX_FILES, max_fields=MAX_FILES)
        self._ended = False

    def on_end(self) -> None:
        """Note the last boundary."""
        self._ended = True

    async def _whole(self, request: Request) -> AsyncGenerator[bytes, None]:
        size = 0
        async for chunk in request.stream():
            size += len(chunk)
            if size > REQUEST_BYTES:
                raise _TooLarge(f"the request has more than {REQUEST_BYTES // 10**6} MB")
            yield chunk
        if not self._ended:  # otherwise a truncated last file would go unnoticed
            raise MultiPartException("the multipart body ends before its last boundary")


async def read_uploads(request: Request) -> list[Upload]:
    """Read the files of a multipart request.

    Raises:
        Refused: the body isn't a form of one or more photos within the limits.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        raise Refused(415, f"expected multipart/form-data with photos as {FIELD}")
    try:
        async with asyncio.timeout(READ_SECONDS):
            form = await _Parser(request).parse()
    except TimeoutError:
        raise Refused(408, f"the body didn't arrive within {READ_SECONDS} s") from None
    except MultiPartException as error:
        status = 413 if isinstance(error, _TooLarge) else 400
        raise Refused(status, error.message) from None
    except ClientDisconnect:
        raise Refused(400, "the client disconnected") from None
    try:
        uploads = _photos(form)
    finally:
        await form.close()
    if not uploads:
        raise Refused(422, f"no photos: expected one or more files called {FIELD}")
    reason = f"more than {FILE_BYTES // 10**6} MB"
    large = [(upload.name, reason) for upload in uploads if len(upload.data) > FILE_BYTES]
    if large:
        raise Refused(413, f"{len(large)} of {len(uploads)} files: {reason}", large)
    return uploads


def _photos(form: FormData) -> list[Upload]:
    for name, item in form.multi_items():
        if name != FIELD or isinstance(item, str):
            raise Refused(422, f"part {name!r}: expected only photos, as files called {FIELD}")
    return [Upload(item.filename or "", item.file.read()) for _, item in form.multi_items()]
