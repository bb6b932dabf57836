"""Where the running mesh is: from options, the environment, or the note that ``tunemesh up`` leaves (the last
one, where there are several)."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from tunemesh.shared.errors import BadInput
from tunemesh.shared.given import given, with_password

BROKER = "TUNEMESH_BROKER_URL"
PASSWORD = "TUNEMESH_BROKER_PASSWORD"
"""Of the broker's user, where the address leaves it out."""
ARTIFACTS = "TUNEMESH_ARTIFACTS"
RECORDS = "TUNEMESH_RECORDS"
"""Where workers keep the records of what was measured: a file, or a database's URL; ``none``: nowhere."""
SHIPPED = "TUNEMESH_SHIPPED_RECORDS"
"""``none``: workers do not add the records that come with Tunemesh to theirs."""
IMPORTS = "TUNEMESH_IMPORTS"
"""Folder in which workers keep what came of models that they have imported; ``none``: nowhere."""
NONE = "none"


class MeshAddress(msgspec.Struct, frozen=True, kw_only=True):
    """What a client needs to know of a mesh."""

    broker: str
    artifacts: str
    worker_broker: str = ""
    """The same broker for a worker, with that role's rights."""
    coordinator_broker: str = ""
    """And for a coordinator."""
    ui: str = ""
    """Address of the RabbitMQ management UI."""
    monitor_password: str = ""
    """For the UI's user ``monitor``."""
    journal: str = ""
    """File of the coordinator's journal."""
    records: str = ""
    """The database of records; empty where it has none."""
    retention: str = ""
    """How long it keeps the results of jobs, as the person has said."""


def data_folder() -> Path:
    """Where ``tunemesh up`` keeps its data by default."""
    home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(home) / "tunemesh"


def records_in(folder: Path) -> str:
    """The database of records: the one that the environment names, or a file in ``folder``. Empty where the
    environment says that there is to be none."""
    named = given(RECORDS) or str(folder.absolute() / "records.sqlite")
    return "" if named == NONE else named


def imports() -> str:
    """Where meshes of this machine keep what came of models that they have imported: the folder that the
    environment names, or one for what can be made again. Empty where the environment says that there is to be
    none."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    named = os.environ.get(IMPORTS) or str(Path(cache).absolute() / "tunemesh" / "imports")
    return "" if named == NONE else named


def records_of_this_machine() -> str:
    """The database that a person means who names none: that of the environment or of the mesh that runs here,
    else the one that `tunemesh tune` writes."""
    if not given(RECORDS) and _note().exists() and (noted := _read_note().records):
        return noted
    return records_in(data_folder())


def is_noted() -> bool:
    """Whether a mesh of this machine has left a note."""
    return _note().exists()


def leave_note(address: MeshAddress) -> Path:
    """Write down where the mesh is, for this user only. Returns the file."""
    path = _note()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.touch(mode=0o600)
    path.write_bytes(_written(address))
    return path


def remove_note(address: MeshAddress) -> None:
    """The mesh is no more; a note that another one has left since then stays."""
    path = _note()
    if path.exists() and path.read_bytes() == _written(address):
        path.unlink()


def _note() -> Path:
    return data_folder() / "mesh.json"


def _written(address: MeshAddress) -> bytes:
    return msgspec.json.format(msgspec.json.encode(address), indent=2)


def named(broker: str | None) -> str | None:
    """The broker that the person names, by option or in the environment."""
    found = broker or given(BROKER)
    return with_password(found, given(PASSWORD)) if found else None


def find(broker: str | None, artifacts: str | None, store: bool = True) -> MeshAddress:
    """The mesh to use.

    Args:
        store: whether the artifact store is needed.

    Raises:
        BadInput: there is none.
    """
    broker = named(broker)
    if artifacts and not broker:
        raise BadInput(f"--artifacts is the store of a running mesh: give --broker (or {BROKER}) as well")
    artifacts = artifacts or os.environ.get(ARTIFACTS)
    if broker and (artifacts or not store):
        # Whoever gives an address gives it for what is to run.
        return MeshAddress(
            broker=broker, artifacts=artifacts or "", worker_broker=broker, coordinator_broker=broker
        )
    if not _note().exists():
        missing = f"--artifacts (or {ARTIFACTS})" if broker else f"--broker (or {BROKER})"
        raise BadInput(f"no mesh is known: give {missing}, or start one with: tunemesh up")
    address = _read_note()
    if broker:
        raise BadInput(
            f"give --artifacts (or {ARTIFACTS}) as well: the artifact store that belongs to {BROKER}"
        )
    return address


def journal() -> Path:
    """The journal of the mesh on this machine.

    Raises:
        BadInput: there is none.
    """
    if not _note().exists():
        raise BadInput("no mesh is known: give --journal FILE, the one that the coordinator was given")
    return Path(_read_note().journal)


def _read_note() -> MeshAddress:
    note = _note()
    try:
        return msgspec.json.decode(note.read_bytes(), type=MeshAddress)
    except (OSError, msgspec.DecodeError) as error:
        raise BadInput(f"cannot read {note}: {error}; remove it and start the mesh again") from None
