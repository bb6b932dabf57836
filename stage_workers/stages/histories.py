"""Histories of tasks, as ``model-update`` keeps them in the store."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from tunemesh.shared.artifacts import ArtifactStore
from tunemesh.shared.errors import ArtifactError
from tunemesh.shared.messages import Blob, History, Trial

_decoder = msgspec.msgpack.Decoder(History)


def read_trials(history: Sequence[Blob], store: ArtifactStore) -> list[Trial]:
    """All trials of a task, oldest first.

    Raises:
        ArtifactError: one of the histories is missing or damaged.
    """
    return [trial for blob in history for trial in _read(blob, store).trials]


def _read(blob: Blob, store: ArtifactStore) -> History:
    try:
        return _decoder.decode(store.get(blob))
    except msgspec.DecodeError as error:
        raise ArtifactError(f"artifact {blob.sha256[:12]} is no history of a round: {error}") from None
