"""MetaSchedule's builder and runner on warm workers: children forked from this process, which has imported
everything. They do what the shipped ones do, without their start-up and the timeouts that it causes."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

LIMIT = 30.0
"""Seconds per candidate, as MetaSchedule's own builder and runner allow."""

Answer = tuple[Any, str | None]
"""A value, or ``None`` and why there is none: what TVM's result objects are made of."""


def each_in_child(do: Callable[[Any], Any], inputs: Sequence[Any], limit: float = LIMIT) -> list[Answer]:
    """``do`` for every input, in a forked child; in another one when that crashed or took too long."""
    answers: list[Answer] = []
    while len(answers) < len(inputs):
        ours, theirs = multiprocessing.Pipe(duplex=False)
        rest = inputs[len(answers) :]
        child = multiprocessing.get_context("fork").Process(target=_serve, args=(theirs, do, rest))
        child.start()
        theirs.close()
        try:
            for _ in rest:
                if not ours.poll(limit):
                    answers.append((None, f"stopped after {limit:g} s"))
                    break
                answers.append(ours.recv())
        except EOFError:
            answers.append((None, "the worker died"))
        finally:
            child.kill()
            child.join()
            ours.close()
    return answers


def _serve(answer: Connection, do: Callable[[Any], Any], inputs: Sequence[Any]) -> None:
    for each in inputs:
        try:
            answer.send((do(each), None))
        except Exception as error:  # whatever a candidate raises is its result
            answer.send((None, str(error)))
    # Not the usual way out: that would run exit handlers of libraries that were loaded by the parent.
    os._exit(0)


def builder() -> Any:
    """A MetaSchedule builder."""
    import tvm.s_tir.tensor_intrin  # noqa: F401 -- what every worker of the shipped builder imports first
    from tvm.ir.utils import derived_object
    from tvm.s_tir.meta_schedule.builder import BuilderResult, PyBuilder
    from tvm.s_tir.meta_schedule.builder.local_builder import default_build, default_export

    def build(candidate: Any) -> str:
        return str(default_export(default_build(candidate.mod, candidate.target, candidate.params)))

    class WarmBuilder(PyBuilder):  # type: ignore[misc]
        def build(self, build_inputs: Sequence[Any]) -> list[Any]:
            return [BuilderResult(*answer) for answer in each_in_child(build, build_inputs)]

    return derived_object(WarmBuilder)()


def runner() -> Any:
    """A MetaSchedule runner with the default evaluator."""
    from tvm.ir.utils import derived_object
    from tvm.s_tir.meta_schedule.runner import EvaluatorConfig, PyRunner, local_runner

    config = EvaluatorConfig._normalized(None)

    def run(candidate: Any) -> list[float]:
        info = tuple(each.as_json() for each in candidate.args_info)
        path, kind = str(candidate.artifact_path), str(candidate.device_type)
        costs = local_runner._worker_func(None, None, None, config, 1, path, kind, info)
        return [float(cost) for cost in costs]

    class WarmRunner(PyRunner):  # type: ignore[misc]
        def run(self, runner_inputs: Sequence[Any]) -> list[Any]:
            return [local_runner.LocalRunnerFuture(*each) for each in each_in_child(run, runner_inputs)]

    return derived_object(WarmRunner)()
