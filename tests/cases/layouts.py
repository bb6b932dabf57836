"""Operators between convolutions that move data, or pool, or are told a shape.
Each was once refused, wrong or crashed with channels last."""

from __future__ import annotations

from tests.cases.around_convolutions import between
from tests.cases.case import Case, weights


def resized(mode: str, coordinates: str) -> Case:
    return between(
        f"resize_{mode}_{coordinates}",
        f"""b = Resize <
              mode = "{mode}", coordinate_transformation_mode = "{coordinates}", nearest_mode = "floor"
            > (a, , by)""",
        by=[1.0, 1.0, 2.0, 2.0],
    )


PARTS = [
    between("concat_of_rows", "b = Concat <axis = 2> (a, a)"),
    between("concat_of_columns", "b = Concat <axis = -1> (a, a)"),
    between("concat_of_channels", "b = Concat <axis = 1> (a, x)", channels=64),
    between(
        "split_channels",
        "p, q = Split <axis = 1> (a, sizes)  b = Concat <axis = 1> (q, p)",
        sizes=[8, 24],
    ),
    between("split_rows", "p, q = Split <axis = 2> (a, sizes)  b = Concat <axis = 2> (q, p)", sizes=[4, 12]),
    between(
        "split_in_two_and_gate",
        "p, q = Split <axis = 1> (a)  g = Sigmoid (q)  b = Mul (p, g)",
        channels=16,
    ),
    between(
        "slice_of_channels",
        "p = Slice (a, start, end, axis)  b = Concat <axis = 1> (p, p)",
        start=[0],
        end=[16],
        axis=[1],
    ),
    between(
        "every_second_row", "b = Slice (a, start, end, axis, step)", start=[0], end=[16], axis=[2], step=[2]
    ),
    between(
        "columns_reversed",
        "b = Slice (a, start, end, axis, step)",
        start=[-1],
        end=[-100],
        axis=[3],
        step=[-1],
    ),
    between(
        "channels_reversed",
        "b = Slice (a, start, end, axis, step)",
        start=[-1],
        end=[-100],
        axis=[1],
        step=[-1],
    ),
    between("gather_of_channels", "b = Gather <axis = 1> (a, which)", which=list(range(31, -1, -1))),
    between("gather_of_rows", "b = Gather <axis = 2> (a, which)", which=list(range(0, 16, 2))),
    between(
        "one_row",
        "g = Gather <axis = 2> (a, which)  u = Unsqueeze (g, axis)  b = Add (a, u)",
        which=3,
        axis=[2],
    ),
    *(
        between(f"pad_{mode}", f'b = Pad <mode = "{mode}"> (a, pads)', pads=[0, 0, 1, 2, 0, 0, 3, 1])
        for mode in ("constant", "reflect", "edge")
    ),
    between(
        "pad_of_channels",
        "q = Pad (a, pads)  b = Slice (q, start, end, axis)",
        pads=[0, 4, 0, 0, 0, 4, 0, 0],
        start=[2],
        end=[34],
        axis=[1],
    ),
    between("pad_that_cuts", "b = Pad (a, pads)", pads=[0, 0, -1, -1, 0, 0, 0, 0]),
    between("tile", "b = Tile (a, times)", times=[1, 1, 2, 1]),
    between(
        "expand",
        "r = ReduceMean <axes = [2, 3], keepdims = 1> (a)  b = Expand (r, shape)",
        shape=[1, 32, 8, 8],
    ),
    between("lower_triangle", "b = Trilu (a)"),
    between("scatter", "b = ScatterND (a, places, rows)", places=[[0, 3], [0, 5]], rows=weights(2, 16, 16)),
    between(
        "gather_by_places",
        "g = GatherND (a, places)  b = Unsqueeze (g, axis)",
        places=[[0, channel] for channel in range(32)],
        axis=[0],
    ),
]

SHAPES = [
    between("depth_to_space", "b = DepthToSpace <blocksize = 2> (a)", channels=8),
    between("depth_to_space_crd", 'b = DepthToSpace <blocksize = 2, mode = "CRD"> (a)', channels=8),
    between("space_to_depth", "b = SpaceToDepth <blocksize = 2> (a)", channels=128),
    resized("nearest", "asymmetric"),
    resized("linear", "half_pixel"),
    resized("cubic", "half_pixel"),
    resized("linear", "align_corners"),
    *(
        between(
            f"resize_to_the_shape_of_{whose}",
            f"""p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (a)
                whole = Shape ({tensor})
                size = Slice (whole, two, four)
                pooled = Shape (p)
                kept = Slice (pooled, zero, two)
                wanted = Concat <axis = 0> (kept, size)
                b = Resize <
                  mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor"
                > (p, , , wanted)""",
            zero=[0],
            two=[2],
            four=[4],
        )
        for whose, tensor in (("the_input", "x"), ("what_was_pooled", "a"))
    ),
    between("upsample", 'b = Upsample <mode = "nearest"> (a, by)', opset=9, by=[1.0, 1.0, 2.0, 2.0]),
    between("rows_for_columns", "b = Transpose <perm = [0, 1, 3, 2]> (a)"),
    between(
        "channels_shuffled",
        """r = Reshape (a, groups)
           t = Transpose <perm = [0, 2, 1, 3, 4]> (r)
           b = Reshape (t, image)""",
        groups=[1, 4, 8, 16, 16],
        image=[1, 32, 16, 16],
    ),
    between("flattened", "r = Flatten <axis = 2> (a)  b = Reshape (r, image)", image=[1, 32, 16, 16]),
    between(
        "reshaped_by_its_shape",
        """shape = Shape (a)
           kept = Slice (shape, zero, two)
           wanted = Concat <axis = 0> (kept, rest)
           r = Reshape (a, wanted)
           q = Softmax <axis = -1> (r)
           b = Reshape (q, shape)""",
        zero=[0],
        two=[2],
        rest=[-1],
    ),
    between(
        "scaled_by_its_height",
        "shape = Shape (a)  h = Gather (shape, which)  f = Cast <to = 1> (h)  b = Div (a, f)",
        which=1,
    ),
    between(
        "five_dimensions",
        "u = Unsqueeze (a, axis)  v = Mul (u, two)  b = Squeeze (v, axis)",
        axis=[2],
        two=2.0,
    ),
    between("three_dimensions", "u = Squeeze (a, axis)  v = Relu (u)  b = Unsqueeze (v, axis)", axis=[0]),
]

POOLS = [
    between(
        "pool_of_distant_pixels",
        "b = MaxPool <kernel_shape = [3, 3], dilations = [2, 2], pads = [2, 2, 2, 2]> (a)",
    ),
    between(
        "mean_pool_that_hangs_over",
        "b = AveragePool <kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1> (a)",
    ),
    between("norm_pool", "b = LpPool <kernel_shape = [2, 2], strides = [2, 2]> (a)"),
    between("global_maximum", "g = GlobalMaxPool (a)  b = Mul (a, g)"),
    between("grid_sample", "b = GridSample (a, g)", inputs="float[1,12,12,2] g"),
    between(
        "regions",
        "b = RoiAlign <output_height = 7, output_width = 7> (a, boxes, images)",
        boxes=[[0.0, 0.0, 8.0, 8.0], [2.0, 2.0, 14.0, 12.0]],
        images=[0, 0],
    ),
]

CASES = [*PARTS, *SHAPES, *POOLS]
