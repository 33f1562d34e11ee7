"""What kernels are made of: everything that a step does with one element of a method, as graphs."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from ..methods.base import Coefficients, Method
from .traced import AT_SLICE, DOUBLE, FLOAT, Node, Recorder, UntraceableError, leaves, paths, value_of
from .traced_tensors import CUT, Elements, Scalar, Sums

Terms = tuple[Mapping[Node, Node], ...]  # of each sum: what the raw sums are multiplied by, to be added up


@dataclass(frozen=True)
class Path:
    """One way through the code. guards: what holds of the coefficients then. terms: of the sums that it returns."""

    guards: tuple[tuple[Node, bool], ...]
    terms: Terms

    @property
    def raw_sums(self) -> list[Node]:
        """What is added up over all elements."""
        return list(dict.fromkeys(term for terms in self.terms for term in terms))

    def is_taken(self, given: Coefficients) -> bool:
        """Whether these coefficients lead this way."""
        return all(bool(value_of(condition, given)) is answer for condition, answer in self.guards)

    def scalars(self) -> list[Node]:
        """What is computed of coefficients for all tensors at once: guards and factors."""
        return [*(condition for condition, _ in self.guards), *(f for terms in self.terms for f in terms.values())]


@dataclass(frozen=True)
class StepPath(Path):
    """A way through `update`.

    written: of x ("x") and of the buffers that it writes, what they hold afterwards. tried: all that a trial of a step looks
    at, to see whether memory can hold it: the same, but where x goes on towards a point, that point. squared: whose squares have
    to fit, too. multiplied: what makes a trial necessary where it is large, whatever the gradient is.
    """

    written: Mapping[str, Node]
    tried: Mapping[str, Node]
    squared: tuple[Node, ...]
    multiplied: tuple[Node, ...]

    def split(self, sliced: Collection[str]) -> tuple["StepPath", "StepPath"]:
        """What it does with every entry, and what with those that sliced buffers keep. Raises UntraceableError for a mixture."""
        only = {*(AT_SLICE + name for name in self.at_slice(sliced)), *("." + name for name in sliced)}
        return self._part(only, within=False), self._part(only, within=True)

    def at_slice(self, sliced: Collection[str]) -> list[str]:
        """The names of x, g and the other buffers that it reads at the entries of sliced ones."""
        found = leaves([*self.raw_sums, *self.tried.values(), *self.written.values(), *self.squared], "field")
        names = [name.removeprefix(AT_SLICE) for name in found if name.startswith(AT_SLICE)]
        if any(name.removeprefix(".") in sliced for name in names):
            raise UntraceableError("it takes some entries of a sliced buffer")
        return names

    def _part(self, only: Collection[str], *, within: bool) -> "StepPath":
        def is_here(node: Node) -> bool:
            places = {name in only for name in leaves([node], "field")} or {False}
            if len(places) > 1:
                raise UntraceableError("it computes with entries of sliced buffers and with all others at once")
            return places == {within}

        return replace(
            self,
            terms=tuple({term: factor for term, factor in terms.items() if is_here(term)} for terms in self.terms),
            written={name: node for name, node in self.written.items() if is_here(node)},
            tried={name: node for name, node in self.tried.items() if is_here(node)},
            squared=tuple(filter(is_here, self.squared)),
            multiplied=tuple(filter(is_here, self.multiplied)),
        )


@dataclass(frozen=True)
class Traced:
    """A method as kernels know it, with these buffers and these coefficients.

    fields: the buffers, those that a step never writes last; read_only: how many these are; sliced: those of which each tensor
    keeps some entries alone. steps, measures: the ways through
    `update` and `measure_before`; no measures where there are none, or no kernel can be made of them.
    """

    fields: tuple[str, ...]
    read_only: int
    sliced: tuple[str, ...]
    steps: tuple[StepPath, ...]
    measures: tuple[Path, ...]


def in_order(method: Method, buffers: Iterable[str]) -> tuple[str, ...]:
    """The buffers in the order of the kernels: those that a step never writes last."""
    return tuple(sorted(buffers, key=lambda name: name in method.read_only))


def traced(method: Method, fields: tuple[str, ...], sliced: tuple[str, ...], given: Coefficients) -> Traced:
    """Trace a method.

    fields: buffers, `in_order`. sliced: those of which a tensor keeps some entries alone. given: of each coefficient None, or
    what it is; a number stands for any number. Raises UntraceableError, or whatever a method raises that cannot work with
    stand-ins.
    """
    read_only = sum(name in method.read_only for name in fields)
    steps = paths(FLOAT, lambda r: _step(r, method, fields, sliced, given))
    for step in steps:
        step.split(sliced)
    measures = () if sliced else _measures(method, fields, given)
    return Traced(fields, read_only, sliced, steps, measures)


def _coefficients(recorder: Recorder, given: Coefficients) -> dict[str, Any]:
    return {
        name: Scalar(recorder, recorder.coefficient(name)) if is_number(value) else value
        for name, value in given.items()
    }


def is_number(value: Any) -> bool:
    """Whether a coefficient is one number, which may be another in each step."""
    return type(value) in (int, float) or (isinstance(value, Tensor) and value.dim() == 0)


def _tensors(recorder: Recorder, fields: Sequence[str]) -> tuple[Elements, Elements, dict[str, Elements]]:
    x, g, *buffers = (Elements(recorder, recorder.field(name)) for name in ("x", "g", *("." + name for name in fields)))
    return x, g, dict(zip(fields, buffers, strict=True))


def _step(
    recorder: Recorder, method: Any, fields: Sequence[str], sliced: Sequence[str], given: Coefficients
) -> StepPath:
    c, cut = _coefficients(recorder, given), CUT if sliced else None
    x, g, buf = _tensors(recorder, fields)
    sums = _terms(method.update(x, g, buf, c, cut))
    written = _written(method, recorder, x, g, buf)
    if method.after is not None and sums:
        method.after.check_terms(len(sums), "update")
    _, _, before = _tensors(recorder, fields)
    x, g, after = _tensors(recorder, fields)
    method.update(x, g, after, {**c, "pull": 1.0} if "pull" in c else c, cut)
    tried = _written(method, recorder, x, g, after)
    squared = tuple(t.node for t in method.squared(g, before, after, c))
    x, _, before = _tensors(recorder, fields)
    multiplied = tuple(t.node for t in method.multiplied(x, before, c))
    guards = tuple(recorder.decisions[: recorder.asked])
    return StepPath(guards, sums, written, tried, squared, multiplied)


def _written(method: Method, recorder: Recorder, x: Elements, g: Elements, buf: dict[str, Elements]) -> dict[str, Node]:
    """What x and the buffers hold after an update. Raises UntraceableError where it wrote what it may only read."""
    for name, t in (("g", g), *(("." + name, t) for name, t in buf.items() if name in method.read_only)):
        if t.node is not recorder.field(name):
            raise UntraceableError(f"its update writes {name.removeprefix('.')}, which it may only read")
    return {"x": x.node, **{name: t.node for name, t in buf.items() if name not in method.read_only}}


def _measures(method: Method, fields: Sequence[str], given: Coefficients) -> tuple[Path, ...]:
    if method.before is None:
        return ()
    try:
        return paths(DOUBLE, lambda r: _measure(r, method, fields, given))
    except Exception:  # noqa: BLE001 - whatever it is: plain operations measure then
        return ()


def _measure(recorder: Recorder, method: Any, fields: Sequence[str], given: Coefficients) -> Path:
    x, g, buf = _tensors(recorder, fields)
    terms = _terms(method.measure_before(x, g, buf, _coefficients(recorder, given)))
    method.before.check_terms(len(terms), "measure_before")
    if any(
        t.node is not recorder.field(name) for name, t in (("x", x), ("g", g), *(("." + n, t) for n, t in buf.items()))
    ):
        raise UntraceableError("its measure_before writes")
    return Path(tuple(recorder.decisions[: recorder.asked]), terms)


def _terms(returned: Any) -> Terms:
    """The terms of the sums that a phase returned."""
    if not all(isinstance(sums, Sums) for sums in returned):
        raise UntraceableError("it returns what is no sum over elements")
    return tuple(sums.terms for sums in returned)


def touched(
    method: Method, fields: tuple[str, ...], given: Coefficients
) -> tuple[tuple[frozenset[str], frozenset[str]], ...]:
    """What (the sums before a step, a step) read, with "x" and "." before the names of buffers, and what they write.

    given: the coefficients, which choose the way through the code. Where it cannot be recorded, all is read and written.
    """
    everything = frozenset(("x", "g", *("." + name for name in fields)))
    try:
        found = traced(method, fields, (), given)
    except Exception:  # noqa: BLE001 - methods are anybody's, and not written for stand-ins
        writes = frozenset(("x", *(name for name in fields if name not in method.read_only)))
        return (everything, frozenset()), (everything, writes)
    step = next(step for step in found.steps if step.is_taken(given))
    changed = {
        name: node
        for name, node in step.written.items()
        if node.op != "field" or node.args[0] not in (name, "." + name)
    }
    measure = next((path for path in found.measures if path.is_taken(given)), None)
    read = everything if measure is None else frozenset(leaves(measure.raw_sums, "field"))
    return (read, frozenset()), (frozenset(leaves([*changed.values(), *step.raw_sums], "field")), frozenset(changed))
