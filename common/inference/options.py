"""combine.py's flags as a typed object, checked before any work."""

import argparse
import dataclasses
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from common.base.command import Parser
from common.base.errors import UserError
from common.base.fields import (
    add_flags,
    between,
    build,
    explained,
    flag,
    host_port,
    photo_place,
    positive,
    tta_mode,
)
from common.base.files import check_distinct
from common.base.run_settings import Run
from common.data.layout import eval_dir
from common.data.listing import VIDEOS, has_photo_suffix, is_video
from common.model.recipe import DETECTORS

MODELS, PHOTOS, PREDICTION, TABLES, OUTPUT, SERVICE = (
    "models",
    "photos",
    "prediction",
    "finished tables",
    "output",
    "service and cluster",
)
LOCAL = ("127.0.0.1", 8000)
ENGINES = ("auto", "torch", "onnxruntime")
SHARED = ("allow_bad", "device", "workers", "cache_dir")  # with the training's flags


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictSettings:
    """Settings of reading and cropping photos and of running the models."""

    cache_dir: Path
    """Folder for cropped faces."""
    workers: int
    """Loader processes; with 0 the photos are read in this process."""
    batch_size: int = 64
    """Crops at a time, at most."""
    tta: str | int | None = None
    """Test-time augmentation: "flip", or the number of views."""
    ttas: Mapping[str, str | int] = dataclasses.field(default_factory=dict)
    """Task → its own test-time augmentation, instead of `tta`."""
    every_face: bool = False
    """A row for each face in place of a row for each photo."""

    def tta_of(self, task: str) -> str | int | None:
        """Test-time augmentation of a task's models."""
        return self.ttas.get(task, self.tta)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """A run of combine.py; most fields are flags."""

    models: Mapping[str, tuple[Path, ...]] = dataclasses.field(default_factory=dict)
    """Task → its model files, of the tasks that are given."""
    weights: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    """Task → a weight for each file, of the tasks for which they are given."""
    ttas: Mapping[str, str | int] = dataclasses.field(default_factory=dict)
    """Task → its own test-time augmentation, of the tasks for which it is given."""

    data: Path | None = flag(
        None,
        "folder with eval/info.csv and eval/images, and for --held-out train/ "
        "(default: data, or SM_CHANNEL_EVAL and SM_CHANNEL_TRAIN)",
        group=PHOTOS,
        metavar="DIR",
        aliases=("--data-dir",),
    )
    input: Path | str | None = flag(
        None,
        "a photo, any folder of photos, or a folder with info.csv, instead of --data's eval; or a "
        f"video ({' '.join(sorted(VIDEOS))}), whose faces are tracked from frame to frame, each "
        "with one prediction: the mean over all frames that show it; with --ray also a URI with "
        "photos below it, or Parquet with a column path or bytes",
        group=PHOTOS,
        parse=photo_place,
        metavar="PATH",
    )
    held_out: bool = flag(
        False,
        "score each person of --data by the models that were not trained on that person: with "
        "models of all folds, everyone",
        group=PHOTOS,
        action="store_true",
    )
    faces: str | None = flag(
        None,
        "main: the most prominent face of each photo; all: every face, small ones too (default: "
        "main; all for a video)",
        group=PHOTOS,
        choices=("main", "all"),
    )
    detector: str | None = flag(
        None,
        "mtcnn; centerface: also detects faces behind masks; both: centerface in photos where mtcnn "
        "detects no face, and with --faces all the faces of either (default: as in training)",
        group=PHOTOS,
        choices=DETECTORS,
    )
    every: int | None = flag(
        None,
        "use only each N-th frame of a video; boxes move evenly between these frames (default: 1)",
        group=PHOTOS,
        parse=between(1, 1_000_000, int),
    )
    labels: Path | None = flag(
        None,
        "score the predictions by this table of ImageID,ans; without models, score the codes that "
        "--output already holds",
        group=PHOTOS,
        metavar="CSV",
    )

    vote: str | None = flag(
        None,
        "soft: the most likely class of the models' mean probabilities; hard: the class that most "
        "models find most likely, ties as soft (default: soft)",
        group=PREDICTION,
        choices=("soft", "hard"),
    )
    decide: str | None = flag(
        None,
        "argmax: the most likely class; offsets: with the offsets stored by --tune-offsets, or with "
        "--held-out tuned on other people (default: offsets if the models hold any, else argmax)",
        group=PREDICTION,
        choices=("argmax", "offsets"),
    )
    unsure: float | None = flag(
        None,
        "mark predictions whose probability is below P: in the terminal, in tables (column unsure) "
        "and in --json; the report shows how many that would be, and how often the others are correct",
        group=PREDICTION,
        metavar="P",
        parse=between(0.01, 1),
    )
    tune_offsets: bool = flag(
        False,
        "with --held-out: search the offsets with the best macro F1 of the codes, and store them in "
        "the checkpoints if they score best",
        group=PREDICTION,
        action="store_true",
    )
    tune_votes: bool = flag(
        False,
        "with --held-out and several models of a task: choose the models that vote, and their "
        "weights, by the log loss; prints the flags for it",
        group=PREDICTION,
        action="store_true",
    )
    tta: str | int | None = flag(
        None,
        "test-time augmentation; flip: the crop and its mirror image; N: the crop and N - 1 random "
        "changes of it, as in training; logits are averaged",
        group=PREDICTION,
        parse=tta_mode,
        metavar="flip|N",
    )
    batch_size: int = flag(
        64,
        "photos at a time, at most",
        group=PREDICTION,
        parse=between(1, 65_536, int),
        aliases=("-b",),
    )

    submissions: tuple[Path, ...] = flag(
        (),
        "instead of models: two or more finished tables of ImageID,ans, which vote; ties go to the "
        "earlier table",
        group=TABLES,
        nargs="+",
        metavar="CSV",
    )
    submission_weights: tuple[float, ...] = flag(
        (),
        "weight of each table's vote (default: 1)",
        group=TABLES,
        parse=positive,
        nargs="+",
        metavar="W",
    )

    output: Path | None = flag(
        None,
        "table of ImageID,ans (default: submission.csv, in SM_OUTPUT_DATA_DIR if set); with --faces "
        "all a row for each face with its box and class names, for a video with frame and seconds "
        "too (default: faces.csv)",
        group=OUTPUT,
        metavar="FILE",
    )
    probs: Path | None = flag(
        None,
        "table of mean probabilities, the part of the photo that was cropped, and whether a face "
        "was detected; for a video each frame's own, before the mean along a track",
        group=OUTPUT,
        metavar="FILE",
    )
    json: bool = flag(
        False,
        "print a line of JSON for each photo, with its faces, and nothing else on stdout; a table is "
        "written only with --output",
        group=OUTPUT,
        action="store_true",
    )
    report: Path | None = flag(
        None,
        "with --held-out or --labels: folder for report.html, one page with scores and their "
        "intervals, confusions, calibration, errors by age and group, and the most confident errors",
        group=OUTPUT,
        metavar="DIR",
    )
    draw: Path | None = flag(
        None,
        "folder for copies of the photos with a box and the prediction at each face; for a video "
        "always written, as MPEG-4 without sound (default: beside --output, clip.faces.mp4)",
        group=OUTPUT,
        metavar="DIR",
    )
    explain: Path | None = flag(
        None,
        "folder for a picture of each photo: its crops, and for each task a heat map (Grad-CAM) of "
        "what led to the prediction; needs .pt models and the extra [explain]",
        group=OUTPUT,
        metavar="DIR",
    )

    ray: str | None = flag(
        None,
        "predict with Ray Data, an actor per core, or on GPUs one per GPU with --workers loader "
        "processes each: on this machine, or on the cluster at ADDRESS (auto, host:port), whose "
        "machines all have this project and can open the photos; --output is then a folder of "
        "Parquet parts (default: codes), and a run started again writes those that are missing",
        group=SERVICE,
        nargs="?",
        const="local",
        metavar="ADDRESS",
    )
    serve: tuple[str, int] | None = flag(
        None,
        "a page for the browser and POST /predict, for every face of the photos that are uploaded, "
        "which stay in memory (default: 127.0.0.1:8000, this machine only)",
        group=SERVICE,
        parse=host_port,
        nargs="?",
        const=LOCAL,
        metavar="[HOST:]PORT",
    )
    at_once: int | None = flag(
        None,
        "with --serve: requests at a time; others are asked to try again (default: 16, or two a "
        "core)",
        group=SERVICE,
        parse=between(1, 4096, int),
    )

    engine: str = flag(
        "auto",
        "what runs checkpoints (.pt); auto: torch on a GPU; on a CPU onnxruntime if the extra "
        "[export] is installed, with an export that --cache-dir keeps, made for --serve and for "
        "some 1,000 photos or more",
        group=PREDICTION,
        choices=ENGINES,
    )

    allow_bad: int = Run.allow_bad
    device: str = Run.device
    workers: int = Run.workers
    cache_dir: Path = Run.cache_dir

    @property
    def is_video(self) -> bool:
        return is_video(self.input)

    @property
    def every_face(self) -> bool:
        """True if each face gets a row of its own."""
        return self.faces == "all" or self.is_video

    @property
    def only_scores(self) -> bool:
        """True if a finished table is scored and nothing is predicted."""
        return not self.models and self.labels is not None and self.report is None

    @property
    def output_file(self) -> Path:
        """The table to write, or with --ray the folder of its parts."""
        name = "faces.csv" if self.every_face else "submission.csv"
        name = "codes" if self.ray is not None else name
        return self.output or Path(os.environ.get("SM_OUTPUT_DATA_DIR", "")) / name

    def reads(self) -> list[Path]:
        """The files that flags name and that are read."""
        given = (self.input, self.labels, *self.submissions)
        models = (file for files in self.models.values() for file in files)
        return [*models, *(file for file in given if isinstance(file, Path))]

    @property
    def report_file(self) -> Path | None:
        """The page that --report asks for."""
        return self.report / "report.html" if self.report is not None else None

    @property
    def train_data(self) -> Path:
        """The folder whose train/ holds the people to score with --held-out."""
        return self.data or Path(os.environ.get("SM_CHANNEL_TRAIN", "data"))

    @property
    def eval_data(self) -> Path:
        """The folder with info.csv, or eval/info.csv, whose photos are predicted without --input."""
        return self.data or Path(os.environ.get("SM_CHANNEL_EVAL", "data"))

    @property
    def voting(self) -> str:
        """The kind of vote: soft or hard."""
        return self.vote or "soft"

    @property
    def settings(self) -> PredictSettings:
        """Settings of cropping photos and of running the models."""
        return PredictSettings(
            cache_dir=self.cache_dir,
            workers=self.workers,
            batch_size=self.batch_size,
            tta=self.tta,
            ttas=self.ttas,
            every_face=self.every_face,
        )

    def weights_of(self, task: str) -> tuple[float, ...]:
        """A weight for each of the task's files."""
        return self.weights.get(task) or (1.0,) * len(self.models[task])

    def check(self) -> None:
        """Check that the flags fit together; nothing is made or changed.

        Raises:
            UserError: flags contradict each other, or one needs another.
        """
        if self.input is not None and self.held_out:
            raise UserError("--input and --held-out: give the one or the other")
        self._check_photos_among_models()
        self._check_faces()
        self._check_json()
        self._check_video()
        self._check_ray()
        self._check_serve()
        self._check_engine()
        if self.submissions:
            self._check_submissions()
        elif not self.only_scores:
            self._check_models()
            self._check_files()

    def check_paths(self) -> None:
        """Check that the models and photos exist, before the seconds that importing torch takes.

        Raises:
            UserError: a file or folder doesn't exist.
        """
        for file in (file for files in self.models.values() for file in files):
            if not file.is_file():
                raise UserError(f"{file}: no such checkpoint")
        if self.serve is not None or self.ray is not None:
            return
        if isinstance(self.input, Path):
            if not self.input.exists():
                kind = "video" if self.is_video else "photo or folder"
                raise UserError(f"{self.input}: no such {kind}")
        elif not self.held_out:
            eval_dir(self.eval_data)

    def _given(self, names: Iterable[str]) -> list[str]:
        """The flags of those fields that are set, as they are spelled."""
        return [f"--{name.replace('_', '-')}" for name in names if getattr(self, name)]

    def _check_faces(self) -> None:
        given = self._given(("labels", "held_out", "submissions"))
        if self.faces == "all" and given:
            raise UserError(f"--faces all: a code for each photo is needed for {', '.join(given)}")
        for name in ("draw", "explain"):
            folder = getattr(self, name)
            if folder and (self.held_out or self.submissions):
                raise UserError(
                    f"--{name} goes with photos to predict: without --held-out, --submissions"
                )
            if folder and _lies_in(folder, self.input):
                raise UserError(
                    f"--{name} {folder}: lies in the folder of photos, where a later run would read "
                    "the copies"
                )

    def _check_json(self) -> None:
        names = ("held_out", "labels", "ray", "serve", "submissions")
        given = self._given(names) + ([f"--input {self.input}"] if self.is_video else [])
        if self.json and given:
            raise UserError(f"--json is for photos to predict: without {', '.join(given)}")

    def _check_photos_among_models(self) -> None:
        files = [file for models in self.models.values() for file in models]
        photos = [str(file) for file in files if has_photo_suffix(file.name)]
        if photos:
            raise UserError(
                f"{photos[0]}: a photo where a model is due; photos are given with --input, such as "
                f"--input {photos[0]}"
            )

    def _check_video(self) -> None:
        if not self.is_video:
            if self.every:
                raise UserError("--every goes with a video, such as --input clip.mp4")
            return
        given = self._given(("labels", "ray", "submissions", "explain", "unsure"))
        given += ["--faces main"] if self.faces == "main" else []
        if given:
            raise UserError(
                f"--input {self.input}: every face of a video is tracked: without "
                f"{', '.join(given)}"
            )

    def _check_ray(self) -> None:
        if self.ray is None:
            if isinstance(self.input, str):
                raise UserError(f"--input {self.input}: a URI goes with --ray")
            return
        names = ("submissions", "held_out", "labels", "report", "probs", "draw", "explain")
        names += ("unsure",)
        given = self._given(names) + (["--faces all"] if self.faces == "all" else [])
        if given:
            raise UserError(
                f"--ray writes parts with codes and probabilities: without {', '.join(given)}"
            )
        if self.device not in ("auto", "cpu", "cuda"):
            raise UserError(f"--device {self.device}: with --ray it is auto, cpu or cuda")
        if self.output and re.match(r"[a-z0-9]+:/", str(self.output)):
            raise UserError(f"--output {self.output}: a URI; expected a folder of this machine")
        if isinstance(self.input, Path) and _inside(self.output_file, self.input):
            raise UserError(f"--output {self.output_file}: lies in the folder of photos")

    def _check_serve(self) -> None:
        if self.serve is None:
            if self.at_once is not None:
                raise UserError("--at-once goes with --serve")
            return
        names = ("data", "input", "held_out", "tune_offsets", "tune_votes", "unsure", "faces")
        names += ("labels", "output", "probs", "draw", "report", "explain", "ray", "submissions")
        names += ("submission_weights",)
        given = self._given(names)
        if given:
            raise UserError(f"--serve predicts uploaded photos: without {', '.join(given)}")

    def _check_engine(self) -> None:
        if self.engine == "auto":
            return
        if self.submissions:
            raise UserError("--submissions votes on finished tables: without --engine")
        if self.engine == "torch" and (exports := self._exports()):
            raise UserError(f"--engine torch: {exports[0]} is an export, which onnxruntime runs")
        if self.engine == "onnxruntime" and self.explain:
            raise UserError("--explain needs the networks in torch: without --engine onnxruntime")
        if self.engine == "onnxruntime" and self.device not in ("auto", "cpu"):
            raise UserError(
                f"--engine onnxruntime and --device {self.device}: onnxruntime runs on the CPU here"
            )

    def _check_submissions(self) -> None:
        given = [
            f"--{task}{end}"
            for values, end in ((self.models, ""), (self.weights, "-weights"), (self.ttas, "-tta"))
            for task in values
        ]
        names = ("vote", "decide", "tta", "input", "held_out", "tune_offsets", "tune_votes")
        given += self._given((*names, "unsure", "data", "probs", "report"))
        if given:
            raise UserError(f"--submissions votes on finished tables: without {', '.join(given)}")
        if len(self.submissions) < 2:
            raise UserError(
                f"--submissions {self.submissions[0]}: a single table; two or more vote"
            )
        _check_weights("submission", self.submission_weights, len(self.submissions))
        for file in (*self.submissions, *([self.labels] if self.labels else [])):
            if file.resolve() == self.output_file.resolve():
                raise UserError(
                    f"--output {self.output_file}: that is one of the tables to read; name another"
                )

    def _check_models(self) -> None:
        for task, weights in self.weights.items():
            _check_weights(task, weights, len(self.models.get(task, ())))
        for task in self.ttas.keys() - self.models.keys():
            raise UserError(f"--{task}-tta goes with --{task}")
        if self.submission_weights:
            raise UserError("--submission-weights goes with --submissions")
        if self.tune_offsets and not self.held_out:
            raise UserError("--tune-offsets goes with --held-out")
        if self.tune_votes and not self.held_out:
            raise UserError("--tune-votes goes with --held-out")
        if self.tune_votes and (self.weights or self.vote == "hard"):
            given = (
                "--vote hard" if self.vote == "hard" else f"--{next(iter(self.weights))}-weights"
            )
            raise UserError(f"--tune-votes and {given}: give the one or the other")
        if self.tune_votes and all(len(files) == 1 for files in self.models.values()):
            raise UserError("--tune-votes: each task has one model; give several: --age a.pt b.pt")
        if self.tune_offsets and self.decide not in (None, "offsets"):
            raise UserError(f"--tune-offsets and --decide {self.decide}: give the one or the other")
        exports = self._exports() if self.explain else []
        if exports:
            raise UserError(
                f"--explain needs .pt: {exports[0]} is an export, which has no gradients"
            )

    def _exports(self) -> list[Path]:
        from common.model.exported import is_exported  # brings torch: too slow for --help

        return [file for files in self.models.values() for file in files if is_exported(file)]

    def _check_files(self) -> None:
        if self.held_out and (self.output or self.labels):
            raise UserError("--held-out only scores: --output and --labels don't go with it")
        if self.report and not (self.held_out or self.labels):
            raise UserError("--report goes with --held-out or --labels, which have the true codes")
        if self.input and self.data:
            raise UserError("--input and --data: give the one or the other")
        if self.labels and not self.labels.is_file():
            raise UserError(f"--labels {self.labels}: no such file")
        check_distinct(
            {
                "--output": self.output_file,
                "--probs": self.probs,
                "--report": self.report_file,
                "--labels": self.labels,
            }
        )
        if self.explain and self.draw and self.explain.resolve() == self.draw.resolve():
            raise UserError("--explain and --draw must be different folders")


def _check_weights(name: str, weights: Sequence[float], files: int) -> None:
    if weights and len(weights) != files:
        raise UserError(f"--{name}-weights: {len(weights)} given for {files} files; one each")


def _inside(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def _lies_in(folder: Path, source: Path | str | None) -> bool:
    return isinstance(source, Path) and source.is_dir() and _inside(folder, source)


def build_parser(description: str, tasks: Sequence[str]) -> argparse.ArgumentParser:
    """Make combine.py's parser: flags for the models of each task, and the fields of `Options`."""
    parser = Parser(prog="python combine.py", description=description)
    group = parser.add_argument_group(MODELS)
    for task in tasks:
        group.add_argument(
            f"--{task}",
            type=Path,
            nargs="+",
            metavar="FILE",
            help=f"{task} model, .pt or .onnx, or several that vote",
        )
    for task in tasks:
        group.add_argument(
            f"--{task}-weights",
            type=explained(positive),
            nargs="+",
            metavar="W",
            help=f"weight of each --{task} file's vote (default: 1)",
        )
    for task in tasks:
        group.add_argument(
            f"--{task}-tta",
            type=explained(tta_mode),
            metavar="flip|N",
            help=f"--tta for {task} alone (default: --tta)",
        )
    add_flags(parser, Options, only=[f.name for f in dataclasses.fields(Options) if f.metadata])
    add_flags(parser, Run, only=SHARED)
    return parser


def parse(description: str, tasks: Sequence[str], argv: Sequence[str] | None = None) -> Options:
    """Parse combine.py's command line; ends the process where it is misspelled."""
    values = vars(build_parser(description, tasks).parse_args(argv))
    models = {task: tuple(values[task]) for task in tasks if values[task]}
    weights = {
        task: tuple(values[f"{task}_weights"]) for task in tasks if values[f"{task}_weights"]
    }
    ttas = {task: values[f"{task}_tta"] for task in tasks if values[f"{task}_tta"] is not None}
    return build(Options, values | {"models": models, "weights": weights, "ttas": ttas})
