"""Tables that survive being killed, and figures over runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import table
from benchmarks.summary import geometric_mean, geometric_spread, paired_ratio, spread
from benchmarks.table import Table
from tunemesh.shared.errors import BadInput

COLUMNS = ("run", "seconds", "error")


def test_rows_are_there_when_the_table_is_opened_again(tmp_path: Path) -> None:
    Table(tmp_path / "t.csv", COLUMNS).append({"run": "a", "seconds": 1.25})
    assert Table(tmp_path / "t.csv", COLUMNS).rows == [{"run": "a", "seconds": "1.25", "error": ""}]


@pytest.mark.parametrize("left", ["b,7", 'b,7,"half a ', "b"])
def test_a_half_written_row_is_dropped_and_the_next_one_is_whole(tmp_path: Path, left: str) -> None:
    path = tmp_path / "t.csv"
    Table(path, COLUMNS).append({"run": "a"})
    with path.open("a") as file:
        file.write(left)
    again = Table(path, COLUMNS)
    again.append({"run": "c"})
    assert [row["run"] for row in again.rows] == ["a", "c"]
    assert [row["run"] for row in table.read(path)] == ["a", "c"]


def test_a_half_written_header_is_written_again(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("run,sec")
    Table(path, COLUMNS).append({"run": "a"})
    assert [row["run"] for row in Table(path, COLUMNS).rows] == ["a"]


def test_a_table_with_other_columns_is_refused(tmp_path: Path) -> None:
    Table(tmp_path / "t.csv", ("run", "minutes"))
    with pytest.raises(BadInput, match="other columns"):
        Table(tmp_path / "t.csv", COLUMNS)


def test_an_error_of_several_lines_stays_one_row(tmp_path: Path) -> None:
    Table(tmp_path / "t.csv", COLUMNS).append({"run": "a", "error": 'it said:\n "no", and\r\nleft'})
    assert (tmp_path / "t.csv").read_text().count("\n") == 2
    assert table.read(tmp_path / "t.csv")[0]["error"] == 'it said: "no", and left'


def test_dropped_runs_are_gone_on_disk(tmp_path: Path) -> None:
    made = Table(tmp_path / "t.csv", COLUMNS)
    for name in "abc":
        made.append({"run": name})
    made.drop(["b"])
    assert [row["run"] for row in Table(tmp_path / "t.csv", COLUMNS).rows] == ["a", "c"]


def test_half_and_double_cancel_out() -> None:
    assert geometric_mean([0.5, 2.0]) == pytest.approx(1.0)
    assert geometric_mean([1.0, 4.0, 16.0]) == pytest.approx(4.0)
    assert geometric_mean([]) is None


def test_the_geometric_spread_is_one_without_any_and_a_factor_with_some() -> None:
    assert geometric_spread([3.0, 3.0, 3.0]) == pytest.approx(1.0)
    assert geometric_spread([1 / 2, 1.0, 2.0]) == pytest.approx(2.0)
    assert geometric_spread([1.0]) is None


def test_a_spread_is_median_least_and_most() -> None:
    found = spread([3.0, 1.0, 100.0])
    assert found is not None
    assert (found.median, found.least, found.most, found.count) == (3.0, 1.0, 100.0, 3)


def test_ratios_are_taken_within_a_block_and_blocks_without_a_partner_are_left_out() -> None:
    def row(repeat: int, seconds: float) -> dict[str, str]:
        return {"repeat": str(repeat), "seed": "0", "seconds": str(seconds)}

    base = [row(0, 10.0), row(1, 100.0)]
    assert paired_ratio([row(0, 5.0), row(1, 50.0), row(2, 1.0)], base, "seconds") == pytest.approx(0.5)
    assert paired_ratio([row(7, 5.0)], base, "seconds") is None
