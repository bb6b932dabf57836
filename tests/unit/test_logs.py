"""How processes log."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from tunemesh.shared import logs
from tunemesh.shared.errors import BadInput

log = logging.getLogger("tunemesh.test")


@pytest.fixture(autouse=True)
def logging_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in (logs.LEVEL_VARIABLE, logs.FORMAT_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def test_a_json_line_has_what_the_line_is_about_as_fields(capsys: pytest.CaptureFixture[str]) -> None:
    logs.setup("debug", "json", "worker build-cpu")
    log.debug("done in %.1f s", 1.5, extra={"job": "j1", "step": "j1/t0/0/0/build", "worker": "w"})
    (line,) = [json.loads(each) for each in capsys.readouterr().err.splitlines()]
    assert line.pop("time").endswith("+00:00")
    assert line.pop("pid") > 0
    assert line == {
        "level": "debug",
        "logger": "tunemesh.test",
        "message": "done in 1.5 s",
        "process": "worker build-cpu",
        "job": "j1",
        "step": "j1/t0/0/0/build",
        "worker": "w",
    }


def test_a_traceback_is_a_field_and_not_more_lines(capsys: pytest.CaptureFixture[str]) -> None:
    logs.setup(form="json")
    try:
        raise ValueError("two\nlines")
    except ValueError:
        log.exception("failed")
    (line,) = capsys.readouterr().err.splitlines()
    assert "ValueError: two\nlines" in json.loads(line)["traceback"]


def test_text_has_a_level_and_nothing_that_a_terminal_obeys(capsys: pytest.CaptureFixture[str]) -> None:
    logs.setup()
    log.debug("not said")
    log.warning("bad \x1b[2J name")
    text = capsys.readouterr().err
    assert text.endswith(" WARNING tunemesh.test: bad ?[2J name\n")
    assert "not said" not in text


def test_set_up_twice_a_line_is_still_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    logs.setup()
    logs.setup("warning", "json")
    log.info("no")
    log.warning("yes")
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_children_log_as_was_chosen_and_not_as_is_the_default_here(monkeypatch: pytest.MonkeyPatch) -> None:
    logs.setup(default="warning")
    assert logs.for_children() == {}
    monkeypatch.setenv(logs.FORMAT_VARIABLE, "json")
    logs.setup("debug")
    assert logs.for_children() == {logs.LEVEL_VARIABLE: "debug", logs.FORMAT_VARIABLE: "json"}


@pytest.mark.parametrize("wrong", [{"level": "loud"}, {"form": "xml"}])
def test_what_is_no_level_or_format_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(BadInput, match="known: "):
        logs.setup(**wrong)
