"""Which way to compute a task gets the next trials: Winograd's algorithm, or MetaSchedule's schedules of the
task as it is.

Half of the first trials go each way. Then most go to the one that is ahead. The other gets some as long as it
may still catch up: the longer it was tried, the closer it has to be. MetaSchedule's first schedules are far
from its best ones; Winograd's kernels have a few knobs, and the first are nearly as good as the last.
"""

from __future__ import annotations

import math
from collections.abc import Collection

from tunemesh.stage_workers.engines.metaschedule.search_state import SearchState

BEHIND = {True: {8: 1.5, 16: 1.2}, False: {8: 3.0, 16: 1.5}}
"""Times slower than the other way's that the best of fewer trials than so many may be: by Winograd's
algorithm, and by others."""
FAR_BEHIND = 1.05
"""Likewise, of more trials."""
SURE = 1.25
"""Times slower that one way has to be for similar tasks, so that most of the first trials go the other."""
PART = 4
"""One of so many trials goes to the way that is behind."""


def by_winograd(state: SearchState, ours: Collection[str], want: int, expected: float | None = None) -> int:
    """How many of the next ``want`` candidates are to be by Winograd's algorithm.

    Args:
        ours: the hashes of all its schedules; none where it does not apply.
        expected: how many times as long as the best other kernel its best one takes for similar tasks, where
            that is known.
    """
    if not ours:
        return 0
    best = {True: math.inf, False: math.inf}
    for latency, name, _ in state.best:
        best[name in ours] = min(best[name in ours], latency)
    if min(best.values()) == math.inf:
        if expected is None or SURE > expected > 1 / SURE:
            # Where it applies at all it mostly wins: a single candidate is by Winograd's algorithm.
            return want // 2 if want > 1 else int(expected is None or expected <= 1)
        return want // PART if expected > 1 else want - want // PART
    behind = best[True] > best[False]
    tried = sum((name in ours) == behind for name in state.seen | state.pending)
    allowed = next((times for trials, times in BEHIND[behind].items() if tried < trials), FAR_BEHIND)
    part = want // PART if best[behind] <= allowed * best[not behind] else 0
    return part if behind else want - part
