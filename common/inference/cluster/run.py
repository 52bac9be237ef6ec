"""Predictions for very many photos with Ray Data, on one machine or a cluster.

The driver splits the photos into chunks, one task each. An actor holds the models in memory; it
fetches a chunk's photos, crops them, predicts, and returns the part as the bytes of a Parquet file,
which the driver writes. Workers therefore need no shared disk, a retried task duplicates nothing,
and a run that is started again skips the parts that exist.
"""

import contextlib
import dataclasses
import functools
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import ray
import ray.data
import torch

from common.base.errors import UserError, first_line
from common.base.progress import progress
from common.base.run_settings import available_cores, default_cache
from common.faces.crop import crop_settings
from common.inference.cluster.chunks import Chunk, Work, find_work
from common.inference.cluster.parts import Parts, part_bytes
from common.inference.codes import Codes
from common.inference.decide import Offsets, decide
from common.inference.engines import Engine
from common.inference.ensemble import Ensemble, all_models, load_ensemble
from common.inference.job import Job
from common.inference.options import PredictSettings
from common.inference.predictor import predict
from common.model.device import pick_device, share_cores
from common.model.recipe import Recipe

CONNECT_SECONDS = 10  # until a cluster's address counts as unreachable


@dataclasses.dataclass(frozen=True)
class ActorSetup:
    """Everything an actor needs to predict; it may run on another machine."""

    recipes: tuple[type[Recipe], ...]
    models: Mapping[str, tuple[tuple[str, bytes], ...]]
    """Task → name and content of its files."""
    weights: Mapping[str, tuple[float, ...]]
    vote: str
    codes: Codes
    offsets: Offsets
    settings: PredictSettings
    device: str
    engine: str
    photos: int
    """Photos to predict, by all actors together."""
    cache_dir: Path | None

    def load(self) -> dict[str, Ensemble]:
        """Load each task's models on the actor's device."""
        return {recipe.task: self._load(recipe) for recipe in self.recipes}

    def _load(self, recipe: type[Recipe]) -> Ensemble:
        task, given = recipe.task, self.models[recipe.task]
        with tempfile.TemporaryDirectory(prefix="models-") as folder:
            files = [Path(folder, f"{i}{Path(name).suffix}") for i, (name, _) in enumerate(given)]
            for file, (_, data) in zip(files, given, strict=True):
                file.write_bytes(data)
            device = pick_device(self.device)
            ensemble = load_ensemble(
                recipe, files, self.weights[task], self.vote, device, self._engine()
            )
        models = zip(ensemble.models, given, strict=True)
        named = tuple(dataclasses.replace(model, path=Path(name)) for model, (name, _) in models)
        return dataclasses.replace(ensemble, models=named)

    def _engine(self) -> Engine:
        cache = self.cache_dir or default_cache()  # this machine's, shared by its actors
        return Engine(name=self.engine, cache_dir=cache, crops=self.photos)


class ChunkPredictor:
    """An actor: predicts a chunk at a time."""

    def __init__(self, setup: ray.ObjectRef) -> None:
        self.setup: ActorSetup = ray.get(setup)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Turn a row's `chunk` into its `part`, or an `error`; `number` stays."""
        try:
            return {"number": row["number"], "part": self._part(row["chunk"]), "error": ""}
        except Exception as error:  # Ray would retry some of them forever
            words = " ".join(str(error).split())
            return {"number": row["number"], "part": b"", "error": words or type(error).__name__}

    def _part(self, chunk: Chunk) -> bytes:
        setup, ensembles = self.setup, self._ensembles
        with tempfile.TemporaryDirectory(prefix="photos-") as folder:
            names, paths = chunk.fetch(Path(folder))
            cache = setup.cache_dir or Path(folder, "cache")
            settings = dataclasses.replace(setup.settings, cache_dir=cache)
            probabilities = predict(paths, ensembles, settings)
        return part_bytes(names, decide(probabilities, ensembles, setup.offsets), setup.codes)

    @functools.cached_property
    def _ensembles(self) -> dict[str, Ensemble]:
        share_cores(torch.device("cpu"), self.setup.settings.workers)
        cv2.setNumThreads(0)
        return self.setup.load()


def predict_with_ray(job: Job) -> int:
    """Predict for all photos of --input, in Parquet parts; returns the exit status."""
    options, (decision, offsets) = job.options, job.decision()
    output = options.output_file
    work = find_work(options.input, options.data, options.allow_bad)
    parts = Parts(output, manifest(job, work, decision, offsets), len(job.codes))
    parts.check()
    done = parts.start([len(chunk) for chunk in work.chunks])
    missing = {n: chunk for n, chunk in enumerate(work.chunks) if n not in done}
    if done:
        print(f"{len(done):,} of {len(work.chunks):,} parts exist already")
    rows, start = 0, time.perf_counter()
    if missing:
        with ray_connection(options.ray):
            rows = run_actors(actor_setup(job, offsets, work.photos), missing, parts, work.photos)
    seconds = time.perf_counter() - start
    return print_parts(parts, job.codes, options.allow_bad, rows, seconds)


def manifest(job: Job, work: Work, decision: str, offsets: Offsets) -> dict[str, Any]:
    """Everything that determines the content of the parts, as plain values."""
    ensembles = job.ensembles
    return {
        "models": {
            task: sorted(zip((m.identity for m in e.models), e.weights, strict=True))
            for task, e in ensembles.items()
        },
        "vote": next(iter(ensembles.values())).vote,
        "decision": decision,
        "offsets": {task: values.tolist() for task, values in offsets.items()},
        "tta": {task: job.options.settings.tta_of(task) for task in ensembles},
        "crops": [crop_settings(model.spec) for model in all_models(ensembles)],
        "input": work.place,
        "photos": [work.photos, len(work.chunks), work.digest],
    }


def actor_setup(job: Job, offsets: Offsets, photos: int) -> ActorSetup:
    """The actors' setup from the options, with the content of the model files.

    Raises:
        UserError: no actor of the cluster could run it.
    """
    options, ensembles = job.options, job.ensembles
    device = "cpu" if options.engine == "onnxruntime" else options.device
    if device == "auto":
        device = "cuda" if ray.cluster_resources().get("GPU", 0) >= 1 else "cpu"
    elif device == "cuda" and ray.cluster_resources().get("GPU", 0) < 1:
        raise UserError("--device cuda: the Ray cluster has no GPU")
    loaders = options.workers if device == "cuda" else 0
    files = {
        task: tuple((str(m.path), m.path.read_bytes()) for m in ensemble.models)
        for task, ensemble in ensembles.items()
    }
    return ActorSetup(
        tuple(job.recipes),
        files,
        {task: e.weights for task, e in ensembles.items()},
        next(iter(ensembles.values())).vote,
        job.codes,
        offsets,
        dataclasses.replace(job.options.settings, workers=loaders),
        device,
        options.engine,
        photos,
        None if options.cache_dir == default_cache() else options.cache_dir.absolute(),
    )


def run_actors(setup: ActorSetup, missing: Mapping[int, Chunk], parts: Parts, photos: int) -> int:
    """Have actors predict the chunks, and write each part as it arrives; returns the rows."""
    rows, total = 0, sum(map(len, missing.values()))
    with (
        progress(photos, "predict", "photos", initial=photos - total) as bar,
        _explained(parts.folder),
    ):
        for row in _predicted(setup, missing).iter_rows():
            if row["error"]:
                raise _stopped(row["error"], parts.folder)
            count = parts.write(row["number"], row["part"])
            rows += count
            bar.update(count)
    if rows != total:
        raise UserError(
            f"{parts.folder}: {rows:,} rows of {total:,}; run the same command again for the rest"
        )
    return rows


def _predicted(setup: ActorSetup, missing: Mapping[int, Chunk]) -> ray.data.Dataset:
    """A row for each chunk with its number and part, in the order of completion."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False  # this command's own counts photos
    cores = max(1, setup.settings.workers)
    gpus = 1 if setup.device == "cuda" else 0
    resources = ray.cluster_resources()
    places = int(resources.get("GPU", 0) if gpus else resources.get("CPU", 1) // cores)
    most = max(1, min(places, len(missing)))
    machines = sum(node["Alive"] for node in ray.nodes())
    print(f"with Ray {ray.__version__}: up to {most:,} actors on {machines:,} machines")
    chunks = [{"number": number, "chunk": chunk} for number, chunk in missing.items()]
    return ray.data.from_items(chunks, override_num_blocks=len(chunks)).map(
        ChunkPredictor,
        fn_constructor_args=(ray.put(setup),),
        compute=ray.data.ActorPoolStrategy(
            min_size=1, max_size=most, initial_size=most, max_tasks_in_flight_per_actor=1
        ),
        num_cpus=cores,
        num_gpus=gpus,
    )


@contextlib.contextmanager
def _explained(output: Path) -> Iterator[None]:
    """Turn Ray's errors about workers that can't start into one line."""
    try:
        yield
    except ray.exceptions.RayError as error:
        raise _stopped(str(error).strip().rpartition("\n")[2], output) from None


def _stopped(reason: str, output: Path) -> UserError:
    return UserError(
        f"--ray: a worker failed: {reason}; finished parts stay in {output}, and the same command "
        "continues with the others"
    )


@contextlib.contextmanager
def ray_connection(address: str) -> Iterator[None]:
    """Connect to the cluster at `address`, or start one for this run if it is "local".

    A connection that the process has already is used and stays.

    Raises:
        UserError: there is no such cluster.
    """
    if address != "local":
        _check_listening(address)
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    settings: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        settings |= {"num_cpus": available_cores(), "include_dashboard": False}
    terminated = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, **settings)
    except (OSError, RuntimeError, ValueError) as error:
        reason = first_line(error)
        raise UserError(
            f"--ray {address}: no connection to a Ray cluster: {reason}; if it asks for a token "
            "(Ray's log says so), set RAY_AUTH_MODE=token"
        ) from None
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, terminated)  # Ray's handler prints a stack and aborts
    try:
        yield
    finally:
        ray.shutdown()


def _check_listening(address: str) -> None:
    """Try to connect to host:port, because Ray would wait much longer.

    Raises:
        UserError: nothing listens there.
    """
    if address == "auto":
        return
    expected = "expected auto or host:port, on a machine of the cluster"
    if "://" in address:
        raise UserError(f"--ray {address}: Ray Data doesn't work through such a URI; {expected}")
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "no port"
        raise UserError(f"--ray {address}: no Ray cluster there ({reason}); {expected}") from None


def print_parts(parts: Parts, codes: Codes, allowed: int, rows: int, seconds: float) -> int:
    """Print what all parts hold and the speed; returns the exit status."""
    tally = parts.tally
    if tally.bad:
        kind = "error" if tally.bad > allowed else "warning"
        print(f"{kind}: {tally.bad_lines(allowed)}", file=sys.stderr)
    tally.print(codes)
    rate = (
        f" ({rows:,} of them in {seconds:,.1f} s: {rows / seconds:,.1f} a second)" if rows else ""
    )
    print(f"{tally.photos:,} rows{rate} → {parts.folder}")
    return 2 if tally.bad > allowed else 0
