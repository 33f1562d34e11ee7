"""Check that all ranks leave the same steps out where a GradScaler is given a wrapper of the optimizer."""

import copy
import logging
import math
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.amp import GradScaler
from torch.distributed.fsdp.sharded_grad_scaler import ShardedGradScaler
from torch.distributed.tensor import DTensor

import dadapt_dist as dd
from tests.helpers.layouts import LAYOUTS, Job
from tests.helpers.said import Messages
from tests.helpers.wrapper import Blind, Wrapper

STEPS = 4
OVERFLOW = 2  # the step in which the last rank meets an infinity


class Agreeing(GradScaler):
    """Makes the ranks agree by itself, as those of frameworks with pipelines do."""

    def _maybe_opt_step(self, optimizer: Any, optimizer_state: Any, *args: Any, **kwargs: Any) -> Any:
        for flag in optimizer_state["found_inf_per_device"].values():
            dist.all_reduce(flag)
        return super()._maybe_opt_step(optimizer, optimizer_state, *args, **kwargs)


SCALERS: dict[str, Any] = {"plain": GradScaler, "sharded": ShardedGradScaler, "agreeing": Agreeing}
HANDLES: dict[str, Any] = {
    "bare": lambda optimizer: optimizer,
    "proxy": Wrapper,
    "proxy of a proxy": lambda optimizer: Wrapper(Wrapper(optimizer)),
    "blind": Blind,
}


@dataclass
class Log:
    """What one rank saw, step by step."""

    d: list[float] = field(default_factory=list)
    params: list[list[Tensor]] = field(default_factory=list)
    scales: list[float] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    error: str = ""


def local(t: Tensor) -> Tensor:
    return t.to_local() if isinstance(t, DTensor) else t


def gradients(job: Job) -> list[Tensor]:
    """Those that this rank has, its pieces of them."""
    return [local(p.grad) for p in job.model.parameters() if p.grad is not None]


def spoil(job: Job, layout: str) -> None:
    """An infinity on the last rank; DDP's average brings it to all."""
    if layout == "ddp" or dist.get_rank() == dist.get_world_size() - 1:
        next(g for g in gradients(job) if g.numel()).fill_(math.inf)


def train(
    layout: str, handle: str, *, scaler: str = "plain", overflow: int = OVERFLOW, steps: int = STEPS, unscale: bool = False,
    anew: bool = False, **attributes: Any,
) -> Log:  # fmt: skip
    """On every rank: train with a scaler that is given a handle of the optimizer (anew: another one in each step)."""
    job, log, messages = LAYOUTS[layout][1](), Log(), Messages()
    optimizer, scaling = dd.Prodigy(job.params(), d0=1e-3), SCALERS[scaler]("cpu")
    for name, value in attributes.items():
        setattr(optimizer, name, value)
    scaling.scale(torch.zeros(()))  # makes the scale
    handled = HANDLES[handle](optimizer)
    logging.getLogger("dadapt_dist").addHandler(messages)
    try:
        for step in range(steps):
            handled = HANDLES[handle](optimizer) if anew else handled
            optimizer.zero_grad()
            job.backward(step)
            for g in gradients(job):
                g.mul_(scaling.get_scale())
            if step == overflow:
                spoil(job, layout)
            if unscale:
                scaling.unscale_(handled)
            scaling.step(handled)
            scaling.update()
            log.scales.append(scaling.get_scale())
            log.d.append(float(optimizer.d))
            log.params.append([local(p.detach()).clone() for p in job.model.parameters()])
    except RuntimeError as error:
        log.error = str(error)
    finally:
        logging.getLogger("dadapt_dist").removeHandler(messages)
    log.said = messages.texts
    return log


def run(pools: Any, layout: str, handle: str, **given: Any) -> list[Log]:
    logs: list[Log] = pools(LAYOUTS[layout][0]).run(train, layout, handle, **given)
    return logs


def check_alike(logs: list[Log], overflow: int = OVERFLOW) -> None:
    """All ranks left out the overflowed step, and no other, and went on with one d and one scale."""
    for log in logs:
        assert log.error == ""
        assert log.d == logs[0].d
        assert log.scales == [2.0**16] * overflow + [2.0**15] * (STEPS - overflow)
        moves = [
            any(not torch.equal(a, b) for a, b in zip(now, before, strict=True))
            for before, now in zip(log.params, log.params[1:], strict=False)
        ]
        assert moves == [step != overflow for step in range(1, STEPS)]


def check_same_bits(logs: list[Log], others: list[Log]) -> None:
    for log, other in zip(logs, others, strict=True):
        assert log.d == other.d
        for mine, theirs in zip(log.params, other.params, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


@pytest.mark.parametrize("unscale", [False, True])
@pytest.mark.parametrize("handle", ["proxy", "proxy of a proxy"])
@pytest.mark.parametrize("layout", ["ddp", "fsdp1 orig params", "fsdp2", "pipeline", "pipeline x fsdp2"])
def test_a_proxy_that_passes_attributes_on_is_as_good_as_the_optimizer(
    layout: str, handle: str, unscale: bool, pools: Any
) -> None:
    """The scaler asks us through it, gives it the scale, and leaves what an overflow does to all ranks together."""
    bare = run(pools, layout, "bare", unscale=unscale)
    check_alike(bare)
    wrapped = run(pools, layout, handle, unscale=unscale)
    check_alike(wrapped)
    check_same_bits(wrapped, bare)


@pytest.mark.parametrize("overflow", [0, OVERFLOW])
def test_a_proxy_is_known_from_the_first_step_on_and_may_be_another_in_each(overflow: int, pools: Any) -> None:
    bare = run(pools, "fsdp1 orig params", "bare", overflow=overflow)
    check_alike(bare, overflow)
    check_same_bits(run(pools, "fsdp1 orig params", "proxy", overflow=overflow, anew=True), bare)


@pytest.mark.parametrize(
    ("layout", "scaler"),
    [
        ("ddp", "plain"),
        ("fsdp2", "plain"),
        ("fsdp1 orig params", "sharded"),
        ("pipeline", "agreeing"),
        ("pipeline x fsdp2", "agreeing"),
    ],
)
def test_a_wrapper_through_which_nobody_can_ask_is_right_where_the_scalers_agree(
    layout: str, scaler: str, pools: Any
) -> None:
    """DDP averages the infinity into all gradients, torch reduces the flag of DTensors, and some scalers ask by themselves."""
    logs = run(pools, layout, "blind", scaler=scaler)
    check_alike(logs)
    assert not [text for log in logs for text in log.said if "GradScaler" in text]


@pytest.mark.parametrize("overflow", [0, OVERFLOW])
@pytest.mark.parametrize(("layout", "alone"), [("fsdp1 orig params", 1), ("pipeline x fsdp2", 2)])
def test_a_wrapper_through_which_nobody_can_ask_is_refused_where_one_rank_would_leave_a_step_out_alone(
    layout: str, alone: int, overflow: int, pools: Any
) -> None:
    """In the first step, before any collective of ours: a rank that has an overflow just then would never come.

    alone: how many ranks leave such a step out, by the flag that torch reduces over the mesh of DTensors.
    """
    logs = run(pools, layout, "blind", overflow=overflow, steps=1)
    for log in logs if overflow else logs[:-alone]:
        assert "a GradScaler was given the Blind around this optimizer" in log.error
        assert 'set optimizer.amp_scaling = "external"' in log.error
        assert log.d == []


def test_where_the_gradients_of_the_ranks_cannot_be_compared_it_is_said_once_which_is_right(pools: Any) -> None:
    logs = run(pools, "pipeline", "blind", overflow=STEPS)
    assert [log.error for log in logs] == ["", ""]
    said = [[text for text in log.said if "right only where all ranks have the same gradients" in text] for log in logs]
    assert [len(texts) for texts in said] == [1, 0]


def test_scaling_that_is_said_to_be_external_is_nobody_elses_business(pools: Any) -> None:
    logs = run(pools, "fsdp1 orig params", "blind", overflow=STEPS, amp_scaling="external")
    check_alike(logs, STEPS)
    check_same_bits(logs, run(pools, "fsdp1 orig params", "bare", overflow=STEPS))


def test_scaling_that_is_said_to_be_internal_reaches_us_through_a_proxy(pools: Any) -> None:
    logs = run(pools, "pipeline", "proxy", amp_scaling="internal")
    check_alike(logs)
    check_same_bits(logs, run(pools, "pipeline", "bare"))


def slices(amp_scaling: Any) -> str:
    """Each rank has a slice of its own, said by copies=: the scaler of a rank sees its own slice alone."""
    w = torch.nn.Parameter(torch.ones(3))
    optimizer, scaler = dd.Prodigy([w], copies=lambda _: 1), GradScaler("cpu")
    optimizer.amp_scaling = amp_scaling
    scaler.scale((w * 0.5).sum()).backward()
    try:
        scaler.step(Blind(optimizer))  # type: ignore[arg-type]
    except RuntimeError as error:
        return str(error)
    return ""


def test_slices_that_are_said_to_be_ones_are_seen(pools: Any) -> None:
    assert all("the other ranks would wait for it for ever" in text for text in pools(2).run(slices, None))
    assert all("the other ranks would wait for it for ever" in text for text in pools(2).run(slices, "internal"))
    assert pools(2).run(slices, "external") == ["", ""]


def test_another_optimizer_of_the_same_scaler_is_not_taken_for_a_wrapper() -> None:
    """A GAN: the scaler handles torch's optimizer first, then ours, and each takes its own flag."""
    ours, other = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer, adam, scaler = dd.Prodigy([ours], d0=1e-2), torch.optim.AdamW([other]), GradScaler("cpu")
    wrapped = Wrapper(optimizer)
    for step in range(3):
        scaler.scale((ours * 0.5).sum() + other.sum()).backward()
        if step == 1:
            other.grad.fill_(math.inf)  # type: ignore[union-attr]
        before = ours.detach().clone()
        scaler.step(adam)
        scaler.step(wrapped)
        scaler.update()
        assert not torch.equal(before, ours)
        adam.zero_grad()
        optimizer.zero_grad()
    assert optimizer.step_size.steps == 3


def test_amp_scaling_goes_along_with_a_copy_and_a_wrong_word_changes_nothing() -> None:
    optimizer = dd.Prodigy([torch.nn.Parameter(torch.ones(2))])
    optimizer.amp_scaling = "external"
    with pytest.raises(ValueError, match="amp_scaling='inside' is not one of None, 'internal', 'external'"):
        optimizer.amp_scaling = "inside"  # type: ignore[assignment]
    assert copy.deepcopy(optimizer).amp_scaling == optimizer.amp_scaling == "external"
