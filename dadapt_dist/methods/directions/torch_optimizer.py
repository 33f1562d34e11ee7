"""Any torch optimizer as a direction: its step x' = x - u, taken on a copy of the weights, gives u."""

import copy
from collections import defaultdict
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..base import Buffer, Buffers, Coefficients, Options
from .base import Direction

UPDATE = "u"
"""The buffer in which the base optimizer takes its step, and which then holds u."""


class TorchDirection(Direction):
    """The step of a torch optimizer, the base, as the direction of a method.

    In every step the base takes one of its own, at the weights as they are, on a copy of them in float32 or wider: neither
    weights nor gradients of the model are touched by it. u is what it has taken off, so it contains the base's learning rate,
    decay and momentum. It sees gradients as the method does: unscaled, with the sign of `maximize`, elements that are not
    finite as 0. Its state is saved with the method's, under "direction.<name>", but not its options, which the factory sets.

    Args:
        factory: makes the base from a list of parameter groups (dicts with "params", one for each group of the method's
            optimizer, in order), such as `lambda groups: torch.optim.AdamW(groups, lr=1.0)`.

    Raises:
        TypeError: factory cannot be called.

    Notes:
        The base must go by gradients alone (no closure). Where parameters are sharded it sees DTensors, or the rank's flat shard
        under FSDP1: an elementwise base gives what it would give in one process, and one that looks at whole matrices or norms
        has to know DTensors itself. A step that comes in pieces (ZeRO) is refused. Under a GradScaler the step waits
        for the device, since the base cannot take half a step.

    Example:
        >>> import torch
        >>> from dadapt_dist.methods.directions import TorchDirection
        >>> direction = TorchDirection(lambda groups: torch.optim.AdamW(groups, lr=1.0))
    """

    read_only = (UPDATE,)
    follows_groups: ClassVar[bool] = False
    """Whether the factory is given the options of the method's groups, which the base then follows."""
    looks_at_whole: str = ""
    """What the base is called in an error, where the update of a part of a tensor is not the part of the update; "": it is."""

    def __init__(self, factory: Callable[[list[dict[str, Any]]], Optimizer]) -> None:
        if not callable(factory):
            raise TypeError(
                f"factory={factory!r} must be a function that makes a torch optimizer from parameter groups, such as "
                "lambda groups: torch.optim.AdamW(groups, lr=1.0)"
            )
        self.factory = factory

    def buffers(self, options: Options) -> dict[str, Buffer]:
        return {UPDATE: Buffer(transient=True)}

    def update(self, x: Tensor, g: Tensor, buf: Buffers, c: Coefficients) -> Tensor:
        return buf[UPDATE]

    def multiplied(self, x: Tensor, buf: Buffers, c: Coefficients) -> tuple[Tensor, ...]:
        return (buf[UPDATE],)


class OfOptimizer(TorchDirection):
    """The step of a torch optimizer that there is, the original: copies of it serve as bases.

    The options of the method's groups are those of the base's groups, in every step, and what the base writes into its groups
    goes back there. Its attributes are the original's. It begins with the state that the original had.

    Args:
        original: the optimizer. Nothing of it is written.

    Example:
        >>> import torch
        >>> from dadapt_dist.methods.directions import OfOptimizer
        >>> p = torch.nn.Parameter(torch.ones(3))
        >>> direction = OfOptimizer(torch.optim.SGD([p], lr=1.0, momentum=0.9))
        >>> copy = direction.factory([{"params": [torch.zeros(2)], "lr": 0.5, "momentum": 0.9, "weight_decay": 0.0}])
        >>> type(copy).__name__, copy.param_groups[0]["lr"]
        ('SGD', 0.5)
    """

    follows_groups = True

    def __init__(self, original: Optimizer) -> None:
        super().__init__(self._copy)
        self.kind = type(original)
        own = {name: value for name, value in vars(original).items() if name not in _OF_ONE}
        self.attributes = {name: copy.copy(v) if isinstance(v, (list, dict)) else v for name, v in own.items()}
        self.begun: list[dict[str, Any]] = [
            dict(original.state.get(p, {})) for group in original.param_groups for p in group["params"]
        ]
        """The state of each parameter, in the order of the groups; empty once it has been used."""

    def _copy(self, groups: list[dict[str, Any]]) -> Optimizer:
        """The optimizer over other tensors. groups: with all their options."""
        made: Optimizer = object.__new__(self.kind)
        vars(made).update(self.attributes, state=defaultdict(dict), param_groups=groups)
        return made

    def __getstate__(self) -> dict[str, Any]:
        hooks = {name: type(value)() for name, value in self.attributes.items() if name.startswith("_optimizer_")}
        return {**vars(self), "attributes": self.attributes | hooks, "factory": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, factory=self._copy)

    def begins(self, place: int, u: Tensor) -> dict[str, Any]:
        """The state of a u that takes the place of a parameter.

        place: of the parameter among those of all groups. Raises ValueError for a state of another shape than that of u, but
        for one that is the same everywhere.
        """
        found = self.begun[place] if place < len(self.begun) else {}
        return {name: _fitted(name, value, u) for name, value in found.items()}


_OF_ONE = frozenset(
    {"state", "param_groups", "step", "state_dict", "load_state_dict", "add_param_group", "found_inf", "grad_scale"}
)
"""What a copy has of its own, and what others put into one optimizer."""


def _fitted(name: str, value: Any, u: Tensor) -> Any:
    if not isinstance(value, Tensor) or value.dim() == 0:
        return value.clone() if isinstance(value, Tensor) else value
    value = value.detach()
    if value.is_floating_point():
        value = value.to(u.dtype)
    if value.shape == u.shape:
        return value.clone()
    if value.numel() and bool((value == value.reshape(-1)[0]).all()):
        return torch.full_like(u, float(value.reshape(-1)[0]), dtype=value.dtype)
    raise ValueError(
        f"the base optimizer holds {name!r} of shape {tuple(value.shape)} for a parameter that has the shape {tuple(u.shape)} "
        "now: it had taken steps before its parameters were sharded or flattened. Shard the model first, then make the base and "
        "load its state."
    )
