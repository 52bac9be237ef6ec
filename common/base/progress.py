"""Progress bars that suit a terminal and a log file alike."""

import sys
from typing import Any

from tqdm import tqdm

from common.base.processes import is_main

LOG_INTERVAL = 20  # s between lines where nobody watches


def progress(total: int, title: str, unit: str, **settings: Any) -> tqdm:
    """A bar to be updated by hand; where stderr is no terminal, a line now and then.

    None where another process shows it.
    """
    watched = sys.stderr.isatty()
    if not is_main():
        settings["disable"] = True  # else not named here: TQDM_DISABLE may say so
    return tqdm(
        total=total,
        desc=title,
        unit=f" {unit}",
        mininterval=0.1 if watched else LOG_INTERVAL,
        maxinterval=10 if watched else 10 * LOG_INTERVAL,
        dynamic_ncols=watched,
        **settings,
    )
