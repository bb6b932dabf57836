"""What all messages are made of. MessagePack on the wire.

The prose version, for clients in other languages, is ``docs/wire-format.md``. Rules that hold for all:

- A message is a MessagePack map with a ``type`` and a ``version``. Unknown fields are skipped.
- Times are seconds since the Unix epoch; durations and latencies are seconds.
- Bytes that may be large are a :class:`Blob`: inline while small, else in the artifact store.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from tunemesh.shared.accounts import NAME_PATTERN
from tunemesh.shared.text import ERROR_TEXT_LIMIT

WIRE_VERSION = 1

TenantName = Annotated[str, Meta(pattern=rf"^{NAME_PATTERN}\Z")]

JobId = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}\Z")]

_ENGINE = "[a-z][a-z0-9-]{0,39}"

QueueName = Annotated[
    str,
    Meta(
        pattern=rf"^((model-update|build-cpu)(\.{_ENGINE}(\+{_ENGINE}){{0,4}})?"
        r"|profile-[a-z0-9][a-z0-9-]{0,62})\Z"
    ),
]
"""With the engines of its workers where these are not those that come with Tunemesh: ``build-cpu.toy``."""

StepId = Annotated[str, Meta(pattern=r"^[!-~]{1,200}\Z")]

Nonce = Annotated[str, Meta(pattern=r"^[0-9a-f]{0,64}\Z")]
"""Of a step: known to whoever was given it, and to the coordinator."""

TaskId = Annotated[str, Meta(pattern=r"^[!-~]{1,60}\Z")]
"""``-`` where a message is not about a task."""

MOST_REGIONS = 16
"""Searches that one task has at most."""

Name = Annotated[str, Meta(max_length=300)]

Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]

Count = Annotated[int, Meta(ge=0, le=2**53)]

Positive = Annotated[int, Meta(ge=1, le=2**53)]

MOST_SECONDS = 1e9

Seconds = Annotated[float, Meta(ge=0, le=MOST_SECONDS)]
"""A duration or a latency; like the next two neither infinite nor NaN, since sums of them are kept."""

Instant = Annotated[float, Meta(ge=0, le=1e11)]
"""Unix time."""

Drift = Annotated[float, Meta(gt=-1, le=1e9)]
"""How much slower than usual a device was: 0.1 is 10 %."""

Visibility = Literal["tenant", "all"]
"""Who may use what was measured for a job: its tenant, or all. That of a job without a tenant is for all."""

Stage = Literal["import", "model-update", "build", "profile", "assemble", "validate", "learn"]

EngineName = Annotated[str, Meta(pattern=rf"^{_ENGINE}\Z")]
"""That of its entry point."""

Options = dict[str, bool | int | float | str]
"""What an engine, or the graph, can be told by name; each checks its own."""

Headers = dict[str, str | int]
"""AMQP headers."""

ErrorText = Annotated[str, Meta(max_length=2 * ERROR_TEXT_LIMIT)]

NAME_LIMIT = 200
"""Characters of a job's name."""


class Blob(Struct, frozen=True, omit_defaults=True):
    """Bytes by content.

    ``data`` holds them when they are small; without it they lie in the artifact store under
    ``<root>/<first two hex digits>/<sha256>``. Readers check the hash in both cases.
    """

    sha256: Sha256
    size: Count
    data: bytes | None = None


class Message(Struct, frozen=True, kw_only=True, tag_field="type"):
    """What all messages have in common. A reader refuses a ``version`` that it does not know."""

    version: int = WIRE_VERSION

    @property
    def type_name(self) -> str:
        """The ``type`` on the wire, also in the AMQP properties."""
        return tag_of(self)

    def message_id(self) -> str:
        """A deterministic id: the same message again has the same one, so that duplicates show."""
        return self.type_name

    def headers(self) -> Headers:
        """What a person reads in the management UI without decoding the body."""
        return {"version": self.version}


def step_id(job: str, task: str, round_: int | None, chunk: int | None, stage: Stage) -> str:
    """``job/task/round/chunk/stage``, with ``-`` where a part does not apply. The same step always has the
    same id."""
    parts = ("-" if part is None else part for part in (round_, chunk))
    return f"{job}/{task}/{'/'.join(map(str, parts))}/{stage}"


def tag_of(struct: Struct | type[Struct]) -> str:
    """The ``type`` that a struct, or its class, has on the wire."""
    return str(struct.__struct_config__.tag)
