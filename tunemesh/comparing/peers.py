"""Who else runs models on a CPU, and how each is installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

from msgspec import Struct

from tunemesh.shared.errors import BadInput
from tunemesh.shared.text import nearest


class Peer(Struct, frozen=True, kw_only=True):
    """Something that a person could use instead of a tuned model.

    Attributes:
        name: on the command line.
        title: for people.
        package: what is installed for it.
        precise: whether it computes in the element types of the model. A peer that rounds to smaller ones is
            compared only where it is named.
    """

    name: str
    title: str
    package: str
    precise: bool = True

    @property
    def installed(self) -> bool:
        """Whether this environment has its package."""
        return importlib.util.find_spec(self.package) is not None

    @property
    def missing(self) -> str:
        """What to do where it is not installed."""
        return f"{self.title} is not installed (pip install {self.package})"


PEERS = (
    Peer(name="onnxruntime", title="ONNX Runtime", package="onnxruntime"),
    Peer(name="openvino", title="OpenVINO", package="openvino"),
    Peer(name="openvino-bf16", title="OpenVINO in bf16", package="openvino", precise=False),
    Peer(name="inductor", title="PyTorch's inductor", package="torch"),
)
NAMES = tuple(peer.name for peer in PEERS)


def usual() -> tuple[list[Peer], list[str]]:
    """The peers that are compared where none is named, and what is said of those that are missing."""
    precise = [peer for peer in PEERS if peer.precise]
    missing = [f"{peer.missing}: not compared with it" for peer in precise if not peer.installed]
    return [peer for peer in precise if peer.installed], missing


def named(names: Sequence[str]) -> list[Peer]:
    """The peers of these names; several may stand in one text, with commas between them.

    Raises:
        BadInput: there is no such peer, or it is not installed.
    """
    wanted = dict.fromkeys(name.strip() for text in names for name in text.split(","))
    known = {peer.name: peer for peer in PEERS}
    if unknown := next((name for name in wanted if name not in known), None):
        near = nearest(unknown, NAMES)
        raise BadInput(f"there is no peer {unknown!r} to compare with; known: {', '.join(NAMES)}{near}")
    found = [known[name] for name in wanted]
    if missing := next((peer for peer in found if not peer.installed), None):
        raise BadInput(missing.missing)
    return found
