"""A finished model as something that runs elsewhere: in Python, in C++, in PyTorch, in ONNX Runtime.

Everything that is exported runs ``model.so`` in TVM's virtual machine, which is a library of 3 MB: it is
shipped along. So what runs there is what was measured here.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from tunemesh.shared.errors import BadInput, TunemeshError, unusable
from tunemesh.shared.text import nearest

Kind = Literal["python", "cpp", "torch", "onnx"]
KINDS: tuple[str, ...] = get_args(Kind)

RUNTIME = ("libtvm_runtime.so", "libtvm_runtime_extra.so")
"""TVM's virtual machine with what its kernels are given, and functions that some models call: sorting."""
FFI = "libtvm_ffi.so"
"""What both are based on. Python has it with the package apache-tvm-ffi."""
ONNX_OPSET, ONNX_IR = 17, 8
ONNX_TYPES = {
    "float32": "FLOAT",
    "float64": "DOUBLE",
    **{name: name.upper() for name in ("bool", "float16", "bfloat16", "int8", "int16", "int32", "int64")},
    **{name: name.upper() for name in ("uint8", "uint16", "uint32", "uint64")},
}
"""What ONNX calls the types that ``onnx_op.cc`` knows."""
COMPILE_LIMIT = 300.0
"""Seconds that a compiler may take for a file of 150 lines."""

_HERE = Path(__file__).parent / "exports"


def export(result: Path, target: str, kind: str, to: Path) -> Path:
    """Write the model of a result in a form that runs without Tunemesh.

    Args:
        result: the folder of a finished job.
        target: canonical, from its report.
        kind: one of :data:`KINDS`.
        to: a folder, made if missing.

    Returns:
        ``to``.

    Raises:
        BadInput: there is no such kind, no such result, or it is for a GPU; the folder cannot be written.
        TunemeshError: the compiler that ``onnx`` needs is missing or fails.
    """
    check_kind(kind)
    check_target(target)
    if to.resolve() == result.resolve():
        raise BadInput(f"{to} holds the result itself: export it to another folder")
    try:
        signature = json.loads((result / "signature.json").read_bytes())
        signature["target"] = json.loads(target)
        to.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(result / "model.so", to / "model.so")
        (to / "signature.json").write_text(json.dumps(signature, indent=2) + "\n")
        for library in RUNTIME:
            shutil.copyfile(runtime_folder() / library, to / library)
        _copy_licence("apache-tvm", to)
        shutil.copyfile(_HERE / f"{kind}.md", to / "README.md")
        _WRITERS[kind](signature, to)
        for path in [to / "model.so", *(to / library for library in RUNTIME)]:
            path.chmod(0o644)
    except OSError as error:
        raise unusable(f"cannot export {result} to {to}", error) from None
    return to


def check_kind(kind: str) -> None:
    """Refuse a kind of export that there is not.

    Raises:
        BadInput: it is none of :data:`KINDS`.
    """
    if kind not in KINDS:
        raise BadInput(
            f"there is no kind of export {kind!r}; known: {', '.join(KINDS)}{nearest(kind, KINDS)}"
        )


def check_target(target: str) -> None:
    """Refuse a canonical target whose models can be run and exported by other means only.

    Raises:
        BadInput: it is no CPU.
    """
    if not target.startswith("{"):
        raise BadInput(f"the result for {target} is no model that can run")
    if (kind := json.loads(target)["kind"]) != "llvm":
        raise BadInput(
            f"the model is for {kind}: only models for CPUs can be run and exported here;"
            " run its model.so in tvm.relax.VirtualMachine on the GPU"
        )


def runtime_folder() -> Path:
    """Where TVM's libraries lie.

    Raises:
        TunemeshError: TVM is not installed.
    """
    return _package("tvm") / "lib"


def _package(name: str) -> Path:
    found = importlib.util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        raise TunemeshError(f"the Python package {name} is not installed")
    return Path(found.submodule_search_locations[0])


def _copy_licence(distribution: str, to: Path) -> None:
    for file in importlib.metadata.files(distribution) or []:
        if file.name in ("LICENSE", "NOTICE") and ".dist-info" in str(file):
            shutil.copyfile(str(file.locate()), to / f"{file.name}.{distribution}")


def _write_python(signature: Mapping[str, Any], to: Path) -> None:
    shutil.copyfile(_HERE / "tuned_model.py", to / "tuned_model.py")
    version = importlib.metadata.version("apache-tvm-ffi")
    (to / "requirements.txt").write_text(f"apache-tvm-ffi=={version}\nnumpy\n")


def _write_torch(signature: Mapping[str, Any], to: Path) -> None:
    _write_python(signature, to)
    shutil.copyfile(_HERE / "tuned_torch.py", to / "tuned_torch.py")
    with (to / "requirements.txt").open("a") as file:
        file.write("torch\n")


def _write_cpp(signature: Mapping[str, Any], to: Path) -> None:
    _write_sources(signature, to)
    shutil.copyfile(_HERE / "main.cc", to / "main.cc")


def _write_sources(signature: Mapping[str, Any], to: Path) -> None:
    """What every C++ program needs: headers, TVM's base library, the signature, and how to build it."""
    package = _package("tvm_ffi")
    shutil.copyfile(package / "lib" / FFI, to / FFI)
    for part in ("tvm", "dlpack"):
        shutil.copytree(package / "include" / part, to / "include" / part, dirs_exist_ok=True)
    _copy_licence("apache-tvm-ffi", to)
    for name in ("tuned_model.h", "Makefile"):
        shutil.copyfile(_HERE / name, to / name)
    (to / "signature.h").write_text(_signature_header(signature))


def _signature_header(signature: Mapping[str, Any]) -> str:
    lines = [
        "// What the model takes and gives, in its order, for each set of shapes.",
        "#pragma once",
        "",
        '#include "tuned_model.h"',
        "",
        "static const std::vector<tuned::Variant> kVariants = {",
    ]
    for variant in signature["variants"]:
        lines.append(f"    {{{cpp_literal(variant['function'])},")
        for role, end in (("inputs", ","), ("outputs", "},")):
            tensors = ", ".join(map(_described, variant[role]))
            lines.append(f"     {{{tensors}}}{end}")
    return "\n".join([*lines, "};"]) + "\n"


def _described(tensor: Mapping[str, Any]) -> str:
    name, dtype = map(cpp_literal, (tensor["name"], tensor["dtype"]))
    return f"{{{name}, {{{', '.join(map(str, tensor['shape']))}}}, {dtype}}}"


def cpp_literal(text: str) -> str:
    """A string of C++."""
    plain = (
        chr(byte) if 32 <= byte < 127 and chr(byte) not in '"\\?' else f"\\{byte:03o}"
        for byte in text.encode()
    )
    return f'"{"".join(plain)}"'


def _write_onnx(signature: Mapping[str, Any], to: Path) -> None:
    import onnx

    inputs, outputs = (
        [_value(alike) for alike in zip(*(variant[role] for variant in signature["variants"]), strict=True)]
        for role in ("inputs", "outputs")
    )
    names = [[value.name for value in values] for values in (inputs, outputs)]
    node = onnx.helper.make_node("Model", *names, name="tuned", domain="tuned")
    graph = onnx.helper.make_graph([node], "tuned", inputs, outputs)
    opsets = [onnx.helper.make_opsetid("", ONNX_OPSET), onnx.helper.make_opsetid("tuned", 1)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=ONNX_IR)
    (to / "model.onnx").write_bytes(model.SerializeToString())
    _write_sources(signature, to)
    for name in ("onnx_op.cc", "ort_abi.h"):
        shutil.copyfile(_HERE / name, to / name)
    _compile(to)


def _value(variants: Sequence[Mapping[str, Any]]) -> Any:
    """An input or output as ONNX describes it: with the lengths that all variants have."""
    import onnx

    name, dtype = variants[0]["name"], variants[0]["dtype"]
    if dtype not in ONNX_TYPES:
        raise BadInput(f"a custom operator of ONNX Runtime cannot take or give {name}: it is {dtype}")
    kind = onnx.TensorProto.DataType.Value(ONNX_TYPES[dtype])
    shapes = [variant["shape"] for variant in variants]
    if len({len(shape) for shape in shapes}) > 1:
        return onnx.helper.make_tensor_value_info(name, kind, None)
    lengths = [
        sizes[0] if len(set(sizes)) == 1 and sizes[0] >= 0 else f"{name}_{axis}"
        for axis, sizes in enumerate(zip(*shapes, strict=True))
    ]
    return onnx.helper.make_tensor_value_info(name, kind, lengths)


def _compile(folder: Path) -> None:
    """The library of the operator, from what lies in ``folder``."""
    compiler = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    if compiler is None or shutil.which("make") is None:
        raise TunemeshError(
            "the export for ONNX Runtime needs make and a C++ compiler: install g++ or clang++"
        )
    try:
        built = subprocess.run(
            ["make", f"CXX={compiler}", "libtuned_model.so"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=COMPILE_LIMIT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise TunemeshError(f"{compiler} has not compiled the operator in {COMPILE_LIMIT:.0f} s") from None
    if built.returncode != 0:
        said = built.stderr.splitlines()
        cause = next((line for line in said if "error" in line), said[0] if said else "no reason given")
        raise TunemeshError(f"{compiler} cannot compile the operator: {cause}")


_WRITERS: dict[str, Callable[[Mapping[str, Any], Path], None]] = {
    "python": _write_python,
    "cpp": _write_cpp,
    "torch": _write_torch,
    "onnx": _write_onnx,
}
