"""What is saved, and how is it loaded again without losing anything?

Scalars lie in the groups as python numbers under a key set that is fixed at construction, equal on all ranks. Buffers
lie in `state` as tensors in the shape and placement of their parameter, so torch.distributed.checkpoint and FSDP1
reshard them.
"""

import logging
import math
from collections.abc import Callable, Iterable
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.distributed.tensor import DTensor

from . import state as states
from .adapters.base import Placement
from .layout import resolve
from .options import check_options, listed
from .scalars import OF_ESTIMATE

if TYPE_CHECKING:
    from .optimizer import LearningRateFree

Dict = dict[str, Any]
logger = logging.getLogger(__name__)


def save(optimizer: "LearningRateFree", pack: Callable[[], Dict]) -> Dict:
    """The state dict. Waits for the reduce under way and calls no collective."""
    optimizer.step_size.settle()
    optimizer.step_size.roster.accept_restored()
    packed = pack()
    for group, live in zip(packed["param_groups"], optimizer.groups, strict=True):
        group.update((key, value) for key, value in live.copy().items() if key in group and key != "params")
        group["lr"] = float(group["lr"])  # a tensor that its owner goes on changing
    entries = [(p, group) for group in optimizer.groups for p in group["params"]]
    sliced = [index for index in packed["state"] if entries[index][1].get("slice_p", 1) > 1]
    for index, places in zip(sliced, resolve([entries[index][0] for index in sliced]), strict=True):
        p, group = entries[index]
        packed["state"][index] = _expanded(optimizer, p, group, packed["state"][index], places[0])
    return packed


def _expanded(optimizer: "LearningRateFree", p: Tensor, group: Dict, buffers: Dict, place: Placement) -> Dict:
    cut = states.cut_of(place, group)
    specs = optimizer.method.buffers(group)
    return {
        name: states.expand(p, t, place, cut) if specs[name].sliced and cut is not None else t
        for name, t in buffers.items()
    }


def load(optimizer: "LearningRateFree", state_dict: Dict) -> None:
    """Check everything, then replace state and groups. Raises ValueError with nothing changed."""
    state_dict = _after_pre_hooks(optimizer, state_dict)
    missing = {"state", "param_groups"} - set(state_dict)
    if missing:
        raise ValueError(f"the checkpoint lacks {listed(missing)}: pass what optimizer.state_dict() returned.")
    groups = [dict(group) for group in state_dict["param_groups"]]
    _check_groups(optimizer, groups)
    pairs = _pairs(optimizer, groups, state_dict["state"])
    _check_buffers(optimizer, groups, pairs)
    places = resolve([p for p, _, _ in pairs])
    state = {
        p: _restored(optimizer, p, buffers, group, place[0])
        for (p, buffers, group), place in zip(pairs, places, strict=True)
    }
    merged = [_merged(live, saved) for live, saved in zip(optimizer.groups, groups, strict=True)]
    fresh: Any = type(optimizer.state)(dict)
    fresh.update(state)
    for estimate, group in {group["estimate"]: group for group in groups}.items():
        optimizer.step_size.load(estimate, group)
    optimizer.set_anchored(state if optimizer.step_size.steps > 0 else ())
    optimizer.__setstate__({"state": fresh, "param_groups": merged})
    for post in optimizer._optimizer_load_state_dict_post_hooks.values():
        post(optimizer)


def _after_pre_hooks(optimizer: "LearningRateFree", state_dict: Dict) -> Dict:
    state_dict = dict(state_dict)
    for hook in optimizer._optimizer_load_state_dict_pre_hooks.values():
        replaced = hook(optimizer, state_dict)
        state_dict = state_dict if replaced is None else replaced
    return state_dict


def _merged(live: Dict, saved: Dict) -> Dict:
    merged = {key: deepcopy(value) for key, value in saved.items() if key != "params"}
    merged["params"] = live["params"]
    if "param_names" in live:
        merged.setdefault("param_names", live["param_names"])
    return merged


def _check_groups(optimizer: "LearningRateFree", groups: list[Dict]) -> None:
    there, here = ([len(group.get("params", ())) for group in some] for some in (groups, optimizer.groups))
    if there != here:
        raise ValueError(
            f"the checkpoint has parameter groups of {there} parameters, the optimizer of {here}: build the optimizer "
            "with the groups it was saved with."
        )
    first: dict[str, Dict] = {}  # of each estimate
    for index, group in enumerate(groups):
        _check_group(optimizer, group, f"group {index} of the checkpoint")
        _check_agree(first.setdefault(group["estimate"], group), group, optimizer.step_size.scalars.values)


def _check_group(optimizer: "LearningRateFree", group: Dict, where: str) -> None:
    name, found, scalars = optimizer.method.name, group.get("method"), optimizer.step_size.scalars
    if found != name:
        what = f"of the method {found!r}" if found else "of another optimizer"
        raise ValueError(
            f"the checkpoint is {what}, this optimizer is {name!r}. A checkpoint of prodigyopt or dadaptation is made "
            "loadable by dadapt_dist.checkpoint.convert(state_dict, method)."
        )
    missing = {*optimizer.defaults, *scalars.values, "steps"} - set(group) - {"differentiable"}
    if missing:
        raise ValueError(
            f"{where} lacks {listed(missing)}; {name} cannot continue without them. Load a checkpoint that this "
            "optimizer saved whole."
        )
    check_options({key: group[key] for key in optimizer.defaults if key in group}, optimizer.defaults, where)
    scalars.row(group["estimate"])  # raises for an estimate that does not exist


def _check_agree(first: Dict, group: Dict, names: Iterable[str]) -> None:
    """One estimate has one value of each scalar and constant, in whichever of its groups it is read."""
    scalars = {*names, "steps"}
    for name in scalars:
        if not math.isfinite(float(group[name])):
            raise ValueError(f"the checkpoint has {name}={group[name]}: it must be finite. Go back to an earlier one.")
    shared = scalars | set(OF_ESTIMATE) & set(first)
    differ = {key for key in shared if group[key] != first[key]}
    if differ:
        raise ValueError(
            f"groups of the estimate {group['estimate']!r} differ in {listed(differ)} in the checkpoint: one d has one "
            "value of each."
        )


def _pairs(optimizer: "LearningRateFree", groups: list[Dict], state: Dict) -> list[tuple[Tensor, Dict, Dict]]:
    """(parameter, saved buffers, saved group) of every parameter that has saved state."""
    pairs = []
    for live, group in zip(optimizer.groups, groups, strict=True):
        for p, index in zip(live["params"], group["params"], strict=True):
            if state.get(index):
                pairs.append((p, state[index], group))
    return pairs


def _check_buffers(optimizer: "LearningRateFree", groups: list[Dict], pairs: list[tuple[Tensor, Dict, Dict]]) -> None:
    steps = max(int(group["steps"]) for group in groups)
    trainable = [p for group in optimizer.groups for p in group["params"] if p.requires_grad]
    if steps > 0 and trainable and not pairs:
        raise ValueError(
            f"the checkpoint was saved after {steps} steps but holds no buffers of any parameter; d alone cannot "
            "continue it. (FSDP1 with sharded state dicts drops them under some wrappers: save with "
            "torch.distributed.checkpoint.)"
        )
    known = {p for p, _, _ in pairs}
    fresh = sum(p not in known and p.numel() > 0 for p in trainable)
    if steps > 0 and fresh:  # right for parameters that were frozen or not there, so no error
        logger.warning("the checkpoint holds no buffers of %d trainable parameters: they start afresh", fresh)
    for p, buffers, group in pairs:
        specs = optimizer.method.buffers(group)
        frozen = _frozen(optimizer, group)
        missing = {n for n, spec in specs.items() if n not in buffers and not (frozen and spec.statistic)}
        if missing:
            dropped = all(specs[n].statistic for n in missing)
            hint = " It was saved frozen: pass the same freeze_after." if dropped else ""
            raise ValueError(
                f"the checkpoint lacks the buffers {listed(missing)} of a parameter of shape {tuple(p.shape)}.{hint}"
            )
        for name in set(specs) & set(buffers):
            _check_place(name, buffers[name], p)


def _check_place(name: str, t: Tensor, p: Tensor) -> None:
    if tuple(t.shape) != tuple(p.shape):
        raise ValueError(
            f"the checkpoint's {name} has shape {tuple(t.shape)}, its parameter {tuple(p.shape)}: the model or its "
            "sharding is another one. Reshard with torch.distributed.checkpoint."
        )
    there, here = ((x.device_mesh, x.placements) if isinstance(x, DTensor) else "whole" for x in (t, p))
    if there != here:
        raise ValueError(
            f"the checkpoint's {name} of a parameter of shape {tuple(p.shape)} is placed as {there}, the parameter as "
            f"{here}. Load it with torch.distributed.checkpoint.state_dict.set_optimizer_state_dict."
        )


def _frozen(optimizer: "LearningRateFree", group: Dict) -> bool:
    limit = optimizer.step_size.freeze_after
    return limit is not None and int(group["steps"]) >= limit


def _restored(
    optimizer: "LearningRateFree", p: Tensor, buffers: Dict, group: Dict, place: Placement
) -> dict[str, Tensor]:
    """The buffers as this optimizer keeps them: on the parameter's device, in no lower precision than saved, copied."""
    cut = states.cut_of(place, group)
    restored = {}
    for name, spec in optimizer.method.buffers(group).items():
        if name not in buffers or (_frozen(optimizer, group) and spec.statistic):
            continue
        t = buffers[name].detach()
        t = t.to(device=p.device, dtype=optimizer.dtypes.restored(p, spec, t.dtype), copy=True)
        restored[name] = states.compress(t, place, cut) if spec.sliced and cut is not None else t
    return restored
