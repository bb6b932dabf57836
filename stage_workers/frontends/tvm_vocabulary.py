"""What a model in TVM's JSON may be made of: the words of TVM 0.27 that only compute.

Allow-lists, so that what a later TVM adds is refused until somebody has looked at it. Tests compare them with
TVM's registry.
"""

from __future__ import annotations

TVM_VERSION = "0.27"

CONTAINERS = frozenset({"ffi.Array", "ffi.Map"})
"""Their data is a list of node numbers."""

LEAVES: dict[str, tuple[type, ...]] = {
    "None": (type(None),),
    "bool": (bool,),
    "int": (int,),
    "float": (float, int),
    "DataType": (str,),
    "ffi.String": (str,),
    "ffi.Tensor": (str,),
    "ir.Op": (str,),
    "ir.SourceName": (str,),
    "tirx.Axis": (str,),
}
"""Kinds of nodes whose data refers to no other node, and what their data is."""

_NODES = """
ir.Call: span ty op args attrs ty_args
ir.DictAttrs: __dict__
ir.FloatImm: span ty
ir.GenericConst: span ty value
ir.GlobalVar: span ty name_hint
ir.IRModule: functions global_var_map_ source_map attrs global_infos
ir.IntImm: span ty value
ir.PrimType: span
ir.Range: min extent span
ir.SequentialSpan: source_name spans
ir.SourceMap: source_map
ir.Span: source_name
ir.TensorLoad: span ty source indices
ir.TensorRegion: span ty source region
ir.Tuple: span ty fields
ir.TupleGetItem: span ty tuple_value
ir.TupleType: span fields
ir.Type: span
ir.Var: span ty name
prim.Add: span ty a b
prim.And: span ty a b
prim.BitwiseAnd: span ty a b
prim.BitwiseNot: span ty a
prim.BitwiseOr: span ty a b
prim.BitwiseXor: span ty a b
prim.Cast: span ty value
prim.Div: span ty a b
prim.EQ: span ty a b
prim.FloorDiv: span ty a b
prim.FloorMod: span ty a b
prim.GE: span ty a b
prim.GT: span ty a b
prim.LE: span ty a b
prim.LShift: span ty a b
prim.LT: span ty a b
prim.Let: span ty var value body
prim.Max: span ty a b
prim.Min: span ty a b
prim.Mod: span ty a b
prim.Mul: span ty a b
prim.NE: span ty a b
prim.Not: span ty a
prim.Or: span ty a b
prim.RShift: span ty a b
prim.Select: span ty condition true_value false_value
prim.Sub: span ty a b
relax.FuncType: span params ret derive_func
relax.ShapeType: span values
relax.TensorType: span shape dtype vdevice
relax.expr.BindingBlock: bindings span
relax.expr.DataflowBlock: bindings span
relax.expr.DataflowVar: span ty name
relax.expr.Function: span ty attrs params body ret_ty
relax.expr.If: span ty cond true_branch false_branch
relax.expr.MatchCast: span var value ty
relax.expr.SeqExpr: span ty blocks body
relax.expr.ShapeExpr: span ty values
relax.expr.VarBinding: span var value
s_tir.MatchBufferRegion: buffer source
s_tir.SBlock: span iter_vars reads writes name_hint alloc_buffers match_buffers annotations init body
s_tir.SBlockRealize: span iter_values predicate block
tirx.AllocBuffer: span buffer annotations
tirx.Bind: span var value
tirx.BufferRegionType: span
tirx.BufferStore: span buffer value indices
tirx.BufferType: span dtype storage_scope shape strides elem_offset layout allocated_addr
tirx.Evaluate: span value
tirx.For: span loop_var min extent body thread_binding annotations step
tirx.IfThenElse: span condition then_case else_case
tirx.IndexMap: initial_indices final_indices inverse_index_map
tirx.Iter: extent stride axis
tirx.IterVar: dom var thread_tag span
tirx.PrimFunc: span ty attrs params ret_type body
tirx.SeqStmt: span seq
tirx.TileLayout: shard replica offset
tirx.While: span condition body
relax.attrs.AdaptivePool1DAttrs: output_size layout out_layout
relax.attrs.AdaptivePool2DAttrs: output_size layout out_layout
relax.attrs.AdaptivePool3DAttrs: output_size layout out_layout
relax.attrs.AffineGridAttrs:
relax.attrs.AllClassNonMaximumSuppressionAttrs: output_format
relax.attrs.ArgmaxArgminAttrs: axis
relax.attrs.ArgsortAttrs: dtype
relax.attrs.AstypeAttrs:
relax.attrs.AttentionAttrs: scale causal_mask window_size
relax.attrs.BatchNormAttrs:
relax.attrs.BucketizeAttrs:
relax.attrs.ConcatAttrs: axis
relax.attrs.Conv1DAttrs: strides padding dilation data_layout kernel_layout out_layout out_dtype
relax.attrs.Conv1DTransposeAttrs: strides padding output_padding dilation data_layout kernel_layout out_layout out_dtype
relax.attrs.Conv2DAttrs: strides padding dilation data_layout kernel_layout out_layout out_dtype
relax.attrs.Conv2DTransposeAttrs: strides padding output_padding dilation data_layout kernel_layout out_layout out_dtype
relax.attrs.Conv3DAttrs: strides padding dilation data_layout kernel_layout out_layout out_dtype
relax.attrs.Conv3DTransposeAttrs: strides padding output_padding dilation data_layout kernel_layout out_layout out_dtype
relax.attrs.DropoutAttrs:
relax.attrs.EinsumAttrs: subscripts
relax.attrs.ExpandDimsAttrs: axis
relax.attrs.FlipAttrs:
relax.attrs.GatherElementsAttrs:
relax.attrs.GatherNDAttrs:
relax.attrs.GetValidCountsAttrs:
relax.attrs.GridSampleAttrs: method layout padding_mode
relax.attrs.GroupNormAttrs: axes
relax.attrs.IndexPutAttrs:
relax.attrs.InitAttrs: dtype
relax.attrs.InstanceNormAttrs: axes
relax.attrs.LayerNormAttrs: axes
relax.attrs.LayoutTransformAttrs: index_map pad_value
relax.attrs.LeakyReluAttrs:
relax.attrs.MatmulAttrs: out_dtype
relax.attrs.MeshgridAttrs: indexing
relax.attrs.MultiboxTransformLocAttrs: variances
relax.attrs.MultinomialFromUniformAttrs:
relax.attrs.NLLLossAttrs: reduction
relax.attrs.NonMaximumSuppressionAttrs:
relax.attrs.OneHotAttrs:
relax.attrs.PReluAttrs:
relax.attrs.PadAttrs: pad_width pad_mode
relax.attrs.PermuteDimsAttrs: axes
relax.attrs.PixelShuffleAttrs:
relax.attrs.Pool1DAttrs: pool_size strides dilation padding layout out_layout
relax.attrs.Pool2DAttrs: pool_size strides dilation padding layout out_layout
relax.attrs.Pool3DAttrs: pool_size strides dilation padding layout out_layout
relax.attrs.QuantizeAttrs:
relax.attrs.RMSNormAttrs: axes
relax.attrs.ROIAlignAttrs: pooled_size layout mode
relax.attrs.ROIPoolAttrs: pooled_size layout
relax.attrs.RepeatAttrs: axis
relax.attrs.Resize2DAttrs: roi layout method coordinate_transformation_mode rounding_method out_dtype
relax.attrs.Resize3DAttrs: roi layout method coordinate_transformation_mode rounding_method out_dtype
relax.attrs.ReverseSequenceAttrs:
relax.attrs.ScanopAttrs: axis dtype
relax.attrs.ScatterElementsAttrs: reduction
relax.attrs.ScatterNDAttrs: reduction
relax.attrs.SliceScatterAttrs:
relax.attrs.SoftmaxAttrs:
relax.attrs.SoftplusAttrs:
relax.attrs.SortAttrs:
relax.attrs.SplitAttrs: indices_or_sections
relax.attrs.SqueezeAttrs: axis
relax.attrs.StackAttrs: axis
relax.attrs.StatisticalAttrs: axis
relax.attrs.StridedSliceAttrs:
relax.attrs.TakeAttrs: axis mode
relax.attrs.TileAttrs: repeats
relax.attrs.TopKAttrs: ret_type dtype
relax.attrs.TriluAttrs:
relax.attrs.WrapParamAttrs:
"""  # noqa: E501

NODES = {
    kind: frozenset(fields.split())
    for kind, _, fields in (line.partition(":") for line in _NODES.split("\n"))
    if kind
}
"""All other kinds of nodes: the fields that hold the number of another node. The rest hold plain values.

Not among them is what holds code or finds it by name (``ffi.Function``, ``ffi.Module``, ``ir.EnvFunc``,
``relax.expr.ExternFunc``), what only calls of packed functions need (``ir.StringImm``, ``ir.PointerType``,
``tirx.AttrStmt``), and targets and devices, which are the mesh's choice."""

_RELAX = """
abs acos acosh add arange argmax argmin argsort asin asinh astype atan atan2 atanh bitwise_and bitwise_not
bitwise_or bitwise_xor broadcast_to bucketize call_tir ceil clip collapse_sum_like collapse_sum_to concat
cos cosh cumprod cumsum dequantize divide dynamic_strided_slice einsum equal erf ewise_fma exp expand_dims
eye eye_like flatten flip floor floor_divide floor_mod full full_like gather_elements gather_nd
grad.avg_pool2d_backward grad.end_checkpoint grad.max_pool2d_backward grad.nll_loss_backward grad.no_grad
grad.start_checkpoint grad.take_backward greater greater_equal hamming_window image.affine_grid
image.grid_sample image.resize2d image.resize3d index_put index_tensor isfinite isinf isnan
layout_transform left_shift less less_equal log log_add_exp logical_and logical_not logical_or logical_xor
matmul max maximum mean median meshgrid min minimum mod multinomial_from_uniform multiply negative
nn.adaptive_avg_pool1d nn.adaptive_avg_pool2d nn.adaptive_avg_pool3d nn.attention nn.attention_bias
nn.attention_var_len nn.avg_pool1d nn.avg_pool2d nn.avg_pool3d nn.batch_flatten nn.batch_norm nn.conv1d
nn.conv1d_transpose nn.conv2d nn.conv2d_transpose nn.conv3d nn.conv3d_transpose
nn.cross_entropy_with_logits nn.dropout nn.gelu nn.gelu_tanh nn.group_norm nn.instance_norm nn.layer_norm
nn.leakyrelu nn.log_softmax nn.max_pool1d nn.max_pool2d nn.max_pool3d nn.nll_loss nn.pad nn.pixel_shuffle
nn.prelu nn.relu nn.rms_norm nn.selu nn.silu nn.softmax nn.softplus nonzero not_equal one_hot ones
ones_like outer permute_dims power prod quantize repeat reshape reverse_sequence right_shift round rsqrt
scatter_elements scatter_nd shape_of shape_to_tensor sigmoid sign sin sinh size slice_scatter sort split
sqrt square squeeze stack std strided_slice subtract sum take tan tanh tensor_to_shape tile topk tril triu
trunc unique variance vision.all_class_non_max_suppression vision.get_valid_counts
vision.multibox_transform_loc vision.non_max_suppression vision.roi_align vision.roi_pool where wrap_param
zeros zeros_like
"""

_ARITHMETIC = """
acos acosh asin asinh atan atan2 atanh copysign cos cosh erf exp exp10 exp2 fabs floor fma fmod hypot
isfinite isinf isnan ldexp log log10 log1p nearbyint nextafter popcount pow q_multiply_shift
q_multiply_shift_per_axis reinterpret round rsqrt sigmoid sin sinh sqrt tan tanh trunc
"""

OPERATORS = frozenset(
    [f"relax.{name}" for name in _RELAX.split()]
    + [f"tirx.{name}" for name in _ARITHMETIC.split()]
    + ["prim.ceil", "prim.clz", "prim.if_then_else", "prim.likely", "prim.log2"]
)
"""Operators of Relax that compute tensors from tensors, and intrinsics that compute numbers from numbers."""

ATTRIBUTES = frozenset(
    {
        "global_symbol",
        "layout_free_buffers",
        "num_input",
        "op_pattern",
        "params",
        "Primitive",
        "s_tir",
        "tir_var_lower_bound",
        "tir_var_upper_bound",
        "tirx.is_scheduled",
        "tirx.noalias",
    }
)
"""Attributes of functions and modules that exporters write. Others name a code generator, a target, or a
library to link."""

ANNOTATIONS = frozenset(
    {
        "axis",
        "layout_free_placeholders",
        "pragma_auto_unroll_max_step",
        "pragma_unroll_explicit",
        "schedule_rule",
    }
)
"""Annotations of loops and blocks. Others become statements of the code generator: ``pragma_import_llvm``
reads a file."""

SCHEDULE_RULES = frozenset(
    {
        "None",
        "conv2d_NCHWc_int8",
        "conv2d_nchw_winograd_data_pack",
        "conv2d_nchw_winograd_inverse",
        "conv2d_nhwc_winograd_data_pack",
        "conv2d_nhwc_winograd_inverse",
        "meta_schedule.adaptive_pool_avg",
        "meta_schedule.adaptive_pool_max",
        "meta_schedule.pool_avg",
        "meta_schedule.pool_max",
    }
)
"""Values of ``schedule_rule``, which MetaSchedule looks up among TVM's global functions."""
