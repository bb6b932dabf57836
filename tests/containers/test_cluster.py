"""A cluster of three nodes that loses some with their disks while jobs run: no containers, but a minute."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import chaos
from tunemesh.broker_config.cluster import PrivateCluster
from tunemesh.broker_config.node import installed
from tunemesh.broker_config.topology import QUEUES, VHOST

pytestmark = pytest.mark.skipif(not installed(), reason="needs rabbitmq-server")


def test_no_job_is_lost_or_doubled_when_nodes_lose_their_disks_or_each_other(tmp_path: Path) -> None:
    found = chaos.run(tmp_path, 6, chaos.Storm(kills=4, losses=3, cuts=3), nodes=3)
    assert found.wrong == {}
    assert found.times("lost with its disk") == 3
    assert sum(count for (whom, _), count in found.done.items() if whom == "cluster") == 3
    assert found.figures["jobs"] >= 7


def test_a_node_that_replaces_another_has_a_copy_of_everything() -> None:
    with PrivateCluster() as cluster:
        cluster.lose(1)
        cluster.replace(1)
        listed = cluster.tool(0, "rabbitmqctl", "list_queues", "-p", VHOST, "name", "members")
    members = dict(line.split("\t", 1) for line in listed.splitlines()[1:] if line)
    assert set(members) == {queue.name for queue in QUEUES}
    assert all(each.count("tunemesh-") == 3 for each in members.values())
