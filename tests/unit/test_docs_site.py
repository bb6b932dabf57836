"""The site of the documentation, and what its pages have to name."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("broker_config", "coordinator", "shared", "stage_workers", "tunemesh")


def test_the_site_is_made_without_a_warning_and_has_every_command() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "docs_site.py")], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    page = (ROOT / "build" / "docs" / "commands.html").read_text()
    for command in ("tunemesh tune", "tunemesh records export", "tunemesh broker definitions"):
        assert f"<h2>{command}<" in page
    assert "--metrics-port" in page
    assert "tunemesh_held_deliveries" in (ROOT / "build" / "docs" / "metrics.html").read_text()


def test_every_variable_that_is_read_is_documented() -> None:
    sources = [
        path for part in PARTS for path in (ROOT / part).glob("*.py" if part == "tunemesh" else "**/*.py")
    ]
    read = {name for path in sources for name in re.findall(r'"(TUNEMESH_[A-Z_]+)"', path.read_text())}
    assert "TUNEMESH_BROKER_URL" in read
    documented = (ROOT / "docs" / "environment.md").read_text()
    assert {name for name in read if f"`{name}`" not in documented} == set()
