"""Writes a checkpoint as an ONNX file, which combine.py takes in its place.

    python -m common.model.export a.pt                     → a.onnx
    python -m common.model.export a.pt --out age.onnx

The file answers as the checkpoint does, by onnxruntime on the CPU, and holds all that the
checkpoint says of itself: classes, crop, temperature, offsets, split. Input: the face's crop,
images (batch, 3, height, width) uint8 RGB; output: logits (batch, outputs). What the model does to
the colours first is in the file.
"""

import argparse
import sys
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.base.command import Parser, guarded
from common.base.errors import UserError
from common.base.files import writable_file, write_whole

if TYPE_CHECKING:
    from onnx import ModelProto

    from common.model.network import Classifier

CLOSE = 1e-4  # of probabilities


def export(source: Path, out: Path) -> str:
    """Write the checkpoint `source` to `out`, whole or not at all; returns a line about the file.

    UserError where `source` isn't a checkpoint, its network can't be expressed in ONNX, or
    onnxruntime answers otherwise than torch.
    """
    from common.model.checkpoint import read
    from common.model.exported import pack

    _import_exporter(source)
    content = read(source)
    card = content["card"]
    model, size, outputs = rebuilt(source, content)
    data = pack(onnx_graph(source, model, size), card)
    apart = difference(data, model, size, outputs)
    if not apart <= CLOSE:
        raise UserError(
            f"{source}: onnxruntime's probabilities are up to {apart:.1g} away from torch's, more "
            f"than {CLOSE:g}; nothing is written"
        )
    write_whole(out, data, sync=True)
    return (
        f"{source} → {out}: {card['task']}, {card['model']}, crops of {size[0]} x {size[1]}, "
        f"{len(data) / 1e6:.1f} MB; probabilities at most {apart:.0e} away from torch's"
    )


def rebuilt(source: Path, content: Mapping[str, Any]) -> tuple["Classifier", tuple[int, int], int]:
    """A checkpoint's network, its input's (height, width) and its number of logits."""
    from common.model.checkpoint import fill, fitting
    from common.model.network import backbone_for, classifier_tensors

    card, tensors = content["card"], content["state_dict"]
    with fitting(source, card["task"]):
        height, width = card["preprocessing"]["size"]
        backbone = backbone_for(
            card["model"], (height, width), len(card["classes"]),
            stem_stride=card["recipe"].get("stem_stride", 0),
        )  # fmt: skip
        outputs = len(tensors[min(classifier_tensors(backbone))])
        if outputs != len(card["classes"]):  # a loss that wants more than a logit a class
            backbone.reset_classifier(outputs)
        return fill(source, backbone, content).eval(), (height, width), outputs


def onnx_graph(source: Path, model: "Classifier", size: tuple[int, int]) -> "ModelProto":
    """`model` in ONNX, for any number of images of `size`, without a word about this machine."""
    import torch

    from common.model.exported import parts

    images = torch.zeros(2, 3, *size, dtype=torch.uint8)  # 1 would become the only batch size
    batch = torch.export.Dim("batch")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch about itself
            program = torch.onnx.export(
                model, (images,), dynamo=True, verbose=False, external_data=False,
                input_names=["images"], output_names=["logits"], dynamic_shapes=({0: batch},),
            )  # fmt: skip
        graph = program.model_proto
    except (torch.onnx.OnnxExporterError, ValueError) as error:  # over 2 GiB: ValueError
        reason = textwrap.shorten(str(error), 200, placeholder=" …")
        raise UserError(f"{source}: can't be written as ONNX: {reason}") from None
    for part in parts(graph):
        for name in ("metadata_props", "doc_string"):  # the source files' paths and lines
            if name in part.DESCRIPTOR.fields_by_name:
                part.ClearField(name)
    return graph


def difference(data: bytes, model: "Classifier", size: tuple[int, int], outputs: int) -> float:
    """How far onnxruntime's probabilities are from torch's, at most, on soft random colours.

    Not on noise: it can give logits of hundreds, of which float32 rounds away more than it tells.
    """
    import torch
    from torch.nn import functional

    from common.model.exported import open_session

    session = open_session(data, size, outputs)
    colours = torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 255
    images = functional.interpolate(colours, size, mode="bilinear").to(torch.uint8)
    with torch.inference_mode():
        expected = model(images).softmax(dim=1)
    found = torch.cat([session(images[:1]), session(images[1:])]).softmax(dim=1)
    return (found - expected).abs().max().item()


def _import_exporter(source: Path) -> None:
    from common.model.exported import MISSING

    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(MISSING.format(source, error)) from None


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m common.model.export", description=__doc__)
    parser.add_argument("checkpoint", type=Path, metavar="FILE", help="checkpoint to export")
    parser.add_argument(
        "--out", type=Path, metavar="FILE",
        help="file to write, which ends in .onnx (default: the checkpoint's name with .onnx)",
    )  # fmt: skip
    return parser


def _command(arguments: argparse.Namespace) -> None:
    from common.model.exported import SUFFIX, is_exported

    out = arguments.out or arguments.checkpoint.with_suffix(SUFFIX)
    if not is_exported(out):
        raise UserError(f"--out {out}: expected a name that ends in {SUFFIX}")
    writable_file(out)
    print(export(arguments.checkpoint, out))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    arguments = _parser().parse_args(argv)
    return guarded(lambda: _command(arguments))


if __name__ == "__main__":
    sys.exit(main())
