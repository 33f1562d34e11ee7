"""Decide whether a GradScaler leaves unscaling, and what an overflow does, to the optimizer.

A scaler reads the attribute `_step_supports_amp_scaling` of the optimizer that it steps. With True it passes its scale and
whether it found an overflow, and all ranks leave an overflowed step out together. With False it unscales by itself and, after an
overflow, does not call step(), on this rank. Trainers read the attribute, too: told True, they would clip scaled gradients, or
refuse to clip.
"""

import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.amp import GradScaler
from torch.optim import Optimizer

from ..options.checks import check_choice
from ..sharding import registry
from ..sharding.live_objects import Finder, warn_if_hidden

TOLD = ("grad_scale", "found_inf")
_finders: "weakref.WeakKeyDictionary[Optimizer, Finder]" = weakref.WeakKeyDictionary()


def is_internal(optimizer: Any) -> bool:
    """Whether a GradScaler is to leave unscaling to this optimizer: `amp_scaling`, else what is found out.

    Found out: True while a live `torch.amp.GradScaler` handles this very object, with two exceptions. A ShardedGradScaler makes
    the ranks agree by itself, but only where it unscales. Lightning's Trainer unscales before it clips, and refuses to clip where
    the optimizer would do it. A scaler that was given a wrapper does not handle this object, and unscales by itself.
    """
    check_choice("amp_scaling", optimizer.amp_scaling, (None, "internal", "external"))
    if optimizer.amp_scaling is not None:
        return bool(optimizer.amp_scaling == "internal")
    if registry.unscales_itself(optimizer):
        return False
    scaler = scaler_of(optimizer)
    if scaler is None:
        warn_if_hidden("scaler")
    return scaler is not None and all(cls.__name__ != "ShardedGradScaler" for cls in type(scaler).__mro__)


def scaler_of(optimizer: Any) -> Any:
    """The live scaler that handles this optimizer now, or None. Searched for once, or known by `dadapt_dist.attach`."""
    finder = _finders.get(optimizer)
    if finder is None:
        finder = _finders[optimizer] = Finder()
    return finder.find(GradScaler, lambda scaler: id(optimizer) in getattr(scaler, "_per_optimizer_states", ()))


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


def finding_of(optimizer: Any) -> Finding:
    """What a GradScaler has found in this step, once it has set `found_inf`.

    torch's scaler gives an optimizer a sum of its flags, and keeps them in a dict of its own.
    """
    state = getattr(scaler_of(optimizer), "_per_optimizer_states", {}).get(id(optimizer), {})
    flags = state.get("found_inf_per_device")
    return Finding(optimizer.found_inf, flags if isinstance(flags, dict) else None)


def forget(optimizer: Any) -> None:
    """Drop what a scaler has told of a step that failed.

    The scaler takes it back itself after a step that returns, and multiplies what it finds left of an earlier one.
    """
    for name in TOLD:
        vars(optimizer).pop(name, None)
