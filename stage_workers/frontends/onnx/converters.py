"""Converters to Relax that take the place of TVM's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tunemesh.stage_workers.frontends.onnx.graph import Graph, Node

Converter = Callable[[Any, Node, Graph, list[Any], Mapping[str, Any]], Any]
"""Takes a block builder, the node, what is known of its tensors, the expressions of its inputs (``None`` where
one is left out), and its attributes."""

OWN: dict[str, Converter] = {}
