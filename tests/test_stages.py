"""Where the time went."""

import contextlib
import time
from collections.abc import Iterator

from common.base.stages import Stages


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


def test_waiting_for_an_item_and_working_on_it_are_told_apart() -> None:
    def slow() -> Iterator[int]:
        for number in range(3):
            time.sleep(0.03)
            yield number

    stages = Stages()
    for number in stages.each(slow(), "wait", "work"):
        time.sleep(0.1)
        if number == 1:
            break
    assert 0.06 <= stages.seconds["wait"] < stages.seconds["work"]
    assert 0.2 <= stages.seconds["work"] < 5
    assert list(stages.each([], "wait", "work")) == []


def test_long_stages_are_told_in_minutes() -> None:
    stages = Stages()
    stages.add({"crop": 119.94, "training steps": 150})
    assert stages.line() == "crop 119.9 s, training steps 2.5 min"
