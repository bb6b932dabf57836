"""From a compiled module to a shared object."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tunemesh.shared.errors import TunemeshError
from tunemesh.stage_workers.graph import weights

IMPORTS = "imports.bin"
"""The file of what a module imports: other modules, and the constants of a model."""
PREFIX = "__tvm_ffi_"
"""Before the names of functions in shared objects."""
IMPORTS_SYMBOL = "__tvm_ffi__library_bin"
"""Where TVM looks for it in a shared object."""


def link(module: Any, parts: Mapping[str, bytes] = MappingProxyType({})) -> bytes:
    """The bytes of a shared object with ``module`` (a TVM runtime module or executable), all it imports, and
    ``parts``: relocatable objects, by the symbol of the one function that each exports.

    Raises:
        TunemeshError: when there is no linker, or it fails.
    """
    import tvm

    with tempfile.TemporaryDirectory(prefix="tunemesh-link-") as folder:
        path = Path(folder, "module.so")
        for symbol, file in zip(parts, _written(parts.values(), folder), strict=True):
            module.mod.import_module(tvm.runtime.load_static_library(file, [symbol]))
        module.export_library(
            str(path), fcompile=_link_objects, fpack_imports=_pack_imports, workspace_dir=folder
        )
        return path.read_bytes()


def link_objects(objects: Sequence[bytes], names: Mapping[str, str] = MappingProxyType({})) -> bytes:
    """The bytes of a shared object made of relocatable ones that import nothing.

    Args:
        names: further names of functions, and the symbols that these have in the objects.

    Raises:
        TunemeshError: when there is no linker, or it fails.
    """
    with tempfile.TemporaryDirectory(prefix="tunemesh-link-") as folder:
        path = Path(folder, "module.so")
        _link_objects(str(path), _written(objects, folder), names)
        return path.read_bytes()


def _written(objects: Iterable[bytes], folder: str) -> list[str]:
    """Files with these objects."""
    files = []
    for number, code in enumerate(objects):
        path = Path(folder, f"part{number}.o")
        path.write_bytes(code)
        files.append(str(path))
    return files


def _link_objects(
    output: str, objects: list[str], names: Mapping[str, str] = MappingProxyType({}), **_: Any
) -> None:
    """Link with ``ld`` itself: 4 ms, where a compiler driver takes 100 to 170 ms to come to the same call."""
    folder = Path(output).parent
    # TVM writes a C file with nothing in it for a model without kernels.
    inputs = [each for each in objects if Path(each).name != IMPORTS and not each.endswith(".c")]
    if (folder / IMPORTS).exists():
        # The linker makes the symbol from the file's name as given.
        start = f"_binary_{IMPORTS.replace('.', '_')}_start"
        packed = ["--format=binary", IMPORTS]
        if not inputs:
            # Of this file alone the linker makes a library that no loader takes.
            _run_linker(["--relocatable", "-o", f"{IMPORTS}.o", *packed], folder)
            packed = [f"{IMPORTS}.o"]
        inputs += [f"--defsym={IMPORTS_SYMBOL}={start}", *packed]
    inputs += [f"--defsym={PREFIX}{name}={PREFIX}{symbol}" for name, symbol in names.items()]
    _run_linker(["-shared", "-z", "noexecstack", "-o", output, *inputs], folder)


def _run_linker(arguments: Sequence[str], folder: Path) -> None:
    if shutil.which("ld") is None:
        raise TunemeshError("no linker on this machine: install binutils (ld)")
    result = subprocess.run(["ld", *arguments], capture_output=True, text=True, check=False, cwd=folder)
    if result.returncode:
        raise TunemeshError(f"ld failed: {result.stderr.strip()}")


def _pack_imports(module: Any, _system: bool, _prefix: str, folder: str) -> str:
    """The file with what a module imports, for the linker to take as it is. TVM would have LLVM write an
    object with it, which holds several copies of it and takes ten seconds for 400 MB."""
    import tvm_ffi

    packed = tvm_ffi.get_global_func("runtime.ModulePackImportsToTensor")(module)
    path = Path(folder, IMPORTS)
    path.write_bytes(weights.bytes_of(packed))
    return str(path)
