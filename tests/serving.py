"""A service in a thread of this process, behind a real socket."""

import contextlib
import threading
import time
from collections.abc import Iterator

import numpy as np
import uvicorn
from fastapi import FastAPI

import combine
from common.inference.predictions import Predictions
from common.inference.service.server import bound, server_config


@contextlib.contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """Serve `app` and yield its URL."""
    with bound("127.0.0.1", 0) as listener:
        server = uvicorn.Server(server_config(app))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def no_models(photo: np.ndarray) -> Predictions:
    """Made-up predictions: a face in the left half of the photo and another in the right."""
    height, width = photo.shape[:2]
    places = np.array([(0, 0, width / 2, height), (width / 2, 0, width, height)])
    probabilities = {
        task: np.eye(len(words))[[0, 1]] * 0.25 + 0.75 / len(words)
        for task, words in combine.CODES.tasks.items()
    }
    return Predictions(
        probabilities=probabilities,
        classes={task: values.argmax(axis=1) for task, values in probabilities.items()},
        regions=places,
        boxes=places,
        detected=[True] * 2,
        faces=[2] * 2,
        bad={},
        photos=np.zeros(2, int),
    )
