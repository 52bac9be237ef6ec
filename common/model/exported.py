"""Checkpoints as ONNX files, which onnxruntime runs: what is in one, and who may open it.

A file is an ONNX model from the crop, (batch, 3, height, width) uint8 RGB, to (batch, outputs)
logits. Its metadata holds the checkpoint's card as JSON and, as the file's last bytes, the SHA-256
of all bytes before. Nothing in it is run but ONNX's own operators.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from common.base.errors import UserError
from common.model.checkpoint import FORMAT, check_task, crop_spec, fitting
from common.model.loaded import LoadedModel
from common.model.recipe import Recipe

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from onnx import ModelProto
    from onnxruntime import InferenceSession

SUFFIX = ".onnx"
MISSING = "{}: {}; pip install '.[export]' brings it"


class OnnxClassifier:
    """As `common.model.network.Classifier`, run by onnxruntime on the CPU."""

    device = torch.device("cpu")

    def __init__(self, session: "InferenceSession") -> None:
        self.session = session

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        (logits,) = self.session.run(None, {"images": images.contiguous().numpy()})
        return torch.from_numpy(logits)


def is_exported(path: Path) -> bool:
    """Whether `path` is called as exports are."""
    return path.suffix.lower() == SUFFIX


def load_exported(path: Path, recipe: type[Recipe]) -> LoadedModel:
    """Open an export of a checkpoint of `recipe`'s task; UserError where it isn't one."""
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint")
    try:
        import onnxruntime

        data = path.read_bytes()
        card = read_card(path, data)
    except ImportError as error:
        raise UserError(MISSING.format(path, error)) from None
    with fitting(path, recipe.task):
        check_task(path, card, recipe)
        own = recipe.from_dict(card["recipe"])
        model = open_session(data, own.size, own.outputs)
    engine = f"onnxruntime {onnxruntime.__version__}, CPU"
    return LoadedModel(model, own, crop_spec(own), card, path, engine)


def pack(model: "ModelProto", card: Mapping[str, Any]) -> bytes:
    """The bytes of a file that holds `model` and `card`."""
    del model.metadata_props[:]
    model.metadata_props.add(key="card", value=json.dumps(card))
    body = model.SerializeToString()
    return body + _seal(body)


def read_card(path: Path, data: bytes) -> dict[str, Any]:
    """The card in a file's bytes, once they are whole; UserError says by name why they aren't."""
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
        newer, _ = card["format"] > FORMAT, (card["task"], card["classes"], card["sha256"])
    except Exception:  # protobuf's and JSON's errors are of many kinds
        raise UserError(f"{path}: not exported by this project, or damaged") from None
    if newer:
        raise UserError(f"{path}: checkpoint format {card['format']}, this version reads {FORMAT}")
    tensors = (part for part in parts(model) if isinstance(part, onnx.TensorProto))
    if any(map(uses_external_data, tensors)):  # onnxruntime would open any file that they name
        raise UserError(f"{path}: keeps weights in other files, which aren't read")
    return card


def open_session(data: bytes, size: tuple[int, int], outputs: int) -> OnnxClassifier:
    """Onnxruntime with a file's bytes; ValueError unless it takes and gives what we do."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised as well
    options.intra_op_num_threads = 1  # `predict` asks as many networks at once as it may use cores
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # of many kinds, none of them a RuntimeError
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
    """A protobuf message and all messages in it, however deep."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in (value,) if hasattr(value, "ListFields") else value:
                yield from parts(part)


def _seal(body: bytes | memoryview) -> bytes:
    """A metadata entry, as protobuf appends it to a model of bytes `body`, with their SHA-256."""
    from onnx import ModelProto, StringStringEntryProto

    entry = StringStringEntryProto(key="sha256", value=hashlib.sha256(body).hexdigest())
    return ModelProto(metadata_props=[entry]).SerializeToString()
