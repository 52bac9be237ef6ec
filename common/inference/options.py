"""combine.py's flags."""

import dataclasses
from pathlib import Path


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictSettings:
    """How photos are read, cropped and shown to the models."""

    cache_dir: Path
    """Folder for cropped faces."""
    workers: int
    """Loader processes; with 0 the photos are read in this process."""
    batch_size: int = 64
    """Crops at a time, at most."""
    tta: str | int | None = None
    """Test-time augmentation: "flip", or the number of views."""
    every_face: bool = False
    """A row for each face in place of a row for each photo."""
