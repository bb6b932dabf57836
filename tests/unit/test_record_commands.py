"""``tunemesh records`` as a person uses it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.unit.record_rows import ELSEWHERE, HERE, ORIGIN, around, confirmation, trial
from tests.unit.test_memory import Teacher, learned
from tests.unit.test_record_queries import KERNEL_TUNER
from tunemesh import cli, mesh_address, record_exchange, record_learning
from tunemesh.shared.errors import BadInput
from tunemesh.stage_workers.engines.protocol import BuildCall, Source
from tunemesh.stage_workers.records import rows
from tunemesh.stage_workers.records.database import Database
from tunemesh.stage_workers.sandbox.sandbox import CallFailure

NOW = time.time()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A person's data folder."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.delenv(mesh_address.RECORDS, raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path / "tunemesh"


@pytest.fixture
def records(home: Path) -> Path:
    """Where there are some."""
    path = home / "records.sqlite"
    old = trial(0, 3e-3, at=NOW - 100 * 86400)
    Database(str(path)).add(
        [
            *around(ORIGIN, HERE, ELSEWHERE),
            old,
            trial(1, 2e-3, at=NOW - 3600),
            trial(2, None, at=NOW - 100 * 86400),
            trial(3, 1e-3, conditions=ELSEWHERE, at=NOW - 60),
            confirmation(old, 5e-4),
            rows.Baseline(id="x", task="a" * 64, job=old.job, latency=7e-3, at=NOW),
        ]
    )
    return path


class Said:
    """What a command has printed."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str, str]:
        # This is not the process of a command.
        monkeypatch.setattr(cli.logs, "setup", lambda *_, **__: None)
        monkeypatch.setattr(sys, "argv", ["tunemesh", "records", *arguments])
        code = cli.run()
        printed = self._capsys.readouterr()
        return code, printed.out, printed.err


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Said:
    return Said(capsys)


def test_the_best_of_a_task_with_what_it_was_before(
    records: Path, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = said(monkeypatch, "best")
    assert code == 0
    (row,) = [line for line in out.splitlines() if "fused_conv2d_add" in line]
    assert "500.0 us confirmed" in row
    assert "7.00 ms" in row
    assert " here " in row
    assert "avx2" not in row
    code, out, _ = said(monkeypatch, "best", "--device", "xeon", "--json")
    (found,) = json.loads(out)
    assert (found["hash"], found["latency_s"], found["untuned_s"]) == ("h3", 1e-3, 7e-3)
    assert (found["device"], found["source"]) == (ELSEWHERE.device, "here")


def test_the_latest_first(records: Path, said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    _, out, _ = said(monkeypatch, "list", "--since", "2h", "--json")
    assert [each["hash"] for each in json.loads(out)] == ["h3", "h1"]
    _, out, _ = said(monkeypatch, "list", "--limit", "1", "--json")
    assert [each["hash"] for each in json.loads(out)] == ["h3"]
    _, out, _ = said(monkeypatch, "list", "--model", "nothing")
    assert out == "no records\n"


def test_when_another_program_has_measured_nobody_knows(
    records: Path, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    Database(str(records)).add([trial(4, 1e-4, at=0.0)])
    _, out, _ = said(monkeypatch, "best")
    (row,) = [line for line in out.splitlines() if "100.0 us" in line]
    assert "1970" not in row


def test_one_record_is_shown_as_a_whole(records: Path, said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = trial(2, None)
    _, out, _ = said(monkeypatch, "show", shown.id[:12])
    found = json.loads(out)
    assert (found["id"], found["outcome"], found["error"]) == (shown.id, "build-failed", "no code")
    code, _, err = said(monkeypatch, "show", "0" * 32)
    assert (code, err) == (
        2,
        "error: no record has an id that begins with 00000000000000000000000000000000\n",
    )
    code, _, err = said(monkeypatch, "show", "x")
    assert code == 2
    assert "is no id of a record" in err


def test_the_kernel_of_a_record_is_printed(
    records: Path, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Sandbox:
        def __enter__(self) -> Sandbox:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def call(self, engine: str, method: object, call: BuildCall, limit: float) -> object:
            if call.schedule == b"schedule 1":
                return CallFailure("raised", "no such knob")
            return Source(text=f"{engine} {call.workload!r} {call.target} {call.schedule!r}", language="C")

    monkeypatch.setattr(record_exchange, "sandbox_of", lambda *_: Sandbox())
    code, _, error = said(monkeypatch, "show", trial(3).id, "--source")
    assert "is not in these records" in error
    Database(str(records)).add([rows.Workload(id="w" * 32, task="a" * 64, data=b"a")])
    code, out, _ = said(monkeypatch, "show", trial(3).id, "--source")
    assert (code, out.strip()) == (0, "mock b'a' mock b'schedule 3'")
    code, out, error = said(monkeypatch, "show", trial(1).id, "--source")
    assert (code, out) == (1, "")
    assert "engine mock, source: raised: no such knob" in error


def test_statistics(records: Path, said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    _, out, _ = said(monkeypatch, "stats", "--json")
    assert json.loads(out)["counts"]["outcomes"] == {"measured": 3, "build-failed": 1}
    _, out, _ = said(monkeypatch, "stats")
    assert "Intel Xeon" in out


def test_there_and_back(records: Path, home: Path, said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    file, other = str(home / "all.jsonl.gz"), str(home / "other.sqlite")
    assert said(monkeypatch, "export", file)[1] == f"10 rows written to {file}\n"
    for new in (10, 0):
        code, out, _ = said(monkeypatch, "import", file, "--database", other)
        assert (code, out) == (0, f"10 rows read from {file}, {new} of them new\n")
    _, out, _ = said(monkeypatch, "best", "--database", other)
    assert Database(str(records)).id()[:12] in out
    monkeypatch.setenv(mesh_address.RECORDS, other)
    assert said(monkeypatch, "list", "--json")[1].count('"hash"') == 4


def test_results_of_kernel_tuner(
    home: Path, said: Said, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "results.json"
    file.write_text(json.dumps(KERNEL_TUNER))
    code, _, err = said(monkeypatch, "import", str(file))
    assert code == 2
    assert "give --name and --target" in err
    _, out, _ = said(monkeypatch, "import", str(file), "--name", "conv", "--target", "cuda")
    assert out == f"2 trials of kernel-tuner read from {file}, 4 new rows\n"
    said(monkeypatch, "export", str(tmp_path / "back.json"), "--format", "t4", "--operator", "conv")
    assert len(json.loads((tmp_path / "back.json").read_text())["results"]) == 2


def test_what_is_old_is_forgotten(records: Path, said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    assert said(monkeypatch, "prune", "--keep", "1")[1] == "trials forgotten: 1\n"
    assert said(monkeypatch, "prune", "--keep", "0", "--older-than", "30m")[1] == "trials forgotten: 1\n"
    _, out, _ = said(monkeypatch, "list", "--json")
    assert [each["hash"] for each in json.loads(out)] == ["h3", "h0"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("list",), "there are no records in sqlite:///"),
        (("prune",), "there are no records in"),
        (("list", "--database", "oracle://x"), "kept in a file of SQLite or in PostgreSQL, not in oracle"),
        (("import", "nowhere"), "there is no nowhere"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(
    home: Path, said: Said, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], reason: str
) -> None:
    code, _, err = said(monkeypatch, *arguments)
    assert code == 2
    assert err.count("\n") == 1
    assert reason in err


def test_a_time_is_an_age_or_a_date(records: Path, said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    code, _, err = said(monkeypatch, "list", "--since", "soon")
    assert code == 2
    assert "'soon' is no time: give 30m, 12h, 7d, 2w, or a date" in err
    assert said(monkeypatch, "list", "--since", "2020-01-01", "--json")[1].count('"hash"') == 4


def test_no_records_where_the_environment_says_so(
    home: Path, monkeypatch: pytest.MonkeyPatch, said: Said
) -> None:
    assert mesh_address.records_in(home) == str(home / "records.sqlite")
    monkeypatch.setenv(mesh_address.RECORDS, "none")
    assert mesh_address.records_in(home) == ""
    assert "says that there are no records" in said(monkeypatch, "list")[2]


def test_other_commands_do_without_sqlalchemy() -> None:
    """It takes a third of a second to import: every worker would."""
    code = "import tunemesh.cli, tunemesh.stage_workers.worker, sys; sys.exit('sqlalchemy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_learning_says_what_it_learned_and_whether_it_is_used(
    records: Path, said: Said, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    teacher = Teacher(learned(b"first", None, 0.25), learned(b"worse", 0.25, 0.125))
    monkeypatch.setattr(record_learning, "sandbox_of", lambda *_: teacher)
    code, out, _ = said(monkeypatch, "learn", "--engine", "mock", "--to", str(tmp_path / "priors"))
    assert code == 0
    assert "mock, mock: learned from 10 trials of 2 tasks" in out
    assert "on 3 others: now rank correlation 0.25, top 1 0.80, top 8 0.90" in out
    assert "updates use it from now on" in out
    assert (tmp_path / "priors" / "mock-mock.prior").read_bytes() == b"first"
    Database(str(records)).add([trial(7, 1e-3, at=time.time())])
    _, out, _ = said(monkeypatch, "learn", "--engine", "mock", "--json")
    (lesson,) = json.loads(out)
    assert (lesson["used"], lesson["before"]["correlation"], lesson["after"]["correlation"]) == (
        False,
        0.25,
        0.125,
    )
    _, out, _ = said(monkeypatch, "learn", "--engine", "mock")
    assert "nothing learned: 0 new trials since the last time" in out


@pytest.mark.usefixtures("records")
def test_there_is_nothing_to_learn_from(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    code, _, err = said(monkeypatch, "learn", "--engine", "toy")
    assert code == BadInput.exit_code
    assert "there are no records of the engine toy to learn from" in err
