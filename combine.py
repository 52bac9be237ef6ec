"""Merge a mask, a gender and an age model into one of 18 codes, for one photo or many.

    python combine.py --mask m.pt --gender g.pt --age a.pt                    → submission.csv
    python combine.py --mask m.pt --gender g.pt --age a.pt --input photo.jpg  → an answer to read
    python combine.py … --input street.jpg --faces all --draw drawn           → of every face
    python combine.py … --input photos --explain maps                         → where answers come from
    python combine.py … --input clip.mp4 --every 5                            → faces followed
    python combine.py --mask m.pt --gender g.pt --age a.pt --held-out         → an honest score
    python combine.py … --held-out --report DIR                               → a page on who is misjudged
    python combine.py … --held-out --tune-offsets                             → stores what --decide uses
    python combine.py --mask m*.pt --gender g*.pt --age a*.pt --tta flip      → several models vote
    python combine.py … --input s3://bucket/photos --ray auto                  → codes/ by many machines
    python combine.py … --serve                                               → a page to drop photos on
    python combine.py --submissions a.csv b.csv c.csv --output voted.csv      → so do their answers

code = mask * 6 + gender * 3 + age, in the order of each task's classes.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from age.recipe import AgeRecipe
from common.base.command import Parser, guarded
from common.base.errors import UserError
from common.base.fields import add_flags
from common.base.run_settings import Run
from common.base.stages import Stages
from common.data.layout import is_video
from common.inference.checks import (
    check_explain,
    check_faces,
    check_paths,
    check_ray,
    check_serve,
    check_video,
)
from common.inference.codes import Codes
from common.inference.flags import (
    add_cluster,
    add_outputs,
    add_photos,
    add_service,
    add_voters,
    add_voting,
)
from common.model.recipe import Recipe
from gender.recipe import GenderRecipe
from mask.recipe import MaskRecipe

TASKS: tuple[type[Recipe], ...] = (MaskRecipe, GenderRecipe, AgeRecipe)
CODES = Codes({task.task: task.classes for task in TASKS})
NAMES, encode, decode = CODES.names, CODES.encode, CODES.decode


def build_parser() -> argparse.ArgumentParser:
    """The command line of combine.py."""
    parser = Parser(prog="python combine.py", description=__doc__)
    add_voters(parser, TASKS)
    add_voting(parser, TASKS)
    add_photos(parser)
    add_outputs(parser)
    add_cluster(parser)
    add_service(parser)
    add_flags(parser, Run, only=("allow_bad", "device", "workers", "cache_dir"))
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Do what the command line asks; returns the exit status."""
    faces = arguments.faces == "all" or is_video(arguments.input)
    name = "faces.csv" if faces else "submission.csv"
    output = arguments.output or Path(os.environ.get("SM_OUTPUT_DATA_DIR", "")) / name
    check_faces(arguments)
    check_video(arguments)
    check_ray(arguments)
    check_serve(arguments)
    if arguments.submissions is not None:
        from common.inference.submissions import vote_submissions

        return vote_submissions(arguments, output, CODES)
    given = [task.task for task in TASKS if getattr(arguments, task.task) is not None]
    if not given and arguments.labels is not None and arguments.report is None:
        from common.inference.submissions import score_file

        score_file(CODES, output, arguments.labels)
        return 0
    missing = [f"--{task.task} FILE" for task in TASKS if task.task not in given]
    if missing:
        raise UserError(f"missing {', '.join(missing)}: a code needs every task's model")
    check_paths(arguments, output)
    check_explain(arguments, CODES.classes)
    return answer(arguments, output)


def answer(arguments: argparse.Namespace, output: Path) -> int:
    """Ask the models what the command line asks; returns the exit status."""
    start, stages = time.perf_counter(), Stages()
    with stages("load"):
        from common.inference.job import load_job  # brings torch: too slow for --help
    if arguments.serve is not None:
        from common.inference.service.service import bound, serve

        with bound(*arguments.serve) as listener:
            return serve(load_job(arguments, TASKS, CODES, stages), listener)
    job = load_job(arguments, TASKS, CODES, stages)
    if arguments.ray is not None:
        from common.inference.cluster.cluster import answer_with_ray

        return answer_with_ray(job)
    if arguments.held_out:
        from common.inference.held_out import score_held_out

        status = score_held_out(job)
    elif is_video(arguments.input):
        from common.inference.video.video import answer_video

        status = answer_video(job, output)
    else:
        from common.inference import photos

        respond = photos.answer_faces if arguments.faces == "all" else photos.answer
        status = respond(job, output)
    job.print_time(time.perf_counter() - start)
    return status


def main(argv: Sequence[str] | None = None) -> int:
    """combine.py's command line; returns the exit status."""
    arguments = build_parser().parse_args(argv)
    return guarded(lambda: run(arguments))


if __name__ == "__main__":
    sys.exit(main())
