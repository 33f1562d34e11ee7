"""What is saved, and how is it loaded again without losing anything?

Scalars lie in the groups as python numbers under a key set that is fixed at construction, equal on all ranks. Buffers lie in
`state` as tensors in the shape and placement of their parameter, so torch.distributed.checkpoint and FSDP1 reshard them.
"""

from collections.abc import Callable
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from . import state as states
from .adapters.base import Placement
from .layout import resolve
from .options import listed

if TYPE_CHECKING:
    from .optimizer import LearningRateFree

Dict = dict[str, Any]


def save(optimizer: "LearningRateFree", pack: Callable[[], Dict]) -> Dict:
    """The state dict. Waits for the reduce under way and calls no collective."""
    optimizer.step_size.__getstate__()  # finishes the reduce; raises when a step is half done
    packed = pack()
    for group, live in zip(packed["param_groups"], optimizer.param_groups, strict=True):
        group.update((key, value) for key, value in live.plain().items() if key in group and key != "params")
    by_index = dict(enumerate(p for group in optimizer.param_groups for p in group["params"]))
    for index, buffers in packed["state"].items():
        group = _group_of(optimizer, by_index[index])
        if group.get("slice_p", 1) > 1:
            packed["state"][index] = _expanded(optimizer, by_index[index], buffers, group)
    return packed


def _group_of(optimizer: "LearningRateFree", p: Tensor) -> Dict:
    return next(group for group in optimizer.param_groups if any(q is p for q in group["params"]))


def _expanded(optimizer: "LearningRateFree", p: Tensor, buffers: Dict, group: Dict) -> Dict:
    place = resolve([p])[0]
    cut = states.cut_of(place, group)
    specs = optimizer.method.buffers(group)
    return {n: states.expand(p, t, place, cut) if specs[n].sliced and cut is not None else t for n, t in buffers.items()}


def load(optimizer: "LearningRateFree", state_dict: Dict) -> None:
    """Check everything, then replace state and groups. Raises ValueError with nothing changed."""
    state_dict = dict(state_dict)
    for hook in optimizer._optimizer_load_state_dict_pre_hooks.values():
        replaced = hook(optimizer, state_dict)
        state_dict = state_dict if replaced is None else replaced
    groups = [dict(group) for group in state_dict["param_groups"]]
    _check_groups(optimizer, groups)
    pairs = _pairs(optimizer, groups, state_dict["state"])
    _check_buffers(optimizer, groups, pairs)
    state = {p: _restored(optimizer, p, buffers, group) for p, buffers, group in pairs}
    values = {group["estimate"]: group for group in groups}
    merged = [_merged(live, saved) for live, saved in zip(optimizer.param_groups, groups, strict=True)]
    fresh: Any = type(optimizer.state)(dict)
    fresh.update(state)
    for name, saved in values.items():
        optimizer.step_size.load(name, saved)
    optimizer._anchored = set(state) if optimizer.step_size.steps > 0 else set()
    optimizer.__setstate__({"state": fresh, "param_groups": merged})
    for post in optimizer._optimizer_load_state_dict_post_hooks.values():
        post(optimizer)


def _merged(live: Dict, saved: Dict) -> Dict:
    merged = {key: deepcopy(value) for key, value in saved.items() if key != "params"}
    merged["params"] = live["params"]
    if "param_names" in live:
        merged.setdefault("param_names", live["param_names"])
    return merged


def _check_groups(optimizer: "LearningRateFree", groups: list[Dict]) -> None:
    name = optimizer.method.name
    if [len(group["params"]) for group in groups] != [len(group["params"]) for group in optimizer.param_groups]:
        raise ValueError(
            f"the checkpoint has parameter groups of {[len(group['params']) for group in groups]} parameters, the optimizer of "
            f"{[len(group['params']) for group in optimizer.param_groups]}: build the optimizer with the groups it was saved with."
        )
    for index, group in enumerate(groups):
        found = group.get("method")
        if found != name:
            what = f"of the method {found!r}" if found else "of another optimizer"
            raise ValueError(
                f"the checkpoint is {what}, this optimizer is {name!r}. A checkpoint of prodigyopt or dadaptation is made "
                "loadable by dadapt_dist.checkpoint.convert(state_dict, method)."
            )
        missing = (set(optimizer.defaults) | set(optimizer.step_size.scalars.values) | {"steps"}) - set(group) - {"differentiable"}
        if missing:
            raise ValueError(f"group {index} of the checkpoint lacks {listed(missing)}; {name} cannot continue without them.")
        optimizer.step_size.scalars.row(group["estimate"])  # raises for an estimate that does not exist


def _pairs(optimizer: "LearningRateFree", groups: list[Dict], state: Dict) -> list[tuple[Tensor, Dict, Dict]]:
    """(parameter, saved buffers, saved group) of every parameter that has saved state."""
    pairs = []
    for live, group in zip(optimizer.param_groups, groups, strict=True):
        for p, index in zip(live["params"], group["params"], strict=True):
            if state.get(index):
                pairs.append((p, state[index], group))
    return pairs


def _check_buffers(optimizer: "LearningRateFree", groups: list[Dict], pairs: list[tuple[Tensor, Dict, Dict]]) -> None:
    steps = max(int(group["steps"]) for group in groups)
    trainable = any(p.requires_grad for group in optimizer.param_groups for p in group["params"])
    if steps > 0 and trainable and not pairs:
        raise ValueError(
            f"the checkpoint was saved after {steps} steps but holds no buffers of any parameter; d alone cannot continue it. "
            "(FSDP1 with sharded state dicts drops them under some wrappers: save with torch.distributed.checkpoint.)"
        )
    limit = optimizer.step_size.freeze_after
    frozen = limit is not None and steps >= limit
    for p, buffers, group in pairs:
        specs = optimizer.method.buffers(group)
        missing = {n for n, spec in specs.items() if n not in buffers and not (frozen and spec.statistic)}
        if missing:
            hint = " It was saved frozen: pass the same freeze_after." if all(specs[n].statistic for n in missing) else ""
            raise ValueError(f"the checkpoint lacks the buffers {listed(missing)} of a parameter of shape {tuple(p.shape)}.{hint}")
        for name in set(specs) & set(buffers):
            if tuple(buffers[name].shape) != tuple(p.shape):
                raise ValueError(
                    f"the checkpoint's {name} has shape {tuple(buffers[name].shape)}, its parameter {tuple(p.shape)}: the model "
                    "or its sharding is another one. Reshard with torch.distributed.checkpoint."
                )


def _restored(optimizer: "LearningRateFree", p: Tensor, buffers: Dict, group: Dict) -> dict[str, Tensor]:
    """The buffers as this optimizer keeps them: on the parameter's device, in no lower precision than saved, copied."""
    dtype = optimizer.state_dtype or torch.promote_types(p.dtype, torch.float32)
    limit = optimizer.step_size.freeze_after
    frozen = limit is not None and int(group["steps"]) >= limit
    place: Placement = resolve([p])[0]
    cut = states.cut_of(place, group)
    restored = {}
    for name, spec in optimizer.method.buffers(group).items():
        if name not in buffers or (frozen and spec.statistic):
            continue
        t = buffers[name].detach()
        t = t.to(device=p.device, dtype=torch.promote_types(t.dtype, dtype), copy=True)
        restored[name] = states.compress(t, place, cut) if spec.sliced and cut is not None else t
    return restored
