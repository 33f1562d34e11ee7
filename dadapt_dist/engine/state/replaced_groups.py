"""Adopt parameter groups that somebody has replaced by other dicts: take over their scalars, or refuse them.

Trainers and wrappers replace groups (`optimizer.param_groups = new`, `param_groups[:] = new`, `optimizer.__setstate__`). What
such a group says of d would neither be used nor kept up to date.
"""

import logging
import math
from typing import Any

from ...options.checks import check_options
from ..estimate_state import TENSORS, estimates_of
from ..members import HasGroups, TakesScalars
from .validation import check_fixed, check_format, check_order, loaded_mode, scalars_of

logger = logging.getLogger(__name__)


def adopt(optimizer: HasGroups) -> None:
    """Let every group have the optimizer's options and scalars. In place.

    Where all groups of an estimate are new, the scalars that they hold are taken: they are a checkpoint's, or the present
    ones. One that joins groups of ours takes their scalars. Raises ValueError, with nothing changed, for what cannot be right.
    """
    groups = optimizer._all_groups
    ours = {*map(id, optimizer._bound_groups)}
    new = [(index, group) for index, group in enumerate(groups) if id(group) not in ours]
    if not new:
        return
    found = [_checked(optimizer, group, index) for index, group in new]
    mode = _mode_of(optimizer, [group for _, group in new], is_whole=len(new) == len(groups))
    live = {name for group in groups if id(group) in ours for name in estimates_of(group)}
    given: dict[str, dict[str, Any]] = {}
    for _, of_group in found:
        for estimate, scalars in of_group.items():
            if estimate not in live:
                _check_agree(given.setdefault(estimate, scalars), scalars, estimate)
    for (index, _), (options, _) in zip(new, found, strict=True):
        groups[index] = options
    if mode != optimizer._mode:
        optimizer._mode, optimizer._mapped = mode, frozenset()
    optimizer._bind_groups()
    of_estimate = {estimate: options for options, scalars in found for estimate in scalars}
    for estimate, scalars in given.items():
        _take(optimizer.step_size, estimate, _whole(optimizer, estimate, scalars, of_estimate[estimate]))


def _mode_of(optimizer: HasGroups, new: list[dict[str, Any]], is_whole: bool) -> str:
    """The mode of the parameters: that which new groups say, where all are new. ValueError where they contradict ours."""
    said = [group for group in new if "mode" in group]
    if not optimizer._has_modes or not said or (mode := loaded_mode(said)) == optimizer._mode:
        return optimizer._mode
    if not is_whole:
        raise ValueError(
            f"a new parameter group is in the mode {mode!r}, and the others are in {optimizer._mode!r}: parameters are in one or "
            f"the other. Call optimizer.{mode}() before the group is put in."
        )
    return mode


def _checked(optimizer: HasGroups, group: Any, index: int) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """(the group with the defaults of what it lacks, the scalars that it holds, by estimate)."""
    where = f"parameter group {index}"
    if not isinstance(group, dict) or "params" not in group:
        raise ValueError(f"{where} must be a dict with params: add groups with optimizer.add_param_group.")
    defaults = {
        name: value for name, value in optimizer.defaults.items() if name != "differentiable"
    }  # torch puts it there
    checks = optimizer._method.options.checks()
    absent = {name: checks[name].usual for name in optimizer._method.options.later() if "format" in group}
    options = {**defaults, **absent, **group}
    method = options.get("method", optimizer._method.name)
    if not isinstance(method, str) or method != optimizer._method.name:
        raise ValueError(
            f"{where} is of the method {options['method']!r}, the optimizer {optimizer._method.name!r}: take a checkpoint of it."
        )
    check_format(options, where)
    live = optimizer._bound_groups[index] if index < len(optimizer._bound_groups) else optimizer.defaults
    check_fixed(optimizer._method, options, live, where)
    options |= check_options({name: options[name] for name in defaults}, optimizer._method.options.checks(), where)
    optimizer._method.options.leave_out(options)
    options.pop(TENSORS, None)
    if index < len(optimizer._bound_groups) and TENSORS in optimizer._bound_groups[index]:
        options[TENSORS] = optimizer._bound_groups[index][TENSORS]
        if len(options["params"]) != len(options[TENSORS]):
            raise ValueError(
                f"{where} has {len(options['params'])} tensors, and there are estimates for {len(options[TENSORS])}: add tensors "
                "as a group of their own, with optimizer.add_param_group."
            )
    for name in estimates_of(options):
        optimizer.step_size._scalars.row(name)  # raises for an estimate that does not exist
    names = [name for name in (*optimizer.step_size._scalars.values, "steps") if name in options]
    scalars = scalars_of(options, names, where, optimizer.step_size._scalars.lengths)
    scalars = {estimate: _set_alone(optimizer.step_size, estimate, found) for estimate, found in scalars.items()}
    for of_estimate in scalars.values():
        check_order(of_estimate, where)
    return options, scalars


def _whole(optimizer: HasGroups, estimate: str, scalars: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """The scalars of another time, with those that no group shows."""
    moved = any(value != optimizer.step_size._value(estimate, name) for name, value in scalars.items())
    return optimizer._method.assumed(scalars, options) | scalars if moved and {"d", "k"} <= {*scalars} else scalars


def _set_alone(step_size: TakesScalars, estimate: str, scalars: dict[str, Any]) -> dict[str, Any]:
    """The d alone, where all else is as it is now: somebody has set it in a copy of the group, and the others follow."""
    changed = {name for name, value in scalars.items() if value != step_size._value(estimate, name)}
    return {"d": scalars["d"]} if changed == {"d"} else scalars


def _check_agree(first: dict[str, Any], scalars: dict[str, Any], estimate: str) -> None:
    differ = [name for name in first.keys() & scalars.keys() if first[name] != scalars[name]]
    if differ:
        name = sorted(differ)[0]
        raise ValueError(
            f"the new parameter groups of the estimate {estimate!r} differ in {name}: {first[name]!r} and {scalars[name]!r}. One "
            "d has one value of each: give all groups the same."
        )


def _take(step_size: TakesScalars, estimate: str, scalars: dict[str, Any]) -> None:
    before = {name: step_size._value(estimate, name) for name in (*step_size._scalars.values, "steps")}
    changed = {name for name, value in scalars.items() if value != before[name]}
    whole = scalars.keys() >= step_size._scalars.values.keys()  # then nothing has to follow d
    for name in sorted(changed - {"steps"}):
        step_size._set_value(estimate, name, scalars[name], alone=not whole)
    if "steps" in changed:
        step_size._restore(scalars["steps"])
    if changed & {"d", "steps"}:
        logger.warning(
            "the parameter groups were replaced by others: d goes on at %g, as they say, instead of %g, and steps at %d instead "
            "of %d",
            d := scalars.get("d", before.get("d", math.nan)),
            before.get("d", d),
            scalars.get("steps", before["steps"]),
            before["steps"],
        )
