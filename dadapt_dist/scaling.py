"""Who asks whether an optimizer unscales its gradients by itself: a GradScaler, or somebody who will clip them?"""

from types import FrameType


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
