"""Have a model tuned by a running mesh, without any code of Tunemesh: ``pika`` and ``msgpack`` are enough.

    python examples/publish_request.py model.onnx --trials 256 --artifacts /srv/tunemesh/artifacts

Written from ``docs/wire-format.md`` alone, as a pattern for clients in other languages. Exit codes: 0 the
tuned model was written, 1 the job did not give one, 2 bad usage, or the broker cannot be used, 130 Ctrl-C has
cancelled the job. ``examples/clients`` has the same in JavaScript and Java.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import random
import re
import secrets
import signal
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import msgpack
import pika
from pika.adapters.utils.connection_workflow import AMQPConnectorException
from pika.exceptions import (
    AMQPError,
    ProbableAccessDeniedError,
    ProbableAuthenticationError,
    UnroutableError,
)

VERSION = 1
CLIENTS, EVENTS = "tunemesh.clients", "tunemesh.events"
INLINE_LIMIT = 65_536
"""Bytes up to which a model travels inside the request."""
SILENCE = 5.0
"""Seconds without news after which the coordinator is asked: events sent while a client is away are lost."""
ASK_AT_MOST = 12
"""Answers without the job that are believed in the end."""
LAST = 10
"""Seconds for the end of a job after Ctrl-C."""
LATE_FILE = (0.0, 0.1, 0.4, 1.5)
"""Seconds before each attempt to read: a network file system shows a new file up to some seconds late."""
FINAL = ("done", "failed", "cancelled", "rejected")

Map = dict[str, Any]


class Problem(Exception):
    """The end, with the exit code and one line for people."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class Mesh:
    """A connection with a queue of its own, which gets everything about one job."""

    def __init__(self, url: str, job: str) -> None:
        self.job = job
        self.connected = False
        """Whether it ever was."""
        self.interrupted = False
        """Somebody has pressed Ctrl-C."""
        self._parameters = pika.URLParameters(url)
        self._user = self._parameters.credentials.username
        # Users of a tenant are called client.<tenant>.<name>; jobs of nobody in particular have a dash.
        parts = self._user.split(".")
        self._tenant = parts[1] if len(parts) == 3 and parts[0] == "client" else "-"
        self._parameters.socket_timeout = self._parameters.stack_timeout = 10
        self._parameters.blocked_connection_timeout = 60
        self._parameters.client_properties = {"connection_name": f"publish_request {job}"}

    def connect(self) -> None:
        """Declare, bind and listen, before anything is published: earlier events would be lost."""
        self._connection = pika.BlockingConnection(self._parameters)
        self._channel = self._connection.channel()
        self._channel.confirm_delivery()
        self._queue = f"{self._user}.{secrets.token_hex(2)[:3]}"  # a user may declare no others
        self._channel.queue_declare(self._queue, exclusive=True)
        self._channel.queue_bind(self._queue, EVENTS, f"job.{self._tenant}.{self.job}.*")
        self.connected = True

    def publish(self, message: Map, correlation_id: str, expires_ms: int | None = None) -> None:
        """Publish and wait until the broker has taken responsibility."""
        self._channel.basic_publish(
            CLIENTS,
            f"{message['type']}.{self._tenant}",
            msgpack.packb(message),
            pika.BasicProperties(
                content_type="application/msgpack",
                type=message["type"],
                message_id=f"{self.job}/{message['type']}/{uuid.uuid4().hex[:8]}",
                correlation_id=correlation_id,
                reply_to=self._queue,
                user_id=self._user,  # the broker refuses any other
                delivery_mode=2 if expires_ms is None else 1,
                expiration=None if expires_ms is None else str(expires_ms),
                headers={"version": VERSION, "job": self.job, "sent-at-ms": int(time.time() * 1000)},
            ),
            mandatory=True,
        )

    def messages(self) -> Iterator[tuple[Map, str | None] | None]:
        """What arrives, with its correlation id; ``None`` four times a second while nothing does."""
        for method, properties, body in self._channel.consume(
            self._queue, auto_ack=True, inactivity_timeout=0.25
        ):
            yield None if method is None else (msgpack.unpackb(body), properties.correlation_id)

    def close(self) -> None:
        with contextlib.suppress(AMQPError, AttributeError):
            self._connection.close()


def follow(mesh: Mesh, request: Map) -> Map:
    """Publish ``request`` and print what happens, until the final event, which is returned."""
    published = False
    while True:
        try:
            mesh.connect()
            if published:
                _ask(mesh)  # what was said in the meantime is lost
            elif mesh.interrupted:
                raise Problem(130, "interrupted before the request was sent")
            else:
                # Where the connection breaks before the confirm it is sent again, and is the same job.
                mesh.publish(request, correlation_id=mesh.job)
                published = True
                print(f"{mesh.job}: published", flush=True)
            return _until_final(mesh)
        except UnroutableError:
            raise Problem(2, "this broker is not set up for Tunemesh: no queue takes the message") from None
        except TimeoutError:  # the alarm
            raise
        except (AMQPError, AMQPConnectorException, OSError) as error:
            if not mesh.connected or isinstance(
                error, (ProbableAuthenticationError, ProbableAccessDeniedError)
            ):
                # What is wrong with a first connection hardly mends itself, and a refusal never.
                raise Problem(2, f"cannot use the broker: {_cause(error)}") from None
            print(f"{mesh.job}: connection lost ({_cause(error)}), connecting again", file=sys.stderr)
            time.sleep(random.uniform(0.5, 1.5))  # not with all others at once


def _until_final(mesh: Mesh) -> Map:
    unknown, heard, cancelled = 0, time.monotonic(), False
    for arrived in mesh.messages():
        if mesh.interrupted and not cancelled:
            mesh.publish({"type": "cancel", "version": VERSION, "job": mesh.job}, correlation_id=mesh.job)
            cancelled = True
        if arrived is None:
            if time.monotonic() - heard > SILENCE:
                _ask(mesh)
                heard = time.monotonic()
            continue
        heard = time.monotonic()
        message, correlation_id = arrived
        if message.get("version") != VERSION:
            raise Problem(1, f"the mesh speaks version {message.get('version')}, not {VERSION}")
        if message["type"] == "snapshot":
            unknown = 0 if message["jobs"] else unknown + 1
            if unknown >= ASK_AT_MOST:
                raise Problem(1, "the mesh does not know the job any more")
            events = [_as_event(message, progress) for progress in message["jobs"]]
            if message.get("rejected"):
                events = [{"job": mesh.job, "kind": "rejected", "text": message["rejected"]}]
        elif message["type"] == "job-event":
            events = [message]
        else:
            continue
        for event in events:
            if event["job"] == mesh.job or (event["kind"] == "rejected" and correlation_id == mesh.job):
                print(_line(mesh.job, event), flush=True)
                if event["kind"] in FINAL:
                    return event
    raise Problem(1, "the queue was taken away")


def _ask(mesh: Mesh) -> None:
    query = {"type": "query", "version": VERSION, "job": mesh.job}
    mesh.publish(query, correlation_id=uuid.uuid4().hex, expires_ms=60_000)


def _as_event(snapshot: Map, progress: Map) -> Map:
    """What the latest event would have said."""
    kind = progress["phase"] if progress["phase"] in FINAL else "progress"
    text = progress.get("error") or progress.get("waiting") or ""
    return {
        "job": progress["job"],
        "kind": kind,
        "text": text,
        "progress": progress,
        "assembled": snapshot.get("assembled"),
    }


def _line(job: str, event: Map) -> str:
    progress = event.get("progress")
    words = [f"{job}: {event['kind']}"]
    if progress:
        words.append(f"{progress['phase']}, {progress['trials']} of {progress['budget']} trials")
    if event.get("text"):
        words.append(event["text"])
    return _printable("; ".join(words))


def _printable(text: str) -> str:
    """Texts come from others, and go to a terminal: nothing in them may be obeyed there."""
    return "".join(each if each.isprintable() else "?" for each in " ".join(text.split()))


# -- The artifact store ------------------------------------------------------------------------------------


def own_store(store: Path | None, broker: str) -> Path | None:
    """The part of the store that belongs to the tenant of the user who logs in with ``broker``."""
    user = unquote(urlsplit(broker).username or "").split(".")
    tenant = user[1] if len(user) == 3 and user[0] == "client" else None
    return store / "tenants" / tenant if store is not None and tenant else store


def to_blob(data: bytes, store: Path | None) -> Map:
    """Inline while small, else written into the store: whole, under another name, then renamed."""
    sha256 = hashlib.sha256(data).hexdigest()
    blob: Map = {"sha256": sha256, "size": len(data)}
    if len(data) <= INLINE_LIMIT:
        return blob | {"data": data}
    if store is None:
        raise Problem(2, f"a model of {len(data):,} bytes needs the artifact store: give --artifacts")
    place = store / sha256[:2] / sha256
    partial = place.with_name(f"{sha256}.{uuid.uuid4().hex[:8]}.partial")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(data)
        partial.rename(place)
    except OSError as error:
        raise Problem(2, f"cannot write to {store}: {error.strerror}") from None
    return blob


def from_blob(blob: Map, store: Path | None) -> bytes:
    """The bytes, checked."""
    data = blob.get("data")
    if data is None:
        if store is None:
            raise Problem(1, "the result lies in the artifact store: give --artifacts")
        data = _read(blob, store)
    if not _fits(blob, data):
        raise Problem(1, f"artifact {blob['sha256'][:12]} is damaged")
    return bytes(data)


def _read(blob: Map, store: Path) -> bytes:
    data, why = b"", None
    for pause in LATE_FILE:
        time.sleep(pause)
        try:
            data, why = (store / blob["sha256"][:2] / blob["sha256"]).read_bytes(), None
        except OSError as error:
            why = error.strerror
        if _fits(blob, data):
            return data
    if why is not None:
        raise Problem(1, f"cannot read the result from {store}: {why}")
    return data


def _fits(blob: Map, data: bytes) -> bool:
    return len(data) == blob["size"] and hashlib.sha256(data).hexdigest() == blob["sha256"]


# -- The command -------------------------------------------------------------------------------------------


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Have a model tuned by a running mesh.")
    parser.add_argument("model", type=Path, help="an ONNX file; for --engine mock its YAML text")
    environment = os.environ.get
    parser.add_argument(
        "--broker", default=environment("TUNEMESH_BROKER_URL"), help="amqp://user:password@host/vhost"
    )
    parser.add_argument("--target", default="native", help="as a device of the mesh serves it (native)")
    parser.add_argument("--trials", type=int, default=256, help="budget (256)")
    parser.add_argument("--engine", help="by default all that the mesh serves")
    parser.add_argument(
        "--artifacts", type=Path, default=environment("TUNEMESH_ARTIFACTS"), help="the store's folder"
    )
    parser.add_argument("--out", type=Path, default=Path("model.so"), help="the tuned model (model.so)")
    parser.add_argument("--timeout", type=int, default=3600, help="seconds to wait at most (3600)")
    chosen = parser.parse_args()
    if not chosen.broker:
        parser.error("give --broker, or set TUNEMESH_BROKER_URL")
    if chosen.artifacts is not None and ":/" in str(chosen.artifacts):
        parser.error("--artifacts: this example knows folders only")
    if chosen.timeout < 1 or chosen.trials < 1:
        parser.error("--timeout and --trials must be at least 1")
    return chosen


def run(chosen: argparse.Namespace) -> None:
    try:
        model = chosen.model.read_bytes()
    except OSError as error:
        raise Problem(2, f"cannot read {chosen.model}: {error.strerror}") from None
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", chosen.model.stem).strip("-_")[:40] or "model"
    job = f"{stem}-{uuid.uuid4().hex[:8]}"
    store = own_store(chosen.artifacts, chosen.broker)
    request = {
        "type": "request",
        "version": VERSION,
        "job": job,
        "model": to_blob(model, store),
        "target": chosen.target,
        "level": {"trials": chosen.trials},
        "engines": [chosen.engine] if chosen.engine else [],
        "name": chosen.model.name[:200],
    }
    try:
        mesh = Mesh(chosen.broker, job)
    except (ValueError, TypeError, IndexError):
        raise Problem(2, "--broker is no URL like amqp://user:password@host:5672/tunemesh") from None

    def interrupt(_signum: int, _frame: object) -> None:
        print(f"{job}: cancelling", file=sys.stderr)
        mesh.interrupted = True
        signal.signal(signal.SIGINT, signal.default_int_handler)  # the second time: at once
        signal.alarm(LAST)

    signal.signal(signal.SIGINT, interrupt)
    try:
        final = follow(mesh, request)
    except TimeoutError:
        if not mesh.interrupted:
            raise
        raise Problem(130, "interrupted; the job may not have heard of it") from None
    finally:
        mesh.close()
    if final["kind"] != "done":
        code = 130 if mesh.interrupted and final["kind"] == "cancelled" else 1
        raise Problem(code, f"job {job} {final['kind']}: {final.get('text') or 'no reason given'}")
    data = from_blob(final["assembled"]["tuned"], store)
    try:
        chosen.out.write_bytes(data)
    except OSError as error:
        raise Problem(1, f"cannot write {chosen.out}: {error.strerror}") from None
    print(f"{job}: wrote {chosen.out} ({len(data):,} bytes)")


def _cause(error: BaseException) -> str:
    """The innermost cause in one line."""
    inner = getattr(error, "exception", None) or (error.args[0] if error.args else None)
    if isinstance(inner, BaseException):
        return _cause(inner)
    return " ".join(str(error).split()) or type(error).__name__


def _too_late(_signum: int, _frame: object) -> None:
    raise TimeoutError


def main() -> int:
    chosen = arguments()
    # One limit over all waits: connecting, the broker's confirm, the events.
    signal.signal(signal.SIGALRM, _too_late)
    signal.alarm(chosen.timeout)
    try:
        run(chosen)
    except TimeoutError:
        print(
            f"error: nothing final within {chosen.timeout} s; the job, if accepted, goes on", file=sys.stderr
        )
        return 1
    except Problem as problem:
        print(f"error: {_printable(str(problem))}", file=sys.stderr)
        return problem.code
    return 0


if __name__ == "__main__":
    sys.exit(main())
