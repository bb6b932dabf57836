"""Element types beside single precision, as text of C: how vectors of them are moved, and how small numbers
are multiplied.

In registers, integers are 32 bits wide, and bfloat16 is its bits in such an integer.
"""

from __future__ import annotations

from collections.abc import Iterable

from tunemesh.stage_workers.engines.template.operators import FLOAT
from tunemesh.stage_workers.graph.vector_code import INTEGER, SINGLE

TYPES = {
    FLOAT: "float",
    "int32": "int",
    "bfloat16": "unsigned short",
    "uint8": "unsigned char",
    "int8": "signed char",
}
"""Of C, by the dtype."""
VECTORS = {FLOAT: SINGLE, "int32": INTEGER, "bfloat16": INTEGER, "uint8": INTEGER, "int8": INTEGER}
"""What they are in registers."""
ACCUMULATORS = {FLOAT: "vec", "int32": "ivec"}
DOTS = {
    "bf16": """\
#if defined __clang__
#define DOT(sum, x, v) __asm__("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(x), "v"(v))
#else
#if __GNUC__ >= 13
typedef __bf16 pairs __attribute__((vector_size(4 * LANES)));
#else
typedef short pairs __attribute__((vector_size(4 * LANES)));
#endif
#define DOT(sum, x, v) sum = OF_LANES(__builtin_ia32_dpbf16ps_v, sf)(sum, (pairs)(x), (pairs)(v))
#endif
""",
    "int8": """\
#if defined __clang__
#define DOT(sum, x, v) __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(x), "v"(v))
#else
#define DOT(sum, x, v) sum = OF_LANES(__builtin_ia32_vpdpbusd_v, si)(sum, (ivec)(x), (ivec)(v))
#endif
""",
}
"""How products are added to sums, by the name of a :class:`~.operators.Dot`: gcc copies every sum where
assembler changes it."""
CASTS = {
    ("int32", FLOAT): "__builtin_convertvector({}, vec)",
    (FLOAT, "int32"): "__builtin_convertvector({}, ivec)",
    ("int32", "uint8"): "{} & 255",
    ("int32", "int8"): "({} << 24) >> 24",
    ("uint8", "int32"): "{}",
    ("int8", "int32"): "{}",
    ("uint8", FLOAT): "__builtin_convertvector({}, vec)",
    ("int8", FLOAT): "__builtin_convertvector({}, vec)",
    (FLOAT, "bfloat16"): "rounded({})",
    ("bfloat16", FLOAT): "(vec)({} << 16)",
}
"""From one dtype to another."""
BFLOAT16 = """\
typedef unsigned uvec __attribute__((vector_size(4 * LANES)));
INLINE float single_bfloat16(unsigned short x) {
  const unsigned bits = (unsigned)x << 16; float r; __builtin_memcpy(&r, &bits, sizeof r); return r;
}
INLINE ivec rounded(vec x) {
  const ivec bits = (ivec)x;
  const ivec near = (ivec)(((uvec)bits + 0x7fff + (((uvec)bits >> 16) & 1)) >> 16);
  const ivec nan = x != x;
  return (nan & (((ivec)((uvec)bits >> 16)) | 64)) | (~nan & near);
}
INLINE some_bfloat16 halves(vec x) {
#if defined __AVX512BF16__ && LANES >= 8
  some_bfloat16 r; __asm__("vcvtneps2bf16 %1, %0" : "=v"(r) : "v"(x)); return r;
#else
  return __builtin_convertvector(rounded(x), some_bfloat16);
#endif
}
INLINE void store_halves(unsigned short *p, vec x) {
  const some_bfloat16 r = halves(x); __builtin_memcpy(p, &r, sizeof r); }
INLINE void store_part_halves(unsigned short *p, vec x, int count) {
  const some_bfloat16 r = halves(x); __builtin_memcpy(p, &r, count * sizeof *p); }
"""
"""Rounded to the nearest, and of two that are as near to the even one."""


def text(dtypes: Iterable[str], dot: str) -> str:
    """What a program that uses these dtypes and this instruction needs."""
    known = sorted(set(dtypes) - {FLOAT})
    parts = [_moves(dtype) for dtype in known]
    if "bfloat16" in known:
        parts.append(BFLOAT16)
    if dot:
        parts.append(DOTS[dot])
    return "".join(parts)


def _moves(dtype: str) -> str:
    of, name = TYPES[dtype], f"some_{dtype}"
    return (
        f"typedef {of} {name} __attribute__((vector_size(sizeof({of}) * LANES)));\n"
        f"INLINE ivec load_{dtype}(const {of} *p) {{\n"
        f"  {name} r; __builtin_memcpy(&r, p, sizeof r); return __builtin_convertvector(r, ivec);\n}}\n"
        f"INLINE ivec part_{dtype}(const {of} *p, int count) {{\n"
        f"  {name} r = {{}}; __builtin_memcpy(&r, p, count * sizeof *p);\n"
        "  return __builtin_convertvector(r, ivec);\n}\n"
        f"INLINE ivec all_{dtype}(const {of} *p) {{ return (ivec){{}} + *p; }}\n"
        f"INLINE void store_{dtype}({of} *p, ivec x) {{\n"
        f"  const {name} r = __builtin_convertvector(x, {name}); __builtin_memcpy(p, &r, sizeof r);\n}}\n"
        f"INLINE void store_part_{dtype}({of} *p, ivec x, int count) {{\n"
        f"  const {name} r = __builtin_convertvector(x, {name});\n"
        "  __builtin_memcpy(p, &r, count * sizeof *p);\n}\n"
    )


def load(dtype: str, parameter: str, place: str, lanes: str = "", count: str = "") -> str:
    """What is read from a parameter, by its name in the program: a vector that begins at ``lanes`` behind a
    place, or ``count`` of its lanes; or one number for all lanes."""
    if dtype == FLOAT:
        at = f"{parameter} + {place}"
        if not lanes:
            return f"all(*({at}))"
        return f"part({at} + {lanes}, {count})" if count else f"load({at} + {lanes})"
    at = f"(const {TYPES[dtype]} *){parameter} + {place}"
    if not lanes:
        return f"all_{dtype}({at})"
    return f"part_{dtype}({at} + {lanes}, {count})" if count else f"load_{dtype}({at} + {lanes})"


def single(dtype: str, place: str, count: int = 0) -> str:
    """A vector of what lies at a place, or some lanes of it, in single precision."""
    if dtype == FLOAT:
        return f"part({place}, {count})" if count else f"load({place})"
    value = f"part_{dtype}({place}, {count})" if count else f"load_{dtype}({place})"
    return CASTS[dtype, FLOAT].format(value)


def store(dtype: str, to: str, value: str, count: str = "", *, rounds: bool = False) -> str:
    """The statement that writes a vector, or some of its lanes.

    Args:
        rounds: whether the vector is in single precision, and the dtype bfloat16.
    """
    kind = "_halves" if rounds else "" if dtype == FLOAT else f"_{dtype}"
    return f"store_part{kind}({to}, {value}, {count});" if count else f"store{kind}({to}, {value});"
