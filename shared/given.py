"""What a process is given through its environment: a value, or a file that holds it.

A secret in the environment is seen by whoever may inspect a container; one in a file only by who may read the
file. ``NAME_FILE`` names the file that holds what ``NAME`` would say, as images for containers have it.
"""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

from tunemesh.shared.errors import BadInput, unusable


def given(name: str) -> str:
    """What the variable ``name`` says, or the file that ``name`` with ``_FILE`` names; else an empty text.

    Raises:
        BadInput: both are there, or the file cannot be read.
    """
    value, path = os.environ.get(name, ""), os.environ.get(f"{name}_FILE", "")
    if not path:
        return value
    if value:
        raise BadInput(f"both {name} and {name}_FILE are set: leave one out")
    try:
        return Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        why = unusable(f"cannot read {path}", error) if isinstance(error, OSError) else error
        raise BadInput(f"{name}_FILE: {why}") from None


def with_password(url: str, password: str) -> str:
    """``url`` with a password, where it names a user and no password.

    Raises:
        BadInput: there is a password, and the address names nobody whose it is.
    """
    parts = urlsplit(url)
    if not password or parts.password is not None:
        return url
    if not parts.username:
        raise BadInput(
            "there is a password, but the address of the broker names no user: amqp://USER@HOST/VHOST"
        )
    user, _, host = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user}:{quote(password, safe='')}@{host}"))
