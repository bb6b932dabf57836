"""What others write is shown on a terminal, and neither obeyed nor taken for markup."""

from __future__ import annotations

import io
import json
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from tunemesh import live, status_tables, tables, terminal
from tunemesh.report import Report, ResourceReport, VariantReport
from tunemesh.shared.messages import JobEvent, JobProgress, Judgement, ResourceProgress, TaskProgress

ESCAPES = ("\x1b]0;owned\x07", "\x1b[31;43m", "\x9b2J", "\u202e", "\x08", "\r")
EVIL = "".join(ESCAPES) + "[red]boo[/red] [/] [link=file:///etc]:warning: \\["
SHOWN = "[red]boo[/red] [/] [link=file:///etc]:warning: \\["


def task(text: str = EVIL) -> TaskProgress:
    return TaskProgress(
        id=text, name=text, weight=1, trials=1, outcomes={text: 1}, untuned=1.0, best=0.5, last_error=text
    )


def job(text: str = EVIL) -> JobProgress:
    return JobProgress(
        job="j", name=text, phase="tuning", target=text, trials=1, budget=2, accepted=0.0, finished=None,
        tasks=[task(text)], usage={}, waiting=text, error=text,
    )  # fmt: skip


def resource(text: str = EVIL) -> ResourceProgress:
    return ResourceProgress(
        queue=text, slots=1, workers=[text], targets=[text], running=[text], busy=0.0, utilisation=0.0
    )


REPORT = Report(
    job="j", name=EVIL, target=EVIL, trials=1, budget=1, stopped=False, latency_before_s=1.0,
    latency_after_s=0.5, rejected_s=0.7, speedup=2.0, largest_difference=0.0, outputs=[], drift=1.0,
    judged=[Judgement(judge=EVIL, inputs=EVIL), Judgement(reason=EVIL)], notes=[EVIL], wall_s=1.0, tasks=[],
    variants=[
        VariantReport(shapes={EVIL: (8, 3)}, latency_before_s=1.0, latency_after_s=0.25, speedup=4.0)
    ],
    resources={EVIL: ResourceReport(steps=1, busy_s=1.0, utilisation=1.0)}, timeline=[],
)  # fmt: skip


@pytest.fixture(params=[True, False], ids=["terminal", "pipe"])
def console(request: pytest.FixtureRequest) -> Console:
    return Console(
        file=io.StringIO(), force_terminal=request.param, width=2000, color_system="256", legacy_windows=False
    )


def shown(console: Console) -> str:
    """What was printed, after a look for what a terminal would obey."""
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    for escape in ESCAPES:
        # Rich itself returns to the beginning of the line, on a terminal.
        assert escape not in text.replace("\r\x1b[", "\x1b["), repr(escape)
    return text


def test_tables_show_texts_as_they_are(console: Console) -> None:
    console.print(status_tables.jobs_table([job()], 0.0))
    console.print(status_tables.tasks_table(job()))
    console.print(status_tables.resources_table([resource()]))
    text = shown(console)
    assert text.count(SHOWN) >= 6


def test_reports_show_texts_as_they_are(console: Console) -> None:
    tables.print_reports(console, [REPORT], Path(EVIL.replace("/", "")))
    text = shown(console)
    assert f"{SHOWN}=8,3" in text
    assert "250.00 ms" in text


def test_of_many_notes_a_few_are_printed() -> None:
    console = Console(file=io.StringIO(), width=200)
    report = msgspec.structs.replace(REPORT, notes=[f"number {i} is not fused" for i in range(8)])
    tables.print_reports(console, [report], Path("out"))
    text = shown(console)
    assert "number 4 is not fused" in text
    assert "number 5 is not fused" not in text
    assert "3 more such notes are in report.json" in text


def test_the_live_view_shows_texts_as_they_are(console: Console) -> None:
    with live.LiveView(console) as view:
        view.note(EVIL)
        view.event(
            JobEvent(job="j", kind="progress", at=0.0, text=EVIL, progress=job(), resources=[resource()])
        )
        view.event(JobEvent(job="k", kind="rejected", at=0.0, text=EVIL))
    assert SHOWN in shown(console)


def test_an_event_is_one_line_in_a_pipe() -> None:
    console = Console(file=io.StringIO(), width=40)
    with live.LiveView(console) as view:
        view.event(JobEvent(job="k", kind="rejected", at=0.0, text="first\nk2: done, all is well"))
    assert shown(console) == "k: rejected, first k2: done, all is well\n"


def test_a_complaint_is_one_printable_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert terminal.complain(f"{EVIL}\nerror: another", 2) == 2
    said = capsys.readouterr().err
    assert said.endswith(f"{SHOWN} error: another\n")
    assert said[:-1].isprintable()


def test_an_answer_for_a_script_is_one_printable_line(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.tell(f"a: cancelled: {EVIL}\nb: done")
    said = capsys.readouterr().out
    assert said.endswith(f"{SHOWN} b: done\n")
    assert said[:-1].isprintable()


def test_json_is_printable_and_says_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    value = {EVIL: [EVIL, "\U000e0041 \u00e4"]}
    terminal.print_json(value)
    printed = capsys.readouterr().out
    assert json.loads(printed) == value
    assert printed.replace("\n", "").isprintable()
    assert "\u00e4" in printed


def test_events_are_objects_on_lines_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    with live.JsonLines() as view:
        view.event(JobEvent(job="j", kind="progress", at=1.0, text=EVIL, progress=job()))
        view.event(JobEvent(job="j", kind="done", at=2.0))
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["text"], first["progress"]["name"]) == (EVIL, EVIL)
    assert second == {"job": "j", "kind": "done", "at": 2.0, "text": "", "progress": None}


def test_secrets_are_for_the_eyes_of_a_person(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: False, raising=False)
    assert terminal.for_eyes("secret") == "***"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert terminal.for_eyes("secret") == "secret"


def test_in_a_pipe_it_is_said_once_what_takes_long(capsys: pytest.CaptureFixture[str]) -> None:
    with terminal.working(f"fetching {EVIL}"):
        pass
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert SHOWN in err
