"""Check each way of handling a NaN or infinite gradient on one rank of several."""

import logging
import math
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.debug import CommDebugMode

import dadapt_dist as dd
from tests.helpers.classes import (
    ALL,
    ALWAYS_BEFORE,
    CLASSES,
    SLOW,
    SQUARES_NOTHING,
    WITH_D,
    WITHOUT_SUMS,
    parts,
)
from tests.helpers.collectives import reduces_of
from tests.helpers.layouts import LAYOUTS, Job, ranks, shard2
from tests.helpers.models import Tiny
from tests.helpers.said import Messages

METHODS = list(ALL)
BAD = {2: math.nan, 4: math.inf, 6: -math.inf}  # step -> the gradient element on rank 1
STEPS = 8
Bits = dict[str, Tensor]


@dataclass
class Log:
    """What one rank saw of a run, step by step."""

    d: list[float] = field(default_factory=list)
    scalars: list[Bits] = field(default_factory=list)
    params: list[list[Tensor]] = field(default_factory=list)
    reduces: list[int] = field(default_factory=list)
    errors: list[int] = field(default_factory=list)
    finite: bool = True
    held: int = 0
    steps: int = 0
    messages: list[str] = field(default_factory=list)


def local(t: Tensor) -> Tensor:
    return t.to_local() if isinstance(t, DTensor) else t


def set_element(job: Job, value: float) -> None:
    """Overwrite one gradient element of the last rank only."""
    if dist.get_rank() == dist.get_world_size() - 1:
        p = next(p for p in job.model.parameters() if p.grad is not None and local(p.grad).numel())
        local(p.grad).view(-1)[0] = value


def bits(optimizer: dd.LearningRateFree) -> Bits:
    """The scalars of all estimates after the pending reduce, but for those that follow from every step that moves something."""
    optimizer.step_size._finish()
    others = "held", "updates", "weight_m", "weight_v", "weight_sum", "d_before", "rate_max"
    return {name: t.clone() for name, t in optimizer.step_size._scalars.values.items() if name not in others}


def note(log: Log, job: Job, optimizer: dd.LearningRateFree) -> None:
    log.scalars.append(bits(optimizer))
    log.d.append(float(optimizer.d))
    log.params.append([local(p.detach()).clone() for p in job.model.parameters()])
    # Adan's pre_grad is NaN, by design, where no gradient was seen; after the first step no such element is left.
    buffers = [local(t) for state in optimizer.state.values() for t in state.values()]
    log.finite &= all(bool(torch.isfinite(t).all()) for t in [*log.params[-1], *buffers])


def train(layout: str, method: str, mode: str, bad: dict[int, float], steps: list[int]) -> Log:
    """On every rank: train on the batches `steps`, with a bad element at the batches in `bad`."""
    job, log, handler = LAYOUTS[layout][1](), Log(), Messages()
    logging.getLogger("dadapt_dist").addHandler(handler)
    optimizer = ALL[method](job.params(), nonfinite=mode, **parts(method))
    for step in steps:
        optimizer.zero_grad()
        job.backward(step)
        if step in bad:
            set_element(job, bad[step])
        with CommDebugMode() as communication, suppress(dd.NonFiniteError):
            log.errors.append(step)
            optimizer.step()
            log.errors.pop()
        log.reduces.append(sum(n for op, n in communication.get_comm_counts().items() if "c10d." in str(op)))
        note(log, job, optimizer)
    log.held, log.steps, log.messages = optimizer.step_size.held_steps, optimizer.step_size.steps, handler.texts
    logging.getLogger("dadapt_dist").removeHandler(handler)
    return log


def same(a: Any, b: Any) -> bool:
    """Bit for bit."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


RUNS = [("fsdp2", method) for method in METHODS] + [("ddp", "prodigy"), ("ddp", "dadapt_sgd")]
EVERY = list(range(STEPS))
CLEAN = [step for step in EVERY if step not in BAD]
_clean: dict[tuple[str, str, int], list[Log]] = {}


def clean_run(pools: Any, layout: str, method: str, steps: list[int]) -> list[Log]:
    """The run that meets no bad gradient; made once for the tests that compare with it."""
    key = layout, method, steps[0]
    if key not in _clean:
        _clean[key] = pools(2).run(train, layout, method, "hold", {}, steps)
    return _clean[key]


@pytest.mark.parametrize(("layout", "method"), RUNS)
def test_hold_keeps_the_scalars_on_every_rank_and_trains_the_finite_elements(
    layout: str, method: str, pools: Any
) -> None:
    logs = pools(2).run(train, layout, method, "hold", BAD, EVERY)
    bad = logs if method not in WITHOUT_SUMS else logs[1:]  # without sums, a rank knows of its own gradients alone
    zeroed = pools(2).run(train, layout, method, "hold", dict.fromkeys(BAD, 0.0), EVERY[:3])
    for log, other in zip(logs, zeroed, strict=True):
        assert log.finite
        assert all(same(a, b) for a, b in zip(log.scalars, logs[0].scalars, strict=True)), (
            "scalars differ between ranks"
        )
        for step in BAD:
            assert same(log.scalars[step], log.scalars[step - 1]) == (method not in WITHOUT_SUMS)
            assert not same(log.scalars[step + 1], log.scalars[step]), "the next step must move on"
            assert not same(log.params[step], log.params[step - 1]), "finite elements must train on"
        if method not in ALWAYS_BEFORE:  # whose step is as long as all other gradients let it be
            assert same(log.params[2], other.params[2]), "a bad element must act as a gradient of zero"
        assert log.steps == STEPS
        assert log.reduces[1:] == [reduces_of(method)] * (STEPS - 1)
    for log in bad:
        assert log.held == len(BAD)
        assert len(log.messages) == 1
        assert "not finite" in log.messages[0]


@pytest.mark.parametrize(("layout", "method"), RUNS)
def test_skip_leaves_everything_on_all_ranks_as_if_the_step_had_not_been(layout: str, method: str, pools: Any) -> None:
    logs = pools(2).run(train, layout, method, "skip", BAD, EVERY)
    clean = clean_run(pools, layout, method, CLEAN)
    for log, reference in zip(logs, clean, strict=True):
        for step in BAD:
            assert same(log.scalars[step], log.scalars[step - 1])
            assert same(log.params[step], log.params[step - 1])
        for index, step in enumerate(CLEAN):
            assert same(log.scalars[step], reference.scalars[index])
            assert same(log.params[step], reference.params[index])
        assert log.finite
        assert log.held == len(BAD)
        assert log.reduces[1:] == [1] * (STEPS - 1)
        assert len(log.messages) == 1
        grows = method in WITH_D and method not in SLOW
        assert not grows or log.d[-1] > 1.05 * log.d[0] >= 1.05e-3, "d never moved: the comparison would be empty"


@pytest.mark.parametrize(("layout", "method"), RUNS)
def test_raise_raises_on_all_ranks_in_the_same_step_and_training_can_go_on(
    layout: str, method: str, pools: Any
) -> None:
    logs = pools(2).run(train, layout, method, "raise", BAD, EVERY)
    clean = clean_run(pools, layout, method, CLEAN)
    for log, reference in zip(logs, clean, strict=True):
        assert log.errors == list(BAD)
        for step in BAD:
            assert same(log.params[step], log.params[step - 1])
        for index, step in enumerate(CLEAN):
            assert same(log.scalars[step], reference.scalars[index])
            assert same(log.params[step], reference.params[index])
        assert log.finite


@pytest.mark.parametrize("mode", ["hold", "skip", "raise"])
@pytest.mark.parametrize("method", METHODS)
def test_a_bad_first_gradient_loses_nothing(method: str, mode: str, pools: Any) -> None:
    logs = pools(2).run(train, "fsdp2", method, mode, {0: math.nan}, EVERY[:5])
    clean = clean_run(pools, "fsdp2", method, EVERY[1:5])
    for log, reference in zip(logs, clean, strict=True):
        assert log.finite or (method == "dadapt_adan" and mode != "hold")  # pre_grad: no gradient seen yet
        assert method not in CLASSES or log.d[0] == 1e-3
        assert log.scalars[0]["k"].item() == (mode == "hold" and method in WITHOUT_SUMS)
        assert all(same(a, b) for a, b in zip(log.scalars, logs[0].scalars, strict=True))
        assert log.d[-1] > log.d[0] or method in SLOW or method not in WITH_D
        if mode != "hold":
            assert same(log.params[-1], reference.params[-1])
            assert same(log.scalars[-1], reference.scalars[-1])


def overflow(method: str, dtype: torch.dtype, value: float) -> dict[str, Any]:
    """On every rank, under FSDP2: after three steps the last rank's gradients are all huge but finite."""
    job = Job(shard2(Tiny(dtype=dtype)), *ranks(), dtype=dtype)
    optimizer = ALL[method](job.params(), **parts(method))
    for step in range(3):
        optimizer.zero_grad()
        job.backward(step)
        optimizer.step()
    before = bits(optimizer)
    for p in job.model.parameters() if dist.get_rank() == 1 else ():
        local(p.grad).fill_(value)
    sums = optimizer._rehearse()
    if method not in WITHOUT_SUMS:  # whose ranks know of their own gradients alone
        dist.all_reduce(sums)
    optimizer.step()
    return {
        "overflowed": not bool(torch.isfinite(sums).all()),
        "counted_bad": float(sums[0, -1]),
        "held": optimizer.step_size.held_steps,
        "same": same(bits(optimizer), before),
        "after": bits(optimizer),
    }


@pytest.mark.parametrize(
    ("dtype", "value"), [(torch.float64, 1e300), (torch.float32, 3e38)], ids=["float64", "float32"]
)
@pytest.mark.parametrize("method", METHODS)
def test_gradients_that_overflow_hold_the_scalars_on_all_ranks(
    method: str, dtype: torch.dtype, value: float, pools: Any
) -> None:
    results = pools(2).run(overflow, method, dtype, value)
    for result in results:
        assert not result["overflowed"], "what would overflow is left out of the sums"
        assert result["held"] == (result["counted_bad"] > 0)
        assert result["same"] or not result["held"] or method in WITHOUT_SUMS
        assert all(bool(torch.isfinite(t).all()) for t in result["after"].values())
        assert same(result["after"], results[0]["after"])
    if method not in SQUARES_NOTHING:
        assert results[-1]["held"], "the comparison would be empty"


def poisoned_pair(mode: str) -> list[Any]:
    """In one process: two optimizers on one StepSize; the second has a bad gradient in step 2."""
    shared = dd.StepSize(nonfinite=mode)  # type: ignore[arg-type]
    weights = [torch.nn.Parameter(torch.ones(3, dtype=torch.float64)) for _ in range(2)]
    pair = [dd.Prodigy([w], d0=1e-2, step_size=shared) for w in weights]
    seen = []
    for step in range(5):
        for w in weights:
            w.grad = 2 * (w.detach() - 3.0)
        if step == 2:
            weights[1].grad[1] = math.nan
        with suppress(dd.NonFiniteError), shared.window():
            for optimizer in pair:
                optimizer.step()
        seen.append((shared.d, [w.detach().clone() for w in weights]))
    return seen


@pytest.mark.parametrize("mode", ["hold", "skip", "raise"])
def test_a_bad_gradient_of_one_optimizer_counts_for_all_that_share_its_step_size(mode: str) -> None:
    seen = poisoned_pair(mode)
    assert seen[2][0] == seen[1][0]
    assert seen[3][0] > seen[2][0]
    assert same(seen[2][1], seen[1][1]) == (mode != "hold")


@pytest.mark.parametrize("mode", ["skip", "raise"])
@pytest.mark.parametrize("key", METHODS)
def test_a_skipped_step_leaves_the_estimates_whose_gradients_were_finite(key: str, mode: str) -> None:
    def run(steps: list[int]) -> tuple[dd.LearningRateFree, Bits]:
        weights = [torch.nn.Parameter(torch.ones(3, dtype=torch.float64)) for _ in range(2)]
        groups = [{"params": [w], "estimate": name} for w, name in zip(weights, "ab", strict=True)]
        optimizer = ALL[key](groups, nonfinite=mode, **parts(key, 1e-2))
        for step in steps:
            for number, w in enumerate(weights):
                w.grad = torch.full_like(w, math.nan if number == 1 and step in spoiled else 1.0 + 0.1 * step)
            with suppress(dd.NonFiniteError):
                optimizer.step()
        return optimizer, {str(i): w.detach().clone() for i, w in enumerate(weights)}

    spoiled = (0, 3)
    (optimizer, weights), (clean, right) = run(list(range(8))), run([1, 2, 4, 5, 6, 7])
    scalars, wanted = ({**o.step_size._scalars.values} for o in (optimizer, clean))
    assert scalars.pop("held").tolist() == [0, 2 if mode == "skip" else 0]
    wanted.pop("held")
    assert same(scalars | weights, wanted | right)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_a_bad_gradient_of_a_single_element_with_slices(shape: tuple[int, ...]) -> None:
    w, other = torch.nn.Parameter(torch.ones(shape)), torch.nn.Parameter(torch.ones(4))
    optimizer = dd.Prodigy([w, other], d0=1e-2, slice_p=2, backend="eager")
    for value in (1.0, math.nan, 1.0):
        w.grad, other.grad = torch.full_like(w, value), torch.ones(4)
        optimizer.step()
    assert bool(w.isfinite().all())
    assert optimizer.step_size.held_steps == 1


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_bad_sparse_gradient_trains_the_finite_elements(value: float) -> None:
    w = torch.nn.Parameter(torch.ones(4, 2, dtype=torch.float64))
    optimizer = dd.DAdaptAdaGrad([w], d0=1e-2)

    def step(values: list[list[float]]) -> None:
        rows, entries = torch.tensor([[0, 2]]), torch.tensor(values, dtype=torch.float64)
        w.grad = torch.sparse_coo_tensor(rows, entries, (4, 2), check_invariants=True)
        optimizer.step()

    step([[1.0, 1.0], [1.0, 1.0]])
    before, d = w.detach().clone(), bits(optimizer)
    step([[value, 1.0], [1.0, 1.0]])
    moved = (w.detach() != before).tolist()
    assert moved == [[False, True], [False, False], [True, True], [False, False]]
    assert same(bits(optimizer), d)
    assert optimizer.step_size.held_steps == 1
    step([[1.0, 1.0], [1.0, 1.0]])
    assert not same(bits(optimizer), d)


def test_the_error_says_how_many_elements_in_which_step_and_what_else_can_be_chosen() -> None:
    w = torch.nn.Parameter(torch.ones(4))
    optimizer = dd.Prodigy([w], nonfinite="raise")
    w.grad = torch.tensor([1.0, math.nan, math.inf, 1.0])
    with pytest.raises(dd.NonFiniteError, match=r'2 gradient elements .* step 0.*"skip".*"hold"'):
        optimizer.step()
