"""``make test`` has two runs, and every test is in one of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conftest import runs_beside_others

ROOT = Path(__file__).parents[2]
UNIT, ACCEPTANCE = (ROOT / "tests" / kind / "test_any.py" for kind in ("unit", "acceptance"))


@pytest.mark.parametrize(
    ("path", "fixtures", "marks", "beside"),
    [
        (UNIT, ["tmp_path"], [], True),
        (UNIT, [], ["alone"], False),
        (UNIT, ["node"], [], False),
        (ACCEPTANCE, ["target", "tmp_path"], ["parametrize"], True),
        (ACCEPTANCE, ["target"], ["alone"], False),
        (ACCEPTANCE, ["target", "tunemesh"], [], False),
        (ACCEPTANCE, ["tmp_path"], [], False),
    ],
)
def test_beside_others_runs_what_needs_neither_a_broker_nor_a_quiet_machine(
    path: Path, fixtures: list[str], marks: list[str], beside: bool
) -> None:
    assert runs_beside_others(path, fixtures, marks) == beside


def test_each_test_is_in_one_of_the_two_runs(request: pytest.FixtureRequest) -> None:
    commands = re.findall(r"python -m pytest (.*?)(?: \|\||$)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert [re.sub(r" -n .*", "", each) for each in commands] == ["-m parallel", '-m "not parallel"']
    # The mark is there whether the tests run beside others or not.
    assert request.node.get_closest_marker("parallel") is not None
