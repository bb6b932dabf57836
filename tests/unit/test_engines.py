"""Engines are found by entry points, ours like those of others; options are checked by their owner."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
import pytest
from msgspec import Meta

from tunemesh.shared.errors import BadInput
from tunemesh.shared.messages import Options
from tunemesh.stage_workers import engines, options

GOOD = """
class Good:
    name, format = "good", 1
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that packages can be installed in."""
    monkeypatch.syspath_prepend(tmp_path)
    engines.load.cache_clear()
    return tmp_path


def install(site: Path, package: str, name: str, code: str) -> None:
    """A package whose module has the engine ``name``, the class called ``Good``."""
    # Of its own: modules stay imported from test to test.
    module = f"{package.replace('-', '_')}_of_{site.name}"
    (site / f"{module}.py").write_text(code)
    about = site / f"{package.replace('-', '_')}-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Name: {package}\nVersion: 1\n")
    (about / "entry_points.txt").write_text(f"[{engines.GROUP}]\n{name} = {module}:Good\n")


def test_ours_are_declared_as_those_of_others() -> None:
    assert {"metaschedule", "mock"} <= set(engines.names())
    for name in ("metaschedule", "mock"):
        assert engines.load(name).name == name
        assert engines.load(name) is engines.load(name)


def test_an_engine_of_another_package_is_found(site: Path) -> None:
    install(site, "some-package", "good", GOOD)
    assert {"good", "metaschedule", "mock"} <= set(engines.names())
    assert engines.load("good").format == 1


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        ("import a_module_that_is_not_there", "ModuleNotFoundError: No module named 'a_module_that_is_not"),
        ("raise RuntimeError('no licence\\nfor this machine')", "RuntimeError: no licence for this machine"),
        ("Bad = 1", "AttributeError"),
        ("class Good: name = 'good'", "AttributeError"),
        ("class Good: name, format = 'better', 1", "calls itself 'better'"),
    ],
    ids=["import", "raises", "no class", "no format", "other name"],
)
def test_a_broken_engine_is_named_in_one_line_and_disturbs_no_other(
    site: Path, code: str, cause: str
) -> None:
    install(site, "broken", "good", code)
    with pytest.raises(BadInput, match="engine 'good' of package broken") as caught:
        engines.load("good")
    assert cause in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "good" in engines.names()
    assert engines.load("mock").name == "mock"


def test_two_engines_of_one_name_are_refused(site: Path) -> None:
    install(site, "one", "good", GOOD)
    install(site, "two", "good", GOOD)
    with pytest.raises(BadInput, match="several packages have an engine 'good': one, two"):
        engines.load("good")


def test_an_engine_that_is_not_installed_is_refused_with_those_that_are() -> None:
    with pytest.raises(BadInput, match=r"no engine 'abacus'; installed: .*metaschedule, .*mock"):
        engines.load("abacus")


class Knobs(msgspec.Struct, frozen=True):
    size: Annotated[int, Meta(ge=1, le=8)] | None = None
    how: Literal["fast", "well"] = "well"
    deep: bool = False


def test_options_that_are_not_given_keep_their_defaults() -> None:
    assert options.read("x", {}, Knobs) == Knobs()
    assert options.read("x", {"size": "3", "deep": "true", "how": "fast"}, Knobs) == Knobs(3, "fast", True)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"colour": "red"}, "x has no option 'colour'; it has size, how, deep"),
        ({"size": 9}, "bad option x.size=9: Expected `int` <= 8"),
        ({"size": "many"}, "bad option x.size=many: Expected `int | null`, got `str`"),
        ({"how": "badly"}, "bad option x.how=badly: Invalid enum value 'badly'"),
    ],
)
def test_a_bad_option_is_explained_in_one_line(given: Options, text: str) -> None:
    with pytest.raises(BadInput) as caught:
        options.read("x", given, Knobs)
    assert str(caught.value) == text
