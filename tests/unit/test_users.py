"""Users of a broker, as they are added from the command line."""

from __future__ import annotations

import base64
import hashlib
import json
import stat
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tunemesh import cli, user_commands
from tunemesh.broker_config import users
from tunemesh.broker_config.definitions import definitions_json
from tunemesh.shared.accounts import ROLES
from tunemesh.shared.errors import BadInput, BrokerRefused, BrokerUnavailable, TunemeshError

ANN = "client.acme.ann"
PASSWORD = "correct horse"


def run(*arguments: str) -> str:
    """What ``tunemesh broker user`` prints."""
    ended = CliRunner().invoke(cli.app, ["broker", "user", *arguments], catch_exceptions=False)
    assert ended.exit_code == 0, ended.output
    return ended.output


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "definitions.json"
    made.write_text(definitions_json(dict.fromkeys(ROLES, "secret of all")))
    made.chmod(0o640)
    return made


@pytest.fixture
def password(tmp_path: Path) -> Path:
    made = tmp_path / "password"
    made.write_text(PASSWORD + "\n")
    return made


def content(file: Path) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = json.loads(file.read_text())
    return found


def test_a_user_is_written_into_definitions_with_its_rights_and_a_hash(file: Path, password: Path) -> None:
    before = content(file)
    said = run("add", ANN, "--definitions", str(file), "--password-file", str(password))
    assert said == f"{ANN} is added: client of tenant acme\n"
    after = content(file)
    (user,) = [each for each in after["users"] if each["name"] == ANN]
    raw = base64.b64decode(user["password_hash"])
    assert raw[4:] == hashlib.sha256(raw[:4] + PASSWORD.encode()).digest()
    assert user["limits"] == {"max-connections": 64, "max-channels": 256}
    assert [each["configure"] for each in after["permissions"] if each["user"] == ANN] == [
        r"^client\.acme\.ann\.[0-9a-f]{3}$"
    ]
    keys = {each["exchange"]: each for each in after["topic_permissions"] if each["user"] == ANN}
    assert keys["tunemesh.clients"]["write"] == "^(request|cancel|query|history)\\.acme$"
    assert keys["tunemesh.events"]["read"] == r"^job\.acme\.[^.]+\.[^.]+$"
    assert PASSWORD not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o640

    assert run("remove", ANN, "--definitions", str(file)) == f"{ANN} is removed\n"
    assert content(file) == before


def test_users_are_listed_with_roles_and_tenants(file: Path, password: Path) -> None:
    made = content(file)
    made["users"].append({"name": "guest", "password_hash": "", "tags": []})
    file.write_text(json.dumps(made))
    for user in (ANN, "operator.max"):
        run("add", user, "--definitions", str(file), "--password-file", str(password))
    found = {each["user"]: each for each in json.loads(run("list", "--definitions", str(file), "--json"))}
    assert found[ANN] == {"user": ANN, "role": "client", "tenant": "acme"}
    assert found["operator.max"]["role"] == found["operator"]["role"] == "operator"
    assert found["guest"] == {"user": "guest", "role": "-", "tenant": ""}
    assert "acme" in run("list", "--definitions", str(file))


def test_a_password_is_drawn_into_a_file_that_is_not_there(file: Path, tmp_path: Path) -> None:
    secret = tmp_path / "new"
    said = run("add", ANN, "--definitions", str(file), "--password-file", str(secret))
    drawn = secret.read_text().strip()
    assert len(drawn) >= 32
    assert drawn not in said
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600


def test_a_password_is_asked_for_twice(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_commands, "_terminal", lambda: True)
    answers = iter([PASSWORD, PASSWORD + "x", PASSWORD, PASSWORD])
    monkeypatch.setattr(user_commands.getpass, "getpass", lambda _: next(answers))
    before = file.read_text()
    with pytest.raises(BadInput, match="two different passwords: nothing is changed"):
        run("add", ANN, "--definitions", str(file))
    assert file.read_text() == before
    run("add", ANN, "--definitions", str(file))
    assert ANN in file.read_text()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["add", "ann"], "'ann' is no name of a user: client.TENANT.NAME"),
        (["add", "client.acme"], "'client.acme' is no name of a user"),
        (["add", "client.-.ann"], "is no name of a user"),
        (["add", "client.a b.ann"], "is no name of a user"),
        (["add", "client.acme.ann.x"], "is no name of a user"),
        (["add", "client." + "a" * 65 + ".x"], "is no name of a user"),
        (["add", "admin"], "admin may do everything"),
        (["remove", "client.acme.cid"], "there is no user client.acme.cid in "),
        (["add", "client"], "there is a user client already: remove it first"),
        (["add", ANN], "nobody can be asked for the password"),
        (["add", ANN, "--vhost", "other"], "has no virtual host other"),
        (["add", ANN, "--rabbitmqctl"], "say where, one of:"),
    ],
)
def test_wrong_input_is_one_line_and_changes_nothing(file: Path, arguments: list[str], line: str) -> None:
    before = file.read_text()
    with pytest.raises(BadInput) as refused:
        run(*arguments, "--definitions", str(file))
    assert line in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1
    assert file.read_text() == before


@pytest.mark.parametrize("secret", ["", "short", "two\nlines of it", "\x07\x07\x07\x07\x07\x07\x07\x07\x07"])
def test_what_is_no_password_is_refused(file: Path, tmp_path: Path, secret: str) -> None:
    (tmp_path / "bad").write_text(secret)
    with pytest.raises(BadInput, match="a password is one line of at least 8 characters"):
        run("add", ANN, "--definitions", str(file), "--password-file", str(tmp_path / "bad"))


@pytest.mark.parametrize(
    "text", [None, "", "[]", "{}", '{"users": 3, "vhosts": []}', '{"users": [{}], "vhosts": []}', "\xff"]
)
def test_what_has_no_definitions_is_refused(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "file.json"
    if text is not None:
        file.write_bytes(text.encode("latin-1"))
    with pytest.raises(BadInput, match=r"cannot read|has no definitions"):
        run("list", "--definitions", str(file))


@pytest.mark.parametrize("url", ["broker:15672", "amqp://broker", "http://", "http://[", "http://b:port"])
def test_what_is_no_address_of_the_management_api_is_refused(url: str) -> None:
    with pytest.raises(BadInput, match="--management is the address of RabbitMQ's management API"):
        run("list", "--management", url)


def test_a_password_on_the_command_line_is_refused_and_not_repeated() -> None:
    with pytest.raises(BadInput, match="has a password in it") as refused:
        run("list", "--management", "http://admin:hunter2@broker:15672")
    assert "hunter2" not in str(refused.value)


def test_nobody_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNEMESH_ADMIN_PASSWORD", "secret of all")
    with pytest.raises(BrokerUnavailable, match=r"cannot reach http://127.0.0.1:9: ") as refused:
        run("list", "--management", "http://127.0.0.1:9")
    assert "secret" not in str(refused.value)


FAKE = """#!/bin/sh
for each in "$@"; do printf '%s\\n' "$each"; done >> {log}
[ "$2" = list_users ] && echo '[{{"user": "client", "tags": []}}]'
[ "$2" = add_user ] && cat >> {said}
[ "$2" = {fails} ] && echo "Error: so and so" >&2 && exit 70
exit 0
"""


def fake(folder: Path, fails: str = "none") -> users.Rabbitmqctl:
    script = folder / "rabbitmqctl"
    script.write_text(FAKE.format(log=folder / "log", said=folder / "said", fails=fails))
    script.chmod(0o755)
    return users.Rabbitmqctl(str(script), "tunemesh")


def added(made: users.Users, user: str = ANN) -> None:
    account = users.Account(user, "client", "acme")
    made.add(account, PASSWORD)


def test_rabbitmqctl_is_told_the_password_by_its_input_and_topic_rights_come_first(tmp_path: Path) -> None:
    added(fake(tmp_path))
    assert (tmp_path / "said").read_text() == PASSWORD + "\n"
    log = (tmp_path / "log").read_text()
    assert PASSWORD not in log
    done = [word for word in log.splitlines() if "_" in word and not word.startswith("^")]
    topics = ["set_topic_permissions"] * 3
    assert done == ["list_users", "add_user", *topics, "set_user_limits", "set_permissions"]


@pytest.mark.parametrize("fails", ["set_topic_permissions", "set_permissions"])
def test_a_user_that_gets_no_rights_is_taken_away_again(tmp_path: Path, fails: str) -> None:
    with pytest.raises(BrokerUnavailable, match=f"{fails} has failed: Error: so and so"):
        added(fake(tmp_path, fails))
    assert (tmp_path / "log").read_text().splitlines()[-2:] == ["delete_user", ANN]


def test_rabbitmqctl_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(TunemeshError, match=r"cannot run .*: No such file"):
        users.Rabbitmqctl(str(tmp_path / "none"), "tunemesh").names()


def test_a_wrong_administrator_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: object) -> None:
        raise users.urllib.error.HTTPError("u", 401, "no", None, None)  # type: ignore[arg-type]

    monkeypatch.setattr(users.urllib.request, "urlopen", refuses)
    with pytest.raises(BrokerRefused, match="takes the name and password of an administrator"):
        users.Management("http://broker:15672", "wrong", "tunemesh").names()
