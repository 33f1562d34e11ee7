"""Save and load the state dict; a load checks everything before it changes anything.

Scalars lie in the groups as python numbers under a key set that is fixed at construction, equal on all ranks. Buffers
lie in `state` as tensors in the shape and placement of their parameter, so torch.distributed.checkpoint and FSDP1
reshard them.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from typing import Any

from torch import Tensor

from ...methods import Buffer
from ...options.checks import assigned, check_options, listed
from ...sharding.dtensor import is_dtensor
from ...sharding.registry import resolve
from ...sharding.shard import LocalShard
from ..estimate_state import TENSORS, estimates_of
from ..members import Saves
from . import foreign_entries, param_state, replaced_groups
from .buffers import needed_by, note_loaded
from .validation import (
    GO_BACK,
    check_elements,
    check_entries,
    check_fixed,
    check_format,
    check_kind,
    check_order,
    loaded_mode,
    numbers_of,
    parts_of,
    scalars_of,
)

Dict = dict[str, Any]
logger = logging.getLogger(__name__)


def save(optimizer: Saves, pack: Callable[[], Dict]) -> Dict:
    """The state dict. Waits for the reduce under way and calls no collective."""
    optimizer.step_size._settle()
    optimizer.step_size._adopt()
    optimizer.step_size._roster.accept_restored()
    replaced_groups.adopt(optimizer)
    foreign_entries.check_keys(optimizer.state, [p for group in optimizer.param_groups for p in group["params"]])
    packed = pack()
    _make_plain(optimizer, packed["param_groups"])
    entries = [(p, group) for group in optimizer._all_groups for p in group["params"]]
    sliced = [i for i, (_, group) in enumerate(entries) if i in packed["state"] and group.get("slice_p", 1) > 1]
    for index, places in zip(sliced, resolve([entries[index][0] for index in sliced]), strict=True):
        p, group = entries[index]
        packed["state"][index] = _expanded(optimizer, p, group, packed["state"][index], places[0])
    return packed


def _make_plain(optimizer: Saves, groups: list[Dict]) -> None:
    """Replace scalars and options in the groups of a state dict by python numbers. ValueError for an option that cannot be."""
    table, steps, checks = optimizer.step_size._scalars, optimizer.step_size.steps, optimizer._method.options.checks()
    values = table.lists()
    for index, (group, own) in enumerate(zip(groups, optimizer._all_groups, strict=True)):
        rows, where = table.rows_of(own), f"{type(optimizer).__name__} group {index}"
        options = {key: assigned(key, own[key], checks, where) for key in group if key not in ("params", "lr")}
        group.update(
            options | {name: of_all[rows] for name, of_all in values.items() if name in own} | {"steps": steps}
        )
        group["lr"] = float(own["lr"])  # perhaps a tensor that its owner goes on changing


def _expanded(optimizer: Saves, p: Tensor, group: Dict, buffers: Dict, place: LocalShard) -> Dict:
    cut = param_state.cut_of(place, group)
    if cut is None:
        return buffers
    sliced = {name for name, spec in optimizer._method.buffers(group).items() if spec.sliced}
    return {
        name: param_state.expand(p, t, place, cut)
        if name in sliced and not param_state.is_whole(p, t, place, cut)
        else t
        for name, t in buffers.items()
    }


def load(optimizer: Saves, state_dict: Dict) -> None:
    """Check everything, then replace state and groups. Raises ValueError with nothing changed."""
    groups, saved = parts_of(_after_pre_hooks(optimizer, state_dict))
    optimizer.step_size._check_settled()
    replaced_groups.adopt(optimizer)
    groups, estimates = _checked_groups(optimizer, groups)
    check_entries(groups, saved, {name for group in groups for name in optimizer._method.buffers(group)})
    pairs = _pairs(optimizer, groups, saved)
    _check_buffers(optimizer, groups, pairs, _frozen_then(groups, saved))
    places = resolve([p for p, _, _ in pairs])
    for (p, buffers, group), parts in zip(pairs, places, strict=True):
        _check_values(optimizer._method.buffers(group), buffers, p, parts)
    state = {
        p: _restored(optimizer, p, buffers, group, place[0])
        for (p, buffers, group), place in zip(pairs, places, strict=True)
    }
    mode = loaded_mode(groups) if optimizer._has_modes else optimizer._mode
    others = foreign_entries.of_nobody(saved, {index for group in groups for index in group["params"]})
    merged = [_merged(optimizer, live, group) for live, group in zip(optimizer._all_groups, groups, strict=True)]
    fresh: Any = type(optimizer.state)(dict)
    fresh.update(state | others)
    for estimate, group in estimates.items():
        optimizer.step_size._load(estimate, group)
    optimizer._mode, optimizer._mapped = mode, frozenset()
    optimizer.__setstate__({"state": fresh, "param_groups": merged})
    note_loaded(optimizer)
    for post in optimizer._optimizer_load_state_dict_post_hooks.values():
        post(optimizer)


def _after_pre_hooks(optimizer: Saves, state_dict: Any) -> Any:
    state_dict = dict(state_dict) if isinstance(state_dict, Mapping) else state_dict
    for hook in optimizer._optimizer_load_state_dict_pre_hooks.values():
        replaced = hook(optimizer, state_dict)
        state_dict = state_dict if replaced is None else replaced
    return state_dict


def _merged(optimizer: Saves, live: Dict, saved: Dict) -> Dict:
    merged = {key: deepcopy(value) for key, value in saved.items() if key not in ("params", TENSORS)}
    if TENSORS in live:
        merged[TENSORS] = live[TENSORS]
    merged["params"] = live["params"]
    optimizer._method.options.leave_out(merged)
    if "param_names" in live:
        merged.setdefault("param_names", live["param_names"])
    return merged


def _checked_groups(optimizer: Saves, groups: list[Dict]) -> tuple[list[Dict], dict[str, Dict]]:
    """(the groups with their options as they are read, the same of each estimate with its scalars as python numbers)."""
    _check_counts([len(group["params"]) for group in groups], [len(group["params"]) for group in optimizer._all_groups])
    _check_names(groups, optimizer._all_groups)
    names = (*optimizer.step_size._scalars.values, "steps")
    checked: list[Dict] = []
    first: dict[str, Dict] = {}  # of each estimate
    for index, (group, live) in enumerate(zip(groups, optimizer._all_groups, strict=True)):
        where = f"group {index} of the checkpoint"
        _check_tensors(group, live, where)
        options = _check_group(optimizer, group, live, where)
        known = [name for name in names if name in group or name not in optimizer._method.later_scalars]
        found = scalars_of(group, known, where, optimizer.step_size._scalars.lengths)
        for estimate, scalars in found.items():
            found[estimate] = scalars = optimizer._method.assumed(scalars, options) | scalars
            one = group | options | scalars
            _check_agree(first.setdefault(estimate, one), one, {*known, *optimizer._method.shared_options(one)})
            check_order(one, where)
        checked.append(group | options | _of_group(found, live, names, where, group))
    return checked, first


def _of_group(found: dict[str, Dict], live: Dict, names: Iterable[str], where: str, group: Dict) -> Dict:
    """The scalars of a live group, from those of its estimates."""
    if TENSORS not in live:
        return found[group["estimate"]]
    vectors = {name: [found[estimate][name] for estimate in live[TENSORS]] for name in names}
    return vectors | numbers_of(group, ("steps",), where)


def _check_tensors(group: Dict, live: Dict, where: str) -> None:
    """Raise ValueError where only one side has an estimate for each tensor; the names of the live tensors, where others were."""
    saved, own = group.get(TENSORS), live.get(TENSORS)
    if (saved is None) != (own is None):
        has = "one d for all its tensors" if saved is None else "one d for each tensor"
        cure = "without estimates=" if saved is None else 'with estimates="per_tensor"'
        raise ValueError(f"{where} has {has}, and this optimizer has not: build it {cure}, as the one that was saved.")
    if own is None:
        return
    if not isinstance(saved, (list, tuple)) or len(saved) != len(own):
        raise ValueError(f"{where}: {TENSORS} must be {len(own)} names, one for each tensor. {GO_BACK}")
    if {*saved} != {*own}:  # parameters have other names, or had none: they are the same by their order, as for torch
        group[TENSORS] = own


def _check_counts(there: list[int], here: list[int]) -> None:
    if there == here:
        return
    what = f"the checkpoint has parameter groups of {there} parameters, the optimizer of {here}"
    if len(here) > len(there) and here[: len(there)] == there:
        cure = (
            f"Groups were added since it was saved: build the optimizer with the first {len(there)}, load, and give it the "
            "others with optimizer.add_param_group, where they take the d of their estimate."
        )
    elif len(here) == len(there) and all(new >= old for new, old in zip(here, there, strict=True)):
        cure = (
            "Parameters were added to a group since it was saved: build the optimizer without them, load, and give it the new "
            "ones as a group of their own with optimizer.add_param_group, where they take the d of their estimate."
        )
    else:
        cure = "Build the optimizer with the groups it was saved with."
    raise ValueError(f"{what}. {cure}")


def _check_names(groups: list[Dict], live: list[Dict]) -> None:
    """Raise ValueError where the same names stand in another order: buffers go by the place, and would be others' ones.

    Names that differ say nothing, for wrappers rename parameters; nor do places that are names themselves, whose state was
    found by them.
    """
    there, here = ([name for group in side for name in group.get("param_names") or ()] for side in (groups, live))
    by_place = all(isinstance(place, int) for group in groups for place in group["params"])
    if by_place and there != here and sorted(there) == sorted(here):
        at, (saved, own) = next(
            (at, pair) for at, pair in enumerate(zip(there, here, strict=True)) if pair[0] != pair[1]
        )
        raise ValueError(
            f"parameter {at} of the checkpoint is {saved!r}, of the optimizer {own!r}: the parameters have another order, and "
            "state is loaded by place. Pass them in the order in which they were saved, or load with "
            "torch.distributed.checkpoint.state_dict.set_optimizer_state_dict, which goes by name."
        )


def _check_group(optimizer: Saves, group: Dict, live: Dict, where: str) -> Dict:
    """The options of a saved group, as plain python; it gets those that are newer than it."""
    if set(group) == {"params"}:  # what torch makes of a group whose parameters it finds in no group of the checkpoint
        raise ValueError(
            f"{where} has parameters and no options: the checkpoint has the groups of other parameters, such as those of another "
            "pipeline stage, whose list of groups took the place of this one's. Save and load with "
            "StateDictOptions(flatten_optimizer_state_dict=True)."
        )
    name, found, scalars = optimizer._method.name, group.get("method"), optimizer.step_size._scalars
    if not isinstance(found, str) or found != name:
        what = "of another optimizer" if found is None else f"of the method {found!r}"
        raise ValueError(
            f"the checkpoint is {what}, this optimizer is {name!r}. A checkpoint of prodigyopt or dadaptation is made "
            "loadable by dadapt_dist.checkpoint.convert(state_dict, method)."
        )
    check_format(group, where)
    checks = optimizer._method.options.checks()
    for key in optimizer._method.options.later() - set(group):
        group[key] = checks[key].usual
    check_fixed(optimizer._method, group, live, where)
    needed = {*optimizer.defaults, *scalars.values, "steps"} - {"differentiable", *optimizer._method.later_scalars}
    missing = needed - set(group)
    if missing:
        raise ValueError(
            f"{where} lacks {listed(missing)}; {name} cannot continue without them. Load a checkpoint that this "
            "optimizer saved whole."
        )
    options = check_options({key: group[key] for key in optimizer.defaults if key in group}, checks, where)
    optimizer._method.completed(options, where)  # raises for what contradicts itself
    for name in estimates_of({**group, **options}):
        scalars.row(name)  # raises for an estimate that does not exist
    return options


def _check_agree(first: Dict, group: Dict, names: Iterable[str]) -> None:
    """One estimate has one value of each scalar and constant, in whichever of its groups it is read."""
    differ = {key for key in names if group.get(key) != first.get(key)}
    if differ:
        raise ValueError(
            f"groups of the estimate {group['estimate']!r} differ in {listed(differ)} in the checkpoint: one d has one "
            "value of each."
        )


def _pairs(optimizer: Saves, groups: list[Dict], state: Mapping[Any, Any]) -> list[tuple[Tensor, Dict, Dict]]:
    """(parameter, saved buffers, saved group) of every parameter that has saved state."""
    pairs = []
    for live, group in zip(optimizer._all_groups, groups, strict=True):
        for p, index in zip(live["params"], group["params"], strict=True):
            if state.get(index):
                pairs.append((p, state[index], group))
    return pairs


def _frozen_then(groups: list[Dict], state: Mapping[Any, Any]) -> bool:
    """Return whether nothing was trainable when this was saved; `buffers.prepare` then leaves an empty entry."""
    entries = [state[index] for group in groups for index in group["params"] if index in state]
    return bool(entries) and not any(entries)


def _check_buffers(
    optimizer: Saves, groups: list[Dict], pairs: list[tuple[Tensor, Dict, Dict]], frozen_then: bool
) -> None:
    steps = max(int(group["steps"]) for group in groups)
    trainable = [p for group in optimizer._all_groups for p in group["params"] if p.requires_grad]
    ours = [
        (p, buffers, group)
        for p, buffers, group in pairs
        if not optimizer._method.buffers(group).keys().isdisjoint(buffers)
    ]
    if steps > 0 and trainable and not ours and not frozen_then:
        raise ValueError(
            f"the checkpoint was saved after {steps} steps but holds no buffers of any parameter; d alone cannot "
            "continue it. (FSDP1 with sharded state dicts drops them under some wrappers: save with "
            "torch.distributed.checkpoint.)"
        )
    known = {p for p, _, _ in ours}
    fresh = sum(p not in known and p.numel() > 0 for p in trainable)
    if steps > 0 and fresh:  # right for parameters that were frozen or not there, so no error
        logger.warning("the checkpoint holds no buffers of %d trainable parameters: they start afresh", fresh)
    for p, buffers, group in ours:
        specs = optimizer._method.buffers(group)
        missing = set(needed_by(optimizer, group)) - set(buffers)
        if missing:
            dropped = all(specs[n].statistic for n in missing)
            hint = " It was saved frozen: pass the same freeze_after." if dropped else ""
            raise ValueError(
                f"the checkpoint lacks the buffers {listed(missing)} of a parameter of shape {tuple(p.shape)}.{hint}"
            )
        for name in set(specs) & set(buffers):
            check_kind(name, buffers[name], p.shape)
            _check_place(name, buffers[name], p)


def _check_values(specs: dict[str, Buffer], buffers: Dict, p: Tensor, parts: list[LocalShard]) -> None:
    """Padding, in which a framework may leave anything, belongs to no part."""
    for name in set(specs) & set(buffers):
        for part in parts:
            check_elements(name, specs[name], part.part(buffers[name].detach()), p.shape, p.dtype)


def _check_place(name: str, t: Tensor, p: Tensor) -> None:
    if tuple(t.shape) != tuple(p.shape):
        raise ValueError(
            f"the checkpoint's {name} has shape {tuple(t.shape)}, its parameter {tuple(p.shape)}: the model or its "
            "sharding is another one. Reshard with torch.distributed.checkpoint."
        )
    there, here = ((x.device_mesh, x.placements) if is_dtensor(x) else "whole" for x in (t, p))
    if there != here:
        raise ValueError(
            f"the checkpoint's {name} of a parameter of shape {tuple(p.shape)} is placed as {there}, the parameter as "
            f"{here}. Load it with torch.distributed.checkpoint.state_dict.set_optimizer_state_dict."
        )


def _restored(optimizer: Saves, p: Tensor, buffers: Dict, group: Dict, place: LocalShard) -> Dict:
    """The buffers as this optimizer keeps them: on the parameter's device, in no lower precision than saved, copied."""
    cut, specs = param_state.cut_of(place, group), optimizer._method.buffers(group)
    restored = foreign_entries.entries(buffers, specs, p.device)
    for name, spec in needed_by(optimizer, group).items():
        if name not in buffers:
            continue
        t = buffers[name].detach()
        t = t.to(device=p.device, dtype=optimizer._dtypes.restored(p, spec, t.dtype), copy=True)
        restored[name] = param_state.compress(t, place, cut) if spec.sliced and cut is not None else t
    return restored
