"""A run's settings and epochs in Weights & Biases, where --log-wandb asks for it."""

import sys
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from common.base.errors import UserError

INIT_TIMEOUT = 30  # s until a server that doesn't answer is given up
FINISH_TIMEOUT = 20  # s for the last rows to be sent; they are few


def _import() -> ModuleType:
    try:
        import wandb
    except ImportError as error:
        raise UserError(f"--log-wandb: {error}; pip install '.[wandb]' brings it") from None
    if not hasattr(wandb, "init"):  # a folder wandb/ where the command runs imports as well
        raise UserError("--log-wandb: wandb isn't installed; pip install '.[wandb]' brings it")
    return wandb


def check_wandb() -> None:
    """Set wandb up; UserError where it is missing, set up wrongly, or would ask for a login."""
    wandb = _import()
    try:
        settings = wandb.Settings(
            silent=True,
            console="off",
            init_timeout=INIT_TIMEOUT,
            finish_timeout=FINISH_TIMEOUT,
            finish_timeout_raises=True,
        )
        wandb.setup(settings=settings)
        wandb.login(verify=False)
    except (wandb.Error, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"--log-wandb: {reason} (WANDB_MODE=offline logs without login and network)"
        ) from None


class WandbLog:
    """A run of wandb, once `check_wandb` was called; what wandb can't do later ends no training.

    Its files lie in `folder`/wandb. A resumed training goes on with the same id: `rows` are its
    epochs so far, of which a server that knows them takes none. UserError where nothing works.
    """

    def __init__(
        self,
        folder: Path,
        project: str,
        name: str,
        config: Mapping[str, Any],
        rows: Iterable[Mapping[str, Any]],
    ) -> None:
        self.wandb, self.folder, self.lost = _import(), folder, False
        self.run = self._start(project=project, name=name, config=dict(config))
        if self.run.offline:
            print(f"wandb: offline; to send it: wandb sync {Path(self.run.dir).parent}")
        elif self.run.url:
            print(f"wandb: {self.run.url}")
        for row in rows:
            self.epoch(row)

    def _start(self, **options: Any) -> Any:
        options["dir"] = str(self.folder)
        known = sorted(self.folder.glob("wandb/*run-*/run-*.wandb"))
        name = known[0].stem.removeprefix("run-") if known else uuid.uuid4().hex[:12]
        try:
            return self.wandb.init(id=name, resume="allow", **options)
        except Exception as error:  # wandb's own, the network's, its service's
            _warn(f"{_first_line(error)}; this run is logged offline")
        try:
            return self.wandb.init(mode="offline", **options)  # the attempt holds the id
        except Exception as error:
            raise UserError(f"--log-wandb: {_first_line(error)}") from None

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Send an epoch's row; its figures are the run's summary where it is the best so far."""
        values = {name: float(value) for name, value in row.items()}
        self._attempt(self.run.log, values, step=int(values["epoch"]))
        if values["best"]:
            best = {f"best_{name}": value for name, value in values.items() if name != "best"}
            self._attempt(self.run.summary.update, best)

    def picture(self, file: Path) -> None:
        """Send a picture, by its name without the ending."""
        self._attempt(lambda: self.run.log({file.stem: self.wandb.Image(str(file))}))

    def close(self) -> None:
        """Send what is left, for at most FINISH_TIMEOUT seconds."""
        self._attempt(self.run.finish)

    def _attempt(self, action: Callable[..., Any], *given: Any, **named: Any) -> None:
        if self.lost:
            return
        try:
            action(*given, **named)
        except Exception as error:  # wandb's own, the network's, its service's
            self.lost = True
            _warn(f"{_first_line(error)}; what is missing there is in {self.folder}")


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__


def _warn(message: str) -> None:
    print(f"warning: wandb: {message}", file=sys.stderr)
