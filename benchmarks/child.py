"""``python -m benchmarks.child FOLDER``: do what ``FOLDER/work.json`` says and write ``FOLDER/result.json``.

A process of its own, so that it can be stopped when it hangs, and nothing of one run is left in the next.
"""

from __future__ import annotations

import logging
import signal
import sys
from pathlib import Path
from types import FrameType

from benchmarks import work as work_module
from benchmarks.mesh_run import run_mesh
from benchmarks.metaschedule_run import run_metaschedule
from benchmarks.remeasure import remeasure
from benchmarks.simulation_run import run_simulation
from benchmarks.work import RESULT, Result, Work
from tunemesh.shared.errors import TunemeshError


def do(work: Work, folder: Path) -> Result:
    """Do the work; what goes wrong with it is in the result."""
    try:
        if work.run is None:
            return Result(remeasured=remeasure(work))
        if work.experiment.kind == "simulation":
            return run_simulation(work, work.run, folder)
        if work.run.tuner != "tunemesh":
            return run_metaschedule(work, work.run, folder)
        return run_mesh(work, work.run, folder)
    except TunemeshError as error:
        return Result(status="failed", error=str(error))


def main(folder: Path) -> None:
    """Do the work of a folder."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    logging.getLogger("pika").setLevel(logging.CRITICAL)
    signal.signal(signal.SIGTERM, _terminated)
    work_module.write(do(work_module.read_work(folder), folder), folder / RESULT)


def _terminated(_signum: int, _frame: FrameType | None) -> None:
    # As Ctrl-C: the mesh is taken down in order.
    raise KeyboardInterrupt


if __name__ == "__main__":
    main(Path(sys.argv[1]))
