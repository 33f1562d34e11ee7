"""The average of the weights that DoG and its kin keep: its bits, its clock, what does not move, and checkpoints."""

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dadapt_dist as dd
from tests.helpers.oracles.dog import DoGOracle
from tests.helpers.oracles.released import Problem, flat, grouped

STATES = [
    (torch.float64, None),
    (torch.float32, None),
    (torch.float32, torch.float64),
    (torch.bfloat16, None),
    (torch.bfloat16, torch.bfloat16),
]
KEPT: dict[str, Any] = {"average": 8.0, "reps_rel": 0.05}


def start(dtype: torch.dtype = torch.float64) -> list[nn.Parameter]:
    g = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=g).to(dtype)) for shape in ((3, 4), (7,), ())]


def take(optimizer: Any, ps: list[nn.Parameter], step: int, without: tuple[int, ...] = ()) -> list[Tensor | None]:
    """One step towards 1, with noise; the gradients."""
    g = torch.Generator().manual_seed(100 + step)
    for i, p in enumerate(ps):
        noise = torch.randn(p.shape, generator=g).to(p.dtype)
        p.grad = None if i in without else p.detach() - 1 + 0.5 * noise
    optimizer.step()
    return [p.grad for p in ps]


def bits(optimizer: Any, ps: list[nn.Parameter]) -> list[Tensor]:
    return [t.detach().clone() for p in ps for t in (p, *(t for _, t in sorted(optimizer.state[p].items())))]


@pytest.mark.parametrize(("dtype", "state_dtype"), STATES)
def test_evaluation_changes_no_bit_of_training(dtype: torch.dtype, state_dtype: torch.dtype | None) -> None:
    """The weights seen are the average, rounded to nearest; a run that looks after each step is one that never does."""
    ps, qs = start(dtype), start(dtype)
    looking, other = (dd.DoG(xs, **KEPT, state_dtype=state_dtype) for xs in (ps, qs))
    for step in range(25):
        take(looking, ps, step)
        take(other, qs, step)
        before, averages = bits(looking, ps), [looking.state[p]["average"].clone() for p in ps]
        assert {t.dtype for t in averages} == {torch.promote_types(dtype, torch.float32)}
        looking.eval()
        for p, average in zip(ps, averages, strict=True):
            torch.testing.assert_close(p.detach(), average.to(dtype), rtol=0, atol=0)
        looking.train()
        assert all(map(torch.equal, bits(looking, ps), before))
    assert all(map(torch.equal, bits(looking, ps), bits(other, qs)))


def test_every_bfloat16_and_the_ends_of_rounding_come_back() -> None:
    """All weights there are beside averages that round down, up, at a tie and away from a power of two."""
    every = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    every = every[every.isfinite()]
    p = nn.Parameter(every.clone())
    optimizer = dd.DoG([p], **KEPT)
    p.grad = torch.zeros_like(p)
    optimizer.step()
    for lower in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF):
        average = (every.flip(0).view(torch.int16).to(torch.int32) << 16) | lower
        optimizer.state[p]["average"].view(torch.int32).copy_(average)
        optimizer.eval()
        expected = average.view(torch.float32).to(torch.bfloat16)
        if lower != 0x8000:  # a tie, which torch rounds to even
            assert torch.equal(p.detach().view(torch.int16), expected.view(torch.int16))
        optimizer.train()
        assert torch.equal(p.detach().view(torch.int16), every.view(torch.int16))
        assert torch.equal(optimizer.state[p]["average"].view(torch.int32), average)


def test_float16_weights_are_refused_before_anything_moves() -> None:
    p = nn.Parameter(torch.ones(3, dtype=torch.float16))
    optimizer = dd.DoG([p], **KEPT)
    p.grad = torch.ones_like(p)
    with pytest.raises(
        ValueError, match=r"parameter 0 of group 0 .*float16.*float32 or bfloat16.*leave average out\.$"
    ):
        optimizer.step()
    assert torch.equal(p.detach(), torch.ones(3, dtype=torch.float16))
    ps = start(torch.float32)
    optimizer = dd.DoG(ps, **KEPT)
    take(optimizer, ps, 0)
    ps[1].data = ps[1].data.half()
    with pytest.raises(
        ValueError, match=r"parameter 1 of group 0 .* has dtype torch.float16, and its average torch.float32"
    ):
        optimizer.eval()
    assert optimizer._mode == "train"


def test_without_an_average_nothing_is_kept_and_eval_does_nothing() -> None:
    ps = start()
    optimizer = dd.DoG(ps, reps_rel=0.05)
    take(optimizer, ps, 0)
    assert all(set(optimizer.state[p]) == {"x0"} for p in ps)
    assert {"mode", "average", "averaged"}.isdisjoint(optimizer.param_groups[0])
    before = flat(ps)
    optimizer.eval()
    assert torch.equal(flat(ps), before)
    take(optimizer, ps, 1)


def test_what_is_frozen_later_or_shares_a_window_it_is_not_in_follows_the_clock() -> None:
    """Tensors that a step does not move are averaged too: their average goes towards them, as that of a whole model does."""
    ps = start()
    step_size = dd.StepSize()
    one, two = (dd.DoG(xs, **KEPT, step_size=step_size) for xs in (ps[:2], ps[2:]))
    oracle = DoGOracle(ps, **KEPT)
    for step in range(12):
        if step == 4:
            ps[1].requires_grad_(False)
        alone, frozen = step in (6, 7), step >= 4
        without = tuple(i for i, out in ((1, frozen), (2, alone)) if out)
        g = torch.Generator().manual_seed(step)
        for i, p in enumerate(ps):
            p.grad = None if i in without else p.detach() - 1 + torch.randn(p.shape, generator=g, dtype=p.dtype)
        oracle.step([p.grad for p in ps])
        with step_size.window():
            one.step()
            for p in ps[:2]:
                p.grad = None  # which says nothing of whether it moved
            if not alone:
                two.step()
        torch.testing.assert_close(flat(ps), flat(oracle.params), rtol=1e-12, atol=1e-14)
        one.eval()
        two.eval()
        torch.testing.assert_close(flat(ps), flat(oracle.averages), rtol=1e-12, atol=1e-14)
        one.train()
        two.train()


def test_an_estimate_that_rests_keeps_its_average_and_its_clock() -> None:
    problem = Problem()
    groups = [{"indices": [0, 2], "estimate": "a"}, {"indices": [1, 3], "estimate": "b"}]
    xs, made = grouped(problem.starts, groups)
    optimizer, oracle = dd.DoG(made, **KEPT), DoGOracle(problem.starts, groups, **KEPT)
    for step in range(9):
        for side in (optimizer.param_groups, oracle.groups):
            side[1]["lr"] = 0.0 if step in (3, 4, 5) else 1.0
        for x, g in zip(xs, problem.gradients(step, xs), strict=True):
            x.grad = g
        oracle.step(problem.gradients(step, oracle.params))
        optimizer.step()
        optimizer.eval()
        torch.testing.assert_close(flat(xs), flat(oracle.averages), rtol=1e-12, atol=1e-14)
        optimizer.train()
    assert [float(group["averaged"]) for group in optimizer.param_groups] == [9, 6]


def test_a_step_that_is_left_out_is_not_in_the_average() -> None:
    for how in ("skip", "scaler"):
        runs = []
        for spoiled in (False, True):
            ps = start(torch.float32)
            optimizer = dd.DoG(ps, **KEPT, nonfinite="skip" if how == "skip" else None)
            scaler = torch.amp.GradScaler("cpu", init_scale=256.0, growth_interval=1000, backoff_factor=0.5)
            for step in range(6):
                for bad in (True, False) if spoiled and step in (0, 3) else (False,):
                    scale = 1.0
                    if how == "scaler":
                        scaler.scale(torch.zeros(()))
                        scale = scaler.get_scale()
                    for i, p in enumerate(ps):
                        p.grad = None if i == 2 and step > 1 else (p.detach() - 1) * scale
                    if bad:
                        ps[1].grad[0] = float("inf")  # type: ignore[index]
                    if how == "scaler":
                        scaler.step(optimizer)
                        scaler.update()
                    else:
                        optimizer.step()
            assert float(optimizer.param_groups[0]["averaged"]) == 6
            runs.append(bits(optimizer, ps))
        assert all(map(torch.equal, *runs))


@pytest.mark.parametrize("way", ["state_dict", "key by key", "pickle", "deepcopy"])
@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_checkpoint_in_either_mode_goes_on_bit_for_bit(dtype: torch.dtype, mode: str, way: str) -> None:
    ps, qs = start(dtype), start(dtype)
    one, other = dd.LDoG(ps, **KEPT), dd.LDoG(qs, **KEPT)
    for step in range(5):
        one.train()
        other.train()
        take(one, ps, step)
        take(other, qs, step)
        if mode == "eval":
            one.eval()
            other.eval()
        if way == "state_dict":
            file = io.BytesIO()
            torch.save(other.state_dict(), file)
            file.seek(0)
            qs = [nn.Parameter(q.detach().clone()) for q in qs]
            other = dd.DoG(qs, **KEPT, estimates="per_tensor")  # whose checkpoints are those of LDoG
            other.load_state_dict(torch.load(file, weights_only=True))
        elif way == "key by key":  # as wrappers and frameworks do that call no load_state_dict
            kept = copy.deepcopy(other.state_dict())
            qs = [nn.Parameter(q.detach().clone()) for q in qs]
            other = dd.LDoG(qs, **KEPT)
            other.state.update({q: kept["state"][i] for i, q in enumerate(qs)})
            other.param_groups = [{**kept["param_groups"][0], "params": qs}]
            other._adopt_groups()
        else:
            other = pickle.loads(pickle.dumps(other)) if way == "pickle" else copy.deepcopy(other)
            qs = other.param_groups[0]["params"]
        assert other._mode == mode
        assert all(map(torch.equal, bits(one, ps), bits(other, qs)))


def test_weights_of_another_dtype_take_the_average_of_a_checkpoint_in_theirs() -> None:
    ps, qs = start(), start(torch.float32)
    one, other = dd.DoG(ps, **KEPT), dd.DoG(qs, **KEPT)
    for step in range(3):
        take(one, ps, step)
    other.load_state_dict(one.state_dict())
    assert {other.state[q]["average"].dtype for q in qs} == {torch.float32}
    with torch.no_grad():
        for p, q in zip(ps, qs, strict=True):
            q.copy_(p)
    before = flat(qs)
    one.eval()
    other.eval()
    assert torch.equal(flat(qs), flat(ps).float())
    other.train()
    assert torch.equal(flat(qs), before)


def test_an_average_is_kept_from_the_first_step_to_the_last() -> None:
    ps = start()
    optimizer = dd.DoG([{"params": [p]} for p in ps], **KEPT)
    take(optimizer, ps, 0)
    kept = optimizer.state_dict()
    for options in ({}, {"average": 3.0}):
        with pytest.raises(
            ValueError, match=r"has average=8\.0, and the optimizer average=.*a run keeps it to its end"
        ):
            dd.DoG([{"params": [p]} for p in start()], reps_rel=0.05, **options).load_state_dict(kept)
    optimizer.param_groups[0]["average"] = 3.0
    with pytest.raises(ValueError, match=r"has been given average=3\.0"):
        take(optimizer, ps, 1)
    with pytest.raises(ValueError, match="differ in average"):
        dd.DoG([{"params": ps[:1]}, {"params": ps[1:], "average": 8.0}])


# ---------------------------------------------------------------- LDoG


def test_ldog_is_dog_for_each_tensor_unless_told_otherwise() -> None:
    ps, qs, rs = start(), start(), start()
    ldog, dog, single = dd.LDoG(ps, **KEPT), dd.DoG(qs, **KEPT, estimates="per_tensor"), dd.LDoG(rs, estimates=None)
    for step in range(5):
        for optimizer, xs in ((ldog, ps), (dog, qs), (single, rs)):
            take(optimizer, xs, step)
        assert ldog.d == dog.d
    assert list(ldog.d) == ["0.0", "0.1", "0.2"]  # type: ignore[call-overload]
    assert isinstance(single.d, float)
    assert all(map(torch.equal, bits(ldog, ps), bits(dog, qs)))
    assert repr(ldog).startswith("LDoG")


def test_ldog_shares_a_step_size_that_has_an_estimate_for_each_tensor() -> None:
    params = [(f"p{i}", p) for i, p in enumerate(start())]
    step_size = dd.StepSize("per_tensor")
    for one in params:
        dd.LDoG([one], step_size=step_size)
    assert list(step_size.d) == ["p0", "p1", "p2"]  # type: ignore[call-overload]
    named = [dd.LDoG([one], step_size="layers") for one in params]
    assert list(named[0].d) == ["p0", "p1", "p2"]  # type: ignore[call-overload]
    with pytest.raises(ValueError, match=r"^LDoG has an estimate for each tensor.*StepSize\('per_tensor'\)\.$"):
        dd.LDoG(params, step_size=dd.StepSize())
    with pytest.raises(ValueError, match=r"^LDoG: the StepSize holds before"):
        dd.LDoG(params, step_size=dd.StepSize("per_tensor"), before="lagged")


def test_one_clock_serves_the_tensors_of_a_model() -> None:
    """A tensor whose first gradient is 0 (LoRA's A beside a B of zeros) has been averaged since the first step."""
    ps = start()
    optimizer, oracles = dd.LDoG(ps, **KEPT), [DoGOracle([p], reps_rel=0.05) for p in ps]
    averages, kept = [p.detach().clone() for p in ps], [p.detach().clone() for p in ps]
    for step in range(6):
        g = torch.Generator().manual_seed(step)
        for i, (p, oracle) in enumerate(zip(ps, oracles, strict=True)):
            p.grad = (p.detach() - 1 + torch.randn(p.shape, generator=g, dtype=p.dtype)) * (step > 1 or i != 1)
            oracle.step([p.grad])
        optimizer.step()
        weight = 9 / (step + 9)
        kept = [oracle.params[0] for oracle in oracles]
        averages = [(1 - weight) * a + weight * x for a, x in zip(averages, kept, strict=True)]
        optimizer.eval()
        torch.testing.assert_close(flat(ps), flat(averages), rtol=1e-12, atol=1e-14)
        optimizer.train()
