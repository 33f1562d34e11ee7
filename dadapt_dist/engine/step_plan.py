"""Cache what a step needs of its tensors, for as long as one fingerprint of them holds.

The first step that finds a set of parameters with gradients checks every tensor, chooses its kernel, and keeps the result: a
`StepPlan`. A later step over the same parameters compares their fingerprint and goes on with the plan; kernels keep in it
what they have derived from the addresses. When anything has changed, the tasks that are still the same are used again one by
one, and the others are made and checked anew.
"""

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..kernels import Launch, TensorTask, eager
from ..kernels.memory_checks import span
from ..sharding.shard import LocalShard

Options = tuple[Any, ...]
States = Mapping[Tensor, dict[str, Any]]
Key = tuple[list[int], list[Options]]  # the lot of each group, and the options of each
NOTHING = torch.empty(0)
PLANS = 8
"""Plans that an optimizer keeps: other parameters may be without a gradient in every step, as in GANs and mixtures of experts."""


class PlannedTask:
    """The task of a part of a parameter, with its kernel. place: where its elements live. options: what it was made under.

    fingerprint: None for one that serves a single step.
    """

    __slots__ = ("fingerprint", "kernel", "locals", "options", "p", "place", "state", "task")

    def __init__(self, p: Tensor, task: TensorTask, kernel: Any, place: LocalShard, options: Options) -> None:
        self.p, self.task, self.kernel, self.place, self.options = p, task, kernel, place, options
        self.state: dict[str, Any] = {}
        self.locals: list[Tensor] = []
        self.fingerprint: Fingerprint | None = None

    def keep(self, state: dict[str, Any]) -> None:
        """Let it serve later steps. state: that of its parameter."""
        self.state = state
        self.locals = [] if self.place.is_plain else [*map(self.place.local, (self.p, *state.values()))]
        self.fingerprint = Fingerprint([self])

    def is_local(self) -> bool:
        """Whether the local tensors of a distributed parameter and its buffers are still these."""
        now = map(self.place.local, (self.p, *self.state.values()))
        return all(map(operator.is_, now, self.locals))


class Fingerprint:
    """What the tensors of some tasks were when they were checked: the one rule by which anything cached is used again.

    Unchanged must be the dict of each parameter's state and the buffers in it, the local tensors of distributed ones,
    address and size of storage of x and the buffers, and type, dtype, device, sizes and strides of all, gradients included.
    A gradient may lie elsewhere, if it has as much room and an address that its dtype may have. Addresses alone would not
    do: a storage that was freed may be allocated anew, smaller, in the same place.
    """

    def __init__(self, cached: Sequence[PlannedTask]) -> None:
        gradients = [one.task.g for one in cached]
        self._tensors = [t for one in cached for t in (one.task.x, *one.task.buf.values())]
        self._params, self._states = [one.p for one in cached], [one.state for one in cached]
        self._buffers = _ids(self._states)
        self._distributed = [one for one in cached if one.locals]
        self._addresses, self._sizes = [t.data_ptr for t in self._tensors], [*map(_size_of, self._tensors)]
        self._found, self._bytes = [address() for address in self._addresses], [size() for size in self._sizes]
        self._alike = _compared([*gradients, *self._tensors])
        self._widths = [g.itemsize for g in gradients]
        self._needed = [span(g) * g.itemsize for g in gradients]
        self._odd = [0 if one.kernel is eager else one.task.g.itemsize - 1 for one in cached]
        scale = cached[0].task.scale
        self._scale = None if scale is None else scale.device

    def holds(self, states: States, gradients: Sequence[Tensor], scale: Tensor | None) -> bool:
        """Whether all tensors are what they were, with these gradients and this scale in the place of those of before."""
        if scale is not None and scale.device != self._scale:
            return False
        if (
            not all(map(operator.is_, map(states.get, self._params), self._states))
            or _ids(self._states) != self._buffers
        ):
            return False
        if not all(one.is_local() for one in self._distributed):
            return False
        if [address() for address in self._addresses] != self._found or [size() for size in self._sizes] != self._bytes:
            return False
        if not self._alike(*gradients, *self._tensors):
            return False
        if any(map(operator.and_, [g.data_ptr() for g in gradients], self._odd)):
            return False
        return all(map(operator.ge, map(_room, gradients, self._widths), self._needed))


def _ids(states: Iterable[dict[str, Any]]) -> list[int]:
    return [*map(id, chain.from_iterable(map(dict.values, states)))]


def _room(g: Tensor, width: int) -> int:
    """Bytes from a gradient's first element, of that width, to the end of its storage."""
    return g.untyped_storage().nbytes() - width * int(g.storage_offset())


def _size_of(t: Tensor) -> Callable[[], int]:
    """A function that gives the bytes of the storage. Memory of a GPU, that others may want, is not kept alive for that."""
    return t.untyped_storage().nbytes if t.device.type == "cpu" else lambda: t.untyped_storage().nbytes()


def _compared(tensors: Sequence[Tensor]) -> Callable[..., bool]:
    """A function of as many tensors: whether they have the types, dtypes, devices, sizes and strides that these have now."""
    try:  # what torch.compile guards its code with: one call for all, at the price of one attribute of each
        from torch._C._dynamo.guards import TensorGuards

        sizes: list[Any] = [[*t.shape] for t in tensors]
        strides: list[Any] = [[*t.stride()] for t in tensors]
        check: Callable[..., bool] = TensorGuards(
            *tensors, dynamic_dims_sizes=sizes, dynamic_dims_strides=strides
        ).check
        if check(*tensors):
            return check
    except (ImportError, AttributeError, TypeError, RuntimeError):  # it is no public name: another torch may lack it
        pass
    before = [*map(_looks, tensors)]
    return lambda *now: [*map(_looks, now)] == before


def _looks(t: Tensor) -> tuple[object, ...]:
    strides = t.stride() if t.layout is torch.strided else ()
    return type(t), t.dtype, t.device, t.layout, t.shape, strides, t.is_neg()


class PlannedLot(NamedTuple):
    """The tasks of groups with equal options, and the calls of kernels that run them. group: the place of the first."""

    group: int
    tasks: list[TensorTask]
    launches: list[Launch]


class StepPlan:
    """The tasks of one step over an optimizer's parameters, checked, with the calls of kernels that run them.

    key: the lots of the groups, and their options. new: the parameters whose tasks were made for the present step.
    """

    def __init__(self, lots: list[PlannedLot], key: Key, planned: list[PlannedTask], new: list[Tensor]) -> None:
        self.lots, self.key, self.new = lots, key, new
        self.planned, self._params = planned, [one.p for one in planned]
        self._is_plain = all(one.place.is_plain for one in planned)
        kept = bool(planned) and all(one.fingerprint is not None for one in planned)
        self._fingerprint = Fingerprint(planned) if kept else None

    @property
    def is_kept(self) -> bool:
        """Whether it may serve later steps."""
        return self._fingerprint is not None

    def drop_gradients(self) -> None:
        """Let go of the gradients, whose memory is the user's to free."""
        for one in self.planned:
            one.task.g = NOTHING

    def serves(self, key: Key, params: list[Tensor]) -> bool:
        """Whether it was made for these parameters and options."""
        return key == self.key and len(params) == len(self._params) and all(map(operator.is_, params, self._params))

    def gradients(self) -> list[Tensor | None]:
        """The present local gradients. Distributed ones may be redistributed here, by all ranks: to be asked for once a step."""
        if self._is_plain:
            return [p.grad for p in self._params]
        return [one.place.gradient(one.p) for one in self.planned]

    def reuse(self, gradients: Sequence[Tensor | None], states: States, scale: Tensor | None) -> bool:
        """Take the gradients of another step; False, with nothing taken, when a tensor is no longer what it was."""
        present = [g for g in gradients if g is not None]
        if len(present) < len(gradients) or self._fingerprint is None:
            return False
        if not self._fingerprint.holds(states, present, scale):
            return False
        for one, g in zip(self.planned, present, strict=True):
            one.task.g, one.task.scale = g, scale
        self.new = []
        return True


class PlanCache:
    """The plans and tasks of the steps before, of one optimizer."""

    def __init__(self) -> None:
        self._plans: list[StepPlan] = []  # the last used comes last
        self._tasks: dict[int, PlannedTask] = {}  # by id of the parameter
        self._options: list[Options] = []
        self._options_for: tuple[Any, ...] = ()
        self._gradients: dict[int, Tensor | None] = {}  # those of this step, by id of the parameter

    def options(self, version: tuple[Any, ...], made: Callable[[], list[Options]]) -> list[Options]:
        """The options of each group on which tasks depend. version: equal as long as they are; made: gives them anew."""
        if version != self._options_for:
            self._options, self._options_for = made(), version
            known = {*self._options}
            self._tasks = {key: one for key, one in self._tasks.items() if one.options in known}
            self._plans = [plan for plan in self._plans if known.issuperset(plan.key[1])]
        return self._options

    def plan(self, key: Key, params: list[Tensor], states: States, scale: Tensor | None) -> StepPlan | None:
        """The plan of an earlier step over the same parameters, with their present gradients, if its fingerprint holds."""
        self._gradients = {}
        for plan in reversed(self._plans):
            if not plan.serves(key, params):
                continue
            gradients = plan.gradients()
            self._plans.remove(plan)
            if plan.reuse(gradients, states, scale):
                self._plans.append(plan)
                return plan
            self._gradients = dict(zip(map(id, params), gradients, strict=True))
            break
        return None

    def task(self, p: Tensor, options: Options, states: States, scale: Tensor | None) -> PlannedTask | None:
        """The cached task of a parameter, with its present gradient, if its fingerprint holds."""
        known = self._tasks.get(id(p))
        if known is None or known.p is not p or known.options != options:
            return None
        gradient = self.gradient(p, known.place)
        if gradient is None or known.fingerprint is None or not known.fingerprint.holds(states, [gradient], scale):
            return None
        known.task.g, known.task.scale = gradient, scale
        return known

    def gradient(self, p: Tensor, place: LocalShard) -> Tensor | None:
        """The present local gradient of a part of a parameter: asked for once in a step, since ranks may have to meet for it."""
        if place.flat_slice is not None:
            return place.part_gradient(p)
        if id(p) not in self._gradients:
            self._gradients[id(p)] = place.gradient(p)
        return self._gradients[id(p)]

    def keep(self, plan: StepPlan, new: Sequence[PlannedTask]) -> None:
        """Keep what may serve later steps of a plan and of its tasks that were made for it."""
        kept = {id(one.p): one for one in new if one.fingerprint is not None}
        if kept:  # plans of others may hold what these have taken the place of
            self._plans.clear()
            self._tasks |= kept
        if plan.is_kept:
            self._plans = [*self._plans[1 - PLANS :], plan]

    def drop_gradients(self) -> None:
        """Let go of the gradients, whose memory is the user's to free."""
        self._gradients = {}

    def abandon_step(self) -> None:
        """Let go of the gradients that tasks have taken for a step that failed."""
        for one in self._tasks.values():
            one.task.g = NOTHING
