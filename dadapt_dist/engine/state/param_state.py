"""Buffers of one parameter: their dtypes, the elements that they keep, and the checks before a step."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from ...errors import GradientError
from ...methods import METHODS, Buffer, Method
from ...methods.base import Dtypes
from ...methods.registry import class_name
from ...options.checks import TRAINABLE
from ...sharding.shard import LocalShard

Groups = Sequence[Mapping[str, Any]]


def check_params(params: Iterable[Tensor], dtype: torch.dtype | None, groups: Groups = ()) -> None:
    """Raise ValueError for a parameter that no method here can train with buffers of this dtype.

    Frozen ones of a model may be anything, such as weights quantized to 4 bits; each is looked at when it is to train.
    groups: where the errors find the parameter's name.
    """
    for p in (p for p in params if p.requires_grad or p.grad is not None or not isinstance(p, Parameter)):
        if dtype is not None and p.dtype in TRAINABLE and torch.promote_types(p.dtype, dtype) != dtype:
            raise ValueError(
                f"state_dtype={dtype} is narrower than the {p.dtype} of {described(p, groups)}: x0 would not "
                f"hold the parameter, and d would stay at d0. Use {p.dtype} or None."
            )
        if p.is_nested:
            raise ValueError("a parameter is a nested tensor, which has no elements of its own: train its values().")
        if p.dtype not in TRAINABLE:
            raise ValueError(
                f"{described(p, groups)} has dtype {p.dtype}; it must be a real floating dtype (float64, float32, "
                "bfloat16, float16). Give complex parameters as torch.view_as_real(p)."
            )


def check_narrow(params: Iterable[Tensor], method: Method, options: Mapping[str, Any], groups: Groups = ()) -> None:
    """Raise ValueError for parameters of a group that are narrower than the method can train with its options."""
    narrow = [p for p in params if p.requires_grad and p.dtype in (torch.bfloat16, torch.float16)]
    why = method.narrow_weights(options) if narrow else None
    if why is not None:
        raise ValueError(f"{described(narrow[0], groups)} has dtype {narrow[0].dtype}, and {why}.")


def check_gradient(
    p: Tensor, gradient: Tensor, local: Tensor, method: Method, options: Mapping[str, Any], groups: Groups
) -> None:
    """Raise for a gradient that the method cannot use, before anything of the step has happened.

    options: of its group. groups: where the errors find the parameter's name.
    """
    if gradient.is_sparse:
        if not method.sparse:
            others = " or ".join(class_name(other) for other in METHODS.values() if other.sparse)
            raise GradientError(
                f"{described(p, groups)} has a sparse gradient, which {method.name} cannot use. Train it with "
                f"{others}, or make the gradient dense (nn.Embedding(sparse=False))."
            )
        if any(options[name] != 0 for name in method.zero_if_sparse):
            given = " and ".join(f"{name}={options[name]}" for name in method.zero_if_sparse)
            raise ValueError(
                f"{given} must be 0 for a sparse gradient "
                f"({described(p, groups)}): either would move rows that are not in it. Give it a group of its own."
            )
    if gradient.shape != local.shape:
        why = (
            "one was resized after backward(). Take the gradient anew (p.grad = None)"
            if local.shape == p.shape
            else "gradient and parameter are sharded differently"
        )
        raise GradientError(
            f"{described(p, groups)}: its gradient has the local shape {tuple(gradient.shape)}, the parameter "
            f"{tuple(local.shape)}: {why}."
        )


def described(p: Tensor | None, groups: Groups) -> str:
    """A parameter as a user knows it: by its name, where it has one, else by its place and shape."""
    for index, group in enumerate(groups):
        for place, other in enumerate(group["params"]):
            if p is not None and other is p:
                names = group.get("param_names")
                said = repr(names[place]) if names else f"{place} of group {index}"
                return f"parameter {said} of shape {tuple(other.shape)}"
    return "a parameter" if p is None else f"the parameter of shape {tuple(p.shape)}"


def check_state(
    p: Tensor, state: Mapping[str, Any] | None, options: Mapping[str, Any], place: LocalShard, groups: Groups
) -> None:
    """Raise ValueError for buffers that are no tensors, or not of their parameter's shape, before one is written."""
    for name, t in (state or {}).items():
        if not isinstance(t, Tensor) or t.is_nested or t.layout is not torch.strided or not t.is_floating_point():
            kind = f"{t.layout}, {t.dtype}" if isinstance(t, Tensor) else type(t).__name__
            raise ValueError(
                f"{described(p, groups)}: its buffer {name} is no strided tensor of a real floating dtype ({kind}). Rebuild the "
                "state of a parameter that was changed: optimizer.state.pop(p)."
            )
    if place.flat_slice is not None or options.get("slice_p", 1) != 1:
        return  # flat, and looked at piece by piece
    for name, t in (state or {}).items():
        if t.shape != p.shape:
            raise ValueError(
                f"{described(p, groups)}: its buffer {name} has the shape {tuple(t.shape)}, the parameter {tuple(p.shape)}: "
                "one was resized without the other. Rebuild the state of a parameter that was changed: optimizer.state.pop(p)."
            )


def cut_of(place: LocalShard, options: Mapping[str, Any]) -> slice | None:
    """Which local entries the sliced buffers keep: those whose index in the whole flattened tensor is a multiple of slice_p.

    None keeps all. Raises ValueError where no global index belongs to a local entry.
    """
    step = options.get("slice_p", 1)
    if step == 1:
        return None
    if place.global_offset is None:
        raise ValueError(
            f"slice_p={step} needs parameters whose local part is one run of the whole tensor, which {place.tensor_key} is not. "
            "Use slice_p=1, or shard by rows (FSDP2, HSDP, FSDP1 with use_orig_params=True)."
        )
    return slice(-place.global_offset % step, None, step)


def dtype_named(value: Any) -> Any:
    """The dtype that a config names ("bfloat16"), or numpy's of that name; anything else as it is."""
    name = value if isinstance(value, str) else getattr(value, "name", None) or getattr(value, "__name__", "")
    found = getattr(torch, str(name).removeprefix("torch."), None)
    return found if isinstance(found, torch.dtype) else value


def check_exchanged(p: Tensor, buffers: Mapping[str, Buffer], groups: Groups) -> None:
    """Raise ValueError for a parameter whose bits would not come back from evaluation."""
    if p.dtype is torch.float16 and any(buffer.exchanged for buffer in buffers.values()):
        raise ValueError(
            f"{described(p, groups)} has dtype float16, of which no average can be kept that takes turns with it bit for bit. "
            "Train it in float32 or bfloat16 (autocast and a GradScaler leave weights in float32), or leave average out."
        )


def check_dtypes(dtypes: Dtypes) -> None:
    """Raise ValueError for dtypes that no buffer may have."""
    if dtypes.state not in (None, torch.float64, torch.float32, torch.bfloat16):
        raise ValueError(f"state_dtype={dtypes.state} must be torch.float64, torch.float32, torch.bfloat16 or None")
    if dtypes.statistics not in (None, torch.float64, torch.float32, torch.bfloat16):
        raise ValueError(
            f"statistics_dtype={dtypes.statistics} must be torch.float64, torch.float32, torch.bfloat16 or None: in float16 s "
            "overflows or vanishes. torch.bfloat16 halves it."
        )


def create(
    p: Tensor, place: LocalShard, buffers: dict[str, Buffer], dtypes: Dtypes, cut: slice | None
) -> dict[str, Tensor]:
    """The buffers of one parameter, placed like it: a DTensor's are DTensors, so that checkpoints reshard."""
    source = p.detach()
    made = {}
    for name, buffer in buffers.items():
        dtype = dtypes.of(p, buffer)
        like = place.local(source).reshape(-1)[cut] if buffer.sliced and cut is not None else source
        if buffer.init == "param":
            made[name] = like.to(dtype=dtype, copy=True)
        else:
            made[name] = torch.full_like(like, buffer.init, dtype=dtype)
    return made


def anchor(
    p: Tensor, state: dict[str, Tensor], place: LocalShard, buffers: dict[str, Buffer], cut: slice | None
) -> None:
    """Copy the parameter into its x0, in place: for a parameter that this optimizer has not moved yet.

    Checkpoint tools create state by a dummy step and load the weights afterwards; an x0 of before would hold d at d0.
    """
    for name, buffer in buffers.items():
        if buffer.init == "param":
            source = place.local(p.detach())
            place.local(state[name]).copy_(source.reshape(-1)[cut] if buffer.sliced and cut is not None else source)


def expand(p: Tensor, t: Tensor, place: LocalShard, cut: slice) -> Tensor:
    """A sliced buffer in the shape and placement of its parameter, zero elsewhere: the form in which it is saved."""
    full = torch.zeros_like(p.detach(), dtype=t.dtype)
    local = place.local(full)
    flat = local.flatten()  # a copy when the parameter is not contiguous, such as channels_last
    if flat[cut].shape != t.shape:
        raise ValueError(
            f"a buffer of the parameter of shape {tuple(p.shape)} has {t.numel()} of its elements, and {flat[cut].numel()} are "
            "needed: the parameter was resized. Rebuild its state: optimizer.state.pop(p)."
        )
    flat[cut] = t
    local.copy_(flat.view(local.shape))
    return full


def is_whole(p: Tensor, t: Tensor, place: LocalShard, cut: slice) -> bool:
    """Return whether a sliced buffer has the form in which it is saved."""
    kept = len(range(place.local(p).numel())[cut])
    return t.shape == p.shape and (t.dim() != 1 or place.local(t).numel() != kept)


def compress(t: Tensor, place: LocalShard, cut: slice) -> Tensor:
    """The kept entries of a saved buffer."""
    return place.local(t).reshape(-1)[cut].clone()
