"""Convert checkpoints of prodigyopt (1.0 to 1.1.2) and dadaptation (3.0 to 3.2): a run that began there continues here."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..engine.estimate_state import KEPT_HERE
from ..engine.state.validation import FORMAT
from ..methods import METHODS
from ..options.checks import listed

logger = logging.getLogger(__name__)
Dict = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Released:
    """What a released optimizer saves. scalars, buffers: our name -> theirs, where they differ.

    leads: options that the released code reads from the first group for all groups. extra: further keys of its groups,
    not needed here. later: options that came with a later release; checkpoints from before have our default.
    sums_ranks: does the numerator that it saves hold all ranks' sums, or one rank's?
    """

    title: str
    leads: tuple[str, ...]
    scalars: Mapping[str, str]
    buffers: Mapping[str, str]
    extra: frozenset[str]
    sums_ranks: bool
    later: frozenset[str] = frozenset()


_WEIGHTED = {"numerator": "numerator_weighted"}
RELEASED: dict[str, Released] = {
    "prodigy": Released(
        title="prodigyopt.Prodigy", scalars={"numerator": "d_numerator"}, buffers={}, sums_ranks=True,
        leads=("betas", "beta3", "d_coef", "growth_rate", "decouple", "use_bias_correction"),
        extra=frozenset({"d_denom", "d_hat", "fsdp_in_use"}), later=frozenset({"slice_p"}),
    ),
    "dadapt_adam": Released(
        title="dadaptation.DAdaptAdam", scalars=_WEIGHTED, buffers={}, sums_ranks=False,
        leads=("betas", "growth_rate", "decouple", "use_bias_correction"),
        extra=frozenset({"fsdp_in_use"}), later=frozenset({"layer_scale"}),
    ),
    "dadapt_sgd": Released(
        title="dadaptation.DAdaptSGD", scalars=_WEIGHTED, buffers={}, sums_ranks=False,
        leads=("momentum", "weight_decay", "growth_rate"), extra=frozenset({"g0_norm", "fsdp_in_use"}),
    ),
    "dadapt_adagrad": Released(
        title="dadaptation.DAdaptAdaGrad", scalars={}, buffers={"s": "sk"}, sums_ranks=True,
        leads=("lr", "momentum", "growth_rate"), extra=frozenset({"sksq_weighted", "skl1"}),
    ),
    "dadapt_adan": Released(
        title="dadaptation.DAdaptAdan", scalars={}, buffers={}, sums_ranks=True,
        leads=("lr", "betas", "no_prox", "growth_rate"), extra=frozenset(),
    ),
    "dadapt_lion": Released(
        title="dadaptation.DAdaptLion", scalars=_WEIGHTED, buffers={}, sums_ranks=False,
        leads=("betas",), extra=frozenset({"fsdp_in_use"}),
    ),
}  # fmt: skip


def convert(state_dict: Mapping[str, Any], method: str | None = None, params: Iterable[Tensor] | None = None) -> Dict:
    """Convert a state dict of prodigyopt 1.x or dadaptation 3.x into one that the optimizer of the same name here loads.

    The loaded optimizer continues the released trajectory, but for the departures in docs/deviations.md.

        scalars   d, d_max, k, gsq_weighted, g0_norm   the same; read from the first group, as the released code does
                  numerator                            d_numerator (Prodigy), numerator_weighted (Adam, SGD, Lion)
                  steps                                k;  held: 0
                  d_denom, d_hat, skl1, sksq_weighted  dropped: computed anew in every step
        options   betas, growth_rate, ...              the first group's where the released code reads only that one
                  d0                                   Prodigy: the same; others do not save or need it: 1e-6
        buffers   s, p0 (Prodigy: flat, every slice_p-th entry, p0 a scalar 0 for zero weights)   the parameter's shape
                  sk (AdaGrad)                         s
                  exp_avg, exp_avg_sq, exp_avg_diff, pre_grad, alphak, x0    the same
                  step, z (SGD), weighted_sk (AdaGrad, sparse)               dropped

    Numbers that are 0-dim tensors (d after a sharded run) become python numbers; buffers keep dtype and device.

    Args:
        state_dict: What the released optimizer's `state_dict()` returned. It stays as it is, and the result shares no tensor
            with it.
        method: "prodigy", "dadapt_adam", ...; None finds it from the keys of the groups.
        params: The parameters in the optimizer's order, to check shapes against; None where the checkpoint is enough.

    Returns:
        The state dict to give to `load_state_dict`.

    Raises:
        ValueError: The method is unknown or ambiguous, scalars, options or buffers are missing, or shapes are those of other
            parameters; the message names them.

    Example:
        >>> released = torch.load("released.pt")["optimizer"]  # doctest: +SKIP
        >>> optimizer.load_state_dict(convert(released, "prodigy", model.parameters()))  # doctest: +SKIP
    """
    groups = _groups_of(state_dict)
    found = _found_method(groups, method)
    released = RELEASED[found]
    scalars = _scalars(found, released, groups[0])
    if torch.is_tensor(groups[0]["d"]) and not released.sums_ranks:
        logger.warning(
            "%s saves the numerator of one rank only, and d as a tensor says that several ranks trained: d is right, "
            "and its next growth starts from that rank's share",
            released.title,
        )
    new_groups = [_group(found, released, group, groups[0]) | scalars for group in groups]
    owner = {index: group for group in new_groups for index in group["params"]}
    shapes = _shapes(params, [index for group in groups for index in group["params"]])
    state = {
        index: _buffers(found, released, index, saved, owner[index], shapes.get(index))
        for index, saved in state_dict["state"].items()
        if saved and index in owner  # released SGD leaves empty entries of parameters that never had a gradient
    }
    return {"state": state, "param_groups": new_groups}


def _groups_of(state_dict: Mapping[str, Any]) -> list[Dict]:
    missing = {"state", "param_groups"} - set(state_dict)
    if missing or not state_dict["param_groups"]:
        raise ValueError(
            f"the state dict lacks {listed(missing or ['param_groups'])}: pass what optimizer.state_dict() returned, "
            "not the file around it."
        )
    groups = [dict(group) for group in state_dict["param_groups"]]
    if "method" in groups[0]:
        raise ValueError(
            f"the state dict is of dadapt_dist already (method {groups[0]['method']!r}): load it with load_state_dict."
        )
    return groups


# ---------------------------------------------------------------- what the released packages save


def our_options(method: str) -> dict[str, Any]:
    """Options of our optimizer and their defaults."""
    return METHODS[method].options.defaults()


def their_scalars(method: str) -> dict[str, str]:
    """Our name of each scalar -> the released one."""
    own = METHODS[method]().scalars(our_options(method))
    later = METHODS[method].later_scalars
    return {name: RELEASED[method].scalars.get(name, name) for name in (*own, "k") if name not in later}


def needed_keys(method: str) -> set[str]:
    """Keys that every group of the released optimizer has."""
    ours_alone = {"layer_scale", "maximize", "estimate"} | (set() if method == "prodigy" else {"d0"})
    ours_alone |= RELEASED[method].later | METHODS[method].options.later()
    return (set(our_options(method)) - ours_alone | set(their_scalars(method).values())) - {"g0_norm"}


def known_keys(*methods: str) -> set[str]:
    """Keys that groups of these released optimizers (of all of them, when none is named) may have of their own."""
    return set().union(
        *(needed_keys(name) | RELEASED[name].extra | RELEASED[name].later for name in methods or RELEASED)
    )


# ---------------------------------------------------------------- which method


def _found_method(groups: list[Dict], method: str | None) -> str:
    if method is not None and method not in RELEASED:
        raise ValueError(f"method={method!r} is not one of {listed(RELEASED)}")
    keys = set(groups[0])
    if method is not None:
        missing, foreign = needed_keys(method) - keys, keys & known_keys() - known_keys(method)
        if missing:
            missing |= RELEASED[method].later - keys
        if missing or foreign:
            said = [f"lack {listed(missing)}"] * bool(missing) + [f"have {listed(foreign)}"] * bool(foreign)
            raise ValueError(f"the state dict is not of {RELEASED[method].title}: its groups {' and '.join(said)}.")
        return method
    fits = [name for name in RELEASED if needed_keys(name) <= keys and keys & known_keys() <= known_keys(name)]
    if len(fits) != 1:
        raise ValueError(
            f"no method can be told from the group keys {listed(keys)}: pass method=, one of {listed(RELEASED)}. "
            "Checkpoints of other optimizers cannot be converted."
        )
    return fits[0]


# ---------------------------------------------------------------- groups


def _number(value: Any) -> Any:
    return value.item() if isinstance(value, Tensor) and value.numel() == 1 else value


def _scalars(method: str, released: Released, first: Dict) -> Dict:
    """The estimate's scalars under our names, from the first group."""
    names = their_scalars(method)
    if _number(first["k"]) == 0:
        first = {"g0_norm": 0.0} | first  # released SGD knows it from its first step on
    missing = {theirs for theirs in names.values() if theirs not in first}
    if missing:
        raise ValueError(f"the state dict of {released.title} lacks {listed(missing)} after {first['k']} steps.")
    values = {ours: float(_number(first[theirs])) for ours, theirs in names.items()}
    kept = {name: values.get(name, 0.0) for name in KEPT_HERE}
    return values | kept | {"steps": int(values["k"]), "method": method, "format": FORMAT}


def _group(method: str, released: Released, group: Dict, first: Dict) -> Dict:
    """A group with our options; keys of users and schedulers (initial_lr, names) stay."""
    missing = needed_keys(method) - set(group)
    if missing:
        raise ValueError(f"a group of the state dict of {released.title} lacks {listed(missing)}.")
    theirs = set(their_scalars(method).values()) | released.extra
    kept = {key: _number(value) for key, value in group.items() if key not in theirs}
    return our_options(method) | kept | {name: _number(first[name]) for name in released.leads}


# ---------------------------------------------------------------- buffers


def _shapes(params: Iterable[Tensor] | None, indices: list[int]) -> dict[int, torch.Size]:
    if params is None:
        return {}
    shapes = [p.shape for p in params]
    if len(shapes) != len(indices):
        raise ValueError(
            f"params= has {len(shapes)} parameters, the state dict {len(indices)}: pass those of the saved optimizer."
        )
    return dict(zip(indices, shapes, strict=True))


def _buffers(method: str, released: Released, index: int, saved: Dict, group: Dict, shape: torch.Size | None) -> Dict:
    """The buffers of one parameter, copied, each in the parameter's shape."""
    specs = METHODS[method]().buffers(group)
    names = {name: released.buffers.get(name, name) for name in specs}
    missing = {theirs for theirs in names.values() if theirs not in saved}
    if missing:
        raise ValueError(f"the state dict of {released.title} lacks the buffers {listed(missing)} of parameter {index}")
    whole = next(saved[names[name]].shape for name, spec in specs.items() if not spec.sliced)
    if shape is not None and shape != whole:
        raise ValueError(
            f"parameter {index} has shape {tuple(shape)}, its buffers in the state dict {tuple(whole)}: pass the "
            "parameters in the order in which the saved optimizer had them."
        )
    step, fresh = group.get("slice_p", 1), set()
    if method == "dadapt_adan" and int(saved.get("step", 1)) == 0:  # restarted: the gradient before does not count
        fresh = {"pre_grad"}
    made = {}
    for name, spec in specs.items():
        t, what = saved[names[name]], f"{names[name]} of parameter {index}"
        made[name] = _spread(t, whole, step, what) if spec.sliced else _copy(t, whole, what)
    return made | {name: torch.full_like(made[name], float(specs[name].init)) for name in fresh}


def _copy(saved: Tensor, shape: torch.Size, what: str) -> Tensor:
    if saved.shape != shape:
        raise ValueError(f"{what} has shape {tuple(saved.shape)} in the state dict, the other buffers {tuple(shape)}.")
    return saved.detach().clone()


def _spread(saved: Tensor, shape: torch.Size, step: int, what: str) -> Tensor:
    """Every step-th entry, flat, put back into the parameter's shape, zero elsewhere. A scalar is zero weights."""
    whole = torch.zeros(shape, dtype=saved.dtype, device=saved.device)
    kept = whole.view(-1)[::step]
    if saved.dim() > 0 and saved.numel() != kept.numel():
        raise ValueError(
            f"{what} has {saved.numel()} entries in the state dict; its shape {tuple(shape)} and slice_p={step} need "
            f"{kept.numel()}."
        )
    kept.copy_(saved.detach().reshape(-1))
    return whole
