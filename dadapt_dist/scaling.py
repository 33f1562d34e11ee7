"""Who asks whether an optimizer unscales its gradients by itself: a GradScaler, or somebody who will clip them?"""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

TOLD = ("grad_scale", "found_inf")


def is_grad_scaler(frame: FrameType) -> bool:
    """Is the caller in this frame a GradScaler that may leave unscaling and skipping to us?

    Then no rank misses a step that the others take. Not so a ShardedGradScaler: it makes the ranks agree by itself, but only
    where it unscales, and one rank's scale would drift from the others' for good. Nor trainers, which unscale before they
    clip. torch asks by an attribute, which does not say who asks; a wrapper passes the question on by `__getattr__`.
    """
    while frame.f_code.co_name == "__getattr__" and frame.f_back is not None:
        frame = frame.f_back
    names = {cls.__name__ for cls in type(frame.f_locals.get("self")).__mro__}
    return "GradScaler" in names and "ShardedGradScaler" not in names


def asked_through(frame: FrameType) -> "weakref.ref[Any] | None":
    """The outermost wrapper through whose `__getattr__` an optimizer is asked: what a GradScaler tells, it tells the wrapper."""
    wrapper = None
    while frame.f_code.co_name == "__getattr__" and frame.f_back is not None:
        wrapper, frame = frame.f_locals.get("self"), frame.f_back
    with suppress(TypeError):  # not every object can be referred to weakly
        return None if wrapper is None else weakref.ref(wrapper)
    return None


@contextmanager
def told(optimizer: Any) -> Iterator[Any]:
    """What a GradScaler has told of the overflow of this step, or None; its `grad_scale` is the optimizer's inside.

    The scaler takes both back itself after a step that returns, and multiplies what it finds left of an earlier one: after
    an error they are dropped here.
    """
    refer = getattr(optimizer, "wrapper", None)
    wrapper = None if refer is None else refer()
    own, theirs = vars(optimizer), getattr(wrapper, "__dict__", {})
    borrowed = {name: theirs[name] for name in TOLD if name in theirs and name not in own}
    own |= borrowed
    try:
        yield own.get("found_inf")
    except BaseException:
        for name in TOLD:
            own.pop(name, None)
            theirs.pop(name, None)
        raise
    for name in borrowed:
        own.pop(name, None)
