"""Packages that are installed and not found."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import sys
from pathlib import Path

import pytest

from tunemesh.stage_workers.sandbox.withholding import provide, withhold


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """One that is installed and not imported."""
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "heavy_package.py").write_text("TENSOR = 1\n")
    return "heavy_package"


def test_an_import_fails_as_if_it_were_not_installed(package: str) -> None:
    withhold(package)
    with pytest.raises(ModuleNotFoundError, match=package):
        importlib.import_module(package)
    assert importlib.util.find_spec(package) is None
    # Libraries ask `"torch" in sys.modules` and then use what is there.
    assert package not in sys.modules


def test_others_are_found_and_it_is_too_once_it_is_provided(package: str) -> None:
    withhold(package)
    importlib.invalidate_caches()
    assert importlib.util.find_spec("colorsys") is not None
    assert importlib.metadata.version("numpy")
    provide(package)
    assert importlib.import_module(package).TENSOR == 1
