"""Who asks whether an optimizer unscales its gradients by itself: a GradScaler, or somebody who will clip them?"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


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


@contextmanager
def taken_back(optimizer: Any) -> Iterator[None]:
    """Drop what a GradScaler has told an optimizer for one step, when an error ends the step.

    It takes these back itself after a step that returns, and multiplies what it finds left of an earlier one.
    """
    try:
        yield
    except BaseException:
        for name in ("grad_scale", "found_inf"):
            optimizer.__dict__.pop(name, None)
        raise
