"""What is made of a race between a result and others."""

from __future__ import annotations

import importlib.util
import io
import math

import msgspec
import numpy as np
import pytest
from rich.console import Console

from tunemesh import compare_commands, tables
from tunemesh.comparing import comparison, peers
from tunemesh.comparing.comparison import Raced, difference, entry
from tunemesh.comparing.peers import Peer
from tunemesh.comparing.racing import Race
from tunemesh.comparing.work import TUNED
from tunemesh.report import Compared
from tunemesh.shared.errors import BadInput
from tunemesh.shared.messages import OutputCheck

OTHER = Peer(name="other", title="Other", package="other")
SHAPES = {"x": (1, 2)}


def compared(
    ratio: float | None, error: str = "", shapes: dict[str, tuple[int, ...]] | None = None
) -> Compared:
    return Compared(
        peer="other", title="Other", version="1.2", shapes=shapes or SHAPES, tuned_s=3.21e-3,
        latency_s=None if ratio is None else 3.21e-3 / ratio, ratio=ratio, difference=2e-6, largest=4.0,
        error=error,
    )  # fmt: skip


def test_ratios_are_those_within_a_turn() -> None:
    # A machine that is slowed down for whole turns slows both: the ratio does not move.
    times = [(2.0, 1.0), (20.0, 10.0), (200.0, 100.0), (3.0, 1.0), (1.0, 1.0)]
    turns = [{TUNED: ours, OTHER.name: theirs} for ours, theirs in times]
    array = np.zeros(2, np.float32)
    raced = Raced(
        race=Race(versions={TUNED: "0", OTHER.name: "7"}, errors={}, turns=turns),
        outputs={TUNED: [array], OTHER.name: [array + 0.5]},
    )
    found = entry(OTHER, SHAPES, raced)
    assert (found.tuned_s, found.latency_s, found.ratio) == (3.0, 1.0, 2.0)
    assert (found.version, found.difference, found.largest) == ("7", 0.5, 0.5)


def test_a_peer_that_failed_has_no_numbers_but_the_cause() -> None:
    raced = Raced(
        race=Race(versions={TUNED: "0"}, errors={OTHER.name: "no such operator"}, turns=[{TUNED: 2.0}]),
        outputs={TUNED: []},
    )
    found = entry(OTHER, SHAPES, raced)
    assert (found.latency_s, found.ratio, found.difference) == (None, None, None)
    assert tables.verdict(found) == "Other cannot run the model: no such operator"


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        ([[1.0, 2.0]], [[1.0, 2.5]], 0.5),
        ([[math.nan, math.inf]], [[math.nan, math.inf]], 0.0),
        ([[math.nan]], [[1.0]], math.inf),
        ([[math.inf]], [[1.0]], math.inf),
        ([[1.0]], [[1.0, 1.0]], math.inf),
        ([[]], [[]], 0.0),
    ],
)
def test_the_largest_difference_hides_nothing(
    ours: list[list[float]], theirs: list[list[float]], expected: float
) -> None:
    arrays = [[np.array(each, np.float32) for each in side] for side in (ours, theirs)]
    assert difference(*arrays) == expected


def test_whole_numbers_are_the_same_or_not() -> None:
    assert difference([np.array([1, 2])], [np.array([1, 2])]) == 0
    assert difference([np.array([1, 2])], [np.array([1, 9])]) == 1


@pytest.mark.parametrize(
    ("ratio", "who"),
    [
        (3.21 / 2.95, "Other is 1.09 times faster"),
        (0.5, "tuned is 2.00 times faster"),
        (1.004, "they are equally fast"),
    ],
)
def test_a_verdict_says_who_is_faster_and_how_much(ratio: float, who: str) -> None:
    found = tables.verdict(compared(ratio))
    assert found.startswith("tuned 3.21 ms; Other 1.2 ")
    assert who in found
    assert "largest difference 2.0e-06, largest value 4" in found


@pytest.mark.parametrize("difference", [math.inf, None], ids=["raced", "read from a report"])
def test_outputs_of_other_shapes_are_no_small_difference(difference: float | None) -> None:
    told = tables.verdict(msgspec.structs.replace(compared(2.0), difference=difference))
    assert "they do not compute the same; largest difference in other shapes or not a number" in told


def test_who_computes_something_else_is_not_called_faster() -> None:
    strange = msgspec.structs.replace(compared(2.0), difference=0.5)
    told = tables.verdict(strange)
    assert "they do not compute the same" in told
    assert "faster" not in told
    assert "faster" in tables.verdict(msgspec.structs.replace(strange, difference=0.2))


def test_several_sets_of_shapes_are_told_apart() -> None:
    console = Console(file=io.StringIO(), width=200)
    tables.print_compared(console, "m", [compared(2.0), compared(0.5, shapes={"x": (8, 2)})])
    assert isinstance(console.file, io.StringIO)
    first, second = console.file.getvalue().splitlines()
    assert first.startswith("m (x=1,2): tuned")
    assert second.startswith("m (x=8,2): tuned")


def test_the_usual_peers_are_those_that_are_installed_and_precise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else object())
    found, missing = peers.usual()
    assert [peer.name for peer in found] == ["onnxruntime", "openvino"]
    assert missing == ["PyTorch's inductor is not installed (pip install torch): not compared with it"]


def test_a_peer_that_is_named_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "openvino" else object())
    assert [peer.name for peer in peers.named(["inductor, onnxruntime", "inductor"])] == [
        "inductor",
        "onnxruntime",
    ]
    with pytest.raises(BadInput, match=r"OpenVINO is not installed \(pip install openvino\)"):
        compare_commands.prepare(None, ["openvino"], print)
    with pytest.raises(BadInput, match="no peer 'tensorrt' to compare with; known: onnxruntime, openvino,"):
        compare_commands.prepare(None, ["tensorrt"], print)


def test_what_is_not_for_this_cpu_is_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    resolved = {
        "native": '{"kind": "llvm", "mcpu": "znver5"}',
        "other": '{"kind": "llvm", "mcpu": "skylake"}',
        "gpu": '{"kind": "cuda"}',
    }
    monkeypatch.setattr(comparison.targets, "resolve", resolved.__getitem__)
    comparison.check_target("native")
    with pytest.raises(BadInput, match="a model for skylake is not compared on this machine, a znver5"):
        comparison.check_target("other")
    with pytest.raises(BadInput, match="only models for CPUs are compared with others, not those for cuda"):
        comparison.check_target("gpu")


def test_an_output_that_is_off_by_more_than_rounding_is_told() -> None:
    exact = OutputCheck(
        name="y", dtype="float32", elements=8, compared=8, units=0.1, difference=1e-6, tolerance=1e-5
    )
    coarse = msgspec.structs.replace(exact, name="z", relative=4e-3, largest=0.02, choices=0.875)
    (told,) = tables.accuracy([exact, coarse])
    assert told.startswith("z is off from the untuned model by 4.0e-03 of its size")
    assert "at most by 2.0e-02; the largest element of a row is the same in 87.50% of them" in told
    assert "row" not in tables.accuracy([msgspec.structs.replace(coarse, choices=None)])[0]
