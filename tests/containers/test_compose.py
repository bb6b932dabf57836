"""The mesh of the compose file, as it ships."""

from __future__ import annotations

import json
from pathlib import Path

from tests.containers.conftest import Compose, run, wait_for_status

DEVICE = "profile-cpu-0"
DEVICE_CORE = "1"
MODEL = """
tasks:
  - {name: conv, weight: 2}
  - {name: dense}
durations: {model-update: 0.05, build: 0.02, profile: 0.02}
"""


def test_a_job_is_tuned_and_its_results_are_fetched(compose: Compose, tmp_path: Path) -> None:
    wait_for_status(compose, DEVICE)
    model = tmp_path / "model.yaml"
    model.write_text(MODEL)
    model.chmod(0o644)
    tmp_path.chmod(0o755)
    mounted = ("run", "--rm", "--volume", f"{model}:/model.yaml:ro")
    submit = ("client", "submit", "/model.yaml", "--engine", "mock", "--trials", 16)
    job = compose(*mounted, *submit).split()[-1]
    compose("run", "--rm", "client", "watch", job)
    compose("run", "--rm", "client", "fetch", job, "--out", "/artifacts/results")
    results = f"{compose.containers()['coordinator']}:/artifacts/results/{job}"
    run("docker", "cp", results, tmp_path / "results")
    report = json.loads((tmp_path / "results" / "report.json").read_text())
    assert (report["job"], report["trials"]) == (job, 16)


def test_nothing_else_runs_on_the_core_of_the_device(compose: Compose) -> None:
    wait_for_status(compose, DEVICE)
    for service, container in compose.containers().items():
        lists = "grep -H Cpus_allowed_list /proc/[0-9]*/status | sort -u"
        allowed = {
            line.split()[-1] for line in run("docker", "exec", container, "sh", "-c", lists).splitlines()
        }
        if service != DEVICE:
            assert allowed == {"0"}, service
        else:
            # The worker itself, and what measures. Both cores: Docker's init and the command of this test.
            assert {"0", DEVICE_CORE} <= allowed
