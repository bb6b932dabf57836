"""The functions that transform the weights of a convolution by Winograd's algorithm, as text of C."""

from __future__ import annotations

from tunemesh.stage_workers.engines.protocol import elements_name, prepack_name
from tunemesh.stage_workers.engines.template import elements
from tunemesh.stage_workers.engines.template.text import function, loop, transformed
from tunemesh.stage_workers.engines.template.winograd_cut import Cut
from tunemesh.stage_workers.engines.template.winograd_roles import PAIR
from tunemesh.stage_workers.graph import winograd


def prepack(kernel: Cut, symbol: str) -> list[str]:
    """The functions that transform the weights, and say how many there are then."""
    shape, roles, form = kernel.shape, kernel.roles, kernel.roles.weights.form
    matrix, taps = winograd.of_weights(shape.outputs), range(winograd.TAPS)
    strides = [form.strides[axis] for axis in roles.taps]
    plane = kernel.blocks * kernel.steps * kernel.at_a_time
    number = "(n + j * LANES + l)"
    lane = f"{number} * {form.strides[roles.lane]}"
    if roles.weights.blocks:
        lanes = roles.weights.blocks.lanes
        lane = f"{number} / {lanes} * {roles.weights.blocks.apart} + {number} % {lanes}"
    at = f"{form.offset} + k / {kernel.group} * {form.strides[roles.depth]} + {lane}"
    at += f" + y * {strides[0]} + x * {strides[1]}"
    value = f"weight[{at}]"
    if kernel.operator.dot:
        value = f"single_bfloat16(weight[({at}) * {kernel.group} + k % {kernel.group}])"
    stored = "store({}, {{}});"
    if shape.narrow:
        stored = (
            f"{{{{ const some_bfloat16 r = halves({{{{}}}}); for (int l = 0; l < LANES; ++l) "
            f"((unsigned short *)({{}}))[l * {PAIR} + k % {PAIR}] = r[l]; }}}}"
        )
    lines = [
        f"const {elements.TYPES[kernel.dtype]} *const weight = (const void *)data(&given[0]);",
        "float *to = data(&given[1]);",
        f"for (long n = 0; n < {kernel.blocks * kernel.at_a_time}; n += {kernel.at_a_time})",
        f"for (long k = 0; k < {kernel.inputs}; ++k)",
        f"for (long j = 0; j < {shape.vectors}; ++j) {{",
        f"const long step = n / {kernel.at_a_time} * {kernel.steps} + k / {kernel.pair};",
        f"float *const at = to + (step * {shape.vectors} + j) * LANES;",
        f"vec g[{winograd.TAPS**2}] = {{}}, h[{kernel.size * winograd.TAPS}];",
        f"for (int l = 0; l < LANES; ++l) if (n + j * LANES + l < {kernel.columns})",
        "  for (int y = 0; y < 3; ++y) for (int x = 0; x < 3; ++x)",
        f"    g[y * 3 + x][l] = {value};",
        *loop("x", winograd.TAPS, transformed(
            lambda values: winograd.transformed(matrix, values),
            [f"g[{y * winograd.TAPS} + x]" for y in taps],
            [f"h[{y * winograd.TAPS} + x] = {{}};" for y in range(kernel.size)],
        )),
        *loop("y", kernel.size, transformed(
            lambda values: winograd.transformed(matrix, values),
            [f"h[y * {winograd.TAPS} + {x}]" for x in taps],
            [stored.format(f"at + (y * {kernel.size} + {x}) * {plane}") for x in range(kernel.size)],
        )),
        "}",
    ]  # fmt: skip
    prefix = "" if symbol == "main" else f"{symbol}_"
    # What is written is in single precision, whatever the weights are.
    count = [f"result->type_index = kTVMFFIInt; result->v_int64 = {kernel.packed * kernel.group};"]
    parameter = roles.weights.parameter
    return [
        function(prefix + prepack_name(parameter), lines),
        function(prefix + elements_name(parameter), count),
    ]
