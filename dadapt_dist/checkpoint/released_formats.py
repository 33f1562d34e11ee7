"""Contents of the state dicts of prodigyopt (1.0 to 1.1.2) and dadaptation (3.0 to 3.2), by name."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..methods import METHODS


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


def our_options(method: str) -> dict[str, Any]:
    """Options of our optimizer and their defaults."""
    return METHODS[method].options.defaults()


def their_scalars(method: str) -> dict[str, str]:
    """Our name of each scalar -> the released one."""
    own = METHODS[method]().scalars(our_options(method))
    return {name: RELEASED[method].scalars.get(name, name) for name in (*own, "k")}


def needed_keys(method: str) -> set[str]:
    """Keys that every group of the released optimizer has."""
    ours_alone = {"layer_scale", "maximize", "estimate"} | (set() if method == "prodigy" else {"d0"})
    ours_alone |= RELEASED[method].later
    return (set(our_options(method)) - ours_alone | set(their_scalars(method).values())) - {"g0_norm"}


def known_keys(*methods: str) -> set[str]:
    """Keys that groups of these released optimizers (of all of them, when none is named) may have of their own."""
    return set().union(
        *(needed_keys(name) | RELEASED[name].extra | RELEASED[name].later for name in methods or RELEASED)
    )
