"""torch's elementwise operations as nodes of a graph: those that methods use, with torch's order of roundings."""

from collections.abc import Callable
from typing import Any

from .traced import COMPARISONS, DOUBLE, FLOAT, MASK, NUMBER, TRUTH, Node, Recorder, UntraceableError


class Stand:
    """What stands for a tensor or a coefficient has a node; sums have none."""

    recorder: Recorder
    has_node = True


def as_node(recorder: Recorder, value: Any) -> Node:
    """The node of an operand."""
    if isinstance(value, Stand) and value.has_node:
        node: Node = value.node  # type: ignore[attr-defined]
        return node
    if isinstance(value, (int, float)):  # a tensor from elsewhere may be another in the next step
        return recorder.number(value)
    raise UntraceableError(f"it computes with {type(value).__name__}")


def as_elements(recorder: Recorder, node: Node, kind: str) -> Node:
    """The node as elements of a dtype."""
    if node.kind in (MASK, TRUTH) and kind != MASK:
        node = recorder.node(
            "select", node, recorder.number(1), recorder.number(0), kind=kind if node.kind == MASK else NUMBER
        )
    return node if node.kind == kind else recorder.node("as", node, kind=kind)


def _binary(op: str) -> Callable[..., Node]:
    def apply(recorder: Recorder, a: Any, b: Any) -> Node:
        return _of_numbers(recorder, op, a, b)

    return apply


def _of_numbers(recorder: Recorder, op: str, *values: Any) -> Node:
    """The operation on numbers: whether something holds counts as 1 or 0."""
    nodes = [as_node(recorder, value) if not isinstance(value, Node) else value for value in values]
    return recorder.node(
        op, *(as_elements(recorder, n, _real(recorder, n)) if n.kind in (MASK, TRUTH) else n for n in nodes)
    )


def _real(recorder: Recorder, node: Node) -> str:
    return recorder.real if node.kind == MASK else NUMBER


def _added(recorder: Recorder, op: str, a: Any, b: Any, factor: Any) -> Node:
    """a + factor·b, or a - factor·b."""
    if isinstance(factor, (int, float)) and abs(factor) == 1:
        return _of_numbers(recorder, op if factor == 1 else {"add": "sub", "sub": "add"}[op], a, b)
    return _of_numbers(recorder, op, a, _of_numbers(recorder, "mul", factor, b))


def _add_product(recorder: Recorder, t: Any, a: Any, b: Any, *, value: Any = 1) -> Node:
    return _added(recorder, "add", t, _of_numbers(recorder, "mul", a, b), value)


def _add_ratio(recorder: Recorder, t: Any, a: Any, b: Any, *, value: Any = 1) -> Node:
    if isinstance(value, (int, float)) and abs(value) == 1:
        return _added(recorder, "add", t, _of_numbers(recorder, "div", a, b), value)
    return _of_numbers(recorder, "add", t, _of_numbers(recorder, "div", _of_numbers(recorder, "mul", value, a), b))


def _clamped(recorder: Recorder, t: Any, *bounds: Any, **named: Any) -> Node:
    """NaN stays NaN."""
    lowest, highest = (*bounds, None, None)[:2]
    node = as_node(recorder, t)
    for bound, op in ((named.get("min", lowest), "lt"), (named.get("max", highest), "gt")):
        if bound is not None:
            limit = as_node(recorder, bound)
            node = recorder.node("select", recorder.node(op, node, limit), limit, node, kind=node.kind)
    return node


def _interpolated(recorder: Recorder, a: Any, b: Any, weight: Any) -> Node:
    """As torch computes it: from the nearer end."""
    weight = as_node(recorder, weight)
    way = _of_numbers(recorder, "sub", b, a)
    near = _of_numbers(recorder, "lt", recorder.node("abs", weight), 0.5)
    rest = _of_numbers(recorder, "sub", 1.0, weight)
    from_a = _of_numbers(recorder, "add", a, recorder.node("mul", weight, way))
    from_b = _of_numbers(recorder, "sub", b, recorder.node("mul", way, rest))
    return recorder.node("select", near, from_a, from_b, kind=from_a.kind)


def _power(recorder: Recorder, a: Any, exponent: Any) -> Node:
    node = as_node(recorder, a)
    if exponent == 2 and not isinstance(exponent, Stand):
        return recorder.node("mul", node, node)
    if node.kind == NUMBER and isinstance(exponent, (int, float)):
        return recorder.node("pow", node, recorder.number(exponent))
    raise UntraceableError("it takes a power other than the second")


def _chosen(recorder: Recorder, condition: Any, a: Any, b: Any) -> Node:
    nodes = [as_node(recorder, value) for value in (a, b)]
    kinds = {node.kind for node in nodes} - {NUMBER, TRUTH}
    test = as_node(recorder, condition)
    if test.kind not in (MASK, TRUTH):
        raise UntraceableError("its torch.where has a condition that is none")
    if not kinds:
        return recorder.node("select", test, *nodes, kind=NUMBER if test.kind == TRUTH else recorder.real)
    kind = DOUBLE if DOUBLE in kinds else FLOAT
    return recorder.node(
        "select", test, *(n if n.kind == NUMBER else as_elements(recorder, n, kind) for n in nodes), kind=kind
    )


def _is_nan(recorder: Recorder, t: Any) -> Node:
    node = as_node(recorder, t)
    return recorder.node("ne", node, node)


def _is_finite(recorder: Recorder, t: Any) -> Node:
    node = as_node(recorder, t)
    return recorder.node("lt", recorder.node("abs", node), recorder.number(float("inf")))


def _logical(op: str) -> Callable[..., Node]:
    def apply(recorder: Recorder, *values: Any) -> Node:
        nodes = [as_node(recorder, value) for value in values]
        if any(node.kind not in (MASK, TRUTH) for node in nodes):
            raise UntraceableError(f"it takes {op} of numbers")
        return recorder.node(op, *nodes)

    return apply


def _inverse(recorder: Recorder, t: Any) -> Node:
    return _of_numbers(recorder, "div", 1.0, t)


OPERATIONS: dict[str, Callable[..., Node]] = {
    "add": lambda r, a, b, *, alpha=1: _added(r, "add", a, b, alpha),
    "sub": lambda r, a, b, *, alpha=1: _added(r, "sub", a, b, alpha),
    "rsub": lambda r, a, b: _of_numbers(r, "sub", b, a),
    "mul": _binary("mul"),
    "div": _binary("div"),
    "maximum": _binary("max"),
    "minimum": _binary("min"),
    **{name: _binary(name) for name in COMPARISONS},
    "neg": lambda r, t: _of_numbers(r, "neg", t),
    "abs": lambda r, t: _of_numbers(r, "abs", t),
    "sqrt": lambda r, t: _of_numbers(r, "sqrt", t),
    "sign": lambda r, t: _of_numbers(r, "sign", t),
    "square": lambda r, t: _of_numbers(r, "mul", t, t),
    "reciprocal": _inverse,
    "rsqrt": lambda r, t: _inverse(r, _of_numbers(r, "sqrt", t)),
    "pow": _power,
    "addcmul": _add_product,
    "addcdiv": _add_ratio,
    "lerp": _interpolated,
    "clamp": _clamped,
    "clamp_min": lambda r, t, *bound, **named: _clamped(r, t, *bound, **named),
    "clamp_max": lambda r, t, *bound, **named: _clamped(r, t, None, *bound, **named),
    "where": _chosen,
    "isnan": _is_nan,
    "isfinite": _is_finite,
    "logical_and": _logical("and"),
    "logical_or": _logical("or"),
    "logical_not": _logical("not"),
}
for _long, _short in {
    "multiply": "mul",
    "divide": "div",
    "subtract": "sub",
    "absolute": "abs",
    "negative": "neg",
}.items():
    OPERATIONS[_long] = OPERATIONS[_short]
for _operator, _name in {"__and__": "logical_and", "__or__": "logical_or", "bitwise_not": "logical_not"}.items():
    OPERATIONS[_operator] = OPERATIONS[_name]
