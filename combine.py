"""Merge a mask, a gender and an age model into one of 18 codes, for one photo or many.

    python combine.py --mask m.pt --gender g.pt --age a.pt                    → submission.csv
    python combine.py --mask m.pt --gender g.pt --age a.pt --input photo.jpg  → an answer to read
    python combine.py … --input street.jpg --faces all --draw drawn           → of every face
    python combine.py --mask m.pt --gender g.pt --age a.pt --held-out         → an honest score
    python combine.py … --held-out --tune-offsets                             → stores what --decide uses
    python combine.py --mask m*.pt --gender g*.pt --age a*.pt --tta flip      → several models vote
    python combine.py … --input s3://bucket/photos --ray auto                  → codes/ by many machines
    python combine.py --submissions a.csv b.csv c.csv --output voted.csv      → so do their answers

code = mask * 6 + gender * 3 + age, in the order of each task's classes.
"""

import argparse
import functools
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from age.recipe import AgeRecipe
from common.cli import Parser, add_flags, explained, guarded
from common.errors import UserError
from common.flags import between, photo_place, positive, tta_mode
from common.inference.checks import (
    check_faces,
    check_paths,
    check_ray,
    check_submissions,
    check_written,
    weights_of,
)
from common.inference.codes import Codes
from common.recipe import Recipe
from common.run_settings import Run
from common.stages import Stages
from gender.recipe import GenderRecipe
from mask.recipe import MaskRecipe

if TYPE_CHECKING:
    from common.inference.decide import Offsets
    from common.inference.ensemble import Ensemble
    from common.inference.predictor import Answers, Ask

TASKS: tuple[type[Recipe], ...] = (MaskRecipe, GenderRecipe, AgeRecipe)
CODES = Codes({task.task: task.classes for task in TASKS})
NAMES, encode, decode = CODES.names, CODES.encode, CODES.decode
DECISIONS = ("argmax", "prior", "offsets")
SLOW = 20  # s of networks from which a faster engine is worth a word


def build_parser() -> argparse.ArgumentParser:
    """The command line of combine.py."""
    parser = Parser(prog="python combine.py", description=__doc__)
    add_voters(parser)
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
        "with --ray also a URI with photos below it, or Parquet with a column path or bytes",
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
        "(default: main)",
    )  # fmt: skip
    group.add_argument(
        "--labels", type=Path, metavar="CSV",
        help="score the answers by this table of ImageID,ans; without checkpoints, score the "
        "codes that --output holds already",
    )  # fmt: skip
    group = parser.add_argument_group("what to write")
    group.add_argument(
        "--output", type=Path, metavar="FILE",
        help="table of ImageID,ans (default: submission.csv, in SM_OUTPUT_DATA_DIR if set); with "
        "--faces all of every face with its box and words (default: faces.csv)",
    )  # fmt: skip
    group.add_argument(
        "--probs", type=Path, metavar="FILE",
        help="table of mean probabilities, the part of the photo looked at, whether a face was found",
    )  # fmt: skip
    group.add_argument(
        "--draw", type=Path, metavar="DIR",
        help="folder for copies of the photos with a box and the answer at each face",
    )  # fmt: skip
    group = parser.add_argument_group("who works")
    group.add_argument(
        "--ray", nargs="?", const="local", metavar="ADDRESS",
        help="answer with Ray Data, an actor a core, or with GPUs one a GPU and --workers loader "
        "processes each: on this machine, or on the cluster at ADDRESS (auto, host:port), of which "
        "every machine has this project and can open the photos; --output is then a folder of "
        "Parquet parts (default: codes), and started again it makes those that are missing",
    )  # fmt: skip
    add_flags(parser, Run, only=("allow_bad", "device", "workers", "cache_dir"))
    return parser


def add_voters(parser: argparse.ArgumentParser) -> None:
    """The flags that say who answers, and how several become one."""
    group = parser.add_argument_group("who answers")
    for task in TASKS:
        group.add_argument(
            f"--{task.task}", type=Path, nargs="+", metavar="FILE",
            help=f"{task.task} model, .pt or .onnx, or several that vote",
        )  # fmt: skip
    group.add_argument(
        "--submissions", type=Path, nargs="+", metavar="CSV",
        help="instead of checkpoints: two or more finished tables of ImageID,ans, which vote; a "
        "tie goes to the earlier table",
    )  # fmt: skip
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
    for name in (*(task.task for task in TASKS), "submission"):
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


def run(arguments: argparse.Namespace) -> int:
    """Do what the command line asks; returns the exit status."""
    name = "faces.csv" if arguments.faces == "all" else "submission.csv"
    output = arguments.output or Path(os.environ.get("SM_OUTPUT_DATA_DIR", "")) / name
    check_faces(arguments)
    check_ray(arguments)
    if arguments.submissions is not None:
        return vote_submissions(arguments, output)
    given = [task.task for task in TASKS if getattr(arguments, task.task) is not None]
    if not given and arguments.labels is not None:
        from common.inference.scores import score_file

        score_file(CODES, output, arguments.labels)
        return 0
    missing = [f"--{task.task} FILE" for task in TASKS if task.task not in given]
    if missing:
        raise UserError(f"missing {', '.join(missing)}: a code needs every task's model")
    check_paths(arguments, output)
    start, stages = time.perf_counter(), Stages()
    with stages("load"):
        ensembles = load_ensembles(arguments)
    if arguments.ray is not None:
        return answer_on_cluster(arguments, ensembles)
    if arguments.held_out:
        status = score_held_out(arguments, ensembles, stages)
    else:
        respond = answer_faces if arguments.faces == "all" else answer
        status = respond(arguments, ensembles, output, stages)
    print_time(stages, time.perf_counter() - start, ensembles)
    return status


def print_time(stages: Stages, total: float, ensembles: Mapping[str, "Ensemble"]) -> None:
    """Where the `total` seconds went, and where another engine would save many of them."""
    from common.inference.ensemble import slow_files

    overlap = sum(stages.seconds.values()) > total
    together = " (loader processes and networks at the same time)" if overlap else ""
    print(f"time: {total:.1f} s; {stages.line()}{together}")
    slow = slow_files(ensembles)
    if slow and stages.seconds["networks"] > max(SLOW, total / 2):
        print(f"on a CPU exports are faster: python -m common.inference.export {slow[0]}")


def load_ensembles(arguments: argparse.Namespace) -> dict[str, "Ensemble"]:
    """Each task's models, on their device, with notes on what differs between them."""
    import torch

    from common.inference.ensemble import load_ensemble, print_ensembles
    from common.training.device import describe_device, pick_device, share_cores

    files = {task: getattr(arguments, task) for task in CODES.classes}
    weights = {task: weights_of(arguments, task, len(files[task])) for task in CODES.classes}
    vote = arguments.vote or "soft"
    device = pick_device("cpu" if arguments.ray else arguments.device)
    torch.set_num_threads(1)  # more gain nothing here, and beside other work they spin
    ensembles = {
        t.task: load_ensemble(t, files[t.task], weights[t.task], vote, device) for t in TASKS
    }
    share_cores(device, 0)  # among networks; loader processes get their share of any core
    print_ensembles(ensembles, arguments.tta)
    if not arguments.ray:
        print(describe_device(device))
    return ensembles


def answer(
    arguments: argparse.Namespace,
    ensembles: Mapping[str, "Ensemble"],
    output: Path,
    stages: Stages,
) -> int:
    """Answer for a photo, a folder or the eval set; returns the exit status."""
    from common.data.layout import find_input
    from common.files import write_frame
    from common.inference.submissions import read_labels
    from common.inference.tables import (
        code_table,
        detail_table,
        print_one,
        print_summary,
        report_bad,
    )

    names, paths, single = find_input(arguments.input, arguments.data, arguments.allow_bad)
    table = arguments.output if single else output
    drawings = check_written(arguments, table, names, paths)
    labels = arguments.labels
    true = read_labels(labels, names, len(CODES)) if labels is not None else None
    answers, decision = ask(arguments, ensembles, paths, stages)
    codes = CODES.of(answers)
    if single and 0 not in answers.bad:
        print_one(CODES, names[0], answers, decision)
    with stages("write"):
        if table is not None:
            write_frame(table, code_table(names, codes))
        if arguments.probs is not None:
            write_frame(arguments.probs, detail_table(names, answers, CODES.classes))
    status = report_bad(names, answers.bad, table, arguments.allow_bad)
    if not single:
        print_summary(CODES, codes, answers)
    if true is not None:
        from common.inference.scores import print_score  # scikit-learn takes a second

        print_score(CODES, true, codes)
    if table is not None:
        print(f"{len(names):,} rows → {table}")
    with stages("write"):
        draw(arguments, drawings, paths, answers)
    return status


def answer_faces(
    arguments: argparse.Namespace,
    ensembles: Mapping[str, "Ensemble"],
    output: Path,
    stages: Stages,
) -> int:
    """Answer for every face in a photo, a folder or the eval set; returns the exit status."""
    from common.data.layout import find_input
    from common.files import write_frame
    from common.inference.faces import (
        bad_by_photo,
        check_face_crops,
        face_table,
        print_faces,
        print_found,
    )
    from common.inference.tables import detail_table, print_classes, report_bad

    check_face_crops(ensembles)
    names, paths, single = find_input(arguments.input, arguments.data, arguments.allow_bad)
    file = arguments.output if single else output
    drawings = check_written(arguments, file, names, paths)
    answers, _ = ask(arguments, ensembles, paths, stages)
    table = face_table(names, answers, CODES)
    if single and not answers.bad:
        print_faces(table, CODES)
    with stages("write"):
        if file is not None:
            write_frame(file, table)
        if arguments.probs is not None:
            details = detail_table(table["ImageID"], answers, CODES.classes)
            details.insert(1, "face", table["face"])
            write_frame(arguments.probs, details)
    status = report_bad(names, bad_by_photo(answers), file, arguments.allow_bad)
    if not single:
        print_found(answers, len(names))
        print_classes(CODES, CODES.of(answers))
    if file is not None:
        print(f"{len(table):,} rows → {file}")
    with stages("write"):
        draw(arguments, drawings, paths, answers)
    return status


def draw(
    arguments: argparse.Namespace,
    files: Sequence[Path],
    paths: Sequence[Path],
    answers: "Answers",
) -> None:
    """Write what --draw asks for."""
    from common.inference.annotate import draw_all

    if files:
        number = draw_all(files, paths, answers, CODES)
        print(f"{number:,} photos drawn → {arguments.draw}")


def ask(
    arguments: argparse.Namespace,
    ensembles: Mapping[str, "Ensemble"],
    paths: Sequence[Path],
    stages: Stages,
) -> tuple["Answers", str]:
    """What the models say, and what decides on their classes."""
    from common.inference.decide import decide

    decision, offsets = decided(arguments, ensembles)
    return decide(asker(arguments, stages)(paths, ensembles), ensembles, offsets), decision


def decided(
    arguments: argparse.Namespace, ensembles: Mapping[str, "Ensemble"]
) -> tuple[str, "Offsets"]:
    """What decides on the models' classes, and how."""
    from common.inference.decide import default_decision, describe_decision, offsets_of

    decision = arguments.decide or default_decision(ensembles)
    offsets = offsets_of(decision, ensembles)
    print(describe_decision(decision, ensembles))
    return decision, offsets


def answer_on_cluster(arguments: argparse.Namespace, ensembles: Mapping[str, "Ensemble"]) -> int:
    """Answer for any number of photos by Ray, in Parquet parts; returns the exit status."""
    from common.inference.cluster import answer_with_ray

    return answer_with_ray(arguments, TASKS, CODES, ensembles, *decided(arguments, ensembles))


def asker(arguments: argparse.Namespace, stages: Stages) -> "Ask":
    """What runs models over photos, as the flags say."""
    from common.inference.predictor import predict

    return functools.partial(
        predict, cache_dir=arguments.cache_dir, workers=arguments.workers,
        batch_size=arguments.batch_size, tta=arguments.tta, every_face=arguments.faces == "all",
        stages=stages,
    )  # fmt: skip


def score_held_out(
    arguments: argparse.Namespace, ensembles: Mapping[str, "Ensemble"], stages: Stages
) -> int:
    """Score each person by the models that weren't trained on them; returns the exit status."""
    from common.files import writable_file, write_frame
    from common.inference.decide import check_storable, default_decision, describe_decision
    from common.inference.ensemble import all_models
    from common.inference.held_out import (
        ask_held_out,
        describe_parts,
        honest_parts,
        tune_and_store,
    )
    from common.inference.scores import print_score
    from common.inference.tables import detail_table, report_bad

    if arguments.tune_offsets:
        check_storable(all_models(ensembles))
    if arguments.probs is not None:
        writable_file(arguments.probs)
    decision = arguments.decide or default_decision(ensembles)
    decision = "offsets" if arguments.tune_offsets else decision
    data = arguments.data or Path(os.environ.get("SM_CHANNEL_TRAIN", "data"))
    parts = honest_parts(data, ensembles)
    decider = ask_held_out(parts, ensembles, decision, CODES, asker(arguments, stages))
    with stages("decide"):
        answers = decider.decided(decision)
    faces = [face for part in parts for face in part.faces]
    status = report_bad([str(f.path) for f in faces], answers.bad, None, arguments.allow_bad)
    if arguments.probs is not None:
        names = [f"{face.person.key}/{face.path.name}" for face in faces]
        table = detail_table(names, answers, CODES.classes)
        table.insert(1, "label", decider.true)
        with stages("write"):
            write_frame(arguments.probs, table)
    print_score(CODES, decider.true, CODES.of(answers))
    print(f"on {describe_parts(parts, ensembles)}")
    print(describe_decision(decision, ensembles, nested=True))
    if arguments.tune_offsets and not status:
        how = {"vote": arguments.vote or "soft", "tta": arguments.tta}
        with stages("decide"):
            tune_and_store(decider, answers, CODES, how)
    return status


def vote_submissions(arguments: argparse.Namespace, output: Path) -> int:
    """Write the codes that most of the finished tables hold; returns the exit status."""
    from common.files import writable_file, write_frame
    from common.inference.scores import print_score
    from common.inference.submissions import read_labels, vote_tables
    from common.inference.tables import code_table

    check_submissions(arguments, output, CODES.classes)
    weights = weights_of(arguments, "submission", len(arguments.submissions))
    writable_file(output)
    verdict = vote_tables(arguments.submissions, weights, len(CODES))
    labels = arguments.labels
    true = read_labels(labels, verdict.names, len(CODES)) if labels is not None else None
    write_frame(output, code_table(verdict.names, verdict.codes))
    if true is not None:
        print_score(CODES, true, verdict.codes)
    print(verdict.summary())
    print(f"{len(verdict.names):,} rows → {output}")
    empty = (verdict.codes < 0).sum()
    if empty:
        kind = "error" if empty > arguments.allow_bad else "warning"
        print(
            f"{kind}: {empty} rows are empty in every table, and stay empty (--allow-bad {empty} "
            "allows that)", file=sys.stderr,
        )  # fmt: skip
    return 2 if empty > arguments.allow_bad else 0


def main(argv: Sequence[str] | None = None) -> int:
    """combine.py's command line; returns the exit status."""
    arguments = build_parser().parse_args(argv)
    return guarded(lambda: run(arguments))


if __name__ == "__main__":
    sys.exit(main())
