"""What the chaos makes of what it has done."""

from __future__ import annotations

from collections import Counter

from benchmarks.chaos import Found


def test_nodes_that_are_lost_count_as_killed_and_those_that_stand_still_do_not() -> None:
    done = Counter({("node 1", "lost with its disk"): 2, ("build-0", "killed"): 3, ("build-0", "cut off"): 4})
    done["database", "away"] = 7
    lines = Found(done, {"jobs": 1200}).lines()
    assert "| killed | 5 |" in lines
    assert "| jobs | 1,200 |" in lines
    assert "| build-0 | cut off | 4 |" in lines
    assert lines[-1] == "nothing is lost, doubled, or hangs"


def test_what_is_wrong_is_told_and_counted() -> None:
    lines = Found(wrong={"job3": "hung", "cluster": "it does not come back"}).lines()
    assert lines[-3:] == ["job3: hung", "cluster: it does not come back", "2 wrong"]
