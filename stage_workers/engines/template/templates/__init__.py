"""Kernels with knobs: one file each.

A template says which operators it makes kernels of, what may be chosen, and the text of C for a choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from tunemesh.stage_workers.engines.template.machine import Machine
from tunemesh.stage_workers.engines.template.space import Space

Kind = TypeVar("Kind", contravariant=True)
"""What an operator is known as: see :mod:`..operators` and :mod:`..rows`."""


class Template(Protocol[Kind]):
    """Attributes:
    name: for people, and in what is recorded.
    """

    name: str

    def objection(self, operator: Kind) -> str:
        """Why it makes no kernels of an operator; empty where it does."""

    def space(self, operator: Kind, machine: Machine) -> Space:
        """What may be chosen."""

    def source(self, operator: Kind, values: Sequence[int], symbol: str) -> str:
        """The program for valid values of the knobs, which exports ``__tvm_ffi_<symbol>``."""

    def packs(self, operator: Kind, values: Sequence[int]) -> list[int]:
        """Numbers of the weights that the kernel takes in an order of its own."""
