"""What `pip install .` puts into somebody's environment."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

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
    for part in ("comparing", "exports", "report_page"):
        expected |= {f"tunemesh/{part}/{path.name}" for path in (ROOT / "tunemesh" / part).glob("*.py")}
    for part in PARTS:
        expected |= {f"tunemesh/{path.relative_to(ROOT)}" for path in (ROOT / part).rglob("*.py")}
    assert {name for name in installed if name.endswith(".py")} == expected


def test_data_that_the_code_reads_is_installed(installed: list[str]) -> None:
    data = {name for name in installed if not name.endswith(".py") and ".dist-info/" not in name}
    exports = (path for path in (ROOT / "tunemesh/exports").iterdir() if path.is_file())
    assert data == {
        *(f"tunemesh/exports/{path.name}" for path in exports if path.suffix != ".py"),
        "tunemesh/coordinator/simulation/traces/recorded.json",
        "tunemesh/py.typed",
        *(
            f"tunemesh/report_page/{name}"
            for name in ("base.html.j2", "page.css", "page.html.j2", "several.html.j2")
        ),
        "tunemesh/stage_workers/engines/metaschedule/prior.ubj",
        "tunemesh/stage_workers/records/shipped.jsonl.gz",
    }
