"""Choice of the library that runs a model: torch, or on a CPU onnxruntime with an export.

onnxruntime takes a third to a half of torch's time a photo on a CPU, and an export some seconds once.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from common.base.errors import UserError, first_line, shortened, suggestion, warn
from common.inference.options import ENGINES
from common.model.checkpoint import check_task, fitting, read
from common.model.device import pick_device
from common.model.export_cache import CachedExport, missing_library
from common.model.exported import is_exported, load_exported, open_export
from common.model.loaded import LoadedModel, load, load_content
from common.model.recipe import Recipe

# Pixels for which exporting pays: those of 1,000 photos of 128 x 128. With three EfficientNet-Lite0
# on two cores exporting takes 25 to 40 s, and onnxruntime 25 ms a photo less than torch: the first
# run gets back most of it, the second all (tests/benchmarks/RESULTS.md, 2026-12-01).
REPAID = 1_000 * 128 * 128
FEW = "so few photos don't repay an export"
MISSING = "isn't installed"
INSTALL = "pip install '.[export]'"
ADVICE = {
    FEW: "--engine onnxruntime exports the models once, which then take half the time or less",
    MISSING: f"{INSTALL} lets onnxruntime run the models, in half the time or less",
}


def _silent(_: str) -> None:
    """Print nothing."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Engine:
    """Choice of what runs checkpoints; exports (.onnx) are always run by onnxruntime."""

    name: str = "torch"
    """auto, torch or onnxruntime."""
    cache_dir: Path = Path()
    """Folder for exports; torch needs none."""
    crops: float = 0
    """Number of crops expected for each model."""
    threads: int = 1
    """Threads of onnxruntime for each model; 1 where several models run at a time."""
    elsewhere: str = ""
    """Words for the machines that choose instead, if this process only reads the models."""
    why_torch: str = ""
    """With auto: a reason for torch that is no matter of speed."""
    announce: Callable[[str], None] = _silent
    """Prints a line before an export, which takes seconds."""

    def pays(self, size: Sequence[int]) -> bool:
        """Return whether so many crops of `size`, (height, width), repay an export."""
        return self.crops * math.prod(size) >= REPAID


def device_for(name: str, device: str) -> torch.device:
    """Pick the device for the engine `name`: for onnxruntime the CPU.

    Raises:
        UserError: there is no such engine or device, or they don't fit.
    """
    if name not in ENGINES:
        raise UserError(f"engine {name}: expected {', '.join(ENGINES)}{suggestion(name, ENGINES)}")
    if name == "onnxruntime" and device not in ("auto", "cpu"):
        raise UserError(f"engine onnxruntime: runs on the CPU here, not on device {device}")
    return pick_device("cpu" if name == "onnxruntime" else device)


TORCH = Engine()


class Declined(Exception):
    """The reason for which auto takes torch without having tried onnxruntime."""


def load_model(
    path: Path, recipe: type[Recipe], device: torch.device, engine: Engine
) -> LoadedModel:
    """Open a checkpoint of `recipe`'s task on `device`, or an export on the CPU.

    The model's `engine` says what runs it, and why. With auto torch runs what onnxruntime can't,
    after a warning.

    Raises:
        UserError: the file is no model of the task; or onnxruntime was asked for and can't run it.
    """
    if is_exported(path):
        return load_exported(path, recipe, engine.threads)
    if engine.elsewhere:
        return dataclasses.replace(load(path, recipe, device), engine=engine.elsewhere)
    if engine.name == "torch" or device.type != "cpu":
        return load(path, recipe, device)
    content = read(path)
    with fitting(path, recipe.task):
        check_task(path, content["card"], recipe)
    try:
        return _by_onnxruntime(path, content, recipe, engine)
    except Exception as error:  # torch's exporter and onnxruntime raise many kinds
        reason = shortened(first_line(error).removeprefix(f"{path}: "), 200)
        if engine.name != "auto":
            raise UserError(f"{path}: onnxruntime can't run it: {reason}") from None
        model = load_content(path, content, recipe, device)
        if not isinstance(error, Declined):
            warn(f"{path}: torch runs it, as onnxruntime can't: {reason}")
            reason = "onnxruntime can't"
        return dataclasses.replace(model, engine=f"torch ({reason})")


def _by_onnxruntime(
    path: Path, content: Mapping[str, Any], recipe: type[Recipe], engine: Engine
) -> LoadedModel:
    """Open a checkpoint's cached export, made here if that pays.

    Everything but the network comes from the checkpoint, which may have newer offsets.

    Raises:
        Declined: it doesn't pay, or something else speaks against it.
    """
    auto, card = engine.name == "auto", content["card"]
    if auto and engine.why_torch:
        raise Declined(engine.why_torch)
    if name := missing_library():
        raise Declined(f"{name} {MISSING}" if auto else f"{name} {MISSING}: {INSTALL} brings it")
    cached, how = CachedExport(engine.cache_dir, path, content), "cached export"
    data = cached.read()
    if data is None:
        if auto and not engine.pays(card["preprocessing"]["size"]):
            raise Declined(FEW)
        start = time.perf_counter()
        engine.announce(f"{path}: exporting it for onnxruntime, once for all runs")
        data = cached.make()
        how = f"exported in {time.perf_counter() - start:.1f} s"
    model = open_export(path, card, data, recipe, engine.threads)
    return dataclasses.replace(model, engine=f"{model.engine}, {how}")


def advice(models: Iterable[LoadedModel]) -> str:
    """Advice for a run in which torch took long on a CPU; "" if there is none."""
    engines = [model.engine for model in models]
    lines = (line for reason, line in ADVICE.items() if any(reason in e for e in engines))
    return next(lines, "")
