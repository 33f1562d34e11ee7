"""Check that an overflow under a GradScaler leaves everything unchanged on all ranks and lets the scale back off."""

import copy
import logging
import math
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.amp import GradScaler
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.debug import CommDebugMode

import dadapt_dist as dd
from dadapt_dist.engine import amp
from dadapt_dist.engine.estimates import StepCount
from dadapt_dist.kernels import eager
from dadapt_dist.methods import METHODS
from tests.helpers.classes import ALL, CLASSES, IN_ONE_GO, parts
from tests.helpers.collectives import reduces, reduces_of
from tests.helpers.kernel_cases import coefficients_of, copied, options_of, task_of
from tests.helpers.layouts import LAYOUTS, Job
from tests.helpers.models import Tiny, batch, loss_of, part
from tests.helpers.said import Messages
from tests.helpers.wrapper import Wrapper

SCALE = 2.0**16
STEPS = 7
SPOILED = (0, 1, 4)  # the steps in which one rank meets an infinity


@dataclass
class Log:
    """What one rank saw: d and the parameters after every step, whether the spoiled steps left all of the state as it was."""

    d: list[float] = field(default_factory=list)
    params: list[list[Tensor]] = field(default_factory=list)
    untouched: list[bool] = field(default_factory=list)
    scales: list[float] = field(default_factory=list)
    reduces: list[int] = field(default_factory=list)
    counts: tuple[int, int, float] = (0, 0, 0.0)  # steps, held, k
    messages: list[str] = field(default_factory=list)

    @property
    def bits(self) -> list[str]:
        """d of every step, where NaN of a method without d is equal to itself."""
        return [d.hex() for d in self.d]


def local(t: Tensor) -> Tensor:
    return t.to_local() if isinstance(t, DTensor) else t


def contents(item: Any) -> Any:
    """A copy that compares bit for bit: tensors as their bytes."""
    if isinstance(item, Tensor):
        return local(item.detach()).contiguous().reshape(-1).view(torch.uint8).tolist()
    if isinstance(item, dict):
        return {key: contents(value) for key, value in item.items()}
    return [contents(value) for value in item] if isinstance(item, (list, tuple)) else item


def spoil(model: Any) -> None:
    """One infinite gradient element on the last rank, after the ranks have exchanged gradients."""
    if not dist.is_initialized() or dist.get_rank() == dist.get_world_size() - 1:
        next(g for p in model.parameters() if p.grad is not None and (g := local(p.grad)).numel()).view(-1)[0] = (
            math.inf
        )


def train(layout: str | None, make: Any, spoiled: tuple[int, ...], steps: list[int], **how: Any) -> Log:
    """Train under a GradScaler on the batches `steps`. how: clip (after unscaling), wrap (the optimizer)."""
    job, log, handler = Job(Tiny()) if layout is None else LAYOUTS[layout][1](), Log(), Messages()
    logging.getLogger("dadapt_dist").addHandler(handler)
    optimizer, scaler = make(job.params()), GradScaler("cpu", init_scale=SCALE)
    for step in steps:
        optimizer.zero_grad()
        x, y = (part(t, job.dp_rank, job.dp_size) for t in batch(step))
        scaler.scale(loss_of(job.model, x, y)).backward()
        if step in spoiled:
            spoil(job.model)
        before = contents([optimizer.state_dict(), list(job.model.parameters())])
        if how.get("clip"):
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_value_(job.model.parameters(), 10.0)  # the infinity is then finite
        with CommDebugMode() as communication:
            scaler.step(Wrapper(optimizer) if how.get("wrap") else optimizer)
        scaler.update()
        log.reduces.append(reduces(communication.get_comm_counts()))
        log.scales.append(scaler.get_scale())
        log.params.append([local(p.detach()).clone() for p in job.model.parameters()])
        if isinstance(optimizer, dd.LearningRateFree):
            log.d.append(float(optimizer.d))
            if step in spoiled and before[0]["state"]:  # before the first step there is no state at all
                log.untouched.append(before == contents([optimizer.state_dict(), list(job.model.parameters())]))
    if isinstance(optimizer, dd.LearningRateFree):
        own = optimizer.step_size
        log.counts = own.steps, own.held_steps, float(own._value("default", "k"))
    log.messages = handler.texts
    logging.getLogger("dadapt_dist").removeHandler(handler)
    return log


def ours(method: str, **options: Any) -> Any:
    return lambda params: ALL[method](params, **parts(method), **options)


def both(layout: str | None, method: str, **options: Any) -> tuple[Log, Log]:
    """A run with overflows, and one that never sees those batches."""
    clean = [step for step in range(STEPS) if step not in SPOILED]
    make = ours(method, **options)
    return train(layout, make, SPOILED, list(range(STEPS))), train(layout, make, (), clean)


def check(log: Log, clean: Log) -> None:
    kept = [step for step in range(STEPS) if step not in SPOILED]
    assert [log.bits[step] for step in kept] == clean.bits
    for step, params in zip(kept, clean.params, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(log.params[step], params, strict=True))
    assert log.untouched == [True] * (len(SPOILED) - 1)
    assert log.counts == clean.counts
    assert log.counts[:2] == (len(kept), 0)
    assert not torch.equal(log.params[-1][0], log.params[-2][0])


def every_method(layout: str) -> list[tuple[Log, Log]]:
    return [both(layout, method) for method in IN_ONE_GO]


def adamw(layout: str) -> list[float]:
    return train(layout, lambda ps: torch.optim.AdamW(ps, fused=True), SPOILED, list(range(STEPS))).scales


@pytest.mark.in_one_go
@pytest.mark.parametrize("layout", ["ddp", "fsdp2", "fsdp1 orig params"])
def test_training_goes_on_as_if_the_batch_had_not_been(layout: str, pools: Any) -> None:
    """One rank alone meets the infinity: the others must leave the step out with it."""
    ranks = pools(2).run(every_method, layout)
    for pairs in ranks:
        for method, (log, clean), (first, _) in zip(IN_ONE_GO, pairs, ranks[0], strict=True):
            check(log, clean)
            assert log.bits == first.bits
            # The sums, and whether any rank's scaler found an overflow.
            assert max(log.reduces[3:]) == 1 + reduces_of(method), method
            # With AdamW, the scale of that one rank alone falls, but for FSDP2, where torch's scaler asks the others.
            assert log.scales == [SCALE / 2, SCALE / 4, SCALE / 4, SCALE / 4, SCALE / 8, SCALE / 8, SCALE / 8]
    assert ranks[1][0][0].scales == pools(2).run(adamw, layout)[1]


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize("on_device", [False, True])
def test_one_process_goes_on_too(method: str, on_device: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """on_device: as on an accelerator, whose flag the host does not read."""
    if on_device:
        monkeypatch.setattr(eager, "readable", lambda device: False)
    log, clean = both(None, method, **({"backend": "eager"} if on_device else {}))
    check(log, clean)
    assert log.reduces == [0] * STEPS
    assert log.scales[-1] == SCALE / 8
    assert not log.messages, "an overflow is a scaler's everyday business"


def test_several_overflows_at_the_start_are_no_sign_of_nothing_training() -> None:
    log = train(None, ours("dadapt_sgd"), tuple(range(6)), list(range(8)))
    assert log.counts == (2, 0, 2.0)
    assert not log.messages


@pytest.mark.parametrize("how", [{"clip": True}, {"wrap": True}], ids=str)
def test_an_infinity_that_was_clipped_and_a_scaler_that_knows_a_wrapper_only(how: dict[str, Any]) -> None:
    """The flag counts, not what the gradients look like; a wrapper is told it in our place, and so is the scale."""
    log = train(None, ours("prodigy"), (3,), list(range(STEPS)), **how)
    plain = train(None, ours("prodigy"), (3,), list(range(STEPS)))
    assert log.d == plain.d
    assert all(torch.equal(a, b) for a, b in zip(log.params[-1], plain.params[-1], strict=True))
    assert log.untouched == [True]


def with_a_scaler_of_other_make() -> tuple[list[str], list[float]]:
    """One that keeps its flags elsewhere."""
    own = amp.finding_of
    amp.finding_of = lambda optimizer: amp.Finding(optimizer.found_inf)
    try:
        log = train("ddp", ours("prodigy"), (2, 3, 4), list(range(6)))
    finally:
        amp.finding_of = own
    return log.messages, log.scales


def test_ranks_whose_loss_scales_come_apart_are_told_once(pools: Any) -> None:
    told, other = pools(2).run(with_a_scaler_of_other_make)
    assert len(told[0]) == 1
    assert "another rank's GradScaler found an overflow that this rank's did not" in told[0][0]
    assert other[0] == []
    assert told[1][-1] == 8 * other[1][-1]


def weights(count: int) -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.ones(3)) for _ in range(count)]


def scaled(ws: list[torch.nn.Parameter], bad: int | None) -> None:
    """Gradients of |w - 3|², scaled; those of the parameter `bad` with an infinity."""
    for index, w in enumerate(ws):
        w.grad = SCALE * 2 * (w.detach() - 3.0)
        if index == bad:
            w.grad[1] = math.inf


@pytest.mark.parametrize("bad", [0, 1])
def test_of_two_optimizers_that_share_a_step_size_one_is_left_out_and_d_stays(bad: int) -> None:
    """As torch does with two optimizers of one scaler; d, which would lack the sums of one, stays where it is."""
    shared, ws, scaler = dd.StepSize(), weights(2), GradScaler("cpu", init_scale=SCALE)
    scaler.scale(torch.zeros(()))
    pair = [dd.Prodigy([w], d0=1e-2, step_size=shared) for w in ws]
    for step in range(5):
        scaled(ws, bad if step == 2 else None)
        before, d = copy.deepcopy(ws), shared.d
        state = contents(pair[bad].state_dict())
        for optimizer in pair:
            for w in ws:
                w.grad.mul_(scaler.get_scale() / SCALE) if optimizer is pair[0] else None  # type: ignore[union-attr]
            scaler.step(optimizer)
        scaler.update()
        moved = [not torch.equal(w, was) for w, was in zip(ws, before, strict=True)]
        if step == 2:
            assert moved == [bad != 0, bad != 1]
            assert shared.d == d
            assert contents(pair[bad].state_dict()) == state
        else:
            assert moved == [True, True]
            assert shared.d > d or step == 0
    assert (shared.steps, shared.held_steps) == (4, 0)
    assert scaler.get_scale() == SCALE / 2


@pytest.mark.parametrize("unscale", [False, True])
def test_sums_that_are_needed_before_all_are_unscaled_are_an_error(unscale: bool) -> None:
    shared, ws, scaler = dd.StepSize(), weights(2), GradScaler("cpu", init_scale=SCALE)
    scaler.scale(torch.zeros(()))
    pair = [dd.DAdaptSGD([w], step_size=shared) for w in ws]
    scaled(ws, None)
    if unscale:
        for optimizer in pair:
            scaler.unscale_(optimizer)
            scaler.step(optimizer) if optimizer is pair[1] else None
        scaler.step(pair[0])
        assert shared._value("default", "g0_norm") == pytest.approx(math.sqrt(6 * 16))
        return
    with pytest.raises(RuntimeError, match=r"Call scaler.unscale_\(optimizer\) for every one of them first"):
        scaler.step(pair[0])
    assert not hasattr(pair[0], "found_inf")


@pytest.mark.parametrize("method", ["prodigy", "dadapt_adan"])
def test_weights_that_are_loaded_after_a_first_overflow_are_where_training_starts(method: str) -> None:
    def run(first: float) -> tuple[Tensor, float]:
        (w,), scaler = weights(1), GradScaler("cpu", init_scale=SCALE)
        scaler.scale(torch.zeros(()))
        optimizer = CLASSES[method]([w], d0=1e-2)
        w.data.fill_(first)
        for step in range(4):
            scaled([w], 0 if step == 0 else None)
            w.grad.mul_(scaler.get_scale() / SCALE)  # type: ignore[union-attr]
            scaler.step(optimizer)
            scaler.update()
            if step == 0:
                w.data.fill_(0.5)
        return w.detach().clone(), optimizer.d

    (w, d), (same, other) = run(1.0), run(0.5)
    assert torch.equal(w, same)
    assert d == other > 1e-2


def test_freezing_waits_for_steps_that_count(monkeypatch: pytest.MonkeyPatch) -> None:
    for on_device in (False, True):
        if on_device:
            monkeypatch.setattr(eager, "readable", lambda device: False)
        make = ours("prodigy", freeze_after=6, backend="eager")
        log, clean = train(None, make, (1, 2), list(range(11))), train(None, make, (), [0, *range(3, 11)])
        assert log.d[2:] == clean.d
        assert log.counts == clean.counts
        assert len({*log.d[7:]}) == 1 < len({*log.d})


def test_the_count_of_steps_waits_for_a_device_only_when_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eager, "readable", lambda device: False)
    count, read = StepCount(), []
    monkeypatch.setattr(StepCount, "read", lambda self, own=StepCount.read: read.append(1) or own(self))
    for step in range(6):
        count.add(True, torch.tensor(step == 2))
        assert count.reached(4) == (step >= 4)
    assert len(read) == 2  # at the fourth call, which was the third step, and at the next
    assert count.reached(4)
    assert (count.read(), count.reached(6)) == (5, False)


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize("on_device", [False, True])
def test_the_plain_loop_writes_nothing_where_it_is_told_to_skip(
    method: str, on_device: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if on_device:
        monkeypatch.setattr(eager, "readable", lambda device: False)
    how, task = METHODS[method](), task_of(method, (30, 4))
    before, same, c = copied(task), copied(task), coefficients_of(METHODS[method](), options_of(method))
    assert not eager.run(how, [task], c, False, torch.tensor(True)).any()
    assert contents([task.x, task.buf]) == contents([before.x, before.buf])
    assert torch.equal(eager.run(how, [task], c, False, torch.tensor(False)), eager.run(how, [same], c, False))
    assert contents([task.x, task.buf]) == contents([same.x, same.buf]) != contents([before.x, before.buf])


def test_after_an_error_in_a_step_the_scaler_can_go_on() -> None:
    (w, same), scaler = weights(2), GradScaler("cpu", init_scale=SCALE)
    scaler.scale(torch.zeros(()))
    wrapper, plain = Wrapper(dd.Prodigy([w], d0=1e-2)), dd.Prodigy([same], d0=1e-2)
    for lr in (1.0, -1.0, 1.0):
        scaled([w], None)
        wrapper.param_groups[0]["lr"] = lr
        with suppress(ValueError):
            scaler.step(wrapper)
            scaler.update()
        if lr < 0:
            scaler._per_optimizer_states.clear()
        else:
            same.grad = 2 * (same.detach() - 3.0)
            plain.step()
    assert torch.equal(w, same)
