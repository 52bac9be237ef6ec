"""Merge a mask, a gender and an age model into one of 18 codes, for one photo or many.

    python combine.py --mask m.pt --gender g.pt --age a.pt                     → submission.csv
    python combine.py --mask m.pt --gender g.pt --age a.pt --input photo.jpg   printed
    python combine.py … --input street.jpg --faces all --draw drawn            every face
    python combine.py … --input photos --json                                  a line of JSON a photo
    python combine.py … --input photos --explain maps                          heat maps
    python combine.py … --input clip.mp4 --every 5                             faces tracked
    python combine.py --mask m.pt --gender g.pt --age a.pt --held-out          an honest score
    python combine.py … --held-out --report DIR                                errors by group
    python combine.py … --held-out --tune-offsets                              offsets for --decide
    python combine.py --mask m*.pt --gender g*.pt --age a*.pt --tta flip       several models vote
    python combine.py … --input s3://bucket/photos --ray auto                  many machines
    python combine.py … --serve                                                a page for photos
    python combine.py --submissions a.csv b.csv c.csv --output voted.csv       finished tables vote

code = mask * 6 + gender * 3 + age, in the order of each task's classes.
"""

import contextlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from age.recipe import AgeRecipe
from common.base.command import guarded
from common.base.errors import UserError, need
from common.base.stages import Stages
from common.inference.codes import Codes
from common.inference.options import Options, parse
from common.model.recipe import Recipe
from gender.recipe import GenderRecipe
from mask.recipe import MaskRecipe

if TYPE_CHECKING:
    from common.inference.face_predictor import FacePredictor

# The tasks merged into the code, in the competition's order: the last one's class changes fastest.
CODE: tuple[type[Recipe], ...] = (MaskRecipe, GenderRecipe, AgeRecipe)
# Every task that can be predicted. Those that aren't in CODE are optional and change no code.
TASKS: tuple[type[Recipe], ...] = (MaskRecipe, GenderRecipe, AgeRecipe)
CODES = Codes({task.task: task.classes for task in CODE})
# Flags that need an extra of the same name, and the modules it brings.
EXTRAS = {
    "explain": ("captum.attr",),
    "ray": ("ray.data",),
    "serve": ("fastapi", "python_multipart", "uvicorn"),
}
NAMES, encode, decode = CODES.names, CODES.encode, CODES.decode


def run(options: Options) -> int:
    """Do what the command line asks; returns the exit status."""
    options.check()
    if options.submissions:
        from common.inference.submissions import vote_submissions

        return vote_submissions(options, CODES)
    if options.only_scores:
        from common.inference.submissions import score_file

        score_file(CODES, options.output_file, options.labels)
        return 0
    missing = [f"--{task} FILE" for task in CODES.classes if task not in options.models]
    if missing:
        raise UserError(f"missing {', '.join(missing)}: a code needs every task's model")
    for name, modules in EXTRAS.items():
        if getattr(options, name) is not None:
            need(name, *modules, flag=f"--{name}")
    return predict(options)


def predict(options: Options) -> int:
    """Predict with the models what the command line names; returns the exit status."""
    start, stages = time.perf_counter(), Stages()
    options.check_paths()
    with stages("load"):
        from common.inference.job import load_job  # brings torch: too slow for --help
    if options.serve is not None:
        from common.inference.service.server import bound, serve

        with bound(*options.serve) as listener:
            return serve(load_job(options, TASKS, CODES, stages), listener)
    job = load_job(options, TASKS, CODES, stages)
    if options.ray is not None:
        from common.inference.cluster.run import predict_with_ray

        return predict_with_ray(job)
    if options.held_out:
        from common.inference.held_out import score_held_out

        status = score_held_out(job)
    elif options.is_video:
        from common.inference.video.predict import predict_video

        status = predict_video(job)
    else:
        from common.inference.photos import predict_faces, predict_photos

        status = predict_faces(job) if options.every_face else predict_photos(job)
    job.print_time(time.perf_counter() - start)
    return status


def load(
    *files: str | Path | Sequence[str | Path],
    device: str = "auto",
    engine: str = "auto",
    tta: str | int | None = None,
) -> "FacePredictor":
    """Load models for use in a program.

        people = load("m.pt", "g.pt", "a.pt")
        people("photo.jpg")[0].age

    `files` are checkpoints and exports (.pt, .onnx), which know their tasks, lists of them, or a
    folder that holds m.pt, g.pt and a.pt or their exports; models of one task vote. With a model of
    each task the faces have codes. `device`, `engine` and `tta` are as on the command line; auto
    takes an export that is cached, and makes none.

    Raises:
        UserError: a file is missing, damaged or of no known task.
    """
    from common.inference.loading import load_predictor  # brings torch

    return load_predictor(files, TASKS, CODES, device=device, engine=engine, tta=tta)


def main(argv: Sequence[str] | None = None) -> int:
    """Run combine.py's command line; returns the exit status."""
    options = parse(__doc__, [task.task for task in TASKS], argv)
    if not options.json:
        return guarded(lambda: run(options))
    with contextlib.redirect_stdout(sys.stderr):  # stdout is for the lines of JSON alone
        return guarded(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
