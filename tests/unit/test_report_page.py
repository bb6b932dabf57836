"""The page of a report: what it says, and what it does with what strangers say."""

from __future__ import annotations

import functools
import json
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, get_args
from unittest import mock

import msgspec
import pytest
from typer.testing import CliRunner

from tests.reports import report as small
from tunemesh import cli, job_options, report_commands
from tunemesh.option_names import arguments
from tunemesh.report import Compared, JobReport, Report, ResourceReport, SearchReport, TaskReport
from tunemesh.report_page import curves, facts, writing
from tunemesh.shared.errors import BadInput, JobFailed
from tunemesh.shared.messages import Conditions, Judgement, Level, OutputCheck, Settings, Stage, Terms, Timing
from tunemesh.tried import Tried

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>&{{ 7 * 7 }}$x^2$\u202egnp.\x1b[31m"


class Read(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def task(number: int = 0, **changes: Any) -> TaskReport:
    usual: dict[str, Any] = {
        "id": f"t{number:02}", "name": f"conv{number}", "weight": 2, "trials": 4, "outcomes": {"measured": 4},
        "untuned_s": 4e-3, "best_s": 1e-3, "last_error": "", "spread": None, "confirmed": 0, "remeasured": 0,
        "drift": 0.0, "rounds_ahead": 0, "ended": "the trials are spent",
    }  # fmt: skip
    return TaskReport(**usual | changes)


def tried(at: float, latency: float | None, of: str = "t00") -> Tried:
    return Tried(task=of, at=1000.0 + at, outcome="measured" if latency else "run-failed", latency_s=latency)


def timing(stage: Stage, begin: float, end: float, resource: str = "build-cpu") -> Timing:
    return Timing(
        step=f"j/t00/0/0/{stage}", stage=stage, resource=resource, worker="w", started=1000 + begin,
        finished=1000 + end,
    )  # fmt: skip


def full(**changes: Any) -> Report:
    """A report in which every part of the page has something to show."""
    usual: dict[str, Any] = {
        "name": "net.onnx", "target": '{"kind": "llvm"}', "trials": 8, "budget": 8, "accepted": 1000.0,
        "wall_s": 20.0, "latency_before_s": 8e-3, "latency_after_s": 2e-3, "speedup": 4.0,
        "terms": Terms(engines=["template", "metaschedule"], seed=5, level=Level(trials=8)),
        "tasks": [task(), task(1, last_error="killed by SIGSEGV")],
        "tried": [tried(2, 3e-3), tried(4, None), tried(6, 1e-3), tried(8, 2e-3, "t01")],
        "timeline": [timing("import", 0, 1), timing("build", 1, 3), timing("profile", 3, 9, "profile-cpu-0")],
        "resources": {"build-cpu": ResourceReport(steps=2, busy_s=3.0, utilisation=0.15)},
        "conditions": [Conditions(device="AMD EPYC", versions="tunemesh 0.1.0")],
        "compared": [
            Compared(
                peer="onnxruntime", title="ONNX Runtime", version="1.31", shapes={"x": (1, 3)}, tuned_s=2e-3,
                latency_s=3e-3, ratio=0.66, difference=0.0, largest=1.0,
            )
        ],
        "outputs": [
            OutputCheck(
                name="y", dtype="float32", elements=10, compared=10, units=0.1, difference=0, tolerance=1
            )
        ],
        "judged": [Judgement(judge="ONNX Runtime 1.31", inputs="random")],
        "notes": ["one operator is not fused"],
    }  # fmt: skip
    return msgspec.structs.replace(small("llvm"), **usual | changes)


@functools.cache
def usual() -> str:
    """The page of a full report, which takes a while to draw."""
    return writing.page([(Path("net"), full())])


def page_of(*reports: JobReport) -> str:
    """Without plots, which take longer than all the rest."""
    with mock.patch.object(writing.plots, "missing", return_value=True):
        return writing.page([(Path("net"), report) for report in reports])


def test_what_was_asked_and_what_came_out_is_said() -> None:
    text = Read(usual()).text
    for said in (
        "8.00 ms untuned, 2.00 ms tuned: 4 times as fast", "template, metaschedule",
        "tuned is 1.52 times faster",
        "killed by SIGSEGV", "one operator is not fused", "AMD EPYC", "the trials are spent (2)",
        "Agrees with ONNX Runtime 1.31", "8 measured", "profile-cpu-0",
    ):  # fmt: skip
        assert said in text


def test_a_task_is_set_beside_what_the_device_can_do() -> None:
    fast = [task(operations=2e8), task(1)]  # in 1 ms
    assert "200 (80%)" in Read(page_of(full(tasks=fast, device_flops=250e9))).text
    text = Read(page_of(full(tasks=fast))).text
    assert "200" in text
    assert "(80%)" not in text


def test_it_is_said_whose_kernel_won_and_what_others_found() -> None:
    searches = [
        SearchReport(engine=engine, trials=4, best_s=best, confirmed=0, ended="")
        for engine, best in (("template", 1e-3), ("metaschedule", 1.5e-3))
    ]
    tasks = [task(engine="template", ahead=1.5, searches=searches, way="direct"), task(1)]
    text = Read(page_of(full(tasks=tasks))).text
    turns = [msgspec.structs.replace(searches[0]), msgspec.structs.replace(searches[1], behind=1.25)]
    near = [task(engine="template", ahead=1.25, searches=turns, way="direct")]
    assert "template, 1.25 times ahead: direct" in Read(page_of(full(tasks=near))).text
    for said in (
        "template, about 1.50 times ahead: direct",
        "template 1.00 ms in 4 trials, metaschedule 1.50 ms in 4 trials",
        "1 template (by 1.50 times), 1 untuned",
    ):
        assert said in text


def test_a_page_needs_no_network_and_runs_no_script() -> None:
    page = usual()
    assert re.findall(r"(?:https?:)?//\w", page) == []
    read = Read(page)
    assert not {"script", "iframe", "object", "embed", "img"} & {tag for tag, _ in read.tags}
    linked = [value for _, attrs in read.tags for name, value in attrs.items() if name in ("href", "src")]
    assert all(value and value.startswith(("#", "data:,")) for value in linked)
    assert any(attrs.get("http-equiv") == "Content-Security-Policy" for _, attrs in read.tags)
    assert page.count("var(--c1)") > 3  # colours follow the light and the dark look


def test_where_nothing_can_be_drawn_the_numbers_are_there() -> None:
    page = page_of(full())
    assert "<svg" not in page
    text = Read(page).text
    for said in (
        "pip install 'tunemesh[plots]'",
        "3.00 ms",
        "from 16.00 ms to 6.00 ms in 4 trials",
        "build-cpu",
    ):
        assert said in text
    assert "<svg" not in page_of(full(), full())


def test_ids_in_a_page_are_there_once_and_those_that_are_used_exist() -> None:
    read = Read(usual())
    ids = [attrs["id"] for _, attrs in read.tags if "id" in attrs]
    assert len(set(ids)) == len(ids)
    used = {value for _, attrs in read.tags for value in re.findall(r"#(\w+)\)?$", attrs.get("href") or "")}
    used |= {value for _, attrs in read.tags for value in re.findall(r"url\(#(\w+)\)", str(attrs))}
    assert used <= set(ids)


def test_texts_of_strangers_are_shown_and_not_obeyed() -> None:
    evil = full(
        job=EVIL, name=EVIL, target=EVIL, notes=[EVIL],
        tasks=[task(name=EVIL, last_error=EVIL, ended=EVIL, way=EVIL)],
        timeline=[timing("build", 0, 1, EVIL)],
        resources={EVIL: ResourceReport(steps=1, busy_s=1.0, utilisation=0.1)},
        compared=[msgspec.structs.replace(full().compared[0], title=EVIL, error=EVIL)],
        outputs=[msgspec.structs.replace(full().outputs[0], name=EVIL, dtype=EVIL)],
        judged=[Judgement(judge=EVIL, inputs=EVIL)], conditions=[Conditions(device=EVIL, versions=EVIL)],
    )  # fmt: skip
    several = writing.page([(Path("a"), evil), (Path("b"), full())])
    failed = JobReport(
        **{name: getattr(evil, name) for name in JobReport.__struct_fields__} | {"error": EVIL}
    )
    drawn = writing.page([(Path(EVIL.replace("/", "")), evil)])
    for page in (drawn, several, page_of(failed)):
        read = Read(page)
        assert not {"script", "img"} & {tag for tag, _ in read.tags}
        assert not {name for _, attrs in read.tags for name in attrs if name.startswith("on")}
        assert "<script>alert(1)</script>" in read.text
        assert "{{ 7 * 7 }}" in read.text
        assert "\x1b" not in page
        assert "\u202e" not in page


def test_a_page_of_a_huge_job_stays_small() -> None:
    long = "<&'\">" * 400
    tasks = [
        task(number, name=long, last_error=long, ended=f"{number} {long}", way="x" * 80)
        for number in range(2000)
    ]
    stages = get_args(Stage)
    steps = [timing(stages[n % 6], n, n + 0.4, f"build-{n % 200}") for n in range(6_000)]
    huge = full(
        name=long, target=long, tasks=tasks, timeline=steps, notes=[long] * 100, wall_s=6_000.0,
        outputs=[msgspec.structs.replace(full().outputs[0], name=long)] * 100,
        judged=[Judgement(reason=long)] * 64, compared=full().compared * 200,
        resources={f"build-{n}": ResourceReport(steps=1, busy_s=1.0, utilisation=0.1) for n in range(1000)},
        tried=[
            msgspec.structs.replace(tried(n, 1e-3 / (n + 1), f"t{n % 2000:02}"), drift=n % 7 / 10)
            for n in range(9_000)
        ],
        conditions=[Conditions(device="d" * 400, versions="v" * 200)] * 50,
    )  # fmt: skip
    size = len(writing.page([(Path("net"), huge)]).encode())
    assert size < 500_000


def test_a_job_without_a_result_says_why() -> None:
    failed = msgspec.convert(msgspec.to_builtins(full(error="assemble: it broke")), JobReport)
    text = Read(page_of(failed)).text
    assert "No result: assemble: it broke" in text
    assert "How to run it" not in text
    assert "killed by SIGSEGV" in text


def test_a_result_that_nobody_tuned_has_a_page_too() -> None:
    assert "2.0 us untuned, 1.0 us tuned" in Read(page_of(small("llvm"))).text


def test_a_rejected_result_is_called_untuned() -> None:
    assert "so that the result is the untuned model" in facts.headline(full(rejected_s=9e-3))


def test_several_jobs_stand_side_by_side() -> None:
    other = full(job="other", tasks=[task(best_s=5e-4), task(1)], latency_after_s=1e-3)
    text = Read(page_of(full(), other, other)).text
    assert "3 jobs side by side" in text
    assert "other (2)" in text
    assert "500.0 us" in text
    strangers = page_of(full(), full(tasks=[task(name="x")]))
    assert "Their tasks are not the same" in strangers
    with pytest.raises(BadInput, match="at most 12 jobs"):
        writing.page([(Path("a"), full())] * 13)


def test_the_curve_goes_down_with_every_task_by_its_weight() -> None:
    curve = curves.improvement(full())
    assert curve is not None
    assert curve.trials == [0, 1, 3, 4, 4]
    assert curve.seconds == [0.0, 2.0, 6.0, 8.0, 20.0]
    assert curve.latency == pytest.approx([16e-3, 14e-3, 10e-3, 6e-3, 6e-3])


def test_a_task_that_is_known_is_at_its_best_from_the_beginning() -> None:
    curve = curves.improvement(full(tried=[tried(2, 3e-3)]))
    assert curve is not None
    assert curve.latency[0] == pytest.approx(2 * 4e-3 + 2 * 1e-3)


def test_there_is_no_curve_of_what_was_not_measured() -> None:
    assert curves.improvement(full(tried=[])) is None
    assert curves.improvement(full(tasks=[task(), task(1, untuned_s=None, best_s=None)])) is None


def test_of_a_timeline_the_busiest_are_shown_and_near_spans_joined() -> None:
    steps = [timing("build", n, n + 0.99, "a") for n in range(100)] + [timing("profile", 0, 1, "b")]
    (row,) = curves.timeline(full(timeline=steps, wall_s=100.0), 1, 20)
    assert row.resource == "a"
    (span,) = row.spans["build"]
    assert (span.begin, span.end) == (0.0, pytest.approx(99.99))


def test_the_command_asks_for_the_same_again(tmp_path: Path) -> None:
    level = Level(trials=64, patience=0.0, deadline=90.5, shared=False, class_="gold")
    settings = Settings(
        chunk=4, cut_short=None, cache_flush=True, shapes={"x y": [[1, 3], [2, 3]]}, dims={"n": [1, 4]},
        ranges={"x": (0.0, 30000.0)}, math="exact",
    )  # fmt: skip
    terms = Terms(
        engines=["template"], options={"template": {"search": "a b", "deep": True}}, seed=7, level=level,
        settings=settings,
    )  # fmt: skip
    words = shlex.split(facts.command(full(terms=terms)))
    assert words[:3] == ["tunemesh", "tune", "net.onnx"]
    plan = _plan(words[3:])
    assert (plan.seed, plan.engines, plan.target) == (7, ("template",), '{"kind": "llvm"}')
    assert (plan.level, plan.settings, plan.options) == (level, settings, terms.options)
    # One engine is not all that are served.
    alone = msgspec.structs.replace(terms, engines=["metaschedule"], options={})
    words = shlex.split(facts.command(full(terms=alone)))
    assert _plan(words[3:]).engines == ("metaschedule",)


def _plan(words: list[str]) -> Any:
    import typer

    found: list[Any] = []

    def command(job: job_options.Plan) -> None:
        found.append(job)

    app = typer.Typer()
    app.command()(job_options.describes_job(command))
    CliRunner().invoke(app, words, catch_exceptions=False)
    return found[0]


def test_what_is_usual_is_no_argument() -> None:
    assert arguments(Settings()) == []
    assert arguments(Level()) == []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "net"
    made.mkdir()
    (made / "report.json").write_bytes(msgspec.json.encode(full()))
    return made


def invoke(*words: object) -> str:
    return CliRunner().invoke(cli.app, ["report", *map(str, words)], catch_exceptions=False).stdout


def test_a_page_lies_beside_its_report(folder: Path) -> None:
    assert invoke(folder).strip() == str(folder / "report.html")
    first = (folder / "report.html").read_text()
    invoke(folder / "report.json")
    assert (folder / "report.html").read_text() == first  # the same report is the same page


def test_several_go_where_they_are_told(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "all.html"
    assert invoke(folder, folder, "--out", out).strip() == str(out)
    assert "side by side" in out.read_text()


def test_a_file_of_somebody_else_is_not_replaced(folder: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.html"
    mine.write_text("<p>mine")
    with pytest.raises(BadInput, match="is there already, and no report"):
        invoke(folder, "--out", mine)
    assert mine.read_text() == "<p>mine"


def test_a_folder_without_a_report_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="holds no result"):
        invoke(tmp_path)


def looks() -> list[dict[str, str]]:
    """The colours of the page: light, dark and printed."""
    style = Path(writing.__file__).with_name("page.css").read_text()
    return [
        dict(re.findall(r"--(\w+): (#\w+);", block))
        for block in re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    ]


def contrast(one: str, other: str) -> float:
    """As the WCAG has it: 1 to 21."""

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("look", looks(), ids=["light", "dark", "print"])
def test_everybody_can_read_it_in_every_look(look: dict[str, str]) -> None:
    for text in ("ink", "muted", "good", "bad"):
        assert contrast(look[text], look["paper"]) >= 4.5
        assert contrast(look[text], look["card"]) >= 4.5
    for line in (f"c{number}" for number in range(1, 7)):
        assert contrast(look[line], look["paper"]) >= 3


def test_a_job_of_a_mesh_is_fetched_and_what_failed_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fetch(job: str, folder: Path, *_: object) -> None:
        folder.mkdir()
        made = full(job=job) if job == "good" else msgspec.structs.replace(full(job=job), error="it broke")
        (folder / "report.json").write_bytes(msgspec.json.encode(made))
        if job != "good":
            raise JobFailed("job bad has no results: it broke")

    monkeypatch.setattr(report_commands.past_jobs, "fetch", fetch)
    monkeypatch.chdir(tmp_path)
    mesh = ("--broker", "amqp://x", "--artifacts", "/nowhere")
    assert invoke("good", *mesh) == "good.html\n"
    assert invoke("bad", *mesh) == "bad.html\n"
    assert "No result: it broke" in Path("bad.html").read_text()
    assert invoke("good", "bad", *mesh) == "report.html\n"
    assert [each["job"] for each in json.loads(invoke("good", "bad", "--json", *mesh))] == ["good", "bad"]
