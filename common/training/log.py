"""The log of a run: recipe.json, metrics.csv, pictures, TensorBoard's events, wandb's."""

import csv
import dataclasses
import io
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import SummaryWriter

from common.base.errors import warn
from common.base.fields import plain
from common.base.files import write_whole
from common.base.processes import launch, processes
from common.base.run_settings import Run
from common.model.recipe import Recipe
from common.training.engine import EpochResult
from common.training.experiments import code_commit
from common.training.pictures import CONFUSION, CROPS, CURVES, CropSheet, confusion_png, curves_png
from common.training.wandb_log import WandbLog

DRAW_EVERY = 60  # s; drawing takes some tenths of a second


@dataclasses.dataclass(frozen=True)
class LogConfig:
    """The settings of a run, as recipe.json holds them."""

    recipe: Recipe
    run: Run
    split: Mapping[str, Any]

    def to_dict(self, commit: str) -> dict[str, Any]:
        """Return them as plain values, with the code's commit and torchrun's launch."""
        return {
            "task": self.recipe.task,
            "recipe": self.recipe.to_dict(),
            "run": {name: plain(value) for name, value in vars(self.run).items()},
            "split": {key: self.split[key] for key in ("folds", "fold", "limit", "hash")},
            "commit": commit,
            "processes": processes(),
            "launch": launch(),
        }


class RunLog:
    """The log of one run in `folder`; a resumed run continues it from `epoch`.

    `best` are the figures of the best epoch so far, if any.
    """

    def __init__(
        self, folder: Path, config: LogConfig, epoch: int, best: Mapping[str, Any]
    ) -> None:
        self.folder, self.commit, self.recipe = folder, code_commit(), config.recipe
        self.best, self.drawn = best, time.monotonic()
        self.drawn_epochs = self.drawn_best = 0
        self.sheet = None if (folder / CROPS).is_file() else CropSheet(config.recipe)
        self.rows = [row for row in self._read() if int(row["epoch"]) <= epoch]
        self.writer = SummaryWriter(str(folder), purge_step=epoch + 1)
        settings = config.to_dict(self.commit)
        write_whole(folder / "recipe.json", json.dumps(settings, indent=2).encode())
        self.wandb = None
        if config.run.log_wandb:
            names = {
                "project": config.run.wandb_project,
                "name": f"{self.recipe.task} {folder.name}",
            }
            self.wandb = WandbLog(folder, names, settings, self.rows)

    def _read(self) -> list[dict[str, Any]]:
        file = self.folder / "metrics.csv"
        return list(csv.DictReader(file.read_text().splitlines())) if file.is_file() else []

    def epoch(self, result: EpochResult, figures: dict[str, Any], best: bool) -> None:
        """Add an epoch's row to metrics.csv, its scalars to TensorBoard and wandb."""
        row = {
            "epoch": result.epoch,
            "lr": result.lr,
            "train_loss": result.train_loss,
            "heads_loss": result.heads_loss,
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
        if best:
            self.best = figures
        if time.monotonic() - self.drawn > DRAW_EVERY:
            self.draw()
        self.writer.flush()
        if self.wandb is not None:
            self.wandb.epoch(row)

    def add_crops(
        self,
        images: torch.Tensor,
        targets: torch.Tensor,
        others: torch.Tensor | None,
        weight: float,
    ) -> None:
        """Keep some of the first crops that the network is trained on (see `Hooks.on_batch`)."""
        if self.sheet is None:
            return
        self.sheet.add(images, targets, others, weight)
        if self.sheet.full:
            self._draw_crops()

    def draw(self) -> None:
        """Draw the pictures anew if there are new epochs."""
        task, epoch = self.recipe.task, len(self.rows)
        self._draw_crops()
        if epoch > self.drawn_epochs:
            self._picture(CURVES, lambda: curves_png(self.rows, self.recipe.classes, task), epoch)
            self.drawn_epochs = epoch
        if self.best and self.best["epoch"] > self.drawn_best:
            self.drawn_best = self.best["epoch"]
            self._picture(CONFUSION, lambda: confusion_png(self.best, task), self.drawn_best)
        self.drawn = time.monotonic()

    def _draw_crops(self) -> None:
        if self.sheet is not None and self.sheet.tiles:
            self._picture(CROPS, self.sheet.jpeg, len(self.rows) + 1)
            self.sheet = None

    def _picture(self, name: str, make: Callable[[], bytes], epoch: int) -> None:
        """Save a picture beside metrics.csv, and hand it to TensorBoard and wandb."""
        try:
            data = make()
            write_whole(self.folder / name, data)
        except Exception as error:  # raised by matplotlib for a user's own settings, or by the disk
            warn(f"{self.folder / name}: not drawn: {error}")
            return
        # Not by torch's add_image, which decodes it and writes a PNG: slow for photos.
        picture = Image.open(io.BytesIO(data))
        image = Summary.Image(
            width=picture.width,
            height=picture.height,
            colorspace=len(picture.getbands()),
            encoded_image_string=data,
        )
        value = Summary.Value(tag=Path(name).stem, image=image)
        self.writer.file_writer.add_summary(Summary(value=[value]), epoch)
        if self.wandb is not None:
            self.wandb.picture(self.folder / name)

    def close(self) -> None:
        """Write what TensorBoard reads, and send wandb the rest."""
        self.writer.close()
        if self.wandb is not None:
            self.wandb.close()
