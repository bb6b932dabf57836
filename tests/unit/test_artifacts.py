"""The artifact store: what comes out is what went in, or an error that says why not."""

from __future__ import annotations

import errno
import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunemesh.shared.artifacts import INLINE_LIMIT, ArtifactStore
from tunemesh.shared.errors import ArtifactError
from tunemesh.shared.messages import Blob

LARGE = bytes(range(256)) * 300
assert len(LARGE) > INLINE_LIMIT


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(str(tmp_path / "store"))


def files(store: ArtifactStore) -> list[Path]:
    return [path for path in Path(store.url).rglob("*") if path.is_file()]


def place(store: ArtifactStore, blob: Blob) -> Path:
    """Where ``docs/wire-format.md`` says that a blob lies."""
    return Path(store.url) / blob.sha256[:2] / blob.sha256


def test_small_data_travels_inline_and_writes_nothing(store: ArtifactStore) -> None:
    blob = store.put(b"x" * INLINE_LIMIT)
    assert blob.data == b"x" * INLINE_LIMIT
    assert files(store) == []
    assert store.get(blob) == blob.data


def test_large_data_lies_under_its_hash(store: ArtifactStore) -> None:
    blob = store.put(LARGE)
    assert blob == Blob(hashlib.sha256(LARGE).hexdigest(), len(LARGE))
    assert files(store) == [place(store, blob)]
    assert ArtifactStore(store.url).get(blob) == LARGE


def test_small_data_lies_there_too_when_asked_for(store: ArtifactStore) -> None:
    blob = store.put(b"small", inline=False)
    assert blob.data is None
    assert place(store, blob).read_bytes() == b"small"


@given(data=st.binary(max_size=200), inline=st.booleans())
def test_everything_comes_back(data: bytes, inline: bool) -> None:
    store = ArtifactStore("memory://everything")
    assert store.get(store.put(data, inline=inline)) == data


def test_what_is_there_is_not_written_again(store: ArtifactStore) -> None:
    blob = store.put(LARGE)
    before = place(store, blob).stat()
    assert store.put(LARGE) == blob
    after = place(store, blob).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_truncated_blob_is_refused_and_mended_by_the_next_writer(store: ArtifactStore) -> None:
    blob = store.put(LARGE)
    place(store, blob).write_bytes(LARGE[:100])
    with pytest.raises(ArtifactError, match="is damaged: 100 bytes"):
        store.get(blob)
    store.put(LARGE)
    assert store.get(blob) == LARGE


def test_a_blob_with_other_bytes_is_refused_and_mended_by_the_next_writer(store: ArtifactStore) -> None:
    blob = store.put(LARGE)
    place(store, blob).write_bytes(LARGE[:-1] + b"!")
    with pytest.raises(ArtifactError, match="is damaged"):
        store.get(blob)
    store.put(LARGE)
    assert store.get(blob) == LARGE


def test_whoever_claims_another_size_does_not_remove_a_blob(store: ArtifactStore) -> None:
    blob = store.put(LARGE)
    with pytest.raises(ArtifactError, match="is damaged"):
        store.get(Blob(blob.sha256, blob.size + 1))
    assert store.get(blob) == LARGE


@pytest.mark.parametrize(
    "blob",
    [
        Blob(hashlib.sha256(b"other").hexdigest(), 4, b"data"),
        Blob(hashlib.sha256(b"data").hexdigest(), 5, b"data"),
    ],
    ids=["wrong hash", "wrong size"],
)
def test_inline_data_is_checked_as_well(store: ArtifactStore, blob: Blob) -> None:
    with pytest.raises(ArtifactError, match="is damaged"):
        store.get(blob)


def test_a_missing_blob_names_the_store_and_the_likely_cause(store: ArtifactStore) -> None:
    with pytest.raises(
        ArtifactError, match=r"is not in .*store; do client and workers share one store"
    ) as caught:
        store.get(Blob("0" * 64, 10))
    assert "\n" not in str(caught.value)


def test_a_blob_that_cannot_be_read_is_an_error_in_one_line(store: ArtifactStore) -> None:
    blob = Blob("ab" + "0" * 62, 10)
    place(store, blob).mkdir(parents=True)
    with pytest.raises(ArtifactError, match="cannot read artifact ab00") as caught:
        store.get(blob)
    assert "\n" not in str(caught.value)


def test_a_full_disk_is_named_and_leaves_nothing_behind(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = type(fsspec.filesystem("file"))

    def half(self: Any, path: str, value: bytes, **_: Any) -> None:
        Path(path).write_bytes(value[: len(value) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(local, "pipe_file", half)
        with pytest.raises(ArtifactError, match=r"cannot write artifact .*: No space left on device"):
            store.put(LARGE)
    assert files(store) == []
    assert store.get(store.put(LARGE)) == LARGE


def test_a_store_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ArtifactError, match=r"cannot write artifact .*/file: "):
        ArtifactStore(str(tmp_path / "file")).put(LARGE)


def test_writers_of_the_same_blob_do_not_disturb_each_other_or_readers(store: ArtifactStore) -> None:
    blob = Blob(hashlib.sha256(LARGE).hexdigest(), len(LARGE))

    def write_and_read(_: int) -> bytes:
        ArtifactStore(store.url).put(LARGE)
        return ArtifactStore(store.url).get(blob)

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(write_and_read, range(64))) == {LARGE}
    assert files(store) == [place(store, blob)]


@pytest.mark.parametrize("url", ["nonsense://here", "nonsense://"])
def test_an_unknown_protocol_is_refused_at_once(url: str) -> None:
    with pytest.raises(ArtifactError, match=r"cannot use 'nonsense:.*Protocol not known") as caught:
        ArtifactStore(url)
    assert "\n" not in str(caught.value)
