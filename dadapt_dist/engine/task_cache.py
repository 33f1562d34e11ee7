"""What of a step is the same as in the step before? The work of every parameter that is not cut out of a flat tensor."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ..kernels import Crowd, TensorTask
from ..sharding.registry import Placement

Options = tuple[Any, ...]
NOTHING = torch.empty(0)


class Kept:
    """The work of one parameter, and what must not have changed for it to be used again.

    local: the plain tensors of the parameter and its buffers on this rank; empty where they are these themselves.
    """

    __slots__ = ("buffers", "local", "p", "place", "state", "task")

    def __init__(self, p: Tensor, state: dict[str, Any], task: TensorTask, place: Placement) -> None:
        self.p, self.state, self.task, self.place = p, state, task, place
        self.buffers = [*map(id, state.values())]
        self.local = [] if place.is_plain else [*map(place.local, (p, *state.values()))]

    def is_current(self, state: dict[str, Any] | None) -> bool:
        """Has nobody replaced the buffers? (Kernels see for themselves when memory was swapped under a tensor.)"""
        if state is not self.state or [*map(id, state.values())] != self.buffers:
            return False
        local = self.place.local
        return not self.local or all(
            local(t) is was for t, was in zip((self.p, *state.values()), self.local, strict=True)
        )

    def gradient(self) -> Tensor | None:
        """The present local gradient; None where there is none, or one that makes a work of its own necessary.

        A distributed gradient may be redistributed here, by all its ranks: it is for the caller to see if it fits.
        """
        if self.local:
            return self.place.gradient(self.p)
        gradient = self.p.grad
        if type(gradient) is not Tensor or gradient.is_sparse:  # of what shape, kernels see
            return None
        return gradient


class KeptWorks:
    """The works of the parameters of one group, for as long as its options and the placements stay."""

    def __init__(self) -> None:
        self._group: object = None
        self._options: Options = ()
        self.crowd: Crowd | None = None
        self._kept: dict[int, Kept] = {}

    def of(self, group: dict[str, Any], options: Options) -> "dict[int, Kept]":
        """What is kept of a group, by id of the parameter; nothing when one of the options has changed."""
        if group is not self._group or options != self._options:
            self._group, self._options, self._kept = group, options, {}
        return self._kept


def renewed(kept: "dict[int, Kept]", p: Tensor, states: Any, scale: Tensor | None) -> TensorTask | None:
    """The kept work of a parameter with its present gradient and scale; None when there is none to be used again."""
    known = kept.get(id(p))
    if known is None or known.p is not p or not known.is_current(states.get(p)):
        return None
    gradient = known.gradient()
    if gradient is None:
        return None
    known.task.g, known.task.scale = gradient, scale
    return known.task


def let_go(tasks: Iterable[TensorTask]) -> None:
    """Forget the gradients, whose memory is the user's to free."""
    for task in tasks:
        task.g = NOTHING
