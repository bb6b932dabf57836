"""What came of models that were imported, in a folder: the next worker begins with it."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.stage_calls import MODEL, FakeSandbox, expect, step
from tunemesh import mesh_address
from tunemesh.shared.artifacts import ArtifactStore
from tunemesh.shared.messages import Failure, ImportDone, ImportWork
from tunemesh.stage_workers.platforms.protocol import Imported
from tunemesh.stage_workers.stages import Context, kept_imports, run_stage
from tunemesh.stage_workers.stages.kept_imports import KeptImports

IMPORTED = Imported(model=b"weights" * 100, tasks=[], constants=3, sample=b"sample")


def test_the_next_mesh_does_not_import_a_model_again(sandbox: FakeSandbox, tmp_path: Path) -> None:
    def imported(mesh: str, kept: KeptImports | None) -> ImportDone:
        store = ArtifactStore(str(tmp_path / mesh))
        context = Context(sandbox, store, kept=kept)
        return expect(ImportDone, run_stage(step(ImportWork(model=store.put(MODEL))), context))

    folder = tmp_path / "imports"
    first = imported("first", KeptImports(folder))
    assert imported("second", KeptImports(folder)) == first
    asked = [name for name, _ in sandbox.calls]
    assert asked.count("import_model") == 1
    # Nor are its own engines asked again which tasks they take.
    assert asked.count("objection") == len(first.tasks) > 0
    # Its store has all that the others of the mesh need.
    assert ArtifactStore(str(tmp_path / "second")).get(first.model)
    # Another machine, or another release, proves for itself; and without a folder nothing is kept.
    for number, kept in enumerate((KeptImports(folder, "elsewhere"), None), start=2):
        imported("third", kept)
        assert sum(name == "import_model" for name, _ in sandbox.calls) == number


def test_who_knows_the_name_of_another_tenants_model_gets_nothing_of_it(
    sandbox: FakeSandbox, tmp_path: Path
) -> None:
    """Neither what its worker remembers, nor what is kept on its machine."""
    store = ArtifactStore(str(tmp_path / "store"))
    context = Context(sandbox, store.of("acme"), kept=KeptImports(tmp_path / "imports"))
    model, file = (context.store.put(each, inline=False) for each in (MODEL, b"weights"))
    work = step(ImportWork(model=model, files={"w.bin": file}))
    done = expect(ImportDone, run_stage(work, context))
    for again in (context, Context(sandbox, store, kept=context.kept)):
        theirs = replace(again, store=store.of("zeta"))
        assert "is not in" in expect(Failure, run_stage(work, theirs)).error
        theirs.store.put(MODEL, inline=False)
        assert "is not in" in expect(Failure, run_stage(work, theirs)).error  # the weights are missing
        theirs.store.put(b"weights", inline=False)
        assert expect(ImportDone, run_stage(work, theirs)) == done
        assert theirs.store.kept(done.model)
        shutil.rmtree(tmp_path / "store" / "tenants" / "zeta")


def test_what_is_damaged_is_not_used(tmp_path: Path) -> None:
    kept = KeptImports(tmp_path / "imports")
    assert kept.get("key", Imported) is None
    kept.put("key", IMPORTED)
    assert kept.get("key", Imported) == IMPORTED
    (file,) = (tmp_path / "imports").iterdir()
    data = bytearray(file.read_bytes())
    for spoiled in (data[:-1], data[:5], b"", bytes(data[:-9]) + b"w" + bytes(data[-8:])):
        file.write_bytes(spoiled)
        assert kept.get("key", Imported) is None


def test_what_was_used_last_stays(tmp_path: Path) -> None:
    kept = KeptImports(tmp_path, most=2500)
    seen: set[Path] = set()
    for number, key in enumerate(("a", "b", "c")):
        kept.put(key, IMPORTED)
        (newest,) = set(tmp_path.iterdir()) - seen
        seen.add(newest)
        os.utime(newest, (number, number))
    assert kept.get("a", Imported)  # used now
    kept.put("d", IMPORTED)
    assert [key for key in "abcd" if kept.get(key, Imported)] == ["a", "c", "d"]
    kept.put("large", Imported(model=bytes(3000), tasks=[]))
    assert kept.get("large", Imported) is None


def test_a_folder_that_cannot_be_written_stops_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    kept = KeptImports(tmp_path / "file" / "imports")
    kept.put("key", IMPORTED)
    assert "cannot be kept" in caplog.text
    assert kept.get("key", Imported) is None


def test_code_that_changes_is_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "tunemesh"
    for folder in ("stage_workers", "shared"):
        (package / folder).mkdir(parents=True)
    code = package / "stage_workers" / "frontend.py"
    code.write_text("a = 1")
    monkeypatch.setattr(kept_imports.tunemesh, "__file__", str(package / "__init__.py"))
    here = kept_imports._here.__wrapped__
    before = here()
    assert here() == before
    code.write_text("a = 22")
    assert here() != before


def test_the_folder_is_one_for_what_can_be_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert mesh_address.imports() == "/somewhere/tunemesh/imports"
    monkeypatch.setenv(mesh_address.IMPORTS, "/mine")
    assert mesh_address.imports() == "/mine"
    monkeypatch.setenv(mesh_address.IMPORTS, "none")
    assert mesh_address.imports() == ""
