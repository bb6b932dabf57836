"""Decide, save, act: every decision that must not be taken twice becomes a ledger revision first.

A revision is published to the coordinator's own queue, and only when it comes back are the steps that
follow from it dispatched and the messages that led to it acknowledged. A crash in between leaves either the
old ledger with all its sources or the new one. Which revision may follow which is in
:mod:`coordinator.jobs.states`; what is in none of its tables raises and changes nothing.

Over 400 lines: whatever is decided ends in one place that saves it.
"""

from __future__ import annotations

import itertools
import traceback
from collections.abc import Callable, Iterable
from functools import partial
from typing import Literal

import msgspec

from tunemesh.broker_config.topology import BUILD_CPU, MOCK, MODEL_UPDATE
from tunemesh.coordinator.events import Acknowledge, Dispatch, Save
from tunemesh.coordinator.jobs import (
    closing,
    forecast,
    levels,
    limits,
    measured,
    prices,
    rest,
    rounds,
    searches,
    sharing,
    states,
    trials,
    verdict,
)
from tunemesh.coordinator.jobs import steps as job_steps
from tunemesh.coordinator.jobs.allocation import IN_TIME
from tunemesh.coordinator.jobs.job import Held, Job, StepRef
from tunemesh.coordinator.jobs.ledger import Foreseen, Handle, Ledger, TaskLedger, first_ledger
from tunemesh.coordinator.scheduling.dispatcher import Send
from tunemesh.coordinator.scheduling.needs import Need
from tunemesh.coordinator.state import ERROR_LIMIT, State
from tunemesh.shared.messages import Cancelled, ImportDone, Quote, Request, StepResult, Usage, ValidateDone
from tunemesh.shared.text import clip

MOST_HELD = 50_000
"""Results that the coordinator means to hold at once, those to come included: so many jobs are tuned at
a time. The broker delivers no more than 65,535 to one consumer before some are answered."""


class Lifecycle:
    """Takes the decisions of all jobs."""

    def __init__(self, state: State) -> None:
        self._state = state

    def go_on(self, job: Job) -> None:
        """Decide what can be decided, and make ready what is due."""
        if job.ended:
            return
        if job.ledger.phase == "importing" and not (
            self._has_turn(job) and self.target_is_served(job) and self._engines_are(job)
        ):
            return
        if job.ledger.phase == "tuning":
            self._decide(job)
        if job.ledger.phase == "tuning":
            self._look_ahead(job)
        self._make_ready(job, job_steps.open_steps(job))

    def go_on_after(self, job: Job, result: StepResult) -> None:
        """The same, where only ``result`` is new: as much as it can have changed."""
        task = job.task_ledger(result.task)
        if task is None or job.ledger.phase != "tuning":
            self.go_on(job)
            return
        # What is to be confirmed is not begun where there is no time for it.
        hurries = job.ledger.request.level.deadline is not None and states.is_ending(task)
        if hurries or job_steps.is_back(job, task):
            self._decide(job)
        elif job.ledger.request.settings.lookahead:
            self._look_ahead(job)
        task = job.task_ledger(result.task)
        if task is not None and job.ledger.phase == "tuning":
            self._make_ready(job, job_steps.steps_after(job, task, result))

    def _make_ready(self, job: Job, due: list[StepRef]) -> None:
        dispatcher = self._state.dispatcher
        for ref in due:
            if dispatcher.has(ref.id) or not job.may_act(ref.task) or not job_steps.can_make(job, ref):
                continue
            if ref.stage == "model-update" and not self._admit(job):
                continue
            lent = self._state.sharing.waiting(job, ref.task, self._state.outside) if self._shares else ()
            dispatcher.make_ready(
                forecast.ready(job, ref, self._state.durations),
                *(forecast.ready(job, ref, self._state.durations, account=each) for each in lent),
            )

    def _admit(self, job: Job) -> bool:
        """Whether what the job's rounds will bring can be held, too. A job is let in as a whole: none of its
        tasks goes on before all have begun."""
        if job.room:
            return True
        state, needed = self._state, self._to_be_held(job)
        others = next(iter(state.outside), job.id) != job.id
        if (others or (state.held and state.held + needed > MOST_HELD)) and not any(job.held()):
            if job.id not in state.outside:
                state.outside[job.id] = needed
                self._wake(job)
            return False
        state.outside.pop(job.id, None)
        job.room = needed
        state.held += needed
        return True

    def _has_turn(self, job: Job) -> bool:
        """Whether the job may begin, as far as others of its tenant go."""
        state, request = self._state, job.ledger.request
        if job.ledger.revision or limits.limits_of(state.limits, request.tenant).jobs is None:
            return True
        before = itertools.takewhile(lambda each: each != job.id, state.queued)
        earlier = any(state.jobs[each].ledger.request.tenant == request.tenant for each in before)
        if earlier or not limits.has_turn(job, state.jobs, state.limits):
            state.queued.setdefault(job.id)
            return False
        state.queued.pop(job.id, None)
        return True

    def let_begin(self) -> None:
        """Let jobs begin that waited for others of their tenant, in their order."""
        state = self._state
        for job in list(state.queued):
            self.guarded(job, self.go_on, state.jobs[job])

    def let_in(self) -> None:
        """Let jobs in that waited outside, in their order, as far as there is room."""
        state = self._state
        while state.outside:
            first = next(iter(state.outside))
            if state.held and state.held + state.outside[first] > MOST_HELD:
                return
            self.guarded(first, self.go_on, state.jobs[first])
            if next(iter(state.outside), "") == first:
                del state.outside[first]  # it does not ask any more

    def count_rooms(self) -> None:
        """Another strategy may cut smaller chunks, so that there is more to hold."""
        state = self._state
        for job in state.jobs.values():
            if job.room:
                before, job.room = job.room, self._to_be_held(job)
                state.held += job.room - before

    def _to_be_held(self, job: Job) -> int:
        return job_steps.to_be_held(job, fitting=self._state.dispatcher.strategy.fits_chunks)

    def send(self, send: Send) -> None:
        """Publish a step that a queue is free for."""
        state, job, ref = self._state, self._state.jobs[send.job], StepRef.parse(send.step)
        chunk_size = self._chunk_size(job, ref)
        asking = ref.stage == "import" or (ref.stage == "model-update" and not ref.round)
        devices = state.resources.devices_of(job.ledger.request.target) if asking else []
        step = job_steps.make_step(job, ref, send.attempt, chunk_size, devices)
        if send.attempt:
            text = f"sent again to {send.queue}, attempt {send.attempt + 1}"
            state.log("info", text, job=job.id, step=step.id)
        state.out.append(Dispatch(send.queue, step))

    def _chunk_size(self, job: Job, ref: StepRef) -> int:
        """For the batch that a step may propose. One step at a time is soonest done in large ones. Where
        smaller ones were not counted on, there must be room for what comes of them."""
        state, strategy, largest = (
            self._state,
            self._state.dispatcher.strategy,
            job.ledger.request.settings.chunk,
        )
        if not strategy.overlaps or (not strategy.fits_chunks and state.held * largest > MOST_HELD):
            return largest
        dispatcher, fits = state.dispatcher, strategy.fits_chunks
        return forecast.chunk_size(job, ref, state.durations, dispatcher, fits=fits)

    def drop_spent(self, job: Job, task: TaskLedger) -> None:
        """Acknowledge the rounds that have given all they had."""
        kept = job.task(task.spec.id)
        if len(kept.rounds) > 1 and job.may_act(task.spec.id):
            for number in [n for n in kept.rounds if job_steps.is_spent(task, kept, n)]:
                self._state.release(kept.drop(number))

    def revise(self, job: Job, sources: Iterable[Held], **changes: object) -> None:
        """A revision of the job as a whole, made from ``sources``."""
        sources = list(sources)
        timings = [held.message.timing for held in sources]
        fields = {
            "revision": job.ledger.revision + 1,
            "usage": rounds.add_usage(job.ledger.usage, timings),
            "timings": trials.kept_timings(job.ledger.timings, timings),
            **changes,
        }
        ledger: Ledger = msgspec.structs.replace(job.ledger, **fields)
        self._save(job, ledger, "-")
        job.releases.extend((ledger.revision, held.handle) for held in sources)

    def validated(self, job: Job, validated: ValidateDone, held: Held) -> None:
        """The last step of a job is done."""
        found = verdict.of(job.ledger.assembled, validated)
        self.finish(job, found.phase, found.text, [held], found.validated, assembled=found.assembled)

    def finish(
        self,
        job: Job,
        phase: Literal["done", "failed", "cancelled"],
        text: str,
        sources: Iterable[Held] = (),
        validated: ValidateDone | None = None,
        **changes: object,
    ) -> None:
        """The last revision of a job. Everything held for it is released once that is saved."""
        state = self._state
        text = clip(text, ERROR_LIMIT)
        held, sources = list(job.held()), list(sources)
        changes = {
            "tasks": measured.at_the_end(job),
            "usage": rounds.add_usage(rounds.current_usage(job), (each.message.timing for each in sources)),
            "phase": phase,
            "error": "" if phase == "done" else text,
            # A clock may have been set back since the job was accepted by another coordinator.
            "finished": max(state.instant, job.ledger.accepted),
            "validated": validated,
            **changes,
        }
        if not job.bare:
            usage: dict[str, Usage] = changes["usage"]  # type: ignore[assignment]
            finished = max(state.instant, job.ledger.accepted)
            changes["standing"] = levels.standing(job, job.ledger, usage, validated, finished)
        self.revise(job, sources, **changes)
        job.releases.extend((job.ledger.revision, each.handle) for each in held)
        if (took := levels.ending(job.ledger)) is not None:
            state.endings.append(took)
        job.drop_tasks()
        job.waiting = ""
        state.held -= job.room
        job.room = 0
        state.is_over(job.id)
        state.dispatcher.forget(job.id)
        state.tell(job, phase, text)
        state.log("info" if phase == "done" else "warning", f"{phase}: {text}", job=job.id)

    def imported(self, job: Job, done: ImportDone, held: Held) -> None:
        """The model is cut into tasks. Those that no engine takes stay untuned; of those that an earlier job
        has tuned there is nothing left to do."""
        known = trials.searched(job.ledger.request, done)
        served = {spec.key for spec in done.tasks if spec.id in known}
        tasks = [first_ledger(spec, known.get(spec.id), spec.key in served) for spec in done.tasks]
        made = {"model": done.model, "sample": done.sample, "objects": done.objects}
        request = trials.budgeted(job.ledger.request, [task for task in tasks if not task.closed])
        request = limits.capped(request, self._state.limits)
        tasks, note = self._split(job, request, tasks)
        quote = self._quote(
            job, msgspec.structs.replace(job.ledger, phase="tuning", tasks=tasks, request=request)
        )
        self.revise(job, [held], phase="tuning", tasks=tasks, request=request, quote=quote, note=note, **made)
        self._state.sharing.note(job)
        self._state.tell(job, "progress", "; ".join(filter(None, (levels.quoted(quote), note))))
        if request.level.quote_only:
            self.finish(job, "cancelled", f"only a quote was asked for; {levels.quoted(quote)}")
            return
        needed = self._to_be_held(job)
        if needed > MOST_HELD:
            text = f"its {len(tasks)} searches would have the coordinator hold {needed:,} results at once"
            advice = f"{MOST_HELD:,} are allowed: take larger chunks, smaller batches, or fewer engines"
            self.finish(job, "failed", f"{text}; {advice}")

    def _split(self, job: Job, request: Request, tasks: list[TaskLedger]) -> searches.Divided:
        """The searches of a job that was just imported, with those that are to be split."""
        draft = Job(msgspec.structs.replace(job.ledger, tasks=tasks, request=request), job.order, job.prices)
        most = MOST_HELD // max(self._to_be_held(draft), 1)
        return searches.divided(tasks, request.level.split, request.level.trials, most)

    def _quote(self, job: Job, ledger: Ledger) -> Quote:
        """What the job is told with its first ledger that has tasks."""
        state = self._state
        draft = Job(ledger, job.order, job.prices)
        shared = state.sharing.known(draft, state.outside) if self._shares else []
        return levels.quote(draft, state.instant, self._mesh(), shared)

    def _mesh(self) -> rest.Mesh:
        state = self._state

        def price(need: Need) -> float:
            queues = [queue.name for queue in state.resources.live(need)] or [need.kind.partition(":")[0]]
            return max(prices.per_second(queue, state.prices) for queue in queues)

        return rest.Mesh(state.durations, state.dispatcher, price, state.endings)

    def _foreseen(self, job: Job) -> Foreseen:
        """What the end of a job is thought to take that begins now."""
        return Foreseen(at=self._state.instant, seconds=rest.rest(job, self._mesh()).seconds)

    def watch_level(self, job: Job) -> None:
        """Stop the job early where its service level asks for no more."""
        if not job.ledger.request.level.has_goal:
            return
        if self.can_stop(job) and (why := levels.enough(job, self._state.instant, self._mesh())):
            self.stop(job, why)
        self._close_in_time(job)

    def _close_in_time(self, job: Job) -> None:
        """Where a job has no more time to confirm, its tasks are closed with what is known of them."""
        ledger = job.ledger
        if ledger.phase != "tuning" or not all(map(states.is_ending, ledger.tasks)):
            return
        if not levels.must_assemble(job, self._state.instant, self._mesh()):
            return
        running = [StepRef.parse(step) for step in self._state.dispatcher.running(job.id)]
        late = [
            task.spec.id for task in ledger.tasks if not task.closed and closing.is_vain(job, task, running)
        ]
        if not late:
            return
        self._close(job, late)
        self._state.dispatcher.withdraw(job.id)
        text = f"no time was left to measure the best of {len(late)} searches again"
        self._state.log("info", text, job=job.id)

    def _goes_on_after_all(self, job: Job) -> bool:
        """A job that has stopped for its service level, and has more left than it needs to end, tries
        more."""
        if job.ledger.enough and levels.may_go_on(job, self._state.instant, self._mesh()):
            revision = job.ledger.revision + 1
            self._save(
                job,
                msgspec.structs.replace(
                    job.ledger, revision=revision, stopped=False, enough="", foreseen=None
                ),
                "-",
            )
            self._state.tell(job, "progress", "going on: ending takes less than was thought")
            self._state.log("info", "goes on: ending takes less than was thought", job=job.id)
            return True
        return False

    def has_found(self, job: Job) -> bool:
        """Whether something was measured that the job could end with."""
        tasks = job.ledger.tasks
        return any(
            rounds.current(job, task).best is not None
            or (self._waits_for(job, task) is not None and self._state.sharing.so_far(job, task) is not None)
            for task in tasks
        )

    def can_stop(self, job: Job) -> bool:
        """Whether it is not too late to stop early: the model is not being assembled yet."""
        return job.ledger.phase in ("importing", "tuning") and not job.ledger.stopped

    def stop(self, job: Job, enough: str = "", cancelled: Cancelled | None = None) -> None:
        """Try nothing new, and finish the job with what was found: rounds end with the chunks that have been
        begun.

        Args:
            enough: why, where nobody has asked for it.
            cancelled: who has, else.
        """
        state = self._state
        self._take_over(job, state.sharing.so_far)
        flights = state.resources.flights()
        running = {StepRef.parse(each.ready.step) for each in flights if each.ready.job == job.id}
        tasks = [trials.cut(job, task, running) for task in job.ledger.tasks]
        stopped = msgspec.structs.replace(
            job.ledger,
            revision=job.ledger.revision + 1,
            stopped=True,
            enough=enough,
            cancelled=job.ledger.cancelled or cancelled,
            tasks=tasks,
            foreseen=self._foreseen(job),
        )
        self._save(job, stopped, *(task.spec.id for task in tasks), "-")
        for task in tasks:
            job.task(task.spec.id).cut(task.limits)
        state.dispatcher.withdraw(job.id)
        what = f"{enough}: what is under way is finished" if enough else "what is under way is finished"
        state.tell(job, "progress", f"stopping early: {what}")
        state.log("info", f"stopping early, {enough or 'on request'}", job=job.id)

    def fail_bare(self, job: Job, cause: str) -> None:
        """Fail a job whose ledger is too large, or does not hold together: what made it so cannot be part of
        its last revision. That has nothing but the request."""
        bare: dict[str, object] = {"tasks": [], "timings": [], "usage": {}, "known": []}
        bare |= {"model": None, "sample": None, "objects": None, "assembled": None}
        job.become(msgspec.structs.replace(job.ledger, **bare))
        job.bare = True
        self.finish(job, "failed", cause)

    def give_up(self, job: Job, cause: str) -> None:
        """Not even the last revision of a job can be kept: what led to it is not held any longer. A later
        coordinator does not know the job."""
        state = self._state
        state.log("error", f"its end cannot be kept: {cause}", job=job.id)
        state.out.extend(Acknowledge(handle) for _, handle in job.releases)
        job.releases = []
        job.saved = job.ledger.revision

    def target_is_served(self, job: Job) -> bool:
        """Whether a device is known for the job; takes over the canonical name of its target. From that
        revision on it is known that there was one."""
        request = job.ledger.request
        canonical = self._state.resources.canonical(request.target)
        if canonical is None:
            waiting = f"no device serves target {request.target}"
            if job.waiting != waiting:
                job.waiting, job.changed = waiting, True
            if job.waiting_since is None:
                job.waiting_since = self._state.now
            return False
        job.waiting, job.waiting_since = "", None
        if canonical != request.target or not job.ledger.revision:
            self.revise(job, (), request=msgspec.structs.replace(request, target=canonical))
        return True

    def _engines_are(self, job: Job) -> bool:
        """Whether it is known which engines tune for the job: where it names none, all that are served when
        it begins."""
        request = job.ledger.request
        if request.engines:
            return True
        served = self._state.resources.common_engines(BUILD_CPU, MODEL_UPDATE)
        engines = [engine for engine in served if engine != MOCK]
        if not engines:
            job.waiting = f"waiting for workers on {BUILD_CPU} and {MODEL_UPDATE} that serve an engine"
            return False
        job.waiting = ""
        self.revise(job, (), request=msgspec.structs.replace(request, engines=engines))
        return True

    def guarded(
        self,
        job: str | None,
        action: Callable[..., object],
        *arguments: object,
        handle: Handle | None = None,
    ) -> None:
        """Do ``action``. What goes wrong in it is a defect of ours: it fails ``job``, sets its message
        (``handle``) aside, and changes nothing else."""
        try:
            action(*arguments)
        except Exception as error:
            self._contain(error, self._state.jobs.get(job or ""), handle)

    def _contain(self, error: Exception, job: Job | None, handle: Handle | None) -> None:
        state = self._state
        cause = f"a defect of the coordinator: {type(error).__name__}: {error}"
        place = "".join(traceback.format_exception(error))
        state.log("error", f"{cause}\n{place}", job=job.id if job is not None else "")
        # The newest revision of a job stays: without it a successor would not know the job.
        if handle is not None and (job is None or handle != job.handle):
            state.put_aside(handle, cause)
        if job is None or job.ended:
            return
        begun = len(state.out)
        for end in (partial(self.finish, job, "failed"), partial(self.fail_bare, job)):
            try:
                end(cause)
                return
            except Exception as again:
                del state.out[begun:]
                if job.ended:
                    job.revert()
                state.log("error", f"{type(again).__name__}: {again}", job=job.id)
                begun = len(state.out)

    # -- Trials ---------------------------------------------------------------------------------------------

    def _decide(self, job: Job) -> None:
        for found in searches.by_task(job.ledger.tasks):
            ended = [each for each in found if states.search_state(each) == "closing"]
            if back := [each.spec.id for each in ended if job_steps.is_back(job, each)]:
                self._close(job, back)
        self.watch_level(job)
        most = IN_TIME if self._goes_on_after_all(job) else None
        job.waits = {}
        if self._shares and not job.ledger.stopped:
            self._take_over(job, self._state.sharing.source)
            leaders = {task.spec.id: self._waits_for(job, task) for task in job.ledger.tasks}
            job.waits = {task: leader.id for task, leader in leaders.items() if leader is not None}
        decided = trials.decide(job, self._state.durations, job.waits, most)
        if decided is None:
            return
        if decided.foreseen is None and all(map(states.is_ending, decided.tasks)):
            decided = msgspec.structs.replace(decided, foreseen=self._foreseen(job))
        if decided.phase == "assembling" and (cause := verdict.nothing_measured(decided)):
            self.finish(job, "failed", cause)
            return
        self._save_tasks(job, decided)

    def _close(self, job: Job, names: list[str]) -> None:
        self._save(job, trials.close(job, names), *names)
        for name in names:
            job.releases.extend((job.ledger.revision, held.handle) for held in job.drop_task(name))

    # -- Tasks that others have, too ------------------------------------------------------------------------

    @property
    def _shares(self) -> bool:
        """Whether jobs share tasks at all. Not where strategies show what tuners do without a mesh: one that
        is to run one job after the other cannot have the first wait for the second."""
        return self._state.dispatcher.strategy.overlaps

    def _waits_for(self, job: Job, task: TaskLedger) -> Job | None:
        """Who tunes a task that the job has not begun, if somebody does."""
        if task.closed or task.round >= 0 or not self._shares:
            return None
        return self._state.sharing.leader(job, task.spec.id, self._state.outside)

    def _take_over(self, job: Job, find: Callable[[Job, TaskLedger], sharing.Found | None]) -> None:
        """Take over what others have found of tasks that the job has not begun."""
        tasks: list[TaskLedger] = []
        for task in job.ledger.tasks:
            found = find(job, task) if self._shares and not task.closed and task.round < 0 else None
            if found is not None and sharing.has_room(job, found):
                whose = f"{found.job.id}/{found.task.spec.id}"
                text = f"{task.spec.id}: {sharing.total(found.task)} trials are taken over from {whose}"
                self._state.log("info", text, job=job.id)
                task = sharing.take(job, task, found)
            tasks.append(task)
        if tasks != job.ledger.tasks:
            self._save_tasks(
                job, msgspec.structs.replace(job.ledger, revision=job.ledger.revision + 1, tasks=tasks)
            )

    def _wake(self, job: Job) -> None:
        """Those that may wait for ``job`` are to look again, in the order in which they were accepted."""
        partners = self._state.sharing.partners(job)
        partners.sort(key=lambda other: (other.ledger.accepted, other.id))
        self._state.awake.update(dict.fromkeys(other.id for other in partners))

    def _look_ahead(self, job: Job) -> None:
        state = self._state
        if not state.dispatcher.strategy.overlaps or state.active != 1 or job.saved < job.ledger.revision:
            return
        engines = job_steps.engines_at_work(job)
        builds = [job_steps.need_for(job, "build", [engine]) for engine in engines]
        updates = [job_steps.need_for(job, "model-update", [engine]) for engine in engines]
        decided = trials.look_ahead(
            job,
            state.durations,
            device_slots=state.resources.slots(job_steps.need_of(job, "profile")),
            build_slots=min(state.resources.slots(build) for build in builds),
            shared=any(map(state.resources.share_cores, builds, updates)),
        )
        if decided is not None:
            self._save_tasks(job, decided)

    def _save_tasks(self, job: Job, decided: Ledger) -> None:
        before = {task.spec.id: task for task in job.ledger.tasks}
        changed = [task.spec.id for task in decided.tasks if task != before[task.spec.id]]
        self._save(job, decided, *changed, "-")

    def _save(self, job: Job, ledger: Ledger, *concerns: str) -> None:
        """Publish a revision; what ``concerns`` names waits until it is back.

        Raises:
            IllegalMove: it does not follow from the present one. Nothing has changed then.
        """
        states.check_move(job.ledger, ledger)
        closed = sum(task.closed for task in job.ledger.tasks)
        if ledger.phase != job.ledger.phase and ledger.phase not in states.FINAL:
            self._state.log("info", f"{ledger.phase}", job=job.id)
        job.become(ledger)
        job.changed = True
        job.decided.update(dict.fromkeys(concerns, ledger.revision))
        self._state.out.append(Save(ledger))
        if job.ended or sum(task.closed for task in ledger.tasks) > closed:
            self._wake(job)
