"""The pages of the dashboard over HTTP, who gets them, and the command that serves them."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
import pytest
from typer.testing import CliRunner

from tests.unit.fake_mesh import FakeMesh, job, task, until
from tests.unit.test_report_page import EVIL, Read, contrast, looks
from tunemesh import cli, dashboard_commands
from tunemesh.dashboard import feed as feeds
from tunemesh.dashboard import server, web
from tunemesh.dashboard.kept import Answer
from tunemesh.dashboard.listing import PAGE
from tunemesh.dashboard.server import Dashboard
from tunemesh.mesh_address import MeshAddress
from tunemesh.shared.errors import BadInput, BrokerRefused

TOKEN = "a-token-that-nobody-guesses"
MESH = MeshAddress(broker="amqp://x", artifacts="")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "TURN", 0.01)
    monkeypatch.setattr(feeds, "EVERY", 0.05)
    monkeypatch.setattr(feeds, "PAUSE", 0.02)


def mesh_of(count: int, **more: Any) -> FakeMesh:
    return FakeMesh([job(number) for number in range(count)], **more)


class Served:
    """A dashboard, and requests to it."""

    def __init__(self, mesh: FakeMesh, **more: Any) -> None:
        self.mesh = mesh
        self.dashboard = Dashboard(MESH, "127.0.0.1", 0, token=TOKEN, connect=mesh.client, **more)  # type: ignore[arg-type]
        self.port = self.dashboard.port
        self.cookie = f"tunemesh-dashboard-{self.port}={TOKEN}"
        self._links: list[http.client.HTTPConnection | http.client.HTTPResponse] = []
        self._thread = threading.Thread(target=self.dashboard.run)
        self._thread.start()

    def ask(
        self, path: str, method: str = "GET", body: str | None = None, **headers: str | None
    ) -> http.client.HTTPResponse:
        usual: dict[str, str | None] = {"Host": f"127.0.0.1:{self.port}", "Cookie": self.cookie}
        said = usual | {name.replace("_", "-"): value for name, value in headers.items()}
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        link.request(method, path, body, {name: value for name, value in said.items() if value is not None})
        self._links.append(link)
        answer = link.getresponse()
        self._links.append(answer)
        return answer

    def page(self, path: str) -> str:
        answer = self.ask(path)
        assert answer.status == 200
        return answer.read().decode()

    def stop_job(self, job: str, keep: object = True, **headers: str | None) -> int:
        usual: dict[str, str | None] = {
            "Origin": f"http://127.0.0.1:{self.port}", "Content-Type": "application/json"
        }  # fmt: skip
        answer = self.ask(f"/jobs/{job}/stop", "POST", json.dumps({"keep": keep}), **(usual | headers))
        answer.read()
        return answer.status

    def stop(self) -> None:
        for link in self._links:
            link.close()
        self.dashboard.stop()
        self._thread.join(20)
        assert not self._thread.is_alive()


@pytest.fixture
def served(quick: None) -> Iterator[Served]:
    made = Served(mesh_of(1000))
    assert until(lambda: "1,000</b> all" in made.page("/"))
    yield made
    made.stop()


def test_a_page_of_a_thousand_jobs_is_small_and_complete_without_a_script(served: Served) -> None:
    page = served.page("/")
    assert len(page.encode()) < 500_000
    text = Read(page).text
    for said in ("343 running", "net-0998", "no device serves target", "profile-cpu-1", "page 1 of 40"):
        assert said in " ".join(text.split())
    assert "net-0008" not in page + served.page("/?page=2")
    assert "net-0008" in served.page("/?text=net-0008")


def test_why_a_device_does_not_work_is_on_the_page(quick: None) -> None:
    mesh = mesh_of(3)
    mesh.resources[1] = msgspec.structs.replace(mesh.resources[1], running=[], faults=["error <304>"])
    made = Served(mesh)
    try:
        assert until(lambda: "error &lt;304&gt;" in made.page("/"))
        assert "broken" in Read(made.page("/")).text
    finally:
        made.stop()


def test_who_has_no_token_sees_nothing(served: Served) -> None:
    for path in ("/", "/events", "/jobs/net-0002", "/files/page.js", "/no-such"):
        answer = served.ask(path, Cookie=None)
        assert (answer.status, b"net-" in answer.read()) == (401, False)
    assert served.ask("/?token=wrong", Cookie=None).status == 401
    assert served.ask("/", Cookie=f"tunemesh-dashboard-{served.port}=wrong").status == 401
    first = served.ask(f"/jobs/net-0002?token={TOKEN}&a=b", Cookie=None)
    assert (first.status, first.headers["location"]) == (303, "/jobs/net-0002?a=b")
    assert "HttpOnly" in first.headers["set-cookie"]
    # What other programs of this machine have left in the browser does not matter.
    assert served.ask("/", Cookie=f'a={{"b": [1, "c"]}}; d; =e; {served.cookie}').status == 200


def test_a_name_of_a_stranger_that_leads_here_is_refused(served: Served) -> None:
    for host in ("evil.example", f"evil.example:{served.port}", "127.0.0.1", ""):
        assert served.ask("/", Host=host).status == 421
    assert served.ask("/", Host=f"LOCALHOST:{served.port}").status == 200


def test_a_page_of_a_stranger_stops_no_job(served: Served) -> None:
    here = f"http://127.0.0.1:{served.port}"
    assert served.stop_job("net-0002", Origin=None) == 403
    assert served.stop_job("net-0002", Origin="http://evil.example") == 403
    assert served.stop_job("net-0002", Origin="null") == 403
    answer = served.ask("/jobs/net-0002/stop", "POST", "keep=true", Origin=here)
    assert answer.status == 415  # what a form of a stranger could send
    assert served.ask("/jobs/net-0002/stop").status == 405
    assert served.mesh.stopped == []
    assert served.stop_job("net-0002") == 202
    assert served.stop_job("net-0004", keep=False) == 202
    assert served.mesh.stopped == [("net-0002", True), ("net-0004", False)]


@pytest.mark.parametrize(
    ("job", "keep", "status"),
    [
        ("net-0001", True, 409),
        ("no-such", True, 409),
        ("net-0002", "x" * 2000, 413),
        ("net-0002", 1, 400),
        ("a.b", True, 404),
    ],
)
def test_what_cannot_be_stopped_is_said(served: Served, job: str, keep: object, status: int) -> None:
    assert served.stop_job(job, keep) == status
    assert served.mesh.stopped == []


def test_pages_run_no_script_but_ours_and_are_not_kept(served: Served) -> None:
    for path in ("/", "/jobs/net-0002", "/files/page.css", "/no-such"):
        headers = served.ask(path).headers
        assert "script-src 'self';" in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert (headers["cache-control"], headers["x-content-type-options"]) == ("no-store", "nosniff")
    read = Read(served.page("/") + served.page("/jobs/net-0002"))
    assert {attrs.get("src") for tag, attrs in read.tags if tag == "script"} == {"/files/page.js"}
    linked = [
        value for _, attrs in read.tags for name, value in attrs.items() if name in ("href", "src", "action")
    ]
    assert all(value and value.startswith(("/", "#", "data:,")) for value in linked)
    assert not {name for _, attrs in read.tags for name in attrs if name.startswith("on")}


def test_events_are_small_and_say_what_has_changed(served: Served) -> None:
    stream = served.ask("/events")
    assert stream.headers["content-type"].startswith("text/event-stream")

    def event() -> dict[str, Any]:
        while not (line := stream.readline()).startswith(b"data: "):
            assert line
        assert len(line) < 100_000
        return dict(json.loads(line[6:]))

    assert len(event()["order jobs"]) == PAGE
    served.mesh.change("net-0998", trials=127)
    while "job net-0998" not in (changed := event()):
        pass
    assert "127/128" in changed["job net-0998"]
    assert "job net-0996" not in changed or "100/128" in changed["job net-0996"]
    assert len(json.dumps(changed)) < 30_000
    stream.close()


def test_too_many_pages_that_listen_are_refused(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web.Streams, "full", property(lambda _: True))
    assert served.ask("/events").status == 503


def test_a_job_page_has_the_report_as_it_grows(served: Served) -> None:
    text = Read(served.page("/jobs/net-0002")).text
    for said in (
        "tuning",
        "What came out so far",
        "66 of 128",
        "conv1",
        "Stop early",
        "Steps in flight",
        "2.20 ms",
    ):
        assert said in text
    assert "How to repeat it" not in text
    ended = Read(served.page("/jobs/net-0001")).text
    assert "How to repeat it" in ended
    assert "Stop early" not in ended


def test_a_job_that_nobody_knows_is_said(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web.Reports, "past", lambda *_: None)
    answer = served.ask("/jobs/no-such")
    assert (answer.status, "nobody knows a job no-such" in answer.read().decode()) == (404, True)
    assert served.ask("/jobs/..%2fetc").status == 404
    assert served.ask("/files/..%2fweb.py").status == 404


def test_texts_of_strangers_are_shown_and_not_obeyed(quick: None) -> None:
    evil = msgspec.structs.replace(
        job(2), name=EVIL, tenant=EVIL, target=EVIL, error=EVIL, waiting=EVIL, note=EVIL, asked_by=EVIL,
        tasks=[task(0, name=EVIL, last_error=EVIL)],
    )  # fmt: skip
    mesh = FakeMesh([evil, msgspec.structs.replace(job(10), error=EVIL)])
    mesh.resources[0] = msgspec.structs.replace(mesh.resources[0], hosts=[EVIL], engines=[EVIL])
    made = Served(mesh)
    try:
        assert until(lambda: "2</b> all" in made.page("/"))
        for path in ("/", "/jobs/net-0002", f"/?text={'%3Cscript%3E'}"):
            page = made.page(path)
            read = Read(page)
            assert [attrs.get("src") for tag, attrs in read.tags if tag == "script"] == ["/files/page.js"]
            assert "img" not in {tag for tag, _ in read.tags}
            assert not {name for _, attrs in read.tags for name in attrs if name.startswith("on")}
            assert "\u202e" not in page
        assert "<script>alert(1)</script>" in Read(made.page("/jobs/net-0002")).text
    finally:
        made.stop()


def test_nothing_is_stopped_from_a_dashboard_that_only_shows(quick: None) -> None:
    made = Served(mesh_of(10), read_only=True)
    try:
        assert until(lambda: "10</b> all" in made.page("/"))
        assert "data-stop" not in made.page("/jobs/net-0002")
        assert made.stop_job("net-0002") == 403
    finally:
        made.stop()


def test_what_is_kept_is_asked_of_workers_and_records_where_they_are(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "No database of records is known here" in served.page("/records")
    monkeypatch.setattr(web.Kept, "jobs", lambda *_: Answer([], "this mesh keeps no history"))
    assert "this mesh keeps no history" in served.page("/past")


def test_a_further_name_is_one_that_a_proxy_has(quick: None) -> None:
    made = Served(mesh_of(1), names=["mesh.example"])
    try:
        assert made.ask("/", Host="mesh.example").status == 200
        assert made.ask("/", Host="other.example").status == 421
    finally:
        made.stop()


@pytest.mark.parametrize("look", looks()[:2], ids=["light", "dark"])
def test_what_waits_can_be_read_in_every_look(look: dict[str, str]) -> None:
    style = (Path(web.__file__).parent / "page.css").read_text()
    warn = style.split("--warn: ")[1 if look["paper"] == "#ffffff" else 2][:7]
    assert contrast(warn, look["paper"]) >= 4.5


# -- The command ---------------------------------------------------------------------------------------------


@pytest.fixture
def login(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dashboard_commands, "check_login", lambda url: None)


@pytest.mark.usefixtures("login")
def test_the_command_says_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.Dashboard, "run", lambda self: None)
    monkeypatch.setenv("TUNEMESH_DASHBOARD_TOKEN", TOKEN)
    words = ["dashboard", "--broker", "amqp://x", "--listen", "0"]
    said = CliRunner().invoke(cli.app, words, catch_exceptions=False).stdout
    assert "http://127.0.0.1:" in said
    assert TOKEN not in said  # where the output goes into a log
    told = json.loads(CliRunner().invoke(cli.app, [*words, "--json"], catch_exceptions=False).stdout)
    assert told["url"] == f"http://127.0.0.1:{told['port']}/?token={TOKEN}"


@pytest.mark.usefixtures("login")
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--listen", "x"], "--listen is a port, 0 to 65535, or HOST:PORT, not 'x'"),
        (["--listen", "70000"], "--listen is a port"),
        (["--listen", "no.such.host.invalid:1"], "cannot listen at no.such.host.invalid"),
    ],
)
def test_where_nobody_can_listen_is_said(words: list[str], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        CliRunner().invoke(cli.app, ["dashboard", "--broker", "amqp://x", *words], catch_exceptions=False)


@pytest.mark.usefixtures("login")
def test_a_port_that_is_taken_a_short_token_and_what_is_missing_are_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Dashboard(MESH, "127.0.0.1", 0) as taken:
        words = ["dashboard", "--broker", "amqp://x", "--listen", str(taken.port)]
        with pytest.raises(BadInput, match="Address already in use; give another --listen"):
            CliRunner().invoke(cli.app, words, catch_exceptions=False)
    monkeypatch.setenv("TUNEMESH_DASHBOARD_TOKEN", "short")
    with pytest.raises(BadInput, match="it needs 16 that nobody can guess"):
        CliRunner().invoke(cli.app, words, catch_exceptions=False)
    missing = {"tunemesh.dashboard.server": None, "uvicorn": None}
    with (
        mock.patch.dict("sys.modules", missing),
        pytest.raises(BadInput, match="which is not installed: pip install"),
    ):
        CliRunner().invoke(cli.app, words[:3], catch_exceptions=False)


def test_a_login_is_tried_before_anything_is_served(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mesh = mesh_of(1, lets="monitor")
    monkeypatch.setattr(dashboard_commands, "Client", mesh.client)
    dashboard_commands.check_login("amqp://x")
    mesh.lets = "nothing"
    with pytest.raises(BrokerRefused, match="lacks a right"):
        dashboard_commands.check_login("amqp://x")
    mesh.lets = "client"
    mesh.goes()
    dashboard_commands.check_login("amqp://x")
    assert "the page waits for it" in capsys.readouterr().err


def test_addresses_of_this_machine_alone_are_told_from_others() -> None:
    assert all(dashboard_commands.is_loopback(host) for host in ("localhost", "::1", "127.0.0.2"))
    assert not any(dashboard_commands.is_loopback(host) for host in ("0.0.0.0", "a.b", "10.0.0.1"))
