"""What bad input gets on the command line: one line that names the cause, and an exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pika
import pytest

from examples import make_models
from tests.acceptance.conftest import Run, complaint
from tests.conftest import Broker
from tunemesh import cli

pytestmark = pytest.mark.waiting

NOWHERE = ["--broker", "amqp://a:b@127.0.0.1:9/x", "--artifacts", "/tmp"]
TUNE = ["tune", "{model}", "--engine", "mock", "--target", "mock"]
SUBMIT = ["submit", "{model}", "--engine", "mock", "--target", "mock", *NOWHERE]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["tune", "nowhere.onnx"], "cannot read model nowhere.onnx: No such file"),
        ([*TUNE, "--trials", "0"], "trials must be between 1"),
        ([*TUNE, "--trials", "-3"], "trials must be between 1"),
        ([*TUNE, "--trials", "many"], "--trials is a number or auto, not 'many'"),
        ([*TUNE, "--device", "cpu:999"], "core 999 is not on this machine"),
        ([*TUNE, "--device", "tpu:0"], "'tpu:0' is no device"),
        ([*TUNE, "--shape", "x=a,b"], "--shape 'x=a,b' should look like"),
        ([*TUNE, "--option", "size=3"], "--option 'size=3' should look like"),
        ([*TUNE, "--option", "toy.size=3"], "it has options for toy, which is none of its engines"),
        ([*TUNE, "--engine", "magic"], "there is no engine 'magic'; installed: "),
        (["up", "--engine", "magic"], "there is no engine 'magic'; installed: "),
        ([*TUNE, "--engine", "No Engine"], "'No Engine' is no name of an engine"),
        ([*TUNE, "--strategy", "best"], "unknown strategy 'best'"),
        ([*TUNE, "--strategy", "fair:gold"], "bad share 'gold'; expected TENANT=WEIGHT"),
        ([*TUNE, "--strategy", "predictive:x"], "predictive takes nothing behind a colon"),
        ([*TUNE, "--inputs", "/dev/null"], "cannot read the inputs /dev/null: it is no file"),
        (["simulate", "/dev/null"], "cannot read scenario /dev/null: it is no file"),
        (["records", "import", "/dev/null"], "cannot read records /dev/null: it is no file"),
        (["tasks", "{onnx}", "--target", "a\udcff"], "is not UTF-8, as texts have to be"),
        ([*TUNE, "--tenant", "no spaces"], "a tenant must be letters"),
        ([*TUNE, "--priority", "0"], "the priority must be between 1 and 100"),
        ([*TUNE, "--lookahead", "2"], "--lookahead must be 0 to 1, not '2'"),
        ([*TUNE, "--cut-short", "soon"], "--cut-short must be 1 to 1,000 or none, not 'soon'"),
        ([*TUNE, "--seed", "-1"], "the seed must be between 0 and"),
        ([*TUNE, "--builders", "0"], "at least one build worker"),
        ([*TUNE, "--target", "quantum"], "unknown target 'quantum'"),
        # What can be seen here needs no mesh.
        ([*SUBMIT, "--target", "quantum"], "unknown target 'quantum'"),
        ([*SUBMIT, "--trials", "9000", "--batch", "1"], "are more than 8,000 rounds"),
        (["submit", "{model}", *NOWHERE], "model.yaml is a text, neither ONNX, nor TFLite"),
        (["submit", "{empty}", *NOWHERE], "is empty"),
        (["submit", "{cut}", *NOWHERE], "is truncated or damaged"),
        (["submit", "{onnx}", "--target", "abacus", *NOWHERE], "unknown target"),
        (["watch", "no spaces", *NOWHERE], "'no spaces' is no id of a job"),
        (["status", "a.b", *NOWHERE], "'a.b' is no id of a job"),
        (["bench", "--no-such-option"], "No such option"),
        (["worker", "build-cpu", "--memory", "nan"], "--memory must be 0.1 to 65536 GiB"),
        (["worker", "build-cpu", "--memory", "-1"], "--memory must be 0.1 to 65536 GiB"),
        ([*TUNE, "--memory", "0"], "--memory must be 0.1 to 65536 GiB"),
        (["up", "--memory", "inf"], "--memory must be 0.1 to 65536 GiB"),
        (["coordinator"], "no mesh is known"),
        ([*TUNE, "--chunk", "99"], "--chunk must be 1 to 8, not '99'"),
        ([*TUNE, "--math", "exct"], "--math must be exact or fast, not 'exct'; did you mean exact?"),
        ([*TUNE, "--visibility", "al"], "--visibility must be tenant or all, not 'al'; did you mean all?"),
        ([*TUNE, "--seed", "one"], "--seed must be a whole number"),
        ([*TUNE, "--strategy", "sequental"], "unknown strategy 'sequental'; there are: "),
        (["tune", "{onnx}", "--engine", "metaschedul"], "did you mean metaschedule?"),
        (["tune", "{onnx}", "--chnk", "3"], "No such option: --chnk (Possible options: --batch, --chunk)"),
        (["jobs", "--state", "runing"], "did you mean running?"),
        (["jobs", "--limit", "0"], "--limit must be at least 1"),
        (["up", "--reserve", "2"], "--reserve must be at most 1"),
        (["export", "x", "--as", "cp"], "there is no kind of export 'cp'"),
        (["compare", "{onnx}", "x", "--peer", "openvno"], "did you mean openvino?"),
        ([*TUNE, "--out", "/proc/nowhere"], "cannot write to /proc/nowhere"),
        ([*TUNE, "--out", "{model}"], "cannot write to"),
        (
            ["tune", "{model}", *NOWHERE, "--device", "cpu:0"],
            "--device, --builders, --memory and --price are for a mesh of its own",
        ),
        (["tune", "{model}", "--artifacts", "/tmp"], "give --broker"),
        (["up", "--folder", "{model}"], "cannot use"),
        (["tune"], "models is missing: --help says what it is"),
        (["status"], "no mesh is known"),
        (["status", "--artifacts", "/tmp"], "give --broker"),
        (
            ["status", "--broker", "amqp://a:s/cret@x:1/v", "--artifacts", "/tmp"],
            "'amqp://a:***@x:1/v' is no",
        ),
        (["status", "--broker", "http://x", "--artifacts", "/tmp"], "is no broker URL"),
        (["worker", "build-gpu", "--broker", "amqp://x", "--artifacts", "/tmp"], "no worker's queue"),
        (["frobnicate"], "No such command"),
        (["tunee"], "Did you mean 'tune'?"),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(
    mock_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    arguments: list[str],
    expected: str,
) -> None:
    """In this process: that ``python -m tunemesh`` does the same is seen below."""
    for name in os.environ:
        if name.startswith(("TUNEMESH_", "XDG_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(mock_model.parent / "home"))
    monkeypatch.setattr(cli.logs, "setup", lambda *_, **__: None)  # it would stay for all tests
    files = {"model": mock_model, **{name: mock_model.with_name(name) for name in ("empty", "cut", "onnx")}}
    network = make_models.tiny_cnn().SerializeToString()
    files["empty"].touch()
    files["cut"].write_bytes(network[:-7])
    files["onnx"].write_bytes(network)
    monkeypatch.setattr(sys, "argv", ["tunemesh", *(argument.format(**files) for argument in arguments)])
    code = cli.run()
    assert expected in complaint(capfd.readouterr().err)
    assert code == 2


@pytest.mark.parametrize("command", [["status"], ["watch", "job-1"], ["cancel", "job-1"], SUBMIT])
def test_a_broker_that_is_away_is_said_soon_and_trying_again_may_help(
    tunemesh: Run, mock_model: Path, command: list[str]
) -> None:
    arguments = [argument.format(model=mock_model) for argument in command]
    started = time.monotonic()
    ended = tunemesh(*arguments, *(NOWHERE if command != SUBMIT else ()))
    assert "cannot reach the broker" in complaint(ended.stderr)
    assert ended.returncode == 75
    assert (
        time.monotonic() - started < 3 + 4
    )  # a Python process takes a second or two to start, and more here


@pytest.mark.parametrize("command", ["worker", "coordinator", "up"])
def test_an_unknown_log_level_is_refused(tunemesh: Run, command: str) -> None:
    queues = ("build-cpu",) if command == "worker" else ()
    ended = tunemesh(command, *queues, "--log-level", "loud")
    assert "there is no log level 'loud'" in complaint(ended.stderr)
    assert ended.returncode == 2


def test_nobody_who_reads_on_is_no_error(tunemesh: Run) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as pipe:
        command = [sys.executable, "-m", "tunemesh", "doctor", "--json"]
        ended = subprocess.run(command, stdout=pipe, stderr=subprocess.PIPE, text=True, timeout=60)
    assert ended.stderr == ""
    assert ended.returncode in (0, 1)


def test_an_output_that_cannot_be_written_is_one_line() -> None:
    command = [sys.executable, "-m", "tunemesh", "--version"]
    with open("/dev/full", "wb") as full:
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert complaint(ended.stderr) == "error: cannot write the output: No space left on device"
    assert ended.returncode == 75


def test_a_closed_output_is_nothing_to_complain_about() -> None:
    command = ["sh", "-c", 'exec "$0" -m tunemesh --version >&-', sys.executable]
    ended = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_no_command_is_answered_by_the_help(tunemesh: Run) -> None:
    for group in ([], ["broker"]):
        ended = tunemesh(*group)
        assert ended.stderr.startswith("Usage: ")
        assert len(ended.stderr.splitlines()) > 5
        assert ended.returncode == 2


def test_a_broker_that_refuses_is_told_apart(tunemesh: Run, node: Broker) -> None:
    url = node.url("client")
    password = node.password("client")
    wrong = url.replace(password, "wrong")
    ended = tunemesh("status", "--broker", wrong, "--artifacts", "/tmp")
    assert "refuses this user name and password" in complaint(ended.stderr)
    assert ended.returncode == 2
    ended = tunemesh("status", "--broker", f"{url}x", "--artifacts", "/tmp")
    assert "virtual host" in complaint(ended.stderr)
    assert password not in ended.stderr


def test_without_a_coordinator_a_question_ends_with_advice(tunemesh: Run, node: Broker) -> None:
    ended = tunemesh("status", "--broker", node.url("client"), "--artifacts", "/tmp")
    assert "no coordinator answers; start one" in complaint(ended.stderr)
    assert ended.returncode == 75


def test_without_a_coordinator_a_request_waits_for_one(
    tunemesh: Run, node: Broker, mock_model: Path, tmp_path: Path
) -> None:
    through = ("--broker", node.url("client"), "--artifacts", tmp_path)
    ended = tunemesh("submit", mock_model, "--engine", "mock", "--target", "mock", *through)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("model-")
    assert "no coordinator has answered yet; the request is queued" in ended.stderr
    with pika.BlockingConnection(pika.URLParameters(node.url("admin"))) as admin:
        admin.channel().queue_purge("coordinator")


def test_a_coordinator_on_a_broker_without_topology_says_what_is_missing(tunemesh: Run, node: Broker) -> None:
    ended = tunemesh("coordinator", "--broker", node.url("monitor"), timeout=30)
    # The monitor sees that everything is there, but may not consume.
    assert complaint(ended.stderr)
    assert ended.returncode == 2


def test_doctor_finds_everything_here(tunemesh: Run) -> None:
    ended = tunemesh("doctor", "--json")
    findings = {finding["what"]: finding["ok"] for finding in json.loads(ended.stdout)}
    assert findings["RabbitMQ"]
    assert findings["apache-tvm"]


def test_definitions_need_passwords_and_contain_none_in_clear(tunemesh: Run) -> None:
    assert "TUNEMESH_CLIENT_PASSWORD" in complaint(tunemesh("broker", "definitions").stderr)


def test_a_closed_pipe_ends_a_command_for_people_and_no_worker() -> None:
    """SIGPIPE stays ignored: a worker writes to children that may die at any moment."""
    code = "import signal, tunemesh.cli; print(signal.getsignal(signal.SIGPIPE).name)"
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert asked.stdout == "SIG_IGN\n"
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "tunemesh", "--help"]
    ended = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(writing)
    assert "Traceback" not in ended.stderr
