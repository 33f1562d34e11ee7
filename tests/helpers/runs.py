"""Run one of our optimizers on given gradients, next to an oracle or a released package, in one process."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

import dadapt_dist as dd

from .classes import ALL
from .oracles import ORACLES
from .oracles.released import Problem, Trace, flat, grouped, make_released, released_step

NO_D = 1e-6  # for the d of a method without one


def make_ours(
    key: str, starts: Sequence[Tensor], options: dict[str, Any], groups: list[dict[str, Any]] | None = None
) -> tuple[dd.LearningRateFree, list[torch.nn.Parameter]]:
    xs, param_groups = grouped(starts, groups)
    return ALL[key](param_groups, **options), xs


def our_step(optimizer: dd.LearningRateFree, xs: Sequence[Tensor], grads: Sequence[Tensor | None]) -> None:
    for x, grad in zip(xs, grads, strict=True):
        x.grad = None if grad is None else grad.clone().to(x.dtype)
    optimizer.step()


def run_ours(
    key: str,
    options: dict[str, Any] | None = None,
    *,
    groups: list[dict[str, Any]] | None = None,
    problem: Problem | None = None,
    **how: Any,
) -> Trace:
    """The trace of our optimizer in one process: d of the first group and the flat parameters after each step."""
    problem = problem or Problem()
    optimizer, xs = make_ours(key, problem.starts, options or {}, groups)

    def set_lr(lr: float) -> None:
        for group in optimizer.param_groups:
            group["lr"] = lr

    return _run(
        problem,
        set_lr,
        lambda grads: our_step(optimizer, xs, grads),
        lambda: (float(optimizer.param_groups[0].get("d", NO_D)), xs),
        **how,
    )


def run_oracle(
    key: str,
    options: dict[str, Any] | None = None,
    *,
    groups: list[dict[str, Any]] | None = None,
    problem: Problem | None = None,
    **how: Any,
) -> Trace:
    """The trace of the oracle on the same problem."""
    problem = problem or Problem()
    oracle = ORACLES[key](problem.starts, groups, **(options or {}))
    first = oracle.groups[0]["estimate"]
    return _run(
        problem, oracle.set_lr, oracle.step, lambda: (oracle.ds[first] if oracle.has_d else NO_D, oracle.params), **how
    )


def _run(
    problem: Problem,
    set_lr: Callable[[float], None],
    take: Callable[[list[Tensor | None]], None],
    read: Callable[[], tuple[float, Sequence[Tensor]]],
    *,
    gradients: Callable[..., list[Tensor | None]] | None = None,
    lrs: Sequence[float] | None = None,
    steps: int = 200,
) -> Trace:
    """Take the steps of one side; `lrs` sets the lr of all groups at each, `gradients` replaces the problem's."""
    trace = Trace(flat(problem.starts))
    for step in range(steps):
        if lrs is not None:
            set_lr(lrs[step])
        take((gradients or problem.gradients)(step, read()[1]))
        trace.add(*read())
    return trace


def run_released(
    key: str, options: dict[str, Any], *, groups: Any = None, lrs: Any = None, gradients: Any = None
) -> Trace:
    problem = Problem()
    optimizer, xs = make_released(key, problem, options, groups)
    trace = Trace(flat(problem.starts))
    for step in range(200):
        for group in optimizer.param_groups if lrs is not None else ():
            group["lr"] = lrs[step]
        released_step(optimizer, xs, (gradients or problem.gradients)(step, xs))
        trace.add(float(optimizer.param_groups[0].get("d", NO_D)), xs)
    return trace
