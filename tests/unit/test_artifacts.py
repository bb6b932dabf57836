"""The artifact store: what comes out is what went in, or an error that says why not."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import socket
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st

from tunemesh.shared import artifacts
from tunemesh.shared.artifacts import INLINE_LIMIT, ArtifactStore
from tunemesh.shared.errors import ArtifactError
from tunemesh.shared.messages import Blob

LARGE = bytes(range(256)) * 300
assert len(LARGE) > INLINE_LIMIT
LARGE_FOLDER = hashlib.sha256(LARGE).hexdigest()[:2]


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifacts, "READ_PAUSES", (0.05, 0.05))
    monkeypatch.setattr(artifacts, "FULL_PAUSE", 0.05)
    monkeypatch.setattr(artifacts, "FULL_LIMIT", 0.2)


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


@pytest.mark.parametrize("damaged", [LARGE[:100], LARGE[:-1] + b"!", b"", LARGE * 2])
def test_a_read_that_does_not_match_deletes_nothing(store: ArtifactStore, damaged: bytes) -> None:
    blob = store.put(LARGE)
    place(store, blob).write_bytes(damaged)
    with pytest.raises(ArtifactError, match=rf"{blob.sha256[:12]} in .* is damaged: {len(damaged)} bytes"):
        store.get(blob)
    assert place(store, blob).read_bytes() == damaged


def test_a_blob_that_is_shown_short_for_a_moment_is_read_again(store: ArtifactStore) -> None:
    blob = store.put(LARGE)
    place(store, blob).write_bytes(LARGE[:100])
    healing = threading.Timer(0.02, place(store, blob).write_bytes, [LARGE])
    healing.start()
    assert store.get(blob) == LARGE
    healing.join()


def test_what_has_another_size_is_not_read(tmp_path: Path) -> None:
    """A file of 50 GB under the address of a small blob: sparse, and would not fit the memory."""
    store = ArtifactStore(str(tmp_path))
    blob = store.put(b"small", inline=False)
    with place(store, blob).open("wb") as file:
        file.truncate(50 * 10**9)
    with pytest.raises(ArtifactError, match="is damaged: 50000000000 bytes, expected 5 bytes"):
        store.get(blob)
    store.put(b"small", inline=False)
    assert store.get(blob) == b"small"


@pytest.mark.parametrize("damaged", [LARGE[:100], LARGE[:-1] + b"!"], ids=["truncated", "other bytes"])
def test_other_stores_refuse_and_mend_a_damaged_blob_too(damaged: bytes) -> None:
    store = ArtifactStore("memory://mending")
    blob = store.put(LARGE)
    MemoryFileSystem().pipe_file(f"/mending/{blob.sha256[:2]}/{blob.sha256}", damaged)
    with pytest.raises(ArtifactError, match="is damaged"):
        store.get(blob)
    store.put(LARGE)
    assert store.get(blob) == LARGE


def test_a_blob_over_the_readers_limit_is_refused_before_it_is_read(store: ArtifactStore) -> None:
    blob = store.put(LARGE)
    assert store.get(blob, limit=len(LARGE)) == LARGE
    place(store, blob).unlink()
    with pytest.raises(ArtifactError, match=r"has 76,800 bytes; at most 76,799 are read here"):
        store.get(blob, limit=len(LARGE) - 1)
    with pytest.raises(ArtifactError, match="at most 3 are read"):
        store.get(store.put(b"data"), limit=3)


def _put_link(at: Path, secret: Path) -> None:
    at.symlink_to(secret)


def _put_pipe(at: Path, _: Path) -> None:
    os.mkfifo(at)


def _put_socket(at: Path, _: Path) -> None:
    # From inside the folder: paths of sockets may have 108 bytes only.
    with socket.socket(socket.AF_UNIX) as listener, contextlib.chdir(at.parent):
        listener.bind(at.name)


@pytest.mark.parametrize(
    ("spoil", "kind"), [(_put_link, "a link"), (_put_pipe, "a pipe"), (_put_socket, "a socket")]
)
def test_links_and_devices_are_not_read_and_make_way(
    store: ArtifactStore, tmp_path: Path, spoil: Callable[[Path, Path], None], kind: str
) -> None:
    """Not even a link to the right bytes: who can place it can also turn it."""
    secret = tmp_path / "secret"
    secret.write_bytes(LARGE)
    blob = store.put(LARGE)
    place(store, blob).unlink()
    spoil(place(store, blob), secret)
    with pytest.raises(ArtifactError, match=f"cannot read artifact .*: it is {kind}, not a file"):
        store.get(blob)
    store.put(LARGE)
    assert store.get(blob) == LARGE
    assert not place(store, blob).is_symlink()
    assert secret.read_bytes() == LARGE


def test_a_device_is_not_read(store: ArtifactStore) -> None:
    zero = Path("/dev/zero")
    blob = Blob("ab" + "0" * 62, 10)
    place(store, blob).parent.mkdir(parents=True)
    try:
        os.mknod(place(store, blob), zero.stat().st_mode, zero.stat().st_rdev)
    except PermissionError:
        pytest.skip("only root makes devices")
    with pytest.raises(ArtifactError, match="it is a device, not a file"):
        store.get(blob)


def test_a_link_in_place_of_a_folder_is_not_followed(store: ArtifactStore, tmp_path: Path) -> None:
    blob = store.put(LARGE)
    elsewhere = tmp_path / "elsewhere"
    place(store, blob).parent.rename(elsewhere)
    place(store, blob).parent.symlink_to(elsewhere)
    with pytest.raises(ArtifactError, match="is a link, not a folder"):
        store.get(blob)
    (elsewhere / blob.sha256).unlink()
    with pytest.raises(ArtifactError, match="is a link, not a folder"):
        store.put(LARGE)
    assert list(elsewhere.iterdir()) == []


def test_the_store_itself_may_be_a_link(store: ArtifactStore, tmp_path: Path) -> None:
    blob = store.put(LARGE)
    (tmp_path / "link").symlink_to(store.url)
    assert ArtifactStore(str(tmp_path / "link")).get(blob) == LARGE


def _full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_named_and_leaves_nothing_behind(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as full:
        full.setattr(os, "replace", _full)
        with pytest.raises(ArtifactError, match=r"cannot write artifact .*: No space left on device"):
            store.put(LARGE)
    assert files(store) == []
    assert store.get(store.put(LARGE)) == LARGE


@pytest.mark.parametrize("url", ["memory://full", "folder"])
def test_a_full_store_is_waited_for_with_a_word(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(artifacts, "FULL_LIMIT", 60.0)
    store = ArtifactStore(url if "://" in url else str(tmp_path / url))
    with monkeypatch.context() as full:
        full.setattr(MemoryFileSystem, "pipe_file", _full)
        full.setattr(os, "replace", _full)
        room = threading.Timer(0.3, full.undo)
        room.start()
        blob = store.put(LARGE)
        room.join()
    assert store.get(blob) == LARGE
    said = [record.getMessage() for record in caplog.records]
    assert said == [f"the artifact store {store.url} is full; waiting up to 60 s"]


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


def in_a_child(do: Callable[[], None]) -> None:
    child = os.fork()
    if not child:
        code = 1
        try:
            do()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def as_somebody(do: Callable[[], None]) -> None:
    """Do it without the rights of root, in a process of its own."""

    def inside() -> None:
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        do()

    in_a_child(inside)


def test_who_may_not_list_a_store_can_use_it_all_the_same() -> None:
    """An address is a hash that nobody guesses: so tenants that share a folder see what they were told of."""
    root = Path(tempfile.mkdtemp())
    try:
        data = b"x" * 70_000
        folder = root / hashlib.sha256(data).hexdigest()[:2]
        for each in (folder, root):
            each.mkdir(exist_ok=True)
            each.chmod(0o333)

        def use() -> None:
            store = ArtifactStore(str(root))
            for _ in range(2):
                assert store.get(store.put(data)) == data
            for each in (root, folder):
                with pytest.raises(PermissionError):
                    os.listdir(each)

        as_somebody(use)
    finally:
        root.chmod(0o700)
        folder.chmod(0o700)
        shutil.rmtree(root)


# -- Tenants -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["folder", "memory"])
def test_an_address_of_another_tenant_is_worth_nothing(tmp_path: Path, kind: str) -> None:
    store = ArtifactStore(str(tmp_path) if kind == "folder" else f"memory://{tmp_path}")
    assert store.tenants() == []
    acme, zeta = store.of("acme"), store.of("zeta")
    blob, common = acme.put(LARGE), store.put(LARGE + b"2")
    assert acme.of("zeta").of("acme").get(blob) == LARGE
    for other in (zeta, store):
        assert not other.kept(blob)
        with pytest.raises(ArtifactError, match="is not in"):
            other.get(blob)
    with pytest.raises(ArtifactError, match=r"of tenant acme is not in .*; do client and workers share"):
        acme.get(common)
    zeta.put(b"own", inline=False)
    assert store.tenants() == ["acme", "zeta"]
    later = time.time() + 60
    found = {own.tenant: [name for name, _ in own.older(later)] for own in (store, acme)}
    assert found == {"": [common.sha256], "acme": [blob.sha256]}
    assert acme.remove(blob.sha256, later)
    assert not acme.kept(blob)


@pytest.mark.parametrize("name", ["..", "../zeta", "a/b", "-", ".", "a" * 65, "a\n"])
def test_what_is_no_name_of_a_tenant_has_no_artifacts(store: ArtifactStore, name: str) -> None:
    with pytest.raises(ArtifactError, match="is no name of a tenant"):
        store.of(name)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be several users")
def test_folders_of_a_group_each_keep_tenants_apart() -> None:
    """As docs/security.md has them."""
    worker, acme, zeta = 61001, 61002, 61003
    root = Path(tempfile.mkdtemp())

    def as_user(user: int, group: int, do: Callable[[ArtifactStore], None]) -> None:
        def inside() -> None:
            os.setgroups([])
            os.setgid(group)
            os.setuid(user)
            do(ArtifactStore(str(root), "acme"))

        in_a_child(inside)

    def stores(store: ArtifactStore) -> None:
        assert store.get(store.put(LARGE)) == LARGE

    def reads(store: ArtifactStore) -> None:
        assert store.get(Blob(hashlib.sha256(LARGE).hexdigest(), len(LARGE))) == LARGE
        with pytest.raises(PermissionError):
            os.listdir(root / "tenants" / "acme")

    def is_kept_out(store: ArtifactStore) -> None:
        with pytest.raises(ArtifactError, match="Permission denied"):
            reads(store)
        with pytest.raises(ArtifactError, match="Permission denied"):
            store.put(b"x" * 70_000)

    try:
        root.chmod(0o711)
        for folder in (root / "tenants", own := root / "tenants" / "acme", own / LARGE_FOLDER):
            folder.mkdir()
            os.chown(folder, worker, worker if folder.name == "tenants" else acme)
            folder.chmod(0o711 if folder.name == "tenants" else 0o730)
        as_user(acme, acme, stores)
        as_user(worker, worker, stores)
        as_user(acme, acme, reads)
        as_user(zeta, zeta, is_kept_out)
        assert ArtifactStore(str(root)).tenants() == ["acme"]
    finally:
        shutil.rmtree(root)
