"""The models over HTTP: a page for the browser, POST /predict and GET /health.

Photos are decoded and cropped in memory as everywhere else, with a prediction for every face.
Nothing that a client sends is kept: no file, no name, no log.
"""

import asyncio
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field, create_model
from starlette.datastructures import MutableHeaders
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from common.faces.decode import BadPhoto, decode
from common.inference.codes import Codes
from common.inference.predictions import Predictions
from common.inference.service.computing import Computing
from common.inference.service.origin import SameOrigin
from common.inference.service.reasons import Reason
from common.inference.service.uploads import (
    FIELD,
    FILE_BYTES,
    MAX_FILES,
    REQUEST_BYTES,
    Refused,
    Upload,
    read_uploads,
)
from common.render.page import CSS, render

PAGE = Path(__file__).with_name("page")
RETRY_SECONDS = 1
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "permissions-policy": "camera=(self)",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
REFUSALS = {
    400: "not a complete multipart body",
    403: "a page of another site sent the request",
    408: "the body arrived too slowly",
    413: "a file or the request is too large",
    415: "not multipart/form-data",
    422: "no photo, files that aren't photos, or that take too long; no other is predicted",
    503: "too many requests at a time; try again after Retry-After seconds",
}
BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {
                    FIELD: {
                        "type": "array",
                        "minItems": 1,
                        "maxItems": MAX_FILES,
                        "items": {"type": "string", "format": "binary"},
                        "description": f"photos of at most {FILE_BYTES // 10**6} MB, together "
                        f"{REQUEST_BYTES // 10**6} MB",
                    }
                },
                "required": [FIELD],
                "additionalProperties": False,
            }
        }
    },
}

Probability = Annotated[float, Field(ge=0, le=1)]
# A (height, width, 3) uint8 RGB photo → its faces.
PredictPhoto = Callable[[np.ndarray], Predictions]


class BadFile(BaseModel):
    """A file that was refused."""

    name: str
    reason: str
    code: Reason


class Problem(BaseModel):
    """The reason why a request was refused, and the bad files if any."""

    detail: str
    files: list[BadFile] = []


class Health(BaseModel):
    """The state of the service."""

    status: Literal["ok"]


def response_model(codes: Codes) -> type[BaseModel]:
    """The response of POST /predict, with the names of the tasks and their classes."""
    tasks: dict[str, Any] = {}
    for task, classes in codes.tasks.items():
        name = Literal[tuple(classes)]
        tasks[task] = create_model(
            task.capitalize(), answer=name, probabilities=dict[name, Probability], __doc__=None
        )
    corners = Field(
        min_length=4,
        max_length=4,
        description="x0, y0, x1, y1 in pixels of the upright photo, which it may exceed; without "
        "a face the part that was cropped",
    )
    code = Annotated[int, Field(ge=0, lt=len(codes))]
    box = Annotated[list[int], corners]
    years = Annotated[float, Field(ge=0, description="expected age, if the model learned years")]
    interval = Annotated[
        list[float], Field(min_length=2, max_length=2, description="holds it with 80% probability")
    ]
    face = create_model(
        "Face",
        box=box,
        face_found=bool,
        **tasks,
        code=code,
        years=(years | None, None),
        years_interval=(interval | None, None),
    )
    faces = Annotated[list[face], Field(min_length=1)]
    side = Annotated[int, Field(ge=1)]
    photo = create_model("Photo", name=str, width=side, height=side, faces=faces)
    return create_model("Prediction", photos=list[photo])


def predicted(
    uploads: Sequence[Upload],
    predict: PredictPhoto,
    codes: Codes,
    check: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Predict for all files, as the response's JSON; `check` is called before each.

    Raises:
        Refused: some files can't be predicted; names each.
    """
    bad: list[tuple[str, str]] = []
    photos = []
    for upload in uploads:
        check()
        try:
            photo = decode(upload.data)
            check()
            if bad:
                continue  # the request is refused; only the other bad files matter
            predictions = predict(photo)
            if predictions.bad:
                raise BadPhoto(next(iter(predictions.bad.values())))
            height, width = photo.shape[:2]
            faces = _faces(predictions, codes)
            photos.append({"name": upload.name, "width": width, "height": height, "faces": faces})
        except BadPhoto as reason:
            bad.append((upload.name, str(reason)))
    if bad:
        raise Refused(422, f"{len(bad)} of {len(uploads)} files can't be predicted", bad)
    return {"photos": photos}


def _faces(predictions: Predictions, codes: Codes) -> list[dict[str, Any]]:
    boxes = predictions.places().round().astype(int).tolist()
    numbers = codes.of(predictions).tolist()
    faces = []
    for row, detected in enumerate(predictions.detected):
        face: dict[str, Any] = {"box": boxes[row], "face_found": detected, "code": numbers[row]}
        face |= predictions.numbers_of(row)
        for task, classes in codes.tasks.items():
            # float32 may round to 1.0000001
            probabilities = predictions.probabilities[task][row].clip(0, 1).tolist()
            face[task] = {
                "answer": classes[predictions.classes[task][row]],
                "probabilities": dict(zip(classes, probabilities, strict=True)),
            }
        faces.append(face)
    return faces


def create_app(
    predict: PredictPhoto, codes: Codes, *, at_once: int, threads: int, hosts: Sequence[str] = ()
) -> FastAPI:
    """Create the service, which accepts `at_once` requests and computes `threads` at a time.

    It responds to the names 127.0.0.1, localhost and `hosts`, so that another site's name that
    resolves to this address is refused (DNS rebinding); with 0.0.0.0 among them, to any name.
    """
    title = f"{', '.join(codes.tasks).capitalize()} of faces"
    app = FastAPI(title=title, version="1", docs_url=None, redoc_url=None)
    names = ["*"] if "0.0.0.0" in hosts else ["127.0.0.1", "localhost", *hosts]
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=names, www_redirect=False)
    app.add_middleware(SameOrigin)
    app.add_middleware(_Headers)
    app.add_exception_handler(Refused, _refusal)
    slots = asyncio.Semaphore(at_once)
    computing = Computing(threads)

    @app.post(
        "/predict",
        response_model=response_model(codes),
        response_model_exclude_unset=True,
        openapi_extra={"requestBody": BODY},
        responses={status: {"model": Problem, "description": w} for status, w in REFUSALS.items()},
        summary="Every face of one or more photos: predicted classes, probabilities, code",
    )
    async def predict_uploads(request: Request) -> Any:
        if slots.locked():
            headers = {"retry-after": str(RETRY_SECONDS)}
            raise Refused(503, f"{at_once} requests are in progress", headers=headers)
        async with slots:
            uploads = await read_uploads(request)
            compute = functools.partial(predicted, uploads, predict, codes)
            return await computing.run(request, compute, len(uploads))

    @app.get("/health", summary="The state of the service")
    async def health() -> Health:
        return Health(status="ok")

    _add_page(app, codes)
    return app


class _Headers:
    """Adds headers that keep a browser from loading or trusting anything else."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await self.app(scope, receive, with_headers)


async def _refusal(_: Request, refused: Refused) -> Response:
    content = {"detail": refused.detail, "files": refused.files}
    return JSONResponse(content, refused.status, refused.headers)


def _add_page(app: FastAPI, codes: Codes) -> None:
    weights, weight = [], len(codes)
    for task, classes in codes.classes.items():
        weight //= len(classes)
        weights.append((task, weight))
    html = render(PAGE / "page.html", tasks=list(codes.tasks), weights=weights)
    contents = {
        "/": (html, "text/html"),
        "/page.css": (CSS.read_text("utf-8") + (PAGE / "page.css").read_text("utf-8"), "text/css"),
        "/page.js": ((PAGE / "page.js").read_text("utf-8"), "text/javascript"),
    }
    for path, (text, kind) in contents.items():
        response = Response(text, media_type=kind)
        app.add_api_route(path, lambda response=response: response, include_in_schema=False)
