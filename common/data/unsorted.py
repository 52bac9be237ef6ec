"""Advice for a folder of photos that hasn't the layout of a training."""

import re
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from common.base.errors import counted
from common.data.listing import has_photo_suffix

CONVERT = "python -m common.tools.convert"
UTKFACE_NAME = re.compile(r"\d{1,3}_[01]_[0-4]_")  # age_gender_race_date.jpg
LIMIT = 100_000  # files looked at: a message needn't be exact on a whole disk


def photo_names(folder: Path) -> list[Path]:
    """List the photos below `folder` by their path from there, at most LIMIT."""
    found: list[Path] = []
    for number, path in enumerate(folder.rglob("*")):
        if number >= LIMIT:
            break
        if has_photo_suffix(path.name) and path.is_file():
            found.append(path.relative_to(folder))
    return found


def way_to_convert(folder: Path) -> str:
    """Say how many photos `folder` has, and the command that brings them into the layout.

    "" for a folder without photos.
    """
    photos = photo_names(folder) if folder.is_dir() else []
    if not photos:
        return ""
    head = f"{counted(len(photos), 'photo')} below {folder}"
    target = shlex.quote(f"{folder.resolve()}-train")
    kind = _kind(folder, photos)
    if kind is None:
        return (
            f"{head}, without labels: write a table with a row a photo, columns path and mask, gender "
            f"or age, then\n  {CONVERT} csv TABLE.csv {target} --photos {shlex.quote(str(folder))}"
        )
    return f"{head}; to bring them into this layout:\n  {CONVERT} {kind} {target}"


def _kind(folder: Path, photos: Sequence[Path]) -> str | None:
    """The layout that `convert` would call them, with its source; None if nothing labels them."""
    source = shlex.quote(str(folder))
    tables = sorted(folder.glob("*.csv"))
    if any(table.name.startswith("fairface_label") for table in tables):
        return f"fairface {source}"
    if any(folder.glob("fold_*_data.txt")):
        return f"adience {source}"
    if sum(bool(UTKFACE_NAME.match(path.name)) for path in photos) > len(photos) / 2:
        return f"utkface {source}"
    if tables:
        return f"csv {shlex.quote(str(tables[0]))}"
    inside = Counter(path.parts[0] for path in photos if len(path.parts) > 1)
    if len(inside) > 1 and inside.total() > len(photos) / 2:
        return f"folders {source}"
    return None
