"""Who asks whether an optimizer unscales its gradients by itself, and what does a GradScaler tell it then?"""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from torch import Tensor

TOLD = ("grad_scale", "found_inf")


@dataclass(frozen=True)
class Question:
    """Who asked. ours: was it a GradScaler that may leave unscaling and skipping to us?

    scaler, wrapper: weak references to it, and to what it takes for the optimizer where that is another object.
    """

    ours: bool
    scaler: "weakref.ref[Any] | None"
    wrapper: "weakref.ref[Any] | None"


def question(frame: FrameType) -> Question:
    """Who asks in this frame: a GradScaler, or somebody who will clip the gradients?

    With a GradScaler no rank misses a step that the others take. Not so with a ShardedGradScaler: it makes the ranks agree by
    itself, but only where it unscales, and one rank's scale would drift from the others' for good. Nor with trainers, which
    unscale before they clip. torch asks by an attribute, which does not say who asks; a wrapper passes the question on by
    `__getattr__`.
    """
    wrapper = None
    while frame.f_code.co_name == "__getattr__" and frame.f_back is not None:
        wrapper, frame = frame.f_locals.get("self"), frame.f_back
    who = frame.f_locals.get("self")
    names = {cls.__name__ for cls in type(who).__mro__}
    return Question("GradScaler" in names and "ShardedGradScaler" not in names, _weak(who), _weak(wrapper))


def _weak(item: Any) -> "weakref.ref[Any] | None":
    with suppress(TypeError):  # not every object can be referred to weakly; None cannot
        return weakref.ref(item)
    return None


@dataclass(frozen=True)
class Finding:
    """What a GradScaler has found in this rank's gradients. found: above 0 when there was an overflow.

    flags: where the scaler keeps that by itself, a tensor a device, until it updates the scale; None when it is not known.
    """

    found: Any
    flags: dict[torch.device, Tensor] | None = None

    def spread(self, overflow: Tensor) -> bool:
        """Let the scaler go by what all ranks found (0-dim bool): their scales stay the same. False: it cannot be told."""
        if self.flags is None:
            return False
        if not self.flags:  # no parameter of this rank has a gradient
            self.flags[overflow.device] = torch.zeros((), dtype=torch.float32, device=overflow.device)
        for flag in self.flags.values():
            flag.copy_(overflow)
        return True


@contextmanager
def told(optimizer: Any) -> Iterator[Finding | None]:
    """What a GradScaler has told of this step, or None; its `grad_scale` is the optimizer's inside.

    The scaler takes both back itself after a step that returns, and multiplies what it finds left of an earlier one: after
    an error they are dropped here.
    """
    asked: Question | None = getattr(optimizer, "asked", None)
    refs = (None, None) if asked is None else (asked.scaler, asked.wrapper)
    scaler, wrapper = (None if ref is None else ref() for ref in refs)
    own, theirs = vars(optimizer), getattr(wrapper, "__dict__", {})
    borrowed = {name: theirs[name] for name in TOLD if name in theirs and name not in own}
    own |= borrowed
    found = own.get("found_inf")
    try:
        yield None if found is None else Finding(found, _flags(scaler, optimizer if wrapper is None else wrapper))
    except BaseException:
        for name in TOLD:
            own.pop(name, None)
            theirs.pop(name, None)
        raise
    for name in borrowed:
        own.pop(name, None)


def _flags(scaler: Any, optimizer: Any) -> dict[torch.device, Tensor] | None:
    """torch's scaler gives an optimizer a sum of its flags, and keeps them in a dict of its own."""
    state = getattr(scaler, "_per_optimizer_states", {}).get(id(optimizer), {})
    flags = state.get("found_inf_per_device")
    return flags if isinstance(flags, dict) else None
