"""Validate state that DeepSpeed's universal loader wrote directly into the optimizer, without load_state_dict.

DeepSpeed does so with universal checkpoints. Such a load is complete when every buffer came along; only then may a step
use it. An x0 of before, next to a d and a numerator of the checkpoint, would train on without a sign of being wrong.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ...engine.state.buffers import needed_by, note_loaded
from ...engine.state.validation import check_elements, check_format, check_kind, check_order, loaded_mode, numbers_of
from ...engine.step_plan import PlanCache
from ...options.checks import check_options, listed
from ...sharding.registry import resolve

if TYPE_CHECKING:
    from ...engine.optimizer import LearningRateFree

MARK = "universal"
"""The key, in each group of a universal checkpoint that `dadapt_dist.universal` wrote, under which its buffers are named."""
WHERE = "the checkpoint that the framework has loaded"
CURE = "Load it with dadapt_dist.universal.load(engine, folder)."


def accept(optimizer: "LearningRateFree") -> None:
    """Go on from a checkpoint that a framework has put into state and groups, key by key. In place.

    Raises ValueError, naming what is missing, when the checkpoint is another method's or did not come whole.
    """
    groups = [dict(group) for group in optimizer._all_groups]
    for index, group in enumerate(groups):
        check_method(optimizer, group, f"group {index} of the checkpoint that the framework has loaded")
        check_names(optimizer, group)
    if any("step" in optimizer.state[p] for _, p in optimizer._all_params()):
        raise ValueError(
            f"DeepSpeed's loader of ZeRO-3 has read the weights, exp_avg and exp_avg_sq; not "
            f"{listed(set(groups[0].get(MARK, ())) - ADAMS) or 'the options of every group'}. {CURE}"
        )
    complete(optimizer, groups)


def check_method(optimizer: "LearningRateFree", group: Mapping[str, Any], where: str) -> None:
    """Raise ValueError for a group of another method or a newer form, and for scalars and options that cannot be right."""
    if not isinstance(group.get("method"), str) or group["method"] != optimizer._method.name:
        raise ValueError(
            f"{where} is of the method {group.get('method')!r}, this optimizer is {optimizer._method.name!r}: build the "
            "optimizer that the checkpoint was saved from, or another checkpoint."
        )
    check_format(group, where)
    names = (*optimizer.step_size._scalars.values, "steps")
    missing = set(names) - set(group) - set(optimizer._method.later_scalars)
    if missing:
        raise ValueError(f"{where} lacks {listed(missing)}; {optimizer._method.name} cannot continue without them.")
    there = [name for name in names if name in group]
    check_order(numbers_of(group, there, where, optimizer.step_size._scalars.lengths), where)
    check_options(
        {name: group[name] for name in optimizer.defaults if name in group}, optimizer._method.options.checks(), where
    )


def check_names(optimizer: "LearningRateFree", group: Mapping[str, Any]) -> None:
    """Raise ValueError when a universal checkpoint lacks buffers of a group."""
    needed = set(needed_by(optimizer, group))
    if MARK not in group and needed - ADAMS:
        raise ValueError(
            f"the universal checkpoint was made by DeepSpeed's own converter, which leaves out {listed(needed - ADAMS)}. Make "
            "it anew from the checkpoint that was saved: dadapt-dist universal IN OUT."
        )
    missing = needed - set(group.get(MARK, ADAMS))
    if missing:
        raise ValueError(
            f"the universal checkpoint lacks the buffers {listed(missing)}, which {optimizer._method.name} needs; it has "
            f"{listed(group.get(MARK, ADAMS))}. It was saved with other options (betas, freeze_after): give the optimizer those."
        )


ADAMS = {"exp_avg", "exp_avg_sq"}  # what DeepSpeed's converter knows


def complete(optimizer: "LearningRateFree", saved: Iterable[Mapping[str, Any]]) -> None:
    """Make the optimizer's scalars, counters and anchors those of the saved groups; its state holds their buffers."""
    names = (*optimizer.step_size._scalars.values, "steps")
    lengths = optimizer.step_size._scalars.lengths
    assumed, usual = optimizer._method.assumed, optimizer._method.options.defaults()
    whole = [{**assumed(group, {**usual, **group}), **group} for group in saved]
    estimates = {group["estimate"]: {**group, **numbers_of(group, names, WHERE, lengths)} for group in whole}
    _check_buffers(optimizer)
    if optimizer._has_modes:
        optimizer._mode, optimizer._mapped = loaded_mode(whole), frozenset()
    for estimate, group in estimates.items():
        optimizer.step_size._load(estimate, group)
    for group in optimizer._all_groups:
        group.pop(MARK, None)
        if optimizer._has_modes:
            group["mode"] = optimizer._mode
    for group, p in optimizer._all_params():
        state = optimizer.state[p]
        specs, dtypes = optimizer._method.buffers(group), optimizer._dtypes
        kept = {name: (spec, state[name]) for name, spec in specs.items() if name in state}
        state.update({name: t.to(dtypes.restored(p, spec, t.dtype)) for name, (spec, t) in kept.items()})
    note_loaded(optimizer)
    optimizer._plans = PlanCache()


def _check_buffers(optimizer: "LearningRateFree") -> None:
    """Raise ValueError for a buffer of the state that no run can have saved; padding, which may hold anything, is no part."""
    params = list(optimizer._all_params())
    for (group, p), parts in zip(params, resolve([p for _, p in params]), strict=True):
        specs, state = optimizer._method.buffers(group), optimizer.state[p]
        for name in (name for name in specs if name in state):
            check_kind(name, state[name], p.shape)
            for part in parts:
                check_elements(name, specs[name], part.part(state[name]), p.shape, p.dtype)
