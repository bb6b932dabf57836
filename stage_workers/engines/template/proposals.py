"""One round of a search over knobs, for every engine that has such a space: this one, and Halide's."""

from __future__ import annotations

from collections.abc import Sequence

from tunemesh.shared.messages import Trial
from tunemesh.shared.messages.basics import MOST_REGIONS
from tunemesh.stage_workers.engines.protocol import Placed, PlacedCall, Proposal, UpdateCall
from tunemesh.stage_workers.engines.template import schedules, searches
from tunemesh.stage_workers.engines.template.space import Genome, Space

LEAST_GENOMES = 64
"""Genomes of a region, valid or not: in a smaller one there is nothing to search."""

HINTS_EACH, HINTS = 2, 4
"""How many of what was good for one other task, or under other conditions, are tried first; and of all."""


def update(call: UpdateCall, format: int, template: str, space: Space, search: str) -> Proposal:
    """See :meth:`stage_workers.engines.protocol.Engine.update`. What earlier jobs have measured under the
    same conditions counts as measured here; what was best under others, or for similar tasks, is tried
    first.

    Args:
        format: of the engine's schedules.
        template: its name.
        space: of its knobs for this task.
        search: its name.
    """
    results = _results(space, call.trials)
    for examples in call.here:
        if examples.format == format:
            results += _results(space, examples.trials)
    tried = (schedules.genome_of_hash(name, template, space) for name in call.seen)
    results += [(genome, searches.WAITING) for genome in tried if genome is not None]
    hints: list[Genome] = []
    if call.search is None:
        for examples in (*call.elsewhere, *call.similar):
            if examples.format == format:
                best = sorted(_results(space, examples.trials), key=lambda result: result[1])
                hints += [genome for genome, _ in best[:HINTS_EACH]]
    if call.region is not None:
        space = space.within(call.region.number, call.region.of)
        hints = [genome for genome in hints if space.is_valid(genome)]
    state, genomes = searches.propose(
        search, space, call.search, results, call.want, call.seed, hints[:HINTS]
    )
    proposed = [schedules.packed(template, space, genome) for genome in genomes]
    return Proposal(search=state, schedules=proposed, format=format)


def regions(space: Space) -> int:
    """See :meth:`stage_workers.engines.protocol.Engine.regions`."""
    return max(1, min(MOST_REGIONS, space.size // LEAST_GENOMES))


def placed(call: PlacedCall, space: Space) -> Placed:
    """See :meth:`stage_workers.engines.protocol.Engine.placed`.
    What this space has not is in the first region."""
    found = [schedules.genome_of(schedules.unpacked(each), space) for each in call.schedules]
    return Placed(
        numbers=[space.region_of(genome, call.regions) if genome is not None else 0 for genome in found]
    )


def _results(space: Space, trials: Sequence[Trial]) -> list[tuple[Genome, float]]:
    """Genomes and latencies of trials, of this template or another with such knobs."""
    results = []
    for trial in trials:
        genome = schedules.genome_of(schedules.unpacked(trial.candidate.schedule), space)
        if genome is not None:
            results.append((genome, trial.estimate))
    return results
