"""Where the running mesh is: from options, the environment, or the note that ``tunemesh up`` leaves."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from shared.errors import BadInput

BROKER = "TUNEMESH_BROKER_URL"
ARTIFACTS = "TUNEMESH_ARTIFACTS"


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """What a client needs to know of a mesh."""

    broker: str
    artifacts: str
    ui: str = ""
    """Address of the RabbitMQ management UI."""
    monitor_password: str = ""
    """For the UI's user ``monitor``."""


def data_folder() -> Path:
    """Where ``tunemesh up`` keeps its data by default."""
    home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(home) / "tunemesh"


def leave_note(folder: Path, place: Place) -> Path:
    """Write down where the mesh is, for this user only. Returns the file."""
    path = folder / "mesh.json"
    path.touch(mode=0o600)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(place), indent=2))
    return path


def find(broker: str | None, artifacts: str | None) -> Place:
    """The mesh to use.

    Raises:
        BadInput: there is none.
    """
    broker = broker or os.environ.get(BROKER)
    artifacts = artifacts or os.environ.get(ARTIFACTS)
    if broker and artifacts:
        return Place(broker=broker, artifacts=artifacts)
    note = data_folder() / "mesh.json"
    if not note.exists():
        missing = f"--artifacts (or {ARTIFACTS})" if broker else f"--broker (or {BROKER})"
        raise BadInput(f"no mesh is known: give {missing}, or start one with: tunemesh up")
    try:
        place = msgspec.json.decode(note.read_bytes(), type=Place)
    except (OSError, msgspec.DecodeError) as error:
        raise BadInput(f"cannot read {note}: {error}; remove it and start the mesh again") from None
    if broker:
        raise BadInput(
            f"give --artifacts (or {ARTIFACTS}) as well: the artifact store that belongs to {BROKER}"
        )
    return place
