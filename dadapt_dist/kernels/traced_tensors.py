"""Stand-ins for tensors, coefficients and sums, which record what they are asked to do."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from .traced import (
    AT_SLICE,
    COMPARISONS,
    DOUBLE,
    FLOAT,
    MASK,
    NUMBER,
    SUM,
    TRUTH,
    Node,
    Recorder,
    UntraceableError,
)
from .traced_operations import OPERATIONS, Stand, as_elements, as_node

KINDS = {torch.float32: FLOAT, torch.float64: DOUBLE, torch.bool: MASK}
REAL = {kind: dtype for dtype, kind in KINDS.items()}
CUT: Any = object()
"""Stands for which entries sliced buffers keep, where `update` gets a slice."""


class Standing(Stand):
    """What all stand-ins share: torch's functions come here, whichever of their arguments is one."""

    __torch_dispatch__ = None  # `ops.scratch` asks: no memory is kept for what is no tensor

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return call(func.__name__, args, kwargs or {})

    def __bool__(self) -> bool:
        raise UntraceableError("it branches on values of tensors")

    def __float__(self) -> float:
        raise UntraceableError("it asks for the value of a tensor or coefficient")

    __int__ = __index__ = __len__ = __iter__ = __float__

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name not in OF_MEMORY and name.removesuffix("_") not in OPERATIONS:  # what it is may decide on a branch
            raise UntraceableError(f"it uses {name}, which no kernel is made of")
        return lambda *args, **kwargs: call(name, (self, *args), kwargs)


def _operator(name: str, *, swapped: bool = False) -> Any:
    def apply(self: Any, *others: Any) -> Any:
        return call(name, (*others, self) if swapped else (self, *others), {})

    return apply


for _name, _op in {
    "add": "add",
    "sub": "sub",
    "mul": "mul",
    "truediv": "div",
    "and": "logical_and",
    "or": "logical_or",
}.items():
    setattr(Standing, f"__{_name}__", _operator(_op))
    setattr(Standing, f"__r{_name}__", _operator(_op, swapped=True))
for _name in COMPARISONS:
    setattr(Standing, f"__{_name}__", _operator(_name))
for _name, _op in {"neg": "neg", "abs": "abs", "pow": "pow", "invert": "logical_not"}.items():
    setattr(Standing, f"__{_name}__", _operator(_op))
Standing.__hash__ = object.__hash__  # type: ignore[method-assign]


class Scalar(Standing):
    """The stand-in of a coefficient, and of what is computed of coefficients alone."""

    def __init__(self, recorder: Recorder, node: Node) -> None:
        self.recorder, self.node = recorder, node

    def __bool__(self) -> bool:
        condition = (
            self.node if self.node.kind == TRUTH else self.recorder.node("ne", self.node, self.recorder.number(0))
        )
        return self.recorder.decide(condition)


class Elements(Standing):
    """The stand-in of a tensor: of memory, which holds another node after an operation in place. None: nothing yet."""

    device, layout = torch.device("cpu"), torch.strided
    is_cpu, is_cuda, is_sparse, requires_grad = True, False, False, False

    def __init__(self, recorder: Recorder, node: Node | None, kind: str | None = None) -> None:
        self.recorder, self._node = recorder, node
        self.kind = kind or (node.kind if node is not None else recorder.real)

    @property
    def node(self) -> Node:
        if self._node is None:
            raise UntraceableError("it reads memory that nothing was written to")
        return self._node

    @property
    def dtype(self) -> torch.dtype:
        return REAL[self.kind]

    def __getitem__(self, which: Any) -> "Elements":
        """The entries of a tensor that sliced buffers keep, as they are before the step."""
        if which is not CUT:
            raise UntraceableError("it takes some entries of a tensor")
        return Entries(self)

    def write(self, node: Node) -> "Elements":
        """Take other values, in the dtype that it has."""
        self._node = as_elements(self.recorder, node, self.kind)
        return self


class Entries(Elements):
    """The stand-in of a view of some entries: read for as long as nothing is written to the tensor."""

    def __init__(self, of: Elements) -> None:
        super().__init__(of.recorder, None, of.kind)
        self.of = of

    @property
    def node(self) -> Node:
        node = self.of.node
        if node.op != "field" or node.args[0].startswith(AT_SLICE):
            raise UntraceableError("it takes some entries of what a step writes")
        return self.recorder.field(AT_SLICE + node.args[0])

    def write(self, node: Node) -> "Elements":
        raise UntraceableError("it writes to some entries of a tensor")


for _name, _op in {"iadd": "add_", "isub": "sub_", "imul": "mul_", "itruediv": "div_"}.items():
    setattr(Elements, f"__{_name}__", _operator(_op))


class Sums(Standing):
    """The stand-in of a sum over all elements, times coefficients: terms that add up."""

    has_node = False

    dtype, device = torch.float64, torch.device("cpu")

    def __init__(self, recorder: Recorder, terms: Mapping[Node, Node]) -> None:
        self.recorder, self.terms = recorder, dict(terms)


def call(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Record the operation of this name: a function of torch, a method of a tensor, or an operator."""
    recorder = next(arg.recorder for arg in (*args, *kwargs.values()) if isinstance(arg, Stand))
    if any(isinstance(arg, Sums) for arg in args):
        return _of_sums(recorder, name, args)
    if name in OF_MEMORY:
        return OF_MEMORY[name](recorder, *args, **kwargs)
    in_place = name.endswith("_")
    operation = OPERATIONS.get(name.removesuffix("_"))
    if operation is None:
        raise UntraceableError(f"it uses {name}, which no kernel is made of")
    out = args[0] if in_place else kwargs.pop("out", None)
    node = operation(recorder, *args, **kwargs)
    if out is not None:
        if not isinstance(out, Elements):
            raise UntraceableError(f"it writes to {type(out).__name__} with {name}")
        return out.write(node)
    return Scalar(recorder, node) if node.kind in (NUMBER, TRUTH) else Elements(recorder, node)


# ---------------------------------------------------------------- sums


def _summed(recorder: Recorder, t: Any, dtype: torch.dtype | None = None) -> Sums:
    wide = as_elements(recorder, as_node(recorder, t), DOUBLE)
    return Sums(recorder, {recorder.node("sum", wide, kind=SUM): recorder.number(1)})


def _of_sums(recorder: Recorder, name: str, args: tuple[Any, ...]) -> Sums:
    """Sums stay sums when they are added up or multiplied by coefficients, and by nothing else."""
    sums = [arg for arg in args if isinstance(arg, Sums)]
    if name in ("add", "sub") and len(sums) == len(args) == 2:
        minus = _scaled(recorder, sums[1], recorder.number(-1 if name == "sub" else 1))
        joined = dict(sums[0].terms)
        for term, factor in minus.terms.items():
            joined[term] = recorder.node("add", joined[term], factor) if term in joined else factor
        return Sums(recorder, joined)
    if name == "zeros_like":
        return Sums(recorder, {})
    if name in ("to", "double", "clone", "squeeze"):
        return sums[0]
    if name == "neg":
        return _scaled(recorder, sums[0], recorder.number(-1))
    if len(args) == 2 and len(sums) == 1 and (name == "mul" or (name == "div" and args[0] is sums[0])):
        factor = as_node(recorder, args[1] if args[0] is sums[0] else args[0])
        if factor.kind == NUMBER:
            return _scaled(recorder, sums[0], factor, name)
    raise UntraceableError(f"it computes with sums ({name}) before they are those of all tensors")


def _scaled(recorder: Recorder, sums: Sums, factor: Node, name: str = "mul") -> Sums:
    one = recorder.number(1)
    terms = {
        term: factor if before is one and name == "mul" else recorder.node(name, before, factor)
        for term, before in sums.terms.items()
    }
    return Sums(recorder, terms)


# ---------------------------------------------------------------- memory


def _new(recorder: Recorder, like: Elements, value: Any, dtype: torch.dtype | None) -> Elements:
    kind = like.kind if dtype is None else _kind(dtype)
    node = None if value is None else as_elements(recorder, as_node(recorder, value), kind)
    return Elements(recorder, node, kind)


def _kind(dtype: Any) -> str:
    if dtype not in KINDS:
        raise UntraceableError(f"it makes elements of {dtype}")
    return KINDS[dtype]


def _converted(recorder: Recorder, t: Any, dtype: Any = None, **kwargs: Any) -> Any:
    if isinstance(t, Scalar):
        return Scalar(recorder, t.node if t.node.kind == NUMBER else as_elements(recorder, t.node, NUMBER))
    kind = t.kind if isinstance(dtype, torch.device) or dtype is None else _kind(dtype)
    return t if kind == t.kind else Elements(recorder, as_elements(recorder, t.node, kind))


def _set(recorder: Recorder, t: Elements, value: Any) -> Elements:
    return t.write(as_node(recorder, value))


def _same_memory(recorder: Recorder, t: Any, *shape: Any) -> Any:
    if shape not in ((), (-1,)):
        raise UntraceableError("it depends on the shape of tensors")
    return t


OF_MEMORY: dict[str, Callable[..., Any]] = {
    "sum": _summed,
    "empty_like": lambda r, t, dtype=None: _new(r, t, None, dtype),
    "zeros_like": lambda r, t, dtype=None: _new(r, t, 0.0, dtype),
    "ones_like": lambda r, t, dtype=None: _new(r, t, 1.0, dtype),
    "full_like": lambda r, t, fill_value, dtype=None: _new(r, t, fill_value, dtype),
    "clone": lambda r, t: Elements(r, t.node),
    "to": _converted,
    "double": lambda r, t: _converted(r, t, torch.float64),
    "float": lambda r, t: _converted(r, t, torch.float32),
    "copy_": _set,
    "fill_": _set,
    "zero_": lambda r, t: _set(r, t, 0.0),
    "detach": _same_memory,
    "contiguous": _same_memory,
    "flatten": _same_memory,
    "reshape": _same_memory,
    "view": _same_memory,
}
