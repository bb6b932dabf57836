"""Users of a broker, added with the least rights that their role needs: in a file of definitions, over
RabbitMQ's management API, or by ``rabbitmqctl`` on its machine.

A password goes into a hash, a request's body or the standard input of ``rabbitmqctl``, and nowhere else.
"""

from __future__ import annotations

import json
import subprocess
import urllib.error
import urllib.request
from base64 import b64encode
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, urlsplit

from tunemesh.broker_config.credentials import write_private
from tunemesh.broker_config.definitions import (
    add_user,
    password_hash,
    permission,
    remove_user,
    topic_permission,
)
from tunemesh.broker_config.roles import rights_of
from tunemesh.shared.accounts import Account
from tunemesh.shared.errors import BadInput, BrokerRefused, BrokerUnavailable, TunemeshError, unusable
from tunemesh.shared.text import clip, one_line

LIMIT = 30.0
"""Seconds that a broker may take for one thing."""


class Users(Protocol):
    """Those of one broker."""

    def names(self) -> list[str]:
        """Of all users, ours or not."""

    def add(self, account: Account, password: str) -> None:
        """A user with its rights on the virtual host.

        Raises:
            BadInput: there is one of that name.
        """

    def remove(self, user: str) -> None:
        """Take a user away, with its connections.

        Raises:
            BadInput: there is none of that name.
        """


def _taken(user: str) -> BadInput:
    return BadInput(f"there is a user {user} already: remove it first, which ends its connections")


def _unknown(user: str, where: str) -> BadInput:
    return BadInput(f"there is no user {user} {where}")


class DefinitionsFile:
    """``definitions.json``: what a broker reads at its next start, or by ``rabbitmqctl import_definitions``.

    Raises:
        BadInput: the file cannot be read, or has no definitions.
    """

    def __init__(self, path: Path, vhost: str) -> None:
        self._path = path
        self._vhost = vhost
        try:
            self._content = json.loads(path.read_text())
        except OSError as error:
            raise unusable(f"cannot read {path}", error) from None
        except ValueError as error:
            raise BadInput(f"{path} has no definitions: {error}") from None
        known = self._content if isinstance(self._content, dict) else {}
        users, vhosts = known.get("users"), known.get("vhosts")
        if not _are_named(users) or not _are_named(vhosts):
            raise BadInput(f"{path} has no definitions: make them with `tunemesh broker definitions`")
        if vhost not in [each["name"] for each in known["vhosts"]]:
            raise BadInput(f"{path} has no virtual host {vhost}: name one of its own with --vhost")

    def names(self) -> list[str]:
        return [each["name"] for each in self._content["users"]]

    def add(self, account: Account, password: str) -> None:
        if account.user in self.names():
            raise _taken(account.user)
        add_user(self._content, account, password_hash(password), self._vhost)
        self._write()

    def remove(self, user: str) -> None:
        if not remove_user(self._content, user):
            raise _unknown(user, f"in {self._path}")
        self._write()

    def _write(self) -> None:
        try:
            mode = self._path.stat().st_mode & 0o777
            write_private(self._path, json.dumps(self._content, indent=2) + "\n")
            self._path.chmod(mode)  # whoever could read it reads it
        except OSError as error:
            raise unusable(f"cannot write {self._path}", error) from None


def _are_named(found: Any) -> bool:
    return isinstance(found, list) and all(
        isinstance(each, dict) and isinstance(each.get("name"), str) for each in found
    )


class Management:
    """The management API of a running broker.

    Args:
        url: ``https://HOST:15671``, perhaps with an administrator before the host; else it is ``admin``.
        password: the administrator's.

    Raises:
        BadInput: that is no such address, or has a password in it.
    """

    def __init__(self, url: str, password: str, vhost: str) -> None:
        parts, host, port = urlsplit(""), None, None
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            host = None
        if parts.scheme not in ("http", "https") or not host:
            raise BadInput(
                "--management is the address of RabbitMQ's management API, such as https://broker:15671"
            )
        if parts.password is not None:
            raise BadInput(
                "--management has a password in it, which others can see: leave it out, and set"
                " TUNEMESH_ADMIN_PASSWORD_FILE"
            )
        self._vhost = vhost
        self._where = f"{parts.scheme}://{host}" + (f":{port}" if port else "")
        self._base = f"{self._where}{parts.path.rstrip('/')}/api"
        self._login = b64encode(f"{parts.username or 'admin'}:{password}".encode()).decode()

    def names(self) -> list[str]:
        return [str(each["name"]) for each in json.loads(self._ask("GET", "users"))]

    def add(self, account: Account, password: str) -> None:
        user, rights = account.user, rights_of(account)
        if user in self.names():
            raise _taken(user)
        hashed = {"password_hash": password_hash(password)}
        hashed["hashing_algorithm"] = "rabbit_password_hashing_sha256"
        self._ask("PUT", f"users/{quote(user)}", {**hashed, "tags": ",".join(rights.tags)})
        place = f"{quote(self._vhost, safe='')}/{quote(user)}"
        try:
            # Topic rights before the others: without any, a user may use every key.
            for topic in rights.topics:
                self._ask("PUT", f"topic-permissions/{place}", topic_permission(topic))
            for name, value in rights.limits.items():
                self._ask("PUT", f"user-limits/{quote(user)}/{name}", {"value": value})
            self._ask("PUT", f"permissions/{place}", permission(rights))
        except TunemeshError:
            self._ask("DELETE", f"users/{quote(user)}")
            raise

    def remove(self, user: str) -> None:
        if user not in self.names():
            raise _unknown(user, f"on {self._where}")
        self._ask("DELETE", f"users/{quote(user)}")

    def _ask(self, method: str, path: str, body: object = None) -> bytes:
        request = urllib.request.Request(f"{self._base}/{path}", method=method)
        request.add_header("Authorization", f"Basic {self._login}")
        request.add_header("Content-Type", "application/json")
        data = json.dumps(body).encode() if body is not None else None
        try:
            with urllib.request.urlopen(request, data, LIMIT) as answer:
                found: bytes = answer.read()
                return found
        except urllib.error.HTTPError as error:
            said = one_line(clip(error.read(500).decode(errors="replace"), 200))
            if error.code in (401, 403):
                raise BrokerRefused(
                    f"{self._where} refuses: it takes the name and password of an administrator"
                    " (TUNEMESH_ADMIN_PASSWORD, or _FILE)"
                ) from None
            raise BadInput(f"{self._where} does not do it ({error.code}): {said}") from None
        except (OSError, ValueError) as error:
            raise BrokerUnavailable(
                f"cannot reach {self._where}: {getattr(error, 'reason', error)}"
            ) from None


class Rabbitmqctl:
    """``rabbitmqctl`` on a machine of the broker.

    Raises:
        BadInput: it is not installed here.
    """

    def __init__(self, command: str, vhost: str) -> None:
        self._command = command
        self._vhost = vhost

    def names(self) -> list[str]:
        return [str(each["user"]) for each in json.loads(self._run("list_users", "--formatter", "json"))]

    def add(self, account: Account, password: str) -> None:
        user, rights = account.user, rights_of(account)
        if user in self.names():
            raise _taken(user)
        self._run("add_user", user, said=password + "\n")
        place = ("-p", self._vhost, user)
        try:
            for topic in rights.topics:
                self._run("set_topic_permissions", *place, topic.exchange, topic.write, topic.read)
            if rights.tags:
                self._run("set_user_tags", user, *rights.tags)
            if rights.limits:
                self._run("set_user_limits", user, json.dumps(dict(rights.limits)))
            self._run("set_permissions", *place, rights.configure, rights.write, rights.read)
        except TunemeshError:
            self._run("delete_user", user)
            raise

    def remove(self, user: str) -> None:
        if user not in self.names():
            raise _unknown(user, "on this broker")
        self._run("delete_user", user)

    def _run(self, *arguments: str, said: str = "") -> str:
        command = [self._command, "--quiet", *arguments]
        try:
            ended = subprocess.run(command, input=said, capture_output=True, text=True, timeout=LIMIT)
        except OSError as error:
            raise unusable(f"cannot run {self._command}", error) from None
        except subprocess.TimeoutExpired:
            raise BrokerUnavailable(
                f"{self._command} {arguments[0]} took longer than {LIMIT:.0f} s"
            ) from None
        if ended.returncode:
            words = one_line(clip(ended.stderr.strip() or ended.stdout.strip() or "it says nothing", 300))
            raise BrokerUnavailable(f"{self._command} {arguments[0]} has failed: {words}")
        return ended.stdout
