"""Everything that needs a GPU, in one run of a few minutes: ``scripts/gpu_check.sh`` calls it.

    python -m benchmarks.gpu_check --out gpu_check.json

What is looked at: the machine, how its GPU is found, a mesh with one CUDA device that tunes two kernels and a
small network by MetaSchedule and checks what they compute (its workers' memory limits hold with a CUDA
context), the same with two more kernels by templates of CUDA C++, the tests marked ``gpu``, and PyTorch and
ONNX Runtime on the same GPU, where they are installed. The file is written anew after every part, so that a
run that is cut short leaves what it has.

Exit codes: 0 all is well, 1 something failed, 3 there is no GPU to check.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
from msgspec import Struct
from onnx import TensorProto, helper

from benchmarks.machine import ROOT
from tunemesh.report import JobReport, Report
from tunemesh.shared.errors import TunemeshError
from tunemesh.stage_workers.devices.devices import Device, parse_device
from tunemesh.stage_workers.engines import METASCHEDULE, TEMPLATE, missing

NO_GPU = 3
PARTS = ("machine", "discovery", "doctor", "mesh", "templates", "pytorch", "onnxruntime", "tests")
PACKAGES = ("apache-tvm", "apache-tvm-ffi", "numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "torch")
QUERY = "name,driver_version,memory.total,compute_cap,clocks.max.sm"
NETWORK = "tiny_cnn"
MATMUL, CONVOLUTION = "matmul_1024", "conv2d_56_64"
DEPTHWISE, SOFTMAX = "depthwise_56_128", "softmax_4096_512"
TRIALS = 32
"""For each model."""
WARM, RUNS = 20, 100

Part = dict[str, Any]


class Missing(Exception):
    """Something that a part needs is not on this machine; the text says what, and how to get it."""


class Check(Struct):
    """All parts so far, and the time that is left for more."""

    out: Path
    deadline: float
    only: tuple[str, ...] = ()
    parts: dict[str, Part] = {}

    def run(self, name: str, part: Callable[[float], Part]) -> Part:
        """Do one part and write down what came of it. ``part`` gets the seconds that it may take.

        Parts that nobody asked for are not done: ``ok`` is None.
        """
        if self.only and name not in self.only:
            return {"ok": None}
        began = time.monotonic()
        try:
            found: Part = {"ok": True}
            found |= part(max(self.deadline - began, 1.0))
        except Missing as error:
            found = {"ok": None, "missing": str(error)}
        except subprocess.TimeoutExpired as error:
            found = {"ok": False, "error": f"did not end in {error.timeout:.0f} s"}
        except Exception as error:  # whatever it is, the other parts go on
            found = {"ok": False, "error": f"{type(error).__name__}: {error}"}
        found["seconds"] = round(time.monotonic() - began, 1)
        self.parts[name] = found
        self.out.parent.mkdir(parents=True, exist_ok=True)
        self.out.write_text(json.dumps(self.parts, indent=2) + "\n")
        word = {True: "ok", False: "FAILED", None: "left out"}[found["ok"]]
        print(
            f"{name}: {word} ({found['seconds']} s) {found.get('missing') or found.get('error') or ''}",
            flush=True,
        )
        return found


# -- Parts --------------------------------------------------------------------------------------------------


def machine(_limit: float) -> Part:
    """GPU, driver, compiler, and versions of what matters."""
    if shutil.which("nvidia-smi") is None:
        raise Missing("no NVIDIA GPU: nvidia-smi is not on the PATH; install NVIDIA's driver")
    said = subprocess.run(
        ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    rows = said.stdout.strip().splitlines()
    if said.returncode or not rows:
        raise Missing(f"no NVIDIA GPU: nvidia-smi says {(said.stdout + said.stderr).strip()[:200]!r}")
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "gpu": dict(zip(QUERY.split(","), (each.strip() for each in rows[0].split(",")), strict=True)),
        "gpus": len(rows),
        "nvcc": shutil.which("nvcc"),
        "python": platform.python_version(),
        "cores": len(os.sched_getaffinity(0)),
        "versions": versions,
    }


def target_of(compute_capability: str) -> str:
    """A target for any NVIDIA GPU: ``9.0`` gives that of an H100."""
    return json.dumps({"kind": "cuda", "arch": f"sm_{compute_capability.replace('.', '')}"})


def discovery(_limit: float) -> Part:
    """The GPU as a worker finds it."""
    device: Device = parse_device("cuda:0")
    return {"device": device.name, "locks": list(device.locks), "environment": dict(device.environment)}


def doctor(limit: float) -> Part:
    """What ``tunemesh doctor`` says of this machine: the cage of its workers, compilers, devices."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "tunemesh", "doctor"],
        capture_output=True,
        text=True,
        timeout=min(limit, 120.0),  # it imports TVM to run a kernel
        check=False,
    )
    return {"exit": done.returncode, "said": (done.stdout + done.stderr).strip().splitlines()}


def mesh(folder: Path, target: str, engine: str, names: Sequence[str], limit: float) -> Part:
    """Models at once on a mesh with one CUDA device, tuned by one engine."""
    if why := missing(engine):
        raise Missing(why)
    write_models(folder / "models")
    models = [folder / "models" / f"{name}.onnx" for name in names]
    out = folder / f"tuned-{engine}"
    done = subprocess.run(
        [
            sys.executable,
            "-P",
            "-m",
            "tunemesh",
            "tune",
            *map(str, models),
            "--target",
            target,
            "--device",
            "cuda:0",
            "--engine",
            engine,
            "--trials",
            str(TRIALS),
            "--known",
            "never",
            "--out",
            str(out),
        ],
        capture_output=True,
        text=True,
        timeout=limit,
        check=False,
        cwd=folder,
    )
    log = folder / f"tune-{engine}.log"
    log.write_text(done.stdout + done.stderr)
    reports = sorted(out.glob("*/report.json"))
    found = {report.name: _figures(report) for report in map(_report, reports)}
    words = (done.stderr or done.stdout).strip().splitlines()
    if done.returncode or len(found) < len(models):
        return {"ok": False, "models": found, "error": f"tune ended with {done.returncode}: {words[-3:]}"}
    unmeasured = [name for name, figures in found.items() if not figures["outcomes"].get("measured")]
    return {"ok": not unmeasured, "models": found, "log": str(log)}


def _report(path: Path) -> JobReport:
    """Of a job that is done, or of one that failed."""
    failed = msgspec.json.decode(path.read_bytes(), type=JobReport)
    return failed if failed.error else msgspec.json.decode(path.read_bytes(), type=Report)


def _figures(report: JobReport) -> Part:
    outcomes: dict[str, int] = {}
    for task in report.tasks:
        for outcome, count in task.outcomes.items():
            outcomes[outcome] = outcomes.get(outcome, 0) + count
    latencies = (
        {"before_us": report.latency_before_s * 1e6, "after_us": report.latency_after_s * 1e6}
        if isinstance(report, Report)
        else {}
    )
    return {
        **{name: round(value, 1) for name, value in latencies.items()},
        "error": report.error,
        "trials": report.trials,
        "outcomes": outcomes,
        "errors": sorted({task.last_error for task in report.tasks if task.last_error})[:5],
        "tasks": {task.name: {"untuned_s": task.untuned_s, "best_s": task.best_s} for task in report.tasks},
    }


def tests(limit: float) -> Part:
    """The tests marked ``gpu``."""
    try:
        importlib.metadata.version("pytest")
    except importlib.metadata.PackageNotFoundError:
        raise Missing("pytest is not installed") from None
    # Only files that have some: others may import packages that this machine lacks.
    mark = "@pytest.mark." + "gpu"
    files = [str(path) for path in sorted((ROOT / "tests").rglob("test_*.py")) if mark in path.read_text()]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", *files],
        capture_output=True,
        text=True,
        timeout=limit,
        check=False,
        cwd=ROOT,
    )
    words = done.stdout.strip().splitlines()
    return {"ok": done.returncode == 0, "said": words[-12:]}


def pytorch(_limit: float) -> Part:
    """Both kernels in PyTorch: single precision, without TF32, as the tuned ones compute."""
    try:
        import torch
    except ImportError:
        raise Missing("PyTorch is not installed") from None
    if not torch.cuda.is_available():
        raise Missing("PyTorch finds no GPU")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    left, right = (torch.rand(1024, 1024, device="cuda") for _ in range(2))
    data, weights = torch.rand(1, 64, 56, 56, device="cuda"), torch.rand(64, 64, 3, 3, device="cuda")
    runs = {
        MATMUL: lambda: left @ right,
        CONVOLUTION: lambda: torch.relu(torch.nn.functional.conv2d(data, weights, padding=1)),
    }
    return {f"{name}_us": _median_us(run, torch.cuda.synchronize) for name, run in runs.items()}


def onnx_runtime(folder: Path, _limit: float) -> Part:
    """All models in ONNX Runtime on the GPU."""
    try:
        import onnxruntime
    except ImportError:
        raise Missing("ONNX Runtime is not installed") from None
    provider = "CUDAExecutionProvider"
    if provider not in onnxruntime.get_available_providers():
        raise Missing(f"this ONNX Runtime has no {provider}: pip install onnxruntime-gpu")
    found: Part = {}
    for path in sorted((folder / "models").glob("*.onnx")):
        session = onnxruntime.InferenceSession(str(path), providers=[(provider, {"use_tf32": "0"})])
        binding = session.io_binding()
        for value in session.get_inputs():
            array = np.random.default_rng(0).random(value.shape, dtype=np.float32)
            binding.bind_ortvalue_input(
                value.name, onnxruntime.OrtValue.ortvalue_from_numpy(array, "cuda", 0)
            )
        for value in session.get_outputs():
            binding.bind_output(value.name, "cuda")

        def run(session: Any = session, binding: Any = binding) -> None:
            session.run_with_iobinding(binding)
            binding.synchronize_outputs()

        found[f"{path.stem}_us"] = _median_us(run, lambda: None)
    return found


def _median_us(run: Callable[[], object], synchronise: Callable[[], object]) -> float:
    times = []
    for number in range(WARM + RUNS):
        synchronise()
        began = time.perf_counter()
        run()
        synchronise()
        if number >= WARM:
            times.append(time.perf_counter() - began)
    return round(statistics.median(times) * 1e6, 1)


# -- Models -------------------------------------------------------------------------------------------------


def write_models(folder: Path) -> list[Path]:
    """A matrix product, a convolution with ReLU, a depthwise one, a softmax, and a small network."""
    folder.mkdir(parents=True, exist_ok=True)
    single = TensorProto.FLOAT
    square = [helper.make_tensor_value_info(name, single, [1024, 1024]) for name in ("a", "b", "y")]
    image = helper.make_tensor_value_info("x", single, [1, 64, 56, 56])
    weights = helper.make_tensor_value_info("w", single, [64, 64, 3, 3])
    after = helper.make_tensor_value_info("y", single, [1, 64, 56, 56])
    channels = helper.make_tensor_value_info("x", single, [1, 128, 56, 56])
    filters = helper.make_tensor_value_info("w", single, [128, 1, 3, 3])
    filtered = helper.make_tensor_value_info("y", single, [1, 128, 56, 56])
    rows = [helper.make_tensor_value_info(name, single, [4096, 512]) for name in ("x", "y")]
    depthwise = [helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1], group=128)]
    softmax = [helper.make_node("Softmax", ["x"], ["y"])]
    convolution = [
        helper.make_node("Conv", ["x", "w"], ["z"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["z"], ["y"]),
    ]
    graphs = {
        MATMUL: helper.make_graph(
            [helper.make_node("MatMul", ["a", "b"], ["y"])], MATMUL, square[:2], square[2:]
        ),
        CONVOLUTION: helper.make_graph(convolution, CONVOLUTION, [image, weights], [after]),
        DEPTHWISE: helper.make_graph(depthwise, DEPTHWISE, [channels, filters], [filtered]),
        SOFTMAX: helper.make_graph(softmax, SOFTMAX, rows[:1], rows[1:]),
    }
    paths = []
    for name, graph in graphs.items():
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        paths.append(folder / f"{name}.onnx")
        onnx.save(model, str(paths[-1]))
    maker = ROOT / "examples" / "make_models.py"
    subprocess.run(
        [sys.executable, str(maker), str(folder), NETWORK], check=True, timeout=120, capture_output=True
    )
    return [*paths, folder / f"{NETWORK}.onnx"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all parts. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gpu_check" / "gpu_check.json")
    parser.add_argument("--seconds", type=float, default=420.0, help="for all parts together")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=(), help="these parts alone")
    given = parser.parse_args(arguments)
    only = tuple(given.only and [PARTS[0], *given.only])
    check = Check(out=given.out.resolve(), deadline=time.monotonic() + given.seconds, only=only)
    folder = check.out.parent
    seen = check.run("machine", machine)
    if not seen["ok"]:
        return NO_GPU if seen["ok"] is None else 1
    target = target_of(seen["gpu"]["compute_cap"])
    check.run("discovery", discovery)
    check.run("doctor", doctor)
    both = (MATMUL, CONVOLUTION, NETWORK)
    check.run("mesh", lambda limit: mesh(folder, target, METASCHEDULE, both, limit))
    own = (*both, DEPTHWISE, SOFTMAX)
    check.run("templates", lambda limit: mesh(folder, target, TEMPLATE, own, limit))
    check.run("pytorch", pytorch)
    check.run("onnxruntime", lambda limit: onnx_runtime(folder, limit))
    check.run("tests", tests)
    return int(any(part["ok"] is False for part in check.parts.values()))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except TunemeshError as error:
        sys.exit(str(error))
