"""Parts of the cage: control groups, what may be read, device files, and what is said of it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tunemesh import doctor
from tunemesh.stage_workers.sandbox import cage, cgroups, views
from tunemesh.stage_workers.sandbox.cage import Cage

# -- Control groups, on a copy of what the kernel shows ----------------------------------------------------


def kernel(root: Path, mounts: str, groups: str) -> None:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/mounts").write_text(mounts)
    (root / "proc/self/cgroup").write_text(groups)


def second_version(root: Path, passed: str) -> Path:
    kernel(root, "cgroup2 /cg cgroup2 rw 0 0\n", "0::/unit\n")
    group = root / "cg/unit"
    group.mkdir(parents=True)
    (group / "cgroup.subtree_control").write_text(passed)
    return group


@pytest.fixture
def files_of_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """New folders have the files that the kernel would put there."""
    real = Path.mkdir

    def mkdir(path: Path, *rest: int, **more: bool) -> None:
        real(path, *rest, **more)
        if path.name.startswith(cgroups.NAME):
            for name in ("memory.max", "memory.swap.max", "pids.max", "cgroup.procs"):
                (path / name).write_text("max")

    monkeypatch.setattr(Path, "mkdir", mkdir)


def test_a_group_of_the_second_version_limits_all_processes(
    tmp_path: Path, files_of_the_kernel: None
) -> None:
    group = second_version(tmp_path, "cpu memory pids")
    made = cgroups.make(5_000_000, 77, tmp_path)
    assert made.limits == ("memory", "pids")
    (folder,) = made.folders
    assert folder.parent == group
    limits = {file.name: file.read_text() for file in folder.glob("*.max")}
    assert limits == {"memory.max": "5000000", "memory.swap.max": "0", "pids.max": "77"}


def test_a_group_with_processes_is_not_divided_even_where_the_kernel_lets_it(
    tmp_path: Path, files_of_the_kernel: None
) -> None:
    """Passing on ``pids`` alone, which it takes, would keep all groups below from taking processes."""
    group = second_version(tmp_path, "")
    (group / "cgroup.type").write_text("domain")
    (group / "cgroup.procs").write_text(f"{os.getpid()}\n")
    assert cgroups.make(5_000_000, 77, tmp_path) == cgroups.Groups()
    assert (group / "cgroup.subtree_control").read_text() == ""


def test_a_delegated_group_is_divided_once_its_processes_have_moved_down(
    tmp_path: Path, files_of_the_kernel: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = second_version(tmp_path, "memory pids")
    (group / "cgroup.procs").write_text("17\n")
    monkeypatch.setattr(cgroups, "_delegated", lambda asked: asked == group)
    (group / cgroups.BELOW).mkdir()

    def moved(*_: object) -> list[str]:
        there = (group / cgroups.BELOW / "cgroup.procs").exists()
        return [] if there else ["17"]

    (group / "cgroup.type").write_text("domain")
    monkeypatch.setattr(cgroups, "_processes", moved)
    made = cgroups.make(5_000_000, 77, tmp_path)
    assert (group / cgroups.BELOW / "cgroup.procs").read_text() == "17"
    assert made.limits == ("memory", "pids")
    assert made.folders[0].parent == group


def test_a_worker_below_a_delegated_group_makes_its_groups_beside_itself(
    tmp_path: Path, files_of_the_kernel: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit = second_version(tmp_path, "memory pids")
    (tmp_path / "proc/self/cgroup").write_text(f"0::/unit/{cgroups.BELOW}\n")
    own = unit / cgroups.BELOW
    own.mkdir()
    (own / "cgroup.subtree_control").write_text("")
    (own / "cgroup.type").write_text("domain")
    (own / "cgroup.procs").write_text("17\n")
    monkeypatch.setattr(cgroups, "_delegated", lambda asked: asked == unit)
    (folder,) = cgroups.make(5_000_000, 77, tmp_path).folders
    assert folder.parent == unit
    assert (own / "cgroup.subtree_control").read_text() == ""


def test_a_group_that_takes_no_process_limits_nothing(tmp_path: Path, files_of_the_kernel: None) -> None:
    group = second_version(tmp_path, "memory pids")
    made = Path.mkdir

    def mkdir(path: Path, *rest: int, **more: bool) -> None:
        made(path, *rest, **more)
        (path / "cgroup.procs").unlink()
        (path / "cgroup.procs").mkdir()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "mkdir", mkdir)
        assert cgroups.make(5_000_000, 77, tmp_path) == cgroups.Groups()
    assert group.exists()


def test_a_group_that_cannot_be_divided_is_left_alone(tmp_path: Path, files_of_the_kernel: None) -> None:
    group = second_version(tmp_path, "")
    (group / "cgroup.subtree_control").unlink()
    assert cgroups.make(5_000_000, 77, tmp_path) == cgroups.Groups()
    assert list(group.iterdir()) == []


def test_groups_of_the_first_version_are_one_for_each_limit(tmp_path: Path) -> None:
    mounts = "cgroup /m cgroup rw,memory 0 0\ncgroup /p cgroup rw,pids 0 0\ncgroup /c cgroup rw,cpu 0 0\n"
    kernel(tmp_path, mounts, "3:memory:/a\n2:pids:/\n1:cpu:/\n0::/\n")
    (tmp_path / "m/a").mkdir(parents=True)
    (tmp_path / "p").mkdir()
    # Without the kernel's files there is nothing to limit with, and nothing stays behind.
    assert cgroups.make(1, 1, tmp_path).limits == ()
    assert not list((tmp_path / "m/a").iterdir()) + list((tmp_path / "p").iterdir())
    parents = cgroups._parents(tmp_path)
    assert parents == {tmp_path / "m/a": ["memory"], tmp_path / "p": ["pids"]}


def test_groups_of_dead_workers_are_removed(tmp_path: Path, files_of_the_kernel: None) -> None:
    group = second_version(tmp_path, "memory pids")
    dead, living = group / f"{cgroups.NAME}999999999-1", group / f"{cgroups.NAME}{os.getpid()}-1"
    os.mkdir(dead)
    os.mkdir(living)
    made = cgroups.make(1, 1, tmp_path)
    assert (dead.exists(), living.exists()) == (False, True)
    assert all(folder.exists() for folder in made.folders)


# -- What may be read --------------------------------------------------------------------------------------


def test_a_view_has_python_and_its_packages_and_nobodys_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, more = tmp_path / "work", tmp_path / "more"
    work.mkdir()
    more.mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(work)
    monkeypatch.setenv(views.READ, str(more))
    monkeypatch.setattr(sys, "path", [str(work), *sys.path, str(work), str(tmp_path), "relative"])
    found = views.readable({"PYTHONPATH": "", "LD_LIBRARY_PATH": f"{tmp_path}:/usr/lib"})

    def seen(path: str) -> bool:
        return any(path == each or path.startswith(f"{each}/") for each in found)

    assert seen(os.path.realpath(sys.executable))
    assert seen(os.path.realpath(msgspec_file()))
    assert seen(str(Path(views.__file__).resolve()))
    assert seen(str(more))
    for path in (str(work), str(tmp_path), "/etc/passwd", "/etc/shadow", "/tmp", "/var", "/run", "/home"):
        assert not seen(path), path
    assert "/" not in found


def msgspec_file() -> str:
    import msgspec

    return msgspec.__file__


def test_device_files_of_a_gpu_are_for_those_alone_who_measure_on_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cage.views, "gpus", lambda: ["/dev/nvidia0", "/dev/nvidiactl"])
    monkeypatch.setattr(
        cage, "_namespaces", lambda view, devices: Cage("namespaces", 7, False, view, devices)
    )
    monkeypatch.setattr(cage.cgroups, "make", lambda *_: cgroups.Groups())
    monkeypatch.setenv(cage.WANTED, "namespaces")
    for gpu in (True, False):
        made = cage.choose({}, gpu=gpu, memory=1, size=1)
        command = " ".join(made.command(["true"], tmp_path, 1))
        assert ("--dev-bind /dev/nvidia0 /dev/nvidia0" in command) == gpu
        confinement = made.confinement(tmp_path, 1)
        assert ("/dev/nvidia0" in confinement.devices, confinement.gpu) == (gpu, gpu)


# -- What is said ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("wanted", "ok"), [("bare", False), ("auto", True)])
def test_the_doctor_says_which_cage_there_is(wanted: str, ok: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cage, "_namespaces", lambda view, devices: "the package bubblewrap is missing")
    monkeypatch.setattr(cage, "_landlock", lambda view, devices: Cage("landlock", 7))
    monkeypatch.setattr(cage.cgroups, "make", lambda *_: cgroups.Groups(limits=("pids", "memory")))
    monkeypatch.setenv(cage.WANTED, wanted)
    finding = doctor._cage()
    assert finding.ok is ok
    if ok:
        assert finding.found.startswith("landlock, own user")
        assert finding.found.endswith("cgroup (memory, pids)")
    else:
        assert finding.found == "bare"
        assert "leave out TUNEMESH_CAGE=bare" in finding.advice


def test_the_doctor_says_why_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cage, "_namespaces", lambda view, devices: "the package bubblewrap is missing")
    monkeypatch.setattr(cage, "_landlock", lambda view, devices: "this kernel has no Landlock")
    monkeypatch.delenv(cage.WANTED, raising=False)
    finding = doctor._cage()
    assert (finding.ok, finding.found) == (False, "none")
    assert "bubblewrap is missing" in finding.advice
