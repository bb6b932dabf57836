"""How many candidates of a batch go out together, so that workers neither idle nor drown in small steps.

A batch of *n* candidates is cut into chunks of *k*. A step costs something whatever is in it, a candidate
what its pace says. With *B* workers that build and *D* devices, a batch in ``c = n / k`` chunks keeps the
builders busy for ``(n b + c fb) / B`` seconds and the devices for ``(n p + c fp) / D``, and is through after
about ``k (b + p) + max`` of the two: the first build and the last profile are not overlapped. Small chunks
overlap more and leave no worker behind; what they cost is the ``f`` of every step.

1. **No more than half a per cent** of the busier of the two may go into steps (:data:`OVERHEAD`), else chunks
   are as large as allowed.
2. **Builders would idle**, when fewer chunks than free builders come out of the largest ones: the batch is
   cut so that it is soonest through. The same always, where the strategy asks for it (``fits``). What steps
   take of workers that would idle costs nobody anything, so that rule 1 does not count it.
3. **Builders are busy**: other work fills the gaps, and a chunk need not be smaller than what takes
   :data:`SPAN` to build. Where builds are slow that is one candidate. A chunk that has begun is finished,
   whatever comes, and its builder is gone for so long. That is also why no chunk takes more than
   :data:`LONGEST` to build, whatever a step costs: what is known first of slow builds are the fastest of
   them.
4. **Nothing is known** of builds: a candidate is taken to build for a second (:data:`GUESS`), unless the
   largest chunks are enough for all builders. To take fast builds for slow ones costs a few milliseconds for
   each candidate of one round. To take slow ones for fast ones would leave builders idle for as long as the
   others take for a chunk, which can be half a minute."""

from __future__ import annotations

import math
from typing import NamedTuple

OVERHEAD = 0.005
"""Share of a batch's time that its steps may take beside its candidates."""

SPAN = 3.0
"""Seconds of building that make a step long enough, whatever the batch could be cut into."""


LONGEST = 6.0
"""Seconds that a chunk builds at most, but for a single candidate."""

GUESS = 1.0
"""Seconds that a candidate is thought to build where none was seen."""


class Cost(NamedTuple):
    """What a stage takes, in seconds."""

    step: float
    """Of a step, beside its candidates: until it has been sent, begun and answered."""
    each: float
    """Of a candidate."""


def best(
    batch: int,
    limit: int,
    build: Cost | None,
    profile: Cost | None,
    *,
    builders: int,
    free: int,
    devices: int,
    waits: bool,
    fits: bool,
) -> int:
    """Candidates per chunk.

    Args:
        batch: candidates.
        limit: the most that a chunk may have.
        build, profile: ``None`` where nothing is known.
        builders: workers that build for the task.
        free: how many of them have nothing to do then.
        devices: that measure for it.
        waits: whether all of them have work to do when the batch is there.
        fits: whether it is to be through as soon as possible even if other work fills the gaps.
    """
    if build is None and builders <= math.ceil(batch / limit):
        return min(limit, batch)
    build = build or Cost(0.0, GUESS)
    idle = free > math.ceil(batch / limit)
    short = math.ceil(LONGEST / build.each) if build.each * limit > LONGEST else limit
    limit = max(min(limit, batch, short), 1)
    after = profile or Cost(0.0, 0.0)
    builders, devices = max(builders, 1), max(devices, 1)
    busiest = max(batch * build.each / builders, batch * after.each / devices)

    def busy(size: int, step: float) -> float:
        chunks = math.ceil(batch / size)
        building = (batch * build.each + chunks * step) / min(builders, chunks)
        return max(building, (batch * after.each + chunks * after.step) / devices)

    def allowed(size: int) -> bool:
        chunks = math.ceil(batch / size)
        building = batch * build.each + (0.0 if idle else chunks * build.step)
        measuring = batch * after.each + (0.0 if idle and not waits else chunks * after.step)
        return max(building / builders, measuring / devices) <= (1 + OVERHEAD) * busiest

    sizes = [size for size in range(1, limit + 1) if allowed(size)]
    if idle or fits:
        return min(
            sizes, key=lambda size: busy(size, build.step) + size * (build.each + after.each), default=limit
        )
    return next((size for size in sizes if size * build.each >= SPAN), limit)
