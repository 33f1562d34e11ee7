"""Warn once when several optimizers train one model, each with a d of its own; they should share a StepSize.

One d is an estimate for one model. torchtitan's model parts, or one optimizer a parameter stepped in backward, are one model
in several optimizers; a GAN's two are not. Looked at in one step alone: gradients that another optimizer had before this one
stepped, and has unchanged when it steps itself, came out of the same backward pass.
"""

import logging
import weakref
from typing import Any

import torch
from torch import Tensor

from ..members import Watched

logger = logging.getLogger(__name__)

LOOK_AT = 3  # the step that is looked at
MANY = 4  # optimizers that are no longer two networks trained side by side
MARK = "_dadapt_dist_seen"

_alive: "weakref.WeakSet[Watched]" = weakref.WeakSet()
_backward: list[int] = []  # the backward pass in which an optimizer has stepped last
_told = False


def join(step_size: Watched) -> None:
    """Take note of a StepSize."""
    _alive.add(step_size)


def look(step_size: Watched) -> None:
    """Compare this StepSize with the others in its step LOOK_AT, before the gradients are gone. Logs, once a process."""
    if step_size._calls != LOOK_AT or _told or len(_alive) < 2:
        return
    task = torch._C._current_graph_task_id()
    own = _gradient(step_size)
    if task != -1:
        if task in _backward:
            _tell()
        _backward[:] = [task]
    elif own is not None and getattr(own, MARK, None) == own._version:
        _tell()
    for other in _alive:
        gradient = _gradient(other) if other is not step_size and other._calls == LOOK_AT - 1 else None
        if gradient is not None:
            setattr(gradient, MARK, gradient._version)


def _gradient(step_size: Watched) -> Tensor | None:
    """That of the first parameter that has one."""
    params: Any = (p for group in step_size._roster.groups() for p in group["params"])
    return next((p.grad for p in params if p.grad is not None), None)


def _tell() -> None:
    global _told
    _told = True
    number = sum(step_size._calls > 0 for step_size in _alive)
    level = logging.WARNING if number >= MANY or torch._C._current_graph_task_id() != -1 else logging.INFO
    logger.log(
        level,
        "%d optimizers step on the gradients of one backward pass, each with a d of its own. If their parameters make up one "
        'model, let them share one: Prodigy(params, step_size=step_size) with one StepSize, or step_size="model" for each.',
        number,
    )
