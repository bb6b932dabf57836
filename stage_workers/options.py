"""Options that a request gives to an engine or to the graph: each checks its own."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from tunemesh.shared.errors import BadInput
from tunemesh.shared.messages import Options

T = TypeVar("T", bound=msgspec.Struct)

GRAPH = "graph"
"""Whose options those of the graph are."""


def read(owner: str, options: Options, kind: type[T]) -> T:
    """``options`` as a struct whose fields are all that there are. Numbers may come as text.

    Raises:
        BadInput: one is unknown, or its value is bad.
    """
    known = kind.__struct_fields__
    for name, value in options.items():
        if name not in known:
            others = f"it has {', '.join(known)}" if known else "it has none"
            raise BadInput(f"{owner} has no option {name!r}; {others}")
        field: dict[str, Any] = {name: value}
        try:
            msgspec.convert(field, kind, strict=False)
        except msgspec.ValidationError as error:
            cause = str(error).partition(" - at")[0]
            raise BadInput(f"bad option {owner}.{name}={value}: {cause}") from None
    return msgspec.convert(options, kind, strict=False)
