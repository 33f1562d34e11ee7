"""How does DeepSpeed find our optimizers by the name in its JSON? It looks for them in torch.optim: we put them there."""

import logging
import sys

import torch
from torch.optim import Optimizer

from ...methods import METHODS, Method
from ...methods.registry import watch

logger = logging.getLogger(__name__)


def register() -> None:
    """Make every optimizer of this package `torch.optim.<Name>`, where DeepSpeed looks a JSON's type up. Idempotent.

    Methods that are registered later follow. A name that another package put there, or a torch to come, stays as it is; a
    warning says whose it is and what to do.
    """
    for method in METHODS.values():
        _enter(method)
    watch(_enter)


def _enter(method: type[Method]) -> None:
    from ... import optimizers

    cls = optimizers.of_method(method.name)
    there = getattr(torch.optim, cls.__name__, None)
    if there is None or _is_ours(there, cls):
        setattr(torch.optim, cls.__name__, cls)
    else:
        logger.warning(
            "torch.optim.%s is %s.%s and stays so: a DeepSpeed config with that type does not get dadapt_dist's. Leave "
            "the type out of the config and pass deepspeed.initialize(optimizer=lambda params: dadapt_dist.%s(params))",
            cls.__name__,
            getattr(there, "__module__", type(there).__module__),
            getattr(there, "__qualname__", type(there).__qualname__),
            cls.__name__,
        )


def accept(cls: type[Optimizer]) -> None:
    """Tell DeepSpeed, if it is loaded, that `cls` was tested under ZeRO: no zero_allow_untested_optimizer is needed.

    It asks after the optimizer is built and for the exact class, so that a constructor is early enough and a subclass of a
    user's is accepted too.
    """
    known = getattr(sys.modules.get("deepspeed.runtime.zero.utils"), "ZERO_SUPPORTED_OPTIMIZERS", None)
    if isinstance(known, list) and cls not in known:
        known.append(cls)


def _is_ours(there: object, cls: type[Optimizer]) -> bool:
    """Is it the class itself, or the same class of an earlier import of this package?"""
    names = (getattr(there, "__module__", None), getattr(there, "__qualname__", None))
    return names == (cls.__module__, cls.__qualname__)
