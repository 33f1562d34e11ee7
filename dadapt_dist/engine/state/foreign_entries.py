"""Carry entries of the state that wrappers own, tensors and numbers, through saving and loading."""

from collections.abc import Collection, Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

Dict = dict[str, Any]


def entries(saved: Mapping[str, Any], ours: Collection[str], device: torch.device) -> Dict:
    """A parameter's entries that are no buffers of ours, copied; tensors on the parameter's device, as torch loads them."""
    staying = ("step", "direction.step")
    return {k: travelled(value, None if k in staying else device) for k, value in saved.items() if k not in ours}


def of_nobody(state: Mapping[Any, Any], parameters: Collection[Any]) -> dict[Any, Any]:
    """The entries of a state dict that belong to no parameter, copied."""
    return {key: travelled(value, None) for key, value in state.items() if key not in parameters}


def travelled(value: Any, device: torch.device | None) -> Any:
    """A copy that shares no tensor with the original; of what cannot be copied, the thing itself. device: None stays."""
    if isinstance(value, Tensor):
        copied = deepcopy(value) if value.is_leaf else value.detach().clone()
        return copied if device is None else copied.to(device)
    if type(value) in (dict, list, tuple, set):
        if isinstance(value, dict):
            return {key: travelled(item, device) for key, item in value.items()}
        return type(value)(travelled(item, device) for item in value)
    try:
        return deepcopy(value)
    except (TypeError, RuntimeError, NotImplementedError):
        return value


def check_keys(state: Mapping[Any, Any], params: Collection[Tensor]) -> None:
    """Raise ValueError for state that a state dict could not tell from a parameter's, or whose parameter is gone."""
    known = set(params)
    for key in state:
        if isinstance(key, Tensor) and key not in known:
            raise ValueError(
                f"the state has an entry of a tensor of shape {tuple(key.shape)} that is in none of the parameter groups: remove "
                "it, optimizer.state.pop(tensor), or give the state to the tensor that took its place."
            )
        if type(key) is int and 0 <= key < len(params):
            raise ValueError(
                f"the state has the key {key}, which in a state dict is the parameter at that place: use another key, such as a "
                "string."
            )
