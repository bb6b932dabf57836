"""Real workers on a real broker; the coordinator is played by the test.

Over 400 lines: all of them share the broker and the workers below.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote, urlsplit

import pika
import psutil
import pytest

from tests.conftest import Broker
from tunemesh.broker_config import topology
from tunemesh.shared import codec
from tunemesh.shared.artifacts import ArtifactStore
from tunemesh.shared.messages import (
    BuildDone,
    BuildWork,
    Candidate,
    Failure,
    ImportDone,
    ImportWork,
    Origin,
    ProfileDone,
    ProfileWork,
    Result,
    Settings,
    Step,
    StepResult,
    TaskSpec,
    UpdateDone,
    UpdateWork,
    Work,
    WorkerStatus,
)
from tunemesh.shared.transport.link import Delivery, Link, Outgoing, Subscription

T = TypeVar("T")

START = """
import sys
from tunemesh.shared import logs
from tunemesh.stage_workers.worker import WorkerConfig, run_worker
logs.setup()
import msgspec
config = msgspec.json.decode(sys.argv[1], type=WorkerConfig)
sys.exit(run_worker(config))
"""

SLOW = "tasks: [{name: a, durations: {build: 2.0}}]"
QUICK = "tasks: [{name: a, durations: {build: 0.05}}]"
POISON = """
tasks:
  - name: a
    failures:
      build-crash: {indices: [0]}
      build-hang: {indices: [2]}
      build-memory: {indices: [3]}
      profile-crash: {indices: [1]}
      profile-hang: {indices: [4]}
      wrong-result: {indices: [5]}
"""


BUILD = topology.work_queue(topology.BUILD_CPU, ["mock"])
"""Where the workers of these tests take their steps from: they serve one engine."""

JOB = ""
"""Another one for every test: the broker is the same."""


class Mesh:
    """What a coordinator would do, step by step."""

    def __init__(self, broker: Broker, folder: Path) -> None:
        self.broker = broker
        self.folder = folder
        self.store = ArtifactStore(str(folder))
        self.results: list[StepResult] = []
        self.statuses: list[WorkerStatus] = []
        self.link = Link(
            broker.url("coordinator"),
            "coordinator of test_worker",
            subscriptions=[
                Subscription(topology.COORDINATOR),
                Subscription("coordinator.test", bindings=((topology.STATUS, ""),)),
            ],
        )

    def declare(self, queue: str) -> None:
        """As the coordinator does for the queue of a worker that it hears of."""
        wanted, binding = topology.stage_queue(queue), topology.stage_binding(queue)
        self.link.declare_queue(wanted.name, wanted.arguments).result(10)
        self.link.bind(binding.queue, binding.exchange, binding.key).result(10)

    def send(self, step: Step, queue: str = BUILD) -> None:
        self.send_bytes(codec.encode(step), queue)

    def send_bytes(self, body: bytes, queue: str = BUILD) -> None:
        self.link.publish(Outgoing(topology.STEPS, queue, body, "id", "step")).result(10)

    def look(self, seconds: float) -> None:
        """Take in what arrives, for ``seconds`` or until the first thing."""
        event = self.link.next(seconds)
        if isinstance(event, Delivery):
            self.link.ack(event)
            message = codec.decode(event.body, StepResult, WorkerStatus)
            if isinstance(message, WorkerStatus):
                self.statuses.append(message)
            elif isinstance(message, StepResult) and message.job == JOB:  # not what an earlier test left
                self.results.append(message)

    def await_results(self, count: int, seconds: float = 20.0) -> list[StepResult]:
        deadline = time.monotonic() + seconds
        while len(self.results) < count:
            assert time.monotonic() < deadline, f"{len(self.results)} of {count} results"
            self.look(0.2)
        taken, self.results = self.results[:count], self.results[count:]
        return taken

    def do(self, step: Step, kind: type[T], queue: str = BUILD) -> T:
        self.send(step, queue)
        return expect(kind, self.await_results(1)[0].result)

    def await_status(self, **fields: object) -> WorkerStatus:
        """The first status, from now on, whose fields have these values."""
        deadline = time.monotonic() + 15
        while True:
            for status in self.statuses:
                if all(getattr(status, name) == value for name, value in fields.items()):
                    return status
            assert time.monotonic() < deadline, f"no status with {fields}"
            self.statuses.clear()
            self.look(0.2)

    def task(self, model: str) -> TaskSpec:
        """The only task of ``model``."""
        imported = self.do(make_step(ImportWork(model=self.store.put(model.encode()))), ImportDone)
        return imported.tasks[0]

    def candidates(self, task: TaskSpec, count: int) -> list[Candidate]:
        return self.do(make_step(UpdateWork(task=task, want=count)), UpdateDone).candidates

    @contextmanager
    def worker(self, queue: str = "build-cpu", **options: object) -> Iterator[subprocess.Popen[bytes]]:
        """A worker process; whatever is left of it at the end is killed."""
        config = {
            "broker": self.broker.url("worker"),
            "queue": queue,
            "artifacts": str(self.folder),
            "engines": ["mock"],
            "status_interval": 0.3,
            "memory": 2**28,
            **options,
        }
        environment = {**os.environ, "PYTHONPATH": os.getcwd()}
        command = [sys.executable, "-c", START, json.dumps(config)]
        with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) as process:
            try:
                yield process
            finally:
                process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(5)
                process.kill()


@pytest.fixture
def mesh(node: Broker, tmp_path: Path) -> Iterator[Mesh]:
    global JOB
    JOB = f"job-{uuid.uuid4().hex[:8]}"
    mesh = Mesh(node, tmp_path)
    mesh.link.start()
    mesh.declare(BUILD)
    yield mesh
    mesh.link.purge(BUILD).result(10)
    mesh.link.close()


def make_step(work: Work, number: int = 0, **fields: object) -> Step:
    stage = str(work.__struct_config__.tag)
    limits = Settings(build_timeout=2.0, profile_timeout=2.0)
    known = {"engines": ["mock"], "target": "mock", "settings": limits}
    return Step(id=f"{JOB}/t00/0/{number}/{stage}", job=JOB, seed=1, work=work, **{**known, **fields})  # type: ignore[arg-type]


def expect(kind: type[T], result: Result) -> T:
    assert isinstance(result, kind), result
    return result


def family(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def gone(processes: list[psutil.Process]) -> bool:
    deadline = time.monotonic() + 2
    while any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in processes):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def said(process: subprocess.Popen[bytes], words: str) -> list[str]:
    """What a worker has logged up to the line with ``words``, which must come."""
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line.decode().strip())
        if words in lines[-1]:
            return lines
    raise AssertionError(f"not said: {words}: {lines}")


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def forwarding(port: int, to: int) -> Iterator[None]:
    """A broker that is there from now on: what comes to ``port`` goes ``to`` the real one, and back."""

    def pass_on(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while block := source.recv(65536):
                sink.sendall(block)
            sink.shutdown(socket.SHUT_WR)

    ends: list[socket.socket] = []

    def accept(listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                ours, _ = listener.accept()
                theirs = socket.create_connection(("127.0.0.1", to))
                ends.extend((ours, theirs))
                for pair in ((ours, theirs), (theirs, ours)):
                    threading.Thread(target=pass_on, args=pair, daemon=True).start()

    with socket.create_server(("127.0.0.1", port)) as listener:
        threading.Thread(target=accept, args=(listener,), daemon=True).start()
        yield
        listener.shutdown(socket.SHUT_RDWR)
    for each in ends:
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        each.close()


def api(broker: Broker, method: str, path: str, body: object = None) -> object:
    """Ask the management API as admin."""
    login = base64.b64encode(f"admin:{broker.password('admin')}".encode()).decode()
    request = urllib.request.Request(
        f"{broker.management_url}/api/{path}",
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Authorization": f"Basic {login}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        text = answer.read()
    return json.loads(text) if text else None


@pytest.mark.alone
def test_each_poisoned_candidate_costs_itself_and_nothing_else(mesh: Mesh) -> None:
    device = f"cpu:{min(os.sched_getaffinity(0))}"
    with mesh.worker(), mesh.worker("profile-cpu-7", device=device, targets=["mock"]):
        task = mesh.task(POISON)
        candidates = mesh.candidates(task, 7)
        work = make_step(BuildWork(task=task, candidates=candidates))
        built = mesh.do(work, BuildDone).built
        outcomes = ["build-failed", None, "build-timed-out", "build-failed", None, None, None]
        assert [each.outcome for each in built] == outcomes
        assert [each.error for each in built if each.outcome] == [
            "killed by SIGSEGV",
            "exceeded 2 s",
            "exceeded 0.25 GiB of memory; give more with --memory, where its worker is started",
        ]
        # The device's queue does not exist before its worker says that it is there.
        status = mesh.await_status(queue="profile-cpu-7")
        assert status.serves.targets == ["mock"]
        queue = topology.stage_queue("profile-cpu-7")
        mesh.declare(queue.name)
        artifacts = [each for each in built if each.artifact is not None]
        work = make_step(ProfileWork(task=task, artifacts=artifacts, baseline=True))
        profiled = mesh.do(work, ProfileDone, queue.name)
        assert profiled.untuned == 0.01
        assert [(each.index, each.outcome) for each in profiled.profiled] == [
            (1, "run-failed"),
            (4, "run-timed-out"),
            (5, "wrong-result"),
            (6, "measured"),
        ]
        assert [each.error for each in profiled.profiled[:2]] == ["killed by SIGSEGV", "exceeded 2 s"]
        assert "differs" in profiled.profiled[2].error


@pytest.mark.alone
def test_short_steps_follow_each_other_closely(mesh: Mesh) -> None:
    with mesh.worker():
        task = mesh.task(QUICK)
        candidates = mesh.candidates(task, 10)
        for number, each in enumerate(candidates):
            mesh.send(make_step(BuildWork(task=task, candidates=[each]), number))
        timings = [each.timing for each in mesh.await_results(10)]
    gaps = sorted(later.started - earlier.finished for earlier, later in pairwise(timings))
    assert gaps[0] >= 0
    assert gaps[len(gaps) // 2] < 0.02
    assert all(each.finished - each.started >= 0.05 for each in timings)
    assert timings[-1].waited > 0.3


def test_a_step_that_cannot_be_decoded_is_put_aside_with_the_reason(mesh: Mesh) -> None:
    api(mesh.broker, "DELETE", "queues/tunemesh/dead-letter/contents")
    with mesh.worker():
        mesh.send_bytes(b"\xc1 nonsense")
        mesh.task(QUICK)
        letters = api(
            mesh.broker,
            "POST",
            "queues/tunemesh/dead-letter/get",
            {"count": 10, "ackmode": "ack_requeue_false", "encoding": "auto"},
        )
    assert isinstance(letters, list)
    (letter,) = letters
    assert "not MessagePack" in letter["properties"]["headers"]["reason"]
    assert letter["properties"]["headers"]["from-key"] == BUILD


def test_whole_steps_fail_with_one_line(mesh: Mesh) -> None:
    with mesh.worker():
        crash = "{tasks: [{name: a}], stages: {import: crash}}"
        work = ImportWork(model=mesh.store.put(crash.encode()))
        assert "killed by SIGSEGV" in mesh.do(make_step(work), Failure).error
        assert (
            "needs a device"
            in mesh.do(make_step(ProfileWork(task=mesh.task(QUICK), artifacts=[])), Failure).error
        )


def test_a_step_finds_the_artifacts_of_its_tenant_alone(mesh: Mesh) -> None:
    acme = mesh.store.of("acme")
    work = ImportWork(model=acme.put(QUICK.encode(), inline=False))
    with mesh.worker():
        for number, tenant in enumerate(["zeta", ""]):
            step = make_step(work, number, origin=Origin(job=JOB, accepted=1.0, model="m", tenant=tenant))
            assert "is not in" in mesh.do(step, Failure).error
        step = make_step(work, 2, origin=Origin(job=JOB, accepted=1.0, model="m", tenant="acme"))
        done = mesh.do(step, ImportDone)
    assert acme.kept(done.model)
    assert not mesh.store.kept(done.model)


def test_a_step_for_an_engine_that_is_not_served_is_put_aside_and_fails_nothing(mesh: Mesh) -> None:
    api(mesh.broker, "DELETE", "queues/tunemesh/dead-letter/contents")
    with mesh.worker():
        task = mesh.task(QUICK)
        mesh.send(make_step(BuildWork(task=task, candidates=[]), 8, engines=["metaschedule"]))
        mesh.task(QUICK)  # and it goes on
        letters = api(
            mesh.broker,
            "POST",
            "queues/tunemesh/dead-letter/get",
            {"count": 10, "ackmode": "ack_requeue_false", "encoding": "auto"},
        )
    assert not mesh.results
    assert isinstance(letters, list)
    (letter,) = letters
    assert letter["properties"]["type"] == "not-served"
    assert "does not serve engine 'metaschedule', only mock" in letter["properties"]["headers"]["reason"]


def test_a_clock_that_is_decades_off_makes_no_result_unreadable(mesh: Mesh) -> None:
    """That of whoever has sent the step; 10**14 ms is in the year 5138."""
    with mesh.worker():
        mesh.task(QUICK)
        for number, sent in enumerate([1, 10**14]):
            step = make_step(ImportWork(model=mesh.store.put(QUICK.encode())), 20 + number)
            # The link adds the time itself: what is given here stands in its way.
            pika_link = pika.BlockingConnection(pika.URLParameters(mesh.broker.url("coordinator")))
            pika_link.channel().basic_publish(
                topology.STEPS, BUILD, codec.encode(step), pika.BasicProperties(headers={"sent-at-ms": sent})
            )
            pika_link.close()
        timings = [each.timing for each in mesh.await_results(2)]
    assert [each.waited for each in timings] == [1e6, 0.0]
    assert all(0 <= each.finished - each.started < 10 for each in timings)


def test_a_worker_whose_queue_is_deleted_says_so_and_goes_on_when_it_is_there_again(mesh: Mesh) -> None:
    with mesh.worker() as process:
        mesh.task(QUICK)
        api(mesh.broker, "DELETE", f"queues/tunemesh/{BUILD}")
        mesh.statuses.clear()
        lines = said(process, "waiting for the coordinator to declare it")
        assert any(f"somebody has deleted queue {BUILD}" in line for line in lines)
        assert lines[-1].endswith(f"queue {BUILD} is not there; waiting for the coordinator to declare it")
        mesh.await_status(queue=BUILD)  # so that the coordinator hears of it
        mesh.declare(BUILD)
        mesh.task(QUICK)


def test_a_worker_is_started_before_its_broker_and_waits_for_it(mesh: Mesh, free_port: int) -> None:
    real = urlsplit(mesh.broker.url("worker"))
    url = mesh.broker.url("worker").replace(f":{real.port}/", f":{free_port}/")
    with mesh.worker(broker=url) as process:
        began = time.monotonic()
        lines = said(process, "cannot reach the broker")
        assert time.monotonic() - began < 5  # an interpreter's start included
        assert "connection refused; trying again" in lines[-1]
        time.sleep(1.0)
        assert process.poll() is None
        with forwarding(free_port, real.port or 0):
            mesh.task(QUICK)


@pytest.mark.parametrize("wrong", ["password", "vhost"])
def test_a_worker_that_the_broker_refuses_ends_and_says_why(mesh: Mesh, wrong: str) -> None:
    url = mesh.broker.url("worker")
    url = url.replace("/tunemesh", "/nowhere") if wrong == "vhost" else url.replace("worker:", "worker:no")
    with mesh.worker(broker=url) as process:
        _, error = process.communicate(timeout=20)
    assert process.returncode != 0
    assert b"BrokerRefused" in error
    assert (b"refuses this user name and password" in error) == (wrong == "password")


@pytest.mark.alone
@pytest.mark.parametrize("delay", [0.0, 0.3, 0.6])
def test_a_device_worker_survives_the_death_of_its_fork_server_at_the_start(mesh: Mesh, delay: float) -> None:
    mesh.declare("profile-cpu-5")
    device = f"cpu:{min(os.sched_getaffinity(0))}"
    with mesh.worker("profile-cpu-5", device=device, targets=["mock"], name="five") as process:
        time.sleep(delay)
        kills = 0
        deadline = time.monotonic() + 5
        while kills < 4 and time.monotonic() < deadline:
            for each in psutil.Process(process.pid).children():
                each.kill()
                kills += 1
            time.sleep(0.15)
        assert kills
        status = mesh.await_status(worker="five")
        assert status.serves.targets == ["mock"]
        assert process.poll() is None


def test_a_result_that_no_message_can_hold_is_a_failure(mesh: Mesh) -> None:
    with mesh.worker():
        task = mesh.task("tasks: [{name: a}]")
        candidates = mesh.candidates(task, 1)
        mesh.send(make_step(UpdateWork(task=task, want=20_000)))
        assert "exceeds the limit" in expect(Failure, mesh.await_results(1)[0].result).error
        assert mesh.do(make_step(BuildWork(task=task, candidates=candidates)), BuildDone).built[0].artifact


def test_a_connection_closed_in_a_step_costs_neither_the_worker_nor_the_step(mesh: Mesh) -> None:
    with mesh.worker() as process:
        task = mesh.task(SLOW)
        candidates = mesh.candidates(task, 2)
        settings = Settings(build_timeout=10.0)
        name = await_connection(mesh.broker, process.pid)
        mesh.send(make_step(BuildWork(task=task, candidates=candidates), 3, settings=settings))
        mesh.await_status(step=f"{JOB}/t00/0/3/build")
        api(mesh.broker, "DELETE", f"connections/{quote(name, safe='')}")
        result = mesh.await_results(1)[0]
        assert len(expect(BuildDone, result.result).built) == 2
        # Answered from memory: two builds of 2 s were done once, though the step was delivered twice.
        assert time.time() - result.timing.started < 6
        assert process.poll() is None


def test_the_same_step_is_answered_from_memory_and_another_one_with_its_id_is_not(mesh: Mesh) -> None:
    with mesh.worker():
        task = mesh.task(QUICK)
        candidates = mesh.candidates(task, 2)
        first = make_step(BuildWork(task=task, candidates=candidates[:1]), 4)
        attempt = make_step(BuildWork(task=task, candidates=candidates[:1]), 4, attempt=1)
        other = make_step(BuildWork(task=task, candidates=candidates), 4)
        for each in (first, first, attempt, other):
            mesh.send(each)
        done, repeated, anew, different = mesh.await_results(4)
    assert repeated == done
    # A further attempt is made where nothing could be made of the first result.
    assert anew.timing.started > done.timing.started
    assert len(expect(BuildDone, different.result).built) == 2


def test_sigterm_lets_the_step_finish(mesh: Mesh) -> None:
    with mesh.worker() as process:
        task = mesh.task(SLOW)
        work = BuildWork(task=task, candidates=mesh.candidates(task, 1))
        mesh.send(make_step(work, 5, settings=Settings(build_timeout=10.0)))
        mesh.await_status(step=f"{JOB}/t00/0/5/build")
        children = family(process)
        process.terminate()
        assert expect(BuildDone, mesh.await_results(1)[0].result).built[0].artifact
        mesh.await_status(leaving=True, slots=0)
        assert process.wait(5) == 0
        assert gone(children)


@pytest.mark.parametrize("how", ["grace is over", "second signal"])
def test_a_step_that_takes_too_long_is_handed_back(mesh: Mesh, how: str) -> None:
    with mesh.worker(grace=0.5 if how == "grace is over" else 30.0) as process:
        task = mesh.task("tasks: [{name: a, durations: {build: 8}}]")
        work = BuildWork(task=task, candidates=mesh.candidates(task, 1))
        mesh.send(make_step(work, 6, settings=Settings(build_timeout=60.0)))
        mesh.await_status(step=f"{JOB}/t00/0/6/build")
        children = family(process)
        process.send_signal(signal.SIGINT)
        if how == "second signal":
            time.sleep(0.2)
            process.send_signal(signal.SIGINT)
        assert process.wait(4) == 0
        mesh.await_status(leaving=True)
        assert gone(children)
        assert mesh.link.depth(BUILD).result(5).ready == 1
        assert not mesh.results


@pytest.mark.alone
def test_an_idle_worker_leaves_at_once(mesh: Mesh) -> None:
    with mesh.worker() as process:
        mesh.task(QUICK)
        started = time.monotonic()
        process.terminate()
        assert process.wait(5) == 0
        assert time.monotonic() - started < 1.5


def test_a_killed_worker_costs_nothing(mesh: Mesh) -> None:
    with mesh.worker() as process:
        task = mesh.task(SLOW)
        work = BuildWork(task=task, candidates=mesh.candidates(task, 1))
        mesh.send(make_step(work, 7, settings=Settings(build_timeout=10.0)))
        mesh.await_status(step=f"{JOB}/t00/0/7/build")
        children = family(process)
        process.kill()
        assert gone(children)
    with mesh.worker():
        assert expect(BuildDone, mesh.await_results(1)[0].result).built[0].artifact


@pytest.mark.alone
def test_a_device_has_one_worker(mesh: Mesh) -> None:
    options = {"device": f"cpu:{min(os.sched_getaffinity(0))}", "targets": ["mock"]}
    with mesh.worker("profile-cpu-8", **options) as first:
        mesh.await_status(queue="profile-cpu-8")
        with mesh.worker("profile-cpu-9", **options) as second:
            _, error = second.communicate(timeout=20)
        assert f"in use by process {first.pid}".encode() in error


@pytest.mark.alone
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores, for two devices")
def test_a_second_worker_on_the_queue_of_a_device_stands_by(mesh: Mesh) -> None:
    """Two hosts may have a ``profile-gpu-0`` each, which are not the same device."""
    queue = topology.stage_queue("profile-cpu-6")
    mesh.declare(queue.name)
    one, other = sorted(os.sched_getaffinity(0))[:2]

    def profiling(device: int, name: str) -> AbstractContextManager[subprocess.Popen[bytes]]:
        return mesh.worker(queue.name, device=f"cpu:{device}", targets=["mock"], name=name)

    with mesh.worker(name="builder"):
        task = mesh.task(QUICK)

    def measured_by(number: int) -> str:
        mesh.send(make_step(ProfileWork(task=task, artifacts=[], baseline=True), number), queue.name)
        return mesh.await_results(1)[0].timing.worker

    with profiling(one, "first") as first:
        mesh.await_status(worker="first")
        with profiling(other, "second") as second:
            assert second.stderr is not None
            assert any(b"stands by" in line for line in second.stderr)
            mesh.statuses.clear()
            assert {measured_by(number) for number in range(4)} == {"first"}
            assert {status.worker for status in mesh.statuses} <= {"first"}
            first.kill()
            mesh.await_status(worker="second")
            assert measured_by(4) == "second"
    mesh.link.purge(queue.name).result(10)


@pytest.mark.alone
def test_a_device_that_stops_working_for_a_while_loses_no_candidate(mesh: Mesh) -> None:
    queue = topology.stage_queue("profile-cpu-4")
    mesh.declare(queue.name)
    with mesh.worker(name="builder"):
        task = mesh.task(QUICK)
    work = ProfileWork(task=task, artifacts=[], baseline=True)
    target = f"mock broken={time.time() + 3:.3f}-{time.time() + 4:.3f}"
    options = {"device": f"cpu:{min(os.sched_getaffinity(0))}", "targets": [target], "name": "four"}
    sent = 0
    with mesh.worker(queue.name, **options):
        mesh.await_status(worker="four")
        while not any(status.fault for status in mesh.statuses):
            mesh.send(make_step(work, sent, target=target), queue.name)
            sent += 1
            mesh.look(0.1)
        (broken,) = {(status.slots, status.fault) for status in mesh.statuses if status.fault}
        assert broken[0] == 0
        assert "the device does not work: its reference kernel raised: RuntimeError: mock device" in broken[1]
        results = [expect(ProfileDone, each.result) for each in mesh.await_results(sent)]
        assert [each.untuned for each in results] == [0.01] * sent
        mesh.await_status(worker="four", fault="", slots=1)
    mesh.link.purge(queue.name).result(10)


@pytest.mark.alone
def test_a_device_whose_target_is_unknown_is_refused(mesh: Mesh) -> None:
    options = {"device": f"cpu:{min(os.sched_getaffinity(0))}", "targets": ["abacus"]}
    with mesh.worker("profile-cpu-8", **options) as process:
        _, error = process.communicate(timeout=60)
    assert process.returncode != 0
    assert b"unknown target" in error
    assert b"abacus" in error


def await_connection(broker: Broker, pid: int) -> str:
    """The broker's name of a worker's connection; the management database needs some seconds."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        connections = api(broker, "GET", "connections")
        assert isinstance(connections, list)
        for each in connections:
            if each.get("client_properties", {}).get("pid") == pid:
                return str(each["name"])
        time.sleep(0.2)
    raise AssertionError(f"no connection of process {pid}")
