"""How long a tenant's job takes while another tenant does its worst, beside the same without it.

A private mesh of the mock engine, whose steps sleep, so that what counts is who waits for whom. The attacker
is a process of its own, on the core of the device, which has nothing to do here; it has a client's account,
and sends as fast as it can. Runs with and without it take turns. Where the broker has a machine of its own,
others feel less of it: here it takes CPU time from them.

    python -m benchmarks.tenants
    python -m benchmarks.tenants --attack queries --attack requests --repeats 3
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import statistics
import time
import uuid
from collections.abc import Iterator
from ctypes import c_double
from multiprocessing.sharedctypes import Synchronized

from benchmarks import markdown
from benchmarks.attacker import ATTACKS, EVE, attack
from tunemesh.broker_config import topology
from tunemesh.broker_config.users import Management
from tunemesh.client import Client
from tunemesh.layout import plan
from tunemesh.mesh import LocalMesh
from tunemesh.shared.accounts import Account
from tunemesh.shared.artifacts import ArtifactStore
from tunemesh.shared.errors import TunemeshError
from tunemesh.shared.messages import FINAL_KINDS, Blob, Level, Request, Settings

ANN = Account("client.acme.ann", "client", "acme")
MODEL = """
tasks: [{name: a, weight: 3}, {name: b}, {name: c}, {name: d}]
durations: {model-update: 0.02, build: 0.02, profile: 0.02}
"""
TRIALS = 256
LIMIT = 120.0
"""Seconds for one job."""
HEADING = 1.0
"""Seconds of an attack before the job begins."""


@contextlib.contextmanager
def attacked(name: str, url: str, core: int) -> Iterator[Synchronized[float]]:
    """While the attack goes on; gives how much was sent."""
    fresh = multiprocessing.get_context("spawn")
    sent = fresh.Value(c_double, 0.0)
    process = fresh.Process(target=attack, args=(name, url, core, sent), daemon=True)
    process.start()
    deadline = time.monotonic() + LIMIT
    while not sent.value and process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(HEADING)
    try:
        yield sent
    finally:
        process.kill()
        process.join()


def seconds_of_a_job(url: str, model: Blob, seed: int) -> float:
    """From the request to the end of a job.

    Raises:
        SystemExit: it does not end well.
    """
    job = f"job-{seed}-{uuid.uuid4().hex[:6]}"
    wanted = Request(
        job=job,
        model=model,
        target="mock",
        engines=["mock"],
        seed=seed,
        level=Level(trials=TRIALS, shared=False),
        settings=Settings(batch=16, chunk=4),
    )
    began = time.monotonic()
    with Client(url, [job], connect_limit=LIMIT) as client:
        client.submit(wanted)
        for event in client.follow([job]):
            if event is not None and event.kind in FINAL_KINDS:
                if event.kind != "done":
                    raise SystemExit(f"the job has ended otherwise: {event.kind}, {event.text}")
                return time.monotonic() - began
            if time.monotonic() - began > LIMIT:
                raise SystemExit(f"the job takes longer than {LIMIT:.0f} s")
    raise SystemExit("nothing more was told of the job")


def measure(attacks: list[str], repeats: int) -> list[list[str]]:
    """A row for each attack."""
    rows = []
    with LocalMesh(plan(None), "mock", ["mock"], strategy="fair") as mesh:
        users = Management(mesh.node.management_url, mesh.node.password("admin"), topology.VHOST)
        host = mesh.url.partition("@")[2]
        urls = {}
        for account in (ANN, EVE):
            password = uuid.uuid4().hex
            users.add(account, password)
            urls[account.user] = f"amqp://{account.user}:{password}@{host}"
        model = ArtifactStore(mesh.artifacts).put(MODEL.encode())
        core = max(os.sched_getaffinity(0))
        seconds_of_a_job(urls[ANN.user], model, 0)  # both tenants are known from now on
        with contextlib.suppress(TunemeshError), Client(urls[EVE.user]) as client:
            client.snapshot()
        for name in attacks:
            ratios, alone, during, rate = [], [], [], []
            for repeat in range(repeats):
                seed = 1 + repeat
                alone.append(seconds_of_a_job(urls[ANN.user], model, seed))
                with attacked(name, urls[EVE.user], core) as sent:
                    before, began = sent.value, time.monotonic()
                    during.append(seconds_of_a_job(urls[ANN.user], model, seed))
                    rate.append((sent.value - before) / (time.monotonic() - began))
                ratios.append(during[-1] / alone[-1])
                time.sleep(2.0)
            rows.append(
                [name, f"{statistics.median(rate):,.0f}", *map(markdown.ranged, (alone, during, ratios))]
            )
            print(*markdown.table(["", *[""] * 4], [rows[-1]])[2:], sep="\n", flush=True)
    return rows


def main() -> None:
    """Run it and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--attack", action="append", choices=sorted(ATTACKS), help="by default all of them")
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    rows = measure(given.attack or list(ATTACKS), given.repeats)
    headers = ["Another tenant floods", "a second", "job alone (s)", "meanwhile (s)", "ratio"]
    print(*markdown.table(headers, rows), sep="\n")


if __name__ == "__main__":
    main()
