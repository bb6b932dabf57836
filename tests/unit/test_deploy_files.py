"""Files for Kubernetes and systemd, as far as they can be checked without either."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tunemesh.broker_config.topology import DEVICE_QUEUE_PATTERN, stage_queue
from tunemesh.shared.alive import ALIVE

ROOT = Path(__file__).resolve().parents[2]
KUBERNETES = ROOT / "deploy" / "kubernetes"
SYSTEMD = ROOT / "deploy" / "systemd"
KUSTOMIZATION = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())
OF_KEDA = "keda.sh/v1alpha1"
HARDENED = 3.0
"""Exposure that ``systemd-analyze security`` may find: 10 is none held in, and below 3 it says OK."""


def objects() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted(KUBERNETES.glob("*.yaml")):
        if path.name != "kustomization.yaml":
            for each in yaml.safe_load_all(path.read_text()):
                yield path.name, each


def pods() -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Name, labels and specification of every pod."""
    for _, each in objects():
        if "template" in each.get("spec", {}):
            template = each["spec"]["template"]
            yield each["metadata"]["name"], template["metadata"]["labels"], template["spec"]


def test_every_object_is_one_of_kubernetes_with_no_field_that_it_does_not_know() -> None:
    seen = 0
    for name, each in objects():
        if each["apiVersion"] != OF_KEDA:
            kubernetes_validate.validate(each, kubernetes_validate.latest_version(), strict=True)
            seen += 1
        assert name in KUSTOMIZATION["resources"] or each["apiVersion"] == OF_KEDA
    assert seen > 10


def test_selectors_find_their_pods() -> None:
    labels = {name: own for name, own, _ in pods()}
    for _, each in objects():
        spec = each.get("spec", {})
        selector = spec.get("selector") or spec.get("podSelector")
        if selector is not None:
            wanted = selector.get("matchLabels", selector)
            assert any(wanted.items() <= own.items() for own in labels.values()), each["metadata"]["name"]
        if each["kind"] == "ScaledObject":
            assert spec["scaleTargetRef"]["name"] in labels
            assert stage_queue(spec["triggers"][0]["metadata"]["queueName"]).name in labels


def test_volumes_and_keys_of_secrets_exist() -> None:
    generated = {
        each["name"]: {Path(file).name for file in each["files"]}
        for each in (*KUSTOMIZATION["secretGenerator"], *KUSTOMIZATION["configMapGenerator"])
    }
    for name, _, pod in pods():
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        for volume in volumes.values():
            for item in volume.get("secret", {}).get("items", ()):
                assert item["key"] in generated[volume["secret"]["secretName"]], name
        claimed = {
            each["metadata"]["name"] for _, each in objects() if each["kind"] == "PersistentVolumeClaim"
        }
        templates = {"data"} if name == "rabbitmq" else set()
        for mount in pod["containers"][0]["volumeMounts"]:
            assert mount["name"] in set(volumes) | templates, name
        for volume in volumes.values():
            claim = volume.get("persistentVolumeClaim")
            assert claim is None or claim["claimName"] in claimed


def test_every_pod_is_held_in_and_has_a_probe() -> None:
    dockerfile = (ROOT / "docker" / "Dockerfile").read_text()
    found = re.search(rf"{ALIVE}=(\S+)", dockerfile)
    assert found is not None
    for name, _, pod in pods():
        (container,) = pod["containers"]
        assert pod["securityContext"]["runAsNonRoot"], name
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}, name
        assert not container["securityContext"]["allowPrivilegeEscalation"], name
        assert container["resources"]["limits"]["memory"], name
        if name != "rabbitmq":
            assert container["securityContext"]["readOnlyRootFilesystem"], name
            assert found[1] in container["livenessProbe"]["exec"]["command"][-1], name


def test_a_device_has_cores_of_its_own_and_a_queue_after_its_pod() -> None:
    """The static policy gives whole cores to pods that request what they are limited to."""
    (device,) = [(name, pod) for name, _, pod in pods() if "--device" in pod["containers"][0].get("args", ())]
    name, pod = device
    (container,) = pod["containers"]
    assert container["resources"]["requests"] == container["resources"]["limits"]
    assert int(container["resources"]["requests"]["cpu"]) >= 2
    assert container["args"][1] == "$(POD_NAME)"
    assert re.fullmatch(DEVICE_QUEUE_PATTERN, f"{name}-0")


@pytest.fixture(scope="module")
def units(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The units, one instance of each, with a program that is there."""
    folder = tmp_path_factory.mktemp("units")
    for unit in SYSTEMD.glob("*.service"):
        name = unit.name.replace("@.", "@build-cpu.")
        (folder / name).write_text(unit.read_text().replace("/opt/tunemesh/bin/tunemesh", "/bin/true"))
    return sorted(folder.iterdir())


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_finds_nothing_wrong_with_the_units(units: list[Path]) -> None:
    done = subprocess.run(
        ["systemd-analyze", "verify", *map(str, units)], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    for unit in units:
        command = ["systemd-analyze", "security", "--offline=yes", "--no-pager", str(unit)]
        said = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
        level = re.search(r"Overall exposure level for \S+: ([\d.]+)", said)
        assert level is not None
        assert float(level[1]) < HARDENED


def test_units_start_what_the_command_line_has() -> None:
    for unit in SYSTEMD.glob("*.service"):
        (start,) = re.findall(r"^ExecStart=\S+ (\S+)", unit.read_text(), flags=re.MULTILINE)
        assert start in ("worker", "coordinator")
