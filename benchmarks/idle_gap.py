"""How long a build worker waits between two steps while others are due.

The mock engine sleeps 50 ms per build step, 50 tasks wait, and there is one build worker. Its busy share is
counted from its first to its last build step.

    python -m benchmarks.idle_gap
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
from pathlib import Path

from tunemesh import following, tuning
from tunemesh.shared.messages import Level, Settings

TASKS = 50
STEP = 0.05
TRIALS = 400


def main() -> None:
    """Run it and print one line."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tasks = "\n".join(f"  - {{name: task{i}}}" for i in range(TASKS))
        durations = f"durations: {{model-update: 0.0, build: {STEP}, profile: 0.0}}"
        (folder / "model.yaml").write_text(f"tasks:\n{tasks}\n{durations}\n")
        plan = tuning.Plan(
            target="mock",
            level=Level(trials=TRIALS, shared=False),
            out=folder / "out",
            overwrite=True,
            html=False,
            engines=("mock",),
            builders=1,
            settings=Settings(chunk=1, batch=8),
        )
        ending = tuning.tune([folder / "model.yaml"], plan, following.Watcher())[0]
    assert ending.report is not None, ending.error
    builds = [t for t in ending.report.timeline if t.stage == "build"]
    span = builds[-1].finished - builds[0].started
    busy = sum(t.finished - t.started for t in builds)
    gaps = [b.started - a.finished for a, b in itertools.pairwise(builds)]
    print(
        f"idle gap: {len(builds)} build steps of {STEP * 1e3:.0f} ms, busy {busy / span:.1%} of {span:.1f} s;"
        f" gap median {statistics.median(gaps) * 1e3:.1f} ms,"
        f" 95th percentile {statistics.quantiles(gaps, n=20)[-1] * 1e3:.1f} ms"
    )


if __name__ == "__main__":
    main()
