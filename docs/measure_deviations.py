"""Measure each departure from the released packages, and write the sizes that docs/deviations.md quotes.

    python -m docs.measure_deviations

Both sides run the noisy quadratic of tests/helpers/oracles/released.py in float64 for 200 steps, unless a function says
otherwise. Sizes are the largest relative difference of d over the steps, and of the way from the start, as the tests
measure them.
"""

import contextlib
import io
import math
import sys
from collections.abc import Callable
from typing import Any

import dadaptation
import prodigyopt
import torch
from torch import Tensor, nn

import dadapt_dist
from dadapt_dist.checkpoint.from_released import convert
from tests.helpers.classes import CLASSES
from tests.helpers.oracles.cases import HALF_AT_LR_ZERO, PAPER_EPS, ZERO_LR_PART
from tests.helpers.oracles.released import (
    RELEASED,
    Problem,
    Trace,
    flat,
    largest_errors,
    make_released,
    released_step,
    with_gaps,
)
from tests.helpers.runs import run_ours, run_released

Size = tuple[float, float]
TWO_GROUPS = ({"indices": [0, 3]}, {"indices": [1, 2]})


def both(key: str, options: dict[str, Any], *, scale: float = 1.0, gaps: bool = False, groups: Any = None) -> Size:
    """Largest relative differences of d and of the way from the start, ours against released, on one problem each."""
    traces = []
    for side in (run_ours, None):
        problem = Problem(scale=scale)
        gradients = with_gaps(problem.gradients) if gaps else problem.gradients
        if side is not None:
            traces.append(side(key, options, problem=problem, gradients=gradients, groups=groups))
        else:
            traces.append(released_trace(key, options, problem, gradients, groups))
    return largest_errors(*traces)


def released_trace(key: str, options: Any, problem: Problem, gradients: Callable[..., Any], groups: Any) -> Trace:
    """The released package on a given problem."""
    optimizer, xs = make_released(key, problem, options, groups)
    trace = Trace(flat(problem.starts))
    for step in range(200):
        released_step(optimizer, xs, gradients(step, xs))
        trace.add(float(optimizer.param_groups[0]["d"]), xs)
    return trace


def without_momentum() -> Size:
    """Prodigy, betas[0] = 0: length of the released second step in units of ours, and growth d_2/d_1 of that step."""
    options = {"betas": (0.0, 0.999), **PAPER_EPS}
    ours, theirs = run_ours("prodigy", options, steps=2), run_released("prodigy", options)
    ratio = (theirs.x[1] - theirs.x[0]) / (ours.x[1] - ours.x[0])
    return float(ratio.mean()), theirs.d[1] / theirs.d[0]


def moved_at_lr_zero(key: str) -> Size:
    """How far the parameters of a group with lr 0 moved: ours, released."""
    options = {"weight_decay": 0.1, "decouple": True} if key in ("prodigy", "dadapt_adam") else {}
    ours = run_ours(key, options, groups=HALF_AT_LR_ZERO)
    theirs = run_released(key, options, groups=HALF_AT_LR_ZERO)
    ways = [float((t.x[-1] - t.start)[ZERO_LR_PART].abs().max()) for t in (ours, theirs)]
    return ways[0], ways[1]


def decay_before_any_gradient(key: str) -> Size:
    """Relative change of the parameters in a first step with zero gradients and weight_decay 0.1: ours, released."""
    options, changes = {"weight_decay": 0.1, "decouple": True}, []
    for run in (run_ours, run_released):
        trace = run(key, options, gradients=lambda step, xs: [torch.zeros_like(x) for x in xs])
        part = slice(0, 12)  # the second tensor starts at zero
        changes.append(float(((trace.x[0] - trace.start)[part] / trace.start[part]).abs().max()))
    return changes[0], changes[1]


def sgd_lagged(*, last: bool = False) -> Size:
    """DAdaptSGD whose first step only measures its gradient: differences of d and of the way; last: after 200 steps."""
    ours = run_ours("dadapt_sgd", {"before": "lagged"})
    theirs = run_released("dadapt_sgd", {})
    if not last:
        return largest_errors(ours, theirs)
    way = (theirs.x[-1] - theirs.start).abs().max()
    return abs(ours.d[-1] / theirs.d[-1] - 1), float((ours.x[-1] - theirs.x[-1]).abs().max() / way)


def sparse_adagrad() -> Size:
    """AdaGrad on sparse gradients at the default eps 1e-6: differences of d and of the parameters after 200 steps."""
    problem = Problem()
    start = problem.normal((30, 4))
    ours, theirs = (nn.Parameter(start.clone()) for _ in range(2))
    optimizers = dadapt_dist.DAdaptAdaGrad([ours]), dadaptation.DAdaptAdaGrad([theirs])
    worst = 0.0
    for _ in range(200):
        rows, values = torch.randint(0, 30, (5,), generator=problem.generator), problem.normal((5, 4)) + 1
        for x, optimizer in zip((ours, theirs), optimizers, strict=True):
            x.grad = torch.sparse_coo_tensor(rows[None], values, (30, 4), check_invariants=True)
            optimizer.step()
        worst = max(worst, abs(float(optimizers[0].d) / optimizers[1].param_groups[0]["d"] - 1))
    return worst, float((ours - theirs).detach().abs().max() / (ours.detach() - start).abs().max())


def bfloat16(steps: int = 4000) -> Size:
    """Prodigy on bfloat16 parameters: Σ|s| after 4000 steps over that after 100; ours, released.

    The gradient is 1 for 100 steps and flips its sign in every step from then on, and the lr is so small that d stays:
    s decays by √b2 a step, to √0.999^3900 = 0.142.
    """
    ends = []
    for build in (dadapt_dist.Prodigy, prodigyopt.Prodigy):
        x, sizes = nn.Parameter(torch.ones(64, dtype=torch.bfloat16)), []
        optimizer: Any = build([x], lr=1e-9)
        for step in range(steps):
            x.grad = torch.full_like(x, 1.0 if step < 100 else (-1.0) ** step)
            optimizer.step()
            sizes.append(float(optimizer.state[x]["s"].double().abs().sum()))
        ends.append(sizes[-1] / sizes[99])
    return ends[0], ends[1]


def nan_gradient(key: str) -> tuple[Trace, Trace]:
    """Traces, ours and released, of a run whose step 3 has one NaN gradient element."""
    traces = []
    for run in (run_ours, run_released):
        problem = Problem()

        def gradients(step: int, xs: Any, problem: Problem = problem) -> list[Tensor | None]:
            grads = problem.gradients(step, xs)
            if step == 3 and grads[0] is not None:
                grads[0].view(-1)[0] = math.nan
            return grads

        traces.append(run(key, {}, gradients=gradients))
    return traces[0], traces[1]


def d_after_nan(key: str) -> Size:
    """Final d over that of the run without the NaN; ours, released."""
    ours, theirs = nan_gradient(key)
    return ours.d[-1] / run_ours(key, {}).d[-1], theirs.d[-1] / run_released(key, {}).d[-1]


def parameters_after_nan(key: str) -> Size:
    """Parameters that are not finite at the end, of 32; ours, released."""
    ours, theirs = nan_gradient(key)
    return float((~ours.x[-1].isfinite()).sum()), float((~theirs.x[-1].isfinite()).sum())


def gradient_changed(key: str) -> Size:
    """Did a step with coupled decay write into p.grad (1) or not (0)?; ours, released."""
    changed = []
    for build in (CLASSES[key], RELEASED[key]):
        x = nn.Parameter(torch.ones(3))
        x.grad = torch.ones(3)
        with contextlib.redirect_stdout(io.StringIO()):
            build([x], weight_decay=0.1, **({"decouple": False} if key == "prodigy" else {})).step()
        changed.append(float(not torch.equal(x.grad, torch.ones(3))))
    return changed[0], changed[1]


def one_large_tensor(numel: int = 10**7) -> Size:
    """Prodigy on one float32 tensor: relative error of d after 5 steps against float64 parameters; ours, released."""
    generator = torch.Generator().manual_seed(0)
    start, noise = (torch.randn(numel, generator=generator) for _ in range(2))
    ends = []
    for dtype, ours in ((torch.float64, True), (torch.float32, True), (torch.float32, False)):
        x = nn.Parameter(start.to(dtype))
        build: Any = dadapt_dist.Prodigy if ours else prodigyopt.Prodigy
        optimizer = build([x], d0=1e-2)
        for _ in range(5):
            x.grad = (x.detach() - 2 * noise.to(dtype)) / numel**0.5
            optimizer.step()
        ends.append(float(optimizer.param_groups[0]["d"]))
    return abs(ends[1] / ends[0] - 1), abs(ends[2] / ends[0] - 1)


def preconverted() -> Size:
    """Prodigy converted after 20 released steps, 100 more on both sides: differences of d and of the way."""
    problem = Problem()
    released, theirs = make_released("prodigy", problem, PAPER_EPS)
    for step in range(20):
        released_step(released, theirs, problem.gradients(step, theirs))
    mine = [nn.Parameter(x.detach().clone()) for x in theirs]
    optimizer = dadapt_dist.Prodigy(mine)
    optimizer.load_state_dict(convert(released.state_dict(), params=theirs))
    ours, other = Trace(flat(problem.starts)), Trace(flat(problem.starts))
    for step in range(20, 120):
        released_step(released, theirs, problem.gradients(step, theirs))
        released_step(optimizer, mine, problem.gradients(step, mine))
        ours.add(float(optimizer.d), mine)
        other.add(float(released.param_groups[0]["d"]), theirs)
    return largest_errors(ours, other)


MEASURED: dict[str, Callable[[], Size]] = {
    "prodigy: eps at its default (d, way)": lambda: both("prodigy", {}),
    "prodigy: gradients 1e-6 times as large (d, way)": lambda: both("prodigy", {}, scale=1e-6),
    "prodigy: betas[0]=0, second step (length released/ours, d2/d1)": without_momentum,
    "prodigy: betas of the second group (0.5, 0.9) (d, way)": lambda: both(
        "prodigy", PAPER_EPS, groups=[TWO_GROUPS[0], TWO_GROUPS[1] | {"betas": (0.5, 0.9)}]
    ),
    "sgd: weight_decay 0.01 (d, way)": lambda: both("dadapt_sgd", {"weight_decay": 0.01}),
    "sgd: weight_decay 0.1 (d, way)": lambda: both("dadapt_sgd", {"weight_decay": 0.1}),
    "sgd: the first norm one step late (d, way)": sgd_lagged,
    "sgd: the same, after the last step (d, way)": lambda: sgd_lagged(last=True),
    "adagrad: every parameter has a gradient (d, way)": lambda: both("dadapt_adagrad", {}),
    "adagrad: some have none in some steps (d, way)": lambda: both("dadapt_adagrad", {}, gaps=True),
    "adagrad: sparse, eps at its default (d, way)": sparse_adagrad,
    "adan: as released (d, way)": lambda: both("dadapt_adan", {}),
    "adan: lr 0.5 in the second group (d, way)": lambda: both(
        "dadapt_adan", {}, groups=[TWO_GROUPS[0], TWO_GROUPS[1] | {"lr": 0.5}]
    ),
    **{f"{key}: group with lr 0 moves by (ours, released)": lambda key=key: moved_at_lr_zero(key) for key in (
        "prodigy", "dadapt_adam", "dadapt_adagrad", "dadapt_adan", "dadapt_lion")},
    **{f"{key}: decay in a step of zero gradients (ours, released)": lambda key=key: decay_before_any_gradient(key)
       for key in ("prodigy", "dadapt_adam")},
    "prodigy: bfloat16, sum of |s| that is left after 3900 steps (ours, released)": bfloat16,
    **{f"{key}: final d with one NaN over without (ours, released)": lambda key=key: d_after_nan(key)
       for key in ("prodigy", "dadapt_adam")},
    **{f"{key}: parameters not finite after one NaN (ours, released)": lambda key=key: parameters_after_nan(key)
       for key in ("prodigy", "dadapt_adam")},
    **{f"{key}: coupled decay writes into p.grad (ours, released)": lambda key=key: gradient_changed(key)
       for key in ("prodigy", "dadapt_adam", "dadapt_sgd", "dadapt_adagrad")},
    "prodigy: one float32 tensor of 1e7, error of d (ours, released)": one_large_tensor,
    "prodigy: converted after 20 steps (d, way)": preconverted,
}  # fmt: skip


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name, measure in MEASURED.items():
        first, second = measure()
        sys.stdout.write(f"{name}: {first:.3g}, {second:.3g}\n")
