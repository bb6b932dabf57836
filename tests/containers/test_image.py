"""What is in the image."""

from __future__ import annotations

import subprocess

from tests.containers.conftest import SECRET, run


def test_neither_passwords_nor_history_are_in_the_image(image: str) -> None:
    command = ["docker", "run", "--rm", "--user", "root", "--entrypoint", "grep", image]
    found = subprocess.run(
        [*command, "--recursive", "--files-with-matches", SECRET, "/opt", "/home", "/root", "/artifacts"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (found.returncode, found.stdout, found.stderr) == (1, "", "")


def test_the_image_has_one_package_of_ours_with_all_its_parts(image: str) -> None:
    parts = ["broker_config", "coordinator", "shared", "stage_workers"]
    code = (
        "from importlib.util import find_spec\n"
        f"print([n for n in {parts} + ['benchmarks', 'tests'] if find_spec(n)])\n"
        f"print([n for n in {parts} if not find_spec('tunemesh.' + n)])"
    )
    assert run("docker", "run", "--rm", "--entrypoint", "python", image, "-c", code) == "[]\n[]\n"


def test_processes_are_not_root(image: str) -> None:
    assert run("docker", "run", "--rm", "--entrypoint", "id", image, "-u") != "0\n"
