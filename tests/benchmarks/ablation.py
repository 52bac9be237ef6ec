"""One factor at a time, on one net with three heads: what each choice is worth, on real photos.

    python -m tests.benchmarks.ablation --data DIR --out FOLDER --jobs 2               screening
    python -m tests.benchmarks.ablation … --seeds 1 2 3 --only base margin erasing     three seeds
    make ablation FACES=DIR                                                            the former

trains what FOLDER doesn't hold yet (so it can be stopped and started again) and prints the table. A
row is the base with one thing changed; its figures are macro F1 on the people held out.
"""

import argparse
import statistics
from pathlib import Path

from tests.benchmarks.sources import single_scores, train_all

BASE = (
    "--model mobilenetv3_small_100 --size 96 --no-pretrained --crop eyes --margin 0.1 --aug light "
    "--loss cross_entropy --opt adamw --lr 2e-3 --weight-decay 0.05 --sched cosine "
    "--warmup-epochs 1 --batch-size 32 --folds 5 --fold 0 --workers 0"
)
FACTORS = {
    "base": "",
    "face box, margin .3": "--crop face --margin 0.3",
    "eyes, margin .3": "--margin 0.3",
    "centre of the photo": "--crop center",
    "CE + F1": "--loss ce+f1",
    "moving average": "--model-ema-decay 0.998",
    "affine, colour": "--aug light affine colour",
    "jitter": "--aug light jitter",
    "erasing": "--reprob 0.5",
    "mixup": "--mixup 0.2",
    "S2's augmentation": "--aug own",
    "no flip": "--aug none",
    "persons first": "--sampler person",
    "batch 64": "--batch-size 64",
    "batch 16": "--batch-size 16",
    "lr 1e-3": "--lr 1e-3",
    "lr 4e-3": "--lr 4e-3",
    "dropout": "--drop 0.3",
    "weight decay .2": "--weight-decay 0.2",
    "label smoothing": "--smoothing 0.1",
    "no warm-up": "--warmup-epochs 0",
    "focal": "--loss focal",
    "autoaugment": "--aug light autoaugment",
    "randaugment 4": "--aug light randaugment --randaugment-magnitude 4",
    "randaugment 9": "--aug light randaugment",
    "128 px": "--size 128",
    "192 px": "--size 192",
    "stem stride 1": "--stem-stride 1",
}


def main() -> None:
    """Train what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, nargs="+", default=[777])
    parser.add_argument("--only", nargs="+", choices=FACTORS, default=list(FACTORS))
    arguments = parser.parse_args()
    jobs = {
        (name, seed): f"tests.benchmarks.baselines years {BASE} {FACTORS[name]} "
        f"--epochs {arguments.epochs} --seed {seed}"
        for name in arguments.only
        for seed in arguments.seeds
    }
    files = train_all(jobs, arguments)
    print("| factor | 18 codes | mask | gender | age |\n|---|---|---|---|---|")
    for name in arguments.only:
        runs = [single_scores(files[name, seed]) for seed in arguments.seeds]
        print(f"| {name} | {' | '.join(spread(values) for values in zip(*runs, strict=True))} |")


def spread(values: tuple[float, ...]) -> str:
    """Mean and standard deviation over the seeds."""
    mean = f"{statistics.mean(values):.3f}"
    return f"{mean} ± {statistics.stdev(values):.3f}" if len(values) > 1 else mean


if __name__ == "__main__":
    main()
