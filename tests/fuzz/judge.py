"""What the ranks should have seen: the oracle runs the same configuration in one process, uninterrupted, in float64."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dadapt_dist.methods import METHODS
from tests.helpers.collectives import reduces_of
from tests.helpers.layout_runs import of_oracle
from tests.helpers.oracles import ORACLES, Oracle

from .config import Config
from .problem import Problem
from .ranks import SCALE, Seen

# Largest relative difference of d, and of the parameters' way against their size. float32: of d alone where it is a ratio
# of sums over rounded tensors. In bfloat16 moves below half a rounding step are lost: only what must always hold is held.
TOLERANCE = {"float64": 1e-10, "float32": 2e-3}
LARGEST = 1e60  # a d or parameter beyond: the run explodes


@dataclass
class Expected:
    """d: step -> estimate -> value; ready: steps before which everything that needs reduces of its own had been set up.

    maybe: steps that raise if a finite gradient overflows, of which the oracle in float64 knows nothing.
    """

    oracle: Oracle
    start: Tensor
    d: list[dict[str, float]] = field(default_factory=list)
    params: list[Tensor] = field(default_factory=list)
    ready: list[bool] = field(default_factory=list)
    frozen: list[bool] = field(default_factory=list)
    raised: list[int] = field(default_factory=list)
    maybe: list[int] = field(default_factory=list)
    steps: int = 0


def expect(config: Config) -> Expected:
    """Run the oracle."""
    problem, names = Problem(config), list(config.shapes)
    groups = [{"indices": [names.index(n) for n in g.names], **of_oracle(g.options)} for g in config.groups]
    starts = [problem.whole(problem.starts, name) for name in names]
    late = {name for group in config.groups if group.added for name in group.names}
    untrained = [i for i, name in enumerate(names) if config.frozen.get(name) or name in late]
    how = {"freeze_after": config.shared.get("freeze_after"), "untrained": untrained}
    oracle = ORACLES[config.method](starts, groups, **how, **of_oracle(config.options))
    expected = Expected(oracle, problem.starts)
    for step in range(config.steps):
        for group, live in zip(config.groups, oracle.groups, strict=True):
            live["lr"] = config.lr(step, group)
        started = METHODS[config.method].start is None or all(oracle.k.values())
        expected.ready.append(started and all(e.get("g0_norm", 1) is not None for e in oracle.estimates.values()))
        expected.frozen.append(oracle.freeze_after is not None and oracle.steps >= oracle.freeze_after)
        _step(config, problem, oracle, expected, step)
        # A first d that a norm of the weights gives is there once a step has counted.
        known = {name: METHODS[config.method].start is None or k > 0 for name, k in oracle.k.items()}
        expected.d.append({name: d if known[name] else math.nan for name, d in oracle.ds.items()})
        expected.params.append(torch.cat([torch.zeros(1), *(x.flatten() for x in oracle.params)]))
        if (oracle.has_d and max(oracle.ds.values()) > LARGEST) or float(expected.params[-1].abs().max()) > LARGEST:
            raise OverflowError("the run explodes: nothing can be compared")
    expected.steps = oracle.steps
    return expected


def _step(config: Config, problem: Problem, oracle: Oracle, expected: Expected, step: int) -> None:
    flat, names = problem.clipped(step), list(config.shapes)
    if config.scaler:  # what overflows once it is scaled comes as an infinity
        flat = torch.where(torch.isfinite((flat * SCALE).to(getattr(torch, config.dtype))), flat, math.inf)
    grads = [problem.whole(flat, n) if config.has_gradient(step, n) else None for n in names]
    bad = {i for i, g in enumerate(grads) if g is not None and not torch.isfinite(g).all()}
    moving = {i for group in oracle.groups if group["lr"] != 0 for i in group["indices"]}
    mode = config.shared.get("nonfinite")
    if mode == "raise" and bad & moving:
        expected.raised.append(step)
    elif mode == "skip" and bad & moving:
        oracle.skip()
    elif config.scaler and mode is None:
        out = {g.optimizer for g in config.groups if g.added <= step and any(names.index(n) in bad for n in g.names)}
        oracle.step(
            grads, {names.index(n) for g in config.groups if g.optimizer in out for n in g.names}, measures=0 not in out
        )
    else:
        oracle.step(grads, holds=config.is_apart(step))
    if mode == "raise" and not bad & moving and any(config.may_overflow(step, names[i]) for i in moving):
        expected.maybe.append(step)


def judge(config: Config, expected: Expected, legs: list[list[Seen]]) -> list[str]:
    """What is wrong, in words; empty when nothing is. legs: what each rank saw, for each call of `ranks.run`."""
    found: list[str] = []
    at = 0
    for ranks in legs:
        found += [f"rank {rank}: {text}" for rank, seen in enumerate(ranks) for text in seen.wrong]
        found += _same_on_all(ranks)
        found += _d(config, expected, ranks[0])
        found += _reduces(config, expected, ranks)
        for number in range(len(ranks[0].values)):
            at += 1
            last = config.legs[at].first if at < len(config.legs) else config.steps
            found += _values(
                config, expected.start, expected.params[last - 1], [seen.values[number] for seen in ranks], last - 1
            )
    raised = [step for ranks in legs for step in ranks[0].raised]
    if not set(expected.raised) <= set(raised) <= {*expected.raised, *expected.maybe}:
        found.append(f"NonFiniteError in steps {raised}, not {expected.raised} (and perhaps {expected.maybe})")
    elif legs[-1][0].steps != (steps := expected.steps + len(expected.raised) - len(raised)):
        found.append(f"steps is {legs[-1][0].steps}, not {steps}")
    return found


def _same_on_all(ranks: list[Seen]) -> list[str]:
    first, found = ranks[0], []
    for rank, seen in enumerate(ranks):
        apart = [step for step in first.d if seen.d.get(step) != first.d[step]]
        if apart:
            step = apart[0]
            found.append(f"d differs between ranks 0 and {rank} in step {step}: {first.d[step]} and {seen.d.get(step)}")
        if (seen.raised, seen.steps) != (first.raised, first.steps):
            found.append(f"ranks 0 and {rank} differ: {first.raised, first.steps} and {seen.raised, seen.steps}")
    return found


def _d(config: Config, expected: Expected, seen: Seen) -> list[str]:
    for step, ds in seen.d.items():
        for name, bits in ds.items():
            d, want = float.fromhex(bits), expected.d[step][name]
            if not math.isnan(want) and not _near(config, d, want):
                return [f"d of {name!r} is {d!r} in step {step}, the oracle's {want!r} ({d / want - 1:.1e})"]
    return []


def _near(config: Config, d: float, want: float) -> bool:
    if not (math.isfinite(d) and d > 0):
        return False
    if not _exact(config) and not _is_close(config):
        return True
    # In float32 a move of d is rounded where the parameters are about 1.
    rounded = 0.0 if config.dtype == "float64" else 3e-6 / want
    return abs(d / want - 1) <= TOLERANCE[config.dtype] + rounded


def _exact(config: Config) -> bool:
    return config.dtype == "float64" and "statistics_dtype" not in config.dtypes


def _is_close(config: Config) -> bool:
    """Is it float32, and nothing in it that rounds more, or overflows sooner, than the oracle does?"""
    huge = any(math.isfinite(value) for _, value in config.bad.values())
    return config.dtype == "float32" and "statistics_dtype" not in config.dtypes and not huge


def _values(
    config: Config, start: Tensor, want: Tensor, ranks: list[list[tuple[Tensor, Tensor]]], step: int
) -> list[str]:
    for rank, pieces in enumerate(ranks):
        for numbers, values in pieces:
            if not torch.isfinite(values).all():
                return [f"rank {rank}: a parameter is not finite after step {step}"]
            numbers, values = numbers[numbers > 0], values[numbers > 0]
            error = (values - want[numbers]).abs() / want[numbers].abs().clamp(min=1.0)
            close = (
                _is_close(config) and config.method != "dadapt_lion"
            )  # which follows the sign of what may be rounding
            bound = TOLERANCE["float64"] if _exact(config) else 2e-3 if close else math.inf
            if close:  # and of the way, for a d that is off by so much
                error -= 0.01 * (want[numbers] - start[numbers]).abs()
            if len(error) and float(error.max()) > bound:
                i = int(error.argmax())
                text = (
                    f"rank {rank}: entry {int(numbers[i])} of the parameters is {float(values[i])!r} after step {step}"
                )
                return [f"{text}, the oracle's {float(want[numbers[i]])!r}"]
    return []


def _reduces(config: Config, expected: Expected, ranks: list[Seen]) -> list[str]:
    placed, alone = config.placings, config.steps
    if config.event and config.event[0] == "go_on_alone":
        alone = config.event[1]
    for rank, seen in enumerate(ranks):
        for step, number in seen.reduces.items():
            waits = config.shared.get("nonfinite", "hold") != "hold"
            frozen = expected.frozen[step] and not config.is_capped
            want = reduces_of(config.method, frozen=frozen) if not waits else 1
            if config.scaler and "nonfinite" not in config.shared:  # the ranks agree whether to leave each one out
                want += config.optimizers
            want = 0 if step >= alone else want
            allowed = {want} if expected.ready[step] or step >= alone else {want, want + 1}
            if step not in placed and number not in allowed:
                return [f"rank {rank}: {number} reduces in step {step}, not {want}"]
    return []
