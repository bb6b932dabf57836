"""The loops of what is computed row by row, as text of C.

Some rows are done together, which hides how long one number of all lanes takes. A row of values that later
passes read is kept on the stack, and computed in the pass that needs it first.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tunemesh.stage_workers.engines.template import elements, epilogues
from tunemesh.stage_workers.engines.template.contraction import STACK
from tunemesh.stage_workers.engines.template.operators import Form
from tunemesh.stage_workers.engines.template.rows import Rows
from tunemesh.stage_workers.engines.template.text import number, shared, total, vectors


@dataclass(frozen=True)
class Cut:
    """How the loops are cut.

    Attributes:
        lanes: of a vector.
        vectors: that stand one after the other.
        rows: that are done together.
    """

    lanes: int
    vectors: int
    rows: int


class Rowwise:
    """One kernel."""

    def __init__(self, task: Rows, cut: Cut) -> None:
        self.task = task
        self.cut = cut
        self.length = task.axes[-1].extent
        self.whole = self.length // cut.lanes
        """Vectors of a row; the rest is less than one."""
        self.rest = self.length % cut.lanes
        self.line = task.axes[-2].extent if len(task.axes) > 1 else 1

    def objection(self) -> str:
        """Why this makes no kernel; empty where it does."""
        if self.cut.rows > self.line:
            return "it does more rows than there are"
        if self.cut.vectors > max(self.whole, 1):
            return "a row has fewer vectors"
        kept = sum(each.kind == "map" for each in self.task.passes[:-1])
        if kept * self.cut.rows * (self.whole + 1) * self.cut.lanes > STACK:
            return "rows are too long to keep them"
        return ""

    def source(self, symbol: str) -> str:
        """The program whose function is called ``symbol``."""
        steps = [step for each in self.task.passes for step in each.steps]
        parts = [vectors(self.cut.lanes), elements.text([self.task.dtype], ""), epilogues.library(steps)]
        parts.append(self._across())
        parts += [self._value(number) for number in range(len(self.task.passes))]
        return "\n".join([*parts, self._rows(), self._all(symbol)])

    def _across(self) -> str:
        """The functions that make one number of all lanes, in every lane."""
        texts = []
        for kind in sorted({each.kind for each in self.task.passes} - {"map"}):
            lines, apart = [], self.cut.lanes // 2
            while apart:
                order = ", ".join(str((lane + apart) % self.cut.lanes) for lane in range(self.cut.lanes))
                other = f"SHUFFLED(x, {order})"
                lines.append(f"x = {f'x + {other}' if kind == 'sum' else f'{kind}(x, {other})'};")
                apart //= 2
            texts.append(f"INLINE vec across_{kind}(vec x) {{ {' '.join(lines)} return x; }}\n")
        if self.rest:
            here = ", ".join(str(-(lane < self.rest)) for lane in range(self.cut.lanes))
            texts.append(
                f"INLINE vec first(vec x, vec other) {{ return blend((ivec){{{here}}}, x, other); }}\n"
            )
        return "".join(texts)

    def _of_row(self, at: int) -> list[int]:
        """Steps of a pass that are the same for all elements of a row."""
        steps, found = self.task.passes[at].steps, []
        for i, step in enumerate(steps):
            if step.kind == "acc":
                same = self.task.passes[step.parameter].kind != "map"
            elif step.kind == "load":
                same = not step.form.strides[-1]
            else:
                same = all(number in found for number in step.arguments)
            found += [i] if same else []
        return found

    def _computed_once(self, at: int) -> list[int]:
        """Those of them that are computed before the elements, since others take them."""
        steps, same = self.task.passes[at].steps, self._of_row(at)
        taken = {number for i, step in enumerate(steps) if i not in same for number in step.arguments}
        return [i for i in same if steps[i].kind == "call" and i in taken]

    def _value(self, at: int) -> str:
        """The functions that compute a value of a pass, and what of that is the same for the row."""
        once = self._computed_once(at)
        texts = [self._function(f"row_{at}_{i}", at, i, []) for i in once]
        last = len(self.task.passes[at].steps) - 1
        return "\n".join([*texts, self._function(f"value_{at}", at, last, once)])

    def _function(self, name: str, at: int, last: int, given: list[int]) -> str:
        """The function that computes a step, of what is read and of steps that are given."""
        steps = self.task.passes[at].steps
        numbers = epilogues.needed(steps, last, given)
        read = [i for i in numbers if i in given or steps[i].kind in ("load", "acc")]
        taken = [
            replace(steps[i], kind="load", arguments=())
            if i in read
            else replace(steps[i], arguments=tuple(numbers.index(each) for each in steps[i].arguments))
            for i in numbers
        ]
        lines, result = epilogues.body(taken, "", [f"g{i}" if i in read else "" for i in numbers])
        text = "\n  ".join(lines)
        parameters = ", ".join(f"vec g{i}" for i in read) or "void"
        return f"INLINE vec {name}({parameters}) {{\n  {text}\n  return {result};\n}}\n"

    def _place(self, form: Form, row: int) -> str:
        """Where the first element of a row is."""
        axes = len(self.task.axes) - 1
        terms = [(form.strides[axis], f"o{axis}") for axis in range(axes)]
        more = row * form.strides[axes - 1] if axes else 0
        return total(terms, form.offset + more)

    def _rows(self) -> str:
        """The function that does some rows."""
        task, cut = self.task, self.cut
        lines: list[str] = []
        made: set[int] = set()
        kept = [at for at, each in enumerate(task.passes[:-1]) if each.kind == "map"]
        padded = (self.whole + 1) * cut.lanes
        lines += [f"float b{at}[{cut.rows}][{padded}] __attribute__((aligned(64)));" for at in kept]
        for at, each in enumerate(task.passes):
            if at in kept:
                continue
            rows = range(cut.rows)
            for now in sorted({at, *self._needed(at)} - made):
                lines += [
                    f"const vec o{now}_{row}_{i} = row_{now}_{i}({self._given(now, i, [], row, '', 0)});"
                    for row in rows
                    for i in self._computed_once(now)
                ]
            if each.kind != "map":
                start = f"all({number(each.start)})"
                # Each has a sum of its own, so that one need not wait for the other.
                lines += [f"vec s{at}_{row}_{u} = {start};" for row in rows for u in range(cut.vectors)]
            steps = self.whole // cut.vectors
            step = cut.vectors * cut.lanes
            if steps:
                lines.append(f"for (long l = 0; l < {steps * step}; l += {step}) {{")
                for u in range(cut.vectors):
                    for row in rows:
                        lines += self._one(at, row, u, f"l + {u * cut.lanes}", made, 0)
                lines.append("}")
            for vector in range(steps * cut.vectors, self.whole):
                for row in rows:
                    lines += self._one(at, row, 0, str(vector * cut.lanes), made, 0)
            if self.rest:
                for row in rows:
                    lines += self._one(at, row, 0, str(self.whole * cut.lanes), made, self.rest)
            made |= self._needed(at)
            if each.kind != "map":
                for row in rows:
                    name, others = f"s{at}_{row}_0", [f"s{at}_{row}_{u}" for u in range(1, cut.vectors)]
                    joined = name
                    for other in others:
                        joined = (
                            f"{joined} + {other}" if each.kind == "sum" else f"{each.kind}({joined}, {other})"
                        )
                    # All sums begin with the same number, which must count once.
                    assert each.start == 0.0 or each.kind != "sum"
                    lines.append(f"const vec t{at}_{row} = across_{each.kind}({joined});")
        text = "\n  ".join(lines)
        where = "".join(f", long o{axis}" for axis in range(len(task.axes) - 1))
        return (
            "static __attribute__((noinline)) void rows(const float *const *restrict p, "
            f"{elements.TYPES[task.dtype]} *restrict out"
            f"{where}) {{\n  {text}\n}}\n"
        )

    def _needed(self, at: int) -> set[int]:
        """The rows of values that a pass needs, and those that these need."""
        found: set[int] = set()
        for each in self.task.passes[at].uses:
            if self.task.passes[each].kind == "map":
                found |= {each} | self._needed(each)
        return found

    def _one(self, at: int, row: int, u: int, place: str, made: set[int], rest: int) -> list[str]:
        """The statements for a vector of a row in a pass."""
        each, lines = self.task.passes[at], ["{"]
        for needed in sorted(self._needed(at)):
            if needed in made:
                lines.append(f"const vec m{needed} = load(b{needed}[{row}] + {place});")
            else:
                lines.append(f"const vec m{needed} = {self._called(needed, row, place, rest)};")
                lines.append(f"store(b{needed}[{row}] + {place}, m{needed});")
        value = self._called(at, row, place, rest)
        if each.kind == "map":
            to = f"out + {self._place(self.task.output, row)} + {place}"
            count = str(rest) if rest else ""
            lines.append(
                elements.store(self.task.dtype, to, value, count, rounds=epilogues.rounds(each.steps))
            )
        else:
            name = f"s{at}_{row}_{u}"
            if rest:
                value = f"first({value}, all({number(each.start)}))"
            lines.append(
                f"{name} += {value};" if each.kind == "sum" else f"{name} = {each.kind}({name}, {value});"
            )
        return [*lines, "}"]

    def _called(self, at: int, row: int, place: str, rest: int) -> str:
        """The value of a pass."""
        once, last = self._computed_once(at), len(self.task.passes[at].steps) - 1
        return f"value_{at}({self._given(at, last, once, row, place, rest)})"

    def _given(self, at: int, last: int, once: list[int], row: int, place: str, rest: int) -> str:
        """What the function of a step is given."""
        given, steps = [], self.task.passes[at].steps
        for i in epilogues.needed(steps, last, once):
            step = steps[i]
            if i in once:
                given.append(f"o{at}_{row}_{i}")
            elif step.kind == "acc":
                is_row = self.task.passes[step.parameter].kind == "map"
                given.append(f"m{step.parameter}" if is_row else f"t{step.parameter}_{row}")
            elif step.kind == "load":
                where = f"p[{step.parameter}] + {self._place(step.form, row)}"
                if not step.form.strides[-1]:
                    given.append(f"all(*({where}))")
                else:
                    given.append(f"part({where} + {place}, {rest})" if rest else f"load({where} + {place})")
        return ", ".join(given)

    def _all(self, symbol: str) -> str:
        """The exported function."""
        task, cut = self.task, self.cut
        inputs, axes = len(task.parameters) - 1, len(task.axes) - 1
        lines = [f"const float *const p[] = {{{', '.join(f'data(&given[{i}])' for i in range(inputs))}}};"]
        of = elements.TYPES[task.dtype]
        lines.append(f"{of} *const out = ({of} *)data(&given[{inputs}]);")
        for axis in range(axes - 1):
            lines.append(f"for (long o{axis} = 0; o{axis} < {task.axes[axis].extent}; ++o{axis}) {{")
        if axes:
            # The last rows are done once more where they are too few.
            last, count = self.line - cut.rows, -(-self.line // cut.rows)
            lines += [
                f"for (long i = BEGIN({count}); i < END({count}); ++i) {{",
                f"const long o{axes - 1} = i * {cut.rows} < {last} ? i * {cut.rows} : {last};",
            ]
        else:
            lines.append("if (BEGIN(1) < END(1))")
        where = "".join(f", o{axis}" for axis in range(axes))
        return shared(symbol, [*lines, f"rows(p, out{where});", *["}"] * axes])
