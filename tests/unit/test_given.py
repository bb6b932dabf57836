"""Values in the environment, and in files that it names."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunemesh import mesh_address
from tunemesh.shared.errors import BadInput
from tunemesh.shared.given import given, with_password


def test_a_value_is_read_from_the_file_that_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret").write_text("s3cret\n")
    monkeypatch.setenv("THING_FILE", str(tmp_path / "secret"))
    assert given("THING") == "s3cret"
    monkeypatch.setenv("THING", "other")
    with pytest.raises(BadInput, match="both THING and THING_FILE are set"):
        given("THING")
    monkeypatch.delenv("THING_FILE")
    assert given("THING") == "other"


def test_a_file_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THING_FILE", str(tmp_path / "secret"))
    with pytest.raises(BadInput, match=r"THING_FILE: cannot read .*secret"):
        given("THING")


@pytest.mark.parametrize(
    ("url", "password", "expected"),
    [
        ("amqp://worker@host:5672/mesh", "p@ss/word", "amqp://worker:p%40ss%2Fword@host:5672/mesh"),
        ("amqps://worker@[::1]/mesh", "p", "amqps://worker:p@[::1]/mesh"),
        ("amqp://worker:own@host/mesh", "p", "amqp://worker:own@host/mesh"),
        ("amqp://host/mesh", "", "amqp://host/mesh"),
        ("amqps://client@a:1,b/mesh", "p@w", "amqps://client:p%40w@a:1,b/mesh"),
    ],
)
def test_a_password_is_put_into_an_address_that_has_none(url: str, password: str, expected: str) -> None:
    assert with_password(url, password) == expected


def test_a_password_of_nobody_is_refused() -> None:
    with pytest.raises(BadInput, match="names no user"):
        with_password("amqp://host/mesh", "p")


def test_the_broker_is_found_by_address_and_password_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "password").write_text("p")
    monkeypatch.setenv(mesh_address.BROKER, "amqp://client@host/mesh")
    monkeypatch.setenv(f"{mesh_address.PASSWORD}_FILE", str(tmp_path / "password"))
    assert mesh_address.named(None) == "amqp://client:p@host/mesh"
