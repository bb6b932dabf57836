"""What a person reads about jobs that run, in terminals of all widths."""

from __future__ import annotations

import io
from typing import Any

import msgspec
import pytest
from rich.console import Console, RenderableType

from tests.unit.past import progress
from tunemesh import status_tables, tables
from tunemesh.shared.messages import JobProgress, Quote, ResourceProgress, TaskProgress

NOW = 1_795_796_735.0
TARGET = '{"keys": ["cpu"], "kind": "llvm", "mcpu": "znver5", "num-cores": 1}'
LONG = "a_network_with_a_very_long_name_indeed-4a05f2"
STEP = "tiny_cnn-3db82d/t03/2/1/build"


def task(number: int, **changes: Any) -> TaskProgress:
    usual: dict[str, Any] = {
        "id": f"t{number:02}", "name": f"fused_conv2d{number}_add_relu", "weight": 1, "trials": 12,
        "outcomes": {"measured": 11, "wrong-result": 1}, "untuned": 1e-2, "best": 4e-5,
        "last_error": "first line\nkilled by SIGSEGV",
    }  # fmt: skip
    return TaskProgress(**usual | changes)


def jobs() -> list[JobProgress]:
    error = "assemble: killed by SIGKILL: it needed more than 4 GiB"
    made = [
        progress("tiny_cnn-3db82d", "tuning", NOW),
        progress("tiny_mlp_mixer-4a05f2", "failed", NOW, error=error, tenant="gold", priority=30),
        progress(LONG, "importing", NOW, waiting="no device serves it"),
    ]
    return [msgspec.structs.replace(each, tasks=[task(0), task(1)], target=TARGET) for each in made]


def resources() -> list[ResourceProgress]:
    builds = ResourceProgress(
        queue="build-cpu", slots=2, workers=["b@vm:1", "b@vm:2"], targets=[], running=[STEP], busy=3.0,
        utilisation=0.4, hosts=["vm"],
    )  # fmt: skip
    device = ResourceProgress(
        queue="profile-cpu-0", slots=1, workers=["p@vm:3"], targets=[TARGET, "native"], running=[], busy=3.0,
        utilisation=0.93, hosts=["vm"], drift=0.07,
    )  # fmt: skip
    return [builds, device]


WAITING = {"build-cpu": {"tiny_cnn-3db82d": 4, "other": 2}, "profile:native": {"x": 1}}


def printed(what: RenderableType, width: int) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(what)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_tables_are_no_wider_than_the_terminal_and_cut_nothing_off(width: int) -> None:
    for what in (
        status_tables.jobs_table(jobs(), NOW + 50),
        status_tables.tasks_table(jobs()[0]),
        status_tables.resources_table(resources(), WAITING),
    ):
        lines = printed(what, width).splitlines()
        assert max(map(len, lines)) <= width
        assert "…" not in "".join(lines)
    text = printed(status_tables.jobs_table(jobs(), NOW), width)
    for job in jobs():
        assert job.job in text.replace("\n", "") if len(job.job) > width else text
    assert "tuning" in text
    assert "killed by SIGKILL" in " ".join(text.split())


def test_where_there_is_place_everything_is_shown() -> None:
    text = printed(status_tables.jobs_table(jobs(), NOW + 50), 400)
    for shown in (
        "gold",
        "30",
        "llvm znver5, 1 core",
        "tiny_cnn-3db82d.onnx",
        "80.0 us / 20.00 ms",
        "2 wrong-result",
    ):
        assert shown in text
    assert text.splitlines()[-2:] == [
        "tiny_mlp_mixer-4a05f2: assemble: killed by SIGKILL: it needed more than 4 GiB",
        f"{LONG}: no device serves it",
    ]


def test_what_nobody_has_takes_no_place() -> None:
    text = printed(status_tables.jobs_table(jobs()[:1], NOW), 400)
    assert "tenant" not in text
    assert "finished" not in text


def test_of_resources_it_is_said_who_is_served_and_who_waits() -> None:
    builds, device = printed(status_tables.resources_table(resources(), WAITING), 200).splitlines()[-2:]
    assert "tiny_cnn-3db82d t03 build" in builds
    assert "6: tiny_cnn-3db82d, other" in builds
    assert "40%" in builds
    for said in ("idle", "1: x", "+7%", "llvm znver5, 1 core", "vm"):
        assert said in device


def test_of_many_steps_a_few_are_named() -> None:
    many = msgspec.structs.replace(resources()[0], running=[f"job{n}/t00/0/0/build" for n in range(9)])
    text = printed(status_tables.resources_table([many]), 200)
    assert "job2 t00 build and 6 more" in text
    assert "job3" not in text


def test_the_last_line_of_an_error_is_told_below() -> None:
    assert printed(status_tables.tasks_table(jobs()[0]), 80).splitlines()[-1] == "t01: killed by SIGSEGV"


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (TARGET, "llvm znver5, 1 core"),
        ('{"kind": "cuda", "arch": "sm_90"}', "cuda sm_90"),
        ('{"tag": "nvidia/nvidia-h100"}', "nvidia/nvidia-h100"),
        ("mock", "mock"),
        ("{}", "{}"),
    ],
)
def test_a_target_is_a_few_words(target: str, said: str) -> None:
    assert tables.target_text(target) == said


def left(trials: int, passed: float, quote: float | None = 60.0) -> float | None:
    said = Quote(tasks=5, trials=60, seconds=quote, device_seconds=quote) if quote is not None else None
    job = progress("j", "tuning", NOW, trials=trials, budget=60, quote=said)
    return status_tables.left(job, job.accepted + passed)


def test_the_first_trials_are_no_measure_of_the_time_left() -> None:
    """A model that took 45 s to import has a quote of 60 s."""
    first = left(1, 45.0)
    assert first is not None
    assert 59.0 < first < 220.0  # not 45 minutes
    assert left(1, 45.0, quote=None) is None


def test_later_the_pace_of_the_job_counts() -> None:
    later = left(50, 500.0)
    assert later is not None
    assert later == pytest.approx(100.0, rel=0.25)
    assert left(30, 30.0, quote=None) == pytest.approx(30.0)


def test_after_the_last_trial_no_time_is_promised() -> None:
    assert left(60, 60.0) is None
    assert left(0, 60.0) is None


def test_a_bar_shows_the_trials_of_a_job_that_is_tuned_and_the_phase_of_another() -> None:
    tuned = progress("first", "tuning", NOW, trials=16, budget=64)
    read = progress("second", "importing", NOW)
    ended = progress("third", "done", NOW)
    lines = printed(status_tables.progress_bars([tuned, read, ended]), 60).splitlines()
    assert [line.split()[0] for line in lines] == ["first", "second"]
    assert lines[0].rstrip().endswith("25%")
    assert lines[1].rstrip().endswith("importing")


def test_why_a_device_takes_no_steps_is_said_below_the_table() -> None:
    builds, device = resources()
    fault = "the device does not work: CUDA error 304"
    broken = msgspec.structs.replace(device, slots=0, faults=[fault])
    lines = printed(status_tables.resources_table([builds, broken]), 200).splitlines()
    assert lines[-1] == f"profile-cpu-0: {fault}"
    assert "broken" in lines[-2]
    assert "idle" not in lines[-2]
