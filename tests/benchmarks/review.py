"""Count the labels that were flipped on purpose common.tools.review finds, on real photos.

    python -m tests.benchmarks.review --data DIR --out FOLDER

copies the table with 3% of the people's genders flipped (its photos are a link), trains
`gender.train --fold all` on it unless FOLDER has that already (it goes on where it was stopped), and
prints which share of the flips stands in the first 6% of the list: of the people, and of single
photos for comparison.
"""

import argparse
import os
import random
import shlex
import subprocess
import sys
from pathlib import Path

from common.base.files import write_frame
from common.base.tables import read_table
from common.data.layout import GENDERS, train_dir
from common.tools.review import pooled, ranked, read_out_of_fold
from common.training.resume import LAST
from tests.benchmarks.sources import MALLOC

LISTED = 0.06  # of the list


def flip(data: Path, out: Path, share: float, seed: int) -> set[str]:
    """Write the table of `data` to `out` with other genders, beside its photos; returns whose."""
    source = train_dir(data)
    out.mkdir(parents=True, exist_ok=True)
    table = read_table(source / "train.csv", ("gender", "path"))
    keys = random.Random(seed).sample(sorted(table["path"]), round(share * len(table)))
    chosen = table["path"].isin(keys)
    other = dict(zip(GENDERS, reversed(GENDERS), strict=True))
    table.loc[chosen, "gender"] = table.loc[chosen, "gender"].map(other)
    write_frame(out / "train.csv", table)
    if not (out / "images").is_symlink():
        (out / "images").symlink_to((source / "images").resolve())
    return set(keys)


def train(arguments: argparse.Namespace) -> Path:
    """Train all folds on the flipped table, unless that is done; the out-of-fold table."""
    out = arguments.out / "g.pt"
    found = out.with_suffix(".oof.csv")
    if found.is_file():
        return found
    line = f"-m gender.train --fold all --folds 3 --preset scratch --epochs {arguments.epochs}"
    line += f" --data {arguments.out / 'train'} --out {out} --workers 0"
    line += f" --cache-dir {arguments.out / 'cache'} --log-dir {arguments.out / 'runs'}"
    if any((arguments.out / "runs" / "gender").glob(f"*/fold*/{LAST}")):
        line += " --resume"
    subprocess.run([sys.executable, *shlex.split(line)], check=True, env=os.environ | MALLOC)
    return found


def main() -> None:
    """Flip, train what is missing, then print the recall."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--share", type=float, default=0.03)
    parser.add_argument("--seed", type=int, default=777)
    arguments = parser.parse_args()
    keys = flip(arguments.data, arguments.out / "train", arguments.share, arguments.seed)
    table, classes = read_out_of_fold(train(arguments))
    print("| unit | labels flipped | listed | flips among them |\n|---|---|---|---|")
    for unit, rows in (("person", pooled(table, classes)), ("photo", table)):
        flipped = ranked(rows, classes)["person"].isin(keys)
        first = flipped[: round(LISTED * len(flipped))]
        share = first.sum() / flipped.sum()
        print(f"| {unit} | {flipped.sum():,} | {len(first):,} | {first.sum():,} ({share:.0%}) |")


if __name__ == "__main__":
    main()
