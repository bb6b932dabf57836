"""The mesh of the compose file, as it ships."""

from __future__ import annotations

import json
import time
from pathlib import Path

from examples import make_models
from tests.containers.conftest import Compose, run, wait_for_status

DEVICE = "profile-cpu-0"
DEVICE_CORE = "1"
TRIALS = 8
JOB_LIMIT = 300.0
HEALTH_LIMIT = 120.0


def test_a_job_is_tuned_and_its_results_are_fetched(compose: Compose, tmp_path: Path) -> None:
    wait_for_status(compose, DEVICE)
    model = tmp_path / "matmul_128.onnx"
    model.write_bytes(make_models.matmul_128().SerializeToString())
    model.chmod(0o644)
    tmp_path.chmod(0o755)
    mounted = ("run", "--rm", "--volume", f"{model}:/model.onnx:ro", "client")
    job = compose(*mounted, "submit", "/model.onnx", "--trials", TRIALS).split()[-1]
    compose("run", "--rm", "client", "watch", job, timeout=JOB_LIMIT)
    compose("run", "--rm", "client", "fetch", job, "--out", "/artifacts/results")
    results = f"{compose.containers()['coordinator']}:/artifacts/results/{job}"
    run("docker", "cp", results, tmp_path / "results")
    report = json.loads((tmp_path / "results" / "report.json").read_text())
    assert report["speedup"] > 1
    assert (report["job"], report["trials"]) == (job, TRIALS)


def test_every_service_gets_healthy_and_no_password_is_in_its_environment(compose: Compose) -> None:
    wait_for_status(compose, DEVICE)
    deadline = time.monotonic() + HEALTH_LIMIT
    states: dict[str, str] = {}
    while time.monotonic() < deadline and set(states.values()) != {"healthy"}:
        inspected = {
            name: json.loads(run("docker", "inspect", each))[0] for name, each in compose.containers().items()
        }
        states = {name: each["State"]["Health"]["Status"] for name, each in inspected.items()}
        time.sleep(2)
    assert set(states.values()) == {"healthy"}, states
    for name, each in inspected.items():
        assert "-of-a-test" not in json.dumps(each["Config"]), name
        assert name == "rabbitmq" or each["HostConfig"]["ReadonlyRootfs"], name


def test_the_standby_takes_over(compose: Compose) -> None:
    wait_for_status(compose, DEVICE)
    run("docker", "kill", compose.containers()["coordinator"])
    wait_for_status(compose, DEVICE)
    compose("up", "--detach")


def cores(container: str) -> set[tuple[str, str]]:
    """Processes of a container, and the cores that they may use."""
    listed = run("docker", "exec", container, "sh", "-c", "grep -H Cpus_allowed_list /proc/[0-9]*/status")
    return {(line.split(":")[0], line.split()[-1]) for line in listed.splitlines()}


def test_nothing_else_runs_on_the_core_of_the_device(compose: Compose) -> None:
    wait_for_status(compose, DEVICE)
    for service, container in compose.containers().items():
        # What Docker starts for a health check has no place of its own for a moment: it is not seen twice.
        seen = cores(container)
        time.sleep(1.0)
        allowed = {each for _, each in seen & cores(container)}
        if service != DEVICE:
            assert allowed == {"0"}, service
        else:
            # The worker itself, and what measures. Both cores: Docker's init.
            assert {"0", DEVICE_CORE} <= allowed
