"""Print the nodes of a graph as Triton statements: those of a block's elements, and what is computed of coefficients alone."""

import math
from collections.abc import Callable, Sequence

import torch

from .traced import DOUBLE, FLOAT, INFIX, MASK, NUMBER, TRUTH, Node, UntraceableError, names_in, value_of
from .traced_method import Traced

TYPES = {FLOAT: "tl.float32", DOUBLE: "tl.float64"}


class Scalars:
    """What is computed of coefficients, once a program. names: of all that blocks are given."""

    def __init__(self, coefficients: Sequence[str]) -> None:
        self.coefficients = coefficients
        self._found: dict[str, str] = {}

    @property
    def names(self) -> list[str]:
        return [*self._found.values()]

    @property
    def lines(self) -> list[str]:
        return [f"{name} = {text}" for text, name in self._found.items()]

    def name(self, node: Node, kind: str) -> str:
        """An expression for a node where an operand of this kind is wanted."""
        if not names_in([node]):
            return _literal(value_of(node, {}), kind)
        text = self.text(node)
        text = f"within({text})" if kind == FLOAT and node.kind != TRUTH else text
        return self._found.setdefault(text, f"k{len(self._found)}")

    def text(self, node: Node) -> str:
        """An expression in float64."""
        if not names_in([node]):
            return _literal(value_of(node, {}), DOUBLE)
        if node.op == "coefficient":
            return f"c{self.coefficients.index(node.args[0])}"
        return _expression(node.op, [self.text(arg) for arg in node], DOUBLE, bare=node.kind == NUMBER)


class Body:
    """The statements of one function, each node once."""

    def __init__(self, traced: Traced, scalars: Scalars) -> None:
        self.of = {"x": "x", "g": "g"} | {f".{name}": f"b{place}" for place, name in enumerate(traced.fields)}
        self.scalars = scalars
        self.lines = ["zero = tl.zeros_like(g)"]
        self._names: dict[Node, str] = {}

    def of_node(self, node: Node, kind: str) -> str:
        if node.kind in (NUMBER, TRUTH):
            return self.scalars.name(node, kind)
        found = self._names.get(node)
        if found is None:
            found = self._expression(node)
            if node.op != "field":
                self.lines.append(f"v{len(self.lines)} = {found}")
                found = f"v{len(self.lines) - 1}"
            self._names[node] = found
        return found

    def _expression(self, node: Node) -> str:
        if node.op == "field":
            return self.of[node.args[0]]
        if node.op == "as":
            return self._as_elements(node.args[0], node.kind)
        kinds = {arg.kind for arg in node if arg.kind in TYPES}
        kind = node.kind if node.kind != MASK else DOUBLE if DOUBLE in kinds else FLOAT
        args = [self.of_node(arg, kind) for arg in node]
        if node.op == "div" and kind == FLOAT:  # of blocks alone
            args = [text if arg.kind == FLOAT else f"({text} + zero)" for arg, text in zip(node, args, strict=True)]
        return _expression(node.op, args, kind, bare=not kinds)

    def _as_elements(self, node: Node, kind: str) -> str:
        if kind not in TYPES:
            raise UntraceableError(f"it makes elements of {kind}")
        text = self.of_node(node, kind)
        return f"({text} + zero).to({TYPES[kind]})" if node.kind == NUMBER else f"{text}.to({TYPES[kind]})"

    def addend(self, term: Node, *, narrow: bool = False) -> str:
        """What one element adds to a raw sum: float64, or with `narrow` float32. A product is not rounded before."""
        (value,) = term
        inner = value.args[0] if value.op == "as" else value
        if narrow:
            return self.of_node(inner, FLOAT)
        if value.op == "as" and inner.op == "mul" and inner.kind == FLOAT:  # exact in float64
            factors = [self.of_node(arg, FLOAT) for arg in inner]
            return " * ".join(text if _is_literal(text) else f"{text}.to(tl.float64)" for text in factors)
        return self.of_node(value, DOUBLE)


def _expression(op: str, args: Sequence[str], kind: str, *, bare: bool) -> str:
    """bare: all arguments may be python's numbers, which say nothing of the kind."""
    if op == "div" and kind == FLOAT:
        return f"tl.div_rn({args[0]}, {args[1]})"
    if op in INFIX:
        return f"({args[0]} {INFIX[op]} {args[1]})"
    as_kind = f".to({TYPES[kind]})" if bare else ""
    made: dict[str, Callable[..., str]] = {
        "neg": lambda a: f"({a} * -1.0)",  # triton's -a is 0 - a, which has no -0
        "not": lambda a: f"({a} == 0)",
        "sqrt": lambda a: f"tl.sqrt_rn({a})" if kind == FLOAT else f"tl.sqrt({a})",
        "abs": lambda a: f"tl.abs({a})",
        "sign": lambda a: f"tl.where({a} > 0, 1.0, tl.where({a} < 0, -1.0, 0.0)).to({TYPES[kind]})",
        "max": lambda a, b: f"tl.where(({a} > {b}) | ({a} != {a}), {a}, {b}){as_kind}",
        "min": lambda a, b: f"tl.where(({a} < {b}) | ({a} != {a}), {a}, {b}){as_kind}",
        "select": lambda test, a, b: f"tl.where({test}, {a}, {b}){as_kind}",
    }
    if op not in made:
        raise UntraceableError(f"it uses {op} of coefficients")
    return made[op](*args)


def _literal(value: float, kind: str) -> str:
    if isinstance(value, bool):
        return str(value)
    if math.isnan(value) or math.isinf(value):
        return f'float("{value}")'
    if kind == FLOAT:
        largest = torch.finfo(torch.float32).max
        value = float(torch.tensor(min(max(value, -largest), largest), dtype=torch.float32))
    return f"({value!r})" if value < 0 else repr(float(value))


def _is_literal(text: str) -> bool:
    return not text[0].isalpha() or text.startswith("float(")
