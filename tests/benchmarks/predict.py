"""Measure how fast a folder of photos becomes codes, against networks alone and what one does without us.

    python -m tests.benchmarks.predict --data DIR --out SCRATCH

Photos of DIR, in the competition's layout, are enlarged to its 384 x 512 pixels; SCRATCH keeps them
and the untrained models.
All kinds take turns on the same photos, `--repeats` times; each figure is of the best turn. "Today"
is Pillow, facenet-pytorch's MTCNN with its defaults and three of timm's models, photo after photo (of
the first quarter), with all cores or, where these are busy and it is faster, one. The networks' bound is three exports alone, on crops that are ready: the better of a
network a core and of one network on all cores.
"""

import argparse
import itertools
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from combine import TASKS
from common.base.run_settings import available_cores
from common.data.layout import Person, read_faces
from common.data.split import make_split
from common.inference.ensemble import Ensemble, load_ensemble
from common.inference.options import PredictSettings
from common.inference.predictor import CPU_PIXELS, predict
from common.model import checkpoint, export
from common.model.exported import OnnxClassifier
from common.model.weights import create_classifier
from tests.benchmarks.crop import enlarged

ROOT = Path(__file__).parents[2]
KINDS = {
    "EfficientNet-B3, 224": ("efficientnet_b3", 224, 2.5),
    "MobileNetV3-small, 96": ("mobilenetv3_small_100", 96, 4.0),
}
CPU = torch.device("cpu")


def make_models(folder: Path, name: str, size: int) -> dict[str, Path]:
    """Untrained checkpoints and exports of each task, made where they are not yet; task → .pt."""
    files = {task.task: folder / f"{name}_{size}_{task.task}.pt" for task in TASKS}
    people = {Person(str(i), ("male", "female")[i % 2], 20 + i) for i in range(41)}
    _, split = make_split(people, folds=4, fold=0, limit=None)
    for task, file in zip(TASKS, files.values(), strict=True):
        if file.with_suffix(".onnx").is_file():
            continue
        recipe = task(model=name, size=(size, size), pretrained=False)
        model, _ = create_classifier(recipe)
        decision = checkpoint.UNCALIBRATED | {"prior": [1 / len(task.classes)] * len(task.classes)}
        card = checkpoint.make_card(recipe, model, split=split, metrics={}, decision=decision)
        checkpoint.save(file, card, model.backbone.state_dict())
        export.export(file, file.with_suffix(".onnx"))
    return files


def loaded(files: Mapping[str, Path], suffix: str) -> dict[str, Ensemble]:
    """Load as combine.py does the tasks' files."""
    return {
        task.task: load_ensemble(task, [files[task.task].with_suffix(suffix)], [1.0], "soft", CPU)
        for task in TASKS
    }


def today(
    ensembles: Mapping[str, Ensemble], size: int, threads: int
) -> Callable[[Sequence[Path]], None]:
    """Photo after photo by the libraries alone, without a cache."""
    from facenet_pytorch import MTCNN
    from PIL import Image

    detector = MTCNN(image_size=size)
    models = [e.models[0].model.backbone for e in ensembles.values()]
    models = [model.to(memory_format=torch.contiguous_format) for model in models]

    @torch.inference_mode()
    def answer(paths: Sequence[Path]) -> None:
        torch.set_num_threads(threads)
        for path in paths:
            face = detector(Image.open(path).convert("RGB"))
            face = torch.zeros(3, size, size) if face is None else face
            for model in models:
                model(face[None]).softmax(dim=1).argmax().item()
        torch.set_num_threads(available_cores())

    return answer


def ours(
    ensembles: Mapping[str, Ensemble], cache: Path, cold: bool
) -> Callable[[Sequence[Path]], None]:
    """Predict as combine.py does with its defaults."""

    def answer(paths: Sequence[Path]) -> None:
        if cold:
            shutil.rmtree(cache, ignore_errors=True)
        settings = PredictSettings(cache_dir=cache, workers=min(8, available_cores()))
        answers = predict(paths, ensembles, settings)
        assert not answers.bad

    return answer


def networks_alone(files: Mapping[str, Path], size: int, shared: bool) -> Callable:
    """Three exports on ready crops; `shared`: each on all cores, else each call on one."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = available_cores() if shared else 1
    models = [
        OnnxClassifier(onnxruntime.InferenceSession(file.with_suffix(".onnx"), options))
        for file in files.values()
    ]
    most = 32 if shared else CPU_PIXELS // size**2

    def answer(paths: Sequence[Path]) -> None:
        images = torch.zeros(len(paths), 3, size, size, dtype=torch.uint8)
        work = itertools.product(images.split(most), models)
        with ThreadPoolExecutor(1 if shared else available_cores()) as pool:
            list(pool.map(lambda pair: pair[1](pair[0]), work))

    return answer


def speeds(
    ways: Mapping[str, Callable[[Sequence[Path]], None]], paths: Sequence[Path], repeats: int
) -> dict[str, float]:
    """Photos a second, the best of turns that alternate."""
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for way in ways.values():
        way(paths[:2])
    for _ in range(repeats):
        for name, way in ways.items():
            chosen = paths[: -(-len(paths) // 4)] if name.startswith("today") else paths
            start = time.perf_counter()
            way(chosen)
            seconds[name].append((time.perf_counter() - start) / len(chosen))
    return {name: 1 / min(values) for name, values in seconds.items()}


def compare(kind: str, paths: Sequence[Path], arguments: argparse.Namespace) -> None:
    """The rows of a backbone."""
    name, size, target = KINDS[kind]
    files = make_models(arguments.out, name, size)
    torch.set_num_threads(available_cores())
    plain = loaded(files, ".pt")
    with tempfile.TemporaryDirectory(dir=arguments.out) as folder:
        cache = Path(folder)
        ways = {
            "today, all cores": today(plain, size, available_cores()),
            "today, one thread": today(plain, size, 1),
            "checkpoints, nothing cached": ours(loaded(files, ".pt"), cache / "pt", cold=True),
            "exports, nothing cached": ours(loaded(files, ".onnx"), cache / "onnx", cold=True),
            "exports, boxes cached": ours(loaded(files, ".onnx"), cache / "warm", cold=False),
            "networks alone, one a core": networks_alone(files, size, shared=False),
            "networks alone, each on all cores": networks_alone(files, size, shared=True),
        }
        ways["exports, boxes cached"](paths)
        found = speeds(ways, paths, arguments.repeats)
    before, bound = (
        max(speed for way, speed in found.items() if way.startswith(word))
        for word in ("today", "networks")
    )
    for way, speed in found.items():
        print(f"| {kind}: {way} | {speed:.1f} photos/s | |")
    for way in ("checkpoints, nothing cached", "exports, nothing cached"):
        print(f"| {kind}: {way}, against today | {found[way] / before:.2f} | ≥ {target} |")
    for way in ("exports, nothing cached", "exports, boxes cached"):
        goal = "≥ 80%" if size == 224 else ""  # of small networks the photos bound the speed
        print(f"| {kind}: {way}, of the networks' bound | {found[way] / bound:.0%} | {goal} |")


def seconds_of(words: Sequence[str | Path], repeats: int) -> float:
    """The shortest time of a command."""
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        subprocess.run([sys.executable, *words], cwd=ROOT, check=True, capture_output=True)
        found.append(time.perf_counter() - start)
    return min(found)


def starts(photo: Path, arguments: argparse.Namespace) -> None:
    """The rows of one photo, and of --help."""
    for (kind, (name, size, _)), suffix in itertools.product(KINDS.items(), (".pt", ".onnx")):
        files = make_models(arguments.out, name, size)
        flags = [w for t, file in files.items() for w in (f"--{t}", file.with_suffix(suffix))]
        flags += ["--input", photo, "--cache-dir", arguments.out / "one"]
        seconds = seconds_of(["combine.py", *flags], arguments.repeats)
        print(f"| one photo, {kind}, three {suffix} | {seconds:.1f} s | < 6 s |", flush=True)
    helps = {command: seconds_of([*command, "--help"], 2) for command in commands()}
    slowest = max(helps, key=helps.get)
    what = f"--help, the slowest of {len(helps)} commands ({' '.join(slowest)})"
    print(f"| {what} | {helps[slowest]:.2f} s | < 1 s |")


def commands() -> list[tuple[str, ...]]:
    """Everything here that runs as a command, as words for Python."""
    folders = [ROOT / name for name in ("mask", "gender", "age", "common")]
    files = [file for folder in folders for file in sorted(folder.rglob("*.py"))]
    names = [
        ".".join(file.relative_to(ROOT).with_suffix("").parts)
        for file in files
        if '__name__ == "__main__"' in file.read_text()
    ]
    return [("combine.py",), *(("-m", name) for name in names)]


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="keeps models and photos")
    parser.add_argument("--photos", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--only", choices=("speed", "start"))
    arguments = parser.parse_args()
    folder = arguments.out / "photos"
    folder.mkdir(parents=True, exist_ok=True)
    chosen = enlarged(read_faces(arguments.data), arguments.photos, folder)
    print("| what | figure | target |\n|---|---|---|", flush=True)
    if arguments.only != "start":
        for kind in KINDS:
            compare(kind, chosen, arguments)
            sys.stdout.flush()
    if arguments.only != "speed":
        starts(chosen[0], arguments)


if __name__ == "__main__":
    main()
