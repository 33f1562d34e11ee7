"""Record what a method does with one element, from its own plain torch code: the one description that kernels are made of.

`update` and the other elementwise functions of a method run once on stand-ins for tensors and coefficients. What these are asked
to do becomes a graph of `Node`s: nothing is computed. An operation in place gives its stand-in another node, so that the graph
itself knows no order. Where the code branches on a coefficient, `paths` runs it again with the other answer. What cannot be
recorded (a branch on elements, an operation that `traced_operations` and `traced_tensors` do not know) raises
UntraceableError, and the plain loop does the work.
"""

import math
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")
FLOAT, DOUBLE, MASK = "float", "double", "mask"  # of every element
NUMBER, TRUTH = "number", "truth"  # of coefficients alone: float64, and whether something holds of them
SUM = "sum"
MOST_PATHS = 16
AT_SLICE = "at slice: "  # before the name of x, g or a buffer: at the entries that sliced buffers keep
COMPARISONS = {"lt", "le", "gt", "ge", "eq", "ne"}

INFIX = {
    "add": "+",
    "sub": "-",
    "mul": "*",
    "div": "/",
    "lt": "<",
    "le": "<=",
    "gt": ">",
    "ge": ">=",
    "eq": "==",
    "ne": "!=",
}
INFIX |= {"and": "&", "or": "|"}
"""The operators of nodes, in C and in python."""

SCALARS: dict[str, Callable[..., Any]] = {
    **{name: getattr(operator, name) for name in ("add", "sub", "mul", "neg", "abs", "pow", *COMPARISONS)},
    "div": operator.truediv,
    "sqrt": math.sqrt,
    "max": max,
    "min": min,
    "and": operator.and_,
    "or": operator.or_,
    "not": operator.not_,
    "sign": lambda value: (value > 0) - (value < 0),
    "select": lambda condition, a, b: a if condition else b,
}
"""The operations of nodes, on numbers."""


class UntraceableError(Exception):
    """The code does what no kernel can be made of."""


@dataclass(frozen=True, eq=False, slots=True)
class Node:
    """One operation. args: nodes; of a leaf ("field", "coefficient", "number") its name or value. kind: one of the above."""

    op: str
    args: tuple[Any, ...]
    kind: str

    def __iter__(self) -> Iterator["Node"]:
        """The nodes that it is made of."""
        return (arg for arg in self.args if isinstance(arg, Node))


@dataclass
class Recorder:
    """The graph of one run of the code, in which equal nodes are one. real: the dtype of the tensors, FLOAT or DOUBLE.

    decisions: what the code was told of coefficients on which it branches; the first ones are given.
    """

    real: str = FLOAT
    decisions: list[tuple[Node, bool]] = field(default_factory=list)
    nodes: dict[tuple[Any, ...], Node] = field(default_factory=dict)
    asked: int = 0

    def node(self, op: str, *args: Any, kind: str | None = None) -> Node:
        """The node of an operation; unless given, its kind follows from those of its arguments."""
        kind = kind or self._kind(op, args)
        return self.nodes.setdefault((op, kind, *args), Node(op, args, kind))

    def _kind(self, op: str, args: tuple[Node, ...]) -> str:
        kinds = {arg.kind for arg in args}
        of_elements = not kinds <= {NUMBER, TRUTH}
        if op in COMPARISONS or op in ("and", "or", "not"):
            return MASK if of_elements else TRUTH
        if not of_elements:
            return NUMBER
        return DOUBLE if DOUBLE in kinds else FLOAT

    def field(self, name: str) -> Node:
        """What the tensor of this name holds before the step."""
        return self.node("field", name, kind=self.real)

    def coefficient(self, name: str) -> Node:
        return self.node("coefficient", name, kind=NUMBER)

    def number(self, value: float) -> Node:
        return self.node("number", float(value), kind=NUMBER)

    def decide(self, condition: Node) -> bool:
        """What the code is told of a coefficient: the same answer whenever it asks."""
        for known, answer in self.decisions[: self.asked]:
            if known is condition:
                return answer
        if self.asked == len(self.decisions):
            self.decisions.append((condition, False))
        # The graph of another run has other nodes: the code is the same up to here, so it asks for the same.
        answer = self.decisions[self.asked][1]
        self.decisions[self.asked] = condition, answer
        self.asked += 1
        return answer


def paths(real: str, run: Callable[[Recorder], T]) -> tuple[T, ...]:
    """What the code gives for every combination of answers to the questions that it asks of coefficients.

    Combinations with which it cannot be recorded are left out. Raises UntraceableError where there is no other.
    """
    todo: list[list[tuple[Node, bool]]] = [[]]
    found: list[T] = []
    failed: Exception | None = None
    for _ in range(MOST_PATHS):
        given = todo.pop()
        recorder = Recorder(real, list(given))
        try:
            found.append(run(recorder))
        except Exception as error:  # noqa: BLE001 - methods are anybody's, and not written for stand-ins
            failed = error
        for place in range(len(given), recorder.asked):
            condition, answer = recorder.decisions[place]
            todo.append([*recorder.decisions[:place], (condition, not answer)])
        if not todo:
            break
    else:
        raise UntraceableError(f"it branches on coefficients in more than {MOST_PATHS} ways")
    if not found:
        raise UntraceableError(f"{failed}") from failed
    return tuple(found)


def value_of(node: Node, given: Mapping[str, Any]) -> Any:
    """What a node that is made of coefficients alone is for these coefficients: a number, or whether something holds."""
    if node.op == "coefficient":
        return float(given[node.args[0]])
    if node.op == "number":
        return node.args[0]
    return SCALARS[node.op](*(value_of(arg, given) for arg in node))


def names_in(nodes: Iterable[Node]) -> list[str]:
    """The coefficients that nodes are made of."""
    return leaves(nodes, "coefficient")


def leaves(nodes: Iterable[Node], op: str) -> list[str]:
    """The names of the fields or coefficients that nodes are made of, in the order in which they are met."""
    found: dict[str, None] = {}
    seen: set[Node] = set()
    todo = list(nodes)[::-1]
    while todo:
        node = todo.pop()
        if node in seen:
            continue
        seen.add(node)
        if node.op == op:
            found.setdefault(node.args[0])
        todo += [*node][::-1]
    return list(found)
