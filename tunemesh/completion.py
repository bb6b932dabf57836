"""What a shell offers where a job is to be named."""

from __future__ import annotations

from typing import Any

import typer

from tunemesh import mesh_address
from tunemesh.client import Client
from tunemesh.shared.text import one_line

LIMIT = 1.5
"""Seconds that a person waits for it, at most."""


def jobs(incomplete: str) -> list[tuple[str, str]]:
    """Ids of the jobs of the mesh that begin so, each with its phase and model; none where the mesh does not
    answer at once: nothing is said into somebody's half-written line."""
    try:
        address = mesh_address.find(None, None, store=False)
        with Client(address.broker, connect_limit=LIMIT) as client:
            found = client.snapshot(timeout=LIMIT).jobs
    except Exception:  # whatever it is, the line is not the place for it
        return []
    newest = sorted(found, key=lambda job: -job.accepted)
    return [
        (job.job, one_line(f"{job.phase} {job.name}")) for job in newest if job.job.startswith(incomplete)
    ]


def job_argument(help: str, **more: Any) -> Any:
    """An argument that names one job or several."""
    return typer.Argument(help=help, autocompletion=jobs, **more)
