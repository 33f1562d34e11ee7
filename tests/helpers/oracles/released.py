"""Run a released optimizer next to an oracle, each on its own parameters and gradients."""

import contextlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import dadaptation
import prodigyopt
import torch
from torch import Tensor

from . import ORACLES, Oracle
from .base import Estimate, Group, State, bias_correction
from .prodigy import ProdigyOracle

RELEASED: dict[str, type[torch.optim.Optimizer]] = {
    "prodigy": prodigyopt.Prodigy,
    "dadapt_adam": dadaptation.DAdaptAdam,
    "dadapt_sgd": dadaptation.DAdaptSGD,
    "dadapt_adagrad": dadaptation.DAdaptAdaGrad,
    "dadapt_adan": dadaptation.DAdaptAdan,
    "dadapt_lion": dadaptation.DAdaptLion,
}
TOLERANCE = 1e-10
SHAPES = [(3, 4), (7,), (2, 3, 2), ()]


class Problem:
    """A noisy quadratic: the gradient is curvature·(x - target) + noise of the step, the same noise for both sides.

    The noise keeps gradients off zero, where a relative error would mean nothing. The second tensor starts at zero,
    a case that released Prodigy treats apart. `scale` multiplies all gradients.
    """

    def __init__(self, seed: int = 0, scale: float = 1.0) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.scale = scale
        self.starts = [self.normal(shape) for shape in SHAPES]
        self.starts[1].zero_()
        self.targets = [start + 2 * self.normal(start.shape) for start in self.starts]
        self.curvatures = [(10 ** (self.normal(start.shape) / 2)).clamp(max=1.0) for start in self.starts]
        self.noises: list[list[Tensor]] = []

    def normal(self, shape: Sequence[int]) -> Tensor:
        return torch.randn(tuple(shape), generator=self.generator, dtype=torch.float64)

    def gradients(self, step: int, xs: Sequence[Tensor]) -> list[Tensor | None]:
        while len(self.noises) <= step:
            self.noises.append([0.3 * self.normal(start.shape) for start in self.starts])
        parts = zip(xs, self.targets, self.curvatures, self.noises[step], strict=True)
        return [self.scale * (a * (x.detach() - target) + noise) for x, target, a, noise in parts]


def with_gaps(gradients: Callable[..., list[Tensor | None]]) -> Callable[..., list[Tensor | None]]:
    """The same gradients, but the first tensor has none in steps 0..4 and the third none in every third step."""

    def sometimes_none(step: int, xs: Sequence[Tensor]) -> list[Tensor | None]:
        grads = gradients(step, xs)
        grads[0] = None if step < 5 else grads[0]
        grads[2] = None if step % 3 == 1 else grads[2]
        return grads

    return sometimes_none


@dataclass
class Trace:
    """d and all parameters (one flat vector) after each step of a run; `start` is the vector before the first."""

    start: Tensor
    d: list[float] = field(default_factory=list)
    x: list[Tensor] = field(default_factory=list)

    def add(self, d: float, xs: Sequence[Tensor]) -> None:
        self.d.append(float(d))
        self.x.append(flat(xs))


def flat(xs: Sequence[Tensor]) -> Tensor:
    return torch.cat([x.detach().flatten() for x in xs])


def make_oracle(
    key: str, problem: Problem, options: dict[str, Any], groups: list[dict[str, Any]] | None = None
) -> Oracle:
    return ORACLES[key](problem.starts, groups, **options)


def grouped(
    starts: Sequence[Tensor], groups: list[dict[str, Any]] | None
) -> tuple[list[torch.nn.Parameter], list[dict[str, Any]]]:
    """Parameters with these values, and torch's parameter groups for the oracles' groups."""
    xs = [torch.nn.Parameter(start.clone()) for start in starts]
    return xs, [
        {"params": [xs[i] for i in group["indices"]], **{name: group[name] for name in group if name != "indices"}}
        for group in groups or [{"indices": range(len(xs))}]
    ]


def make_released(
    key: str, problem: Problem, options: dict[str, Any], groups: list[dict[str, Any]] | None = None
) -> tuple[torch.optim.Optimizer, list[torch.nn.Parameter]]:
    """The released optimizer in float64 and its parameters; what it prints is dropped."""
    xs, param_groups = grouped(problem.starts, groups)
    with contextlib.redirect_stdout(io.StringIO()):
        return RELEASED[key](param_groups, **options), xs


def released_step(opt: torch.optim.Optimizer, xs: Sequence[Tensor], grads: Sequence[Tensor | None]) -> None:
    for x, grad in zip(xs, grads, strict=True):
        x.grad = None if grad is None else grad.clone()  # released code adds decay to it in place
    opt.step()


def run_both(
    key: str,
    options: dict[str, Any] | None = None,
    *,
    groups: list[dict[str, Any]] | None = None,
    problem: Problem | None = None,
    gradients: Callable[..., list[Tensor | None]] | None = None,
    lrs: Sequence[float] | None = None,
    steps: int = 200,
    oracle_options: dict[str, Any] | None = None,
    oracle: type[Oracle] | None = None,
) -> tuple[Trace, Trace]:
    """Traces of oracle and released package.

    `lrs` sets the lr of all groups at each step; `oracle_options` are for the oracle alone; `oracle` takes its place.
    """
    problem = problem or Problem()
    gradients = gradients or problem.gradients
    options = options or {}
    judge = (oracle or ORACLES[key])(problem.starts, groups, **{**options, **(oracle_options or {})})
    opt, xs = make_released(key, problem, options, groups)
    ours, theirs = Trace(flat(problem.starts)), Trace(flat(problem.starts))
    for step in range(steps):
        if lrs is not None:
            judge.set_lr(lrs[step])
            for group in opt.param_groups:
                group["lr"] = lrs[step]
        judge.step(gradients(step, judge.params))
        released_step(opt, xs, gradients(step, xs))
        ours.add(judge.d, judge.params)
        theirs.add(float(opt.param_groups[0]["d"]), xs)
    return ours, theirs


def largest_errors(ours: Trace, theirs: Trace) -> tuple[float, float]:
    """Largest relative difference of d, and of the way from the start (the parameters' sizes do not blur it).

    Where the way is shorter than 1e-3 it is compared with 1e-3: below, float64 rounding of the parameters shows.
    """
    error_d = max(abs(a - b) / b for a, b in zip(ours.d, theirs.d, strict=True))
    ways = [max(float((x - theirs.start).abs().max()), 1e-3) for x in theirs.x]
    gaps = [float((a - b).abs().max()) for a, b in zip(ours.x, theirs.x, strict=True)]
    return error_d, max(gap / way for gap, way in zip(gaps, ways, strict=True))


def assert_same(ours: Trace, theirs: Trace, d0: float = 1e-6) -> None:
    """Equal to TOLERANCE, on a run in which d grew and the parameters went somewhere."""
    error_d, error_x = largest_errors(ours, theirs)
    assert error_d < TOLERANCE
    assert error_x < TOLERANCE
    assert theirs.d[-1] > 10 * d0
    assert 0.1 < float((theirs.x[-1] - theirs.start).abs().max()) < 100


class ProdigyWithReleasedStep(ProdigyOracle):
    """The oracle, but x moves after the rule, with d_{k+1} where the released code has it. For runs without decay."""

    def update(self, x: Tensor, g: Tensor, state: State, group: Group, estimate: Estimate) -> dict[str, Tensor]:
        before = x.clone()
        terms = super().update(x, g, state, group, estimate)
        gamma = estimate["d"] * group["lr"] * bias_correction(group, estimate["k"])
        self.redo = [*getattr(self, "redo", []), (x, before, g, state, group, gamma)]
        return terms

    def rule(self, estimate: Estimate, sums: dict[str, float]) -> None:
        super().rule(estimate, sums)
        for x, before, g, state, group, gamma in self.redo:
            m = state["m"] if group["betas"][0] > 0 else estimate["d"] * g
            x.copy_(before - gamma * m / (state["v"].sqrt() + estimate["d"] * group["eps"]))
        self.redo = []
