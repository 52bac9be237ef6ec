"""Files that run a command when they are unpickled, with a valid digest, for loaders to refuse."""

import dataclasses
import io
import os
import pickle
import runpy
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.model.checkpoint import _seal


@dataclasses.dataclass(frozen=True)
class Canary:
    """A file that isn't there until a payload has been executed."""

    path: Path

    @property
    def code(self) -> str:
        return f"open({str(self.path)!r}, 'w').close()"


class Payload:
    """An object whose unpickling calls `call(*arguments)`."""

    def __init__(self, call: Callable, *arguments: object) -> None:
        self.reduced = call, arguments

    def __reduce__(self) -> tuple:
        return self.reduced


class Subclass(torch.Tensor):
    """A tensor that says of itself how it is unpickled."""

    def __reduce_ex__(self, _: int) -> tuple:
        return self.payload.reduced


def seal(file: Path) -> None:
    """Append the digest of a checkpoint: the payload is behind it, not in a damaged file."""
    data = file.read_bytes()
    file.write_bytes(data + _seal(data))


def _spoilt(place: str, payload: Callable[[Canary], Any], **options: Any) -> Callable:
    """Writes a real checkpoint with a payload in one of its parts."""

    def make(source: Path, target: Path, canary: Canary) -> None:
        content = torch.load(source, weights_only=True)
        content[place]["x"] = payload(canary)
        torch.save(content, target, **options)

    return make


def _tensor(canary: Canary) -> torch.Tensor:
    tensor = torch.zeros(3).as_subclass(Subclass)
    tensor.payload = Payload(exec, canary.code)
    return tensor


def _bare(_: Path, target: Path, canary: Canary) -> None:
    target.write_bytes(pickle.dumps(Payload(exec, canary.code)))


def _archive(*names: str) -> Callable:
    """A zip archive whose members of these names are payloads."""

    def make(_: Path, target: Path, canary: Canary) -> None:
        with zipfile.ZipFile(target, "w") as archive:
            archive.writestr("x/version", "3\n")
            for name in names:
                archive.writestr(f"x/{name}", pickle.dumps(Payload(exec, canary.code), 2))

    return make


def _tar(_: Path, target: Path, canary: Canary) -> None:
    """Torch's first format, in which each part is a pickle."""
    data = pickle.dumps(Payload(exec, canary.code))
    with tarfile.open(target, "w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


_MAKERS: dict[str, Callable[[Path, Path, Canary], None]] = {
    "os.system in the card": _spoilt("card", lambda c: Payload(os.system, f"touch '{c.path}'")),
    "eval in the card": _spoilt("card", lambda c: Payload(eval, c.code)),
    "exec among the weights": _spoilt("state_dict", lambda c: Payload(exec, c.code)),
    "subprocess deep in the card": _spoilt(
        "card", lambda c: {"a": [(1, {"b": Payload(subprocess.call, ["touch", str(c.path)])})]}
    ),
    "runpy in a set": _spoilt("card", lambda c: {Payload(runpy._run_code, c.code, {})}),
    "an array of objects": _spoilt(
        "card", lambda c: np.array([Payload(exec, c.code)], dtype=object)
    ),
    "a subclass of tensors": _spoilt("state_dict", _tensor),
    "the format before 1.6": _spoilt(
        "card", lambda c: Payload(exec, c.code), _use_new_zipfile_serialization=False
    ),
    "the first format, a tar": _tar,
    "a bare pickle": _bare,
    "a zip archive with data.pkl": _archive("data.pkl"),
    "a TorchScript archive": _archive("constants.pkl", "data.pkl"),
}


def _with_seal(make: Callable[[Path, Path, Canary], None]) -> Callable[[Path, Path, Canary], None]:
    def make_and_seal(source: Path, target: Path, canary: Canary) -> None:
        make(source, target, canary)
        seal(target)

    return make_and_seal


PAYLOADS = {name: _with_seal(make) for name, make in _MAKERS.items()}
