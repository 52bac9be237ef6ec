"""Checkpoints exported as ONNX files, which onnxruntime runs.

A file is an ONNX model from crops, (batch, 3, height, width) uint8 RGB, to (batch, outputs) logits.
Its metadata holds the checkpoint's card as JSON and, as the file's last bytes, the SHA-256 of all
bytes before. Only ONNX's own operators are run.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from common.base.errors import UserError, first_line, need, shortened
from common.base.quiet import quietly
from common.model.card_values import check_card
from common.model.checkpoint import check_format, check_task, crop_spec, fitting
from common.model.loaded import LoadedModel
from common.model.recipe import Recipe

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from onnx import ModelProto
    from onnxruntime import InferenceSession

SUFFIX = ".onnx"


class OnnxClassifier:
    """Counterpart of `common.model.network.Classifier` that onnxruntime runs on the CPU."""

    device = torch.device("cpu")

    def __init__(self, session: "InferenceSession", name: str = "the export") -> None:
        self.session = session
        self.name = name

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """(photos, 3, height, width) uint8 RGB → (photos, outputs) logits.

        Raises:
            UserError: onnxruntime can't compute them, such as for lack of memory.
        """
        try:
            (logits,) = self.session.run(None, {"images": images.contiguous().numpy()})
        except Exception as error:  # onnxruntime raises kinds of its own
            reason = shortened(first_line(error), 200)
            raise UserError(f"{self.name}: onnxruntime can't run it: {reason}") from None
        return torch.from_numpy(logits)


def is_exported(path: Path) -> bool:
    """Return whether `path` has the suffix of an export."""
    return path.suffix.lower() == SUFFIX


def need_packages(path: Path, *names: str) -> None:
    """Check that the packages that read or write the export `path` are installed.

    Raises:
        UserError: one is missing.
    """
    with quietly():
        need("export", *names, flag=str(path))


def load_exported(path: Path, recipe: type[Recipe], threads: int = 1) -> LoadedModel:
    """Open an export of a checkpoint of `recipe`'s task for prediction on `threads` threads.

    Raises:
        UserError: the file is missing, damaged or another task's, or a package is missing.
    """
    card, data = read_export(path)
    return open_export(path, card, data, recipe, threads)


def open_export(
    path: Path, card: dict[str, Any], data: bytes, recipe: type[Recipe], threads: int = 1
) -> LoadedModel:
    """Open the bytes of an export for prediction by `card`; messages name `path`.

    Raises:
        UserError: it is another task's, or can't be run.
    """
    with fitting(path, recipe.task):
        check_task(path, card, recipe)
        own = recipe.from_dict(card["recipe"])
        model = open_session(data, own.size, len(own.saved_names), threads)
    model.name = str(path)
    model(torch.zeros(1, 3, *own.size, dtype=torch.uint8))  # fails here rather than late
    return LoadedModel(model, own, crop_spec(own), card, path, session_name())


def session_name() -> str:
    """The library that runs exports, its version and device, for a message."""
    return f"onnxruntime {version('onnxruntime')}, CPU"


def read_export(path: Path) -> tuple[dict[str, Any], bytes]:
    """Read the card and all bytes of an export.

    Raises:
        UserError: the file is missing or damaged, or a package is missing.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint")
    need_packages(path, "onnx", "onnxruntime")
    data = path.read_bytes()
    return unpack(path, data), data


def pack(model: "ModelProto", card: Mapping[str, Any]) -> bytes:
    """Serialize `model` with `card` in its metadata."""
    del model.metadata_props[:]
    model.metadata_props.add(key="card", value=json.dumps(card))
    body = model.SerializeToString()
    return body + _seal(body)


def unpack(path: Path, data: bytes) -> dict[str, Any]:
    """The card in the bytes `data` of the export `path`.

    Raises:
        UserError: the file is damaged, or not an export.
    """
    import onnx
    from onnx.external_data_helper import uses_external_data

    end = len(_seal(b""))
    body, seal = memoryview(data)[:-end], data[-end:]
    if seal[:-64] != _seal(b"")[:-64]:
        raise UserError(f"{path}: not exported by this project, or cut short")
    if seal != _seal(body):
        raise UserError(f"{path}: damaged: its digest doesn't match")
    try:
        model = onnx.load_model_from_string(data)
        card = json.loads({entry.key: entry.value for entry in model.metadata_props}["card"])
        _ = card["format"] > 0, card["task"], card["classes"], card["sha256"]
    except Exception:  # protobuf and json raise many kinds
        raise UserError(f"{path}: not exported by this project, or damaged") from None
    check_format(path, card)
    check_card(path, card)
    tensors = (part for part in parts(model) if isinstance(part, onnx.TensorProto))
    if any(map(uses_external_data, tensors)):  # onnxruntime would open any file that they name
        raise UserError(f"{path}: keeps weights in other files, which are not read")
    return card


def open_session(
    data: bytes, size: tuple[int, int], outputs: int, threads: int = 1
) -> OnnxClassifier:
    """Open the bytes of an export in onnxruntime, which computes a batch on `threads` threads.

    Raises:
        ValueError: its inputs and outputs aren't crops of `size` and `outputs` logits.
    """
    with quietly():
        import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # silent: errors are raised as well
    options.intra_op_num_threads = threads  # `predict` runs several networks at a time, on 1 each
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # beside other work
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises many kinds
        raise ValueError(f"onnxruntime {onnxruntime.__version__}: {error}") from None
    ends = [(e.name, e.type, e.shape) for e in (*session.get_inputs(), *session.get_outputs())]
    ours = [
        ("images", "tensor(uint8)", ["batch", 3, *size]),
        ("logits", "tensor(float)", ["batch", outputs]),
    ]
    if ends != ours:
        raise ValueError(f"from {ends[:1]} to {ends[1:]}, expected from {ours[:1]} to {ours[1:]}")
    return OnnxClassifier(session)


def parts(message: "Message") -> Iterator["Message"]:
    """Iterate over a protobuf message and all messages nested in it."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in (value,) if hasattr(value, "ListFields") else value:
                yield from parts(part)


def _seal(body: bytes | memoryview) -> bytes:
    """The bytes of a metadata entry with the SHA-256 of `body`, to append to a serialized model."""
    from onnx import ModelProto, StringStringEntryProto

    entry = StringStringEntryProto(key="sha256", value=hashlib.sha256(body).hexdigest())
    return ModelProto(metadata_props=[entry]).SerializeToString()
