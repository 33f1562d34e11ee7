"""Look at a torch optimizer before Mechanic or TRAC takes it: what cannot be its base is refused, with the cure."""

import inspect
import logging
import re
from collections.abc import Iterator
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..methods.directions import OfOptimizer
from ..methods.registry import OF_ENGINE
from .optimizer import LearningRateFree

logger = logging.getLogger(__name__)
SHAPE, CUT, STEPS = (4, 6), 2, 2  # of the tensors of a trial, the row where they are cut, and how many steps it takes
_said: set[tuple[str, str]] = set()
_KEPT = "It is as it was, and can be used."


def check_base(base: Any, name: str, ours: set[str]) -> str:
    """Raise TypeError or ValueError for what cannot be the base of the wrapper `name`; the base stays as it is.

    ours: what the wrapper keeps in groups.

    Returns:
        What an error is to call the base, where its update of a part of a tensor is not the part of its update; "" where it is.
    """
    if not isinstance(base, Optimizer):
        raise TypeError(
            f"{name}: base_optimizer={_short(base)} is no torch optimizer. Make one over the parameters and pass it: "
            f"{name}(torch.optim.AdamW(model.parameters(), lr=1.0)); without one there is {name}Adam(model.parameters())."
        )
    kind = type(base).__name__
    _check_kind(base, kind, name)
    _check_attributes(base, kind, name)
    _check_groups(base, kind, name, ours)
    whole = _try(base, kind, name)
    if re.search("lars|lamb", kind, re.IGNORECASE) and (kind, "norms") not in _said:
        _said.add((kind, "norms"))
        logger.warning(
            "%s: %s divides by the norm of each tensor's update, which %s scales: its paper advises against such a base. Use the "
            "optimizer that it is made of (SGD, Adam).",
            name,
            kind,
            name,
        )
    return whole


def _refuse(kind: str, name: str, why: str, cure: str) -> NoReturn:
    raise TypeError(f"{name} cannot learn the learning rate of {kind}: {why}. {cure} {_KEPT}")


def _check_kind(base: Optimizer, kind: str, name: str) -> None:
    if isinstance(base, LearningRateFree) or getattr(base.step, "_of_base", False):
        _refuse(kind, name, "it has no learning rate to learn, or one that is learned already", "Use it by itself.")
    closure = inspect.signature(type(base).step).parameters.get("closure")
    if closure is not None and closure.default is closure.empty:
        _refuse(
            kind, name, "it calls the model in its step, by a closure", "Give a base that goes by the gradients alone."
        )
    if callable(getattr(base, "eval", None)) and callable(getattr(base, "train", None)):
        why = "its parameters hold other weights in training than in evaluation, and it is to step on copies of them"
        _refuse(kind, name, why, "Give the optimizer that it averages, or use it by itself.")
    if any(group.get("differentiable") for group in base.param_groups):
        _refuse(
            kind, name, "differentiable=True, and it steps on copies outside the graph", "Leave differentiable out."
        )


def _check_attributes(base: Optimizer, kind: str, name: str) -> None:
    """Raise TypeError where copies of the base would step on what is the user's."""
    params = {id(p) for group in base.param_groups for p in group["params"]}
    for key, value in vars(base).items():
        if key in ("state", "param_groups"):
            continue
        for part in _parts(value):
            if isinstance(part, Optimizer):
                why = f"it steps through another optimizer ({key}: {type(part).__name__})"
                _refuse(kind, name, why, f"Give {name} that one.")
            if id(part) in params:
                why = f"it keeps parameters outside its groups ({key}), and would not step on copies of them"
                _refuse(kind, name, why, "Give a base that goes by its groups (SGD, AdamW, Lion).")


def _parts(value: Any, depth: int = 3) -> Iterator[Any]:
    yield value
    if depth and isinstance(value, (list, tuple, dict, set)):
        for part in [*value.values(), *value] if isinstance(value, dict) else value:
            yield from _parts(part, depth - 1)


def _check_groups(base: Optimizer, kind: str, name: str, ours: set[str]) -> None:
    taken = {*ours, *OF_ENGINE} - {"lr", "maximize", "layer_scale", "estimate", "params", "param_names", "method"}
    both = sorted(taken & {key for group in base.param_groups for key in group})
    if both:
        why = f"its groups hold {', '.join(both)}, which {name} keeps there, too"
        cure = "An optimizer with a d finds its step size by itself: use it so." if "d" in both else "Rename them."
        _refuse(kind, name, why, cure)


# ---------------------------------------------------------------- a trial


def _try(base: Optimizer, kind: str, name: str) -> str:
    """Let copies of the base step over small tensors of each group, in the place of what they will step over."""
    with torch.no_grad():
        for index, group in enumerate(base.param_groups):
            first = next((p for p in group["params"] if p.requires_grad), None)
            if first is None:
                continue
            try:
                whole = _stepped(base, group, first, slice(None))
            except Exception as error:  # noqa: BLE001 - whatever it raises, it cannot serve
                why = f"a step of it on copies of group {index} fails ({type(error).__name__}: {error})"
                cure = (
                    "It must step by dense gradients of its groups' tensors, on the device of the parameters: leave out what "
                    "cannot (capturable and fused off their device), or take another base."
                )
                _refuse(kind, name, why, cure)
            try:
                parts = [_stepped(base, group, first, cut) for cut in (slice(CUT), slice(CUT, None))]
            except Exception as error:  # noqa: BLE001 - of a part alone
                return f"{kind}, whose step fails on a part of a tensor ({type(error).__name__}: {error})"
            if not torch.allclose(torch.cat(parts), whole, rtol=1e-4, atol=1e-6, equal_nan=True):
                return f"{kind}, which looks at whole tensors"
    return ""


def _stepped(base: Optimizer, group: dict[str, Any], first: Tensor, rows: slice) -> Tensor:
    """Some rows of a small tensor after steps of a copy of the base with the options of a group, and lr 1."""
    device = torch.device("cpu") if first.is_meta else first.device
    dtype = torch.promote_types(first.dtype, torch.float32)
    start = torch.linspace(-1.0, 2.0, SHAPE[0] * SHAPE[1], dtype=dtype, device=device).view(SHAPE)
    x = start[rows].clone()
    lr = group.get("lr", 1.0)
    options = {key: value for key, value in group.items() if key not in ("params", "param_names")}
    options |= {"lr": torch.ones_like(lr) if isinstance(lr, Tensor) else 1.0, "maximize": False}
    direction = OfOptimizer(base)
    direction.attributes = {
        key: type(value)() if key.startswith("_optimizer_") else value for key, value in direction.attributes.items()
    }
    assert direction.factory is not None, "it makes copies"
    copy = direction.factory([{"params": [x], **options}])
    copy.state[x] = _state_like(base.state.get(first, {}), first, x)
    before = _counts(copy)
    for step in range(STEPS):
        x.grad = torch.cos(start * (3.0 + step))[rows].clone()
        copy.step()
    _check_kept(copy, x, before)
    return x


def _counts(optimizer: Optimizer) -> dict[str, float]:
    """The numbers among its attributes."""
    return {key: value for key, value in vars(optimizer).items() if type(value) in (int, float)}


def _check_kept(copy: Optimizer, x: Tensor, before: dict[str, float]) -> None:
    """Raise TypeError for state of no parameter, which nobody would save; warn once of a count among the attributes."""
    strange = [key for key in copy.state if key is not x]
    if strange:
        raise TypeError(f"it keeps state under {strange[0]!r}, which belongs to no parameter")
    kind, counts = type(copy).__name__, [key for key, value in _counts(copy).items() if before.get(key) != value]
    if counts and (kind, counts[0]) not in _said:
        _said.add((kind, counts[0]))
        logger.warning(
            "%s counts in its attribute %s, which no checkpoint holds: a run that goes on from one counts from the start. Let it "
            "count in its groups or in the state of its parameters.",
            kind,
            counts[0],
        )


def _state_like(entries: dict[str, Any], p: Tensor, x: Tensor) -> dict[str, Any]:
    """Entries of a parameter that x could have: each filled with the first number of what there is."""
    made = {}
    for name, value in entries.items():
        if isinstance(value, Tensor) and value.dim() and value.shape == p.shape:
            number = (
                float(value.detach().reshape(-1)[0])
                if value.numel() and type(value) in (Tensor, torch.nn.Parameter)
                else 0.0
            )
            made[name] = torch.full_like(x, number, dtype=x.dtype if value.is_floating_point() else value.dtype)
        else:
            made[name] = value.clone() if isinstance(value, Tensor) else value
    return made


def _short(value: Any) -> str:
    return f"an object of type {type(value).__name__}" if len(repr(value)) > 60 else repr(value)
