"""The command that serves models: `combine.py --serve`."""

import contextlib
import logging
import os
import socket
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import uvicorn
from fastapi import FastAPI

from common.base.errors import UserError, warn
from common.inference.codes import Codes
from common.inference.decide import Offsets
from common.inference.ensemble import Ensemble, all_models, check_face_crops
from common.inference.face_predictor import FacePredictor
from common.inference.job import Job
from common.inference.options import PredictSettings
from common.inference.service.app import PredictPhoto, create_app
from common.inference.service.connections import LimitedConnection

BACKLOG = 64  # connections that asyncio accepts at once, before the first over the limit is closed


def every_face(
    ensembles: Mapping[str, Ensemble], offsets: Offsets, settings: PredictSettings, threads: int
) -> PredictPhoto:
    """Return a function that predicts every face of a photo; several threads may call it at a time.

    On a CPU `threads` networks run at a time, each on one thread.
    """
    torch.set_num_threads(1)
    on_cpu = all(model.model.device.type == "cpu" for model in all_models(ensembles))
    pool = ThreadPoolExecutor(threads if on_cpu else 1, thread_name_prefix="networks")
    predictor = FacePredictor(ensembles, offsets, Codes({}), settings, pool)
    return lambda photo: predictor.predictions([predictor.crops(photo, "all")])


@contextlib.contextmanager
def bound(host: str, port: int) -> Iterator[socket.socket]:
    """Bind a socket before models are loaded; port 0 takes any free one.

    Raises:
        UserError: the address is in use or isn't this machine's.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        if os.name == "posix":  # elsewhere two services could share a port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            raise UserError(
                f"--serve {host}:{port}: {error.strerror}; name another port, or 0 for any"
            ) from None
        yield listener


def serve(job: Job, listener: socket.socket) -> int:
    """Respond to requests on `listener` until a signal ends the process."""
    check_face_crops(job.ensembles, "--serve")
    _, offsets = job.decision()
    threads = torch.get_num_threads()
    at_once = job.options.at_once or max(16, 2 * threads)
    predict = every_face(job.ensembles, offsets, job.options.settings, threads)
    predict(np.zeros((64, 64, 3), np.uint8))  # loads what the first photo needs
    host, (address, port) = job.options.serve[0], listener.getsockname()
    app = create_app(predict, job.codes, at_once=at_once, threads=threads, hosts=(host, address))
    # python-multipart warns on stderr about malformed requests.
    logging.getLogger("python_multipart").addHandler(logging.NullHandler())
    listener.listen()
    if not address.startswith("127."):
        warn(f"--serve {host}: anyone who can reach this machine can send photos, unencrypted")
    print(f"serving http://{host}:{port}, {at_once} requests at a time; Ctrl-C ends it", flush=True)
    uvicorn.Server(server_config(app)).run(sockets=[listener])
    return 0


def server_config(app: FastAPI) -> uvicorn.Config:
    """Settings of the HTTP server, which keeps no log of its clients."""
    return uvicorn.Config(
        app,
        http=LimitedConnection,
        ws="none",
        lifespan="off",
        log_level="warning",
        access_log=False,
        use_colors=False,
        backlog=BACKLOG,
        server_header=False,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=10,
    )
