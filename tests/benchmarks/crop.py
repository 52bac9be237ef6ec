"""Measure photos per second of detector and crops, and compare the faces with MTCNN's.

    python -m tests.benchmarks.crop --data DIR

compares with facenet-pytorch's MTCNN() as it comes, one photo after another, on photos of DIR
enlarged to 384x512. Both sides run as two processes of one thread that share the photos; they take
turns and the best turn of each counts. Figures from files include reading and decoding.
"""

import argparse
import functools
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from common.data.layout import Face, read_faces
from common.faces.cache import Cropper
from common.faces.crop import CropSpec
from common.faces.decode import decode
from common.faces.detector import detect, overlaps, prominence

WIDTH, HEIGHT = 384, 512  # px
PROCESSES = 2
SPEC = CropSpec("face", 0.3, (224, 224))
SAME = 0.5  # intersection over union


@functools.cache
def mtcnn() -> Any:
    """facenet-pytorch's detector as it comes."""
    from facenet_pytorch import MTCNN

    return MTCNN()


@functools.cache
def photos(files: tuple[Path, ...]) -> list[np.ndarray]:
    """The decoded photos, kept by the process that times itself on them."""
    return [decode(file.read_bytes()) for file in files]


def theirs(photo: np.ndarray) -> tuple[float, ...] | None:
    """The box that MTCNN() finds, of several the one that our rule chooses."""
    boxes, probabilities = mtcnn().detect(photo)
    if boxes is None:
        return None
    boxes = np.asarray(boxes, float)
    best = prominence(boxes, np.asarray(probabilities, float), photo.shape[:2]).argmax()
    return tuple(boxes[best])


def boxes(files: tuple[Path, ...]) -> list[tuple[Any, Any]]:
    """Our box and theirs, None where no face is found, of each photo."""
    return [(detect(photo).box, theirs(photo)) for photo in map(load, files)]


def load(file: Path) -> np.ndarray:
    """A photo from its file."""
    return decode(file.read_bytes())


WORK: dict[str, Callable[[tuple[Path, ...], Path], Iterable[object]]] = {
    "MTCNN()": lambda files, _: map(mtcnn().detect, photos(files)),
    "detect": lambda files, _: map(detect, photos(files)),
    "MTCNN() from files": lambda files, _: map(mtcnn().detect, map(load, files)),
    "Cropper": lambda files, cache: map(Cropper([SPEC], cache), files),
}


def spent(work: str, files: tuple[Path, ...], cache: Path) -> float:
    """Processor seconds that this process takes for the photos."""
    start = time.process_time()
    for _ in WORK[work](files, cache):
        pass
    return time.process_time() - start


def one_thread() -> None:
    """Set this process up as one that loads photos for a training."""
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(0)


class Side:
    """Two processes that take a turn at some work, and the best of their turns."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.halves = [tuple(files[k::PROCESSES]) for k in range(PROCESSES)]
        self.pools = [
            ProcessPoolExecutor(1, get_context("spawn"), initializer=one_thread)
            for _ in self.halves
        ]
        self.wall: dict[str, float] = {}
        self.processor: dict[str, float] = {}

    def turn(self, work: str, name: str, cache: Path = Path()) -> None:
        """Time the photos by the clock and by the processors; the better of all turns is kept."""
        start = time.perf_counter()
        pairs = zip(self.pools, self.halves, strict=True)
        answers = [pool.submit(spent, work, half, cache) for pool, half in pairs]
        processor = sum(answer.result() for answer in answers)
        wall = time.perf_counter() - start
        self.wall[name] = min(wall, self.wall.get(name, wall))
        self.processor[name] = min(processor, self.processor.get(name, processor))

    def boxes(self, files: Sequence[Path]) -> list[tuple[Any, Any]]:
        """Detect the boxes of `files`, shared among the processes."""
        shares = [tuple(files[k::PROCESSES]) for k in range(PROCESSES)]
        answers = [p.submit(boxes, share) for p, share in zip(self.pools, shares, strict=True)]
        return [pair for answer in answers for pair in answer.result()]


def enlarged(faces: Sequence[Face], number: int, folder: Path) -> list[Path]:
    """The photos that are compared: spread over all people, one view after another, 384x512."""
    views = sorted({face.view for face in faces})
    by_view = [[face for face in faces if face.view == view] for view in views]
    files = []
    for i in range(number):
        same_view = by_view[i % len(views)]
        photo = load(same_view[i * len(same_view) // number].path)
        photo = cv2.resize(photo, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
        files.append(folder / f"{i:04}.jpg")
        cv2.imwrite(str(files[-1]), photo[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
    return files


def agreement(pairs: list[tuple[Any, Any]], same: float) -> str:
    """The share of MTCNN()'s faces that are ours too, with an overlap of `same` or more."""
    known = [(ours, box) for ours, box in pairs if box is not None]
    agreed = sum(
        ours is not None and overlaps(np.array([ours]), np.array([box]))[0, 0] >= same
        for ours, box in known
    )
    return f"{agreed / len(known):.1%} of {len(known)}"


def main() -> None:
    """Print a table of figures beside their targets."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--photos", type=int, default=700, help="compared for the same face")
    parser.add_argument("--timed", type=int, default=98, help="of these, timed")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = enlarged(read_faces(arguments.data), arguments.photos, folder)
        step = max(1, len(files) // arguments.timed)
        step += step % 7 == 0  # every seventh would be of one view
        print_table(files, files[::step][: arguments.timed], arguments.repeats, folder)


def print_table(files: list[Path], timed: list[Path], repeats: int, folder: Path) -> None:
    """Measure and print."""
    theirs_, ours = Side(timed), Side(timed)
    pairs = ours.boxes(files)
    for side, work in ((theirs_, "MTCNN()"), (ours, "detect")):
        side.turn(work, "warming up")
    for turn in range(repeats):
        theirs_.turn("MTCNN()", "detect")
        ours.turn("detect", "detect")
        ours.turn("Cropper", "anew", folder / f"cache {turn}")
        ours.turn("Cropper", "again", folder / f"cache {turn}")
        if turn < 2:
            theirs_.turn("MTCNN() from files", "files")
    number = len(timed)

    def ratio(slow: str, fast: str) -> str:
        by_clock = theirs_.wall[slow] / ours.wall[fast]
        by_processor = theirs_.processor[slow] / ours.processor[fast]
        return f"{by_clock:.1f} times (processor time {by_processor:.1f})"

    print("| what | figure | target |")
    print("|---|---|---|")
    print(f"| MTCNN(), photos a second | {number / theirs_.wall['detect']:.0f} | |")
    print(f"| `detect`, photos a second | {number / ours.wall['detect']:.0f} | |")
    print(f"| as a ratio | {ratio('detect', 'detect')} | ≥ 6 |")
    found = [sum(box is not None for box in boxes) for boxes in zip(*pairs, strict=True)]
    print(f"| photos with a face, ours and MTCNN()'s, of {len(pairs)} | {found[0]}, {found[1]} | |")
    print(f"| MTCNN()'s face, IoU ≥ {SAME} | {agreement(pairs, SAME)} | ≥ 99% |")
    print(f"| the same, IoU ≥ 0.4 | {agreement(pairs, 0.4)} | |")
    print(f"| from files, crops made anew | {ratio('files', 'anew')} | |")
    print(f"| from files, crops cached | {ratio('files', 'again')} | ≥ 50 |")


if __name__ == "__main__":
    main()
