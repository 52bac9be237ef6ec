"""Settings and epochs of a run in Weights & Biases (--log-wandb)."""

import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from common.base.errors import UserError, first_line, need, warn

INIT_TIMEOUT = 30  # s until a server that doesn't answer is given up
FINISH_TIMEOUT = 20  # s for the last rows, which are few


def _import() -> ModuleType:
    need(
        "wandb", "wandb", "wandb.sdk", flag="--log-wandb"
    )  # a folder wandb/ of logs can be imported, too
    import wandb

    return wandb


def check_wandb() -> None:
    """Set wandb up before the long work.

    Raises:
        UserError: it is missing, its settings are wrong, or it lacks a login.
    """
    wandb = _import()
    try:
        wandb.setup(
            settings=wandb.Settings(
                silent=True,
                console="off",
                init_timeout=INIT_TIMEOUT,
                finish_timeout=FINISH_TIMEOUT,
                finish_timeout_raises=True,
            )
        )
        wandb.login(verify=False)
    except (wandb.Error, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"--log-wandb: {reason} (WANDB_MODE=offline logs without login and network)"
        ) from None


class WandbLog:
    """A run of wandb with its files in `folder`/wandb; a failure ends the log, not the training.

    A resumed training goes on with the same id; `rows` are its epochs so far, and the server
    ignores those that it has.
    """

    def __init__(
        self,
        folder: Path,
        names: Mapping[str, str],
        config: Mapping[str, Any],
        rows: Iterable[Mapping[str, Any]],
    ) -> None:
        """Begin or go on with a run; `names` are its `project` and `name`."""
        self.wandb, self.folder, self.run = _import(), folder, None
        earlier = sorted(folder.glob("wandb/*run-*/run-*.wandb"))
        number = earlier[0].stem.removeprefix("run-") if earlier else uuid.uuid4().hex[:12]
        self.run = self._attempt(
            self.wandb.init,
            id=number,
            resume="allow",
            dir=str(folder),
            config=dict(config),
            **names,
        )
        if self.run and self.run.offline:
            print(f"wandb: offline; to send it: wandb sync {Path(self.run.dir).parent}")
        elif self.run and self.run.url:
            print(f"wandb: {self.run.url}")
        for row in rows:
            self.epoch(row)

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Send an epoch's row; the run's summary holds the figures of the best one."""
        values = {name: float(value) for name, value in row.items()}
        best = {f"best_{name}": value for name, value in values.items() if name != "best"}
        if self.run:
            self._attempt(self.run.log, values, step=int(values["epoch"]))
        if self.run and values["best"]:
            self._attempt(self.run.summary.update, best)

    def picture(self, file: Path) -> None:
        """Send a picture, under its name without the ending."""
        if self.run:
            self._attempt(lambda: self.run.log({file.stem: self.wandb.Image(str(file))}))

    def close(self) -> None:
        """Send what is left, for at most FINISH_TIMEOUT seconds."""
        if self.run:
            self._attempt(self.run.finish)

    def _attempt(self, action: Callable[..., Any], *given: Any, **named: Any) -> Any:
        try:
            return action(*given, **named)
        except Exception as error:  # wandb's own, the network's, its service's
            warn(f"wandb: {first_line(error)}; nothing more is sent, the log is in {self.folder}")
            self.run = None
