"""What the benchmark of the coordinator's rate says, and that it waits for nobody who is gone."""

from __future__ import annotations

from unittest.mock import Mock

import pytest

from benchmarks.coordinator_rate import Rate, Seen, _wait
from tunemesh.shared.messages import JobEvent


def test_the_rate_says_what_a_step_takes_and_who_is_busiest() -> None:
    before = Seen(100.0, 5.0, 7.0, (1.0, 1.0), 1_000, 50.0, 60.0)
    after = Seen(110.0, 8.0, 16.0, (3.0, 2.0), 11_000, 150.0, 77.0)
    text = Rate(before, after, broker_cores=1, cores=2).text()
    assert "10000 steps in 10.0 s, 1000 per second; 3333 per second of its CPU time" in text
    assert "coordinator 0.30 ms, broker 0.90 ms, peers 0.30 ms" in text
    assert "from the coordinator to a worker it takes 10.0 ms" in text
    assert "2 cores: idle 15% of the time, busy with something else 10%" in text
    assert "busiest is the broker" in text


def never() -> bool:
    return False


def test_a_peer_that_is_gone_is_not_waited_for() -> None:
    players = [Mock(exitcode=None), Mock(exitcode=3)]
    with pytest.raises(SystemExit, match="a peer has ended with status 3"):
        _wait(Mock(**{"poll.return_value": None}), players, never, 30.0, "")


def test_a_job_that_ends_before_the_time_is_an_error() -> None:
    event = JobEvent(job="job1", kind="failed", at=0.0, text="no worker")
    with pytest.raises(SystemExit, match="job1 has ended: no worker"):
        _wait(Mock(**{"poll.return_value": event}), [], never, 30.0, "")


def test_what_does_not_come_about_is_given_up() -> None:
    with pytest.raises(SystemExit, match="after 0 s: a peer has got nothing to do"):
        _wait(Mock(), [], never, 0.0, "a peer has got nothing to do")
