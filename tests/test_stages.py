"""Where the time went."""

import contextlib
import time

from common.stages import Stages


def test_stages_add_up_whatever_happens_inside() -> None:
    stages = Stages()
    with stages("decode"):
        time.sleep(0.02)
    with contextlib.suppress(KeyError), stages("networks"):
        time.sleep(0.02)
        {}["a failure"]
    stages.add({"decode": 10, "write": 0.26})
    assert 10.02 <= stages.seconds["decode"] < 11
    assert 0.02 <= stages.seconds["networks"] < 1
    names = [part.split()[0] for part in stages.line().split(", ")]
    assert names == ["decode", "networks", "write"]
    assert stages.line().endswith("write 0.3 s")
