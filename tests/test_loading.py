"""Loader processes: a photo that takes too long is a bad one, and failures name a way round."""

import signal
import threading
import time
from pathlib import Path

import pytest

from common.base.errors import UserError
from common.data import loading
from common.faces.decode import BadPhoto


def slow(path: Path) -> str:
    """Takes forever for some names, and once swallows what interrupts it, as libraries do."""
    if path.name == "slow":
        try:
            time.sleep(60)
        except Exception:
            time.sleep(60)
    return path.name


@pytest.mark.parametrize("workers", [0, 2])
def test_a_photo_that_takes_too_long_is_one_bad_photo(
    workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "PHOTO_SECONDS", 0.2)
    before = signal.getsignal(signal.SIGALRM)
    photos = loading.Photos([Path(name) for name in ("a", "slow", "b", "c")], slow)
    items = [i for b in loading.in_batches(photos, workers=workers, batch_size=2) for i in b]
    assert items == ["a", "takes more than 0.2 s", "b", "c"]
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_other_threads_have_no_time_limit() -> None:
    def work() -> None:
        with loading.time_limit(0.01):
            time.sleep(0.1)
        done.append(True)

    done: list[bool] = []
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done
    with pytest.raises(BadPhoto, match="takes more than 0.01 s"), loading.time_limit(0.01):
        time.sleep(1)


@pytest.mark.parametrize(
    ("reason", "named"),
    [
        (
            "unable to allocate shared memory(shm) for file </torch_1>: No space left on device",
            True,
        ),
        ("DataLoader worker (pid 7) is killed by signal: Bus error.", True),
        ("DataLoader worker (pid 7) is killed by signal: Killed.", False),
    ],
)
def test_a_dev_shm_that_is_too_small_is_named_with_what_to_do(reason: str, named: bool) -> None:
    with pytest.raises(UserError) as failed, loading.loader_errors():
        raise RuntimeError(f"Caught RuntimeError in DataLoader worker process 0.\n{reason}")
    assert reason in str(failed.value)
    assert ("--workers 0" in str(failed.value) and "--shm-size" in str(failed.value)) is named
