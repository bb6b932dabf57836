"""What Python has of a result: its trials, a plot, and what a notebook shows."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

import tunemesh
from tests.unit.test_report_page import EVIL, Read, full, tried
from tunemesh.shared.errors import BadInput
from tunemesh.tuned import Tuned


def test_the_history_is_a_table() -> None:
    rows = Tuned(Path("x"), full()).history()
    assert [list(row) for row in rows] == [list(rows[0])] * 4  # the same columns in every row
    assert [row["trial"] for row in rows] == [1, 2, 3, 4]
    assert [row["seconds"] for row in rows] == [2.0, 4.0, 6.0, 8.0]
    assert [row["best_s"] for row in rows] == [3e-3, 3e-3, 1e-3, 2e-3]
    assert (rows[1]["outcome"], rows[1]["latency_s"], rows[3]["name"]) == ("run-failed", None, "conv1")


def test_a_notebook_shows_what_came_out() -> None:
    shown = Tuned(Path("x"), full())._repr_html_()
    text = Read(shown).text
    for said in (
        "net.onnx",
        "8.00 ms untuned, 2.00 ms tuned: 4 times as fast",
        "tuned is 1.52 times faster",
        "x/report.html",
    ):
        assert said in text
    read = Read(Tuned(Path(EVIL.replace("/", "")), full(name=EVIL, notes=[EVIL]))._repr_html_())
    assert {tag for tag, _ in read.tags} == {"table", "caption", "tr", "th", "td"}


def test_a_plot_goes_down() -> None:
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    assert Tuned(Path("x"), full()).plot(axes, over="seconds") is axes
    (line,) = axes.lines
    assert list(line.get_xdata()) == [0.0, 2.0, 6.0, 8.0, 20.0]
    assert list(line.get_ydata())[-1] == pytest.approx(6.0)
    with pytest.raises(BadInput, match="a plot is over trials or seconds, not 'time'"):
        Tuned(Path("x"), full()).plot(axes, over="time")
    with pytest.raises(BadInput, match="nothing to plot"):
        Tuned(Path("x"), full(tried=[])).plot(axes)


def test_a_result_is_loaded_with_its_history(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_bytes(msgspec.json.encode(full(tried=[tried(1, 1e-3)])))
    assert len(tunemesh.load(tmp_path).history()) == 1
