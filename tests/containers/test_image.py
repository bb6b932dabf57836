"""What is in the images."""

from __future__ import annotations

import json
import subprocess

import pytest

from tests.containers.conftest import IMAGES, SECRET, run

MOST = {"client": 60, "worker": 760, "builder": 930}
"""Megabytes of an image over its base. What a base of Debian takes is not ours."""


@pytest.mark.parametrize("target", IMAGES)
def test_neither_passwords_nor_history_are_in_an_image(images: dict[str, str], target: str) -> None:
    command = ["docker", "run", "--rm", "--user", "root", "--entrypoint", "grep", images[target]]
    found = subprocess.run(
        [*command, "--recursive", "--files-with-matches", SECRET, "/opt", "/home", "/root", "/artifacts"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (found.returncode, found.stdout, found.stderr) == (1, "", "")
    assert SECRET not in run("docker", "history", "--no-trunc", images[target])


@pytest.mark.parametrize("target", IMAGES)
def test_an_image_has_one_package_of_ours_with_all_its_parts(images: dict[str, str], target: str) -> None:
    parts = ["broker_config", "coordinator", "shared", "stage_workers"]
    code = (
        "from importlib.util import find_spec\n"
        f"print([n for n in {parts} + ['benchmarks', 'tests'] if find_spec(n)])\n"
        f"print([n for n in {parts} if not find_spec('tunemesh.' + n)])"
    )
    command = ("docker", "run", "--rm", "--entrypoint", "python", images[target], "-c", code)
    assert run(*command) == "[]\n[]\n"


@pytest.mark.parametrize("target", IMAGES)
def test_processes_are_not_root(images: dict[str, str], target: str) -> None:
    assert run("docker", "run", "--rm", "--entrypoint", "id", images[target], "-u") != "0\n"


@pytest.mark.parametrize("target", IMAGES)
def test_an_image_is_no_larger_than_what_it_is_for(images: dict[str, str], target: str) -> None:
    def size(name: str) -> float:
        return float(json.loads(run("docker", "image", "inspect", name))[0]["Size"]) / 1e6

    base = run("sed", "-n", r"s/^FROM \(.*\) AS base$/\1/p", "docker/Dockerfile").strip()
    print(f"{images[target]}: {size(images[target]):.0f} MB, its base {size(base):.0f} MB")
    assert size(images[target]) - size(base) <= MOST[target]
