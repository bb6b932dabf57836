"""One module for several sets of shapes: an entry function for each, and what they have in common once.

A variant is read and optimised as a module of its own, whose entry is ``main``, so that nothing else has to
know of several. They are joined where they are stored, where tasks are taken out of them, and where the model
is compiled.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from tunemesh.shared.errors import BadModel
from tunemesh.stage_workers.graph import workloads

MAIN = "main"


def entries(count: int) -> list[str]:
    """What the entry functions of so many variants are called."""
    return [MAIN] if count == 1 else [f"{MAIN}_{number}" for number in range(count)]


def entries_of(module: Any) -> list[str]:
    """The names of the entry functions that a module has, in order."""
    names = {str(variable.name_hint) for variable in module.get_global_vars()}
    if MAIN in names:
        return [MAIN]
    return [name for name in entries(len(names) + 1) if name in names]


def join(modules: Sequence[Any]) -> Any:
    """The module with the functions of all ``modules``, whose entries are called as :func:`entries` says.

    TIR functions that are the same, and constants with the same bytes, are there once.

    Raises:
        BadModel: functions call each other in a way that cannot be renamed.
    """
    if len(modules) == 1:
        return modules[0]
    from tvm import relax

    builder = relax.BlockBuilder()
    constants: dict[bytes, Any] = {}
    for entry, module in zip(entries(len(modules)), modules, strict=True):
        _Joining(builder, constants, module, entry).add(MAIN)
    joined = builder.get()
    return joined.with_attrs(modules[0].attrs) if modules[0].attrs else joined


def split(module: Any) -> list[Any]:
    """The modules that :func:`join` was given, each with ``main`` and what that calls."""
    names = entries_of(module)
    if names == [MAIN]:
        return [module]
    import tvm
    from tvm import relax

    found = []
    for entry in names:
        alone = module.clone()
        main = module[entry].with_attr("global_symbol", MAIN)
        for other in names:
            del alone[module.get_global_var(other)]
        alone[tvm.ir.GlobalVar(MAIN)] = main
        found.append(relax.transform.DeadCodeElimination([MAIN])(alone))
    return found


class _Joining:
    """Takes one module into another, function by function, each after those that it calls."""

    def __init__(self, builder: Any, constants: dict[bytes, Any], module: Any, entry: str) -> None:
        self._builder = builder
        self._constants = constants
        self._module = module
        self._entry = entry
        self._added: dict[str, Any] = {}
        self._adding: set[str] = set()

    def add(self, name: str) -> Any:
        """The variable of a function in the joined module, which takes it in where it has not got it."""
        import tvm

        if name not in self._added:
            if name in self._adding:
                raise BadModel(
                    f"the function {name} calls itself: tune each set of shapes in a job of its own"
                )
            self._adding.add(name)
            function = self._module[name]
            if isinstance(function, tvm.tirx.PrimFunc):
                self._added[name] = self._add_kernel(name, function)
            else:
                self._added[name] = self._add_relax(self._entry if name == MAIN else name, function)
        return self._added[name]

    def _add_kernel(self, name: str, function: Any) -> Any:
        if workloads.called_by(function):
            raise BadModel(
                f"the TIR function {name} calls another one: tune each set of shapes in a job of its own"
            )
        # With its name it would differ from the same function of another variant. It gets one when the
        # model is compiled.
        return self._builder.add_func(function.without_attr("global_symbol"), name)

    def _add_relax(self, name: str, function: Any) -> Any:
        from tvm import relax

        add, share = self.add, self._shared

        @relax.expr_functor.mutator
        class Renamer(relax.PyExprMutator):  # type: ignore[misc]
            def visit_global_var_(self, variable: Any) -> Any:
                return add(str(variable.name_hint))

            def visit_generic_const_(self, constant: Any) -> Any:
                return share(constant)

        renamed = Renamer(self._module).visit_expr(function)
        if "global_symbol" in (renamed.attrs or {}):
            renamed = renamed.with_attr("global_symbol", name)
        return self._builder.add_func(renamed, name)

    def _shared(self, constant: Any) -> Any:
        """The constant with these bytes that was there first."""
        value = constant.value.numpy()
        key = hashlib.sha256(f"{constant.value.dtype} {value.shape} ".encode() + value.tobytes()).digest()
        return self._constants.setdefault(key, constant)
