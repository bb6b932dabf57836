"""Every genome alike."""

from __future__ import annotations

import random

from tunemesh.stage_workers.engines.template.searches.history import History
from tunemesh.stage_workers.engines.template.searches.picking import Picks
from tunemesh.stage_workers.engines.template.space import Genome


def propose(history: History, want: int, chance: random.Random) -> list[Genome]:
    """See :mod:`.searches`."""
    return Picks(history, want, chance).fill()
