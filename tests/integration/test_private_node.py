"""The private node on this machine: it keeps its word after a crash and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pika
import pytest
from pika.exceptions import ProbableAuthenticationError

from tunemesh.broker_config.node import PrivateNode, installed
from tunemesh.broker_config.topology import COORDINATOR, LEDGER, LEDGER_KEY
from tunemesh.shared.errors import BadInput, BrokerUnavailable

pytestmark = [
    pytest.mark.waiting,
    pytest.mark.skipif(
        not installed() and not os.environ.get("CI"), reason="needs rabbitmq-server on this machine"
    ),
]

PERSISTENT = pika.BasicProperties(delivery_mode=2)
ROOT = Path(__file__).resolve().parents[2]


def connect(url: str) -> pika.BlockingConnection:
    return pika.BlockingConnection(pika.URLParameters(url))


def gone(pid: int) -> bool:
    """Whether a process has ended; a zombie that nobody has waited for yet counts as ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def within(seconds: float, condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def publish(node: PrivateNode, body: bytes) -> None:
    with connect(node.url("coordinator")) as link:
        channel = link.channel()
        channel.confirm_delivery()
        channel.basic_publish(LEDGER, LEDGER_KEY, body, PERSISTENT, mandatory=True)


@pytest.mark.usefixtures("nodes_end_at_once")
@pytest.mark.parametrize("how", ["killed", "crashed", "told to stop"])
def test_confirmed_messages_outlive_a_crash_and_clients_find_the_node_again(tmp_path: Path, how: str) -> None:
    with PrivateNode(tmp_path / "with space") as node:
        url = node.url("coordinator")
        publish(node, b"decided")
        if how == "killed":
            node.kill()
        else:
            assert node.pid is not None
            os.kill(node.pid, signal.SIGTERM if how == "told to stop" else signal.SIGKILL)
            assert within(20, lambda: node.pid is None)
            assert node.killed
        assert node.pid is None
        node.start()
        node.wait_ready()
        assert node.url("coordinator") == url
        with connect(url) as link:
            _, _, body = link.channel().basic_get(COORDINATOR)
            assert body == b"decided"

    with PrivateNode(tmp_path / "with space") as successor:
        assert successor.url("coordinator") == url
        with connect(url) as link:
            assert link.channel().queue_declare(COORDINATOR, passive=True).method.message_count == 1


@pytest.mark.usefixtures("nodes_end_at_once")
def test_two_nodes_run_side_by_side() -> None:
    with PrivateNode() as one, PrivateNode() as other:
        publish(one, b"for one")
        with connect(other.url("coordinator")) as link:
            assert link.channel().queue_declare(COORDINATOR, passive=True).method.message_count == 0
        with pytest.raises(ProbableAuthenticationError):
            connect(other.url("admin").replace(other.password("admin"), one.password("admin")))
        folder = one.folder
    assert not folder.exists()


def test_one_folder_has_one_node(tmp_path: Path) -> None:
    with PrivateNode(tmp_path), pytest.raises(BadInput, match=rf"another process \({os.getpid()}\) runs"):
        PrivateNode(tmp_path).start()


def test_a_node_keeps_to_its_cores_and_dies_with_its_parent(tmp_path: Path) -> None:
    script = (
        "import os, sys, threading, time\n"
        "from pathlib import Path\n"
        "from tunemesh.broker_config.node import PrivateNode\n"
        "node = PrivateNode(Path(sys.argv[1]), cpus={0})\n"
        # A short-lived thread starts it: the node must live as long as the process, not as the thread.
        "cores = {'also': range(os.cpu_count())}\n"
        "starter = threading.Thread(target=node.start, kwargs=cores); starter.start(); starter.join()\n"
        "node.wait_ready()\n"
        "print(node.pid, node._epmd.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        try:
            assert parent.stdout is not None
            pids = [int(pid) for pid in parent.stdout.readline().split()]
            assert len(pids) == 2
            threads = [int(each.name) for pid in pids for each in Path(f"/proc/{pid}/task").iterdir()]
            assert len(threads) > 10
            # The others it had only until it was ready.
            assert all(os.sched_getaffinity(thread) == {0} for thread in threads)
        finally:
            parent.kill()
    assert within(10, lambda: all(gone(pid) for pid in pids))


def test_a_node_that_cannot_start_says_why(tmp_path: Path) -> None:
    node = PrivateNode(tmp_path)
    (tmp_path / "data").write_text("a file where the data folder should be")
    node.start()
    try:
        with pytest.raises(BrokerUnavailable, match=r"ended with status .*log: ") as caught:
            node.wait_ready(30)
        assert "\n" not in str(caught.value)
        assert not node.killed
    finally:
        node.close()
