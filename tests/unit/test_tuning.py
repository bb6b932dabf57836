"""What ``tunemesh tune`` does beside the mesh."""

from __future__ import annotations

import json
import runpy
from collections.abc import Collection, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import pytest
import typer
from typer.testing import CliRunner, Result

from tests.unit.past import progress
from tunemesh import following, out_folders, places, tune_commands, tuning
from tunemesh.client import Client
from tunemesh.mesh_address import MeshAddress
from tunemesh.report import check_empty, write_file
from tunemesh.shared.errors import BadInput, LinkDown, TunemeshError
from tunemesh.shared.messages import JobEvent, Quote, Request


class FlakyClient:
    """Its broker is away for every call but each third one."""

    def __init__(self) -> None:
        self.calls = 0
        self.told: list[str] = []

    def cancel(self, job: str, keep: bool) -> None:
        assert keep
        self.calls += 1
        if self.calls % 3:
            raise LinkDown("the connection was lost")
        self.told.append(job)


def test_the_wish_to_stop_early_is_repeated_until_the_broker_is_back() -> None:
    client = FlakyClient()
    left = {"a", "b"}
    for _ in range(10):
        left = following.stop(cast(Client, client), left)
    assert left == set()
    assert client.told == ["a", "b"]


def test_a_result_whose_folder_is_a_file_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "job").touch()
    with pytest.raises(TunemeshError, match="cannot write"):
        write_file(tmp_path / "job" / "model.so", b"")


class Answering:
    """A client whose coordinator answers as it was told, job by job in the order of their submission."""

    answers_of: ClassVar[list[str | None]] = []

    def __init__(self, _url: str, jobs: Collection[str] = (), _limit: float = 0.0) -> None:
        self.jobs = list(jobs)
        self.published: list[Request] = []

    def __enter__(self) -> Answering:
        return self

    def __exit__(self, *_: object) -> None: ...

    def submit(self, request: Request) -> None:
        self.published.append(request)

    def answers(self, jobs: Collection[str]) -> dict[str, JobEvent]:
        assert [request.job for request in self.published] == list(jobs)
        return {
            job: JobEvent(job=job, kind="rejected" if text else "accepted", at=0.0, text=text)
            for job, text in zip(jobs, self.answers_of, strict=True)
            if text is not None
        }


def submitted(
    monkeypatch: pytest.MonkeyPatch, folder: Path, answers: list[str | None], *arguments: str
) -> Result:
    """What ``tunemesh submit`` says of models with these answers: ``None`` for none, text for a rejection."""
    monkeypatch.setattr(tuning, "Client", Answering)
    monkeypatch.setattr(Answering, "answers_of", answers)
    models = [folder / f"m{number}.yaml" for number in range(len(answers))]
    for model in models:
        model.write_text("tasks: []")
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(tune_commands.submit)
    common = ["--engine", "mock", "--target", "mock", "--broker", "amqp://x", "--artifacts", str(folder)]
    return CliRunner().invoke(app, [*map(str, models), *common, *arguments])


def test_submit_tells_what_the_coordinator_answered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ended = submitted(monkeypatch, tmp_path, ["", "job id is \x1b[31mtaken", None])
    assert ended.exit_code == 1
    assert [line.split("-")[0] for line in ended.stdout.splitlines()] == ["m0", "m2"]
    refusal, waits = ended.stderr.splitlines()
    assert refusal.startswith("error: job m1-")
    assert refusal.endswith(" was rejected: job id is ?[31mtaken")
    assert "no coordinator has answered yet" in waits


def test_submit_succeeds_where_nothing_is_rejected(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert submitted(monkeypatch, tmp_path, ["", None]).exit_code == 0


def test_scripts_get_the_answers_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ended = submitted(monkeypatch, tmp_path, ["", "no", None], "--json")
    assert ended.exit_code == 1
    found = [(each["answer"], each["text"]) for each in json.loads(ended.stdout)]
    assert found == [("accepted", ""), ("rejected", "no"), ("queued", "")]


# -- Quotes -------------------------------------------------------------------------------------------------


QUOTE = Quote(tasks=2, known=1, trials=64, seconds=90.0, device_seconds=30.0, cost=0.5)


class Quoting(Answering):
    """A coordinator that ends every job after its quote, and says so only to who asks for no more."""

    def follow(self, jobs: Collection[str]) -> Iterator[JobEvent | None]:
        assert all(request.level.quote_only for request in self.published)
        assert [request.job for request in self.published] == list(jobs)
        for job in jobs:
            yield None
            told = progress(job, "cancelled", quote=QUOTE)
            yield JobEvent(job=job, kind="cancelled", at=0.0, progress=told)

    def snapshot(self) -> None:
        """It is there."""


class OwnMesh:
    """In place of a mesh of our own."""

    url, artifacts = "amqp://own", ""
    node = SimpleNamespace(management_url="http://ui", password=lambda _: "secret")
    given: ClassVar[dict[str, Any]] = {}
    supervised = 0

    def __init__(self, *_: Any, **given: Any) -> None:
        OwnMesh.given = given

    def __enter__(self) -> OwnMesh:
        return self

    def __exit__(self, *_: object) -> None: ...

    def supervise(self) -> None:
        OwnMesh.supervised += 1


def quoted(monkeypatch: pytest.MonkeyPatch, folder: Path, command: str, *arguments: str) -> Result:
    monkeypatch.setattr(places, "Client", Quoting)
    monkeypatch.setattr(tuning, "LocalMesh", OwnMesh)
    monkeypatch.setattr(OwnMesh, "artifacts", str(folder / "store"))
    monkeypatch.delenv("TUNEMESH_BROKER_URL", raising=False)
    model = folder / "m.yaml"
    model.write_text("tasks: []")
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(getattr(tune_commands, command))
    arguments = (str(model), "--engine", "mock", "--target", "mock", *arguments)
    return CliRunner().invoke(app, arguments)


SAID = "m.yaml: 2 tasks (1 known), up to 64 trials, about 1 min 30 s, 30 s of a device, cost 0.5\n"


def test_tune_stops_after_the_quote_and_says_what_quote_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    running = ("--broker", "amqp://x", "--artifacts", str(tmp_path))
    out = tmp_path / "out"
    for command, more in (("quote", ()), ("tune", ("--quote", "--out", str(out)))):
        ended = quoted(monkeypatch, tmp_path, command, *running, *more)
        assert (ended.exit_code, ended.stdout) == (0, SAID)
    assert not out.exists()


def test_a_quote_without_a_mesh_is_of_one_of_our_own_with_its_prices(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = OwnMesh.supervised
    ended = quoted(monkeypatch, tmp_path, "tune", "--quote", "--price", "profile=2", "--json")
    assert ended.exit_code == 0
    (found,) = json.loads(ended.stdout)
    assert (found["model"], found["quote"]["cost"]) == ("m.yaml", 0.5)
    assert OwnMesh.given["prices"] == {"profile": 2.0}
    assert OwnMesh.supervised > before


def test_prices_are_for_a_mesh_of_our_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    running = ("--broker", "amqp://x", "--artifacts", str(tmp_path))
    for more in (("--price", "profile=2"), ("--quote", "--price", "profile=2")):
        ended = quoted(monkeypatch, tmp_path, "tune", *running, *more)
        assert isinstance(ended.exception, BadInput)
        assert "a running one has its workers and its prices" in str(ended.exception)
    ended = quoted(monkeypatch, tmp_path, "tune", "--quote", "--compare")
    assert isinstance(ended.exception, BadInput)


def test_the_visibility_of_records_goes_into_the_request(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sent: list[Request] = []
    monkeypatch.setattr(Answering, "submit", lambda _, request: sent.append(request))
    monkeypatch.setattr(Answering, "answers", lambda *_: {})
    submitted(monkeypatch, tmp_path, [None])
    submitted(monkeypatch, tmp_path, [None], "--tenant", "gold", "--visibility", "all")
    assert [each.visibility for each in sent] == ["tenant", "all"]


def test_a_result_is_not_replaced_unless_that_is_said(tmp_path: Path) -> None:
    check_empty(tmp_path)
    (tmp_path / "report.json").write_text("{}")  # of a job that had no result
    check_empty(tmp_path)
    (tmp_path / "model.so").write_bytes(b"so")
    with pytest.raises(BadInput, match="holds a result already: give another --out, or --overwrite"):
        check_empty(tmp_path)


def test_two_that_would_write_to_the_same_folder_are_told_apart(tmp_path: Path) -> None:
    with out_folders.reserved(tmp_path / "a", overwrite=False):
        with (
            pytest.raises(BadInput, match=r"another tunemesh is at work on results for .*/a: give another"),
            out_folders.reserved(tmp_path / "a", overwrite=True),
        ):
            pass
        with out_folders.reserved(tmp_path / "b", overwrite=False):
            (tmp_path / "b" / "model.so").write_bytes(b"so")
        assert (tmp_path / "a").is_dir()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["b"]
    with out_folders.reserved(tmp_path / "a", overwrite=False):
        pass


def test_before_anything_starts_it_is_seen_that_a_result_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, folder = tmp_path / "m.yaml", tmp_path / "out" / "m"
    model.write_text("{tasks: [{name: a}]}")
    folder.mkdir(parents=True)
    (folder / "model.so").touch()
    monkeypatch.setattr(tuning, "LocalMesh", lambda *_, **__: pytest.fail("a mesh was started"))
    plan = tuning.Plan(target="mock", out=tmp_path / "out", engines=("mock",))
    with pytest.raises(BadInput, match="holds a result already"):
        tuning.tune([model], plan, following.Watcher())


@pytest.mark.parametrize(
    ("user", "named", "tenant"),
    [
        ("client.acme.ann", "", "acme"),
        ("client.acme.ann", "zeta", "acme"),  # which the coordinator rejects
        ("client", "", ""),
        ("operator.max", "zeta", "zeta"),
        ("somebody", "zeta", "zeta"),
    ],
)
def test_models_are_stored_where_those_of_their_tenant_are(user: str, named: str, tenant: str) -> None:
    address = MeshAddress(broker=f"amqp://{user}:secret@host/tunemesh", artifacts="memory://models")
    plan = tuning.Plan(target="mock", out=Path("out"), engines=("mock",), tenant=named)
    assert tuning._store(address, plan).tenant == tenant
    if not named:  # as the client without any code of Tunemesh has it
        example = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "publish_request.py"))
        own = Path("s", "tenants", tenant) if tenant else Path("s")
        assert example["own_store"](Path("s"), address.broker) == own
