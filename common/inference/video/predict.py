"""Predictions for a video: faces tracked, a row for each frame and face, and an annotated copy.

The prediction for a face is the mean over all frames that show it, so it is constant
throughout the clip and not available before its end. The clip is therefore decoded three times: to
learn what it holds, to predict, and to draw. Frames are not kept; memory grows by a row per face.
"""

import dataclasses
import hashlib
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
from torch.utils.data import Dataset

from common.base.errors import warn
from common.base.files import check_distinct, made_folder, writable_file, write_frame
from common.base.progress import progress
from common.base.stages import Stages
from common.data.loading import CROP_TIMEOUT, in_batches
from common.faces.cache import EveryFaceCropper, usable_cache
from common.faces.crop import Cropped
from common.inference.annotate import Label, annotated, face_label
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

SCAN_TIMES = 10  # a loader process may take as many times the duration of the scan for a batch


class ClipDataset(Dataset):
    """The faces of every `every`-th frame; a frame without any has one crop without images."""

    def __init__(self, clip: Clip, every: int, cropper: EveryFaceCropper) -> None:
        self.frames = range(0, len(clip.times), every)
        self.cropper = cropper
        self._reader = FrameReader(clip.path)

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, place: int) -> tuple[Cropped, ...]:
        stages = Stages()
        with stages("decode"):
            frame = self._reader.read(self.frames[place])
            key = hashlib.sha256(f"{frame.shape}".encode() + frame.tobytes()).hexdigest()
        faces = self.cropper.faces(frame, key, stages)
        return faces if faces[0].detected else (dataclasses.replace(faces[0], images=()),)


@dataclasses.dataclass(frozen=True)
class TrackedFaces:
    """The faces of a clip, a row each in order of frames."""

    predictions: Predictions
    """From the mean over each face's track."""
    by_frame: Predictions
    """From each frame alone."""
    frames: np.ndarray
    """(faces,): the number of each face's frame."""
    tracks: np.ndarray
    """(faces,): the number of each face's track."""
    processed: int
    """The number of frames in which faces were detected."""


def predict_video(job: Job) -> int:
    """Write a row for each face of each processed frame, and an annotated clip.

    Returns the exit status.
    """
    options = job.options
    check_face_crops(job.ensembles, f"--input {options.input}")
    file = _clip_to_write(job)
    with job.stages("read"):
        clip = scan(options.input)
        _try_writing(file, clip)
    start = time.perf_counter()
    tracked = track_faces(job, clip)
    speed = tracked.processed / (time.perf_counter() - start)
    with job.stages("write"):
        write_frame(options.output_file, face_rows(clip, tracked, job.codes))
        if options.probs is not None:
            write_frame(options.probs, _details(clip, tracked, job.codes))
    with job.stages("draw"):
        draw_clip(file, clip, tracked, job.codes, options.every or 1)
    _print_detected(clip, tracked, speed, job.codes)
    print(
        f"{len(tracked.frames):,} rows → {options.output_file}\n"
        f"annotated clip, without sound → {file}"
    )
    return _report_bad(clip, tracked, options.allow_bad)


def _clip_to_write(job: Job) -> Path:
    """The file of the annotated clip.

    Raises:
        UserError: an output can't be written, or would replace the video or another output.
    """
    options, source = job.options, job.options.input
    file = options.output_file.with_name(f"{source.stem}.faces.mp4")
    if options.draw is not None:
        name = source.name if source.suffix.lower() == ".mp4" else f"{source.name}.mp4"
        file = made_folder(options.draw, "--draw") / name
    tables = [path for path in (options.output_file, options.probs) if path is not None]
    check_distinct({"--output": options.output_file, "--probs": options.probs, "the clip": file})
    for path in tables:
        writable_file(path, "table", reads=options.reads(), columns=["frame"])
    return writable_file(file, "video", reads=options.reads())


def _try_writing(file: Path, clip: Clip) -> None:
    """Write a frame and discard it, to fail before long work."""
    with whole_clip(file, clip.rate, keep=False) as write:
        write(np.asarray(annotated(np.zeros((*clip.shape, 3), np.uint8), np.empty((0, 4)), [])))


def track_faces(job: Job, clip: Clip) -> TrackedFaces:
    """Detect, track and predict the faces of every --every-th frame."""
    options = job.options
    _, offsets = job.decision()
    folder, warning = usable_cache(options.cache_dir)
    warn(warning)
    every = options.every or 1
    predictor = Predictor(job.ensembles, options.settings, job.stages)
    dataset = ClipDataset(clip, every, EveryFaceCropper(predictor.specs, folder))
    timeout = CROP_TIMEOUT + SCAN_TIMES * job.stages.seconds["read"]
    cropped = in_batches(dataset, workers=options.workers, batch_size=1, timeout=timeout)
    with progress(len(dataset), "predict", "frames") as bar:
        rows = predictor.crops(cropped, bar)
    faces = rows.only([row for row, detected in enumerate(rows.detected) if detected])
    tracks = follow(faces.boxes, faces.photos)
    means, numbers = (
        {task: mean_by_track(values, tracks) for task, values in by_task.items()}
        for by_task in (faces.by_model, faces.numbers)
    )
    return TrackedFaces(
        predictions=decide(
            dataclasses.replace(faces, by_model=means, numbers=numbers), job.ensembles, offsets
        ),
        by_frame=decide(faces, job.ensembles, offsets),
        frames=faces.photos * every,
        tracks=tracks,
        processed=len(dataset),
    )


def face_rows(clip: Clip, tracked: TrackedFaces, codes: Codes) -> pd.DataFrame:
    """A row for each frame and face: frame, time in seconds, face, x0 to y1, class names, code.

    `face` is the number of the track; the other columns are those of `face_table`.
    """
    frames = tracked.frames
    columns = {"frame": frames, "time": clip.times[frames].round(3), "face": tracked.tracks}
    table = pd.DataFrame(columns | prediction_columns(tracked.predictions, codes))
    return table.astype(dict.fromkeys(WHOLE_NUMBERS, "Int64"))


def _details(clip: Clip, tracked: TrackedFaces, codes: Codes) -> pd.DataFrame:
    """A row for each frame and face with the probabilities of this frame alone."""
    table = detail_table(tracked.frames.tolist(), tracked.by_frame, codes.tasks)
    table.insert(1, "time", clip.times[tracked.frames].round(3))
    table.insert(2, "face", tracked.tracks)
    return table.rename(columns={"ImageID": "frame"})


def draw_clip(file: Path, clip: Clip, tracked: TrackedFaces, codes: Codes, every: int) -> None:
    """Write the clip with a box and the prediction at every face, in all frames."""
    good = sorted(set(range(len(tracked.frames))) - set(tracked.predictions.bad))
    tracks = tracked.tracks[good]
    paths = Paths(tracked.predictions.boxes[good], tracked.frames[good], tracks, every)
    labels: dict[int, Label] = {
        track: face_label(row, tracked.predictions, codes, track)
        for track, row in zip(tracks.tolist(), good, strict=True)
    }
    reader = FrameReader(clip.path)
    with whole_clip(file, clip.rate) as write, progress(len(clip.times), "draw", "frames") as bar:
        for frame in range(len(clip.times)):
            numbers, boxes = paths.at(frame)
            shown = [labels[number] for number in numbers.tolist()]
            write(np.asarray(annotated(reader.read(frame), boxes, shown)))
            bar.update()


def _print_detected(clip: Clip, tracked: TrackedFaces, speed: float, codes: Codes) -> None:
    """Print the numbers of frames, faces and tracks, and how often each class was predicted."""
    without = tracked.processed - len(np.unique(tracked.frames))
    tracks, firsts, lengths = np.unique(tracked.tracks, return_index=True, return_counts=True)
    print(
        f"{len(clip.times):,} frames in {clip.times[-1] - clip.times[0] + 1 / clip.rate:.1f} s, "
        f"{tracked.processed:,} processed ({speed:.1f} a second): {len(tracked.frames):,} faces, "
        f"{without:,} frames without one\n"
        f"{len(tracks):,} tracks, {(lengths == 1).sum():,} of them a single frame"
    )
    print_classes(codes, tracked.predictions, firsts)
    if clip.note():
        print(f"note: {clip.path}: {clip.note()}")


def _report_bad(clip: Clip, tracked: TrackedFaces, allowed: int) -> int:
    """Print what could not be read or predicted; returns the exit status, as for a bad photo."""
    wrong = [clip.broken()] if clip.broken() else []
    bad = tracked.predictions.bad
    if bad:
        wrong.append(f"{len(bad):,} faces have no prediction: {next(iter(bad.values()))}")
    for reason in wrong:
        kind = "warning" if allowed else "error"
        print(f"{kind}: {clip.path}: {reason}", file=sys.stderr)
    return 2 if wrong and not allowed else 0
