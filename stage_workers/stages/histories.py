"""Histories of tasks, as ``model-update`` keeps them in the store."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from tunemesh.shared.artifacts import ArtifactStore
from tunemesh.shared.errors import ArtifactError
from tunemesh.shared.messages import Blob, History, TaskRecords, Trial

_decoder = msgspec.msgpack.Decoder(History)


def read_histories(history: Sequence[Blob], store: ArtifactStore) -> list[History]:
    """All histories of a task, oldest first.

    Raises:
        ArtifactError: one of them is missing or damaged.
    """
    return [_read(blob, store) for blob in history]


def read_trials(history: Sequence[Blob], store: ArtifactStore) -> list[Trial]:
    """All trials of a task, oldest first.

    Raises:
        ArtifactError: one of the histories is missing or damaged.
    """
    return [trial for each in read_histories(history, store) for trial in each.trials]


def read_records(blob: Blob, store: ArtifactStore) -> list[TaskRecords]:
    """Every task of a job that was assembled, with everything that was measured.

    Raises:
        ArtifactError: it is missing or damaged.
    """
    try:
        return msgspec.msgpack.decode(store.get(blob), type=list[TaskRecords])
    except msgspec.DecodeError as error:
        raise ArtifactError(f"artifact {blob.sha256[:12]} holds no records of a job: {error}") from None


def trials_of(records: TaskRecords, store: ArtifactStore) -> list[Trial]:
    """All trials of a task; those that were confirmed with the latencies of that.

    Raises:
        ArtifactError: one of its histories is missing or damaged.
    """
    return trials_in(records, read_histories(records.history, store))


def trials_in(records: TaskRecords, histories: Sequence[History]) -> list[Trial]:
    """The same where the histories have been read."""
    tried = [trial for each in histories for trial in each.trials] + records.trials
    confirmed = {each.hash: each.latencies for each in records.confirmed}
    return [
        msgspec.structs.replace(trial, latencies=confirmed[trial.candidate.hash])
        if trial.candidate.hash in confirmed
        else trial
        for trial in tried
    ]


def _read(blob: Blob, store: ArtifactStore) -> History:
    try:
        return _decoder.decode(store.get(blob))
    except msgspec.DecodeError as error:
        raise ArtifactError(f"artifact {blob.sha256[:12]} is no history of a round: {error}") from None
