"""Which of the processes that torchrun starts this one is; without torchrun it is the only one.

What they say to one another is in `common.training.distributed`; nothing here imports torch.
"""

import os
import time
from pathlib import Path

SET_BY_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
PATIENCE = 10  # s in which torchrun ends the others once the first one failed


def _number(name: str, alone: int) -> int:
    together = all(os.environ.get(known) for known in SET_BY_TORCHRUN)
    return int(os.environ.get(name, alone)) if together else alone


def processes() -> int:
    """How many processes train together, on all machines."""
    return _number("WORLD_SIZE", 1)


def rank() -> int:
    """The number of this process; 0 is the one that writes and prints."""
    return _number("RANK", 0)


def local_processes() -> int:
    """How many of them run on this machine."""
    return _number("LOCAL_WORLD_SIZE", 1)


def local_rank() -> int:
    """The number of this process on its machine, and that of its GPU."""
    return _number("LOCAL_RANK", 0)


def is_main() -> bool:
    """Whether this is the process that writes and prints."""
    return rank() == 0


def restarts() -> int:
    """How often torchrun has started this machine's processes anew (--max-restarts)."""
    return _number("TORCHELASTIC_RESTART_COUNT", 0)


def launch() -> str | None:
    """What is the same in all processes and restarts of one torchrun, and in no other's.

    The random name of its folder of logs. None on several machines, which have a folder each and
    don't count restarts alike.
    """
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")  # <folder>/attempt_0/<rank>/error.json
    alone = processes() == local_processes()
    return Path(file).parents[2].name if file and alone else None


def after_main() -> None:
    """Let the first process report an error alone where all have met it: torchrun ends the rest."""
    if not is_main():
        time.sleep(PATIENCE)
