"""Progress bars for a terminal and for a log file."""

import sys
from typing import Any

from tqdm import tqdm

from common.base.processes import is_main

LOG_INTERVAL = 20  # s between lines in a log file


def progress(total: int, title: str, unit: str, **settings: Any) -> tqdm:
    """A bar to update by hand; a line every LOG_INTERVAL seconds if stderr isn't a terminal.

    Under torchrun only the main process shows it.
    """
    terminal = sys.stderr.isatty()
    if not is_main():
        settings["disable"] = True  # otherwise not set, so that TQDM_DISABLE counts
    return tqdm(
        total=total,
        desc=title,
        unit=f" {unit}",
        mininterval=0.1 if terminal else LOG_INTERVAL,
        maxinterval=10 if terminal else 10 * LOG_INTERVAL,
        dynamic_ncols=terminal,
        **settings,
    )
