"""What each rank says of its options when parameters are placed, and the check that the ranks agree."""

import hashlib
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field

from ..errors import PlacementError
from ..options.checks import listed

MAX_OPTIONS = 32  # numbers that tell of options; the last of all of them together


@dataclass(frozen=True)
class Claims:
    """What else a rank says of itself when parameters are placed.

    configuration, scalars: equal on all ranks, else raised. options: name -> digest of what a step depends on, equal on ranks
    with the same parameters. kind: the class of ranks that it is compared in; None: those with the same list of parameters.
    n_suspects: parameters that are taken for copies by their values alone.
    """

    configuration: Hashable = ()
    scalars: Hashable = ()
    options: Mapping[str, int] = field(default_factory=dict)
    kind: int | None = None
    n_suspects: int = 0


def padded(options: Mapping[str, int]) -> list[int]:
    """As many numbers on every rank, for another method has other options."""
    numbers = list(options.values())
    return [*numbers[: MAX_OPTIONS - 1], *[0] * (MAX_OPTIONS - 1 - len(numbers)), digest(tuple(numbers))]


def check_configuration(rows: list[list[int]]) -> None:
    """Raise PlacementError when the ranks were built with other methods, estimates or constants."""
    others = [rank for rank, row in enumerate(rows) if row[1] != rows[0][1]]
    if others:
        raise PlacementError(
            f"ranks 0 and {others[0]} were given different methods, estimates or constants (d0, d_coef, growth_rate, beta3, "
            "betas, recipe, total_steps, length_scaling, same_weights, whether any group has a rms_cap, freeze_after, nonfinite, "
            "before, grad_norms, clip_norm), or one of them cannot run the compiled step (its log says why). One d needs one "
            "configuration: "
            "pass the same options on every rank, with pipeline stages declare all estimates in "
            'StepSize(estimates=...) (estimates="per_tensor" cannot be had there: it needs the same tensors, by name, on every '
            "rank), and install a C compiler everywhere or set DADAPT_DIST_KERNEL=off everywhere."
        )


def check_options(rows: list[list[int]], names: list[str]) -> None:
    """Ranks go on from one d, and those with the same parameters take the same step."""
    others = [rank for rank, row in enumerate(rows) if row[3] != rows[0][3]]
    if others:
        raise PlacementError(
            f"ranks 0 and {others[0]} hold different values of d or of the estimate's other scalars, so they do not go on from "
            "one state. Load the same checkpoint on all ranks, or on none."
        )
    first: dict[int, int] = {}
    for rank, row in enumerate(rows):
        other = rows[first.setdefault(row[4], rank)]
        differ = [i for i in range(MAX_OPTIONS) if row[6 + i] != other[6 + i]]
        if differ:
            which = listed(names[i] for i in differ if i < min(len(names), MAX_OPTIONS - 1)) or "options"
            raise PlacementError(
                f"ranks {first[row[4]]} and {rank} have the same parameters but groups that differ in {which}: their steps would "
                "differ. Pass the same options on every rank, or process_group= with the ranks that train together."
            )


def digest(item: Hashable) -> int:
    """A 63-bit number that is the same in every process, unlike hash()."""
    return int.from_bytes(hashlib.blake2b(repr(item).encode(), digest_size=8).digest(), "big") >> 1
