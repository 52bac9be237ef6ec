"""Files of weights as others save them: timm, Lightning, DistributedDataParallel, safetensors, …

A file is opened with `weights_only=True`, so that no code in it is run. Its tensors may lie in a
nested dict, and their names may begin with the names of modules around the network.
"""

import argparse
import collections
import pathlib
import types
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from common.base.errors import UserError, first_line
from common.model.checkpoint import check_archive, check_storage

DEPTH = 4  # of nested dicts: {"checkpoint": {"model": {"state_dict": …}}}
COMPILED = "_orig_mod."  # torch.compile's, anywhere in a name
MOVING_AVERAGE = ("ema", "teacher")  # in a key: taken only where nothing else fits as well
# What settings beside the weights are made of, and what makes them; none runs code of the file.
SCALAR, ARRAY = (value.__reduce__()[0] for value in (np.float64(0), np.zeros(1)))
HARMLESS = (
    argparse.Namespace,
    types.SimpleNamespace,
    type(Path()),
    pathlib.PurePosixPath,
    pathlib.PureWindowsPath,
    np.dtype,
    np.ndarray,
    SCALAR,
    ARRAY,
    *(type(np.dtype(code)) for code in "?bBhHiIlLqQefd"),
)
# Names of the same in other versions of NumPy and Python, and on other systems.
RENAMED = {
    f"numpy.{core}.multiarray.{name}": function
    for core in ("core", "_core")
    for name, function in (("scalar", SCALAR), ("_reconstruct", ARRAY))
} | {
    f"pathlib{module}.{name}Path": pathlib.PurePath
    for module in ("", "._local")
    for name in ("Posix", "Windows", "PurePosix", "PureWindows")
}
# Packages whose classes of settings needn't be installed: each object becomes a plain dict.
FOREIGN = (
    "lightning",
    "pytorch_lightning",
    "omegaconf",
    "easydict",
    "yacs",
    "mmengine",
    "mmcv",
    "typing",
)


class FoundTensors(NamedTuple):
    """The tensors of a file by the network's names; `place` and `prefixes` say where they were."""

    tensors: dict[str, torch.Tensor]
    place: str
    prefixes: tuple[str, ...] = ()

    def stripped(self) -> str:
        """What was taken off the names, for a message; "" if nothing."""
        parts = [f"under {self.place}"] if self.place else []
        parts += (
            [f"without {' and '.join(self.prefixes)} before the names"] if self.prefixes else []
        )
        return f", {', '.join(parts)}" if parts else ""


def read_foreign(file: Path) -> Any:
    """Read the content of a file of weights.

    Raises:
        UserError: there is no such file, or it is none of weights.
    """
    if not file.is_file():
        raise UserError(f"--weights {file}: no such file")
    try:
        with warnings.catch_warnings(action="ignore"):
            return _read(file)
    except UserError:
        raise
    except Exception as error:  # torch and safetensors raise many kinds
        reason = first_line(error)
        if "weights_only" in str(error) or "Weights only" in str(error):
            reason = (
                "it holds more than tensors and plain values, which could run code; "
                "torch.save(model.state_dict(), FILE) writes one that is read"
            )
        raise UserError(f"--weights {file}: not a file of weights: {reason}") from None


def _read(file: Path) -> Any:
    if file.suffix == ".safetensors":
        try:
            from safetensors.torch import load_file
        except ImportError:
            raise UserError(f"--weights {file}: pip install safetensors to read it") from None
        return load_file(file)
    if zipfile.is_zipfile(file):
        check_archive(file, f"--weights {file}", file.stat().st_size)
    with torch.serialization.safe_globals([*HARMLESS, *_replaced(file)]):
        return torch.load(file, map_location="cpu", weights_only=True)


def _replaced(file: Path) -> list[tuple[Any, str]]:
    """Pairs of a harmless class and the name in the file of one that isn't here."""
    try:
        with torch.serialization.safe_globals(list(HARMLESS)):
            names = torch.serialization.get_unsafe_globals_in_checkpoint(str(file))
    except Exception:  # torch's old format, or a damaged file, which torch.load reports
        return []
    plain = {n: collections.OrderedDict for n in names if n.partition(".")[0] in FOREIGN}
    renamed = {name: RENAMED[name] for name in names if name in RENAMED}
    return [(made, name) for name, made in (plain | renamed).items()]


def find_tensors(content: Any, own: Mapping[str, torch.Tensor]) -> FoundTensors:
    """Find the tensors in a file's `content` that fit most of the network's `own`.

    The names of the result are without prefix; other tensors of the same dict are in it, too.
    """
    best, most = FoundTensors({}, ""), (-1, False, 0)
    for place, given in _dicts(content):
        tensors = {name.replace(COMPILED, ""): tensor for name, tensor in given.items()}
        prefix, fitting = _best_prefix(tensors, own)
        averaged = any(word in place.lower() for word in MOVING_AVERAGE)
        if (rank := (fitting, not averaged, -len(place))) > most:
            named = {name.removeprefix(prefix): v for name, v in tensors.items()}
            compiled = [COMPILED] if any(COMPILED in name for name in given) else []
            best = FoundTensors(named, place, tuple(([prefix] if prefix else []) + compiled))
            most = rank
    return best


def _dicts(content: Any, place: str = "", depth: int = DEPTH) -> Iterator[tuple[str, dict]]:
    """Yield each dict of tensors in a nested content, with its keys joined by dots."""
    if not isinstance(content, Mapping):
        return
    tensors = {
        name: value
        for name, value in content.items()
        if isinstance(name, str) and isinstance(value, torch.Tensor)
    }
    if tensors:
        yield place, tensors
    if depth:
        for key, value in content.items():
            if isinstance(key, str):
                yield from _dicts(value, f"{place}.{key}" if place else key, depth - 1)


def _best_prefix(
    tensors: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor]
) -> tuple[str, int]:
    """The beginning of names without which most of them are the network's, and their number."""
    counts = collections.Counter({"": 0})
    for name in tensors:
        parts = name.split(".")
        for cut in range(len(parts)):
            if ".".join(parts[cut:]) in own:
                counts["".join(f"{part}." for part in parts[:cut])] += 1
    prefix = min(counts, key=lambda p: (-counts[p], len(p)))
    return prefix, counts[prefix]


def check_fit(
    file: Path, model: str, found: FoundTensors, own: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Return the tensors of `found` with the name and shape of the network's `own`.

    Raises:
        UserError: fewer than half of the network's are there, or one is not whole.
    """
    if not found.tensors:
        raise UserError(f"--weights {file}: holds no tensors by name")
    check_storage(found.tensors, f"--weights {file}", file.stat().st_size)
    named = {name: v for name, v in found.tensors.items() if name in own}
    fitting = {name: v for name, v in named.items() if v.shape == own[name].shape}
    if len(fitting) >= len(own) / 2:
        return fitting
    count = f"{len(fitting)} of the model's {len(own)} tensors are in it"
    if len(named) >= len(own) / 2:
        name = next(name for name in named if name not in fitting)
        raise UserError(
            f"--weights {file}: {count}, {len(named) - len(fitting)} have another shape, such as "
            f"{name}, {_shape(named[name])} in the file and {_shape(own[name])} in {model}: "
            "another size or variant of the architecture"
        )
    others = [name for name in found.tensors if name not in own]
    missing = next(name for name in own if name not in named)
    raise UserError(
        f"--weights {file}: {count}, {len(own) - len(named)} are missing, such as {missing}, and "
        f"{len(others)} others are there{', such as ' + others[0] if others else ''}; "
        f"it holds another architecture than {model}"
    )


def _shape(tensor: torch.Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "a single number"
