"""``make test`` has three runs, and every test is in one of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conftest import WAITING, Run, run_of

ROOT = Path(__file__).parents[2]
UNIT, ACCEPTANCE, INTEGRATION = (
    ROOT / "tests" / kind / "test_any.py" for kind in ("unit", "acceptance", "integration")
)


@pytest.mark.parametrize(
    ("path", "fixtures", "marks", "run"),
    [
        (UNIT, ["tmp_path"], [], "parallel"),
        (UNIT, [], ["alone"], "alone"),
        (ACCEPTANCE, ["target", "tmp_path"], ["parametrize"], "parallel"),
        (ACCEPTANCE, ["tmp_path"], [], "parallel"),
        (ACCEPTANCE, ["target"], ["alone"], "alone"),
        (ACCEPTANCE, ["target", "tunemesh"], [], "alone"),
        (ACCEPTANCE, ["node"], [], "alone"),
        (ACCEPTANCE, ["tunemesh"], ["waiting"], "alone"),
        (ROOT / WAITING[1], ["tunemesh"], ["waiting"], "waiting"),
        (INTEGRATION, ["tmp_path"], [], "alone"),
        (INTEGRATION, ["tmp_path", "node", "mesh"], [], "waiting"),
        (INTEGRATION, ["tmp_path"], ["waiting"], "waiting"),
        (INTEGRATION, ["node"], ["waiting", "alone"], "alone"),
    ],
)
def test_who_measures_or_needs_all_cores_runs_alone_and_who_waits_beside_others_that_do(
    path: Path, fixtures: list[str], marks: list[str], run: Run
) -> None:
    assert run_of(path, fixtures, marks) == run


def test_each_test_is_in_one_of_the_three_runs(request: pytest.FixtureRequest) -> None:
    commands = re.findall(r"python -m pytest (.*?)(?: \|\||$)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert [re.sub(r" (-n|--durations).*", "", each) for each in commands] == [
        "-m parallel",
        f"-m waiting {' '.join(WAITING)}",
        "-m alone",
    ]
    # The mark is there whether the tests run beside others or not.
    assert request.node.get_closest_marker("parallel") is not None
