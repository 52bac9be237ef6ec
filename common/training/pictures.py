"""Pictures in a run's folder.

crops.jpg        the first training crops as the network gets them, with their labels
curves.png       losses, macro F1, accuracy and each class's F1, epoch by epoch
confusion.png    the best epoch's confusion matrix: true class by predicted class
"""

import io
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from common.model.recipe import Recipe
from common.render.sheet import Tile, contact_sheet

CROPS, CURVES, CONFUSION = "crops.jpg", "curves.png", "confusion.png"
SHEET_CROPS, OF_A_BATCH = 32, 8  # crops: four rows, each of another batch
NARROW, WIDE = 96, 224  # px of a tile: from as wide as its text to as wide as a screen allows
SHEET_QUALITY = 92  # of the JPEG: fine enough to judge augmentation by


class CropSheet:
    """The first crops of a training; at most OF_A_BATCH of a batch, as a batch is mixed alike."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.tiles: list[Tile] = []

    @property
    def full(self) -> bool:
        """True if the sheet takes no further crop."""
        return len(self.tiles) >= SHEET_CROPS

    def add(
        self,
        images: torch.Tensor,
        targets: torch.Tensor,
        others: torch.Tensor | None,
        weight: float,
    ) -> None:
        """Take from a batch: (photos, 3, height, width) RGB from 0 to 255 and (photos, …) targets.

        If photos are mixed, `others` are the targets of the second ones, and `weight` is that of
        the first ones.
        """
        some = slice(min(OF_A_BATCH, SHEET_CROPS - len(self.tiles)))
        pixels = images[some].detach().cpu().float().round().clamp(0, 255).to(torch.uint8)
        texts = [[name] for name in self._names(targets[some])]
        if others is not None and weight < 1:
            pairs = zip(texts, self._names(others[some]), strict=True)
            texts = [[f"{weight:.0%} {a}", f"{1 - weight:.0%} {b}"] for (a,), b in pairs]
        self.tiles += zip(pixels.permute(0, 2, 3, 1).numpy(), texts, strict=True)

    def _names(self, targets: torch.Tensor) -> list[str]:
        """Return the class names of targets; with several heads the first target is the task's own."""
        own = targets[:, 0] if targets.ndim > 1 else targets
        return [self.recipe.classes[index] for index in self.recipe.target_class(own).tolist()]

    def jpeg(self) -> bytes:
        """Return the sheet as a JPEG file; a crop keeps its pixels unless it is tiny or huge."""
        height, width = self.recipe.size
        scale = -(-NARROW // width) if width < NARROW else min(1, WIDE / max(height, width))
        size = round(width * scale), round(height * scale)
        stream = io.BytesIO()
        contact_sheet(self.tiles, OF_A_BATCH, size).save(stream, "jpeg", quality=SHEET_QUALITY)
        return stream.getvalue()


def curves_png(rows: Sequence[Mapping[str, Any]], classes: Sequence[str], task: str) -> bytes:
    """Draw the rows of metrics.csv as a PNG file; a vertical line marks the best epoch."""
    from common.render.figures import draw_curves, png  # matplotlib takes half a second

    def column(name: str) -> list[float]:
        return [float(row[name]) for row in rows]

    epochs = [int(row["epoch"]) for row in rows]
    best = max((int(row["epoch"]) for row in rows if int(row["best"])), default=None)
    # Each on an axis of its own: they are different quantities.
    losses = {
        "training loss": column("train_loss"),
        "log loss, held-out people": column("val_loss"),
    }
    scores = {"macro F1": column("val_macro_f1"), "accuracy": column("val_accuracy")}
    by_class = {f"F1 {name}": column(f"val_f1_{name}") for name in classes}
    parts = (
        *(
            partial(draw_curves, epochs=epochs, series={name: values}, label=name, best=best)
            for name, values in losses.items()
        ),
        partial(
            draw_curves,
            epochs=epochs,
            series=scores,
            label="held-out people",
            thin=by_class,
            best=best,
        ),
    )
    return png(parts, f"{task}: {len(rows)} epochs" + (f", best: {best}" if best else ""))


def confusion_png(best: Mapping[str, Any], task: str) -> bytes:
    """Draw the confusion matrix in a card's figures of an epoch as a PNG file."""
    from common.render.figures import SIZE, draw_confusion, png

    counts, classes = np.array(best["confusion"]), list(best["f1"])
    recall = counts.diagonal() / counts.sum(axis=1).clip(1)
    rows = [f"{name}\nrecall {part:.0%}" for name, part in zip(classes, recall, strict=True)]
    draw = partial(draw_confusion, counts=counts, rows=rows, columns=classes)
    title = f"{task}: {best['photos']:,} held-out photos, epoch {best['epoch']}"
    return png([draw], title, (max(SIZE[0], 1.6 + len(classes)), 1 + 0.5 * len(classes)))
