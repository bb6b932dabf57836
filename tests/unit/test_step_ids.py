"""The ids of steps, and their parts."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunemesh.coordinator.jobs.job import StepRef
from tunemesh.shared.messages import Stage

NUMBERS = st.integers(-1, 10**8)


@given(
    stage=st.sampled_from(get_args(Stage)),
    job=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", fullmatch=True),
    task=st.from_regex(r"[!-~]{1,40}", fullmatch=True),
    round_=NUMBERS,
    chunk=NUMBERS,
)
def test_the_parts_of_an_id_make_the_same_id_again(
    stage: Stage, job: str, task: str, round_: int, chunk: int
) -> None:
    ref = StepRef(job, stage, task, round_, chunk)
    assert StepRef.parse(ref.id) == ref


@pytest.mark.parametrize(
    "step",
    [
        "",
        "job",
        "job/t00/0/build",
        "job/t00/0/0/sleep",
        "job/t00/00/0/build",
        "job/t00/-1/0/build",
        "/t/0/0/build",
    ],
)
def test_what_is_no_id_of_a_step_is_refused(step: str) -> None:
    with pytest.raises(ValueError, match="is no id of a step"):
        StepRef.parse(step)
