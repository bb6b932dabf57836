"""What `pip install .` puts into somebody's environment."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import onnx
import pytest

from tests.reports import report

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("broker_config", "coordinator", "shared", "stage_workers")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Names of all files in the wheel."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    # Everything that a checkout has: what lies beside the package must not get in.
    for name in (*PARTS, "tunemesh", "benchmarks", "examples", "tests"):
        shutil.copytree(
            ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
        )
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index"]
    built = subprocess.run(
        [*command, "--wheel-dir", "wheels", "."], cwd=source, capture_output=True, text=True, timeout=120
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = (source / "wheels").glob("*.whl")
    return zipfile.ZipFile(wheel).namelist()


def test_one_name_is_installed(installed: list[str]) -> None:
    top = {name.split("/")[0] for name in installed}
    assert {name for name in top if not name.endswith(".dist-info")} == {"tunemesh"}


def test_every_module_of_the_folders_is_installed(installed: list[str]) -> None:
    expected = {f"tunemesh/{path.name}" for path in (ROOT / "tunemesh").glob("*.py")}
    for part in ("comparing", "dashboard", "exports", "report_page"):
        expected |= {f"tunemesh/{part}/{path.name}" for path in (ROOT / "tunemesh" / part).glob("*.py")}
    for part in PARTS:
        expected |= {f"tunemesh/{path.relative_to(ROOT)}" for path in (ROOT / part).rglob("*.py")}
    assert {name for name in installed if name.endswith(".py")} == expected


def test_data_that_the_code_reads_is_installed(installed: list[str]) -> None:
    data = {name for name in installed if not name.endswith(".py") and ".dist-info/" not in name}
    folders = ("dashboard", "exports", "report_page")
    beside = (path for part in folders for path in (ROOT / "tunemesh" / part).iterdir() if path.is_file())
    assert data == {
        *(str(path.relative_to(ROOT)) for path in beside if path.suffix != ".py"),
        "tunemesh/comparing/limits.c",
        "tunemesh/coordinator/simulation/traces/recorded.json",
        "tunemesh/py.typed",
        "tunemesh/stage_workers/engines/metaschedule/prior.ubj",
        "tunemesh/stage_workers/records/shipped.jsonl.gz",
    }


def distributions(extra: str = "") -> set[str]:
    """Names of the packages that ``pip install tunemesh`` brings, or ``tunemesh[extra]``."""
    found: set[str] = set()
    waiting = [("tunemesh", extra)]
    while waiting:
        name, wanted = waiting.pop()
        for requirement in importlib.metadata.requires(name) or []:
            match = re.match(r"([\w.-]+)(?:\[([\w,-]+)\])?", requirement)
            assert match is not None
            of = re.search(r"extra == ['\"]([\w-]+)['\"]", requirement)
            if of is not None and of[1] != wanted:
                continue
            package = match[1].lower().replace("_", "-")
            if package in found and package != "tunemesh":
                continue
            try:
                importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                continue  # for another Python or system
            found.add(package)
            waiting += [(package, each) for each in (match[2] or "").split(",")]
    return found - {"tunemesh"}


def top_entries(package: str) -> set[Path]:
    """Files and folders that a package puts into ``site-packages``."""
    files = importlib.metadata.files(package) or []
    tops = {
        Path(str(each.locate())).parents[len(each.parts) - 2]
        if len(each.parts) > 1
        else Path(str(each.locate()))
        for each in files
        if ".." not in each.parts
    }
    return {each for each in tops if each.name != "__pycache__"}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], subprocess.CompletedProcess[str]]:
    """Runs code with what ``pip install tunemesh`` brings, and nothing else."""
    site = tmp_path_factory.mktemp("site")
    for package in distributions():
        for entry in top_entries(package):
            (site / entry.name).symlink_to(entry)
    environment = {"PYTHONPATH": f"{site}:{ROOT}", "PATH": os.environ["PATH"]}

    def run(code: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-S", "-c", code]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)

    return run


def test_clients_and_coordinator_need_only_what_is_installed_for_them(
    client: Callable[[str], subprocess.CompletedProcess[str]],
) -> None:
    assert client("import numpy").returncode == 1
    done = client("import tunemesh.cli, tunemesh.client, tunemesh.coordinator.service.service")
    assert done.returncode == 0, done.stderr


def test_a_client_has_the_page_of_a_report_without_plots_and_the_interface_for_running_meshes(
    client: Callable[[str], subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    (tmp_path / "report.json").write_bytes(msgspec.json.encode(report("llvm")))
    done = client(
        "import pathlib, tunemesh; from tunemesh.report_page import writing; tunemesh.connect;"
        f"folder = pathlib.Path({str(tmp_path)!r}); writing.write_page(folder);"
        "print(tunemesh.load(folder)._repr_html_()[:7])"
    )
    assert done.stdout == "<table>\n", done.stderr
    assert "tunemesh[plots]" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    "arguments", [["worker", "build-cpu"], ["tasks", "model.onnx"], ["tune", "model.onnx"]]
)
def test_a_command_for_workers_names_what_to_install(
    client: Callable[[str], subprocess.CompletedProcess[str]], arguments: list[str], tmp_path: Path
) -> None:
    (tmp_path / "model.onnx").write_bytes(b"\x08\x08")
    arguments = [str(tmp_path / each) if each.endswith(".onnx") else each for each in arguments]
    done = client(f"import sys; sys.argv[1:] = {arguments}; from tunemesh.cli import main; main()")
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert line.endswith("pip install 'tunemesh[worker]'")


def test_a_client_without_onnx_says_what_it_needs_for_weights_in_other_files(
    client: Callable[[str], subprocess.CompletedProcess[str]],
) -> None:
    tensor = onnx.TensorProto(dims=[1], data_type=1, name="w", data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="weights.bin")
    model = onnx.ModelProto(ir_version=10, graph=onnx.GraphProto(initializer=[tensor])).SerializeToString()
    named = onnx.ModelProto(ir_version=10, producer_name="location").SerializeToString()
    code = "from pathlib import Path; from tunemesh.stage_workers.frontends import external_data as e\n"
    assert client(f"{code}assert e.find(Path('m.onnx'), {named!r}) == {{}}").returncode == 0
    done = client(f"{code}e.find(Path('m.onnx'), {model!r})")
    assert "BadModel" in done.stderr
    assert "pip install 'tunemesh[onnx]'" in done.stderr
