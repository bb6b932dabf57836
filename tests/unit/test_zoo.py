"""Lists of models, and what is made of their entries."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from tunemesh import following, tuning, zoo
from tunemesh.model_files import ModelFile
from tunemesh.shared.errors import BadInput
from tunemesh.shared.messages import Level, Settings


def listed(folder: Path, text: str) -> Path:
    path = folder / "zoo.yaml"
    path.write_text(text)
    return path


def test_entries_are_models_with_names_and_settings_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"model a")
    with zipfile.ZipFile(tmp_path / "b.whl", "w") as wheel:
        wheel.writestr("inside/b.bin", b"model b")
    path = listed(
        tmp_path,
        """
        models:
          - {name: one, file: a.bin, shapes: {x: [1, 3]}, ranges: {x: [0, 255]}}
          - {name: two, wheel: b.whl, file: inside/b.bin, shapes: {x: [[1, 3], [8, 3]]}, dims: {n: 4}}
          - {name: three, package: pytest, file: pytest/py.typed, dims: {n: [1, 2]}}
        """,
    )
    one, two, three = zoo.expand([path], print)
    assert [(each.name, each.data) for each in (one, two)] == [("one", b"model a"), ("two", b"model b")]
    assert three.name == "three"
    common = Settings(batch=7)
    assert tuning.settings_of(one, common) == Settings(
        batch=7, shapes={"x": [[1, 3]]}, ranges={"x": (0.0, 255.0)}
    )
    assert tuning.settings_of(two, common) == Settings(
        batch=7, shapes={"x": [[1, 3], [8, 3]]}, dims={"n": [4]}
    )
    assert tuning.settings_of(three, common) == Settings(batch=7, dims={"n": [1, 2]})


def test_a_list_and_other_models_can_be_given_together(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("tasks: [{name: t, weight: 1}]")
    path = listed(tmp_path, "models: [{name: first, file: a.yaml}, {name: second, file: a.yaml}]")
    plan = tuning.Plan(target="mock", level=Level(trials=1), out=tmp_path, engines=("mock",))
    found = tuning.read_models([tmp_path / "a.yaml", path], plan)
    assert tuning.job_ids([each.name for each in found], unique=False) == ["a", "first", "second"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("models: []", "length >= 1"),
        ("models: [{name: a}]", "missing required field `file`"),
        ("models: [{name: a, file: b, shape: {}}]", "unknown field `shape`"),
        ("models: [{name: a/b, file: b}]", "matching regex"),
        ("models: [{name: a, file: b, shapes: {x: [0]}}]", ">= 1"),
        ("models: [{name: a, file: b}, {name: a, file: c}]", "two models called a"),
        ("models: [{name: a, file: missing.onnx}]", r"cannot read model .*missing\.onnx"),
        ('models: [{name: a, file: "b\\0c"}]', "cannot read model .*: embedded null byte"),
        ('models: [{name: a, file: b, wheel: "c\\0d"}]', "cannot read b in .*: embedded null byte"),
        ("models: [{name: a, file: b, wheel: missing.whl}]", r"cannot read b in .*missing\.whl"),
        ("models: [{name: a, file: b, package: no-such-package}]", "pip install --no-deps no-such-package"),
    ],
)
def test_what_is_wrong_with_a_list_is_said_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(BadInput, match=said) as caught:
        zoo.expand([listed(tmp_path, text)], print)
    assert "\n" not in str(caught.value)


def test_settings_that_fit_no_job_are_refused_with_the_name_of_the_model(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"x")
    path = listed(tmp_path, "models: [{name: one, file: a.bin, shapes: {x: [1, [2]]}}]")
    plan = tuning.Plan(target="mock", level=Level(trials=1), out=tmp_path, engines=("mock",))
    with pytest.raises(BadInput, match="bad settings of the model one: "):
        tuning.read_models([path], plan)


@pytest.mark.parametrize(
    "content", [b"tasks: 7", b"\xff\xfe", b": : :", b"- models", b"[" * 20_000, b"2020-99-99"]
)
def test_other_yaml_is_no_list(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.yaml").write_bytes(content)
    assert zoo.entries(tmp_path / "m.yaml") is None


def test_models_of_a_list_follow_each_other_beside_the_others() -> None:
    def model(origin: str = "") -> ModelFile:
        return ModelFile(name="m", data=b"", origin=origin)

    models = [model("a"), model(), model("a"), model("b"), model(), model("a")]
    assert following.waves(models) == [[0, 1, 3, 4], [2], [5]]
