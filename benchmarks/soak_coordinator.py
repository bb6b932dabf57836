"""A coordinator that remembers few of the jobs that have ended, as a mesh does after days with many.

``python -m benchmarks.soak_coordinator JOBS ARGUMENTS``: as ``tunemesh ARGUMENTS``.
"""

from __future__ import annotations

import sys

from tunemesh.cli import main
from tunemesh.coordinator import upkeep

if __name__ == "__main__":
    upkeep.MOST_FINISHED = int(sys.argv.pop(1))
    main()
