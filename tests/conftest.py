"""What the tests share: drawn people, a cache of their own, one thread, no network."""

import os
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import Phase, is_hypothesis_test, settings

if TYPE_CHECKING:
    from common.data.layout import Face

# Before the first import of our code, which reads some of it then; subprocesses inherit it.
_SCRATCH = tempfile.TemporaryDirectory(prefix="tests-")
for _name in [name for name in os.environ if name.startswith("SM_")]:
    del os.environ[_name]
os.environ |= dict.fromkeys(("XDG_CACHE_HOME", "TORCH_HOME", "HF_HOME"), _SCRATCH.name)
os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
os.environ |= dict.fromkeys(("HF_HUB_OFFLINE", "TQDM_DISABLE"), "1")

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's & would have all ignore it

SEED = int(os.environ.get("TEST_SEED", "0"))  # other people: a test mustn't need lucky ones

settings.register_profile("ours", deadline=None, database=None, derandomize="CI" in os.environ)
settings.load_profile("ours")
# For tests/benchmarks/mutation.py, where any counterexample will do.
settings.register_profile("unshrunk", phases=(Phase.explicit, Phase.generate))


def pytest_collection_modifyitems(items: list[pytest.Function]) -> None:
    for item in items:
        if "data" in item.fixturenames or is_hypothesis_test(item.obj):
            item.add_marker("seeded")


def pytest_unconfigure() -> None:
    _SCRATCH.cleanup()


def draw(directory: Path, seed: int) -> Path:
    """12 drawn persons to train on, 2 of each gender and age band, and 6 to predict."""
    from common.tools.demo.dataset import draw_dataset

    draw_dataset(directory, people=12, eval_people=6, seed=seed, workers=1)
    return directory


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `draw` draws, other persons at every TEST_SEED: read only."""
    return draw(tmp_path_factory.mktemp("drawn") / "data", SEED)


@pytest.fixture(scope="session")
def faces(data: Path) -> "tuple[Face, ...]":
    """The 84 photos of `data`'s training table."""
    from common.data.layout import read_faces

    return read_faces(data)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A folder for crops that no other test uses; not made yet."""
    return tmp_path / "cache"
