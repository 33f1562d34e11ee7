"""What of a step is the same as in the step before? The work of plain parameters, which takes microseconds to make."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from .kernels import Work

Options = tuple[Any, ...]
NOTHING = torch.empty(0)


class Kept:
    """The work of one whole plain parameter, and what must not have changed for it to be used again."""

    __slots__ = ("buffers", "numel", "p", "state", "work")

    def __init__(self, p: Tensor, state: dict[str, Any], work: Work) -> None:
        self.p, self.state, self.work = p, state, work
        self.numel = p.numel()
        self.buffers = [*map(id, state.values())]

    def is_current(self, state: dict[str, Any] | None) -> bool:
        """Has nobody replaced the buffers? (Kernels see for themselves when memory was swapped under a tensor.)"""
        return state is self.state and [*map(id, state.values())] == self.buffers


class KeptWorks:
    """The works of the parameters of one group, for as long as its options and the placements stay."""

    def __init__(self) -> None:
        self._group: object = None
        self._options: Options = ()
        self._kept: dict[int, Kept] = {}

    def of(self, group: dict[str, Any], options: Options) -> "dict[int, Kept]":
        """What is kept of a group, by id of the parameter; nothing when one of the options has changed."""
        if group is not self._group or options != self._options:
            self._group, self._options, self._kept = group, options, {}
        return self._kept


def renewed(kept: "dict[int, Kept]", p: Tensor, states: Any, scale: Tensor | None) -> Work | None:
    """The kept work of a parameter with its present gradient and scale; None when there is none to be used again."""
    known = kept.get(id(p))
    if known is None or known.p is not p or not known.is_current(states.get(p)):
        return None
    gradient = p.grad
    if type(gradient) is not Tensor or gradient.is_sparse or not gradient.numel() == known.numel == p.numel():
        return None
    known.work.g, known.work.scale = gradient, scale
    return known.work


def let_go(works: Iterable[Work]) -> None:
    """Forget the gradients, whose memory is the user's to free."""
    for work in works:
        work.g = NOTHING
