"""Makes the optimizers known to DeepSpeed, which looks the type in its JSON up in torch.optim.

The names are answered by a module-level `__getattr__` of torch.optim. They do not stand in its namespace: packages that take
every class of `dir(torch.optim)`, as mmengine does, do not meet them.
"""

import logging
import os
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer

from ...methods.registry import class_names

logger = logging.getLogger(__name__)
SWITCH = "DADAPT_DIST_REGISTER"
_before: list[Callable[[str], Any]] = []  # the __getattr__ that another package had put there


def is_switched_off() -> bool:
    """Whether DADAPT_DIST_REGISTER=0 asks that nothing of DeepSpeed's or torch's is touched at import."""
    return os.environ.get(SWITCH) == "0"


def register() -> None:
    """Let `torch.optim.<Name>` be the optimizer of that name, for every method, also those registered later. Idempotent.

    A name that another package has put there, or a torch to come, stays as it is; a warning says whose it is and what to do.
    """
    there = vars(torch.optim).get("__getattr__")
    if there is not _look_up:
        _before[:] = [] if there is None else [there]
        vars(torch.optim)["__getattr__"] = _look_up
    for name in class_names():
        if name in vars(torch.optim):
            _warn(name, vars(torch.optim)[name])


def _look_up(name: str) -> Any:
    """The attribute of torch.optim that its namespace has not got."""
    if name in class_names():
        from ... import optimizers

        return getattr(optimizers, name)
    for before in _before:
        return before(name)
    raise AttributeError(f"module 'torch.optim' has no attribute '{name}'")


def _warn(name: str, there: object) -> None:
    logger.warning(
        "torch.optim.%s is %s.%s and stays so: a DeepSpeed config with that type does not get dadapt_dist's. Leave "
        "the type out of the config and pass deepspeed.initialize(optimizer=lambda params: dadapt_dist.%s(params))",
        name,
        getattr(there, "__module__", type(there).__module__),
        getattr(there, "__qualname__", type(there).__qualname__),
        name,
    )


def accept(cls: type[Optimizer]) -> None:
    """Tell DeepSpeed, if it is loaded, that `cls` was tested under ZeRO: no zero_allow_untested_optimizer is needed.

    It asks after the optimizer is built and for the exact class, so that a constructor is early enough and a subclass of a
    user's is accepted too. With DADAPT_DIST_REGISTER=0 its list stays as it is.
    """
    known = getattr(sys.modules.get("deepspeed.runtime.zero.utils"), "ZERO_SUPPORTED_OPTIMIZERS", None)
    if isinstance(known, list) and cls not in known and not is_switched_off():
        known.append(cls)
