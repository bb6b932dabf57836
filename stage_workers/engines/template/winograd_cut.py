"""How a kernel by Winograd's algorithm is cut, in numbers, and what is valid."""

from __future__ import annotations

from tunemesh.stage_workers.engines.template.operators import FLOAT, Operator
from tunemesh.stage_workers.engines.template.winograd_roles import BY_ROWS, FUSED, PAIR, Roles, Shape
from tunemesh.stage_workers.graph import winograd
from tunemesh.stage_workers.graph.winograd_costs import Work
from tunemesh.stage_workers.measuring import loading

ROOM = 2**23
"""Bytes of what lies between the steps, at most."""
NARROW = 2
"""Outputs of a tile in each direction whose products may be in bfloat16."""
LINE = 16
"""Floats of a line of a cache: one more between planes, since those whose distance is a power of two share
few lines."""


class Cut:
    """The numbers of one kernel.

    Args:
        operator: with axes as :func:`.winograd_roles.known` gives them.
    """

    def __init__(self, operator: Operator, roles: Roles, shape: Shape) -> None:
        self.operator, self.roles, self.shape = operator, roles, shape
        self.size = winograd.inputs_of(shape.outputs)
        self.planes = self.size**2
        extents = [axis.extent for axis in operator.axes]
        self.height, self.width = extents[roles.down], extents[roles.across]
        self.group = operator.dot.group if operator.dot else 1
        """Channels of an element as the operator counts them."""
        self.dtype = "bfloat16" if operator.dot else FLOAT
        """Of the image and the weights."""
        self.of_image = "patch_image" if operator.dot else "patch"
        """The function that transforms a patch where it lies."""
        self.inputs, self.columns = extents[roles.depth] * self.group, extents[roles.lane]
        self.images = extents[roles.images[0]] if roles.images else 1
        self.down, self.across = (-(-each // shape.outputs) for each in (self.height, self.width))
        self.tiles = self.images * self.down * self.across
        self.block = shape.groups * shape.rows
        """Tiles that go through all steps together."""
        self.at_a_time = shape.vectors * shape.lanes
        self.blocks = -(-self.columns // self.at_a_time)
        """Of columns, the last of which may be filled with zeros."""
        self.pair = PAIR if shape.narrow else 1
        """Channels of the image in an element of a product, of 32 bits."""
        self.steps = self.inputs // self.pair
        """Terms of a product."""
        self.held = "unsigned short" if shape.narrow else "float"
        """Type of a transformed input."""
        self.input_row = -(-self.inputs // shape.lanes) * shape.lanes // self.pair
        self.product_row = self.at_a_time * (1 if shape.order == FUSED else self.blocks)
        self.input_plane = self.block * self.input_row + LINE
        self.product_plane = self.block * self.product_row + LINE

    @property
    def work(self) -> Work:
        return Work(self.inputs, self.columns, self.tiles, self.pair)

    @property
    def packed(self) -> int:
        """Numbers of single precision that the weights become."""
        return self.planes * self.blocks * self.steps * self.at_a_time

    @property
    def room(self) -> int:
        """Bytes of what lies between the steps."""
        return 4 * self.planes * (self.input_plane + self.product_plane)

    def objection(self) -> str:
        """Why this shape makes no kernel; empty where it does."""
        shape = self.shape
        if (shape.vectors - 1) * shape.lanes >= self.columns:
            return "a product has more vectors than there are"
        if (shape.groups - 1) * shape.rows >= self.tiles:
            return "more tiles go together than there are"
        if shape.groups > 1 and self.room > ROOM:
            return "what lies between the steps is too large"
        if shape.order == BY_ROWS and (shape.groups == 1 or self.blocks == 1):
            return "the order makes no difference"
        if shape.order == FUSED and self.blocks == 1:
            return "the order makes no difference"
        if self.packed > loading.MOST_GROWTH * self.roles.weights.size:
            return "the weights become too many"
        if self.steps % shape.unroll:
            return "unrolled steps do not fit"
        if shape.narrow and (self.operator.dot is None or shape.outputs != NARROW):
            return "its products are in single precision"
        return ""
