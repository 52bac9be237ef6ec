"""Export a checkpoint as an ONNX file, which combine.py takes in its place.

    python -m common.model.export a.pt                     → a.onnx
    python -m common.model.export a.pt --out age.onnx

onnxruntime runs the file on the CPU, with the same predictions. It holds the checkpoint's card:
classes, crop, temperature, offsets, split. Input: crops of faces, images (batch, 3, height, width)
uint8 RGB; output: logits (batch, outputs). Normalisation is part of the file.
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

# Largest allowed difference between the probabilities of torch and onnxruntime. Float32 rounding gives
# 1e-7 to 1e-5 on timm's backbones.
CLOSE = 1e-4


def export(source: Path, out: Path) -> str:
    """Export the checkpoint `source` to `out`, whole or not at all; returns a summary line.

    Raises:
        UserError: `source` isn't a checkpoint, its network can't be expressed in ONNX, or onnxruntime
            gives other probabilities than torch.
    """
    from common.model.checkpoint import read

    content = read(source)
    card = content["card"]
    data, apart = exported_bytes(source, content)
    write_whole(out, data, sync=True)
    height, width = card["preprocessing"]["size"]
    return (
        f"{source} → {out}: {card['task']}, {card['model']}, crops of {height} x {width}, "
        f"{len(data) / 1e6:.1f} MB; probabilities at most {apart:.0e} away from torch's"
    )


def exported_bytes(source: Path, content: Mapping[str, Any]) -> tuple[bytes, float]:
    """Export the `content` of the checkpoint `source`; returns the file and `difference`.

    Raises:
        UserError: as for `export`.
    """
    from common.model.exported import need_packages, pack

    need_packages(source, "onnx", "onnxruntime", "onnxscript")
    model, size, outputs = rebuilt(source, content)
    data = pack(onnx_graph(source, model, size), content["card"])
    apart = difference(data, model, size, outputs)
    if not apart <= CLOSE:
        raise UserError(
            f"{source}: onnxruntime's probabilities are up to {apart:.1g} away from torch's, more "
            f"than {CLOSE:g}; nothing is written"
        )
    return data, apart


def rebuilt(source: Path, content: Mapping[str, Any]) -> tuple["Classifier", tuple[int, int], int]:
    """Build a checkpoint's network; returns it with its input (height, width) and number of logits."""
    from common.model.checkpoint import fill, fitting
    from common.model.network import backbone_for

    card = content["card"]
    with fitting(source, card["task"]):
        height, width = card["preprocessing"]["size"]
        stride = card["recipe"]["stem_stride"]
        backbone = backbone_for(
            card["model"], (height, width), len(card["outputs"]), stem_stride=stride
        )
        return fill(source, backbone, content).eval(), (height, width), len(card["outputs"])


def onnx_graph(source: Path, model: "Classifier", size: tuple[int, int]) -> "ModelProto":
    """`model` as an ONNX graph, for batches of images of `size`, without paths of this machine."""
    import torch

    from common.model.exported import parts

    images = torch.zeros(
        2, 3, *size, dtype=torch.uint8
    )  # a batch of 1 would be taken for a constant
    batch = torch.export.Dim("batch")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own deprecations
            program = torch.onnx.export(
                model,
                (images,),
                dynamo=True,
                verbose=False,
                external_data=False,
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes=({0: batch},),
            )
        graph = program.model_proto
    except (torch.onnx.OnnxExporterError, ValueError) as error:  # ValueError: over 2 GiB
        reason = textwrap.shorten(str(error), 200, placeholder=" …")
        raise UserError(f"{source}: can't be written as ONNX: {reason}") from None
    for part in parts(graph):
        for name in ("metadata_props", "doc_string"):  # paths and lines of source files
            if name in part.DESCRIPTOR.fields_by_name:
                part.ClearField(name)
    return graph


def difference(data: bytes, model: "Classifier", size: tuple[int, int], outputs: int) -> float:
    """Largest difference between the probabilities of onnxruntime and torch, on smooth images.

    Noise isn't used: its logits can reach hundreds, where float32 rounding alone exceeds the limit.
    """
    import torch
    from torch.nn import functional

    from common.model.exported import open_session

    session = open_session(data, size, outputs)
    colours = torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 255
    images = functional.interpolate(colours, size, mode="bilinear").to(torch.uint8)
    with torch.inference_mode():
        expected = model(images).softmax(dim=1)
    actual = torch.cat([session(images[:1]), session(images[1:])]).softmax(dim=1)
    return (actual - expected).abs().max().item()


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m common.model.export", description=__doc__)
    parser.add_argument("checkpoint", type=Path, metavar="FILE", help="checkpoint to export")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="file to write, which ends in .onnx (default: the checkpoint's name with .onnx)",
    )
    return parser


def _command(checkpoint: Path, out: Path | None) -> None:
    from common.model.exported import SUFFIX, is_exported

    out = out or checkpoint.with_suffix(SUFFIX)
    if not is_exported(out):
        raise UserError(f"--out {out}: expected a name that ends in {SUFFIX}")
    writable_file(out, "export", reads=[checkpoint])
    print(export(checkpoint, out))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    arguments = _parser().parse_args(argv)
    return guarded(lambda: _command(arguments.checkpoint, arguments.out))


if __name__ == "__main__":
    sys.exit(main())
