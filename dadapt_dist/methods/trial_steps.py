"""Trial steps at the start of a run, which find the first d of Prodigy, and after which one step puts everything back."""

from collections.abc import Mapping

import torch
from torch import Tensor

from .base import Initial, Scalars

TRYING, PUTTING_BACK = 1.0, 2.0  # of the scalar probe_phase; 0: neither
SCALARS: Mapping[str, Initial] = {
    "probe_step": 0.0,
    "probe_first": 0.0,
    "probe_best": 0.0,
    "probe_good": 0.0,
    "probe_phase": TRYING,
    "probe_ended": 0.0,
}
"""The length of the coming trial and of the first; the best alignment so far, and the longest step that was aligned; the
phase, and the number of updates when it ended."""
FIRST = 1e-3  # the first step, relative to the rms of all weights
SMALLEST = 1e-3  # what that is taken to be at least
LONGER = 8.0  # each step, relative to the one before
CAP = 0.2  # what a step may move, relative to each tensor and to all weights
MEASURED, SHARE = 7, 0.1  # how many are measured, and the share of the run that they take at most
ALIGNED = 0.25  # the share of the best alignment that still counts as aligned
SPOKEN_FOR = 0.05  # d is at most so much of all weights because steps of it were aligned
LEAST = 0.25  # d is at least so much of the first step


def begun(rms: Tensor, scalars: Scalars, d0: Tensor) -> Scalars:
    """The first step, before the first step of a run. rms: of all weights, 0-dim float64."""
    step = scalars["probe_step"]
    first = torch.maximum(d0, FIRST * rms.clamp_min(SMALLEST))
    fresh = (scalars["probe_phase"] == TRYING) & (step == 0)
    return {name: torch.where(fresh, first, scalars[name]) for name in ("probe_step", "probe_first")}


def size(scalars: Scalars) -> Tensor:
    """What takes the place of d in a step: d, or the trial step, if that is longer."""
    return torch.maximum(scalars["d"], scalars["probe_step"])


def taken(found: Scalars, d_hat: Tensor, scalars: Scalars, trials: Tensor) -> Scalars:
    """The scalars of the probe after a step of it, and d where it ends; all as they were where there is none.

    found: the scalars after the rule. trials: the constant of that name.
    """
    trying, p, k = scalars["probe_phase"] == TRYING, size(scalars), scalars["k"]
    bound = CAP / FIRST * scalars["probe_first"]  # relative to all weights, what a step may move
    moved = torch.minimum(p, bound)
    ratio = d_hat / moved
    measured = trying & (k > 0)
    best = torch.where(measured, torch.maximum(scalars["probe_best"], ratio), scalars["probe_best"])
    aligned = measured & (ratio > 0) & (ratio >= ALIGNED * best)
    good = torch.where(aligned, torch.maximum(scalars["probe_good"], moved), scalars["probe_good"])
    end = ended(trying & (k >= trials), found, scalars | {"probe_good": good})
    longer = torch.where(trying & (k < trials), LONGER * p, end["probe_step"])
    return end | {"probe_step": longer, "probe_best": best, "probe_good": good}


def ended(ends: Tensor, found: Scalars, scalars: Scalars) -> Scalars:
    """The scalars where the probe ends: d is the largest that it speaks for, and x goes back. found: with the last estimates."""
    first = scalars["probe_first"]
    least = torch.maximum(torch.minimum(scalars["probe_good"], SPOKEN_FOR / FIRST * first), LEAST * first)
    d = torch.where(ends, torch.maximum(found["d"], least), found["d"])
    return {
        "d": d,
        "d_max": torch.maximum(found["d_max"], d),
        "probe_step": torch.where(ends, 0.0, scalars["probe_step"]),
        "probe_phase": torch.where(ends, PUTTING_BACK, scalars["probe_phase"]),
    }
