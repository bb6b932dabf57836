"""The notebook among the examples runs, and shows what it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest

pytestmark = pytest.mark.alone

NOTEBOOK = Path(__file__).resolve().parents[2] / "examples" / "tune.ipynb"


def test_the_notebook_runs_from_the_first_cell_to_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("TUNEMESH_SHIPPED_RECORDS", "none")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert all(not cell.outputs for cell in notebook.cells if cell.cell_type == "code")  # as it is kept
    nbclient.NotebookClient(notebook, timeout=90, kernel_name="python3").execute()
    version, tuning, history, plot, again, refusal = [c for c in notebook.cells if c.cell_type == "code"]
    assert tunemesh_version() in text(version)
    assert "24/24 trials" in text(tuning)  # the bar
    (shown,) = [each for each in tuning.outputs if each.output_type == "execute_result"]
    assert shown.data["text/html"].startswith("<table>")
    assert " ".join(text(history).split()).startswith("(24, {'trial': 1, 'seconds': ")
    assert "image/png" in plot.outputs[0].data
    assert text(again) == "(True, True)"
    assert text(refusal) == "chunk must be 1 to 8, not 99\n"


def text(cell: Any) -> str:
    return "".join(each.get("text") or each.get("data", {}).get("text/plain", "") for each in cell.outputs)


def tunemesh_version() -> str:
    import tunemesh

    return tunemesh.__version__
