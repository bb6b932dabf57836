"""What a contestant's process is given, and what it answers: one line of JSON each.

It is given a file with its :class:`Work`. It answers :class:`Ready`, or :class:`Failed`; and after that each
line that it is sent with a :class:`Turn`.
"""

from __future__ import annotations

from msgspec import Struct

TUNED = "tuned"
"""The runner of a result of ours; the others are the names of peers."""


class Work(Struct, frozen=True, kw_only=True):
    """What to run.

    Attributes:
        runner: who runs it.
        model: path of the ONNX file; for a result of ours, of its folder.
        function: of a result, the entry for these shapes.
        inputs: path of an ``npz`` file with an array for each input.
        outputs: path of the ``npz`` file that is written: ``0``, ``1`` and so on, in the order of the model.
        names: of the inputs, in the order of the model.
        threads: that may compute at the same time.
    """

    runner: str
    model: str
    function: str = ""
    inputs: str
    outputs: str
    names: list[str]
    threads: int = 1


class Ready(Struct, frozen=True, kw_only=True, tag="ready"):
    """The model is loaded and warm, and its outputs are written."""

    version: str


class Failed(Struct, frozen=True, kw_only=True, tag="failed"):
    """The model cannot be run."""

    error: str


class Turn(Struct, frozen=True, kw_only=True, tag="turn"):
    """A few runs in a row.

    Attributes:
        seconds: the median of one run.
    """

    seconds: float


Answer = Ready | Failed | Turn
