"""Refusal of requests that other sites' pages make a browser send."""

from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
OWN = ("same-origin", "none")  # none: typed into the address bar
DETAIL = "a page of another site sent this; only this service's own page and programs may"


class SameOrigin:
    """Answers 403 to a POST that a page of another origin sent; its photos aren't read.

    A browser states the page's origin (Origin, and Sec-Fetch-Site where the site is trustworthy);
    programs state neither.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        foreign = scope["type"] == "http" and scope["method"] not in SAFE_METHODS
        if foreign and is_foreign(Headers(scope=scope)):
            refusal = JSONResponse({"detail": DETAIL, "files": []}, 403)
            return await refusal(scope, receive, send)
        return await self.app(scope, receive, send)


def is_foreign(headers: Headers) -> bool:
    """Return whether a page of another origin sent the request with these `headers`."""
    site = headers.get("sec-fetch-site")
    if site is not None:  # behind a proxy Host needn't be the name that the browser knows
        return site.lower() not in OWN
    origin = headers.get("origin")
    return origin is not None and urlsplit(origin).netloc.lower() != headers.get("host", "").lower()
