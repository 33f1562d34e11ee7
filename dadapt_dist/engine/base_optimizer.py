"""Run the torch optimizer that gives a method its direction, on copies of the weights, and keep its state in ours."""

import inspect
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..kernels import TensorTask
from ..kernels.overflow_guard import usable_gradient
from ..methods import DirectedMethod, Method
from ..methods.directions.torch_optimizer import UPDATE, OfOptimizer, TorchDirection
from ..methods.registry import OF_ENGINE
from ..sharding.shard import LocalShard
from .members import MovesTensors
from .state.param_state import described
from .step_plan import StepPlan

PREFIX = "direction."
"""What the base's entries of a parameter's state are called by in ours."""
Entries = dict[str, Any]


class BaseOptimizer:
    """The base: a torch optimizer over a tensor u for each parameter that trains, in the parameter's place.

    Before it steps, each u is a copy of its parameter in float32 or wider, and has the gradient that the method will see; after
    it, u = x - u is what the base has taken off. The model's weights and gradients are not touched. The base's state of u lies
    in our state of the parameter, the same tensors under "direction.<name>", so that it is saved, loaded and resharded as
    buffers are. Ours is the truth: the base is made anew from it whenever parameters or their state are others than before.
    """

    def __init__(self, method: Method, nonfinite: str | None) -> None:
        check_nonfinite(method, nonfinite)
        self._base: Optimizer | None = None
        self._of: dict[Tensor, Tensor] = {}  # parameter -> its u
        self._fresh: dict[Tensor, Entries] = {}  # u of parameters that the base has not moved -> its state of them

    def is_prepared(self, optimizer: MovesTensors) -> bool:
        """Return whether the base knows all parameters that train, as they are."""
        wanted = [p for group in optimizer._all_groups for p in group["params"] if p.requires_grad]
        return self._base is not None and [*map(id, wanted)] == [*map(id, self._of)] and all(map(self._fits, wanted))

    def prepare(self, optimizer: MovesTensors) -> None:
        """Let the base know all parameters that train, and let them all have the entries of its state.

        Checkpoint tools read which entries there are from an optimizer that has taken no step.

        Raises:
            ValueError: the step comes in pieces, or in tensors of a framework's.
            TypeError: the factory made something that cannot serve.
        """
        if optimizer._brought_by.in_pieces or optimizer._brought_by.replaces_parameters:
            raise ValueError(
                f"the direction of {optimizer._method.name} is a torch optimizer, which steps over all parameters at once, and "
                "the framework around it flattens them and brings a step in pieces. Use a method whose direction is "
                "elementwise (Adam, Lion, SGD), or shard with FSDP2."
            )
        _check_cut(optimizer)
        if not self.is_prepared(optimizer):
            known = self._of
            groups = [[p for p in group["params"] if p.requires_grad] for group in optimizer._all_groups]
            self._of = {p: known[p] if p in known and self._fits(p) else _made(p) for of in groups for p in of}
            self._make(optimizer, groups)
        self._rehearse(optimizer)

    def _fits(self, p: Tensor) -> bool:
        u = self._of[p]
        wide = torch.promote_types(p.dtype, torch.float32)
        return u.shape == p.shape and u.device == p.device and u.dtype == wide

    def buffers(self, optimizer: MovesTensors, p: Tensor) -> dict[str, Tensor]:
        """The buffer u of a parameter."""
        if p not in self._of or not self._fits(p):
            self.prepare(optimizer)
        return {UPDATE: self._of[p]}

    def step(self, optimizer: MovesTensors, plan: StepPlan, skip: Tensor | None) -> None:
        """Let the base step over the parameters of a plan, and leave in each u what it took off.

        skip: 0-dim bool; true: nothing happens. The device is waited for to know it.
        """
        if skip is not None and bool(skip):
            return
        followed = self._follow(optimizer)
        tasks = _tasks(plan)
        for _, p in tasks:
            self._set(self._of[p], self._fresh.pop(self._of[p], None))
        self._take(optimizer, tasks)
        for _, p in tasks:
            self._keep(optimizer.state[p], self._of[p])
        followed.give_back()
        if isinstance(direction := _direction_of(optimizer), OfOptimizer):
            direction.begun = []

    def rehearse(self, optimizer: MovesTensors, plan: StepPlan) -> None:
        """Leave in each u what the base would take off, with its state and options as they were: it steps on copies of them."""
        followed = self._follow(optimizer)
        tasks = _tasks(plan)
        us = [self._of[p] for _, p in tasks]
        assert self._base is not None, "prepare() was called when the buffers were made"
        kept = [self._base.state.get(u, {}) for u in us]
        try:
            for u, entries in zip(us, kept, strict=True):
                self._set(u, _copied(self._fresh.get(u, entries)))
            self._take(optimizer, tasks)
        finally:
            for u, entries in zip(us, kept, strict=True):
                self._set(u, entries)
            followed.undo()

    def _take(self, optimizer: MovesTensors, tasks: list[tuple[TensorTask, Tensor]]) -> None:
        """One step of the base, from the weights and gradients as they are; each u is then what it took off."""
        assert self._base is not None, "prepare() was called when the buffers were made"
        shards = optimizer.step_size._shards
        try:
            for task, p in tasks:
                task.buf[UPDATE].copy_(task.x)
                self._of[p].grad = _like(self._of[p], usable_gradient(task, self._of[p].dtype), shards.placement(p))
            self._base.step()
            for task, _ in tasks:
                task.buf[UPDATE].neg_().add_(task.x)
        finally:
            for _, p in tasks:
                self._of[p].grad = None

    def _follow(self, optimizer: MovesTensors) -> "_Followed":
        """Let the base's groups have the options of ours, where it follows them."""
        assert self._base is not None, "prepare() was called when the buffers were made"
        follows = _direction_of(optimizer).follows_groups
        pairs = [*zip(optimizer._all_groups, self._base.param_groups, strict=True)] if follows else []
        return _Followed(pairs, _names_of_ours(optimizer))

    # ---------------------------------------------------------------- making the base

    def _make(self, optimizer: MovesTensors, groups: list[list[Tensor]]) -> None:
        """Make the base anew; its options stay what they are now, its state is that which ours holds."""
        before, base = self._base, _built(optimizer, [[self._of[p] for p in params] for params in groups])
        follows = _direction_of(optimizer).follows_groups
        for old, new in zip(() if before is None or follows else before.param_groups, base.param_groups, strict=False):
            new.update((name, value) for name, value in old.items() if name not in ("params", "param_names"))
        fresh, self._base, self._fresh = self._fresh, base, {}
        first = (
            before is None and optimizer.step_size._calls == 0
        )  # what was saved before the first step is no state yet
        for p, u in self._of.items():
            own = {name[len(PREFIX) :]: t for name, t in _entries(optimizer, p).items() if name.startswith(PREFIX)}
            if not own or first or u in fresh:
                self._fresh[u] = dict(base.state.get(u, {})) or _begins(optimizer, p, u)
            else:
                self._set(u, _placed(own, u, base))

    def _rehearse(self, optimizer: MovesTensors) -> None:
        """Give every parameter the entries that the base would make in its first step: of a step with lr 0 and no gradient."""
        lacking = [
            (p, u)
            for p, u in self._of.items()
            if u in self._fresh and not any(name.startswith(PREFIX) for name in _entries(optimizer, p))
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


def check_nonfinite(method: Method, nonfinite: str | None) -> None:
    """Raise ValueError for what a method whose update a torch optimizer gives cannot do with a gradient that is not finite."""
    if nonfinite in ("skip", "raise") and method.runs_base and method.after is not None:
        raise ValueError(
            f"nonfinite={nonfinite!r} needs the sums of a step before it is taken, and {method.name} has sums of the update, "
            "which a torch optimizer gives only by taking its step. Use nonfinite='hold', or an elementwise direction."
        )


def _built(optimizer: MovesTensors, groups: list[list[Tensor]]) -> Optimizer:
    method = optimizer._method
    assert isinstance(method, DirectedMethod), "no other runs a base"
    assert method.direction.factory is not None, "no other runs a base"
    ours = _names_of_ours(optimizer)
    follows = isinstance(method.direction, TorchDirection) and method.direction.follows_groups
    options = [_options_of(group, ours) if follows else {} for group in optimizer._all_groups]
    made = method.direction.factory([{"params": us, **of} for us, of in zip(groups, options, strict=True)])
    name = method.name
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


def _check_cut(optimizer: MovesTensors) -> None:
    """Raise ValueError where tensors are cut or flattened, and the base looks at whole ones."""
    direction, shards = _direction_of(optimizer), optimizer.step_size._shards
    whole = direction.looks_at_whole
    if not whole:
        return
    for group in optimizer._all_groups:
        for p in (p for p in group["params"] if p.requires_grad):
            place = shards.placement(p)
            if place.num_shards > 1 or place.flat_slice is not None or place.packed:
                raise ValueError(
                    f"{optimizer._method.name} cannot learn the learning rate of {whole} while "
                    f"{described(p, optimizer._all_groups)} is sharded or flattened: the update of a part is not the part of the "
                    "update. Nothing has moved. Train with DDP, or give it a base that goes by single elements (SGD, Adam, Lion)."
                )


class _Followed:
    """The options of groups of ours, in those of the base, and what its step makes of them."""

    def __init__(self, pairs: list[tuple[Entries, Entries]], ours: set[str]) -> None:
        self._pairs = [(group, own, _options_of(group, ours)) for group, own in pairs]
        for _, own, options in self._pairs:
            own.update(options)

    def give_back(self) -> None:
        """Let ours have what the base has written into its groups, such as a count of its steps."""
        for group, own, options in self._pairs:
            group.update({n: v for n, v in own.items() if n not in _FOR_COPIES and v is not options.get(n)})

    def undo(self) -> None:
        """Forget what the base has written there."""
        for _, own, options in self._pairs:
            params = own["params"]
            own.clear()
            own.update(options, params=params, maximize=False)


_FOR_COPIES = {"params", "param_names", "maximize"}
"""What the base's groups have of their own: it sees gradients with the sign that the method gives them."""


def _options_of(group: Entries, ours: set[str]) -> Entries:
    return {name: value for name, value in group.items() if name not in ours} | {"maximize": False}


def _names_of_ours(optimizer: MovesTensors) -> set[str]:
    """What stands in our groups and is none of the base's options."""
    options = {*optimizer._method.options.checks()} - {"lr"}
    return options | {*optimizer.step_size._scalars.values} | {*OF_ENGINE} | _FOR_COPIES


def _direction_of(optimizer: MovesTensors) -> TorchDirection:
    method = optimizer._method
    assert isinstance(method, DirectedMethod), "no other runs a base"
    assert isinstance(method.direction, TorchDirection), "no other runs a base"
    return method.direction


def _begins(optimizer: MovesTensors, p: Tensor, u: Tensor) -> Entries:
    """The state with which the base begins for a parameter, where it is the copy of one that had some."""
    direction = _direction_of(optimizer)
    if not isinstance(direction, OfOptimizer):
        return {}
    places = (place for place, q in enumerate(q for group in optimizer._all_groups for q in group["params"]) if q is p)
    return direction.begins(next(places), u)


def _tasks(plan: StepPlan) -> list[tuple[TensorTask, Tensor]]:
    return [(task, task.param) for lot in plan.lots for task in lot.tasks if task.param is not None]


def _made(p: Tensor) -> Tensor:
    return torch.zeros_like(p.detach(), dtype=torch.promote_types(p.dtype, torch.float32))


def _entries(optimizer: MovesTensors, p: Tensor) -> Entries:
    found = optimizer.state.get(p, {})
    return found if isinstance(found, dict) else {}


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
