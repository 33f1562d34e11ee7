"""Print the graphs of a method as the functions that cpu_c_step.c calls for each tile.

Each loop is one pass over a tile: what it reads of an element is read before anything of it is written, every operation is a
statement of its own in the order of torch's, and sums are float64. A product that is summed up is not rounded before.
"""

import math
from collections.abc import Mapping, Sequence

import torch

from .traced import AT_SLICE, DOUBLE, FLOAT, INFIX, MASK, NUMBER, TRUTH, Node
from .traced_method import Path, StepPath, Traced


def printed(traced: Traced, coefficients: Sequence[str], header: str) -> str:
    """The C source of this method. header: cpu_c_method.h."""
    of = {name: f"b{place}" for place, name in enumerate(traced.fields)}
    bits = {f".{name}": 1 << place for place, name in enumerate(traced.fields)}
    sliced = sum(bits["." + name] for name in traced.sliced)
    shape = f"{len(traced.fields)}, {traced.read_only}"
    functions, rows = [], []
    for place, step in enumerate(traced.steps):
        whole, part = step.split(traced.sliced)
        names = {"tile": f"step_{place}", "fits": f"fits_{place}"}
        functions += [
            _tile(names["tile"], whole, step, of, coefficients),
            _trial(names["fits"], whole, of, coefficients),
        ]
        if whole.multiplied:
            names["loud"] = f"loud_{place}"
            functions.append(_loudness(names["loud"], whole, of, coefficients))
        if sliced:
            names |= {"slice": f"slice_{place}", "slice_fits": f"slice_fits_{place}"}
            if at_slice := sum(bits.get(name, 0) for name in step.at_slice(traced.sliced)):
                names["at_slice"] = f"{at_slice}"
            functions.append(_tile(names["slice"], part, step, of, coefficients, hot=False))
            functions.append(_trial(names["slice_fits"], part, of, coefficients))
        rows.append((f"{shape}, {len(step.raw_sums)}, {sliced}", names))
    for place, path in enumerate(traced.measures):
        names = {"measure": f"measure_{place}", "measure_plain": f"measure_plain_{place}"}
        functions.append(_measure(names["measure"], path, of, coefficients, DOUBLE))
        functions.append(_measure(names["measure_plain"], path, of, coefficients, FLOAT))
        rows.append((f"{shape}, {len(path.raw_sums)}, 0", names))
    table = "".join(
        f"  {{{numbers}, {', '.join(f'.{k} = {v}' for k, v in names.items())}}},\n" for numbers, names in rows
    )
    last = f"""static const method_t ways[] = {{
{table}}};

const method_t *dadapt_method(int way) {{ return ways + way; }}
int dadapt_version(void) {{ return VERSION; }}
"""
    return "\n".join([header, *functions, _choice(traced, coefficients), _totals(traced, coefficients), last])


def _choice(traced: Traced, coefficients: Sequence[str]) -> str:
    """The function that says which way these coefficients lead, of a step or of a measure; -1 for none."""
    lines = ["/* Which way a step, or a measure, goes with these coefficients. */"]
    lines.append("int dadapt_way(const double *c, int measures) {")
    for place, path in enumerate((*traced.steps, *traced.measures)):
        loop = _Loop({}, coefficients)
        guards = [
            loop.scalar(condition) if answer else f"!{loop.scalar(condition)}" for condition, answer in path.guards
        ]
        side = "measures" if place >= len(traced.steps) else "!measures"
        lines.append(f"  if ({' && '.join([side, *guards])}) return {place};")
    return "\n".join([*lines, "  return -1;", "}", ""])


def _totals(traced: Traced, coefficients: Sequence[str]) -> str:
    """The function that makes the sums of a phase from the raw ones of all elements, and returns how many they are."""
    lines = ["/* The sums of a way, from its raw sums. */"]
    lines.append("int dadapt_sums(int way, const double *c, const double *raw, double *sum) {")
    for place, path in enumerate((*traced.steps, *traced.measures)):
        loop = _Loop({}, coefficients)
        found = [
            " + ".join(f"raw[{path.raw_sums.index(term)}] * {loop.scalar(factor)}" for term, factor in terms.items())
            for terms in path.terms
        ]
        stores = "".join(f"    sum[{k}] = {text or '0'};\n" for k, text in enumerate(found))
        lines.append(f"  if (way == {place}) {{\n{stores}    return {len(found)};\n  }}")
    return "\n".join([*lines, "  return 0;", "}", ""])


class _Loop:
    """The statements of one loop, and what stands before it. wide: the fields that are given in float64."""

    def __init__(
        self, of: Mapping[str, str], coefficients: Sequence[str], real: str = FLOAT, wide: Sequence[str] = ()
    ) -> None:
        self.of, self.coefficients, self.real, self.wide = of, coefficients, real, wide
        self.head: list[str] = []
        self.body: list[str] = []
        self._names: dict[tuple[Node, str], str] = {}

    def of_node(self, node: Node, kind: str) -> str:
        """An expression for a node where an operand of this kind is wanted."""
        if node.kind in (NUMBER, TRUTH):
            return self._constant(node, kind)
        return self._element(node)

    def _constant(self, node: Node, kind: str) -> str:
        if node.op == "number":
            return _literal(node.args[0], kind)
        if (node, kind) not in self._names:
            name, text = f"k{len(self.head)}", self.scalar(node)
            if node.kind == TRUTH:
                self.head.append(f"const int {name} = {text};")
            else:
                self.head.append(f"const {kind} {name} = {f'within({text})' if kind == FLOAT else text};")
            self._names[node, kind] = name
        return self._names[node, kind]

    def scalar(self, node: Node) -> str:
        """An expression of coefficients alone, in float64."""
        if node.op == "coefficient":
            return f"c[{self.coefficients.index(node.args[0])}]"
        if node.op == "number":
            return _literal(node.args[0], DOUBLE)
        return _expression(node.op, [self.scalar(arg) for arg in node], DOUBLE)

    def _element(self, node: Node) -> str:
        found = self._names.get((node, ""))
        if found is None:
            text = self._expression(node)
            if node.kind == MASK:
                found = text
            else:
                found = f"v{len(self.body)}"
                self.body.append(f"const {node.kind} {found} = {text};")
            self._names[node, ""] = found
        return found

    def _expression(self, node: Node) -> str:
        if node.op == "field":
            name = node.args[0].removeprefix(AT_SLICE)
            at = f"{self.of[name[1:]] if name.startswith('.') else name}[i]"
            return f"(double){at}" if self.real == DOUBLE and name not in self.wide else at
        if node.op == "as":
            return f"({node.kind}){self.of_node(node.args[0], node.kind)}"
        kinds = {arg.kind for arg in node if arg.kind in (FLOAT, DOUBLE)}
        kind = node.kind if node.kind != MASK else DOUBLE if DOUBLE in kinds else FLOAT
        return _expression(node.op, [self.of_node(arg, kind) for arg in node], kind)

    def addend(self, term: Node) -> str:
        """What one element adds to a raw sum: float64."""
        (value,) = term
        inner = value.args[0] if value.op == "as" else value
        if value.op == "as" and inner.op == "mul" and inner.kind == FLOAT:  # exact in float64
            return " * ".join(f"(double){self.of_node(arg, FLOAT)}" for arg in inner)
        return f"(double){self.of_node(inner, FLOAT)}" if value.op == "as" else self.of_node(value, DOUBLE)

    def printed(self, signature: str, last: Sequence[str], sums: Sequence[int] = (), *, hot: bool = True) -> str:
        """A function with this loop, which ends with these statements. sums: the raw sums in it. hot: make it fast."""
        clause = f" reduction(+ : {', '.join(f's{k}' for k in sums)})" if sums else ""
        used = [f"b{k}" for k in range(len(self.of)) if any(f"b{k}[i]" in line for line in (*self.body, *last))]
        lines = [
            *(f"float *{name} = b[{name[1:]}];" for name in used),
            *self.head,
            *(f"double s{k} = {0 if hot else f'sum[{k}]'};" for k in sums),
            *([f"SIMD(omp simd{clause})"] if hot else []),
            "for (int64_t i = 0; i < n; ++i) {",
            *(f"  {line}" for line in (*self.body, *last)),
            "}",
            *(f"sum[{k}] {'+=' if hot else '='} s{k};" for k in sums),
        ]
        return f"{'CLONES ' if hot else ''}static {signature} {{\n" + "".join(f"  {line}\n" for line in lines) + "}\n"


def _tile(
    name: str, part: StepPath, step: StepPath, of: Mapping[str, str], coefficients: Sequence[str], *, hot: bool = True
) -> str:
    """The function of a part of a step, which adds its sums to the places that they have in the step."""
    loop = _Loop(of, coefficients)
    places = [step.raw_sums.index(term) for term in part.raw_sums]
    sums = [f"s{k} += {loop.addend(term)};" for k, term in zip(places, part.raw_sums, strict=True)]
    stores = [
        f"{of.get(name, name)}[i] = {loop.of_node(node, FLOAT)};"
        for name, node in part.written.items()
        if node.op != "field" or node.args[0] not in (name, "." + name)
    ]
    signature = f"void {name}(int64_t n, float *x, const float *g, float *const *b, const double *c, double *sum)"
    return loop.printed(signature, [*sums, *stores], places, hot=hot)


def _trial(name: str, part: StepPath, of: Mapping[str, str], coefficients: Sequence[str]) -> str:
    loop = _Loop(of, coefficients)
    held = [
        f"(fabsf({loop.of_node(node, FLOAT)}) <= limit[{0 if name == 'x' else 1 + int(of[name][1:])}])"
        for name, node in part.tried.items()
    ]
    held += [f"(fabsf({loop.of_node(node, FLOAT)}) <= root)" for node in part.squared]
    given = (
        "int64_t n, const float *x, const float *g, float *const *b, const double *c, const float *limit, uint8_t *fit"
    )
    return loop.printed(f"void {name}({given})", [f"fit[i] = (uint8_t)({' & '.join(held) or '1'});"], hot=False)


def _loudness(name: str, step: StepPath, of: Mapping[str, str], coefficients: Sequence[str]) -> str:
    """A loop for each, so that few streams of memory begin at once."""
    loops = []
    for node in step.multiplied:
        loop = _Loop(of, coefficients)
        loud = [f"loud |= !({_is_quiet(loop, node)});"]
        loops.append(loop.printed("", loud).replace("SIMD(omp simd)", "SIMD(omp simd reduction(| : loud))"))
    parts = [part.removeprefix("CLONES static  ") for part in loops]
    lines = ["int32_t loud = 0;", *(line for part in parts for line in part.splitlines()), "return loud;"]
    signature = f"int {name}(int64_t n, const float *x, float *const *b, const double *c, float safe)"
    return f"CLONES static {signature} {{\n" + "".join(f"  {line}\n" for line in lines) + "}\n"


def _is_quiet(loop: _Loop, node: Node) -> str:
    """Whether a node is at most `safe`; of a quotient a/b times a coefficient without the division: a·k < safe·b."""
    quotient, factor = node, ""
    if node.op == "mul" and node.args[0].op == "div" and node.args[1].kind == NUMBER:
        quotient, factor = node.args[0], f" * fabsf({loop.of_node(node.args[1], FLOAT)})"
    if quotient.op != "div" or FLOAT not in {arg.kind for arg in quotient.args[1:]}:
        return f"fabsf({loop.of_node(node, FLOAT)}) <= safe"
    above, below = (loop.of_node(arg, FLOAT) for arg in quotient)
    return f"fabsf({above}){factor} < safe * fabsf({below})"


def _measure(name: str, path: Path, of: Mapping[str, str], coefficients: Sequence[str], g: str) -> str:
    """g: the dtype of gradients."""
    loop = _Loop(of, coefficients, DOUBLE, ("g",) if g == DOUBLE else ())
    sums = [f"s{k} += {loop.addend(term)};" for k, term in enumerate(path.raw_sums)]
    signature = f"void {name}(int64_t n, const float *x, const {g} *g, float *const *b, const double *c, double *sum)"
    return loop.printed(signature, sums, range(len(sums)))


def _expression(op: str, args: Sequence[str], kind: str) -> str:
    if op in INFIX:
        return f"({args[0]} {INFIX[op]} {args[1]})"
    suffix = "f" if kind == FLOAT else ""
    if op == "neg":
        return f"(-{args[0]})"
    if op == "not":
        return f"(!{args[0]})"
    if op == "sqrt":
        return f"sqrt{suffix}({args[0]})"
    if op == "abs":
        return f"fabs{suffix}({args[0]})"
    if op == "sign":
        return f"({args[0]} > 0 ? {_literal(1, kind)} : {args[0]} < 0 ? {_literal(-1, kind)} : {_literal(0, kind)})"
    if op in ("max", "min"):
        return (
            f"(({args[0]} {'>' if op == 'max' else '<'} {args[1]} || {args[0]} != {args[0]}) ? {args[0]} : {args[1]})"
        )
    if op == "select":
        return f"({args[0]} ? {args[1]} : {args[2]})"
    if op == "pow":
        return f"pow({args[0]}, {args[1]})"
    raise KeyError(op)


def _literal(value: float, kind: str) -> str:
    if math.isnan(value):
        return "NAN"
    if math.isinf(value):
        return "INFINITY" if value > 0 else "(-INFINITY)"
    if kind == FLOAT:
        largest = torch.finfo(torch.float32).max
        value = float(torch.tensor(min(max(value, -largest), largest), dtype=torch.float32))
    text = (repr(value) if value == int(value) and abs(value) < 1e6 else value.hex()) + ("f" if kind == FLOAT else "")
    return f"({text})" if value < 0 else text
