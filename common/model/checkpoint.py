"""Checkpoint files: plain tensors, numbers, strings, lists and dicts that describe themselves.

    {"card": {...}, "state_dict": {name: tensor}, "training": {...}}   ("training" in last.pt only)

The card holds the format version, task, ordered classes, recipe, preprocessing, split, metrics,
decision, library versions, and a SHA-256 of the whole content. A second SHA-256, of the file's bytes,
is the comment at the end of the zip archive that torch writes. Files are opened with
`weights_only=True`, so that no code in them is run. `python -m common.model.card m.pt` prints a card.
"""

import contextlib
import hashlib
import io
import platform
import textwrap
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from common.base.errors import UserError
from common.base.files import write_whole
from common.faces.crop import CropSpec, crop_settings
from common.faces.detector import detector_for, detector_named
from common.model.card_values import check_card
from common.model.recipe import Recipe

if TYPE_CHECKING:
    from common.model.network import Classifier

FORMAT = 1
SEAL = b"sha256 "  # begins the archive's comment, followed by 64 hexadecimal digits
MOST_SHARED = 8  # tensors of a file may share their values, but not take many times its size
COMMENT_LENGTH = 2  # bytes of a zip archive's end that hold its comment's length (APPNOTE 4.3.16)
UNCALIBRATED = {"temperature": 1.0, "prior": None, "ece": None, "offsets": None}
CARD_LIBRARIES = ("torch", "torchvision", "timm", "albumentations", "facenet-pytorch", "numpy")


def crop_spec(recipe: Recipe) -> CropSpec:
    """The crop settings of `recipe`."""
    return CropSpec(
        recipe.crop,
        recipe.margin,
        recipe.size,
        recipe.center,
        recipe.background,
        detector=recipe.detector,
    )


def make_card(
    recipe: Recipe,
    model: "Classifier",
    *,
    split: Mapping[str, Any],
    metrics: Mapping[str, Any],
    decision: Mapping[str, Any] = UNCALIBRATED,
    commit: str = "",
    origin: str = "",
    learned: str = "",
) -> dict[str, Any]:
    """The card of a checkpoint, as plain values.

    `origin` describes its first weights, `learned` is common.data.learned's text.
    """
    return {
        "format": FORMAT,
        "task": recipe.task,
        "classes": list(recipe.classes),
        "outputs": list(recipe.saved_names),
        "recipe": recipe.to_dict(),
        "model": recipe.model,
        "learned": learned,
        "preprocessing": {
            "crop": crop_settings(crop_spec(recipe)),
            "size": list(recipe.size),
            "mean": (model.mean.flatten() / 255).tolist(),
            "std": (model.std.flatten() / 255).tolist(),
        },
        "split": dict(split),
        "metrics": dict(metrics),
        "decision": dict(decision),
        "libraries": {name: version(name) for name in CARD_LIBRARIES}
        | {"python": platform.python_version()},
        "commit": commit,
        "origin": origin,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def save(
    path: Path,
    card: Mapping[str, Any],
    state_dict: Mapping[str, torch.Tensor],
    training: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint whole or not at all: to a temporary file, flushed, then renamed to `path`."""
    tensors = {name: tensor.detach().cpu() for name, tensor in state_dict.items()}
    content: dict[str, Any] = {"card": dict(card), "state_dict": tensors}
    if training is not None:
        content["training"] = dict(training)
    content["card"]["sha256"] = content_digest(content)
    buffer = io.BytesIO()  # torch.save to a file loses the reason when the disk is full
    torch.save(content, buffer)
    buffer.seek(-COMMENT_LENGTH, io.SEEK_END)
    buffer.write((len(SEAL) + 64).to_bytes(COMMENT_LENGTH, "little"))
    buffer.write(_seal(buffer.getbuffer()))
    write_whole(path, buffer.getbuffer(), sync=True)


def _seal(data: bytes | memoryview) -> bytes:
    return SEAL + hashlib.sha256(data).hexdigest().encode()


def sealed(data: bytes) -> bool:
    """Return whether a checkpoint's bytes are unchanged, by the digest at their end."""
    end = len(SEAL) + 64
    return data[-end:] == _seal(memoryview(data)[:-end])


def content_digest(content: Mapping[str, Any]) -> str:
    """SHA-256 of a checkpoint's content, without the digest in its card."""
    sha = hashlib.sha256()
    card = {key: value for key, value in content["card"].items() if key != "sha256"}
    _feed(sha, {**content, "card": card})
    return sha.hexdigest()


def _feed(sha: "hashlib._Hash", value: Any) -> None:
    """Hash names, types and bytes of a nested `value`, so that different contents differ."""
    if isinstance(value, torch.Tensor):
        sha.update(f"tensor {value.dtype} {tuple(value.shape)} ".encode())
        sha.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    elif isinstance(value, Mapping):
        sha.update(f"dict {len(value)} ".encode())
        for key, item in value.items():
            sha.update(f"{key!r} ".encode())
            _feed(sha, item)
    elif isinstance(value, (list, tuple)):
        sha.update(f"list {len(value)} ".encode())
        for item in value:
            _feed(sha, item)
    else:
        sha.update(f"{value!r} ".encode())


def read(path: Path) -> dict[str, Any]:
    """Read the content of a checkpoint.

    Raises:
        UserError: the file is missing, damaged, of a newer format, or not a checkpoint.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint")
    data = path.read_bytes()
    if not zipfile.is_zipfile(io.BytesIO(data)):
        raise UserError(f"{path}: not a checkpoint, or cut short")
    if not sealed(data):
        raise UserError(f"{path}: damaged, or cut short: its digest doesn't match")
    check_archive(io.BytesIO(data), str(path), len(data))
    try:
        with warnings.catch_warnings(action="ignore"):
            content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        card = content["card"]
        stored, task, _ = card["sha256"], card["task"], card["format"] > 0
    except Exception:  # torch raises many kinds for foreign, damaged or hostile files
        raise UserError(f"{path}: not a checkpoint of this project, or damaged") from None
    check_format(path, card)
    check_card(path, card)
    check_storage(content, str(path), len(data))
    if content_digest(content) != stored:
        raise UserError(f"{path}: damaged: the {task} checkpoint's digest doesn't match")
    return content


def check_archive(file: Path | io.BytesIO, what: str, size: int) -> None:
    """Check that a zip archive of `size` bytes doesn't unpack to many times as much.

    Raises:
        UserError: it does; begins with `what`.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except zipfile.BadZipFile:
        raise UserError(f"{what}: damaged, or cut short") from None
    if unpacked > MOST_SHARED * size:
        raise UserError(f"{what}: {size:,} bytes that unpack to {unpacked:,}")


def check_storage(content: Any, what: str, size: int) -> None:
    """Check that every tensor in a nested `content` is whole: it has the bytes that its shape needs.

    A tensor with a stride of 0 has terabytes in a file of `size` bytes, as soon as it is copied.

    Raises:
        UserError: one isn't, or together they are larger than the file; begins with `what`.
    """
    total = 0
    for tensor in _tensors(content):
        if tensor.device.type == "meta" or tensor.layout != torch.strided:
            raise UserError(f"{what}: holds a tensor without values of its own")
        bytes_ = tensor.numel() * tensor.element_size()
        total += bytes_
        if bytes_ > tensor.untyped_storage().nbytes() or total > MOST_SHARED * size:
            shape = " x ".join(map(str, tensor.shape))
            raise UserError(
                f"{what}: holds a tensor of {shape}, more than a file of {size:,} bytes"
            )


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)


def check_format(path: Path, card: Mapping[str, Any]) -> None:
    """Check that this version can read the card's format.

    Raises:
        UserError: a later version wrote the file.
    """
    if card["format"] > FORMAT:
        raise UserError(f"{path}: checkpoint format {card['format']}, this version reads {FORMAT}")


def fill(path: Path, backbone: nn.Module, content: Mapping[str, Any]) -> "Classifier":
    """Load a checkpoint's weights into `backbone`, and put its normalisation before it.

    Raises:
        UserError: a weight is infinite or NaN.
    """
    from common.model.network import Classifier

    card, tensors = content["card"], content["state_dict"]
    backbone.load_state_dict(tensors)
    if not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
        raise UserError(f"{path}: the {card['task']} checkpoint holds weights that aren't numbers")
    prepared = card["preprocessing"]
    return Classifier(backbone, prepared["mean"], prepared["std"])


@contextlib.contextmanager
def fitting(path: Path, task: str) -> Iterator[None]:
    """Turn errors of a card or weights that don't fit the code into a UserError of one line."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = textwrap.shorten(str(error), 200, placeholder=" …")
        raise UserError(f"{path}: this {task} checkpoint doesn't fit: {reason}") from None


def check_task(path: Path, card: Mapping[str, Any], recipe: type[Recipe]) -> None:
    """Check that a checkpoint is of `recipe`'s task, with the same classes in the same order.

    Raises:
        UserError: it isn't.
    """
    if card["task"] != recipe.task:
        article = "an" if recipe.task[0] in "aeiou" else "a"
        raise UserError(f"{path}: expected {article} {recipe.task} checkpoint, got {card['task']}")
    if tuple(card["classes"]) != recipe.classes:
        raise UserError(
            f"{path}: its classes are {_named(card['classes'])}, expected {_named(recipe.classes)}"
        )


def outdated_detector(card: Mapping[str, Any]) -> bool:
    """Return whether the model was trained on crops of another detector than this version's."""
    detector = card["preprocessing"]["crop"]["detector"]
    return detector != detector_for(detector_named(detector))


def _named(classes: Sequence[str]) -> str:
    return ", ".join(classes)
