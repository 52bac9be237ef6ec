"""Answers about a video: every face followed, a row a frame and face, and an annotated copy.

What is said of a face is the mean over all frames that show it, later ones too: it doesn't waver, as
a running mean would at first, and isn't known before the end. So the clip is decoded three times: to
know what it holds, to look, and to draw. Frames are never kept; what grows is a row a face.
"""

import dataclasses
import hashlib
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
from torch.utils.data import Dataset

from common.base.errors import UserError, warn
from common.base.files import made_folder, writable_file, write_frame
from common.base.progress import progress
from common.base.stages import Stages
from common.data.loading import CROP_TIMEOUT, in_batches
from common.faces.cache import EveryFaceCropper, usable_cache
from common.faces.crop import Cropped
from common.inference.annotate import Label, annotated, label
from common.inference.codes import Codes
from common.inference.decide import decide
from common.inference.ensemble import check_face_crops
from common.inference.job import Job
from common.inference.predictions import Predictions
from common.inference.predictor import Predictor
from common.inference.tables import (
    WHOLE_NUMBERS,
    detail_table,
    prediction_columns,
    print_classes,
)
from common.inference.video.clip import Clip, FrameReader, scan, whole_clip
from common.inference.video.tracks import Paths, follow, mean_by_track

PATIENCE = 10  # times as long as the whole clip takes to decode, until a loader process is given up


class ClipDataset(Dataset):
    """The faces of every `every`-th frame; of a frame without one a crop without images."""

    def __init__(self, clip: Clip, every: int, cropper: EveryFaceCropper) -> None:
        self.frames = range(0, len(clip.times), every)
        self.cropper = cropper
        self._reader = FrameReader(clip.path)

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, look: int) -> tuple[Cropped, ...]:
        stages = Stages()
        with stages("decode"):
            frame = self._reader.read(self.frames[look])
            key = hashlib.sha256(f"{frame.shape}".encode() + frame.tobytes()).hexdigest()
        faces = self.cropper.faces(frame, key, stages)
        return faces if faces[0].detected else (dataclasses.replace(faces[0], images=()),)


@dataclasses.dataclass(frozen=True)
class Followed:
    """What is said of a clip's faces: a row each in `answers`, by frame.

    `frames` (faces,) are the frames' numbers, `tracks` (faces,) whose face it is. In `own` each frame
    speaks for itself, in `answers` all of a track. `looks` is how many frames were looked at.
    """

    answers: Predictions
    own: Predictions
    frames: np.ndarray
    tracks: np.ndarray
    looks: int


def answer_video(job: Job, output: Path) -> int:
    """A row for each face of each frame looked at, and an annotated clip; returns the exit status."""
    flags = job.options
    check_face_crops(job.ensembles, f"--input {flags.input}")
    file = _clip_to_write(job, output)
    with job.stages("read"):
        clip = scan(flags.input)
        _try_writing(file, clip)
    start = time.perf_counter()
    said = watch(job, clip)
    speed = said.looks / (time.perf_counter() - start)
    with job.stages("write"):
        write_frame(output, face_rows(clip, said, job.codes))
        if flags.probs is not None:
            write_frame(flags.probs, _details(clip, said, job.codes))
    with job.stages("draw"):
        draw_clip(file, clip, said, job.codes, flags.every or 1)
    _print_found(clip, said, speed, job.codes)
    print(f"{len(said.frames):,} rows → {output}\nannotated clip, without sound → {file}")
    return _report(clip, said, flags.allow_bad)


def _clip_to_write(job: Job, output: Path) -> Path:
    """The annotated clip's file; UserError where something can't be written or is in the way."""
    flags, source = job.options, job.options.input
    file = output.with_name(f"{source.stem}.faces.mp4")
    if flags.draw is not None:
        file = made_folder(flags.draw, "--draw") / (
            source.name if source.suffix.lower() == ".mp4" else f"{source.name}.mp4"
        )
    written = [path for path in (output, flags.probs, file) if path is not None]
    places = [path.resolve() for path in written]
    if source.resolve() in places:
        raise UserError(f"{source}: the video itself would be overwritten; name another place")
    if len(set(places)) < len(places):
        raise UserError(f"--output, --probs and the clip, {file}, must be different files")
    for path in written:
        writable_file(path)
    return file


def _try_writing(file: Path, clip: Clip) -> None:
    """UserError where such a clip can't be written, before long work."""
    with whole_clip(file, clip.rate, keep=False) as write:
        write(np.asarray(annotated(np.zeros((*clip.shape, 3), np.uint8), np.empty((0, 4)), [])))


def watch(job: Job, clip: Clip) -> Followed:
    """Find, follow and ask about the faces of every --every-th frame."""
    flags = job.options
    _, offsets = job.decision()
    folder, warning = usable_cache(flags.cache_dir)
    warn(warning)
    every = flags.every or 1
    predictor = Predictor(job.ensembles, job.options.settings, job.stages)
    dataset = ClipDataset(clip, every, EveryFaceCropper(predictor.specs, folder))
    timeout = CROP_TIMEOUT + PATIENCE * job.stages.seconds["read"]
    cropped = in_batches(dataset, workers=flags.workers, batch_size=1, timeout=timeout)
    with progress(len(dataset), "predict", "frames") as bar:
        every_look = predictor.crops(cropped, bar)
    own = every_look.only([row for row, found in enumerate(every_look.detected) if found])
    tracks = follow(own.boxes, own.photos)
    means = {task: mean_by_track(values, tracks) for task, values in own.by_model.items()}
    answers = decide(dataclasses.replace(own, by_model=means), job.ensembles, offsets)
    alone = decide(own, job.ensembles, offsets)
    return Followed(answers, alone, own.photos * every, tracks, len(dataset))


def face_rows(clip: Clip, said: Followed, codes: Codes) -> pd.DataFrame:
    """A row a frame and face: frame, time in seconds, face, x0 to y1, the words, code.

    `face` is the same number wherever one was followed; columns are as in `face_table`.
    """
    columns = {"frame": said.frames, "time": clip.times[said.frames].round(3), "face": said.tracks}
    table = pd.DataFrame(columns | prediction_columns(said.answers, codes))
    return table.astype(dict.fromkeys(WHOLE_NUMBERS, "Int64"))


def _details(clip: Clip, said: Followed, codes: Codes) -> pd.DataFrame:
    """A row a frame and face with the probabilities of this frame alone."""
    table = detail_table(said.frames.tolist(), said.own, codes.classes)
    table.insert(1, "time", clip.times[said.frames].round(3))
    table.insert(2, "face", said.tracks)
    return table.rename(columns={"ImageID": "frame"})


def draw_clip(file: Path, clip: Clip, said: Followed, codes: Codes, every: int) -> None:
    """Write the clip with a box and the answer at every face, in all frames."""
    good = sorted(set(range(len(said.frames))) - set(said.answers.bad))
    tracks = said.tracks[good]
    paths = Paths(said.answers.boxes[good], said.frames[good], tracks, every)
    labels: dict[int, Label] = {
        track: label(row, said.answers, codes, track)
        for track, row in zip(tracks.tolist(), good, strict=True)
    }
    reader = FrameReader(clip.path)
    with whole_clip(file, clip.rate) as write, progress(len(clip.times), "draw", "frames") as bar:
        for frame in range(len(clip.times)):
            numbers, boxes = paths.at(frame)
            shown = [labels[number] for number in numbers.tolist()]
            write(np.asarray(annotated(reader.read(frame), boxes, shown)))
            bar.update()


def _print_found(clip: Clip, said: Followed, speed: float, codes: Codes) -> None:
    """How many frames, faces and tracks there are, and how the tracks' answers are spread."""
    without = said.looks - len(np.unique(said.frames))
    tracks, firsts, sightings = np.unique(said.tracks, return_index=True, return_counts=True)
    print(
        f"{len(clip.times):,} frames in {clip.times[-1] - clip.times[0] + 1 / clip.rate:.1f} s, "
        f"{said.looks:,} looked at ({speed:.1f} a second): {len(said.frames):,} faces, {without:,} "
        f"frames without one\n{len(tracks):,} tracks, {(sightings == 1).sum():,} of them a single "
        "frame"
    )
    print_classes(codes, said.answers, firsts)
    if clip.note():
        print(f"note: {clip.path}: {clip.note()}")


def _report(clip: Clip, said: Followed, allowed: int) -> int:
    """Say what could not be read or answered; the exit status, as if a photo were unreadable."""
    wrong = [clip.broken()] if clip.broken() else []
    bad = said.answers.bad
    if bad:
        wrong.append(f"{len(bad):,} faces have no answer: {next(iter(bad.values()))}")
    for reason in wrong:
        kind = "warning" if allowed else "error"
        print(f"{kind}: {clip.path}: {reason}", file=sys.stderr)
    return 2 if wrong and not allowed else 0
