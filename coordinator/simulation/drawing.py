"""Durations of simulated steps: drawn from a trace or from distributions, the same ones for every strategy.

Every duration depends on the seed and on the step's id alone, never on the order in which steps run. So two
strategies have the same work to do, and a step that is repeated after a fault takes as long as the first
time.
"""

from __future__ import annotations

import random

from tunemesh.coordinator.simulation.scenario import Scenario
from tunemesh.coordinator.simulation.trace import TraceJob, TraceTask, load_trace
from tunemesh.shared.messages import BuildWork, ProfileWork, Step, UpdateWork


class Durations:
    """Draws for one scenario.

    Raises:
        BadInput: its trace cannot be used.
    """

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._trace = load_trace(scenario.trace)
        self._numbers: dict[str, int] = {}
        self._jobs: dict[str, TraceJob] = {}
        self._tasks: dict[tuple[str, str], TraceTask] = {}

    def job(self, job: str, number: int) -> None:
        """Draw which recorded job and tasks ``job``, the ``number``-th one, is like."""
        draw = self._draw(job)
        like = draw.choice(self._trace.jobs)
        self._numbers[job], self._jobs[job] = number, like
        for task in range(self._scenario.tasks):
            self._tasks[job, f"t{task:02}"] = draw.choice(like.tasks)

    def weight(self, job: str, task: str) -> int:
        """How often the model runs the task."""
        return self._tasks[job, task].weight

    def seconds(self, step: Step) -> float:
        """How long ``step`` takes on a worker of usual speed."""
        draw = self._draw(step.id)
        fixed = self._scenario.fixed.get(str(step.work.__struct_config__.tag), 0.0)
        match step.work:
            case UpdateWork(want=want):
                return fixed + self._complexity(step.job) * self._update(step, draw, closing=not want)
            case BuildWork():
                return fixed + sum(self.candidates(step).values())
            case ProfileWork(rivals=rivals):
                found = (self.candidates(step), *(self.candidates(step, each) for each in rivals))
                return fixed + sum(sum(each.values()) for each in found)
        like = self._jobs[step.job]
        recorded = {"import": like.import_, "assemble": like.assemble, "validate": like.validate}
        stage = str(step.work.__struct_config__.tag)
        return self._spread(stage, draw, recorded[stage])

    def _update(self, step: Step, draw: random.Random, closing: bool) -> float:
        task = self._task(step)
        recorded = task.closing if closing else task.update[min(step.round, len(task.update) - 1)]
        return self._spread("model-update", draw, recorded) * (self._scenario.closing if closing else 1.0)

    def candidates(self, step: Step, rival: str = "") -> dict[int, float]:
        """How long each candidate of a ``build`` or ``profile`` takes, by index. Each is drawn by itself, so
        that it takes as long in whatever chunk it is.

        Args:
            rival: another search, of which a ``profile`` measures candidates, too.
        """
        task, complexity = self._task(step), self._complexity(step.job)
        match step.work:
            case BuildWork(candidates=candidates):
                stage, pool, indices = "build", task.build, [each.index for each in candidates]
            case ProfileWork(artifacts=artifacts, rivals=rivals):
                built = rivals[rival] if rival else artifacts
                stage, pool, indices = "profile", task.profile, [each.index for each in built]
            case _:
                return {}
        found = {}
        for index in indices:
            draw = self._draw(f"{step.job}/{rival or step.task}/{step.round}/{index}/{stage}")
            found[index] = complexity * self._spread(stage, draw, draw.choice(pool))
        return found

    def _task(self, step: Step) -> TraceTask:
        """That of a step, whichever of its searches it is of."""
        return self._tasks[step.job, step.task.partition(".")[0]]

    def _complexity(self, job: str) -> float:
        factors = self._scenario.complexity
        return factors[self._numbers[job] % len(factors)]

    def _spread(self, stage: str, draw: random.Random, recorded: float) -> float:
        spread = self._scenario.durations.get(stage)
        if spread is None:
            return recorded
        return spread.median * draw.lognormvariate(0.0, spread.sigma) if spread.sigma else spread.median

    def _draw(self, name: str) -> random.Random:
        return random.Random(f"{self._scenario.seed}/{name}")
