"""Check that loss scaling changes nothing, and that all ranks stay in the same step when one of them overflows."""

import gc
import math
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.amp import GradScaler
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.fsdp.sharded_grad_scaler import ShardedGradScaler
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.debug import CommDebugMode

import dadapt_dist as dd
from dadapt_dist.sharding import live_objects
from tests.helpers.classes import ALL, WITH_D, make, parts
from tests.helpers.collectives import reduces
from tests.helpers.layouts import LAYOUTS, Job
from tests.helpers.models import batch, loss_of, part
from tests.helpers.wrapper import Wrapper

SCALERS: dict[str, Any] = {"plain": GradScaler, "sharded": ShardedGradScaler}
STEPS = 6
OVERFLOW = 3  # the step in which one rank meets an infinity


@dataclass
class Log:
    """What one rank saw, step by step."""

    d: list[float] = field(default_factory=list)
    params: list[list[Tensor]] = field(default_factory=list)
    reduces: list[int] = field(default_factory=list)
    scales: list[float] = field(default_factory=list)
    errors: list[int] = field(default_factory=list)
    held: int = 0


def local(t: Tensor) -> Tensor:
    return t.to_local() if isinstance(t, DTensor) else t


def clip(job: Job) -> None:
    """Clip the norm over all ranks to 0.1; FSDP1's own function takes no float64."""
    grads = [p.grad for p in job.model.parameters() if p.grad is not None]
    if not isinstance(job.model, FullyShardedDataParallel):
        torch.nn.utils.clip_grad_norm_(job.model.parameters(), 0.1)
        return
    square = torch.stack([g.square().sum() for g in grads]).sum()
    dist.all_reduce(square)
    for g in grads:
        g.mul_(torch.clamp(0.1 / square.sqrt(), max=1.0))


def damage(job: Job, kind: str) -> None:
    """On the last rank: one infinite gradient element, or no gradients at all."""
    if kind == "inf" and dist.get_rank() == 1:
        next(local(p.grad) for p in job.model.parameters() if p.grad is not None and local(p.grad).numel()).fill_(
            math.inf
        )
    if kind == "none" and dist.get_rank() == 1:
        job.model.zero_grad(set_to_none=True)


def train(
    layout: str, method: str, scaler_name: str | None, *, unscale: bool = False, clipped: bool = False,
    damages: dict[int, str] | None = None, **options: Any,
) -> Log:  # fmt: skip
    """On every rank: train with a scaler (None: without), optionally unscaling and clipping before the step."""
    job, log = LAYOUTS[layout][1](), Log()
    optimizer = ALL[method](job.params(), **parts(method), **options)
    scaler = SCALERS[scaler_name or "plain"]("cpu", enabled=scaler_name is not None)
    for step in range(STEPS):
        optimizer.zero_grad()
        x, y = (part(t, job.dp_rank, job.dp_size) for t in batch(step))
        scaler.scale(loss_of(job.model, x, y)).backward()
        damage(job, (damages or {}).get(step, ""))
        if unscale:
            scaler.unscale_(optimizer)
        if clipped:
            clip(job)
        with CommDebugMode() as communication, suppress(dd.NonFiniteError):
            log.errors.append(step)
            scaler.step(optimizer)
            log.errors.pop()
        log.reduces.append(reduces(communication.get_comm_counts()))
        with suppress(RuntimeError):  # after an error in step() the scaler has nothing to update
            scaler.update()
        log.scales.append(scaler.get_scale())
        log.d.append(float(optimizer.d))
        log.params.append([local(p.detach()).clone() for p in job.model.parameters()])
    log.held = optimizer.step_size.held_steps
    return log


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def moved(log: Log) -> list[bool]:
    """Which parameters that have elements on this rank moved in the overflow step."""
    pairs = zip(log.params[OVERFLOW], log.params[OVERFLOW - 1], strict=True)
    return [not torch.equal(now, before) for now, before in pairs if now.numel()]


def assert_same_run(logs: list[Log], others: list[Log], *, grows: bool = True) -> None:
    for log, other in zip(logs, others, strict=True):
        assert [d.hex() for d in log.d] == [d.hex() for d in other.d]
        assert all(same(a, b) for a, b in zip(log.params, other.params, strict=True))
        assert log.d[-1] > log.d[0] or not grows


PAIRS = [("fsdp1 orig params", "plain"), ("fsdp1 orig params", "sharded"), ("fsdp2", "plain"), ("ddp", "plain")]


@pytest.mark.parametrize(("layout", "scaler"), PAIRS)
def test_scaling_by_a_power_of_two_changes_no_bit(layout: str, scaler: str, pools: Any) -> None:
    plain = pools(2).run(train, layout, "prodigy", None)
    scaled = pools(2).run(train, layout, "prodigy", scaler)
    assert_same_run(scaled, plain)
    assert scaled[0].scales == [2.0**16] * STEPS
    own = 1 if scaler == "sharded" else 0  # that scaler asks the other ranks by an all-reduce of its own
    agreed = 1 if scaler == "plain" else 0  # and we ask whether another rank's scaler found an overflow
    assert scaled[0].reduces[1:] == [1 + own + agreed] * (STEPS - 1)


@pytest.mark.parametrize("method", [method for method in ALL if method != "prodigy"])
def test_scaling_changes_no_bit_of_other_methods(method: str, pools: Any) -> None:
    """SGD among them: its first gradient norm is taken before the first update and must be unscaled too."""
    scaled, plain = (pools(2).run(train, "fsdp2", method, scaler) for scaler in ("plain", None))
    assert_same_run(scaled, plain, grows=method in WITH_D and method != "dadapt_adagrad")


@pytest.mark.parametrize(("layout", "scaler"), PAIRS)
def test_unscaling_and_clipping_before_the_step_changes_no_bit(layout: str, scaler: str, pools: Any) -> None:
    plain = pools(2).run(train, layout, "dadapt_adam", None, clipped=True)
    scaled = pools(2).run(train, layout, "dadapt_adam", scaler, unscale=True, clipped=True)
    assert_same_run(scaled, plain)


def test_hold_asked_for_trains_the_finite_elements_of_an_overflow_and_keeps_all_ranks_in_the_same_step(
    pools: Any,
) -> None:
    """The plain scaler would keep that rank from step(), and the ranks would then sum the sums of different steps."""
    logs = pools(2).run(train, "fsdp1 orig params", "prodigy", "plain", damages={OVERFLOW: "inf"}, nonfinite="hold")
    assert logs[0].d == logs[1].d
    for log in logs:
        assert log.d[OVERFLOW] == log.d[OVERFLOW - 1]
        assert log.d[-1] > log.d[OVERFLOW]
        assert log.reduces[1:] == [1] * (STEPS - 1)
        assert log.held == 1
        assert all(
            moved(log)
        )  # the finite elements train; the infinite ones go on with their momentum, as at gradient 0
        assert all(bool(torch.isfinite(t).all()) for t in log.params[-1])


@pytest.mark.parametrize("unscale", [False, True])
@pytest.mark.parametrize(("layout", "scaler"), [("fsdp1 orig params", "sharded"), ("fsdp2", "plain")])
def test_scalers_that_know_of_all_ranks_keep_one_scale_and_one_d(
    layout: str, scaler: str, unscale: bool, pools: Any
) -> None:
    """FSDP1's scaler asks the other ranks when it unscales; for DTensors the plain scaler does.

    An optimizer that says it unscales by itself keeps FSDP1's scaler from asking: after one overflow the ranks' scales
    would differ for good, and their gradients be averaged at two scales.
    """
    logs = pools(2).run(train, layout, "prodigy", scaler, unscale=unscale, damages={OVERFLOW: "inf"})
    for log in logs:
        assert set(moved(log)) == {False}
        assert all(bool(torch.isfinite(t).all()) for t in log.params[-1])
        assert log.d == logs[0].d
        assert log.d[OVERFLOW] == log.d[OVERFLOW - 1]
        assert log.scales == [2.0**16] * OVERFLOW + [2.0**15] * (STEPS - OVERFLOW)
        assert log.held == 0


@pytest.mark.parametrize("mode", ["skip", "raise"])
def test_skip_and_raise_see_the_overflow_of_one_rank_on_all(mode: str, pools: Any) -> None:
    logs = pools(2).run(train, "fsdp1 orig params", "prodigy", "plain", damages={OVERFLOW: "inf"}, nonfinite=mode)
    for log in logs:
        assert same(log.params[OVERFLOW], log.params[OVERFLOW - 1])
        assert log.d == logs[0].d
        assert log.errors == ([OVERFLOW] if mode == "raise" else [])


@pytest.mark.parametrize("unscale", [False, True])
def test_a_rank_without_gradients_takes_part(unscale: bool, pools: Any) -> None:
    """FSDP1 leaves a rank without gradients where all of its shard is frozen or unused."""
    damages = dict.fromkeys(range(2, STEPS), "none")
    plain = pools(2).run(train, "fsdp1 orig params", "prodigy", None, damages=damages)
    scaled = pools(2).run(train, "fsdp1 orig params", "prodigy", "sharded", unscale=unscale, damages=damages)
    assert_same_run(scaled, plain)
    assert scaled[0].d == scaled[1].d
    assert same(scaled[1].params[-1], scaled[1].params[2 - 1])
    assert not same(scaled[0].params[-1], scaled[0].params[2 - 1])


@pytest.mark.parametrize("method", ALL)
def test_float16_gradients_are_unscaled_in_the_dtype_of_the_buffers(method: str) -> None:
    """A gradient of 2^-26 is 0 in float16, and 2^-10 as long as it is scaled by 2^16: what loss scaling is for."""
    scale, g = 2.0**16, 2.0**-26
    half = torch.nn.Parameter(torch.ones(4, dtype=torch.float16))
    single = torch.nn.Parameter(torch.ones(4))
    optimizers = [make(method, [p], 0.25) for p in (half, single)]
    scaler = GradScaler("cpu", init_scale=scale)
    scaler.scale(torch.zeros(()))  # makes the scale
    for _ in range(3):
        half.grad = torch.full((4,), scale * g, dtype=torch.float16)
        single.grad = torch.full((4,), g)
        scaler.step(optimizers[0])
        scaler.update()
        optimizers[1].step()
    for name, expected in optimizers[1].state[single].items():
        if name not in (
            "x0",
            "p0",
            "z",
            "reward",
            "wealth",
        ):  # of weights, and of the way they went, which are rounded to float16
            torch.testing.assert_close(optimizers[0].state[half][name], expected, rtol=2e-3, atol=0)
    assert any(float(t.abs().max()) > 0 for t in optimizers[0].state[half].values())


def test_a_disabled_scaler_leaves_no_trace() -> None:
    w = torch.nn.Parameter(torch.ones(3))
    optimizer, scaler = dd.Prodigy([w]), GradScaler("cpu", enabled=False)
    scaler.scale((w * w).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert optimizer.step_size.steps == 1
    assert not hasattr(optimizer, "found_inf")


def asked(optimizer: Any) -> bool:
    """What a scaler or a trainer reads."""
    return bool(getattr(optimizer, "_step_supports_amp_scaling", False))


class Asking(GradScaler):
    """Tells what the scaler in use was answered in its step."""

    def _maybe_opt_step(self, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        self.answered = False  # torch comes here only then
        return super()._maybe_opt_step(optimizer, *args, **kwargs)


class AskingSharded(ShardedGradScaler):
    """As Asking."""

    def _maybe_opt_step(self, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        self.answered = False
        return super()._maybe_opt_step(optimizer, *args, **kwargs)


def answer(scaler: Any, *, wrap: bool = False, unscale: bool = False, **attributes: Any) -> tuple[bool, float]:
    """What a scaler is told in a step, and where the step takes a weight of 1 with a gradient of 0.5."""
    w = torch.nn.Parameter(torch.ones(2))
    optimizer = dd.Prodigy([w], d0=1e-2)
    for name, value in attributes.items():
        setattr(optimizer, name, value)
    scaler.answered = True
    scaler.scale((w * 0.5).sum()).backward()
    if unscale:
        scaler.unscale_(optimizer)
    scaler.step(Wrapper(optimizer) if wrap else optimizer)
    scaler.update()
    return scaler.answered, float(w.detach()[0])


def test_a_scaler_leaves_unscaling_to_us_also_through_a_wrapper_that_passes_its_question_on() -> None:
    """A trainer that asks without a scaler at work will clip: told yes, it would clip scaled gradients, or refuse."""
    results = [answer(Asking("cpu")), answer(Asking("cpu"), unscale=True), answer(Asking("cpu"), wrap=True)]
    assert [told for told, _ in results] == [True, True, True]
    assert len({w for _, w in results}) == 1
    optimizer = dd.Prodigy([torch.nn.Parameter(torch.ones(2))])
    assert not asked(optimizer)
    assert not asked(Wrapper(optimizer))


def one_rank_sharded() -> bool:
    return answer(AskingSharded("cpu"))[0]


def test_fsdp1s_scaler_unscales_by_itself(pools: Any) -> None:
    assert pools(2).run(one_rank_sharded) == [False, False]


def test_who_unscales_can_be_set_and_a_wrong_word_is_refused() -> None:
    assert answer(Asking("cpu"), amp_scaling="external")[0] is False
    assert answer(Asking("cpu"), amp_scaling="internal")[0] is True
    with pytest.raises(ValueError, match="amp_scaling='inside' is not one of None, 'internal', 'external'"):
        answer(Asking("cpu"), amp_scaling="inside")


def test_the_scaler_is_searched_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search goes through all objects of the process."""
    searches: list[type] = []
    found = live_objects._referrers
    monkeypatch.setattr(live_objects, "_referrers", lambda cls: searches.append(cls) or found(cls))
    w, scaler = torch.nn.Parameter(torch.ones(2)), GradScaler("cpu")
    optimizer = dd.Prodigy([w])
    for _ in range(5):
        assert not asked(optimizer) or not searches  # a trainer that asks in every step before the scaler
        scaler.scale((w * 0.5).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
    assert searches.count(GradScaler) <= 2


def test_a_scaler_behind_gc_freeze_is_found_when_it_is_attached(library_log: pytest.LogCaptureFixture) -> None:
    live_objects._said.clear()
    scalers = Asking("cpu"), Asking("cpu")
    gc.freeze()
    try:
        assert answer(scalers[0])[0] is False
        assert [text for text in library_log.messages if "call dadapt_dist.attach(scaler)" in text]
        dd.attach(scalers[1])
        assert answer(scalers[1])[0] is True
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()


class Slim:
    """A wrapper to which nobody can refer weakly."""

    __slots__ = ("found_inf", "grad_scale", "optimizer")

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer

    def __getattr__(self, name: str) -> Any:
        if name in self.__slots__:
            raise AttributeError(name)
        return getattr(self.optimizer, name)


@pytest.mark.parametrize("attached", [False, True])
@pytest.mark.parametrize("wrap", [Wrapper, Slim])
def test_a_scale_that_cannot_reach_us_is_refused_before_scaled_gradients_are_taken(wrap: Any, attached: bool) -> None:
    """They used to train as they were, 65536 times too large, and no step that overflowed was left out."""
    w = torch.nn.Parameter(torch.ones(2))
    optimizer, scaler = dd.Prodigy([w], d0=1e-2), GradScaler("cpu")
    optimizer.amp_scaling, wrapped = "internal", wrap(optimizer)
    if attached:
        dd.attach(scaler)
    if wrap is Wrapper:
        gc.freeze()
    try:
        scaler.scale((w * 0.5).sum()).backward()
        with pytest.raises(
            RuntimeError, match=r"scale of the GradScaler did not reach this step.*Call gc\.freeze\(\) after"
        ):
            scaler.step(wrapped)
        assert w.tolist() == [1.0, 1.0]
        assert optimizer.step_size.steps == 0
        optimizer.amp_scaling = "external"
        other = GradScaler("cpu")
        other.scale(torch.zeros(()))
        other.step(optimizer)
        assert optimizer.step_size.steps == 1
    finally:
        gc.unfreeze()


@pytest.mark.parametrize("freeze", [False, True])
def test_a_step_without_a_scaler_is_taken_where_nobody_asked_or_nothing_is_hidden(freeze: bool) -> None:
    """A disabled scaler calls step() and asks nothing; a trainer may ask without one."""
    w = torch.nn.Parameter(torch.ones(2))
    optimizer, scaler = dd.Prodigy([w], d0=1e-2), GradScaler("cpu", enabled=False)
    optimizer.amp_scaling = "internal"
    if freeze:
        gc.freeze()
    try:
        for _ in range(2):
            assert freeze or asked(optimizer)
            scaler.scale((w * 0.5).sum()).backward()
            scaler.step(optimizer)
            scaler.update()
    finally:
        gc.unfreeze()
    assert optimizer.step_size.steps == 2
