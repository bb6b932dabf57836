"""What is changed in a model beyond what TVM always does: decided at import, kept with the model."""

from __future__ import annotations

from msgspec import Struct


class Changes(Struct, frozen=True, kw_only=True):
    """Those that were tried and gave what the unchanged model gives.

    Attributes:
        fast_math: exp and the like may be computed by arithmetic on whole vectors.
        composed: layer normalisation is one function, whatever it was written as, and zeros around an image
            are part of the convolution that reads it.
        attention: is computed by one kernel.
        channels_last: convolutions have channels last, and no tensor is turned round that need not be.
        blocked: transpositions that are left are done block by block.
        rounded: products with a number of rows that cannot be cut into blocks compute a few more.
        narrow: products with constant weights, and convolutions, are computed in bfloat16, and summed in
            single precision. The person asked for it.
        integers: products and convolutions of quantised data and weights are sums of integers.
        dots: products with constant weights, and convolutions, are computed by instructions that multiply in
            groups, where they have the dtypes for it.
        winograd: tasks around a convolution may use Winograd's algorithm, with tiles of so many outputs in
            each direction at most; 0 for none.
        apart: structural hashes of functions that are fused with no other: fused, nothing could be tuned, or
            what came out was wrong.
    """

    composed: bool = False
    attention: bool = False
    channels_last: bool = False
    fast_math: bool = False
    blocked: bool = False
    rounded: bool = False
    narrow: bool = False
    integers: bool = False
    dots: bool = False
    winograd: int = 0
    apart: list[str] = []


NONE = Changes()
