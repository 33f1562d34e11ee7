"""Find the schedule that suits a run from the norms of its gradients.

A finished run with gradient norms G_t, t = 1 ... T, under any schedule, says how the next one should be scheduled:

    G = the norms, smoothed by a running median
    w_t = 1/G_t² for SGD (‖g‖₂), 1/G_t for Adam and other methods with steps like a sign (‖g‖₁)
    m_t = w_t·Σ_{p=t+1}^{T+1} w_p, divided by its largest value; the norm after the last step counts as that of the last

Constant norms give linear decay; norms that fall at the start give a warm-up, norms that rise at the end a rapid decay.

Source: A. Defazio et al., When, Why and How Much? Adaptive Learning Rate Scheduling by Refinement, arXiv 2310.07831,
algorithm 2 and section 4.
"""

import json
import logging
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ..files.whole_write import write_whole
from .jsonl import read_numbered

__all__ = ["Refined", "read_norms", "refine"]

Norm = Literal["l1", "l2"]
KEYS: dict[Norm, str] = {"l1": "grad_norm_l1", "l2": "grad_norm"}
"""Where a log has the norms."""
FEWEST = 10  # usable norms
GRID = 2000  # points at most at which a schedule is computed
KNOTS = 200  # points at most that are kept
LATEST_PEAK = 0.5  # of the run: a later one comes of norms that collapse
LEAST_END = 0.2  # of the median norm: less is a collapse
USUAL_WARMUP = 0.05

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Refined:
    """A schedule, and what it was made of.

    Args:
        total_steps: Optimizer steps of the run that is to follow it.
        fractions: Knots, ascending from 0 to 1: parts of the run.
        multipliers: Of lr at the knots, the largest 1, the last 0.
        norms: Smoothed norms at equal distances over the run, for a picture.
        linear_because: Why it is linear decay after a warm-up in place of what the norms say; None: it is what they say.
    """

    total_steps: int
    fractions: list[float]
    multipliers: list[float]
    norms: list[float]
    linear_because: str | None = None

    @property
    def peak(self) -> float:
        """The part of the run before its largest multiplier."""
        return self.fractions[self.multipliers.index(max(self.multipliers))]

    def save(self, path: str | os.PathLike[str], **about: Any) -> Path:
        """Write the file that `dadapt_dist.schedules.from_file` reads. about: what else it says of itself.

        Raises:
            ValueError: Something else than a schedule is there already; it stays.
            OSError: The file cannot be written.
        """
        path = Path(path)
        if path.exists() and not _is_schedule(path):
            raise ValueError(f"{path} exists and is no schedule: name another file with --out")
        content = {
            "total_steps": self.total_steps,
            "peak": self.peak,
            "linear_because": self.linear_because,
            **about,
            "fractions": self.fractions,
            "multipliers": self.multipliers,
        }
        write_whole(path, json.dumps(content, allow_nan=False) + "\n")
        return path


def read_norms(log: str | os.PathLike[str], norm: Norm) -> dict[int, float]:
    """The gradient norms of a JSONL log by step, from 1; those that are not finite or not above 0 are left out.

    Args:
        log: A file with a record a line: "step", and "grad_norm_l1" or "grad_norm". Records without one of them are passed over;
            of two for one step the later counts.
        norm: "l1" or "l2".

    Raises:
        OSError: The file cannot be read.
        ValueError: A line is no JSON object or its norm no number (the message names the line), or fewer than ten can be used.
    """
    key, found, others = KEYS[norm], dict[int, float](), set[str]()
    for line, record in read_numbered(log):
        step, value = record.get("step"), record.get(key)
        others |= {name for name, other in KEYS.items() if other in record}
        if step is None or value is None:
            continue
        for name, number in (("step", step), (key, value)):
            if isinstance(number, bool) or not isinstance(number, (int, float)):
                raise ValueError(f"{log}, line {line}: {name!r} is {number!r}, no number; repair or delete the line")
        if math.isfinite(value) and value > 0 and step >= 0:
            found[int(step)] = float(value)
    if len(found) < FEWEST:
        raise ValueError(f"{log} has {len(found)} usable norms {key!r}, and {FEWEST} are needed: {_cure(norm, others)}")
    first = 1 if 0 in found else 0
    return {step + first: found[step] for step in sorted(found)}


def refine(norms: Mapping[int, float], norm: Norm, *, total_steps: int | None = None, smooth: float = 0.1) -> Refined:
    """The schedule that the norms of a finished run ask for.

    Args:
        norms: Finite norms > 0 by step, from 1, as `read_norms` gives them; steps between them are interpolated.
        norm: "l1", for Adam, Prodigy and others whose steps are like a sign, or "l2", for SGD.
        total_steps: Of the run to come. None: as many as that had.
        smooth: Width of the running median, as a part of the run, in [0, 1).

    Raises:
        ValueError: An argument is out of range.

    Example:
        >>> refine({step: 2.0 for step in range(1, 101)}, "l1").multipliers[:3]
        [1.0, 0.99, 0.98]
    """
    last = max(norms, default=0)
    total = last if total_steps is None else total_steps
    if not norms or total < 1 or not 0 <= smooth < 1:
        raise ValueError(f"total_steps={total} must be at least 1, smooth={smooth} in [0, 1), and there must be norms")
    n = min(total, GRID)
    smoothed = _median(_interpolated(norms, last, n), smooth)
    multipliers = _schedule(smoothed, norm)
    because = _degenerate(multipliers, smoothed)
    if because is None:
        return Refined(total, *_knots(multipliers), smoothed.tolist())
    warm = _warmup(smoothed, norm)
    logger.warning(
        "the norms are of no use after the warm-up: %s. The schedule is linear decay after a warm-up of %.3g %% of the run.",
        because,
        100 * warm,
    )
    return Refined(total, *_linear(total, warm), smoothed.tolist(), because)


def _schedule(norms: Tensor, norm: Norm) -> Tensor:
    """Multipliers m_t, float64 [n], of smoothed norms [n]."""
    w = (norms.min() / norms) ** (1 if norm == "l1" else 2)
    after = torch.cat([w[1:], w[-1:]]).flip(0).cumsum(0).flip(0)
    m = w * after
    return m / m.max()


def _degenerate(multipliers: Tensor, norms: Tensor) -> str | None:
    """Why norms cannot be gone by; None where they can."""
    peak = int(multipliers.argmax()) / len(multipliers)
    if peak > LATEST_PEAK:
        return f"the largest multiplier would come after {100 * peak:.0f} % of the run, as where gradients vanish"
    end = float(norms[-1] / norms.median())
    if end < LEAST_END:
        return f"the last norm is {end:.2g} of the median, as where the training set is fitted"
    return None


def _warmup(norms: Tensor, norm: Norm) -> float:
    """The warm-up that the norms of the first half ask for, the others taken to be no smaller than those in the middle."""
    half = len(norms) // 2
    held = torch.cat([norms[:half], norms[half:].clamp_min(float(norms[half]))])
    found = int(_schedule(held, norm).argmax()) / len(norms)
    return found if found < LATEST_PEAK else USUAL_WARMUP


def _linear(total: int, warmup: float) -> tuple[list[float], list[float]]:
    """Knots of `schedules.linear_decay_with_warmup`."""
    warm = min(math.ceil(warmup * total), total - 1)
    points = {0.0: 1.0, 1.0: 0.0}
    if warm:
        points = {0.0: 1.0 / warm, (warm - 1) / total: 1.0, warm / total: 1.0, 1.0: 0.0}
    return list(points), list(points.values())


def _knots(multipliers: Tensor) -> tuple[list[float], list[float]]:
    n = len(multipliers)
    kept = {*range(n + 1)}
    if n >= KNOTS:
        kept = {int(multipliers.argmax()), *(round(j * n / (KNOTS - 2)) for j in range(KNOTS - 1))}
    values = [*multipliers.tolist(), 0.0]
    return [i / n for i in sorted(kept)], [values[i] for i in sorted(kept)]


def _interpolated(norms: Mapping[int, float], last: int, n: int) -> Tensor:
    """Norms at n equally distant parts of the run, float64 [n]; the ends of a long log, a hundredth each, are left out."""
    cut = len(norms) // 100
    steps = sorted(norms)[cut : len(norms) - cut]
    x = torch.tensor([(step - 1) / last for step in steps], dtype=torch.float64)
    y = torch.tensor([norms[step] for step in steps], dtype=torch.float64)
    at = torch.arange(n, dtype=torch.float64) / n
    if len(steps) == 1:
        return y.expand(n).clone()
    right = torch.searchsorted(x, at).clamp(1, len(x) - 1)
    share = ((at - x[right - 1]) / (x[right] - x[right - 1])).clamp(0, 1)
    return y[right - 1] + share * (y[right] - y[right - 1])


def _median(norms: Tensor, smooth: float) -> Tensor:
    """A running median: the first value is repeated before the start, the last ones are reflected after the end."""
    half = int(smooth * len(norms) / 2)
    padded = torch.cat([norms[:1].expand(half), norms, norms[len(norms) - half :].flip(0)])
    return padded.unfold(0, 2 * half + 1, 1).median(1).values


def _cure(norm: Norm, others: set[str]) -> str:
    other: Norm = "l2" if norm == "l1" else "l1"
    if other in others:
        kind = "a method like SGD" if other == "l2" else "Adam, Prodigy and others like them"
        return f"it has {KEYS[other]!r}, which --norm {other} takes, for {kind}"
    return "train with grad_norms=True, an option of every optimizer, and log dadapt_dist.log_values(optimizer) in each step"


def _is_schedule(path: Path) -> bool:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and {"total_steps", "fractions", "multipliers"} <= content.keys()
