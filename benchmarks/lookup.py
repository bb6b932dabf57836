"""How long a person takes to learn the state of one job among many, in each place where one looks it up.

A private mesh of the mock engine holds 1,000 jobs of ten tenants: some at work, the others waiting for a
device that is not there. Then one of them is looked up, by command and by page; what is timed is the answer,
with the start of the command. Each answer has to name the job or its state.

    python -m benchmarks.lookup
    python -m benchmarks.lookup --jobs 200 --stay 600    # and leaves the mesh for a look by hand
"""

from __future__ import annotations

import argparse
import base64
import http.cookiejar
import json
import os
import statistics
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable

from benchmarks import markdown
from tunemesh.broker_config import topology
from tunemesh.broker_config.credentials import free_ports
from tunemesh.client import Client
from tunemesh.dashboard.server import Dashboard
from tunemesh.layout import plan
from tunemesh.mesh import LocalMesh
from tunemesh.mesh_address import MeshAddress
from tunemesh.shared.artifacts import ArtifactStore
from tunemesh.shared.messages import JobProgress, Level, Request, Snapshot

MODEL = """
tasks: [{name: a, weight: 3}, {name: b}, {name: c}]
durations: {model-update: 0.5, build: 0.5, profile: 0.5}
"""
TENANTS = 10
AT_WORK = 20
SERVED, UNSERVED = "mock", "nvidia/nvidia-h100"
WAITS = "no device"
"""Begins why a job waits that nobody serves."""
STARTING = 300.0
"""Seconds until all jobs are there."""


def submit(mesh: LocalMesh, jobs: int) -> list[str]:
    """Names of the jobs, once all of them are known and all but those at work have been read and wait."""
    model = ArtifactStore(mesh.artifacts).put(MODEL.encode())
    names = [f"net-{number:04}" for number in range(jobs)]
    with Client(mesh.node.url("operator"), names, connect_limit=60.0) as client:
        for number, name in enumerate(names):
            wanted = Request(
                job=name,
                model=model,
                target=SERVED if number < AT_WORK else UNSERVED,
                engines=["mock"],
                tenant=f"tenant-{number % TENANTS}",
                seed=number,
                level=Level(trials=4000, shared=False),
            )
            client.submit(wanted)
            time.sleep(0.012)  # each tenant may send ten a second
        deadline = time.monotonic() + STARTING
        while True:
            mesh.supervise()
            known = {each.job: each.waiting for each in _listed(client)}
            waiting = sum(each.startswith(WAITS) for each in known.values())
            if len(known) == jobs and waiting == jobs - AT_WORK:
                return names
            if time.monotonic() > deadline:
                raise SystemExit(f"{len(known)} of {jobs} jobs are known, and {waiting} wait for a device")
            time.sleep(1.0)


def _listed(client: Client) -> list[JobProgress]:
    """All jobs, one answer after the other."""
    found: list[JobProgress] = []
    while True:
        key = client.ask(skip=len(found))
        while True:
            message, answered = client.hear(10.0)
            if isinstance(message, Snapshot) and answered == key:
                break
        found += message.jobs
        if not message.jobs or not message.left_out:
            return found


class Places:
    """Each method looks a job up in one place, and returns what it has read."""

    def __init__(self, mesh: LocalMesh, dashboard: Dashboard, metrics: str) -> None:
        self._dashboard, self._metrics = dashboard, metrics
        self._management = mesh.node.management_url
        self._monitor = "monitor:" + mesh.node.password("monitor")
        self._environment = {
            **os.environ,
            "TUNEMESH_BROKER_URL": mesh.node.url("operator"),
            "TUNEMESH_ARTIFACTS": mesh.artifacts,
            "COLUMNS": "160",
        }
        cookies = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
        self._browser = urllib.request.build_opener(cookies)
        self._browser.open(dashboard.url).read()

    def command(self, *arguments: str) -> str:
        """``tunemesh …``."""
        called = [sys.executable, "-m", "tunemesh", *arguments]
        done = subprocess.run(
            called, env=self._environment, capture_output=True, text=True, timeout=60, check=True
        )
        return done.stdout

    def page(self, path: str) -> str:
        """Of the dashboard."""
        with self._browser.open(f"http://127.0.0.1:{self._dashboard.port}{path}") as answer:
            return str(answer.read().decode())

    def queues(self) -> str:
        """What RabbitMQ's page *Queues* loads."""
        vhost = urllib.parse.quote(topology.VHOST, safe="")
        asked = urllib.request.Request(
            f"{self._management}/api/queues/{vhost}?page=1&page_size=100&sort=name"
        )
        asked.add_header("Authorization", "Basic " + base64.b64encode(self._monitor.encode()).decode())
        with urllib.request.urlopen(asked, timeout=60) as answer:
            found = json.loads(answer.read())["items"]
        return "\n".join(f"{each['name']} {each['messages']}" for each in found)

    def metrics(self) -> str:
        """What Prometheus scrapes from the coordinator."""
        with urllib.request.urlopen(f"http://{self._metrics}/metrics", timeout=60) as answer:
            return str(answer.read().decode())


def measure(places: Places, job: str, repeats: int) -> list[list[str]]:
    """A row for each place: how it is looked up, seconds, and what it says."""
    ways: list[tuple[str, Callable[[], str], str]] = [
        ("`tunemesh status JOB`", lambda: places.command("status", job), WAITS),
        ("`tunemesh status`", lambda: places.command("status"), job),
        ("`tunemesh jobs --limit 500`", lambda: places.command("jobs", "--limit", "500"), "net-"),
        ("`tunemesh jobs show JOB`", lambda: places.command("jobs", "show", job), job),
        ("dashboard, a word in *Search*", lambda: places.page(f"/?text={job[-3:]}"), job),
        ("dashboard, page of the job", lambda: places.page(f"/jobs/{job}"), WAITS),
        ("RabbitMQ's UI, *Queues*", places.queues, "coordinator "),
        ("metrics for Prometheus", places.metrics, 'tunemesh_jobs{phase="'),
    ]
    rows = []
    for name, look, expected in ways:
        took = []
        for _ in range(repeats):
            began = time.monotonic()
            read = look()
            took.append(time.monotonic() - began)
            if expected not in read:
                raise SystemExit(f"{name} does not say {expected!r}: {read[:2000]}")
        rows.append([name, f"{statistics.median(took):.2f}", f"{max(took):.2f}"])
    return rows


def main() -> None:
    """Run it and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1000, help=f"more than {AT_WORK}")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--stay", type=float, default=0.0, help="seconds for which the mesh is left afterwards"
    )
    given = parser.parse_args()
    metrics = f"127.0.0.1:{free_ports(1)[0]}"
    with LocalMesh(plan(None), SERVED, ["mock"], metrics=metrics) as mesh:
        address = MeshAddress(broker=mesh.node.url("operator"), artifacts=mesh.artifacts)
        began = time.monotonic()
        names = submit(mesh, given.jobs)
        print(f"{len(names)} jobs after {time.monotonic() - began:.0f} s", flush=True)
        with Dashboard(address, "127.0.0.1", 0) as dashboard:
            thread = threading.Thread(target=dashboard.run, daemon=True)
            thread.start()
            places = Places(mesh, dashboard, metrics)
            while f"{given.jobs:,}</b> all" not in places.page("/"):
                time.sleep(0.2)
            rows = measure(places, names[-1], given.repeats)
            print(*markdown.table(["Place", "s, median", "slowest"], rows), sep="\n", flush=True)
            if given.stay:
                print(dashboard.url, mesh.node.management_url, mesh.node.password("monitor"), flush=True)
                time.sleep(given.stay)
            dashboard.stop()
            thread.join(20.0)


if __name__ == "__main__":
    main()
