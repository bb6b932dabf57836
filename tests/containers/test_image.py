"""What is in the images."""

from __future__ import annotations

import json
import subprocess

import pytest

from tests.containers.conftest import IMAGES, SECRET, run

MOST = {"client": 150, "worker": 700, "builder": 870, "cuda": 1050}
"""Megabytes of an image, its base among them."""


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
    size = float(json.loads(run("docker", "image", "inspect", images[target]))[0]["Size"]) / 1e6
    print(f"{images[target]}: {size:.0f} MB")
    assert size <= MOST[target]


def test_the_image_for_gpus_has_a_compiler_for_them(images: dict[str, str]) -> None:
    kernel = 'extern "C" __global__ void one(float* x) { *x = 1; }'
    code = (
        "from tunemesh.stage_workers.graph.device_code import by_library\n"
        f"print(by_library({kernel!r}, 'sm_90')[:4] == b'\\x7fELF')"
    )
    assert run("docker", "run", "--rm", "--entrypoint", "python", images["cuda"], "-c", code) == "True\n"
