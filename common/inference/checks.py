"""What combine.py's flags can't ask for, said before anything is read or written."""

import argparse
import importlib
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from common.base.errors import UserError
from common.data.layout import is_video
from common.inference.report import REPORT


def _given(arguments: argparse.Namespace, names: Iterable[str]) -> list[str]:
    """Those of the flags that are given, as they are spelled."""
    return [f"--{name.replace('_', '-')}" for name in names if getattr(arguments, name)]


def _need(flag: str, *modules: str) -> None:
    """UserError where a module that --`flag` works with isn't installed; the extra has its name."""
    try:
        for module in modules:
            importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"--{flag}: {error}; pip install '.[{flag}]' brings it") from None


def check_paths(arguments: argparse.Namespace, output: Path) -> None:
    """UserError for flags that contradict each other where checkpoints answer."""
    if arguments.submission_weights:
        raise UserError("--submission-weights goes with --submissions")
    if arguments.held_out and (arguments.output or arguments.labels):
        raise UserError("--held-out only scores: --output and --labels don't go with it")
    if arguments.tune_offsets and not arguments.held_out:
        raise UserError("--tune-offsets goes with --held-out")
    if arguments.tune_offsets and arguments.decide not in (None, "offsets"):
        raise UserError(
            f"--tune-offsets and --decide {arguments.decide}: give the one or the other"
        )
    if arguments.report and not (arguments.held_out or arguments.labels):
        raise UserError("--report goes with --held-out or --labels: they know the true answers")
    if arguments.input and arguments.data:
        raise UserError("--input and --data: give the one or the other")
    if arguments.labels and not arguments.labels.is_file():
        raise UserError(f"--labels {arguments.labels}: no such file")
    given = [output, arguments.probs, arguments.labels]
    given += [arguments.report / REPORT] if arguments.report else []
    files = [file.resolve() for file in given if file is not None]
    if len(set(files)) < len(files):
        raise UserError("--output, --probs, --labels and --report must be different files")


def check_faces(arguments: argparse.Namespace) -> None:
    """UserError for flags that don't go with answers about faces."""
    given = _given(arguments, ("labels", "held_out", "submissions"))
    if arguments.faces == "all" and given:
        raise UserError(f"--faces all: a code for each photo is needed for {', '.join(given)}")
    for name in ("draw", "explain"):
        if getattr(arguments, name) and (arguments.held_out or arguments.submissions):
            raise UserError(
                f"--{name} goes with photos to answer for: without --held-out, --submissions"
            )


def check_video(arguments: argparse.Namespace) -> None:
    """UserError for flags that don't go with a video, or need one."""
    if not is_video(arguments.input):
        if arguments.every:
            raise UserError("--every goes with a video, such as --input clip.mp4")
        return
    given = _given(arguments, ("labels", "ray", "submissions", "explain"))
    given += ["--faces main"] if arguments.faces == "main" else []
    if given:
        raise UserError(
            f"--input {arguments.input}: every face of a video is followed: without "
            f"{', '.join(given)}"
        )


def check_ray(arguments: argparse.Namespace) -> None:
    """UserError for flags that don't go with --ray or need it, or where Ray isn't installed."""
    if arguments.ray is None:
        if isinstance(arguments.input, str):
            raise UserError(f"--input {arguments.input}: a URI goes with --ray")
        return
    names = ("submissions", "held_out", "labels", "report", "probs", "draw", "explain")
    given = _given(arguments, names)
    given += ["--faces all"] if arguments.faces == "all" else []
    if given:
        raise UserError(
            f"--ray writes parts with codes and probabilities: without {', '.join(given)}"
        )
    if arguments.device not in ("auto", "cpu", "cuda"):
        raise UserError(f"--device {arguments.device}: with --ray it is auto, cpu or cuda")
    if arguments.output and re.match(r"[a-z0-9]+:/", str(arguments.output)):
        raise UserError(f"--output {arguments.output}: a URI; expected a folder of this machine")
    photos, output = arguments.input, arguments.output or Path("codes")
    if isinstance(photos, Path) and output.resolve().is_relative_to(photos.resolve()):
        raise UserError(f"--output {output}: lies in the folder of photos; name another")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # both before it is imported
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    _need("ray", "ray.data")


def check_serve(arguments: argparse.Namespace) -> None:
    """UserError for flags that don't go with --serve or need it, or where something is missing."""
    if arguments.serve is None:
        if arguments.at_once is not None:
            raise UserError("--at-once goes with --serve")
        return
    names = ("data", "input", "held_out", "tune_offsets", "faces", "labels", "output", "probs",
             "draw", "report", "explain", "ray", "submissions", "submission_weights")  # fmt: skip
    given = _given(arguments, names)
    if given:
        raise UserError(f"--serve answers for photos that it is sent: without {', '.join(given)}")
    _need("serve", "fastapi", "python_multipart", "uvicorn")


def check_submissions(arguments: argparse.Namespace, output: Path, tasks: Iterable[str]) -> None:
    """UserError for flags that don't go with --submissions."""
    files = arguments.submissions
    names = [f"{task}{end}" for task in tasks for end in ("", "_weights")]
    names += ["vote", "decide", "tta", "input", "held_out", "tune_offsets", "data"]
    names += ["probs", "report"]
    given = _given(arguments, names)
    if given:
        raise UserError(f"--submissions votes on finished tables: without {', '.join(given)}")
    if len(files) < 2:
        raise UserError(f"--submissions {files[0]}: a single table; two or more can vote")
    for file in (*files, *([arguments.labels] if arguments.labels else [])):
        if file.resolve() == output.resolve():
            raise UserError(f"--output {output}: that is one of the tables to read; name another")


def weights_of(arguments: argparse.Namespace, name: str, files: int) -> tuple[float, ...]:
    """How much each of `name`'s files counts; UserError unless there is a weight a file."""
    weights = getattr(arguments, f"{name}_weights") or [1.0] * files
    if len(weights) != files:
        raise UserError(f"--{name}-weights: {len(weights)} given for {files} files; one each")
    return tuple(weights)


def check_report(folder: Path | None) -> None:
    """Make the folder that --report names; UserError where its page can't be written."""
    from common.base.files import made_folder, writable_file

    if folder is None:
        return
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--report {folder}: a file; expected the name of a folder")
    writable_file(made_folder(folder, "--report") / REPORT)


def check_explain(arguments: argparse.Namespace, tasks: Iterable[str]) -> None:
    """UserError where --explain can't look into a model, or its package isn't installed."""
    folder = arguments.explain
    if folder is None:
        return
    from common.model.exported import is_exported

    exports = [file for task in tasks for file in getattr(arguments, task) if is_exported(file)]
    if exports:
        raise UserError(f"--explain needs .pt: {exports[0]} is an export, which has no gradients")
    if arguments.draw and folder.resolve() == arguments.draw.resolve():
        raise UserError("--explain and --draw must be different folders")
    _need("explain", "captum.attr")


def check_written(arguments: argparse.Namespace, table: Path | None) -> None:
    """UserError where a table can't be written."""
    from common.base.files import writable_file

    for file in (table, arguments.probs):
        if file is not None:
            writable_file(file)
    check_report(arguments.report)


def check_pictures(
    arguments: argparse.Namespace, flag: str, names: Sequence[str], paths: Sequence[Path]
) -> list[Path]:
    """The photos' pictures that `flag`, --draw or --explain, asks for; UserError where they can't be."""
    from common.inference.annotate import copies

    folder, source = getattr(arguments, flag.removeprefix("--")), arguments.input
    if folder is None:
        return []
    if source is not None and source.is_dir() and folder.resolve().is_relative_to(source.resolve()):
        raise UserError(
            f"{flag} {folder}: lies in the folder of photos, where a next run would find the copies"
        )
    return copies(folder, names, paths, flag)
