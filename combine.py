"""Merge a mask, a gender and an age model into one of 18 codes, for one photo or many.

    python combine.py --mask m.pt --gender g.pt --age a.pt                    → submission.csv
    python combine.py --mask m.pt --gender g.pt --age a.pt --input photo.jpg  → an answer to read
    python combine.py --mask m.pt --gender g.pt --age a.pt --held-out         → an honest score

code = mask * 6 + gender * 3 + age, in the order of each task's classes.
"""

import argparse
import itertools
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from age.recipe import AgeRecipe
from common.cli import Parser, explained, guarded
from common.errors import UserError, listed
from common.recipe import Recipe, between, default_cache, default_workers
from gender.recipe import GenderRecipe
from mask.recipe import MaskRecipe

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from common.inference.predictor import Answers
    from common.training.checkpoint import Loaded

TASKS: tuple[type[Recipe], ...] = (MaskRecipe, GenderRecipe, AgeRecipe)
NAMES = tuple(" ".join(names) for names in itertools.product(*(task.classes for task in TASKS)))


def encode(classes: Sequence["np.ndarray | int"]) -> "np.ndarray | int":
    """Class indices, one (or one array) per task in the order of TASKS, to codes."""
    code = 0
    for task, index in zip(TASKS, classes, strict=True):
        code = code * len(task.classes) + index
    return code


def decode(code: "np.ndarray | int") -> tuple["np.ndarray | int", ...]:
    """Codes to class indices in the order of TASKS: the inverse of `encode`."""
    classes = []
    for task in reversed(TASKS):
        classes.append(code % len(task.classes))
        code = code // len(task.classes)
    return tuple(reversed(classes))


def whole(low: int, high: int) -> Callable[[str], int]:
    """A parser of whole numbers from `low` to `high`, for argparse."""
    return explained(between(low, high, int))


def build_parser() -> argparse.ArgumentParser:
    """The command line of combine.py."""
    parser = Parser(prog="python combine.py", description=__doc__)
    group = parser.add_argument_group("checkpoints")
    for task in TASKS:
        group.add_argument(f"--{task.task}", type=Path, metavar="FILE", help=f"{task.task} model")
    group = parser.add_argument_group("what to answer")
    group.add_argument(
        "--data", type=Path, metavar="DIR",
        help="folder with eval/info.csv and eval/images, and for --held-out train/ "
        "(default: data, or SM_CHANNEL_EVAL and SM_CHANNEL_TRAIN)",
    )  # fmt: skip
    what = group.add_mutually_exclusive_group()
    what.add_argument(
        "--input", type=Path, metavar="PATH",
        help="one photo, any folder of photos, or a folder with info.csv, instead of --data's eval",
    )  # fmt: skip
    what.add_argument(
        "--held-out", action="store_true",
        help="score the three models on the persons of --data that none of them was trained on",
    )  # fmt: skip
    group.add_argument(
        "--labels", type=Path, metavar="CSV",
        help="score the answers by this table of ImageID,ans; without checkpoints, score the "
        "codes that --output holds already",
    )  # fmt: skip
    group = parser.add_argument_group("what to write")
    group.add_argument(
        "--output", type=Path, metavar="FILE",
        help="table of ImageID,ans (default: submission.csv, in SM_OUTPUT_DATA_DIR if set)",
    )  # fmt: skip
    group.add_argument(
        "--probs", type=Path, metavar="FILE",
        help="table of probabilities, the part of the photo looked at, and whether a face was found",
    )  # fmt: skip
    group = parser.add_argument_group("run")
    group.add_argument(
        "--allow-bad", type=whole(0, 10**9), default=0, metavar="N",
        help="succeed with up to N unreadable photos, whose ans stays empty",
    )  # fmt: skip
    group.add_argument(
        "--batch-size", type=whole(1, 65_536), default=64, metavar="N", help="photos at a time"
    )
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    group.add_argument(
        "--workers", type=whole(0, 256), default=default_workers(), metavar="N",
        help="loader processes",
    )  # fmt: skip
    group.add_argument(
        "--cache-dir", type=Path, default=default_cache(), metavar="DIR",
        help="folder for cropped faces",
    )  # fmt: skip
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Do what the command line asks; returns the exit status."""
    given = [task.task for task in TASKS if getattr(arguments, task.task) is not None]
    output = arguments.output or Path(os.environ.get("SM_OUTPUT_DATA_DIR", "")) / "submission.csv"
    if not given and arguments.labels is not None:
        return score_file(output, arguments.labels)
    missing = [f"--{task.task} FILE" for task in TASKS if task.task not in given]
    if missing:
        raise UserError(f"missing {', '.join(missing)}: a code needs every task's model")
    check_paths(arguments, output)
    models = load_models(arguments)
    if arguments.held_out:
        return score_held_out(arguments, models)
    return answer(arguments, models, output)


def check_paths(arguments: argparse.Namespace, output: Path) -> None:
    """UserError for flags that contradict each other, before anything is read or written."""
    if arguments.held_out and (arguments.output or arguments.probs or arguments.labels):
        raise UserError("--held-out only scores: --output, --probs and --labels don't go with it")
    if arguments.input and arguments.data:
        raise UserError("--input and --data: give the one or the other")
    if arguments.labels and not arguments.labels.is_file():
        raise UserError(f"--labels {arguments.labels}: no such file")
    given = [output, arguments.probs, arguments.labels]
    files = [file.resolve() for file in given if file is not None]
    if len(set(files)) < len(files):
        raise UserError("--output, --probs and --labels must be different files")


def load_models(arguments: argparse.Namespace) -> dict[str, "Loaded"]:
    """The checkpoints, on their device, with notes on what differs between them."""
    from common.training.checkpoint import load, outdated_detector
    from common.training.device import describe_device, pick_device, share_cores

    device = pick_device(arguments.device)
    models = {t.task: load(getattr(arguments, t.task), t, device) for t in TASKS}
    for task, model in models.items():
        print(f"{task}: {model.path}, {model.recipe.model}, {_crop_words(model)}")
        if outdated_detector(model.card):
            print(f"warning: {model.path}: trained on another detector's crops", file=sys.stderr)
    if len({model.spec for model in models.values()}) > 1:
        print("note: the models look at different crops; each photo is cut for each of them")
    print(describe_device(device))
    share_cores(device, min(arguments.workers, 1))
    return models


def _crop_words(model: "Loaded") -> str:
    spec = model.spec
    margin = f" +{spec.margin:.0%}" if spec.method == "face" else ""
    return f"crop {spec.method}{margin}, {spec.size[0]} x {spec.size[1]}"


def answer(arguments: argparse.Namespace, models: Mapping[str, "Loaded"], output: Path) -> int:
    """Answer for a photo, a folder or the eval set; returns the exit status."""
    from common.files import writable_file

    names, paths, single = find_input(arguments)
    files = [arguments.output if single else output, arguments.probs]
    for file in files:
        if file is not None:
            writable_file(file)
    true = read_labels(arguments.labels, names) if arguments.labels is not None else None
    answers = ask(arguments, models, paths)
    table = answer_table(names, answers)
    if single and 0 not in answers.bad:
        print_one(names[0], answers)
    if files[0] is not None:
        write_table(files[0], table[["ImageID", "ans"]])
    if arguments.probs is not None:
        write_table(arguments.probs, table.drop(columns="ans"))
    status = report_bad(names, answers, files[0], arguments.allow_bad)
    if not single:
        print_summary(table, answers)
    if true is not None:
        print_score(true, codes_of(answers))
    if files[0] is not None:
        print(f"{len(table):,} rows → {files[0]}")
    return status


def find_input(arguments: argparse.Namespace) -> tuple[list[str], list[Path], bool]:
    """Names and paths of the photos to answer for, and whether it is a single photo."""
    from common.data.layout import eval_dir, find_photos, read_eval

    source: Path | None = arguments.input
    if source is None:
        default = "data" if arguments.data else os.environ.get("SM_CHANNEL_EVAL", "data")
        return *read_eval(eval_dir(arguments.data or Path(default))), False
    if source.is_dir():
        return *(read_eval if (source / "info.csv").is_file() else find_photos)(source), False
    if not source.exists():
        raise UserError(f"--input {source}: no such photo or folder")
    return [source.name], [source], True


def ask(
    arguments: argparse.Namespace, models: Mapping[str, "Loaded"], paths: Sequence[Path]
) -> "Answers":
    """Run the models over the photos."""
    from common.inference.predictor import predict

    device = next(iter(models.values())).model.mean.device
    return predict(
        paths, models, device=device, cache_dir=arguments.cache_dir, workers=arguments.workers,
        batch_size=arguments.batch_size,
    )  # fmt: skip


def answer_table(names: Sequence[str], answers: "Answers") -> "pd.DataFrame":
    """A row a photo, in order: ImageID, ans (empty where bad), probabilities, region, face_found."""
    import pandas as pd

    columns: dict[str, object] = {"ImageID": list(names), "ans": codes_of(answers)}
    for task in TASKS:
        for index, name in enumerate(task.classes):
            columns[f"{task.task}_{name}"] = answers.probabilities[task.task][:, index].round(6)
    for index, name in enumerate(("x0", "y0", "x1", "y1")):
        columns[name] = answers.regions[:, index]
    columns |= {"face_found": answers.found, "faces": answers.faces}
    whole_numbers = dict.fromkeys(("ans", "x0", "y0", "x1", "y1", "faces"), "Int64")
    table = pd.DataFrame(columns).astype({"face_found": "boolean"} | whole_numbers)
    table["ans"] = table["ans"].mask(table["ans"] < 0)
    return table


def codes_of(answers: "Answers") -> "np.ndarray":
    """The code of every photo, (photos,); -1 where a photo is bad."""
    codes = encode([answers.classes(task.task) for task in TASKS])
    codes[list(answers.bad)] = -1
    return codes


def print_one(name: str, answers: "Answers") -> None:
    """One photo's answer, for a person to read."""
    classes = [int(answers.classes(task.task)[0]) for task in TASKS]
    print(f"\n{name}: {' / '.join(t.classes[c] for t, c in zip(TASKS, classes, strict=True))}")
    for task, index in zip(TASKS, classes, strict=True):
        shares = zip(task.classes, answers.probabilities[task.task][0], strict=True)
        others = ", ".join(f"{n} {p:.1%}" for n, p in shares if n != task.classes[index])
        sure = answers.probabilities[task.task][0][index]
        print(f"  {task.task:<8}{task.classes[index]:<10} {sure:>6.1%}   ({others})")
    print(f"  code    {encode(classes)}\n  {face_words(answers)}")


def face_words(answers: "Answers") -> str:
    """Whether the first photo's face was found, and where."""
    x0, y0, x1, y1 = map(int, answers.regions[0])
    place = f"x {x0} to {x1}, y {y0} to {y1}"
    among = f" (the most prominent of {answers.faces[0]})" if (answers.faces[0] or 0) > 1 else ""
    if answers.found[0] is None:
        return f"no face was looked for; crop: {place}"
    return (
        f"face found{among}; crop: {place}"
        if answers.found[0]
        else f"no face found: centre crop: {place}"
    )


def print_summary(table: "pd.DataFrame", answers: "Answers") -> None:
    """How many faces were found, and how the answers are spread."""
    looked = [found for found in answers.found if found is not None]
    if looked:
        print(f"{sum(looked):,} faces, {len(looked) - sum(looked):,} centre crops")
    codes = table["ans"].dropna().to_numpy(int)
    for task, classes in zip(TASKS, decode(codes), strict=True):
        counts = (f"{name} {(classes == i).sum():,}" for i, name in enumerate(task.classes))
        print(f"{task.task:<8}{', '.join(counts)}")


def report_bad(names: Sequence[str], answers: "Answers", output: Path | None, allowed: int) -> int:
    """List what couldn't be read, also in {output}.failed.csv; returns the exit status."""
    import pandas as pd

    from common.data.dataset import bad_photos

    failed = output.with_name(f"{output.name}.failed.csv") if output is not None else None
    if failed is not None:
        failed.unlink(missing_ok=True)
    if not answers.bad:
        return 0
    rows = [(names[index], reason) for index, reason in sorted(answers.bad.items())]
    kind = "error" if len(rows) > allowed else "warning"
    single = len(names) == 1
    words = ": ".join(rows[0]) if single else bad_photos(rows, len(names), allowed)
    print(f"{kind}: {words}", file=sys.stderr)
    if failed is not None:
        write_table(failed, pd.DataFrame(rows, columns=["ImageID", "reason"]))
        print(f"their ans is empty; the reasons are also in {failed}", file=sys.stderr)
    return 2 if len(rows) > allowed else 0


def write_table(path: Path, table: "pd.DataFrame") -> None:
    """Write a CSV whole or not at all."""
    from common.files import write_whole

    text = table.to_csv(index=False, lineterminator="\n")
    write_whole(path, text.encode(errors="surrogateescape"))  # file names needn't be UTF-8


def read_codes(path: Path, *, empty: bool = False) -> dict[str, int]:
    """A table of ImageID,ans; UserError lists rows whose code isn't one of ours.

    Where `empty` is allowed, a row without an answer becomes -1.
    """
    from common.data.layout import read_table

    table = read_table(path, ("ImageID", "ans"))
    allowed = {str(code) for code in range(len(NAMES))} | ({""} if empty else set())
    wrong = [
        f"row {row.Index + 2}: {row.ImageID}: {row.ans!r}"
        for row in table.itertuples()
        if row.ans.strip() not in allowed
    ]
    if wrong:
        raise UserError(f"{path}: ans is 0 to {len(NAMES) - 1}; found\n{listed(wrong)}")
    again = table["ImageID"][table["ImageID"].duplicated()].tolist()
    if again:
        raise UserError(f"{path}: ids that stand twice\n{listed(again)}")
    codes = [int(ans) if ans.strip() else -1 for ans in table["ans"]]
    return dict(zip(table["ImageID"], codes, strict=True))


def read_labels(path: Path, names: Sequence[str]) -> "np.ndarray":
    """The true codes of `names`, in their order; UserError where one has no row."""
    return in_order(read_codes(path), names, path)


def in_order(labels: Mapping[str, int], names: Iterable[str], path: Path) -> "np.ndarray":
    """The codes of `names`, in their order; UserError where one has no row in `path`."""
    import numpy as np

    names = list(names)
    missing = [name for name in names if name not in labels]
    if missing:
        raise UserError(f"{path}: no row for {len(missing)} photos\n{listed(missing)}")
    return np.array([labels[name] for name in names])


def print_score(true: "np.ndarray", predicted: "np.ndarray") -> None:
    """Print 18-class and per-task scores over all rows at once, and the table of classes."""
    import numpy as np

    from common.training.metrics import score

    overall = score(true, predicted, len(NAMES))
    print(f"\n{overall.table(NAMES)}\n")
    parts = zip(TASKS, decode(true), decode(predicted), strict=True)
    for task, y, p in parts:
        scores = score(y, np.where(predicted < 0, -1, p), len(task.classes))
        print(f"{task.task:<8} macro F1 {scores.macro_f1:.4f}   accuracy {scores.accuracy:.4f}")
    print(
        f"{len(NAMES)} codes macro F1 {overall.macro_f1:.4f}   accuracy {overall.accuracy:.4f}   "
        f"({overall.rows:,} photos)"
    )
    unanswered = sum(predicted < 0)
    if unanswered:
        print(f"note: {unanswered} photos have no answer and count as wrong")
    absent = sum(overall.support == 0)
    if absent:
        print(f"note: {absent} of {len(NAMES)} classes have no photo here and count as F1 0")


def score_file(output: Path, labels: Path) -> int:
    """Score a finished table of codes."""
    codes, true = read_codes(output, empty=True), read_codes(labels)
    in_order(codes, true, output)  # a table with missing rows has no score
    print_score(in_order(true, codes, labels), in_order(codes, codes, output))
    return 0


def score_held_out(arguments: argparse.Namespace, models: Mapping[str, "Loaded"]) -> int:
    """Score the models on the persons that all of them held out; returns the exit status."""
    import numpy as np

    from common.data.layout import read_faces

    check_same_split(models)
    data = arguments.data or Path(os.environ.get("SM_CHANNEL_TRAIN", "data"))
    faces = read_faces(data)
    split = next(iter(models.values())).card["split"]
    check_table(data, faces, split)
    held = set(split["held_out"])
    faces = [face for face in faces if face.person.key in held]
    recipes = [model.recipe for model in models.values()]
    true = encode([np.array([recipe.label(face) for face in faces]) for recipe in recipes])
    answers = ask(arguments, models, [face.path for face in faces])
    status = report_bad([str(f.path) for f in faces], answers, None, arguments.allow_bad)
    print_score(true, codes_of(answers))
    print(f"on {len(held):,} persons that none of the {len(TASKS)} models was trained on")
    return status


def check_same_split(models: Mapping[str, "Loaded"]) -> None:
    """UserError unless all models held the same persons out."""
    splits = {task: model.card["split"] for task, model in models.items()}
    if len({(s["hash"], tuple(s["held_out"])) for s in splits.values()}) > 1:
        lines = (
            f"{models[task].path}: fold {s['fold']} of {s['folds']}, split {s['hash']}, "
            f"{len(s['held_out'])} persons"
            for task, s in splits.items()
        )
        raise UserError(
            "no honest score: the models held different persons out; train them on the same "
            f"data with the same --folds, --fold and --limit\n{listed(lines)}"
        )


def check_table(data: Path, faces: Sequence, split: Mapping) -> None:
    """UserError unless the persons of `data` split as they did in training."""
    from common.data.split import make_split

    settings = {name: split[name] for name in ("folds", "fold", "limit")}
    found = make_split({face.person for face in faces}, **settings)[1]["hash"]
    if found != split["hash"]:
        raise UserError(
            f"no honest score: {data} holds other persons than the training data "
            f"(split {found} here, {split['hash']} in the checkpoints)"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """combine.py's command line; returns the exit status."""
    arguments = build_parser().parse_args(argv)
    return guarded(lambda: run(arguments))


if __name__ == "__main__":
    sys.exit(main())
