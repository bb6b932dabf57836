"""The compiler of C: found or missed in words, run once for a text, never without a limit."""

from __future__ import annotations

import platform
import subprocess

import pytest

from tunemesh import checks, doctor, service_commands
from tunemesh.shared.errors import BadInput
from tunemesh.stage_workers import engines
from tunemesh.stage_workers.engines import compilers
from tunemesh.stage_workers.engines.template import compiling
from tunemesh.stage_workers.engines.template.machine import Machine
from tunemesh.stage_workers.worker import WorkerConfig, run_worker

HERE = Machine(16, 4, platform.machine(), ())


@pytest.fixture(autouse=True)
def _nothing_is_known() -> None:
    compiling._known.clear()


def test_a_text_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []

    def run(command: list[str], source: str) -> bytes:
        runs.append(source)
        return source.encode()

    monkeypatch.setattr(compiling, "_run", run)
    texts = ["int a;", "int b;", "int a;"]
    assert [compiling.compiled(text, HERE) for text in texts] == [text.encode() for text in texts]
    assert runs == ["int a;", "int b;"]


def test_what_the_compiler_says_is_kept() -> None:
    with pytest.raises(compiling.CompileFailed, match="error: expected"):
        compiling.compiled("int f(", HERE)


def test_a_compiler_that_takes_too_long_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    def late(*_: object, timeout: float, **__: object) -> None:
        raise subprocess.TimeoutExpired("gcc", timeout)

    monkeypatch.setattr(subprocess, "run", late)
    with pytest.raises(compiling.CompileTimedOut, match="more than 60 s"):
        compiling.compiled("int a;", HERE)


def test_a_missing_compiler_is_said_and_needs_no_repair(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(compiling.CompileFailed, match="install gcc or clang"):
        compiling.compiled("int a;", HERE)
    findings = {each.what: each for each in doctor.examine()}
    assert findings["C compiler"].ok
    assert findings["C compiler"].found == "missing, only needed by the engines template and halide"
    without = f"metaschedule; not template: {compilers.MISSING}; not halide: {engines.missing('halide')}"
    assert findings["engines"].found == without
    # Workers serve what they can, and say what they cannot.
    assert service_commands._served(None, "build-cpu") == engines.served_by_default() == ("metaschedule",)
    assert f"engine template is not served: {compilers.MISSING}" in caplog.text
    assert service_commands._served(["template"], "build-cpu") == ("template",)
    assert engines.missing("halide", building=False) in ("", engines.NO_HALIDE)
    # To propose takes no compiler: the images of those who do have none.
    assert service_commands._served(None, "model-update") == ("metaschedule", "template")
    config = WorkerConfig(broker="", queue="build-cpu", artifacts="", engines=("template",))
    for refuse in (lambda: checks.check_engines(["template"]), lambda: run_worker(config)):
        with pytest.raises(BadInput, match="install gcc or clang"):
            refuse()


def test_other_architectures_have_compilers_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    assert compilers.compiler("riscv64") == "/usr/bin/riscv64-linux-gnu-gcc"
    monkeypatch.setenv("CC", "clang-19")
    assert compilers.compiler(platform.machine()) == "/usr/bin/clang-19"
