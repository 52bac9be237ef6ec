"""Search for a better recipe with Optuna: python -m <task>.tune --trials 30 --hours 2

Each trial is a training like any other, on the same fold; bad ones end early. The study is kept in
an SQLite file, so that the same command continues it after a stop.
"""

import dataclasses
import hashlib
import json
import shlex
import time
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.base.errors import UserError, need
from common.base.fields import flags_of, has_effect, needed
from common.base.files import write_whole
from common.base.processes import processes
from common.base.run_settings import Run, Search
from common.model.recipe import Recipe
from common.training.learner import Learner, RunFiles, Watch
from common.training.prepare import PreparedRun, build_network, prepare
from common.training.resume import LAST
from common.training.search_space import search_space

if TYPE_CHECKING:
    import optuna

STARTUP = 5  # trials before any is ended early


def tune(recipe: Recipe, run: Run, search: Search, fixed: Collection[str]) -> int:
    """Search from `recipe`, whose `fixed` fields stay; returns the exit status."""
    if processes() > 1:
        raise UserError("tune runs in one process: start it without torchrun")
    if run.every_fold or run.resume:
        raise UserError("tune needs one --fold, and continues its study by itself: no --resume")
    optuna = import_optuna()
    prepared, _ = prepare(recipe, run)
    folder = prepared.logs / "tune"
    folder.mkdir(exist_ok=True)
    study = open_study(optuna, prepared, fixed, search.storage or folder / "study.db")
    finished = [t for t in study.trials if t.state.is_finished()]
    left = search.trials - len(finished)
    if finished:
        print(f"the study has {len(finished)} trials; {max(left, 0)} are left of {search.trials}")
    trial = Trial(optuna, prepared, fixed, folder / study.study_name)
    if left > 0:
        hours = None if search.hours is None else 3600 * search.hours
        study.optimize(trial, n_trials=left, timeout=hours)
    report(study, prepared.recipe, fixed, folder / f"{study.study_name}.json")
    return trial.status


def import_optuna() -> Any:
    """Import Optuna, and keep it quiet.

    Raises:
        UserError: it isn't installed.
    """
    need("tune", "optuna", flag="tune")
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def open_study(
    optuna: Any, prepared: PreparedRun, fixed: Collection[str], storage: Path
) -> "optuna.Study":
    """Open the study of this recipe, split and choice of fixed fields, or make a new one.

    Raises:
        UserError: `storage` can't hold a study.
    """
    recipe, fold = prepared.recipe, prepared.run.fold
    split = prepared.folds[fold].split
    settings = [recipe.to_dict(), sorted(fixed), split["hash"], fold, split.get("extra")]
    name = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:8]
    try:
        return optuna.create_study(
            storage=f"sqlite:///{storage}",
            study_name=f"{recipe.task}-{name}",
            direction="maximize",
            # Not seeded: after a stop one seed would suggest its first trials again.
            sampler=optuna.samplers.TPESampler(n_startup_trials=STARTUP),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP, n_warmup_steps=1),
            load_if_exists=True,
        )
    except Exception as error:  # SQLAlchemy's, which aren't ours to name
        reason = str(error).partition("\n")[0]
        raise UserError(f"{storage}: no study can be kept there ({reason})") from None


@dataclasses.dataclass
class Trial:
    """One training with suggested fields; `status` is the exit status of the last one."""

    optuna: Any
    prepared: PreparedRun
    fixed: Collection[str]
    folder: Path
    status: int = 0

    def __call__(self, trial: "optuna.Trial") -> float:
        """Train one suggestion; returns the figure of merit of its best epoch."""
        recipe, started = self.prepared.recipe, time.perf_counter()
        chosen = suggested(recipe, trial, self.fixed)
        print(f"\ntrial {trial.number}: {shlex.join(flags_of(chosen, recipe))}")
        place = self.folder / f"trial{trial.number}"
        place.mkdir(parents=True, exist_ok=True)
        try:
            learner = self._learner(chosen, place, self._watcher(trial))
            self.status = learner.train(started)
        except UserError as error:  # a learning rate too high, say
            print(f"trial {trial.number} failed: {error}")
            raise self.optuna.TrialPruned from None
        finally:
            (place / LAST).unlink(missing_ok=True)
        if self.status:  # a signal
            trial.study.stop()
            raise self.optuna.TrialPruned
        return learner.state.best

    def _learner(self, recipe: Recipe, folder: Path, watch: Watch) -> Learner:
        prepared = self.prepared.with_recipe(recipe)
        network = build_network(recipe, prepared.device, prepared.heads, resumed=False)
        files = RunFiles(folder / recipe.checkpoint_name, folder)
        return Learner(prepared, int(prepared.run.fold), network, files, watch)

    def _watcher(self, trial: "optuna.Trial") -> Watch:
        def watch(epoch: int, merit: float) -> None:
            trial.report(merit, epoch)
            if trial.should_prune():
                print(f"trial {trial.number} ends early: others were better by epoch {epoch}")
                raise self.optuna.TrialPruned

        return watch


def suggested(recipe: Recipe, trial: Any, fixed: Collection[str]) -> Recipe:
    """Return `recipe` with a trial's values in the fields that aren't `fixed`.

    Fields that have no effect beside the others, such as --sigma with a loss of classes, keep their
    values; those that others depend on are drawn first.
    """
    space = {name: draw for name, draw in search_space(recipe).items() if name not in fixed}
    for name in sorted(space, key=lambda name: bool(needed(recipe, name))):
        if has_effect(recipe, name):
            recipe = dataclasses.replace(recipe, **{name: space[name](trial)})
    return recipe


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
        "people that it was chosen on, which flatters it: score it on another --fold\n"
        f"  {line}\nsaved: {file}"
    )
