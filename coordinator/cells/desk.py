"""The desk of a mesh with cells, as a pure core: ``handle(event, now) -> [instruction]``.

It stands between clients and cells, in the place where the coordinator of a mesh without cells is. It decides
which cell gets a job, and nothing else: the cell accepts it, tunes it, and tells the client.

Rules, in prose:

1. **Nothing is kept.** Which cell has a job is a :class:`Placed` that the desk has sent to itself and holds.
   A successor is given all of them, and all requests that were not handed on.
2. **Decide, save, act.** A request is handed on when its :class:`Placed` is back, and acknowledged when the
   broker has confirmed that it is in the queue of the cell. What is done twice after a crash goes to the same
   cell, which knows a job by its id.
3. **Jobs of a dead cell.** What its coordinator held is in its queue. The desk reads that, as nobody else
   does, finds a cell for each job, saves that, and moves the messages of the job. A job that no other cell
   serves stays. A desk that dies in the middle of this leaves a job *in doubt*: where the dead cell is back
   by then, it may have the job, or the other one, or both. They are asked, and one goes on.
4. What is asked about one job goes to the cell that has it, which answers the client by itself. What is asked
   about all jobs is asked of all cells, and answered with one answer.

No clock, no chance, no IO: ``now`` is an argument, in seconds of a clock that never jumps.

Longer than other files: it is one state machine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from tunemesh.coordinator.cells.choice import Cells
from tunemesh.coordinator.cells.events import (
    CellAnswered,
    CellSeen,
    DeskEvent,
    DeskInstruction,
    Found,
    Hand,
    Move,
    Moved,
    NotHanded,
    Place,
    PlaceSaved,
    Search,
    SearchEnded,
    TellForget,
)
from tunemesh.coordinator.cells.gathering import Questions, Whereabouts
from tunemesh.coordinator.cells.messages import Handed, Placed
from tunemesh.coordinator.events import (
    Acknowledge,
    Answer,
    Arrived,
    CaughtUp,
    Connected,
    Garbled,
    Tick,
)
from tunemesh.coordinator.gate import Gate
from tunemesh.coordinator.jobs.ledger import Handle
from tunemesh.coordinator.jobs.limits import Limits
from tunemesh.coordinator.scheduling.dispatcher import Dispatcher
from tunemesh.coordinator.scheduling.durations import Durations
from tunemesh.coordinator.scheduling.resources import Resources
from tunemesh.coordinator.scheduling.strategies import by_name
from tunemesh.coordinator.state import State
from tunemesh.shared.messages import Cancel, Learn, Query, Request, SetStrategy, Snapshot

GIVE_UP_AFTER = 60.0
"""Seconds without a word of a cell's coordinator after which its jobs go to other cells, by default."""

SETTLE = 3.0
"""Seconds after connecting in which cells may say how they are, before jobs are given to some of them."""

LOOK_AGAIN = 15.0
"""Seconds between two looks whether a dead cell has jobs that another one can have."""

COUNT_EVERY = 600.0
"""Seconds between two messages that say which artifacts are needed."""

MOST_PLACED = 40_000
"""Jobs of which it is kept which cell has them. Of more, the oldest of the tenant goes that has most of them:
so whoever asks for job after job drops none but its own."""


@dataclass(slots=True)
class _Waiting:
    """What came for a job that is being placed."""

    placed: Placed
    asked: list[Arrived] = field(default_factory=list)
    source: str | None = None
    """The dead cell that has it."""


class Desk:
    """All decisions of the desk.

    Args:
        limits: of tenants; those of what they may send hold here, the others in each cell.
        give_up_after: see :data:`GIVE_UP_AFTER`.
    """

    def __init__(
        self, limits: Mapping[str, Limits] | None = None, give_up_after: float = GIVE_UP_AFTER
    ) -> None:
        self._limits = limits or {}
        self._out: list[DeskInstruction] = []
        self._give_up_after = give_up_after
        self._now = 0.0
        self._forget()

    @property
    def placed(self) -> dict[str, str]:
        """Cells by job; for views and tests."""
        return {job: placed.cell for job, (placed, _) in self._placed.items()}

    @property
    def cells(self) -> Cells:
        """For views and tests."""
        return self._cells

    def handle(self, event: DeskEvent, now: float) -> list[DeskInstruction]:
        """Take one event at time ``now`` and say what to do."""
        self._now = self._state.now = now
        self._route(event)
        out = [*self._state.out, *self._out]
        self._state.out, self._out = [], []
        return out

    def _forget(self) -> None:
        resources = Resources()
        dispatcher = Dispatcher(by_name("interleaved"), resources)
        self._state = State(resources, Durations(), dispatcher, limits=self._limits)
        self._gate = Gate(self._state)
        self._cells = Cells()
        self._out.clear()
        self._questions = Questions(self._cells)
        self._placed: dict[str, tuple[Placed, Handle]] = {}
        self._waiting: dict[str, _Waiting] = {}
        self._stash: list[Arrived] = []
        self._failed: list[Hand] = []
        self._searched: dict[str, float] = {}
        self._searching: str | None = None
        self._found: dict[str, Found] = {}
        self._caught_up = self._settled = self._said = False
        self._since = self._counted_at = self._now

    def _route(self, event: DeskEvent) -> None:
        match event:
            case Connected(wall):
                self._forget()
                self._state.now, self._state.epoch = self._now, wall - self._now
            case CaughtUp():
                self._caught_up = True
            case PlaceSaved(handle, placed):
                self._saved(handle, placed)
            case CellSeen(status):
                self._cells.heard(status, self._now)
            case CellAnswered(correlation_id, snapshot):
                self._out.extend(self._questions.answered(correlation_id, snapshot, self._now))
                self._certain_by(self._questions.whereabouts(correlation_id, snapshot))
            case Garbled():
                self._gate.garbled(event)
            case Arrived():
                self._arrived(event)
            case NotHanded(hand):
                self._failed.append(hand)
            case SearchEnded(cell, complete):
                self._search_ended(cell, complete)
            case Found():
                self._found[event.job] = event
                if self._settled:
                    self._find_place(event)
            case Moved(job):
                self._found.pop(job, None)
                self._certain(job)
            case Tick():
                self._tick()

    # -- What clients ask -----------------------------------------------------------------------------------

    def _arrived(self, event: Arrived) -> None:
        if self._gate.refuses(event):
            return
        if self._settled and (self._has_cells() or isinstance(event.message, Query)):
            self._deal_with(event)
        else:
            self._stash.append(event)

    def _has_cells(self) -> bool:
        return bool(self._cells.alive(self._now))

    def _deal_with(self, event: Arrived) -> None:
        match event.message:
            case SetStrategy() | Learn() if event.tenant is not None:
                self._hand(self._cells.alive(self._now)[0], event)  # which says that it is not for clients
            case Request() as request:
                self._place(event, request)
            case Query(job=None):
                self._out.append(Acknowledge(event.handle))
                if event.reply_to is not None:
                    self._out.extend(self._questions.gather(event, self._now))
            case Query(job=str(job)) | Cancel(job=job):
                self._about(event, job)
            case SetStrategy():
                first, *others = self._cells.alive(self._now)
                for each in others:
                    self._out.append(Hand(each, _handed(event, silent=True)))
                self._hand(first, event)
            case Learn():
                self._hand(self._cells.alive(self._now)[0], event)

    def _place(self, event: Arrived, request: Request) -> None:
        known = self._placed.get(request.job)
        if (waiting := self._waiting.get(request.job)) is not None:
            waiting.asked.append(event)
        elif self._in_doubt(request.job):
            self._stash.append(event)
        elif known is not None:
            self._hand(known[0].cell, event)
        else:
            near = {self._placed[job][0].cell for job in request.known if job in self._placed}
            cell = self._cells.choose(request, self._now, near=near)
            if cell is None:
                self._stash.append(event)
                return
            self._cells.give(cell, request, self._now)
            tenant = request.tenant if event.tenant is None else event.tenant
            placed = Placed(job=request.job, tenant=tenant, cell=cell)
            self._waiting[request.job] = _Waiting(placed, [event])
            self._out.append(Place(placed))
            self._state.log("info", f"given to cell {cell}", job=request.job)

    def _about(self, event: Arrived, job: str) -> None:
        if job in self._waiting:
            self._waiting[job].asked.append(event)
        elif self._in_doubt(job):
            self._stash.append(event)
        elif job in self._placed:
            self._hand(self._placed[job][0].cell, event)
        else:
            self._out.append(Acknowledge(event.handle))
            if isinstance(event.message, Query) and event.reply_to is not None:
                nothing = Snapshot(
                    strategy="", jobs=[], resources=[], cells=self._questions.progress(self._now)
                )
                self._out.append(Answer(event.reply_to, event.correlation_id, nothing))

    def _hand(self, cell: str, event: Arrived) -> None:
        """Hand on what was asked. A request never goes to a cell that is silent: its job may be moved before
        it is read there, and would then be in two of them."""
        silent = not self._cells.is_alive(cell, self._now)
        if silent and isinstance(event.message, Request):
            self._stash.append(event)
        elif silent and isinstance(event.message, Query):
            self._out.append(Acknowledge(event.handle))  # nobody is there to answer it
        else:
            self._out.append(Hand(cell, _handed(event), event.handle))

    # -- Which cell has a job -------------------------------------------------------------------------------

    def _saved(self, handle: Handle, placed: Placed) -> None:
        known = self._placed.get(placed.job)
        if known is not None and known[0].order >= placed.order:
            self._out.append(Acknowledge(handle))
            return
        if known is not None:
            self._out.append(Acknowledge(known[1]))
            del self._placed[placed.job]
        self._placed[placed.job] = placed, handle
        for cell in (placed.cell, placed.source):
            if cell:
                self._cells.known(cell, self._now)
        if len(self._placed) > MOST_PLACED:
            counts = Counter(each.tenant for each, _ in self._placed.values())
            most = max(counts, key=lambda each: (counts[each], each))
            oldest = next(job for job, (each, _) in self._placed.items() if each.tenant == most)
            self._out.append(Acknowledge(self._placed.pop(oldest)[1]))
        waiting = self._waiting.pop(placed.job, None)
        if waiting is None:
            return
        if waiting.source is not None:
            self._out.append(Move(placed.job, waiting.source, placed.cell))
            self._stash.extend(waiting.asked)
            return
        for event in waiting.asked:
            self._hand(placed.cell, event)

    def _search_ended(self, cell: str, complete: bool) -> None:
        """A request whose desk died before it was handed on may be for a cell that has died, too."""
        self._searching = None
        left = {job for job, each in self._found.items() if each.cell == cell}
        if complete:
            for job in [job for job, (each, _) in self._placed.items() if each.source == cell]:
                if job not in left and job not in self._waiting:
                    self._certain(job)
        if cell:
            self._found = {job: each for job, each in self._found.items() if each.cell != cell}
        stash, self._stash = (self._stash, []) if complete else ([], self._stash)
        for event in stash:
            request = event.message
            known = self._placed.get(request.job) if isinstance(request, Request) else None
            here = known is not None and known[0].cell == cell and known[0].source is None
            lost = here and known is not None and known[0].job not in left | self._waiting.keys()
            if isinstance(request, Request) and known is not None and lost:
                self._place_anew(event, request, known[0])
            else:
                self._stash.append(event)

    def _place_anew(self, event: Arrived, request: Request, known: Placed) -> None:
        cell = self._cells.choose(request, self._now)
        if cell is None or cell == known.cell:
            self._stash.append(event)
            return
        self._cells.give(cell, request, self._now)
        placed = msgspec.structs.replace(known, cell=cell, move=known.move + 1)
        self._waiting[request.job] = _Waiting(placed, [event])
        self._out.append(Place(placed))

    def _find_place(self, found: Found) -> None:
        """What lies in the queue of a dead cell belongs where the job is, or goes to a cell that serves
        it."""
        known = self._placed.get(found.job)
        if found.job in self._waiting:
            return
        if known is not None and known[0].source not in (None, found.cell) and known[0].cell == found.cell:
            return  # some of it may be elsewhere, and has to come here first
        if known is not None and known[0].cell != found.cell:
            self._out.append(Move(found.job, found.cell, known[0].cell))
        elif found.request is None:
            self._out.append(Move(found.job, found.cell, None))
        elif (cell := self._new_cell(found.request, found.cell, found.ended)) is not None:
            if not found.ended:
                self._cells.give(cell, found.request, self._now)
            move = known[0].move + 1 if known is not None else 1
            tenant = known[0].tenant if known is not None else found.request.tenant
            placed = Placed(job=found.job, tenant=tenant, cell=cell, move=move, source=found.cell)
            self._waiting[found.job] = _Waiting(placed, source=found.cell)
            self._out.append(Place(placed))
            dead = f"cell {found.cell}" if found.cell else "the coordinator that was here before"
            self._state.log("warning", f"moved to cell {cell}: {dead} is gone", job=found.job)

    def _new_cell(self, request: Request, dead: str, ended: bool) -> str | None:
        cell = self._cells.choose(request, self._now, only_served=not ended)
        return cell if cell != dead else None

    # -- Jobs in doubt ---------------------------------------------------------------------------------------

    def _in_doubt(self, job: str) -> bool:
        """Whether some of a job may be in a cell that it was moved away from."""
        known = self._placed.get(job)
        return known is not None and known[0].source is not None

    def _certain(self, job: str) -> None:
        """All of a job is where it was moved to."""
        if self._in_doubt(job):
            known = self._placed[job][0]
            self._out.append(Place(msgspec.structs.replace(known, source=None)))

    def _resolve(self) -> None:
        doubts = {job: placed for job, (placed, _) in self._placed.items() if placed.source is not None}
        self._out.extend(self._questions.resolve(doubts, self._found, self._now))

    def _certain_by(self, where: Whereabouts | None) -> None:
        """Cells have said which of them has a job."""
        if where is None or not self._in_doubt(where.job):
            return
        placed = self._placed[where.job][0]
        if placed.source in where.cells and placed.cell not in where.cells:
            assert placed.source is not None
            # The other one, where it is not there to say so, may have it too.
            doubt = placed.cell if placed.cell not in where.asked else None
            move = placed.move + 1
            back = msgspec.structs.replace(placed, cell=placed.source, move=move, source=doubt)
            self._out.append(Place(back))
            if doubt is None:
                self._out.append(TellForget(placed.cell, where.job))  # results without their ledger, perhaps
            return
        if placed.source is not None and placed.source in where.cells:
            self._out.append(TellForget(placed.source, where.job))
        self._certain(where.job)

    # -- Time -----------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        self._gate.tick()
        if not self._settled:
            if not self._caught_up or self._now - self._since < SETTLE:
                return
            self._settled = True
        if self._stash and not self._has_cells() and not self._said:
            self._said = True
            text = "what is asked waits for a cell; start one with: tunemesh coordinator --cell NAME"
            self._state.log("warning", text)
        if self._has_cells() and self._stash:
            self._said = False
            stash, self._stash = self._stash, []
            for event in stash:
                self._deal_with(event)
        for each in list(self._found.values()):
            self._find_place(each)
        failed, self._failed = self._failed, []
        for hand in failed:
            known = self._placed.get(hand.handed.job)
            cell = known[0].cell if known is not None else hand.cell
            if self._cells.is_alive(cell, self._now):
                self._out.append(Hand(cell, hand.handed, hand.handle))
            else:
                self._failed.append(hand)
        self._out.extend(self._questions.late(self._now))
        self._resolve()
        self._search()
        self._count()

    def _search(self) -> None:
        """One after the other, the one first that was looked at longest ago."""
        if self._searching is not None or not self._has_cells():
            return
        due = {
            cell: self._searched.get(cell, -1e9) for cell in self._cells.dead(self._now, self._give_up_after)
        }
        cell = min(due, key=lambda each: (due[each], each), default=None)
        if cell is not None and self._now - due[cell] >= LOOK_AGAIN:
            self._searched[cell] = self._now
            self._searching = cell
            self._out.append(Search(cell))

    def _count(self) -> None:
        """Find out for those who keep the history which artifacts are needed, every now and then."""
        due = self._now - self._counted_at >= COUNT_EVERY
        if due and self._has_cells() and not any(not each.cell for each in self._found.values()):
            self._counted_at = self._now
            self._out.extend(self._questions.gather(None, self._now))


def _handed(event: Arrived, silent: bool = False) -> Handed:
    assert isinstance(event.message, Request | Cancel | Query | SetStrategy | Learn)
    return Handed(
        message=event.message,
        user=event.user,
        tenant=event.tenant,
        reply_to=None if silent else event.reply_to,
        correlation_id=event.correlation_id,
    )
