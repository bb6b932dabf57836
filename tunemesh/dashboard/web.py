"""The pages, and what they are asked for."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

import tunemesh
from tunemesh.checks import check_job_id
from tunemesh.client import Client
from tunemesh.dashboard.board import Board, Detail, View
from tunemesh.dashboard.feed import Feed
from tunemesh.dashboard.growing import Reports
from tunemesh.dashboard.kept import Kept
from tunemesh.dashboard.listing import Order, Shown, Wanted, listing, row
from tunemesh.dashboard.streams import Parts, Streams
from tunemesh.mesh_address import MeshAddress
from tunemesh.report_page import writing
from tunemesh.shared.errors import BadInput, TunemeshError
from tunemesh.shared.messages import FINAL_KINDS
from tunemesh.status_tables import step_text

FOLDER = Path(__file__).parent
FILES = {"page.js": "text/javascript", "page.css": "text/css"}
AGAIN = 10.0
"""Seconds after which it is asked again where that lies which was measured for a job that somebody looks at:
the mesh tells it once a minute."""
BODY_LIMIT = 1_000
"""Bytes of what a button sends."""


class Stop(msgspec.Struct, forbid_unknown_fields=True):
    """What a button sends."""

    keep: bool
    """Whether the job ends with the best so far."""


class Pages:
    """All pages of one mesh.

    Args:
        read_only: no job can be stopped from them.
    """

    def __init__(
        self,
        address: MeshAddress,
        board: Board,
        feed: Feed,
        read_only: bool,
        connect: Callable[..., Client] = Client,
    ) -> None:
        self._connect = connect
        self._address = address
        self._board = board
        self._feed = feed
        self._read_only = read_only
        self._reports = Reports(address)
        self._kept = Kept(address)
        self._templates = writing.environment(FOLDER)
        self._streams: Streams

    def app(self) -> Starlette:
        """What a server serves."""
        routes = [
            Route("/", self._mesh),
            Route("/events", self._mesh_events),
            Route("/jobs/{job}", self._job),
            Route("/jobs/{job}/events", self._job_events),
            Route("/jobs/{job}/report", self._report),
            Route("/jobs/{job}/stop", self._stop, methods=["POST"]),
            Route("/past", self._past),
            Route("/records", self._records),
            Route("/files/{name}", self._file),
        ]

        @asynccontextmanager
        async def living(_: Starlette) -> AsyncIterator[None]:
            self._streams = Streams(self._board)
            yield

        return Starlette(routes=routes, lifespan=living, exception_handlers={TunemeshError: self._failed})

    def close(self) -> None:
        """End what pages listen to."""
        self._streams.close()

    # -- The mesh --------------------------------------------------------------------------------------------

    async def _mesh(self, request: Request) -> Response:
        wanted = Wanted.of(request.query_params)
        return self._page(
            "mesh.html.j2", view=self._board.view(), wanted=wanted, parts=self._mesh_parts(wanted)
        )

    async def _mesh_events(self, request: Request) -> Response:
        wanted = Wanted.of(request.query_params)

        async def parts() -> Parts:
            return self._mesh_parts(wanted)

        return self._stream(parts)

    def _mesh_parts(self, wanted: Wanted) -> dict[str, Any]:
        """What the page of the mesh shows: a part for each row of a table, and the order of the rows."""
        view = self._board.view()
        shown = listing(view, wanted, time.time())
        part = partial(self._part, "mesh_parts.html.j2", view=view, shown=shown, wanted=wanted)
        rows = {f"job {each.job}": part("job", row=each) for each in shown.rows}
        resources = {f"resource {each.queue}": part("resource", row=each) for each in shown.resources}
        return {
            "state": self._state(view),
            "counts": part("counts"),
            "found": part("found"),
            "news": part("news"),
            "more-resources": part("more_resources"),
            **rows,
            **resources,
            "order jobs": list(rows),
            "order resources": list(resources),
        }

    # -- One job ---------------------------------------------------------------------------------------------

    async def _job(self, request: Request) -> Response:
        job = request.path_params["job"]
        check_job_id(job)
        detail = await self._looked_up(job)
        if detail is None:
            raise BadInput(self._unknown(job))
        return self._page(
            "job.html.j2", job=job, view=self._board.view(), parts=self._job_parts(job, detail),
            report=await run_in_threadpool(self._report_of, detail),
        )  # fmt: skip

    async def _job_events(self, request: Request) -> Response:
        job = request.path_params["job"]
        check_job_id(job)

        async def parts() -> Parts:
            detail = self._board.detail(job)
            old = detail is not None and not detail.progress.finished and time.time() - detail.asked > AGAIN
            if old and self._board.view().link.may_ask:
                await run_in_threadpool(self._feed.look, job)
                detail = self._board.detail(job)
            if detail is None:
                return {"state": self._state(self._board.view())}
            report = await run_in_threadpool(self._report_of, detail)
            return {**self._job_parts(job, detail), "report": report}

        return self._stream(parts)

    async def _looked_up(self, job: str) -> Detail | None:
        """All that is known of a job, by whomever."""
        detail = self._board.detail(job)
        may_ask = self._board.view().link.may_ask
        if may_ask and (detail is None or not detail.asked):
            await run_in_threadpool(self._feed.look, job)
            detail = self._board.detail(job)
        if may_ask and detail is None and not self._board.rejected(job):
            detail = await run_in_threadpool(self._reports.past, job)
        return detail

    def _unknown(self, job: str) -> str:
        if why := self._board.rejected(job):
            return f"job {job} was rejected: {why}"
        return f"nobody knows a job {job}: neither the coordinator nor the history of the mesh"

    def _job_parts(self, job: str, detail: Detail) -> dict[str, Any]:
        view = self._board.view()
        running = [
            (each.queue, step_text(step).partition(" ")[2] or step)
            for each in view.resources
            for step in each.running
            if step.partition("/")[0] == job
        ]
        part = partial(
            self._part, "job_parts.html.j2", job=detail.progress, row=row(detail.progress, time.time()),
            running=running,
        )  # fmt: skip
        stoppable = self._may_stop(view) and detail.progress.phase not in FINAL_KINDS
        return {
            "state": self._state(view),
            "head": part("head"),
            "buttons": part("buttons", stoppable=stoppable, stopping=_stopping(detail)),
            "steps": part("steps"),
        }

    def _report_of(self, detail: Detail) -> str:
        """The report as a part of the page, or why there is none."""
        try:
            return self._reports.of(detail)
        except TunemeshError as error:
            return self._part("job_parts.html.j2", "no_report", why=str(error))

    async def _report(self, request: Request) -> Response:
        """The report alone, for other programs and for those who have no script."""
        job = request.path_params["job"]
        check_job_id(job)
        detail = await self._looked_up(job)
        if detail is None:
            raise BadInput(self._unknown(job))
        return HTMLResponse(await run_in_threadpool(self._report_of, detail))

    async def _stop(self, request: Request) -> Response:
        job = request.path_params["job"]
        check_job_id(job)
        body = b""
        async for block in request.stream():
            body += block
            if len(body) > BODY_LIMIT:
                return JSONResponse({"error": "that is too much"}, 413)
        try:
            wanted = msgspec.json.decode(body, type=Stop)
        except msgspec.DecodeError as error:
            return JSONResponse({"error": str(error)}, 400)
        if not self._may_stop(self._board.view()):
            return JSONResponse({"error": "this dashboard may watch and no more"}, 403)
        detail = self._board.detail(job)
        if detail is None or detail.progress.phase in FINAL_KINDS:
            return JSONResponse({"error": f"job {job} has ended already, or nobody knows it"}, 409)
        try:
            await run_in_threadpool(self._cancel, job, wanted.keep)
        except TunemeshError as error:
            return JSONResponse({"error": str(error)}, 503)
        return JSONResponse({"asked": job}, 202)

    def _cancel(self, job: str, keep: bool) -> None:
        with self._connect(self._address.broker) as client:
            client.cancel(job, keep)

    def _may_stop(self, view: View) -> bool:
        return view.link.may_ask and not self._read_only

    # -- What is kept ----------------------------------------------------------------------------------------

    async def _past(self, request: Request) -> Response:
        text = request.query_params.get("text", "")[:200]
        state = request.query_params.get("state", "")
        found = await run_in_threadpool(self._kept.jobs, text, state)
        return self._page("past.html.j2", view=self._board.view(), text=text, ended=state, found=found)

    async def _records(self, request: Request) -> Response:
        operator = request.query_params.get("operator", "")[:100]
        model = request.query_params.get("model", "")[:100]
        found = await run_in_threadpool(self._kept.records, operator, model)
        return self._page(
            "records.html.j2", view=self._board.view(), operator=operator, model=model, found=found
        )

    # -- How -------------------------------------------------------------------------------------------------

    async def _file(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in FILES:
            return Response(status_code=404)
        text = (FOLDER / name).read_text()
        # The same look as that of a report.
        return Response(writing.style() + text if name == "page.css" else text, media_type=FILES[name])

    async def _failed(self, _request: Request, error: Exception) -> Response:
        code = 404 if isinstance(error, BadInput) else 503
        return self._page("failed.html.j2", code, view=self._board.view(), why=str(error))

    def _stream(self, parts: Any) -> Response:
        if self._streams.full:
            return Response("too many pages are open\n", 503)
        headers = {"x-accel-buffering": "no"}
        return StreamingResponse(self._streams.events(parts), media_type="text/event-stream", headers=headers)

    def _page(self, template: str, status: int = 200, **shown: Any) -> Response:
        common = {
            "version": tunemesh.__version__,
            "state": self._state(shown["view"]),
            "kinds": _choices(Shown),
            "orders": _choices(Order),
            "path": template.partition(".")[0],
        }
        return HTMLResponse(self._templates.get_template(template).render(**common, **shown), status)

    def _state(self, view: View) -> str:
        return self._part("mesh_parts.html.j2", "state", view=view)

    def _part(self, template: str, name: str, **shown: Any) -> str:
        """One macro of a template of parts."""
        module = self._templates.get_template(template).module
        return str(getattr(module, name)(**{key: shown[key] for key in getattr(module, name).arguments}))


def _choices(literal: Any) -> Sequence[str]:
    return list(literal.__args__)


def _stopping(detail: Detail) -> bool:
    """Whether the best so far is being put together."""
    return detail.progress.stopped
