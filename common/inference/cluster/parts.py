"""Predictions for many photos as Parquet files, each complete or absent, and a manifest.

DIR/_manifest.json         models, photos and settings, so that parts of other runs aren't mixed in
DIR/part-000012.parquet    predictions for the chunk of photos with this number

The columns are those of `combine.py --probs`, with the code, and the reason if there is none.
"""

import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from common.base.errors import UserError, listed, warn
from common.base.files import LEFTOVERS, remove_leftovers, write_whole
from common.inference.codes import Codes
from common.inference.predictions import Predictions
from common.inference.tables import code_table, detail_table

MANIFEST = "_manifest.json"  # Parquet readers skip names that start with an underscore
BAD_SHOWN = 20  # bad photos to print; the parts hold all


def part_bytes(names: Sequence[str], predictions: Predictions, codes: Codes) -> bytes:
    """A Parquet file with a row for each photo: as `detail_table`, with ans and error."""
    names = [name.encode(errors="backslashreplace").decode() for name in names]
    table = detail_table(names, predictions, codes.tasks)
    table.insert(1, "ans", code_table(names, codes.of(predictions))["ans"])
    table["error"] = [predictions.bad.get(row) for row in range(len(names))]
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pandas(table, _schema(table), preserve_index=False), stream)
    return stream.getvalue()


def _schema(table: pd.DataFrame) -> pa.Schema:
    """The same types in every part, even if a column is empty."""
    kinds = {"Int64": pa.int64(), "boolean": pa.bool_(), "float64": pa.float64()}
    types = {name: kinds.get(str(kind), pa.string()) for name, kind in table.dtypes.items()}
    return pa.schema(types | {"ImageID": pa.string(), "error": pa.string()})


@dataclasses.dataclass
class Tally:
    """Totals over parts: photos by code, faces, centre crops, and bad photos."""

    codes: np.ndarray
    faces: int = 0
    fallback: int = 0
    bad: int = 0
    shown: list[str] = dataclasses.field(default_factory=list)
    """The first bad photos with their reasons."""

    def add(self, part: pa.Table) -> None:
        """Count a part."""
        codes = part["ans"].drop_null().to_numpy()
        self.codes += np.bincount(codes, minlength=len(self.codes))
        detected = part["face_found"].drop_null().to_numpy(zero_copy_only=False)
        self.faces += int(detected.sum())
        self.fallback += int((~detected).sum())
        bad = part.filter(part["error"].is_valid())
        self.bad += len(bad)
        for row in bad.slice(0, max(0, BAD_SHOWN - len(self.shown))).to_pylist():
            self.shown.append(f"{row['ImageID']}: {row['error']}")

    @property
    def photos(self) -> int:
        return int(self.codes.sum()) + self.bad

    def print(self, codes: Codes) -> None:
        """Print the number of faces, and how often each class was predicted."""
        if self.faces or self.fallback:
            print(f"{self.faces:,} faces, {self.fallback:,} centre crops")
        classes = codes.decode(np.arange(len(codes)))
        for (task, words), chosen in zip(codes.classes.items(), classes, strict=True):
            counts = (f"{w} {self.codes[chosen == i].sum():,}" for i, w in enumerate(words))
            print(f"{task:<8}{', '.join(counts)}")

    def bad_lines(self, allowed: int) -> str:
        """Describe the bad photos, of which `allowed` are tolerated."""
        way = f" (--allow-bad {self.bad} allows that)" if self.bad > allowed else ""
        rest = [f"… and {self.bad - len(self.shown):,} more"] if self.bad > len(self.shown) else []
        return (
            f"{self.bad:,} of {self.photos:,} photos can't be used and {allowed} are allowed{way}; "
            f"their ans is empty and error says why\n{listed([*self.shown, *rest], BAD_SHOWN + 1)}"
        )


class Parts:
    """The folder with the predictions of one run, which may be interrupted and resumed."""

    def __init__(self, folder: Path, manifest: Mapping[str, Any], codes: int) -> None:
        self.folder = folder
        self.manifest = json.loads(json.dumps(manifest))
        self.tally = Tally(np.zeros(codes, np.int64))

    def check(self) -> None:
        """Check that the folder is absent, empty or of this run.

        Raises:
            UserError: it holds something else, or parts of another run.
        """
        file = self.folder / MANIFEST
        if self.folder.exists() and not self.folder.is_dir():
            raise UserError(f"--output {self.folder}: a file; with --ray it is a folder of parts")
        if not file.exists():
            if self.folder.is_dir() and any(self.folder.iterdir()):
                raise UserError(f"--output {self.folder}: holds other files; name a new folder")
            return
        try:
            existing = json.loads(file.read_bytes())
            other = [key for key in self.manifest if existing.get(key) != self.manifest[key]]
        except (ValueError, AttributeError):
            raise UserError(f"{file}: damaged; remove it with the parts, or name another") from None
        if other:
            raise UserError(
                f"--output {self.folder}: its parts were made with another {', '.join(other)}; "
                "name another folder, or remove this one"
            )

    def start(self, sizes: Sequence[int]) -> set[int]:
        """Create the folder; returns the numbers of the chunks that have a complete part already.

        `sizes` are the chunks' numbers of photos.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            text = json.dumps(self.manifest, indent=2)
            write_whole(self.folder / MANIFEST, f"{text}\n".encode())
        except OSError as error:
            raise UserError(f"--output {self.folder}: {error.strerror}") from None
        remove_leftovers(self.folder.glob(LEFTOVERS))
        present = {file.name for file in self.folder.iterdir()}
        return {
            number
            for number, size in enumerate(sizes)
            if self.file(number).name in present and self._complete(number, size)
        }

    def file(self, number: int) -> Path:
        """The file of chunk `number`."""
        return self.folder / f"part-{number:06}.parquet"

    def write(self, number: int, data: bytes) -> int:
        """Write a part; returns its number of rows."""
        write_whole(self.file(number), data)
        return self._count(io.BytesIO(data))

    def _complete(self, number: int, size: int) -> bool:
        """Count a part of an earlier run; returns False if it is incomplete or damaged."""
        file = self.file(number)
        try:
            if pq.read_metadata(file).num_rows == size:
                return self._count(file) == size
        except (OSError, pa.ArrowException, KeyError):
            pass
        warn(f"{file}: incomplete or damaged; it is written again")
        return False

    def _count(self, file: Path | io.BytesIO) -> int:
        part = pq.read_table(file, columns=["ImageID", "ans", "face_found", "error"])
        self.tally.add(part)
        return len(part)
