"""What is changed in a model beyond what TVM always does: decided at import, kept with the model."""

from __future__ import annotations

from msgspec import Struct


class Changes(Struct, frozen=True, kw_only=True):
    """Those that were tried and gave what the unchanged model gives.

    Attributes:
        fast_math: exp and the like may be computed by arithmetic on whole vectors.
        composed: layer normalisation is one function, whatever it was written as, and zeros around an image
            are part of the convolution that reads it.
        channels_last: convolutions have channels last, and no tensor is turned round that need not be.
        blocked: transpositions that are left are done block by block.
        winograd: tasks around a convolution may use Winograd's algorithm, with tiles of so many outputs in
            each direction at most; 0 for none.
        apart: structural hashes of functions that are fused with no other: fused, nothing could be tuned, or
            what came out was wrong.
    """

    composed: bool = False
    channels_last: bool = False
    fast_math: bool = False
    blocked: bool = False
    winograd: int = 0
    apart: list[str] = []


NONE = Changes()
