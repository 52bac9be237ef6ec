"""The place of this process among those that torchrun starts; without torchrun it is alone.

Their communication is in `common.training.distributed`; nothing here imports torch.
"""

import os
import time
from pathlib import Path

SET_BY_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
SHUTDOWN_TIME = 10  # s in which torchrun ends the other processes after the first failure


def _number(name: str, alone: int) -> int:
    under_torchrun = all(os.environ.get(variable) for variable in SET_BY_TORCHRUN)
    return int(os.environ.get(name, alone)) if under_torchrun else alone


def processes() -> int:
    """Number of processes that train together, on all machines."""
    return _number("WORLD_SIZE", 1)


def rank() -> int:
    """Number of this process; 0 is the one that writes and prints."""
    return _number("RANK", 0)


def local_processes() -> int:
    """Number of these processes on this machine."""
    return _number("LOCAL_WORLD_SIZE", 1)


def local_rank() -> int:
    """Number of this process on its machine, and that of its GPU."""
    return _number("LOCAL_RANK", 0)


def is_main() -> bool:
    """Return True in the process that writes and prints."""
    return rank() == 0


def restarts() -> int:
    """Number of times that torchrun has restarted this machine's processes (--max-restarts)."""
    return _number("TORCHELASTIC_RESTART_COUNT", 0)


def launch() -> str | None:
    """Id of this torchrun launch, shared by ranks and restarts; None across machines.

    It is the random name of torchrun's folder of logs, of which each machine has its own.
    """
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")  # <folder>/attempt_0/<rank>/error.json
    alone = processes() == local_processes()
    return Path(file).parents[2].name if file and alone else None


def after_main() -> None:
    """Delay an error that every process meets: rank 0 reports it, then torchrun ends the rest."""
    if not is_main():
        time.sleep(SHUTDOWN_TIME)
