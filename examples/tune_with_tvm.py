"""Tune a product of two matrices with nothing but TVM, and hand what was found to Tunemesh.

python examples/tune_with_tvm.py FOLDER
tunemesh records import FOLDER

Most of its time TVM parses its tensor intrinsics, of which this needs none, and starts two processes that
import TVM once more.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import tvm
from tvm import te, topi
from tvm.s_tir import meta_schedule
from tvm.target import codegen

PATIENCE = 200.0


def product(size: int) -> tvm.IRModule:
    """One matrix by another, both of ``size`` x ``size``."""
    a, b = (te.placeholder((size, size), name=name, dtype="float32") for name in "ab")
    return tvm.IRModule({"main": te.create_prim_func([a, b, topi.matmul(a, b)])})


def main() -> None:
    """Leave a database of MetaSchedule in a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--trials", type=int, default=8)
    given = parser.parse_args()
    cpu = codegen.llvm_get_system_cpu()
    target = tvm.target.Target({"kind": "llvm", "mcpu": cpu, "num-cores": 1})
    given.folder.mkdir(parents=True, exist_ok=True)
    database = meta_schedule.tir_integration.tune_tir(
        product(given.size),
        target,
        str(given.folder),
        given.trials,
        num_trials_per_iter=given.trials,
        # Of so few trials there is nothing to learn.
        cost_model="random",
        num_tuning_cores=1,
        # Its workers import TVM first: on a busy machine that takes longer than the 30 s that they have.
        builder=meta_schedule.builder.LocalBuilder(max_workers=1, timeout_sec=PATIENCE),
        runner=meta_schedule.runner.LocalRunner(timeout_sec=PATIENCE),
        strategy="replay-trace",
    )
    print(f"{len(database)} records in {given.folder}")


if __name__ == "__main__":
    main()
