"""Search for a better recipe with Optuna: python -m <task>.tune --trials 30 --hours 2

Each trial is a training like any other, on the same fold; bad ones end early. The study lies in an
SQLite file, so that the same command goes on where it was stopped.
"""

import dataclasses
import hashlib
import json
import shlex
import time
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.base.errors import UserError
from common.base.fields import flags_of
from common.base.files import write_whole
from common.base.processes import processes
from common.base.run_settings import Run, Search
from common.model.recipe import Recipe
from common.training.resume import LAST
from common.training.run import Groundwork, make_fold, prepare
from common.training.search_space import search_space

if TYPE_CHECKING:
    import optuna

STARTUP = 5  # trials before any is ended early


def tune(recipe: Recipe, run: Run, search: Search, fixed: Collection[str]) -> int:
    """Search from `recipe`, whose `fixed` fields stay; returns the exit status."""
    if processes() > 1:
        raise UserError("tune runs in one process: start it without torchrun")
    if run.every_fold or run.resume:
        raise UserError("tune searches on one --fold and goes on by itself: leave --resume out")
    optuna = import_optuna()
    ground = prepare(recipe, run)
    recipe = ground.recipe
    folder = ground.logs / "tune"
    folder.mkdir(exist_ok=True)
    study = open_study(optuna, recipe, run, ground, fixed, search.storage or folder / "study.db")
    finished = [t for t in study.trials if t.state.is_finished()]
    left = search.trials - len(finished)
    if finished:
        print(f"the study has {len(finished)} trials; {max(left, 0)} are left of {search.trials}")
    trial = Trial(optuna, recipe, run, ground, fixed, folder / study.study_name)
    if left > 0:
        hours = None if search.hours is None else 3600 * search.hours
        study.optimize(trial, n_trials=left, timeout=hours)
    report(study, recipe, fixed, folder / f"{study.study_name}.json")
    return trial.status


def import_optuna() -> Any:
    """Optuna, quiet; UserError where it isn't installed."""
    try:
        import optuna
    except ImportError:
        raise UserError("tune needs Optuna: pip install '.[tune]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def open_study(
    optuna: Any,
    recipe: Recipe,
    run: Run,
    ground: Groundwork,
    fixed: Collection[str],
    storage: Path,
) -> "optuna.Study":
    """The study of this recipe, split and choice of fixed fields: made, or gone on with."""
    split = ground.splits[run.fold]
    settings = [recipe.to_dict(), sorted(fixed), split["hash"], run.fold, split.get("extra")]
    name = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:8]
    try:
        return optuna.create_study(
            storage=f"sqlite:///{storage}",
            study_name=f"{recipe.task}-{name}",
            direction="maximize",
            # Another start each time: one seed would repeat its first trials after a stop.
            sampler=optuna.samplers.TPESampler(n_startup_trials=STARTUP),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP, n_warmup_steps=1),
            load_if_exists=True,
        )
    except Exception as error:  # SQLAlchemy's, which aren't ours to name
        reason = str(error).partition("\n")[0]
        raise UserError(f"{storage}: no study can be kept there ({reason})") from None


@dataclasses.dataclass
class Trial:
    """One training with suggested fields; `status` is that of the last."""

    optuna: Any
    recipe: Recipe
    run: Run
    ground: Groundwork
    fixed: Collection[str]
    folder: Path
    status: int = 0

    def __call__(self, trial: "optuna.Trial") -> float:
        chosen = suggested(self.recipe, trial, self.fixed)
        print(f"\ntrial {trial.number}: {shlex.join(flags_of(chosen, self.recipe))}")
        place = self.folder / f"trial{trial.number}"
        place.mkdir(parents=True, exist_ok=True)
        try:
            learner = make_fold(chosen, self.run, self.ground, self.run.fold)
            self.status = learner.train(
                place / f"{chosen.task}.pt", place, time.perf_counter(), self._watcher(trial)
            )
        except UserError as error:  # a learning rate too high, say
            print(f"trial {trial.number} failed: {error}")
            raise self.optuna.TrialPruned from None
        finally:
            (place / LAST).unlink(missing_ok=True)
        if self.status:  # a signal
            trial.study.stop()
            raise self.optuna.TrialPruned
        return learner.state.best

    def _watcher(self, trial: "optuna.Trial") -> Any:
        def watch(epoch: int, merit: float) -> None:
            trial.report(merit, epoch)
            if trial.should_prune():
                print(f"trial {trial.number} ends early: others were better by epoch {epoch}")
                raise self.optuna.TrialPruned

        return watch


def suggested(recipe: Recipe, trial: Any, fixed: Collection[str]) -> Recipe:
    """`recipe` with a trial's values in the fields that aren't `fixed`."""
    space = search_space(recipe)
    return dataclasses.replace(
        recipe, **{name: ask(trial) for name, ask in space.items() if name not in fixed}
    )


def report(study: "optuna.Study", recipe: Recipe, fixed: Collection[str], file: Path) -> None:
    """Print the best recipe as flags, and save it."""
    states = [trial.state.name for trial in study.trials]
    done, pruned = states.count("COMPLETE"), states.count("PRUNED")
    print(f"\n{done} trials to the end, {pruned} ended early")
    if not done:
        return
    best = suggested(recipe, study.best_trial, fixed)
    line = f"python -m {recipe.task}.train {shlex.join(flags_of(best))}"
    saved = {"command": line, "merit": study.best_value, "trial": study.best_trial.number}
    write_whole(file, json.dumps(saved | {"recipe": best.to_dict()}, indent=2).encode())
    print(
        f"best: trial {study.best_trial.number}, {best.keep} {abs(study.best_value):.4f} on the "
        "persons that it was chosen on, which flatters it: score it on another --fold\n"
        f"  {line}\nsaved: {file}"
    )
