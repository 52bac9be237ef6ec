"""combine.py's flags: who answers, how, about what, and what is written."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from common.base.fields import between, explained, host_port, photo_place, positive, tta_mode
from common.data.layout import VIDEOS
from common.model.recipe import Recipe

DECISIONS = ("argmax", "prior", "offsets")


def add_voters(parser: argparse.ArgumentParser, recipes: Sequence[type[Recipe]]) -> None:
    """The flags that say who answers."""
    group = parser.add_argument_group("who answers")
    for recipe in recipes:
        group.add_argument(
            f"--{recipe.task}", type=Path, nargs="+", metavar="FILE",
            help=f"{recipe.task} model, .pt or .onnx, or several that vote",
        )  # fmt: skip
    group.add_argument(
        "--submissions", type=Path, nargs="+", metavar="CSV",
        help="instead of checkpoints: two or more finished tables of ImageID,ans, which vote; a "
        "tie goes to the earlier table",
    )  # fmt: skip


def add_voting(parser: argparse.ArgumentParser, recipes: Sequence[type[Recipe]]) -> None:
    """The flags that say how several models become one answer, and how long they look."""
    group = parser.add_argument_group("how they answer")
    group.add_argument(
        "--vote", choices=("soft", "hard"),
        help="soft: the likeliest class of the models' mean probabilities; hard: the class that "
        "most models think likeliest, a tie as soft (default: soft)",
    )  # fmt: skip
    group.add_argument(
        "--decide", choices=DECISIONS,
        help="argmax: the likeliest class; prior: the likeliest if training had seen all equally "
        "often; offsets: shifted by what --tune-offsets stored, or with --held-out tuned on other "
        "persons (default: offsets where the models hold some, else argmax)",
    )  # fmt: skip
    for name in (*(recipe.task for recipe in recipes), "submission"):
        group.add_argument(
            f"--{name}-weights", type=explained(positive), nargs="+", metavar="W",
            help=f"how much each --{name}{'s' * (name == 'submission')} file counts (default: 1)",
        )  # fmt: skip
    group.add_argument(
        "--tta", type=explained(tta_mode), metavar="flip|N",
        help="flip: the models look at the crop and its mirror image; N: at the crop and N - 1 "
        "random changes of it, as in training; the mean of their logits answers",
    )  # fmt: skip
    group.add_argument(
        "--batch-size", type=explained(between(1, 65_536, int)), default=64, metavar="N",
        help="photos at a time, at most",
    )  # fmt: skip


def add_photos(parser: argparse.ArgumentParser) -> None:
    """The flags that say what is asked about."""
    group = parser.add_argument_group("what to answer")
    group.add_argument(
        "--data", type=Path, metavar="DIR",
        help="folder with eval/info.csv and eval/images, and for --held-out train/ "
        "(default: data, or SM_CHANNEL_EVAL and SM_CHANNEL_TRAIN)",
    )  # fmt: skip
    what = group.add_mutually_exclusive_group()
    what.add_argument(
        "--input", type=photo_place, metavar="PATH",
        help="one photo, any folder of photos, or a folder with info.csv, instead of --data's eval; "
        f"or a video ({' '.join(sorted(VIDEOS))}), whose faces are followed from frame to frame, "
        "each with one answer: the mean over all frames that show it; with --ray also a URI with photos below it, or Parquet with a column path or bytes",
    )  # fmt: skip
    what.add_argument(
        "--held-out", action="store_true",
        help="score each person of --data by the models that were not trained on that person: with "
        "models of all folds, everyone",
    )  # fmt: skip
    group.add_argument(
        "--tune-offsets", action="store_true",
        help="with --held-out: tune --decide's offsets on these persons, and where they score best "
        "store them in the checkpoints",
    )  # fmt: skip
    group.add_argument(
        "--faces", choices=("main", "all"),
        help="main: of each photo the most prominent face; all: every face, also small ones "
        "(default: main; of a video all)",
    )  # fmt: skip
    group.add_argument(
        "--every", type=explained(between(1, 1_000_000, int)), metavar="N",
        help="of a video look at each N-th frame only; in the clip the boxes move evenly between "
        "(default: 1)",
    )  # fmt: skip
    group.add_argument(
        "--labels", type=Path, metavar="CSV",
        help="score the answers by this table of ImageID,ans; without checkpoints, score the "
        "codes that --output holds already",
    )  # fmt: skip


def add_outputs(parser: argparse.ArgumentParser) -> None:
    """The flags that say what is written."""
    group = parser.add_argument_group("what to write")
    group.add_argument(
        "--output", type=Path, metavar="FILE",
        help="table of ImageID,ans (default: submission.csv, in SM_OUTPUT_DATA_DIR if set); with "
        "--faces all of every face with its box and words, of a video with frame and seconds too "
        "(default: faces.csv)",
    )  # fmt: skip
    group.add_argument(
        "--probs", type=Path, metavar="FILE",
        help="table of mean probabilities, the part of the photo looked at, whether a face was "
        "found; of a video each frame's own, before the mean along a track",
    )  # fmt: skip
    group.add_argument(
        "--report", type=Path, metavar="DIR",
        help="with --held-out or --labels: folder for report.html, one page with scores and their "
        "intervals, confusions, calibration, errors by age and group, and the surest mistakes",
    )  # fmt: skip
    group.add_argument(
        "--draw", type=Path, metavar="DIR",
        help="folder for copies of the photos with a box and the answer at each face; of a video "
        "there always is one, MPEG-4 without sound (default: beside --output, clip.faces.mp4)",
    )  # fmt: skip
    group.add_argument(
        "--explain", type=Path, metavar="DIR",
        help="folder for a picture of each photo: the crops that the models saw, and for each task a "
        "heat map (Grad-CAM) of where its answer comes from; needs .pt models and the extra [explain]",
    )  # fmt: skip


def add_cluster(parser: argparse.ArgumentParser) -> None:
    """The flag that says which machines work."""
    group = parser.add_argument_group("who works")
    group.add_argument(
        "--ray", nargs="?", const="local", metavar="ADDRESS",
        help="answer with Ray Data, an actor a core, or with GPUs one a GPU and --workers loader "
        "processes each: on this machine, or on the cluster at ADDRESS (auto, host:port), of which "
        "every machine has this project and can open the photos; --output is then a folder of "
        "Parquet parts (default: codes), and started again it makes those that are missing",
    )  # fmt: skip


def add_service(parser: argparse.ArgumentParser) -> None:
    """The flags of the service."""
    group = parser.add_argument_group("who asks")
    group.add_argument(
        "--serve", type=explained(host_port), nargs="?", const=("127.0.0.1", 8000),
        metavar="[HOST:]PORT",
        help="instead of photos from a folder: a page for the browser and POST /predict, for every "
        "face of the photos that are sent, which stay in memory (default: 127.0.0.1:8000, this "
        "machine alone)",
    )  # fmt: skip
    group.add_argument(
        "--at-once", type=explained(between(1, 4096, int)), metavar="N",
        help="with --serve: requests at a time; others are told to come again (default: 16, or two "
        "a core)",
    )  # fmt: skip
