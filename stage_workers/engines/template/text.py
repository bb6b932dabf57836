"""Formulas over vectors as text of C: what :mod:`.polynomials` writes down in LLVM's, in the vector types
that gcc and clang have for every CPU."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tunemesh.stage_workers.graph.vector_code import INTEGER, SINGLE, TRUTH, Code, Value, single

TYPES = {SINGLE: "vec", INTEGER: "ivec", TRUTH: "ivec"}
"""Truth is -1 or 0 in every lane, as comparisons give it."""
OPERATIONS = {
    "fadd": "+",
    "fsub": "-",
    "fmul": "*",
    "fdiv": "/",
    "add": "+",
    "sub": "-",
    "ashr": ">>",
    "shl": "<<",
    "and": "&",
    "or": "|",
}
COMPARISONS = {"olt": "<", "slt": "<", "ogt": ">", "sgt": ">", "oeq": "==", "eq": "==", "ne": "!="}

DATA = """\
static inline __attribute__((always_inline, unused)) float *data(const TVMFFIAny *argument) {
  const DLTensor *tensor = argument->type_index == kTVMFFITensor
      ? (const DLTensor *)((const char *)argument->v_obj + sizeof(TVMFFIObject))
      : (const DLTensor *)argument->v_ptr;
  return (float *)((char *)tensor->data + tensor->byte_offset);
}
"""
"""What is in a tensor that a function is given."""


@dataclass(frozen=True)
class CValue(Value):
    """A vector in a program of C."""

    def __neg__(self) -> Value:
        return self.code.emit(self.kind, f"-{self.name}")

    def __invert__(self) -> Value:
        return self.code.emit(self.kind, f"~{self.name}")

    def abs(self) -> Value:
        return self.code.emit(SINGLE, f"(vec)((ivec){self.name} & 0x7fffffff)")

    def _with(self, operation: str, other: Value | float) -> Value:
        right = self.code.operand(other, self.kind)
        return self.code.emit(self.kind, f"{self.name} {OPERATIONS[operation]} {right}")

    def _compared(self, how: str, other: Value | float) -> Value:
        right = self.code.operand(other, self.kind)
        if how == "one":  # neither is NaN
            return self.code.emit(TRUTH, f"({self.name} < {right}) | ({self.name} > {right})")
        truth = self.code.emit(TRUTH, f"{self.name} {COMPARISONS[how]} {right}")
        assert isinstance(self.code, CCode)
        self.code.compared[truth.name] = COMPARISONS[how], self.name, right
        return truth

    def _cast(self, how: str, kind: str) -> Value:
        if how == "bitcast":
            return self.code.emit(kind, f"({TYPES[kind]}){self.name}")
        assert how == "sitofp"
        return self.code.emit(kind, f"__builtin_convertvector({self.name}, vec)")


@dataclass
class CCode(Code):
    """The body of a function of C over vectors of any number of lanes.

    Attributes:
        names: what the names of its values begin with.
        compared: which numbers a truth compares, and how, by its name.
    """

    lanes: int = 0
    lines: list[str] = field(default_factory=list)
    names: str = "t"
    compared: dict[str, tuple[str, str, str]] = field(default_factory=dict)

    def value(self, kind: str, name: str) -> Value:
        """What has a name already."""
        return CValue(self, kind, name)

    def parameter(self, number: int) -> Value:
        return CValue(self, SINGLE, f"x{number}")

    def constant(self, value: float, kind: str) -> Value:
        return CValue(self, kind, self.operand(value, kind))

    def select(self, condition: Value, one: Value | float, other: Value | float) -> Value:
        left, right = self.operand(one, SINGLE), self.operand(other, SINGLE)
        # Where a number is beyond another, that one: also where either is NaN, it is the same.
        if self.compared.get(condition.name) == (">", right, left):
            return self.emit(SINGLE, f"min({left}, {right})")
        if self.compared.get(condition.name) == ("<", right, left):
            return self.emit(SINGLE, f"max({left}, {right})")
        return self.emit(SINGLE, f"blend({condition.name}, {left}, {right})")

    def emit(self, kind: str, operation: str) -> Value:
        name = f"{self.names}{len(self.lines)}"
        self.lines.append(f"const {TYPES[kind]} {name} = {operation};")
        return CValue(self, kind, name)

    def operand(self, value: Value | float, kind: str) -> str:
        if isinstance(value, Value):
            return value.name
        return f"all({number(value)})" if kind == SINGLE else str(int(value))


def transformed(
    transform: Callable[[Sequence[Value]], Sequence[Value]], loads: Sequence[str], stores: Sequence[str]
) -> list[str]:
    """The lines that load a vector of values, transform it, and store what comes of it."""
    code = CCode()
    values = [code.emit(SINGLE, load) for load in loads]
    results = transform(values)
    return [
        *code.lines,
        *(to.replace("{}", each.name) for to, each in zip(stores, results, strict=True)),
    ]


def loop(variable: str, count: int, lines: Sequence[str]) -> list[str]:
    """Lines so many times, with the number of the time."""
    return [f"for (long {variable} = 0; {variable} < {count}; ++{variable}) {{", *lines, "}"]


def number(value: float) -> str:
    """A constant of single precision, exactly."""
    if math.isnan(value):
        return '__builtin_nanf("")'
    if math.isinf(value):
        return "__builtin_inff()" if value > 0 else "-__builtin_inff()"
    return f"{single(value).hex()}f"


def vectors(lanes: int) -> str:
    """What all programs begin with: vectors of so many lanes, and how to move them. Nothing needs to be
    aligned to more than an element."""
    broadcast = ", ".join(["x"] * lanes)
    return f"""\
#include <tvm/ffi/c_api.h>
typedef float vec __attribute__((vector_size({4 * lanes})));
typedef int ivec __attribute__((vector_size({4 * lanes})));
typedef vec loose __attribute__((aligned(4), may_alias));
#define LANES {lanes}
#define JOINED(begin, lanes, end) begin##lanes##end
#define WITH(begin, lanes, end) JOINED(begin, lanes, end)
#define OF_LANES(begin, end) WITH(begin, LANES, end)
#define INLINE static inline __attribute__((always_inline, unused))
INLINE vec all(float x) {{ return (vec){{{broadcast}}}; }}
INLINE vec load(const float *p) {{ return *(const loose *)p; }}
INLINE vec part(const float *p, int count) {{ vec r = {{}}; __builtin_memcpy(&r, p, 4 * count); return r; }}
INLINE void store(float *p, vec x) {{ *(loose *)p = x; }}
INLINE void store_part(float *p, vec x, int count) {{ __builtin_memcpy(p, &x, 4 * count); }}
INLINE vec blend(ivec m, vec a, vec b) {{ return (vec)((m & (ivec)a) | (~m & (ivec)b)); }}
#ifdef __clang__
#define SHUFFLED(x, ...) __builtin_shufflevector(x, x, __VA_ARGS__)
#else
#define SHUFFLED(x, ...) __builtin_shuffle(x, (ivec){{__VA_ARGS__}})
#endif
#if defined __AVX__
#define IN_REGISTER(x) __asm__("" : "+v"(x))
#elif defined __SSE2__
#define IN_REGISTER(x) __asm__("" : "+x"(x))
#elif defined __aarch64__
#define IN_REGISTER(x) __asm__("" : "+w"(x))
#else
#define IN_REGISTER(x)
#endif
#ifdef __AVX__
#define OF_TWO(name, sign) INLINE vec name(vec a, vec b) {{ \\
  vec r; __asm__("v" #name "ps %2, %1, %0" : "=v"(r) : "v"(a), "v"(b)); return r; }}
#else
#define OF_TWO(name, sign) INLINE vec name(vec a, vec b) {{ return blend(a sign b, a, b); }}
#endif
#if defined __AVX__
INLINE vec root(vec x) {{ vec r; __asm__("vsqrtps %1, %0" : "=v"(r) : "v"(x)); return r; }}
#else
INLINE vec root(vec x) {{ vec r; for (int i = 0; i < LANES; ++i) r[i] = __builtin_sqrtf(x[i]); return r; }}
#endif
#if defined __AVX512F__
INLINE vec nearest(vec x) {{ vec r; __asm__("vrndscaleps $4, %1, %0" : "=v"(r) : "v"(x)); return r; }}
#elif defined __AVX__
INLINE vec nearest(vec x) {{ vec r; __asm__("vroundps $4, %1, %0" : "=x"(r) : "x"(x)); return r; }}
#else
INLINE vec nearest(vec x) {{
  vec r; for (int i = 0; i < LANES; ++i) r[i] = __builtin_nearbyintf(x[i]); return r; }}
#endif
OF_TWO(max, >)
OF_TWO(min, <)
{DATA}{THREADS}"""


THREADS = """\
#ifdef THREADS
struct group { void *handle; int32_t count; };
typedef int launch(int (*)(int, struct group *, void *), void *, int);
__attribute__((weak)) launch *__TVMBackendParallelLaunch;
#define BEGIN(count) ((count) * task / tasks)
#define END(count) ((count) * (task + 1) / tasks)
#else
#define BEGIN(count) 0
#define END(count) (count)
#endif
"""
"""How a kernel is shared among threads, where it is compiled for several cores: each takes a part of what is
counted. TVM's runtime, which has the threads, sets the pointer to what starts them when it loads a module."""


def function(name: str, lines: Sequence[str]) -> str:
    """A function that is exported, in TVM-FFI's packed calling convention."""
    text = "\n  ".join(lines)
    return f"{_head(name)} {{\n  {text}\n  return 0;\n}}\n"


def shared(name: str, lines: Sequence[str]) -> str:
    """The same of a function that is shared among threads: a loop in ``lines`` goes from ``BEGIN`` to ``END``
    of how much there is, see :data:`THREADS`."""
    text = "\n  ".join(lines)
    return f"""\
#ifdef THREADS
static int share(const TVMFFIAny *given, long task, long tasks)
#else
{_head(name)}
#endif
{{
  {text}
  return 0;
}}
#ifdef THREADS
static int launched(int task, struct group *group, void *given) {{ return share(given, task, group->count); }}
{_head(name)} {{
  if (!__TVMBackendParallelLaunch) return share(given, 0, 1);
  return __TVMBackendParallelLaunch(launched, (void *)given, 0);
}}
#endif
"""


def _head(name: str) -> str:
    return f"int __tvm_ffi_{name}(void *self, const TVMFFIAny *given, int32_t count, TVMFFIAny *result)"


def total(terms: Sequence[tuple[int, str]], offset: int = 0) -> str:
    """A sum of multiples, in brackets."""
    parts = [name if factor == 1 else f"{name} * {factor}" for factor, name in terms if factor]
    if offset:
        parts.append(str(offset))
    return f"({' + '.join(parts)})" if parts else "0"
