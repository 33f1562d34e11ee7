"""What Prodigy's recipe="auto" decides of the options that a user leaves open, and which options contradict each other."""

from collections.abc import Mapping
from typing import Any

from .base import Options

CAP = 0.2  # rms_cap
BETAS = (0.8, 0.999)  # in the place of the default
SHORTEST = 10  # total_steps of a run with trial steps
SWITCHES = ("length_scaling", "probe_d0", "exact_bias_correction", "same_weights")
"""The switches that the recipe decides where the user does not: None until then."""
AGAINST = {"use_bias_correction": True, "safeguard_warmup": True, "exact_bias_correction": False, "same_weights": False}
"""What contradicts the recipe."""


def completed(defaults: Mapping[str, Any], options: Options, where: str) -> dict[str, Any]:
    """The options with all that follows from others; of those that are given, each holds.

    defaults: the value of each option that is not given. where: what an error calls the optimizer or group. Raises ValueError
    for options that contradict each other.
    """
    given = {**defaults, **options}
    if given["recipe"] == "auto":
        clash = next((name for name, value in AGAINST.items() if given[name] is value), None)
        if clash is not None:
            raise ValueError(
                f"{where}: recipe='auto' and {clash}={given[clash]} contradict each other: exact_bias_correction and "
                f"same_weights are what it consists of. Leave {clash} out, or the recipe."
            )
        decided = _decided(given, usual_d0=given["d0"] == defaults["d0"])
        given |= {name: value for name, value in decided.items() if given[name] is None}
        given["betas"] = BETAS if tuple(given["betas"]) == tuple(defaults["betas"]) else given["betas"]
    else:
        given |= {name: None for name in SWITCHES if given[name] is False}
    _check(given, where)
    return given


def _decided(given: Mapping[str, Any], *, usual_d0: bool) -> dict[str, Any]:
    """The recipe's own values. A first d is looked for where none is given and there are steps enough to do so."""
    steps = given["total_steps"]
    probes = usual_d0 and given["slice_p"] == 1 and (steps or 0) >= SHORTEST
    return {
        "exact_bias_correction": True,
        "same_weights": True,
        "rms_cap": CAP,
        "length_scaling": True if steps is not None else None,
        "probe_d0": True if probes else None,  # after it, weights want a warm-up
    }


def _check(given: Mapping[str, Any], where: str) -> None:
    """Raise ValueError for options that need, or exclude, each other."""
    if given["length_scaling"] and given["total_steps"] is None:
        raise ValueError(
            f"{where}: length_scaling=True needs the length of the run. Pass total_steps, or leave it out."
        )
    if given["probe_d0"] and (given["total_steps"] or SHORTEST) < SHORTEST:
        raise ValueError(
            f"{where}: probe_d0=True takes 3 steps to find a first d, and total_steps={given['total_steps']} leaves next to "
            f"nothing after them. Train for {SHORTEST} steps or more, or leave it out."
        )
    if given["probe_d0"] and given["slice_p"] > 1:
        raise ValueError(
            f"{where}: probe_d0=True puts all elements back to where they started, and slice_p={given['slice_p']} keeps the "
            "start of some only. Leave one of them out."
        )
    if given["exact_bias_correction"] and given["use_bias_correction"]:
        raise ValueError(
            f"{where}: exact_bias_correction=True and use_bias_correction=True contradict each other. Leave one of them out."
        )
