"""What a run leaves behind: recipe.json, metrics.csv, TensorBoard's events, perhaps wandb's."""

import csv
import io
import json
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from common.files import write_whole
from common.flags import plain
from common.processes import launch, processes
from common.recipe import Recipe
from common.report.experiments import code_commit
from common.run_settings import Run
from common.training.engine import EpochResult
from common.training.wandb_log import WandbLog


class RunLog:
    """The log of one run in `folder`; a resumed run continues it from `epoch`."""

    def __init__(
        self, folder: Path, recipe: Recipe, run: Run, split: dict[str, Any], epoch: int
    ) -> None:
        self.folder, self.commit = folder, code_commit()
        self.rows = [row for row in self._read() if int(row["epoch"]) <= epoch]
        self.writer = SummaryWriter(str(folder), purge_step=epoch + 1)
        settings = {
            "task": recipe.task,
            "recipe": recipe.to_dict(),
            "run": {name: plain(value) for name, value in vars(run).items()},
            "split": {key: split[key] for key in ("folds", "fold", "limit", "hash")},
            "commit": self.commit,
            "processes": processes(),
            "launch": launch(),
        }
        write_whole(folder / "recipe.json", json.dumps(settings, indent=2).encode())
        self.wandb = None
        if run.log_wandb:
            name = f"{recipe.task} {folder.name}"
            self.wandb = WandbLog(folder, run.wandb_project, name, settings, self.rows)

    def _read(self) -> list[dict[str, Any]]:
        file = self.folder / "metrics.csv"
        return list(csv.DictReader(file.read_text().splitlines())) if file.is_file() else []

    def epoch(self, result: EpochResult, figures: dict[str, Any], best: bool) -> None:
        """Add an epoch's row to metrics.csv, its scalars to TensorBoard and wandb."""
        row = {
            "epoch": result.epoch,
            "lr": result.lr,
            "train_loss": result.train_loss,
            "val_loss": result.val_loss,
            "val_macro_f1": figures["macro_f1"],
            "val_accuracy": figures["accuracy"],
            **{f"val_f1_{name}": value for name, value in figures["f1"].items()},
            "photos_per_second": result.photos_per_second,
            "seconds": result.seconds,
            "best": int(best),
        }
        self.rows.append(row)
        stream = io.StringIO()
        writer = csv.DictWriter(stream, row, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_whole(self.folder / "metrics.csv", stream.getvalue().encode())
        for name, value in row.items():
            if name not in ("epoch", "best"):
                self.writer.add_scalar(name, value, result.epoch)
        self.writer.flush()
        if self.wandb is not None:
            self.wandb.epoch(row)

    def close(self) -> None:
        """Flush what TensorBoard reads, and send wandb the rest."""
        self.writer.close()
        if self.wandb is not None:
            self.wandb.close()
