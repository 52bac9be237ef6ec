"""Pseudo-labels: unlabelled photos that training learns from with predicted probabilities.

Probabilities rather than classes, so that a doubtful prediction teaches its doubt. Each time a photo
is used, its label is drawn from them: the mean loss is then that of soft labels, whatever the loss.
The method: Lee 2013, "Pseudo-Label"; with soft labels Xie et al. 2020, "Self-training with Noisy
Student".
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from common.base.errors import UserError, listed, warn
from common.base.names import FileFinder, leads_out
from common.base.tables import read_table
from common.data.layout import UNKNOWN_VIEW, Face, Person

if TYPE_CHECKING:
    import pandas as pd

SUM_ERROR = 1e-3  # how far from 1 probabilities of six decimals may add up


class DrawnTarget(NamedTuple):
    """One of `targets`, drawn anew each time the photo is used, with these probabilities."""

    probabilities: tuple[float, ...]
    targets: tuple[Any, ...]

    def drawn(self, seed: int) -> Any:
        """Draw a target; equal seeds draw the same one."""
        rng = np.random.default_rng((seed, len(self.targets)))  # not the augmentation's numbers
        return self.targets[np.searchsorted(np.cumsum(self.probabilities[:-1]), rng.random())]


def read_pseudo(table: Path, folder: Path, task: str, classes: Sequence[str]) -> list[Face]:
    """Read a table of `combine.py --probs`: photos in `folder` and their `task`'s probabilities.

    Rows without probabilities, which bad photos have, are left out.

    Raises:
        UserError: the table lacks a column, a number is no probability, or a photo is missing.
    """
    columns = [f"{task}_{name}" for name in classes]
    rows = read_table(table, ("ImageID", *columns), exact=("ImageID",))
    chances = _probabilities(table, rows, columns)
    finder = FileFinder(folder)
    found, missing = [], []
    for name, values in chances.items():
        path = None if leads_out(name) else finder.find(name)
        if path is None or path.is_dir():
            missing.append(name)
        else:
            person = Person(key=f"pseudo/{name}", gender="", age=None)
            found.append(Face(path, UNKNOWN_VIEW, person, probabilities={task: values}))
    if missing:
        raise UserError(
            f"--pseudo {table}: {len(missing):,} of {len(chances):,} photos are not in {folder} "
            f"(--pseudo-images names another folder)\n{listed(missing)}"
        )
    return found


def _probabilities(
    table: Path, rows: "pd.DataFrame", columns: Sequence[str]
) -> Mapping[str, tuple[float, ...]]:
    """ImageID → probabilities of the rows that have some."""
    chances, wrong, empty = {}, [], 0
    for row, name, *cells in rows[["ImageID", *columns]].itertuples():
        if not any(cells):
            empty += 1
            continue
        try:
            values = tuple(map(float, cells))
        except ValueError:
            values = ()
        total = sum(values)
        if not values or not min(values) >= 0 or not abs(total - 1) <= SUM_ERROR:
            wrong.append(f"row {row + 2}: {name}: {', '.join(cells)}")
        elif name in chances:
            wrong.append(f"row {row + 2}: {name} stands twice")
        else:
            chances[name] = tuple(value / total for value in values)
    if wrong:
        raise UserError(
            f"--pseudo {table}: {len(wrong):,} rows have no probabilities that add up to 1\n"
            f"{listed(wrong)}"
        )
    if empty:
        warn(f"--pseudo {table}: {empty:,} rows without probabilities are left out")
    if not chances:
        raise UserError(f"--pseudo {table}: no row has probabilities")
    return chances
