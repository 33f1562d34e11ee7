"""Validate the structure, numbers and tensors of a checkpoint before anything changes."""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from ...methods import Buffer, Method
from ...options.checks import listed
from ...options.fields import NOTHING, numbers
from ..estimate_state import TENSORS, estimates_of
from ..shared_options import differs

Dict = dict[str, Any]
FORMAT = 1
"""The form of our state dicts, in every group under "format". Checkpoints without it are of the form before it had a number."""

WHERE_FROM = "pass what optimizer.state_dict() returned."
GO_BACK = "Go back to an earlier checkpoint."
COUNTS = ("k", "held", "steps", "started", "updates", "averaged")
DISTANCES = ("d", "d_max")
NORMS = ("g0_norm", "gsq_weighted", "given_d")
SQUARES = ("g_sq_sum", "weighted_sum")  # never squared again
NONE: Mapping[str, int] = {}
LARGEST_COUNT = 2**53  # counts are kept in float64
LARGEST_DISTANCE = torch.finfo(torch.float32).max
LARGEST_SUM = 1e154  # its square is a float64
TRAIN, EVAL = "train", "eval"
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


# ---------------------------------------------------------------- structure


def check_format(group: Mapping[str, Any], where: str) -> None:
    """Raise ValueError for a group of a form that only a newer version knows."""
    number = group.get("format", FORMAT)
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise ValueError(f"{where}: format={number!r} must be an integer >= 1. {GO_BACK}")
    if number > FORMAT:
        raise ValueError(
            f"{where} has the format {number}, made by a newer dadapt-dist; this one reads up to {FORMAT}: update dadapt-dist."
        )


def check_fixed(method: Method, group: Mapping[str, Any], live: Mapping[str, Any], where: str) -> None:
    """Raise ValueError for a group with another value of an option that a run keeps to its end."""
    for name in method.fixed_options:
        if differs(group, live, name):
            saved, own = group.get(name), live.get(name)
            raise ValueError(
                f"{where} has {name}={saved!r}, and the optimizer {name}={own!r}: a run keeps it to its end. "
                f"Build the optimizer with {name}={saved!r}, or begin a new run."
            )


def parts_of(checkpoint: Any) -> tuple[list[Dict], Mapping[Any, Any]]:
    """(groups, state) of a state dict, the groups copied; ValueError, naming what is broken, where it is none."""
    if not isinstance(checkpoint, Mapping):
        raise ValueError(f"the checkpoint is of the type {type(checkpoint).__name__}, not a dict: {WHERE_FROM}")
    flat = any(isinstance(key, str) and key.startswith(("param_groups.", "state.")) for key in checkpoint)
    missing = {"state", "param_groups"} - set(checkpoint)
    if missing:
        cure = (
            "it is flattened: load it with torch.distributed.checkpoint.state_dict.set_optimizer_state_dict, with "
            "flatten_optimizer_state_dict=True."
        )
        raise ValueError(f"the checkpoint lacks {listed(missing)}: {cure if flat else WHERE_FROM}")
    groups, state = checkpoint["param_groups"], checkpoint["state"]
    if not isinstance(groups, (list, tuple)) or not all(isinstance(group, Mapping) for group in groups):
        raise ValueError(f"param_groups of the checkpoint must be a list of dicts: {WHERE_FROM}")
    if not isinstance(state, Mapping):
        raise ValueError(f"state of the checkpoint is of the type {type(state).__name__}, not a dict: {WHERE_FROM}")
    _check_indices(groups)
    return [dict(group) for group in groups], state


def _check_indices(groups: Iterable[Mapping[str, Any]]) -> None:
    indices: Counter[Any] = Counter()
    for number, group in enumerate(groups):
        params = group.get("params")
        if not isinstance(params, (list, tuple)) or not all(isinstance(index, (int, str)) for index in params):
            raise ValueError(
                f"group {number} of the checkpoint: params={params!r} must be a list of indices: {WHERE_FROM}"
            )
        indices.update(params)
    repeated = [index for index, count in indices.items() if count > 1]
    if repeated:
        raise ValueError(
            f"the groups of the checkpoint name the parameter {listed(repeated)} more than once. {GO_BACK}"
        )


def check_entries(groups: Iterable[Mapping[str, Any]], state: Mapping[Any, Any], buffers: Collection[str]) -> None:
    """Raise ValueError for state that is no dict, and for buffers of a parameter that no group has."""
    known = {index for group in groups for index in group["params"]}
    for key, entry in state.items():
        if key in known and entry is not None and not isinstance(entry, Mapping):
            raise ValueError(
                f"the checkpoint's state of parameter {key!r} is of the type {type(entry).__name__}, not a dict. {GO_BACK}"
            )
        if key not in known and isinstance(entry, Mapping) and not set(buffers).isdisjoint(entry):
            raise ValueError(
                f"the checkpoint has state of a parameter {key!r} that is in none of its groups. {GO_BACK}"
            )


# ---------------------------------------------------------------- numbers


def numbers_of(group: Mapping[str, Any], names: Iterable[str], where: str, lengths: Mapping[str, int] = NONE) -> Dict:
    """These scalars of a saved group as python numbers; ValueError for one that cannot be right.

    lengths: of those that are vectors.
    """
    return {name: scalar(name, group[name], where, lengths.get(name)) for name in names}


def scalars_of(
    group: Mapping[str, Any], names: Iterable[str], where: str, lengths: Mapping[str, int] = NONE
) -> dict[str, Dict]:
    """These scalars of a saved group, as `numbers_of`, by estimate: of the group's one, or of each of its tensors."""
    if TENSORS not in group:
        return {group["estimate"]: numbers_of(group, names, where, lengths)}
    estimates, spread = [*estimates_of(group)], {}
    for name in names:
        value = group[name].tolist() if isinstance(group[name], Tensor) else group[name]
        of_all = [value] * len(estimates) if name == "steps" else value
        if not isinstance(of_all, (list, tuple)) or len(of_all) != len(estimates):
            raise ValueError(
                f"{where}: {name}={value!r} must be {len(estimates)} numbers, one for each tensor. {GO_BACK}"
            )
        spread[name] = of_all
    return {
        estimate: numbers_of({name: of_all[place] for name, of_all in spread.items()}, spread, where, lengths)
        for place, estimate in enumerate(estimates)
    }


def check_order(values: Mapping[str, Any], where: str) -> None:
    """Raise ValueError for a d above the largest estimate so far."""
    if {"d", "d_max"} <= set(values) and values["d_max"] < values["d"]:
        raise ValueError(
            f"{where}: d_max={values['d_max']!r} is less than d={values['d']!r}; it is the largest estimate so far. {GO_BACK}"
        )


def scalar(name: str, value: Any, where: str, length: int | None = None) -> Any:
    """A scalar of an estimate as a python number: d > 0, counts whole and >= 0, sums finite. ValueError for another.

    length: of a vector, which is read as a tuple; None: it is none.
    """
    if length is not None:
        members = numbers(value)
        if members is NOTHING or len(members) != length:
            raise ValueError(f"{where}: {name}={value!r} cannot be read; it must be {length} numbers. {GO_BACK}")
        return tuple(scalar(name, member, where) for member in members)
    number = _plain(value)
    if name in COUNTS:
        right, allowed = number is not None and 0 <= number <= LARGEST_COUNT and number % 1 == 0, "a whole number >= 0"
    elif name in DISTANCES:
        right = number is not None and 0 < number <= LARGEST_DISTANCE
        allowed = f"finite, > 0 and at most {LARGEST_DISTANCE:.1e}"
    else:
        lowest = 0 if name in (*NORMS, *SQUARES) else -LARGEST_SUM
        highest = torch.finfo(torch.float64).max if name in SQUARES else LARGEST_SUM
        right = number is not None and lowest <= number <= highest
        allowed = f"finite, >= {lowest:g} and <= {highest:g}"
    if number is None or not right:
        raise ValueError(f"{where}: {name}={value!r} is out of range; it must be {allowed}. {GO_BACK}")
    return int(number) if name in COUNTS else float(number)


def _plain(value: Any) -> Any:  # Any: numpy's numbers are real ones by registration
    """A real number, also one in a tensor or array of one element; None for anything else."""
    if getattr(value, "ndim", None) is not None and hasattr(value, "item"):  # a tensor, or numpy's
        if (value.numel() if isinstance(value, Tensor) else value.size) != 1:
            return None
        try:
            value = value.item()
        except RuntimeError:  # a tensor without data
            return None
    return None if isinstance(value, bool) or not isinstance(value, Real) else value


def loaded_mode(groups: Iterable[Mapping[str, Any]]) -> str:
    """The mode of the groups of a checkpoint. Raises ValueError for one that does not exist, or several."""
    found = {str(group.get("mode", TRAIN)) for group in groups} or {TRAIN}
    if len(found) > 1 or not found <= {TRAIN, EVAL}:
        raise ValueError(
            f"the groups of the checkpoint have the modes {', '.join(sorted(found))}; all must have 'train', or all 'eval'. Load "
            "a checkpoint that this optimizer saved whole."
        )
    return found.pop()


# ---------------------------------------------------------------- tensors


def check_kind(name: str, t: Any, shape: torch.Size) -> None:
    """Raise ValueError for a buffer that is not a strided real tensor with data."""
    found = None
    if not isinstance(t, Tensor):
        found = f"of the type {type(t).__name__}"
    elif t.is_nested or t.layout is not torch.strided:
        found = "nested" if t.is_nested else f"sparse ({t.layout})"
    elif t.dtype not in DTYPES:
        found = f"of the dtype {t.dtype}"
    elif t.is_meta:
        found = "on the meta device, without data"
    if found:
        raise ValueError(
            f"the checkpoint's {name} of a parameter of shape {tuple(shape)} is {found}; it must be a dense tensor of "
            f"{listed(map(str, DTYPES))}. {GO_BACK}"
        )


def check_elements(name: str, spec: Buffer, local: Tensor, shape: torch.Size, dtype: torch.dtype) -> None:
    """Raise ValueError for a buffer with elements that no step can have left there; waits for its device.

    They are finite, not below 0 where they are squares, and not beyond what the parameter's arithmetic can hold. A buffer that
    starts as NaN ("nothing seen yet") may hold that.
    """
    if local.numel() == 0:
        return
    if spec.init != "param" and spec.init != spec.init:  # NaN
        local = local.nan_to_num(nan=0.0, posinf=math.inf, neginf=-math.inf)
    low, high = (float(end) for end in torch.aminmax(local))  # NaN is both ends
    largest = torch.finfo(torch.promote_types(dtype, torch.float32)).max
    found = None
    if not (math.isfinite(low) and math.isfinite(high)):
        found = "that are not finite"
    elif spec.squares and low < 0:
        found = f"below 0 ({low:g}), and is made of squares"
    elif max(-low, high) > (largest * largest if spec.squares else largest):
        found = f"as large as {max(-low, high):g}, which a parameter of {dtype} cannot have had"
    if found:
        raise ValueError(
            f"the checkpoint's {name} of a parameter of shape {tuple(shape)} has elements {found}. {GO_BACK}"
        )
