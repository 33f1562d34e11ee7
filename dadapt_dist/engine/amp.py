"""Decide whether a GradScaler leaves unscaling, and what an overflow does, to the optimizer.

A scaler reads the attribute `_step_supports_amp_scaling` of the optimizer that it steps. With True it passes its scale and
whether it found an overflow, and all ranks leave an overflowed step out together. With False it unscales by itself and, after an
overflow, does not call step(), on this rank. Trainers read the attribute, too: told True, they would clip scaled gradients, or
refuse to clip.
"""

import gc
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.amp import GradScaler
from torch.optim import Optimizer

from ..options.checks import check_choice
from ..sharding import registry
from ..sharding.live_objects import Finder, is_heap_frozen, living, warn_if_hidden

AmpScaling = Literal["internal", "external"]
TOLD = ("grad_scale", "found_inf")
_finders: "weakref.WeakKeyDictionary[Optimizer, Finder]" = weakref.WeakKeyDictionary()
_strangers: dict[int, "weakref.ref[Any]"] = {}  # what scalers handle beside our optimizers, by its id


class Scaled:
    """The part of a `LearningRateFree` that scalers and trainers ask."""

    _amp_scaling: AmpScaling | None = None
    _asked_by_unknown = False  # who unscales, since the last step, and told "internal"?
    _wrapper: "weakref.ref[Any] | None" = None  # what a scaler was seen to handle in the place of this object

    @property
    def amp_scaling(self) -> AmpScaling | None:
        """Who unscales gradients under a GradScaler, and leaves overflowed steps out. Set it on all ranks alike.

        "internal": this optimizer, in step(), on all ranks together. "external": the scaler or trainer, before step(); it has
        to see to it that no rank leaves a step out alone. None: as is found out from what the scaler handles.

        Raises:
            ValueError: On assignment of another value; nothing changes.

        Example:
            >>> import torch, dadapt_dist
            >>> optimizer = dadapt_dist.Prodigy(torch.nn.Linear(2, 1).parameters())
            >>> optimizer.amp_scaling = "internal"
        """
        return self._amp_scaling

    @amp_scaling.setter
    def amp_scaling(self, value: AmpScaling | None) -> None:
        check_choice("amp_scaling", value, (None, "internal", "external"))
        self._amp_scaling = value

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """Whether a GradScaler leaves unscaling, and what an overflow does, to this optimizer."""
        return is_internal(self)


def is_internal(optimizer: Any) -> bool:
    """Whether a GradScaler is to leave unscaling to this optimizer: `amp_scaling`, else what is found out.

    Found out: True while a live `torch.amp.GradScaler` handles the optimizer or a wrapper of it, with two exceptions. A
    ShardedGradScaler makes the ranks agree by itself, but only where it unscales. Lightning's Trainer unscales before it clips,
    and refuses to clip where the optimizer would do it.
    """
    if optimizer.amp_scaling == "external" or (optimizer.amp_scaling is None and registry.unscales_itself(optimizer)):
        return False
    scaler = scaler_of(optimizer)
    if optimizer.amp_scaling == "internal":
        optimizer._asked_by_unknown = scaler is None
        return True
    if scaler is None:
        warn_if_hidden("scaler")
    return scaler is not None and all(cls.__name__ != "ShardedGradScaler" for cls in type(scaler).__mro__)


def scaler_of(optimizer: Any) -> Any:
    """The live scaler that handles this optimizer now, or None. Searched for once, or known by `dadapt_dist.attach`."""
    finder = _finders.get(optimizer)
    if finder is None:
        finder = _finders[optimizer] = Finder()
    return finder.find(GradScaler, lambda scaler: handle_of(scaler, optimizer) is not None)


def handle_of(scaler: Any, optimizer: Any) -> Any:
    """What a scaler takes for this optimizer: itself, or a wrapper that shows its parameters; None for neither.

    The scaler keeps the ids of what it handles, from its `unscale_` or `step` to its `update`.
    """
    handled = getattr(scaler, "_per_optimizer_states", ())
    if id(optimizer) in handled:
        return optimizer
    wrapper = None if optimizer._wrapper is None else optimizer._wrapper()
    if wrapper is not None and id(wrapper) in handled:
        return wrapper
    wrapper = next((thing for thing in _with_ids(handled) if _shows(thing, optimizer)), None)
    if wrapper is not None:
        optimizer._wrapper = weakref.ref(wrapper)
    return wrapper


def _with_ids(ids: Iterable[int]) -> list[Any]:
    """The live objects with these ids that can be referred to weakly. One that is not known costs a look at all objects."""
    alive = {known: thing for known, ref in _strangers.items() if (thing := ref()) is not None}
    unknown = set(ids) - alive.keys()
    if unknown:
        for thing in gc.get_objects():
            if id(thing) in unknown and type(thing).__weakrefoffset__:
                alive[id(thing)] = thing
        _strangers.clear()
        _strangers.update({known: weakref.ref(thing) for known, thing in alive.items()})
    return [alive[known] for known in ids if known in alive]


def _shows(thing: Any, optimizer: Any) -> bool:
    """Whether an object's groups hold all parameters of the optimizer."""
    groups, own = getattr(thing, "param_groups", None), optimizer.param_groups
    if groups is own:
        return True
    if not isinstance(groups, list):
        return False
    shown = {id(p) for group in groups for p in group["params"]}
    return all(id(p) in shown for group in own for p in group["params"])


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


def borrow(optimizer: Any) -> None:
    """Take over what a scaler has told the wrapper that it was given. `give_back` ends it."""
    vars(optimizer).update(_told(optimizer._wrapper()))


def give_back(optimizer: Any) -> None:
    """Drop what was borrowed: the scaler takes it from the wrapper itself."""
    for name in _told(optimizer._wrapper()):
        vars(optimizer).pop(name, None)


def _told(wrapper: Any) -> dict[str, Any]:
    return {name: value for name, value in getattr(wrapper, "__dict__", {}).items() if name in TOLD}


def finding_of(optimizer: Any) -> Finding:
    """What a GradScaler has found in this step, once it has set `found_inf`.

    torch's scaler gives an optimizer a sum of its flags, and keeps them in a dict of its own.
    """
    scaler = scaler_of(optimizer)
    handle = handle_of(scaler, optimizer)
    state = {} if handle is None else scaler._per_optimizer_states[id(handle)]
    flags = state.get("found_inf_per_device")
    return Finding(optimizer.found_inf, flags if isinstance(flags, dict) else None)


def refuse_hidden(optimizer: Any) -> None:
    """Raise RuntimeError for a step whose scaler has left unscaling to us, and has told its scale to what we cannot find.

    Something has asked who unscales, and no scaler is known to handle the optimizer. Where all objects can be found that may
    have been a trainer without a scaler at work, and the step is taken.
    """
    optimizer._asked_by_unknown = False
    handled: list[Any] = [getattr(scaler, "_per_optimizer_states", ()) for scaler in living(GradScaler)]
    if is_heap_frozen() or any(len(_with_ids(ids)) < len(ids) for ids in handled):
        raise RuntimeError(
            'amp_scaling="internal", and the scale of the GradScaler did not reach this step: it was told to a wrapper that '
            "cannot be found (gc.freeze() hides objects, and so do __slots__ without __weakref__). The gradients would be taken "
            "as they are, scaled. Nothing has moved. Call gc.freeze() after the first step, give scaler.step() the optimizer "
            'itself, or, where the scaler unscales, set optimizer.amp_scaling = "external" on all ranks.'
        )


def forget(optimizer: Any) -> None:
    """Drop what a scaler has told of a step that failed.

    The scaler takes it back itself after a step that returns, and multiplies what it finds left of an earlier one.
    """
    wrapper = None if optimizer._wrapper is None else optimizer._wrapper()
    for told in (vars(optimizer), getattr(wrapper, "__dict__", {})):
        for name in TOLD:
            told.pop(name, None)
