"""Records that come with Tunemesh, so that a new user's first job begins with what is known.

They are an export like any other, of networks that were tuned for that. What is in it comes from elsewhere:
it is never taken for a result, but measured again before it wins. A database gets it once, by the worker that
first asks it something; a newer release's is added to it.
"""

from __future__ import annotations

import gzip
import hashlib
from importlib import resources

from sqlalchemy import select

from tunemesh.stage_workers.records import exchange, schema
from tunemesh.stage_workers.records.database import Database

FILE = "shipped.jsonl.gz"
"""Written by ``tunemesh records export --best 24``."""
NAME = "shipped"
"""Of the row that says which of these files a database has."""


def add(database: Database) -> int:
    """Add what comes with this release, where a database does not have it.

    Returns:
        How many rows were new.

    Raises:
        RecordsUnavailable, BadInput: as :meth:`.Database.writing`.
    """
    content = resources.files(__package__).joinpath(FILE).read_bytes()
    version = hashlib.sha256(content).hexdigest()
    if version in versions(database):
        return 0
    lines = gzip.decompress(content).splitlines()
    _, new = exchange.add(lines, FILE, database)
    with database.writing() as connection:
        values = {"name": f"{NAME} {version[:16]}", "value": version}
        connection.execute(database.insert(schema.ABOUT), values)
    return new


def versions(database: Database) -> set[str]:
    """SHA-256 of the files that a database has."""
    about = schema.ABOUT.c
    with database.reading() as connection:
        asked = select(about.value).where(about.name.startswith(f"{NAME} "))
        return set(connection.execute(asked).scalars())
