"""Exports of checkpoints kept beside the cached crops, so that each network is exported once.

A file is named by a digest of the network, its weights and its normalisation, and its folder by one
of the libraries and of the code that export it. Labels, offsets and temperature aren't part of the
digest: they are always read from the checkpoint.
"""

import contextlib
import hashlib
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from common.base.errors import UserError, warn
from common.base.files import locked_folder
from common.faces.cache import keep_file, settings_digest, usable_cache
from common.model import checkpoint
from common.model.export import exported_bytes
from common.model.exported import SUFFIX, unpack

KIND = "exports"
LIBRARIES = ("onnx", "onnxruntime", "onnxscript", "timm", "torch")
CODE = ("export.py", "exported.py", "network.py")  # beside this file: what makes an export


def missing_library() -> str:
    """Return the name of a library that exporting needs and that isn't installed, else ""."""
    for name in LIBRARIES:
        try:
            version(name)
        except PackageNotFoundError:
            return name
    return ""


class CachedExport:
    """The export of the checkpoint `source`, with the `content` read from it, in the cache."""

    def __init__(self, cache_dir: Path, source: Path, content: Mapping[str, Any]) -> None:
        key = network_digest(content)
        self.source, self.content, self.cache_dir = source, content, cache_dir
        self._name = Path(f"{KIND}-{_made_by()}", key[:2], f"{key[2:]}{SUFFIX}")

    def read(self) -> bytes | None:
        """The bytes of the export; None if there is no whole one, or the cache is another user's."""
        if not self.cache_dir.is_dir() or usable_cache(self.cache_dir)[1]:
            return None
        return self._whole(self.cache_dir / self._name)

    def make(self) -> bytes:
        """Export the checkpoint, or wait until another process has; returns the file's bytes.

        Without a usable cache the bytes are kept nowhere.

        Raises:
            UserError: the network can't be exported; see `common.model.export.export`.
        """
        folder, _ = usable_cache(self.cache_dir)
        file = folder / self._name
        file.parent.parent.mkdir(mode=0o700, exist_ok=True)
        file.parent.mkdir(mode=0o700, exist_ok=True)
        with locked_folder(file.parent, wait=True):
            if (data := self._whole(file)) is None:
                data, _ = exported_bytes(self.source, self.content)
                try:
                    keep_file(file, data)
                except UserError as error:
                    warn(str(error))
        return data

    def _whole(self, file: Path) -> bytes | None:
        with contextlib.suppress(OSError, UserError):
            data = file.read_bytes()
            unpack(file, data)
            return data
        return None


def network_digest(content: Mapping[str, Any]) -> str:
    """SHA-256 of all that determines a checkpoint's logits: its network, weights and input."""
    card = content["card"]
    network = {
        "model": card["model"],
        "stem_stride": card["recipe"]["stem_stride"],
        "outputs": card["outputs"],
        **{name: card["preprocessing"][name] for name in ("size", "mean", "std")},
    }
    return checkpoint.content_digest({"card": network, "state_dict": content["state_dict"]})


def _made_by() -> str:
    """Digest of the libraries' versions and of the code that export a network."""
    folder = Path(__file__).parent
    code = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in CODE}
    return settings_digest({name: version(name) for name in LIBRARIES} | code)
