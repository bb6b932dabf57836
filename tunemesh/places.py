"""Where jobs are done: on a mesh that runs, or on one of our own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from tunemesh.client import CONNECT_LIMIT, Client
from tunemesh.following import Watcher
from tunemesh.layout import DISTURBED, Layout
from tunemesh.mesh import LocalMesh
from tunemesh.mesh_address import MeshAddress
from tunemesh.terminal import for_eyes

OWN_BROKER_LIMIT = 20.0
"""Seconds that the broker of a mesh of our own may take to answer: it shares the machine with all that has
just been started."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where jobs are done."""

    address: MeshAddress
    mesh: LocalMesh | None = None
    """Ours, where there is none that runs."""

    def supervise(self) -> None:
        """To be called every second."""
        if self.mesh is not None:
            self.mesh.supervise()

    @contextmanager
    def client(self, jobs: Sequence[str]) -> Iterator[Client]:
        """A client that follows ``jobs``.

        Raises:
            BrokerUnavailable: nobody is there to take requests.
        """
        limit = CONNECT_LIMIT if self.mesh is None else OWN_BROKER_LIMIT
        with Client(self.address.broker, jobs, limit) as client:
            if self.mesh is None:
                client.snapshot()  # somebody must be there to take the requests
            yield client


def of_mesh(mesh: LocalMesh, watcher: Watcher) -> Place:
    """A mesh of our own, which is up."""
    password = for_eyes(mesh.node.password("monitor"))
    watcher.note(f"mesh is up; RabbitMQ UI: {mesh.node.management_url} monitor {password}")
    return Place(MeshAddress(broker=mesh.url, artifacts=mesh.artifacts), mesh)


def describe(layout: Layout, watcher: Watcher) -> None:
    """Say what is about to be started."""
    watcher.note(
        f"starting a mesh on this machine: device {layout.device}{' on its own' if layout.apart else ''},"
        f" {layout.builders} build and {layout.updaters} model-update worker(s)"
        f" on core(s) {', '.join(map(str, sorted(layout.other_cpus)))}"
    )
    if not layout.apart:
        watcher.note(DISTURBED)
    elif layout.shared:
        watcher.note(
            "the device has all cores: steps take turns (strategy sequential), to disturb no measurement"
        )
