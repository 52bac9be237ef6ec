"""The models behind HTTP: a page to look at, POST /predict and GET /health.

A photo is decoded and cropped as everywhere else, in memory, and every face of it is answered.
Nothing that a client sends is kept: no file, no name, no log.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field, create_model
from starlette.datastructures import MutableHeaders
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from common.base.errors import UserError, warn
from common.faces.crop import cut_faces
from common.faces.decode import BadPhoto, decode
from common.faces.detector import detect_every
from common.inference.codes import Codes
from common.inference.decide import Offsets, decide
from common.inference.ensemble import Ensemble, all_models, check_face_crops
from common.inference.job import Job
from common.inference.options import PredictSettings
from common.inference.predictions import Predictions
from common.inference.predictor import Predictor
from common.inference.service.uploads import (
    FIELD,
    FILE_BYTES,
    MOST_FILES,
    REQUEST_BYTES,
    Refused,
    Upload,
    read_uploads,
)
from common.render.page import COLOURS

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
Share = Annotated[float, Field(ge=0, le=1)]
Respond = Callable[[np.ndarray], Predictions]  # of one (height, width, 3) uint8 RGB photo's faces


class BadFile(BaseModel):
    """A file that was refused."""

    name: str
    reason: str


class Problem(BaseModel):
    """Why a request gets no answer, and the files at fault where some are."""

    detail: str
    files: list[BadFile] = []


class Health(BaseModel):
    """That the service lives."""

    status: Literal["ok"]


REFUSALS = {
    400: "not a whole multipart body",
    408: "the body came too slowly",
    413: "a file or the request is too large",
    415: "not multipart/form-data",
    422: "no photo, or files that aren't photos; none of the others is answered",
    503: "as many requests as there may be at a time; try again after Retry-After seconds",
}


def prediction_model(codes: Codes) -> type[BaseModel]:
    """What POST /predict answers, with the tasks' and classes' own names."""
    tasks: dict[str, Any] = {}
    for task, words in codes.classes.items():
        word = Literal[tuple(words)]
        tasks[task] = create_model(
            task.capitalize(), answer=word, probabilities=dict[word, Share], __doc__=None
        )
    corners = Annotated[
        list[int],
        Field(
            min_length=4,
            max_length=4,
            description="x0, y0, x1, y1 in pixels of the upright photo, beyond which it may reach; "
            "without a face the part that was looked at",
        ),
    ]
    code = Annotated[int, Field(ge=0, lt=len(codes))]
    face = create_model("Face", box=corners, face_found=bool, **tasks, code=code)
    faces = Annotated[list[face], Field(min_length=1)]
    side = Annotated[int, Field(ge=1)]
    photo = create_model("Photo", name=str, width=side, height=side, faces=faces)
    return create_model("Prediction", photos=list[photo])


def responder(
    ensembles: Mapping[str, Ensemble], offsets: Offsets, settings: PredictSettings, threads: int
) -> Respond:
    """What answers for every face of a photo; several threads may call it at a time.

    `threads` networks run at a time on a CPU, each on a thread of its own.
    """
    torch.set_num_threads(1)
    on_cpu = all(model.model.device.type == "cpu" for model in all_models(ensembles))
    pool = ThreadPoolExecutor(threads if on_cpu else 1, thread_name_prefix="networks")
    predictor = Predictor(ensembles, settings)

    def respond(photo: np.ndarray) -> Predictions:
        faces = cut_faces(photo, detect_every(photo), predictor.specs)
        return decide(predictor.faces(faces, pool), ensembles, offsets)

    return respond


def predicted(uploads: Sequence[Upload], respond: Respond, codes: Codes) -> dict[str, Any]:
    """The answer for all files as JSON has it; Refused names every file that has none."""
    bad: dict[int, tuple[str, str]] = {}
    photos = []
    for place, upload in enumerate(uploads):
        try:
            photo = decode(upload.data)
            if not bad:
                answers = respond(photo)
                if answers.bad:
                    raise BadPhoto(next(iter(answers.bad.values())))
                height, width = photo.shape[:2]
                faces = _faces(answers, codes)
                photos.append(
                    {"name": upload.name, "width": width, "height": height, "faces": faces}
                )
        except BadPhoto as reason:
            bad[place] = upload.name, str(reason)
    if bad:
        raise Refused(422, f"{len(bad)} of {len(uploads)} files can't be answered for", bad)
    return {"photos": photos}


def _faces(answers: Predictions, codes: Codes) -> list[dict[str, Any]]:
    boxes, numbers = answers.places().round().astype(int).tolist(), codes.of(answers).tolist()
    faces = []
    for row, found in enumerate(answers.detected):
        face: dict[str, Any] = {"box": boxes[row], "face_found": found, "code": numbers[row]}
        for task, words in codes.classes.items():
            # 1.0000001 is float32's 1
            shares = answers.probabilities[task][row].clip(0, 1).tolist()
            face[task] = {
                "answer": words[answers.classes[task][row]],
                "probabilities": dict(zip(words, shares, strict=True)),
            }
        faces.append(face)
    return faces


def create_app(
    respond: Respond, codes: Codes, *, at_once: int, threads: int, hosts: Sequence[str] = ()
) -> FastAPI:
    """The service. `at_once` requests are taken in at a time, of which `threads` are computed.

    It answers to the names 127.0.0.1, localhost and `hosts`: a page elsewhere whose name was made to
    lead here is refused. With 0.0.0.0, which is every address of the machine, to any name.
    """
    app = FastAPI(title="Mask, gender and age of faces", version="1", docs_url=None, redoc_url=None)
    names = ["*"] if "0.0.0.0" in hosts else ["127.0.0.1", "localhost", *hosts]
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=names, www_redirect=False)
    app.add_middleware(_Headers)
    app.add_exception_handler(Refused, _refusal)
    slots = asyncio.Semaphore(at_once)
    pool = ThreadPoolExecutor(threads, thread_name_prefix="photos")

    @app.post(
        "/predict", response_model=prediction_model(codes), openapi_extra={"requestBody": BODY},
        responses={status: {"model": Problem, "description": w} for status, w in REFUSALS.items()},
        summary="Every face of one or more photos: the answers, their probabilities, the code",
    )  # fmt: skip
    async def predict(request: Request) -> Any:
        if slots.locked():
            headers = {"retry-after": str(RETRY_SECONDS)}
            raise Refused(503, f"{at_once} requests are being answered", headers=headers)
        async with slots:
            uploads = await read_uploads(request)
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(pool, predicted, uploads, respond, codes)

    @app.get("/health", summary="Whether the service lives")
    async def health() -> Health:
        return Health(status="ok")

    _add_page(app)
    return app


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
                        "maxItems": MOST_FILES,
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


class _Headers:
    """Adds to every answer what tells a browser to trust nothing but this service."""

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


def _add_page(app: FastAPI) -> None:
    contents = {
        "/": ((PAGE / "page.html").read_text("utf-8"), "text/html"),
        "/page.css": (COLOURS + (PAGE / "page.css").read_text("utf-8"), "text/css"),
        "/page.js": ((PAGE / "page.js").read_text("utf-8"), "text/javascript"),
    }
    for path, (text, kind) in contents.items():
        response = Response(text, media_type=kind)
        app.add_api_route(path, lambda response=response: response, include_in_schema=False)


@contextlib.contextmanager
def bound(host: str, port: int) -> Iterator[socket.socket]:
    """A socket for `serve`, taken before models are loaded; port 0 takes any that is free.

    UserError where the address is in use or isn't this machine's.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as taken:
        if os.name == "posix":  # elsewhere this would let two services share a port
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind((host, port))
        except OSError as error:
            raise UserError(
                f"--serve {host}:{port}: {error.strerror}; name another port, or 0 for any"
            ) from None
        yield taken


def serve(job: Job, listener: socket.socket) -> int:
    """Answer requests that come to `listener` until a signal ends it."""
    check_face_crops(job.ensembles, "--serve")
    _, offsets = job.decided()
    threads = torch.get_num_threads()
    at_once = job.arguments.at_once or max(16, 2 * threads)
    respond = responder(job.ensembles, offsets, job.settings, threads)
    respond(np.zeros((64, 64, 3), np.uint8))  # what is loaded for the first photo
    host, (address, port) = job.arguments.serve[0], listener.getsockname()
    app = create_app(respond, job.codes, at_once=at_once, threads=threads, hosts=(host, address))
    listener.listen()
    if not address.startswith("127."):
        warn(f"--serve {host}: whoever reaches this machine may ask, and nothing is encrypted")
    print(f"serving http://{host}:{port}, {at_once} requests at a time; Ctrl-C ends it", flush=True)
    uvicorn.Server(server_config(app)).run(sockets=[listener])
    return 0


def server_config(app: FastAPI) -> uvicorn.Config:
    """Without a log: it would hold who asked."""
    return uvicorn.Config(
        app, http="h11", ws="none", lifespan="off", log_level="warning", access_log=False,
        server_header=False, timeout_keep_alive=5, timeout_graceful_shutdown=10,
    )  # fmt: skip
