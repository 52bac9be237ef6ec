"""One training from the folder of photos to the checkpoint, or one for every fold."""

import contextlib
import itertools
import time
from datetime import datetime
from pathlib import Path

from common.base.files import held_folder
from common.base.processes import is_main
from common.base.run_settings import Run
from common.data.loading import loader_errors
from common.model.device import pick_device
from common.model.recipe import Recipe
from common.training.distributed import from_main, process_group
from common.training.learner import Learner, RunFiles
from common.training.predictions import report_out_of_fold
from common.training.prepare import Network, PreparedRun, build_network, prepare
from common.training.resume import folds_folder, resume_file


def train(recipe: Recipe, run: Run) -> int:
    """Train `recipe` as `run` says; returns the exit status."""
    with process_group(pick_device(run.device), recipe.batch_size), loader_errors():
        return _train(recipe, run)


def _train(recipe: Recipe, run: Run) -> int:
    started = time.perf_counter()
    prepared, network = prepare(recipe, run)
    folder = from_main(lambda: run_folder(run, prepared.logs))
    with contextlib.ExitStack() as held:
        from_main(lambda: held.enter_context(held_folder(folder)))
        return _train_folds(prepared, network, folder, started)


def _train_folds(prepared: PreparedRun, network: Network | None, folder: Path, begun: float) -> int:
    """Train the folds that the run names, each in its own folder if there are several."""
    recipe, run, started = prepared.recipe, prepared.run, begun
    cropping = prepared.stages.seconds  # counted in the first fold's time
    for fold, out in run.fold_files(recipe).items():
        place = folder
        if run.every_fold:
            print(f"\nfold {fold} of {run.folds}")
            place = folder / f"fold{fold}"
            from_main(lambda place=place: place.mkdir(exist_ok=True))
        files = RunFiles(out, place, resume_file(run, fold))
        network = network or build_network(
            prepared.recipe, prepared.device, prepared.heads, resumed=files.resume is not None
        )
        learner = Learner(prepared, fold, network, files)
        network = None
        learner.stages.add(cropping)
        status = learner.train(started)
        if status:
            return status
        started, cropping = time.perf_counter(), {}
    if run.every_fold and is_main():
        report_out_of_fold(prepared, folder, time.perf_counter() - begun)
    return 0


def run_folder(run: Run, logs: Path) -> Path:
    """Return the folder of the run to be resumed, or make a new one: runs/<task>/<time>.

    Runs of the same second are told apart by a number.
    """
    if run.resume:
        return folds_folder(run.resume) if run.every_fold else run.resume.parent
    if run.exp_name is not None:
        folder = logs / run.exp_name
        folder.mkdir()  # `prepare` has refused one that exists
        return folder
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    for number in itertools.count():
        folder = logs / (f"{stamp}_{number}" if number else stamp)
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            return folder
