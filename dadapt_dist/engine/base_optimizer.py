"""Run the torch optimizer that gives a method its direction, on copies of the weights, and keep its state in ours."""

import inspect
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..kernels.overflow_guard import usable_gradient
from ..methods import Method
from ..methods.directions.torch_optimizer import UPDATE
from ..sharding.shard import LocalShard
from .members import MovesTensors
from .step_plan import StepPlan

PREFIX = "direction."
"""What the base's entries of a parameter's state are called by in ours."""
Entries = dict[str, Any]
Pair = tuple[Tensor, Tensor]


class BaseOptimizer:
    """The base: a torch optimizer over the buffers "u" of an optimizer's parameters, in the place of the parameters.

    Before it steps, each u is a copy of its parameter in float32 or wider, and has the gradient that the method will see; after
    it, u = x - u is what the base has taken off. The model's weights and gradients are not touched. The base's state of u lies
    in our state of the parameter too, the same tensors under "direction.<name>", so that it is saved, loaded and resharded as
    buffers are. Ours is the truth: the base is made anew from it whenever parameters or their state are others than before.
    """

    def __init__(self) -> None:
        self._base: Optimizer | None = None
        self._pairs: list[Pair] = []  # parameters with their u, as the base knows them
        self._fresh: dict[Tensor, Entries] = {}  # u of parameters that the base has not moved -> its state of them

    def prepare(self, optimizer: MovesTensors) -> None:
        """Let the base know all parameters that have a u, and let them all have the entries of its state.

        Checkpoint tools read which entries there are from an optimizer that has taken no step.

        Raises:
            ValueError: the step comes in pieces, or in tensors of a framework's.
            TypeError: the factory made something that cannot serve.
        """
        if optimizer.delivery.in_pieces or optimizer.delivery.replaces_parameters:
            raise ValueError(
                f"the direction of {optimizer.method.name} is a torch optimizer, which steps over all parameters at once, and "
                "the framework (DeepSpeed ZeRO) flattens them and brings a step in pieces. Use a method whose direction is "
                "elementwise (Adam, Lion, SGD), or shard with FSDP2."
            )
        groups = [
            [(p, state[UPDATE]) for p in group["params"] if UPDATE in (state := optimizer.state.get(p, {}))]
            for group in optimizer.groups
        ]
        pairs = [pair for of_group in groups for pair in of_group]
        if self._base is None or not _same(pairs, self._pairs):
            self._make(optimizer, groups)
        self._pairs = pairs
        self._rehearse(optimizer)

    def step(self, optimizer: MovesTensors, plan: StepPlan, skip: Tensor | None) -> None:
        """Let the base step over the parameters of a plan, and leave in each u what it took off.

        skip: 0-dim bool; true: nothing happens. The device is waited for to know it.
        """
        if skip is not None and bool(skip):
            return
        tasks = [(task, task.param) for lot in plan.lots for task in lot.tasks if task.param is not None]
        known = {id(p): u for p, u in self._pairs}
        if any(known.get(id(p)) is not optimizer.state[p][UPDATE] for _, p in tasks):
            self.prepare(optimizer)
            known = {id(p): u for p, u in self._pairs}
        assert self._base is not None, "prepare() was called when the buffers were made"
        shards = optimizer.step_size.shards
        moved = [(task, p, known[id(p)]) for task, p in tasks]
        try:
            for task, p, u in moved:
                self._set(u, self._fresh.pop(u, None))
                task.buf[UPDATE].copy_(task.x)
                u.grad = _like(u, usable_gradient(task, u.dtype), shards.placement(p))
            self._base.step()
            for task, _, _ in moved:
                task.buf[UPDATE].neg_().add_(task.x)
        finally:
            for _, _, u in moved:
                u.grad = None
        for _, p, u in moved:
            self._keep(optimizer.state[p], u)

    # ---------------------------------------------------------------- making the base

    def _make(self, optimizer: MovesTensors, groups: list[list[Pair]]) -> None:
        """Make the base anew; its options stay what they are now, its state is that which ours holds."""
        before, base = self._base, _built(optimizer, groups)
        for old, new in zip(() if before is None else before.param_groups, base.param_groups, strict=False):
            new.update((name, value) for name, value in old.items() if name not in ("params", "param_names"))
        fresh, self._base, self._fresh = self._fresh, base, {}
        first = optimizer.step_size.calls == 0
        for p, u in (pair for of_group in groups for pair in of_group):
            own = {name[len(PREFIX) :]: t for name, t in optimizer.state[p].items() if name.startswith(PREFIX)}
            if not own or u in fresh or (first and before is None):  # saved before the first step
                self._fresh[u] = dict(base.state.get(u, {}))
            else:
                self._set(u, _placed(own, u, base))

    def _rehearse(self, optimizer: MovesTensors) -> None:
        """Give every parameter the entries that the base would make in its first step: of a step with lr 0 and no gradient."""
        lacking = [
            (p, u)
            for p, u in self._pairs
            if u in self._fresh and not any(name.startswith(PREFIX) for name in optimizer.state[p])
        ]
        if not lacking or self._base is None:
            return
        lrs = [group.get("lr") for group in self._base.param_groups]
        try:
            for group, lr in zip(self._base.param_groups, lrs, strict=True):
                group["lr"] = torch.zeros_like(lr) if isinstance(lr, Tensor) else 0.0
            for _, u in lacking:
                self._set(u, _copied(self._fresh[u]))
                u.grad = torch.zeros_like(u)
            self._base.step()
        finally:
            for group, lr in zip(self._base.param_groups, lrs, strict=True):
                group["lr"] = lr
            for _, u in lacking:
                u.grad = None
        for p, u in lacking:
            made = self._base.state.get(u, {})
            self._keep(optimizer.state[p], u)
            optimizer.state[p].update({f"{PREFIX}step": _zero(made["step"])} if "step" in made else {})

    def _set(self, u: Tensor, entries: Entries | None) -> None:
        """Let the base's state of a u be these entries; None: as it is."""
        if entries is not None and self._base is not None:
            self._base.state.pop(u, None)
            if entries:
                self._base.state[u] = entries

    def _keep(self, state: Entries, u: Tensor) -> None:
        """Hold the base's entries of a u in our state of its parameter: the same objects."""
        assert self._base is not None
        for name, value in self._base.state.get(u, {}).items():
            if state.get(PREFIX + name) is not value:
                state[PREFIX + name] = value


def check_usable(method: Method, nonfinite: str | None) -> None:
    """Raise ValueError for a setting with which no torch optimizer can give a method its direction."""
    if nonfinite in ("skip", "raise") and method.after is not None:
        raise ValueError(
            f"nonfinite={nonfinite!r} needs the sums of a step before it is taken, and {method.name} has sums of the "
            "update, which a torch optimizer gives only by taking its step. Use nonfinite='hold', or an elementwise direction."
        )


def _built(optimizer: MovesTensors, groups: list[list[Pair]]) -> Optimizer:
    factory = optimizer.method.direction.factory
    made = factory([{"params": [u for _, u in of_group]} for of_group in groups])
    name = optimizer.method.name
    if not isinstance(made, Optimizer):
        raise TypeError(
            f"the factory of the direction of {name} must return a torch optimizer, not {type(made).__name__}"
        )
    closure = inspect.signature(type(made).step).parameters.get("closure")
    if closure is not None and closure.default is closure.empty:
        raise TypeError(
            f"{type(made).__name__} calls the model in its step, by a closure, and cannot be the direction of {name}: take an "
            "optimizer that goes by the gradients alone."
        )
    if len(made.param_groups) != len(groups):
        raise TypeError(
            f"the factory of the direction of {name} was given {len(groups)} parameter groups and returned an optimizer of "
            f"{len(made.param_groups)}: pass the groups on as they are."
        )
    return made


def _same(pairs: list[Pair], others: list[Pair]) -> bool:
    return len(pairs) == len(others) and all(a is c and b is d for (a, b), (c, d) in zip(pairs, others, strict=True))


def _like(u: Tensor, local: Tensor, place: LocalShard) -> Tensor:
    """A gradient of u from that of its local elements."""
    if place.is_plain:
        return local
    whole = torch.empty_like(u)
    place.local(whole).copy_(local)
    return whole


def _placed(own: Entries, u: Tensor, base: Optimizer) -> Entries:
    """Entries with the count of steps where torch's optimizers want it: on the host, but for those that keep it on the device."""
    step = own.get("step")
    if isinstance(step, Tensor) and step.device != u.device:
        group = next(group for group in base.param_groups if any(t is u for t in group["params"]))
        if group.get("capturable") or group.get("fused"):
            own["step"] = step.to(u.device)
    return own


def _copied(entries: Entries) -> Entries:
    return {name: value.clone() if isinstance(value, Tensor) else value for name, value in entries.items()}


def _zero(step: Any) -> Any:
    return torch.zeros_like(step) if isinstance(step, Tensor) else 0
