"""Recognise DTensors without importing torch.distributed.tensor, which takes a second."""

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor
    from typing_extensions import TypeIs

_MODULE = "torch.distributed.tensor"


def is_dtensor(t: Any) -> "TypeIs[DTensor]":
    """True for a DTensor; where its module is not loaded, nothing is one."""
    found = getattr(sys.modules.get(_MODULE), "DTensor", None)
    return found is not None and isinstance(t, found)


def dtensor_types() -> tuple[type, ...]:
    """The class DTensor as a tuple; an empty one where its module is not loaded."""
    found = getattr(sys.modules.get(_MODULE), "DTensor", None)
    return () if found is None else (found,)
