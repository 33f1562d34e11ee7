"""How is one of our optimizers run next to an oracle or a released package, on given gradients, in one process?"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

import dadapt_dist as dd

from .oracles import ORACLES
from .oracles.released import Problem, Trace, flat

CLASSES: dict[str, type[dd.LearningRateFree]] = {
    "prodigy": dd.Prodigy,
    "dadapt_adam": dd.DAdaptAdam,
    "dadapt_sgd": dd.DAdaptSGD,
    "dadapt_adagrad": dd.DAdaptAdaGrad,
    "dadapt_adan": dd.DAdaptAdan,
    "dadapt_lion": dd.DAdaptLion,
}


def make_ours(
    key: str, starts: Sequence[Tensor], options: dict[str, Any], groups: list[dict[str, Any]] | None = None
) -> tuple[dd.LearningRateFree, list[torch.nn.Parameter]]:
    xs = [torch.nn.Parameter(start.clone()) for start in starts]
    param_groups = [
        {"params": [xs[i] for i in group["indices"]], **{name: group[name] for name in group if name != "indices"}}
        for group in groups or [{"indices": range(len(xs))}]
    ]
    return CLASSES[key](param_groups, **options), xs


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
    gradients: Callable[..., list[Tensor | None]] | None = None,
    lrs: Sequence[float] | None = None,
    steps: int = 200,
) -> Trace:
    """The trace of our optimizer in one process: d of the first group and the flat parameters after each step."""
    problem = problem or Problem()
    gradients = gradients or problem.gradients
    optimizer, xs = make_ours(key, problem.starts, options or {}, groups)
    trace = Trace(flat(problem.starts))
    for step in range(steps):
        if lrs is not None:
            for group in optimizer.param_groups:
                group["lr"] = lrs[step]
        our_step(optimizer, xs, gradients(step, xs))
        trace.add(optimizer.param_groups[0]["d"], xs)
    return trace


def run_oracle(
    key: str,
    options: dict[str, Any] | None = None,
    *,
    groups: list[dict[str, Any]] | None = None,
    problem: Problem | None = None,
    gradients: Callable[..., list[Tensor | None]] | None = None,
    lrs: Sequence[float] | None = None,
    steps: int = 200,
) -> Trace:
    """The trace of the oracle on the same problem."""
    problem = problem or Problem()
    gradients = gradients or problem.gradients
    oracle = ORACLES[key](problem.starts, groups, **(options or {}))
    first = oracle.groups[0]["estimate"]
    trace = Trace(flat(problem.starts))
    for step in range(steps):
        if lrs is not None:
            oracle.set_lr(lrs[step])
        oracle.step(gradients(step, oracle.params))
        trace.add(oracle.ds[first], oracle.params)
    return trace
