"""Mechanic and TRAC: the numbers of released packages, fused and around a base, and what cannot be a base."""

import copy
import io
import logging
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

import dadapt_dist as dd
from dadapt_dist.methods.tuners.trac import erfi
from tests.helpers import tuner_problem
from tests.helpers.method_suite import Row, against_the_oracle
from tests.helpers.oracles import ORACLES
from tests.helpers.oracles.tuners import erfi as slow_erfi
from tests.helpers.tuner_problem import DECAY, EVERY, START, STEPS, recorded

BASES: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda params: torch.optim.SGD(params, lr=1.0, momentum=0.9),
    "adam": lambda params: torch.optim.AdamW(params, lr=1.0, weight_decay=DECAY),
}
FUSED: dict[str, Callable[..., dd.LearningRateFree]] = {
    "mechanic sgd": lambda params, **how: dd.MechanicSGD(params, momentum=0.9, **how),
    "mechanic adam": lambda params, **how: dd.MechanicAdam(params, weight_decay=DECAY, **how),
    "mechanic lion": lambda params, **how: dd.MechanicLion(params, weight_decay=DECAY, **how),
    "trac adam": lambda params, **how: dd.TRACAdam(params, weight_decay=DECAY, **how),
}
DTYPE = torch.float64


def weight(values: Any = START, dtype: torch.dtype = DTYPE) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values, dtype=dtype))


def give(p: nn.Parameter, step: int) -> None:
    p.grad = torch.tensor(tuner_problem.gradient(step, p.tolist()), dtype=p.dtype)


def take(optimizer: torch.optim.Optimizer, p: nn.Parameter, steps: Any) -> None:
    for step in steps:
        give(p, step)
        optimizer.step()


def adamw(p: nn.Parameter, **how: Any) -> torch.optim.AdamW:
    return torch.optim.AdamW([p], lr=1.0, weight_decay=DECAY, **how)


# ---------------------------------------------------------------- numbers


def built(case: str, form: str, p: nn.Parameter, delta: str) -> dd.LearningRateFree:
    rule, direction = case.split()[:2]
    how: dict[str, Any] = {"delta": delta} if rule == "trac" else {"delta": delta, "variant": rule}
    rule = "trac" if rule == "trac" else "mechanic"
    if form == "fused":
        return FUSED[f"{rule} {direction}"]([p], **how)
    made: dd.LearningRateFree = {"trac": dd.TRAC, "mechanic": dd.Mechanic}[rule](BASES[direction]([p]), **how)
    return made


# The released Δ is worked out from x, which rounding leaves 1e-10 of where S is 1e-7.
@pytest.mark.slow
@pytest.mark.parametrize(("delta", "tolerance"), [("recomputed", 1e-12), ("stored", 2e-10)])
@pytest.mark.parametrize("form", ["fused", "around a base"])
@pytest.mark.parametrize("case", recorded())
def test_fifty_steps_with_a_schedule_give_the_numbers_of_the_released_packages(
    case: str, form: str, delta: str, tolerance: float
) -> None:
    if form == "around a base" and case.split()[1] not in BASES:
        pytest.skip("torch has no Lion")
    p, run = weight(), recorded()[case]
    optimizer, found = built(case, form, p, "summed" if "summed" in case else delta), []
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = tuner_problem.lr(step)
        take(optimizer, p, [step])
        found.append(optimizer.d)
    tolerance = 0.02 if "as released" in case else tolerance  # docs/deviations.md
    assert found[EVERY - 1 :: EVERY] == pytest.approx(run["s"], rel=tolerance)
    way = torch.tensor(run["x"], dtype=DTYPE) - torch.tensor(START, dtype=DTYPE)
    assert (p.detach() - torch.tensor(START, dtype=DTYPE) - way).abs().max() <= tolerance * way.abs().max()
    assert optimizer.d > 100 * found[0]


OPTIONS: list[dict[str, Any]] = [
    {"variant": "authors"},
    {"variant": "authors", "delta": "summed", "s_init": 1e-6, "s_decay": 0.0},
    {"delta": "recomputed", "s_eps": 1e-6},
    {"s_max": 1e-3, "s_decay": 0.1},
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("method", ["mechanic_sgd", "mechanic_lion"])
def test_options_of_mechanic_give_the_oracles_numbers(method: str, options: dict[str, Any]) -> None:
    against_the_oracle(Row(method, ORACLES[method]), weight_decay=0.1, **options)


def test_erfi_is_right_to_rounding_over_its_range() -> None:
    xs = [-26.0, -7.3, -6.000001, -3.0, -1e-9, 0.0, 1e-12, 0.3, 1.0, 5.999999, 6.000001, 15.0, 26.0]
    found = erfi(torch.tensor(xs, dtype=DTYPE)).tolist()
    assert found == pytest.approx([slow_erfi(x) for x in xs], rel=1e-13)


@pytest.mark.parametrize("method", ["mechanic_adam", "trac_adam"])
def test_a_cap_bounds_s_and_freezing_stops_it(method: str) -> None:
    p, q = weight(), weight()
    make = {"mechanic_adam": dd.MechanicAdam, "trac_adam": dd.TRACAdam}[method]
    capped, frozen = make([p], s_max=1e-3), make([q], freeze_after=20)
    seen: list[list[float]] = [[], []]
    for step in range(STEPS):
        for optimizer, x, ds in zip((capped, frozen), (p, q), seen, strict=True):
            take(optimizer, x, [step])
            ds.append(optimizer.d)
    assert max(seen[0]) == 1e-3
    assert len({*seen[1][19:]}) == 1
    assert len({*seen[1][:20]}) == 20


@pytest.mark.parametrize("steps", [0, 30])
@pytest.mark.parametrize("key", FUSED)
def test_a_d_set_by_hand_is_where_s_goes_on_from(key: str, steps: int) -> None:
    p, q = weight(), weight()
    one, other = FUSED[key]([p]), FUSED[key]([q])
    for optimizer, x in ((one, p), (other, q)):
        take(optimizer, x, range(steps))
    other.set_d(2 * float(one.d))
    take(one, p, range(steps, steps + 1))
    take(other, q, range(steps, steps + 1))
    assert 1.9 * float(one.d) < float(other.d) < 2.1 * float(one.d)
    with pytest.raises(ValueError, match=r"d=2.0 is above s_max=1.0, the largest S\. Raise s_max"):
        FUSED[key]([weight()], s_max=1.0).set_d(2.0)


def test_a_d_that_is_lowered_below_the_cap_stays_below() -> None:
    p = weight()
    optimizer = dd.MechanicAdam([p], s_max=1e-3)
    take(optimizer, p, range(STEPS))
    assert optimizer.d == 1e-3
    optimizer.set_d(1e-5)
    take(optimizer, p, range(STEPS, STEPS + 1))
    assert 0.5e-5 < float(optimizer.d) < 2e-5


# ---------------------------------------------------------------- weights of low precision


@pytest.mark.parametrize("form", ["fused", "around a base"])
def test_bfloat16_weights_learn_with_a_stored_delta_and_others_are_refused(form: str) -> None:
    p = weight(dtype=torch.bfloat16)
    make: Callable[..., Any] = (
        dd.MechanicAdam if form == "fused" else lambda ps, **how: dd.Mechanic(adamw(ps[0]), **how)
    )
    optimizer = make([p])
    take(optimizer, p, range(200))
    assert optimizer.state[p]["delta"].dtype is torch.float32
    assert optimizer.d > 1e-2
    why = r"has dtype torch.bfloat16, and delta='recomputed' takes Δ from x0 - x.*Use delta='stored'"
    with pytest.raises(ValueError, match=why):
        make([weight(dtype=torch.bfloat16)], delta="recomputed")
    later = weight(dtype=torch.float32)
    optimizer = make([later], delta="recomputed")
    later.data = later.data.bfloat16()
    give(later, 0)
    with pytest.raises(ValueError, match=why):
        optimizer.step()


# ---------------------------------------------------------------- around a base


def test_groups_are_those_of_the_base_and_edits_and_schedules_reach_it_from_both_sides() -> None:
    ps = [weight(), weight(), weight()]
    base = torch.optim.AdamW([{"params": ps[:1]}, {"params": ps[1:2], "lr": 0.5, "weight_decay": 0.3}], lr=1.0)
    first, early = base.param_groups[0], LambdaLR(base, tuner_problem.lr)
    optimizer = dd.Mechanic(base)
    late = LambdaLR(optimizer, lambda step: 1.0)
    fused = dd.MechanicAdam([{"params": [weight()]}, {"params": [weight()], "lr": 0.5}], weight_decay=0.01)
    assert optimizer.param_groups is base.param_groups
    assert optimizer.param_groups[0] is first
    assert [group["lr"] for group in optimizer.param_groups] == [pytest.approx(1.0), pytest.approx(0.5)]
    late.base_lrs, fused.param_groups[1]["weight_decay"] = [0.25, 0.5], 0.3
    for step in range(12):
        for group, other in zip(optimizer.param_groups, fused.param_groups, strict=True):
            other["lr"] = group["lr"]
        if step == 6:
            base.param_groups[1]["weight_decay"] = fused.param_groups[1]["weight_decay"] = 0.0
            optimizer.param_groups[0]["betas"] = fused.param_groups[0]["betas"] = (0.5, 0.9)
        for p, q in zip(ps, (p for group in fused.param_groups for p in group["params"]), strict=False):
            give(p, step)
            give(q, step)
        optimizer.step()
        fused.step()
        assert optimizer.d == pytest.approx(fused.d, rel=1e-9)
        assert optimizer.effective_lr == pytest.approx(fused.effective_lr, rel=1e-9)
        (early if step < 5 else late).step() if step < 6 else None
        if step == 8:
            optimizer.load_state_dict(optimizer.state_dict())
            assert optimizer.param_groups is base.param_groups
    optimizer.add_param_group({"params": ps[2:], "lr": 0.1})
    assert optimizer.param_groups[2] is base.param_groups[2]
    assert [optimizer.param_groups[2][name] for name in ("lr", "betas", "s_init")] == [0.1, (0.9, 0.999), None]
    give(ps[2], 0)
    optimizer.step()
    assert not torch.equal(ps[2], weight())
    base.zero_grad()
    assert all(p.grad is None for p in ps)
    assert {"d", "effective_lr/0", "effective_lr/1"} <= dd.log_values(optimizer).keys()


@pytest.mark.parametrize("what", ["step", "state_dict", "load_state_dict", "add_param_group"])
def test_a_base_that_was_taken_does_nothing_by_itself(what: str) -> None:
    base = adamw(weight())
    dd.Mechanic(base)
    with pytest.raises(RuntimeError, match=rf"is the base of Mechanic.*call {what}\(\) of Mechanic"):
        getattr(base, what)()


WITH_STATE: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "adamw": lambda ps: torch.optim.AdamW(ps, lr=1.0, amsgrad=True),
    "adagrad": lambda ps: torch.optim.Adagrad(ps, lr=1.0, initial_accumulator_value=0.5),
    "asgd": lambda ps: torch.optim.ASGD(ps, lr=1.0),
    "nadam": lambda ps: torch.optim.NAdam(ps, lr=1.0, decoupled_weight_decay=True),
    "counting in its groups": lambda ps: Counting(ps, {"lr": 1.0, "taken": 0}),
}


class Counting(torch.optim.Optimizer):
    """Its step is 1/√n, with n in its groups, times an attribute."""

    factor = 0.0

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.factor = 2.0

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            group["taken"] += 1
            for p in group["params"]:
                p.sub_(p.grad * (self.factor * group["lr"] / group["taken"] ** 0.5))


@pytest.mark.parametrize("variant", ["optax", "authors"])
@pytest.mark.parametrize("way", ["saved", "copied", "pickled"])
@pytest.mark.parametrize("name", WITH_STATE)
def test_a_run_around_a_base_goes_on_bit_for_bit(name: str, way: str, variant: str) -> None:
    p, q = weight(), weight()
    one, other = (dd.Mechanic(WITH_STATE[name]([x]), variant=variant) for x in (p, q))
    for step in range(6):
        take(one, p, [step])
        take(other, q, [step])
        if way == "saved":
            file = io.BytesIO()
            torch.save(other.state_dict(), file)
            file.seek(0)
            other = dd.Mechanic(WITH_STATE[name]([q]), variant=variant)
            other.load_state_dict(torch.load(file, weights_only=True))
        else:
            other = copy.deepcopy(other) if way == "copied" else pickle.loads(pickle.dumps(other))
            [q] = other.param_groups[0]["params"]
        assert torch.equal(p, q)
        assert other.d == one.d
    assert one.param_groups[0].get("taken", 6) == 6


def test_the_state_that_a_base_had_is_that_it_goes_on_from() -> None:
    p, q = weight(), weight()
    warm, cold = adamw(p), adamw(q)
    take(warm, p, range(3))
    momentum = warm.state[p]["exp_avg"].clone()
    with torch.no_grad():
        q.copy_(p)
    wrapped = [dd.Mechanic(base) for base in (warm, cold)]
    assert not warm.state
    for optimizer, x in zip(wrapped, (p, q), strict=True):
        take(optimizer, x, [3])
    assert float(wrapped[0].state[p]["direction.step"]) == 4
    give(p, 3)
    assert not torch.equal(wrapped[0].state[p]["direction.exp_avg"], momentum)
    assert float(wrapped[1].state[q]["direction.step"]) == 1


def test_maximize_of_a_base_is_the_method_on_negated_gradients() -> None:
    p, q = weight(), weight()
    up, down = dd.Mechanic(adamw(p, maximize=True)), dd.Mechanic(adamw(q))
    for step in range(10):
        give(q, step)
        assert q.grad is not None
        p.grad = -q.grad
        up.step()
        down.step()
        assert torch.equal(p, q)


# ---------------------------------------------------------------- what cannot be a base


class Averaging(torch.optim.SGD):
    def train(self) -> None: ...

    def eval(self) -> None: ...


class Holding(torch.optim.SGD):
    def __init__(self, params: Any, **how: Any) -> None:
        params = list(params)
        super().__init__(params, **how)
        self.held = {"all": params}


class Around(torch.optim.SGD):
    def __init__(self, params: Any, **how: Any) -> None:
        params = list(params)
        super().__init__(params, **how)
        self.inner = torch.optim.SGD(params, **how)


class Global(torch.optim.SGD):
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        super().step()
        self.state["all"] = {"n": 1}  # type: ignore[index]


def with_d(params: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD([{"params": params, "d": 1e-6, "k": 0}], lr=1.0)


REFUSED: list[tuple[Callable[[Any], Any], str]] = [
    (lambda ps: Global(ps), r"Global: .*it keeps state under 'all', which belongs to no parameter"),
    (
        lambda ps: torch.optim.LBFGS(ps),
        "LBFGS: it calls the model in its step, by a closure. Give a base that goes by the gra",
    ),
    (
        lambda ps: torch.optim.SparseAdam(ps),
        r"SparseAdam: a step of it on copies of group 0 fails \(RuntimeError: SparseAdam",
    ),
    (
        lambda ps: torch.optim.AdamW(ps, capturable=True),
        r"AdamW: a step of it on copies .*capturable and fused off their dev",
    ),
    (lambda ps: torch.optim.AdamW(ps, differentiable=True), "AdamW: differentiable=True, and it steps on copies"),
    (lambda ps: Averaging(ps), "Averaging: its parameters hold other weights in training than in evaluation"),
    (lambda ps: Holding(ps), r"Holding: it keeps parameters outside its groups \(held\)"),
    (lambda ps: Around(ps), r"Around: it steps through another optimizer \(inner: SGD\).*Give Mechanic that one"),
    (
        with_d,
        "SGD: its groups hold d, k, which Mechanic keeps there, too. An optimizer with a d finds its step size by itself",
    ),
    (lambda ps: dd.Prodigy(ps), "Prodigy: it has no learning rate to learn"),
]


@pytest.mark.parametrize(("make", "why"), REFUSED, ids=[why[:12] for _, why in REFUSED])
def test_a_base_that_cannot_serve_is_refused_and_stays_as_it_was(make: Callable[[Any], Any], why: str) -> None:
    p = weight()
    base = make([p])
    groups, versions = [dict(group) for group in base.param_groups], (p._version, p.detach().clone())
    with pytest.raises(TypeError, match=rf"Mechanic cannot learn the learning rate of {why}") as caught:
        dd.Mechanic(base)
    assert str(caught.value).endswith("It is as it was, and can be used.")
    assert [dict(group) for group in base.param_groups] == groups
    assert p._version == versions[0]
    assert torch.equal(p.detach(), versions[1])
    assert not hasattr(base.step, "_of_base")


@pytest.mark.parametrize("given", [None, [weight()], torch.optim.AdamW])
def test_what_is_no_optimizer_is_refused_with_the_two_ways_there_are(given: Any) -> None:
    with pytest.raises(TypeError, match=r"is no torch optimizer. Make one.*MechanicAdam\(model.parameters\(\)\)"):
        dd.Mechanic(given)


def test_a_base_is_wrapped_once_and_an_option_that_is_wrong_takes_nothing_over() -> None:
    base = adamw(p := weight())
    with pytest.raises(ValueError, match=r"Mechanic: s_max=-1 is out of range; it must be a number > 0, or inf"):
        dd.Mechanic(base, s_max=-1)
    with pytest.raises(TypeError, match=r"Mechanic: unknown keyword 'lr'"):
        dd.Mechanic(base, lr=1.0)
    take(base, p, [0])  # it still steps
    dd.Mechanic(base)
    with pytest.raises(
        TypeError, match="TRAC cannot learn the learning rate of AdamW: it has no learning rate to learn, or"
    ):
        dd.TRAC(base)


def test_a_matrix_base_serves_in_one_process_and_one_of_norms_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    p = nn.Parameter(torch.randn(6, 4, generator=torch.Generator().manual_seed(0)))
    optimizer = dd.Mechanic(torch.optim.Muon([p], lr=1.0))
    assert optimizer._method.direction.looks_at_whole == "Muon, which looks at whole tensors"  # type: ignore[attr-defined]
    for _ in range(60):
        p.grad = p.detach() - 1.0
        optimizer.step()
    assert optimizer.d > 1e-4

    class LAMB(torch.optim.SGD): ...

    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            dd.Mechanic(LAMB([weight()], lr=1.0))
    assert [record.message for record in caplog.records if "LAMB divides by the norm" in record.message] == [
        caplog.records[-1].message
    ]


def test_a_count_among_the_attributes_of_a_base_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    class Numbered(torch.optim.SGD):
        number = 0

        def __init__(self, params: Any) -> None:
            super().__init__(params)
            self.number = 0

        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            super().step()
            self.number += 1

    with caplog.at_level(logging.WARNING):
        base = Numbered([weight()])
        dd.Mechanic(base)
    assert [record.message for record in caplog.records if "Numbered counts in its attribute number" in record.message]
    assert base.number == 0


def test_options_that_a_checkpoint_lacks_are_those_that_the_base_was_made_with() -> None:
    p = weight()
    optimizer = dd.Mechanic(adamw(p, amsgrad=True))
    take(optimizer, p, range(2))
    kept = optimizer.state_dict()
    del kept["param_groups"][0]["amsgrad"]
    optimizer.load_state_dict(kept)
    take(optimizer, p, [2])
    assert optimizer.param_groups[0]["amsgrad"] is True


def test_a_trial_leaves_random_numbers_and_hooks_alone() -> None:
    p, calls = weight(), []
    base = adamw(p)
    base.register_step_post_hook(lambda *_: calls.append(1))
    state = torch.get_rng_state()
    optimizer = dd.Mechanic(base)
    assert calls == []
    assert torch.equal(torch.get_rng_state(), state)
    take(optimizer, p, [0])
    assert calls == [1, 1]  # one that makes the entries of its state
