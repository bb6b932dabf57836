"""The options that describe a job, made from the settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pytest
import typer
from msgspec import Meta
from typer.testing import CliRunner

from tunemesh import job_options, tune_commands
from tunemesh.job_options import engine_names, make_settings, parse_options, setting_parameters
from tunemesh.option_names import option_name
from tunemesh.shared.errors import BadInput
from tunemesh.shared.messages import Level, Settings
from tunemesh.tuning import Plan


def given(*arguments: str, monkeypatch: pytest.MonkeyPatch | None = None) -> Plan:
    """What a command makes of ``arguments``."""
    found: list[Plan] = []

    def command(job: Plan, out: Path = Path("tuned")) -> None:
        found.append(job)

    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(job_options.describes_job(command))
    ended = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert ended.exit_code == 0, ended.output
    return found[0]


def options_of(command: Any) -> dict[str, str]:
    """Name and help text of each option."""
    app = typer.Typer()
    app.command()(command)
    return {option: each.help or "" for each in typer.main.get_command(app).params for option in each.opts}


def test_every_setting_is_an_option_of_both_commands_with_its_help() -> None:
    tune, submit = options_of(tune_commands.tune), options_of(tune_commands.submit)
    for field in Settings.__struct_fields__:
        singular = field.removesuffix("s") if field in ("shapes", "dims", "ranges") else field
        name = option_name(singular)
        assert len(tune[name]) > 20
        assert tune[name] == submit[name]


def test_all_that_describes_a_job_is_common_to_both_commands() -> None:
    tune, submit = options_of(tune_commands.tune), options_of(tune_commands.submit)
    own = {"--device", "--out", "--strategy", "--builders", "--memory", "--compare", "--peer"}
    own |= {"--price", "--quote", "--html", "--overwrite"}
    assert set(tune) - own == set(submit)


@pytest.mark.parametrize("effort", ["instant", "quick", "full"])
def test_a_level_is_how_much_is_tried(effort: str) -> None:
    assert given("--level", effort).level == Level(effort=effort)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="--level must be full, instant or quick, not 'some'"):
        given("--level", "some")


def test_nothing_given_is_all_defaults() -> None:
    assert given() == Plan(target="native", level=Level(), out=Path())


def test_what_is_given_arrives() -> None:
    arguments = ["--batch", "16", "--cut-short", "none", "--no-cache-flush", "--build-timeout", "2.5"]
    arguments += ["--math", "exact", "--precision", "bf16"]
    arguments += [
        "--shape",
        "a=1,3",
        "--shape",
        "b:0=7",
        "--shape",
        "a=8,3",
        "--dim",
        "batch=1,8",
        "--seed",
        "3",
        "--tenant",
        "gold",
        "--priority",
        "20",
    ]
    arguments += ["--engine", "toy,mock", "--engine", "metaschedule", "--target", "mock", "--trials", "9"]
    arguments += ["--option", "toy.size=3", "--option", "graph.convolutions=direct"]
    assert given(*arguments) == Plan(
        target="mock",
        level=Level(trials=9),
        out=Path(),
        engines=("toy", "mock", "metaschedule"),
        options={"toy": {"size": 3}, "graph": {"convolutions": "direct"}},
        seed=3,
        tenant="gold",
        priority=20,
        settings=Settings(
            batch=16,
            cut_short=None,
            cache_flush=False,
            build_timeout=2.5,
            math="exact",
            precision="bf16",
            shapes={"a": [[1, 3], [8, 3]], "b:0": [[7]]},
            dims={"batch": [1, 8]},
        ),
    )


def test_trials_are_a_number_or_left_to_the_model() -> None:
    assert given("--trials", "auto").level.trials == 0
    assert given("--trials", "7", "--patience", "0.01").level == Level(trials=7, patience=0.01)
    with pytest.raises(BadInput, match="--trials is a number or auto, not 'many'"):
        given("--trials", "many")
    with pytest.raises(BadInput, match="between 1 and 1,000,000, or auto, not 0"):
        given("--trials", "0")


def test_inputs_and_their_ranges_arrive(tmp_path: Path) -> None:
    (tmp_path / "sample.npz").write_bytes(b"arrays")
    plan = given(
        "--range", "ids=0,30000", "--range", "a=b=-0.5,1e3", "--inputs", str(tmp_path / "sample.npz")
    )
    assert plan.settings.ranges == {"ids": (0, 30_000), "a=b": (-0.5, 1000)}
    assert plan.samples == b"arrays"


@pytest.mark.parametrize("text", ["ids", "ids=1", "ids=1,2,3", "ids=a,b", "=1,2"])
def test_a_range_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="should look like NAME=0,30000"):
        given("--range", text)


def test_a_service_level_is_made_of_options() -> None:
    asked = ["--latency-s", "0.01", "--speedup", "2", "--deadline", "600", "--device-seconds", "60"]
    level = given(*asked, "--cost", "3.5", "--no-shared", "--class", "gold").level
    assert level == Level(
        latency_s=0.01,
        speedup=2.0,
        deadline=600.0,
        device_seconds=60.0,
        cost=3.5,
        shared=False,
        class_="gold",
    )
    with pytest.raises(BadInput, match="--deadline must be a number above 0 and up to 100,000,000, not '-1'"):
        given("--deadline", "-1")
    with pytest.raises(BadInput, match="--class must be gold, spare or standard, not 'iron'"):
        given("--class", "iron")


def test_inputs_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"cannot read the inputs \S+missing.npz: No such file"):
        given("--inputs", str(tmp_path / "missing.npz"))


class More(Settings, frozen=True, kw_only=True):
    """Settings of tomorrow."""

    stamina: Annotated[int, Meta(ge=1, description="Rounds without a gain.")] = 3
    mood: Annotated[Literal["calm", "wild"], Meta(description="How.")] = "calm"
    floor: Annotated[float | None, Meta(description="Stop there.")] = None


def test_a_new_setting_is_an_option_without_a_further_edit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_options, "Settings", More)
    names = {parameter.name for parameter in setting_parameters()}
    assert {"stamina", "mood", "floor", "batch"} <= names
    plan = given("--stamina", "5", "--mood", "wild", "--floor", "0.5")
    assert plan.settings == More(stamina=5, mood="wild", floor=0.5)
    with pytest.raises(BadInput, match="--mood must be calm or wild, not 'sad'"):
        given("--mood", "sad")


class Strange(Settings, frozen=True, kw_only=True):
    words: list[str] = msgspec.field(default_factory=list)


def test_a_setting_that_cannot_be_an_option_is_found_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_options, "Settings", Strange)
    with pytest.raises(TypeError, match="words"):
        list(setting_parameters())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"chunk": "99"}, "^--chunk must be 1 to 8, not '99'$"),
        ({"chunk": "x"}, "^--chunk must be 1 to 8, not 'x'$"),
        ({"chunk": "1.5"}, "^--chunk must be 1 to 8, not '1.5'$"),
        ({"build_timeout": "nan"}, "^--build-timeout must be a number above 0 and up to 600, not 'nan'$"),
        ({"math": "fasst"}, "^--math must be exact or fast, not 'fasst'; did you mean fast\\?$"),
        ({"precision": "int4"}, "^--precision must be bf16, f32 or fp16, not 'int4'$"),
        ({"cut_short": "soon"}, "^--cut-short must be 1 to 1,000 or none, not 'soon'$"),
        ({"cut_short": "0"}, "^--cut-short must be 1 to 1,000 or none, not '0'$"),
        ({"shapes": ["x=a,b"]}, "--shape 'x=a,b' should look like"),
        ({"shapes": ["x=0"]}, "should look like"),
        ({"shapes": ["=1"]}, "should look like"),
        ({"shapes": ["1,2"]}, "should look like"),
        ({"dims": ["n=1,b"]}, "--dim 'n=1,b' should look like NAME=1,4,16"),
    ],
)
def test_a_bad_setting_is_named(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        make_settings(settings)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4", 4),
        ("-4", -4),
        ("0.5", 0.5),
        ("true", True),
        ('"4"', "4"),
        ("as-given", "as-given"),
        ("", ""),
        ("a=b", "a=b"),
        ("True", "True"),
        ("NaN", "NaN"),
        ("null", "null"),
        ("[1]", "[1]"),
        ("9" * 30, "9" * 30),
    ],
)
def test_a_value_is_a_scalar_or_a_text(text: str, value: Any) -> None:
    found = parse_options([f"toy.x={text}"])["toy"]["x"]
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize("text", ["toy", "toy.x", "x=1", ".x=1", "toy.=1", "Toy.x=1", "toy.a b=1"])
def test_a_malformed_option_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match=r"should look like metaschedule\.population=4"):
        parse_options([text])


def test_engines_are_named_once_each() -> None:
    assert engine_names(None) == ()
    assert engine_names(["mock, toy", "mock"]) == ("mock", "toy")
    for bad in ("", "a,,b", "Not A Name", "a\nb"):
        with pytest.raises(BadInput, match="is no name of an engine; installed: "):
            engine_names([bad])
