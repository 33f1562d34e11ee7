"""Methods with a direction in one process: definition, numbers against slow forms, bad gradients, state, evaluation."""

import copy
import inspect
import io
import math
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

import dadapt_dist as dd
from dadapt_dist import optimizers
from dadapt_dist.errors import GradientError
from dadapt_dist.methods import METHODS, Buffer, DirectedMethod
from dadapt_dist.methods.base import Scalars, Sums
from dadapt_dist.methods.directions import SGD, Adam, Direction, Lion, TorchDirection
from dadapt_dist.options.fields import EPS, LR, MethodOptions
from tests.helpers.registered import registrations_undone
from tests.helpers.toy_methods import (
    DECAY,
    OPTIONS,
    REFERENCES,
    TOYS,
    AveragedSGDMethod,
    ToyMechanicAdamMethod,
    ToyMechanicTorchMethod,
    toys_registered,
)

Class = Callable[..., dd.LearningRateFree]
SIZES = [(3, 5), (7,), ()]
STEPS = 12


@pytest.fixture
def toys() -> Iterator[dict[str, Class]]:
    with toys_registered() as classes:
        yield classes


def start(dtype: torch.dtype = torch.float64) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(size, generator=generator, dtype=torch.float64).to(dtype)) for size in SIZES]


def flat(ts: Any) -> Tensor:
    return torch.cat([t.detach().double().flatten() for t in ts])


def slope(x: Tensor, step: int) -> Tensor:
    """A noisy quadratic's gradient at the flat x."""
    generator = torch.Generator().manual_seed(100 + step)
    noise = torch.randn(len(x), generator=generator, dtype=torch.float64)
    return (x - 1.5) * torch.linspace(0.5, 2, len(x), dtype=torch.float64) + 0.1 * noise


def give(ps: list[nn.Parameter], g: Tensor) -> None:
    for p, part in zip(ps, g.split([p.numel() for p in ps]), strict=True):
        p.grad = part.view_as(p).to(p.dtype).clone()


def take(optimizer: Any, ps: list[nn.Parameter], step: int) -> None:
    give(ps, slope(flat(ps), step))
    optimizer.step()


def build(toys: dict[str, Class], name: str, params: Any, **options: Any) -> dd.LearningRateFree:
    return toys[name](params, **{**OPTIONS[name], **options})


# ---------------------------------------------------------------- definition


def test_options_of_the_direction_stand_in_the_public_signature(toys: dict[str, Class]) -> None:
    parameters = list(inspect.signature(toys["toy_mechanic_adam"]).parameters)
    assert parameters[:6] == ["params", "lr", "s_init", "weight_decay", "betas", "eps"]
    assert "eps: added to the root" in (toys["toy_mechanic_adam"].__doc__ or "")
    assert list(inspect.signature(toys["toy_mechanic_torch"]).parameters)[:4] == [
        "params",
        "lr",
        "s_init",
        "layer_scale",
    ]
    assert toys["dowg_lion"](start()).defaults["betas"] == (0.9, 0.99)
    with pytest.raises(ValueError, match=r"ToyMechanicAdam: betas=\(1, 1\) is out of range"):
        toys["toy_mechanic_adam"](start(), betas=(1, 1))
    with pytest.raises(ValueError, match="MechanicOptions: eps=-1"):
        ToyMechanicAdamMethod.options(eps=-1)  # type: ignore[call-arg]


def test_a_method_with_no_direction_yet_is_not_registered() -> None:
    assert all(hasattr(method, "direction") for method in METHODS.values() if issubclass(method, DirectedMethod))


class Bare(DirectedMethod):
    """All but the options and the direction."""

    def own_buffers(self, options: Any) -> dict[str, Buffer]:
        return {}

    def own_coefficients(self, options: Any, scalars: Any, constants: Any) -> dict[str, Any]:
        return {}

    def move(self, x: Any, g: Any, u: Any, buf: Any, c: Any, cut: Any) -> tuple[Tensor, ...]:
        x.sub_(u)
        return ()


@dataclass(frozen=True)
class Plain(MethodOptions):
    lr: float = LR(1.0)


@dataclass(frozen=True)
class WithEps(MethodOptions):
    lr: float = LR(1.0)
    eps: float = EPS(1e-8)


class Statistic(SGD):
    def buffers(self, options: Any) -> dict[str, Buffer]:
        return {"m": Buffer(statistic=True)}


class Sliced(SGD):
    def buffers(self, options: Any) -> dict[str, Buffer]:
        return {"m": Buffer(sliced=True)}


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"options": WithEps, "direction": Adam()}, "its direction Adam both have the options eps. Rename"),
    ({"options": Plain, "direction": Adam()}, "its direction both have the buffers exp_avg. Rename"),
    ({"options": Plain, "direction": Statistic()}, "m of its direction is a statistic or sliced"),
    ({"options": Plain, "direction": Sliced()}, "m of its direction is a statistic or sliced"),
    ({"options": Plain, "direction": Adam}, "must be an instance of a Direction, such as"),
    ({"to_eval": lambda *_: None}, "must define both to_eval and to_train"),
]


@pytest.mark.parametrize(("body", "why"), WRONG, ids=[why for _, why in WRONG])
def test_what_cannot_be_joined_is_refused_when_the_class_is_defined(body: dict[str, Any], why: str) -> None:
    if "exp_avg" in why:
        body = body | {"own_buffers": lambda self, options: {"exp_avg": Buffer()}}
    with pytest.raises(TypeError, match=f"Wrong.*{why}"):
        type("WrongMethod", (Bare,), body)


def test_a_factory_that_cannot_be_called_is_refused() -> None:
    with pytest.raises(TypeError, match="factory=3 must be a function that makes a torch optimizer"):
        TorchDirection(3)  # type: ignore[arg-type]


# ---------------------------------------------------------------- directions


RULES: list[tuple[Direction, dict[str, Any], Callable[[Any], torch.optim.Optimizer]]] = [
    (SGD(), {}, lambda ps: torch.optim.SGD(ps, lr=1.0)),
    (SGD(), {"momentum": 0.9}, lambda ps: torch.optim.SGD(ps, lr=1.0, momentum=0.9)),
    (Adam(), {"weight_decay": 0.1}, lambda ps: torch.optim.AdamW(ps, lr=1.0, weight_decay=0.1)),
    (Adam(), {"betas": (0.5, 0.9), "eps": 1e-3}, lambda ps: torch.optim.Adam(ps, lr=1.0, betas=(0.5, 0.9), eps=1e-3)),
]


@pytest.mark.parametrize(("direction", "given", "make"), RULES)
def test_a_direction_is_what_torchs_optimizer_takes_off(direction: Direction, given: Any, make: Any) -> None:
    method = type("SomeMethod", (Bare,), {"options": Plain, "direction": direction})
    options = method.options.defaults() | given
    (p,) = [nn.Parameter(start()[0].detach().clone())]
    theirs, x = make([p]), p.detach().clone()
    buf = {name: torch.full_like(x, spec.init) for name, spec in direction.buffers(options).items()}
    for step in range(5):
        g = slope(x.flatten(), step).view_as(x)
        c = direction.coefficients(options, {"updates": torch.tensor(float(step), dtype=torch.float64)})
        before, g_before = x.clone(), g.clone()
        u = direction.update(x, g, buf, {k: float(v) if isinstance(v, Tensor) else v for k, v in c.items()})
        assert torch.equal(x, before)
        assert torch.equal(g, g_before)
        x, p.grad = x - u, g
        theirs.step()
        torch.testing.assert_close(x, p.detach(), rtol=1e-12, atol=1e-12)


def test_lion_takes_the_sign_of_another_average_than_it_keeps() -> None:
    lion, m, expected = Lion(), torch.zeros(50, dtype=torch.float64), torch.zeros(50, dtype=torch.float64)
    x = torch.linspace(-1, 1, 50, dtype=torch.float64)
    c = lion.coefficients({"betas": (0.5, 0.99), "weight_decay": 0.1}, {})
    for step in range(20):
        g = torch.randn(50, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        u = lion.update(x, g, {"exp_avg": m}, c)
        torch.testing.assert_close(u, (0.5 * expected + 0.5 * g).sign() + 0.1 * x)
        expected = 0.99 * expected + 0.01 * g
        torch.testing.assert_close(m, expected)


# ---------------------------------------------------------------- numbers


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("name", TOYS)
def test_every_step_follows_the_slow_form(name: str, maximize: bool, toys: dict[str, Class]) -> None:
    ps = start()
    reference, optimizer = REFERENCES[name](flat(ps)), build(toys, name, ps, maximize=maximize)
    for step in range(STEPS):
        g = slope(reference.x, step)
        reference.step(g)
        give(ps, -g if maximize else g)
        optimizer.step()
        torch.testing.assert_close(flat(ps), reference.x, rtol=1e-10, atol=1e-12)
        assert optimizer.effective_lr[0] == pytest.approx(reference.estimate(), rel=1e-10)


@pytest.mark.parametrize("how", ["nan", "inf", "huge"])
@pytest.mark.parametrize("name", TOYS)
def test_a_bad_element_acts_as_zero_and_holds_the_estimate(name: str, how: str, toys: dict[str, Class]) -> None:
    """Also in the first step; the base of a torch direction sees no more of it than the method."""
    ps = start()
    reference, optimizer = REFERENCES[name](flat(ps)), build(toys, name, ps)
    for step in range(8):
        g = slope(reference.x, step)
        bad = step in (0, 3)
        g[2] = 0 if bad else g[2]
        reference.step(g, frozen=bad)
        g[2] = {"nan": math.nan, "inf": math.inf, "huge": 1e200}[how] if bad else g[2]
        give(ps, g)
        optimizer.step()
        torch.testing.assert_close(flat(ps), reference.x, rtol=1e-10, atol=1e-12)
        scalars = optimizer.step_size._scalars.values
        assert all(bool(torch.isfinite(value).all()) for value in scalars.values())
    assert all(bool(torch.isfinite(t).all()) for state in optimizer.state.values() for t in state.values())
    assert optimizer.step_size.held_steps == 2


@pytest.mark.parametrize("name", TOYS)
def test_a_frozen_estimate_keeps_its_rate_and_the_direction_goes_on(name: str, toys: dict[str, Class]) -> None:
    ps = start()
    reference, optimizer = REFERENCES[name](flat(ps)), build(toys, name, ps, freeze_after=4)
    for step in range(STEPS):
        g = slope(reference.x, step)
        reference.step(g, frozen=step >= 4)
        give(ps, g)
        optimizer.step()
        torch.testing.assert_close(flat(ps), reference.x, rtol=1e-10, atol=1e-12)
    assert ("x0" in optimizer.state[ps[0]]) is name.startswith("toy_mechanic")


@pytest.mark.parametrize("skip", ["skip", "raise"])
@pytest.mark.parametrize("name", TOYS)
def test_a_step_that_is_left_out_leaves_no_trace(name: str, skip: Any, toys: dict[str, Class]) -> None:
    runs = []
    for spoiled in (False, True):
        ps = start()
        optimizer = build(toys, name, ps, nonfinite=skip)
        for step in range(6):
            if spoiled and step in (0, 4):
                g = slope(flat(ps), step)
                g[1] = math.nan
                give(ps, g)
                try:
                    optimizer.step()
                except dd.NonFiniteError:
                    assert skip == "raise"
            take(optimizer, ps, step)
        runs.append((flat(ps), [[t for _, t in sorted(s.items())] for s in optimizer.state.values()]))
    assert torch.equal(runs[0][0], runs[1][0])
    for one, other in zip(runs[0][1], runs[1][1], strict=True):
        assert all(map(torch.equal, one, other))


def test_a_base_is_not_stepped_by_the_trial_of_a_step() -> None:
    """Of a method without sums, whose gradients are looked at by a trial of the step."""

    class OverTorchMethod(AveragedSGDMethod):
        name = "over_torch"
        direction = TorchDirection(lambda groups: torch.optim.SGD(groups, lr=1.0, momentum=0.9))

    with registrations_undone():
        cls, runs = optimizers.register(OverTorchMethod), []
        for nonfinite in ("hold", "skip"):
            ps = start()
            optimizer = cls(ps, nonfinite=nonfinite)
            for step in range(4):
                take(optimizer, ps, step)
            runs.append(flat(ps))
        assert torch.equal(*runs)


@pytest.mark.slow
@pytest.mark.parametrize("name", TOYS)
def test_an_overflow_under_a_grad_scaler_leaves_no_trace(name: str, toys: dict[str, Class]) -> None:
    runs = []
    for spoiled in (False, True):
        ps = start(torch.float32)
        optimizer = build(toys, name, ps)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=1000, backoff_factor=0.5)
        for step in range(5):
            for again in range(1 + (spoiled and step in (0, 3))):
                g = slope(flat(ps), step)
                scaler.scale(torch.zeros(()))
                give(ps, g * scaler.get_scale())
                if spoiled and step in (0, 3) and not again:
                    ps[1].grad[0] = math.inf  # type: ignore[index]
                scaler.step(optimizer)
                scaler.update()
        runs.append(flat(ps))
    assert torch.equal(*runs)


@pytest.mark.parametrize("name", ["toy_mechanic_adam", "toy_mechanic_torch"])
def test_buffers_in_bfloat16_are_rounded_stochastically(name: str, toys: dict[str, Class]) -> None:
    ps = start(torch.bfloat16)
    reference, optimizer = REFERENCES[name](flat(ps)), build(toys, name, ps, state_dtype=torch.bfloat16)
    first = flat(ps)
    for step in range(40):
        g = slope(reference.x, step)
        reference.step(g)
        give(ps, g)
        optimizer.step()
    state = optimizer.state[ps[0]]
    assert state["delta"].dtype is torch.bfloat16
    assert "u" not in state or state["u"].dtype is torch.float32
    assert (flat(ps) - reference.x).norm() < 0.05 * (reference.x - first).norm()


def test_sparse_gradients_are_refused(toys: dict[str, Class]) -> None:
    p = nn.Parameter(torch.ones(4, 2))
    optimizer = toys["dowg_lion"]([p])
    p.grad = torch.sparse_coo_tensor(torch.tensor([[1]]), torch.ones(1, 2), (4, 2), check_invariants=True)
    with pytest.raises(GradientError, match="dowg_lion cannot use"):
        optimizer.step()


# ---------------------------------------------------------------- state


BASES: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=1.0, weight_decay=DECAY),
    "sgd": lambda groups: torch.optim.SGD(groups, lr=1.0, momentum=0.9, dampening=0.5),
    "adagrad": lambda groups: torch.optim.Adagrad(groups, lr=1.0, initial_accumulator_value=0.5),
    "rprop": lambda groups: torch.optim.Rprop(groups, lr=0.1),
    "nadam": lambda groups: torch.optim.NAdam(groups, lr=torch.tensor(1.0), capturable=False),
}


@pytest.fixture
def over(request: Any) -> Iterator[Class]:
    """Mechanic over one of BASES."""
    with registrations_undone():
        body = {"name": "mechanic_over", "direction": TorchDirection(BASES[request.param])}
        yield optimizers.register(type("MechanicOverMethod", (ToyMechanicTorchMethod,), body))


def saved(optimizer: dd.LearningRateFree) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


def through_dcp(optimizer: dd.LearningRateFree, model: nn.Module) -> dict[str, Any]:
    options = StateDictOptions(flatten_optimizer_state_dict=True)
    return copy.deepcopy(get_optimizer_state_dict(model, optimizer, options=options))


def module(ps: list[nn.Parameter]) -> nn.Module:
    model = nn.Module()
    for index, p in enumerate(ps):
        model.register_parameter(f"p{index}", p)
    return model


@pytest.mark.parametrize("way", ["state_dict", "dcp", "deepcopy"])
@pytest.mark.parametrize("over", BASES, indirect=True)
def test_the_state_of_a_base_goes_on_from_a_checkpoint_after_any_step(over: Class, way: str) -> None:
    ps, qs = start(), start()
    one, other = over(ps), over(qs)
    for step in range(6):
        take(one, ps, step)
        take(other, qs, step) if step != 2 else None
        if step == 2:  # one that was saved before its step, by a tool that makes state first
            take(other, qs, step)
        if way == "deepcopy":
            other = copy.deepcopy(other)
            qs = other.param_groups[0]["params"]
        elif way == "state_dict":
            kept = saved(other)
            assert not any("u" in entry for entry in kept["state"].values())
            other = over(qs)
            other.load_state_dict(kept)
        else:
            flattened, model = through_dcp(other, module(qs)), module(qs)
            model.zero_grad()
            other = over(model.parameters())
            fresh = through_dcp(other, model)  # which names DCP reads
            assert fresh.keys() == flattened.keys()
            options = StateDictOptions(flatten_optimizer_state_dict=True)
            set_optimizer_state_dict(model, other, flattened, options=options)
        assert torch.equal(flat(ps), flat(qs))


@pytest.mark.parametrize("over", BASES, indirect=True)
def test_what_checkpoint_tools_make_before_the_first_step_is_no_step(over: Class) -> None:
    ps, qs = start(), start()
    one, other = over(ps), over(module(qs).parameters())
    model = module(qs)
    through_dcp(other, model)
    kept = saved(other)
    other = over(qs)
    other.load_state_dict(kept)
    for step in range(3):
        take(one, ps, step)
        take(other, qs, step)
    assert torch.equal(flat(ps), flat(qs))


def test_the_bases_state_lies_in_ours_and_a_parameter_may_come_later(toys: dict[str, Class]) -> None:
    ps = start()
    ps[1].requires_grad_(False)
    optimizer = toys["toy_mechanic_torch"](ps[:2])
    for step in range(3):
        give([ps[0]], slope(flat([ps[0]]), step))
        optimizer.step()
    exp_avg = optimizer.state[ps[0]]["direction.exp_avg"]
    assert float(optimizer.state[ps[0]]["direction.step"]) == 3
    ps[1].requires_grad_(True)
    optimizer.add_param_group({"params": [ps[2]]})
    for step in range(3, 5):
        take(optimizer, ps, step)
    assert optimizer.state[ps[0]]["direction.exp_avg"] is exp_avg
    assert [float(optimizer.state[p]["direction.step"]) for p in ps] == [5, 2, 2]


def test_weights_and_gradients_of_the_model_are_not_touched_by_the_base(toys: dict[str, Class]) -> None:
    seen: list[Any] = []

    class Looking(torch.optim.AdamW):
        def step(self, closure: Any = None) -> Any:
            seen.append([(p.detach().clone(), p.grad, p._version) for p in ps])
            super().step()
            assert all(p._version == version for p, (_, _, version) in zip(ps, seen[-1], strict=True))

    with registrations_undone():
        body = {"name": "mechanic_looking", "direction": TorchDirection(lambda groups: Looking(groups, lr=1.0))}
        cls = optimizers.register(type("MechanicLookingMethod", (ToyMechanicTorchMethod,), body))
        ps = start()
        optimizer = cls(ps)
        take(optimizer, ps, 0)
        assert len(seen) == 2  # one that makes the entries of its state
        grads = [p.grad for p in ps]
        take(optimizer, ps, 1)
        assert len(seen) == 3
        assert all(grad is p.grad for (_, grad, _), p in zip(seen[-1], ps, strict=True))
        assert all(a is not b for a, b in zip(grads, [p.grad for p in ps], strict=True))


REFUSED: list[tuple[Any, str]] = [
    (lambda groups: torch.optim.LBFGS(groups[0]["params"]), "LBFGS calls the model in its step, by a closure"),
    (lambda groups: 3, "must return a torch optimizer, not int"),
    (
        lambda groups: torch.optim.SGD([p for group in groups for p in group["params"]], lr=1.0),
        "was given 2 parameter groups",
    ),
]


@pytest.mark.parametrize(("factory", "why"), REFUSED)
def test_a_base_that_cannot_serve_is_refused_before_anything_moves(factory: Any, why: str) -> None:
    with registrations_undone():
        body = {"name": "mechanic_wrong", "direction": TorchDirection(factory)}
        cls = optimizers.register(type("MechanicWrongMethod", (ToyMechanicTorchMethod,), body))
        ps = start()
        optimizer = cls([{"params": ps[:2]}, {"params": ps[2:]}])
        before = flat(ps)
        with pytest.raises(TypeError, match=why):
            take(optimizer, ps, 0)
        assert torch.equal(flat(ps), before)


def test_sums_of_a_torch_optimizers_update_cannot_be_had_before_its_step() -> None:
    class WithAfterMethod(ToyMechanicTorchMethod):
        name = "with_after"
        after = Sums(("size",))

        def fold_after(self, sums: Scalars, scalars: Scalars, constants: Any) -> Scalars:
            return {}

    with registrations_undone():
        cls = optimizers.register(WithAfterMethod)
        with pytest.raises(ValueError, match=r"nonfinite='skip' needs the sums of a step before.*Use nonfinite='hold'"):
            cls(start(), nonfinite="skip")


def test_a_compiled_step_runs_outside_the_graph(toys: dict[str, Class]) -> None:
    ps, qs = start(), start()
    one, other = toys["toy_mechanic_torch"](ps), toys["toy_mechanic_torch"](qs)
    compiled = torch.compile(other.step, backend="eager")
    for step in range(3):
        take(one, ps, step)
        give(qs, slope(flat(qs), step))
        compiled()
    assert torch.equal(flat(ps), flat(qs))


# ---------------------------------------------------------------- training and evaluation


def switching(optimizer: Any) -> None:
    for _ in range(3):
        optimizer.eval()
        optimizer.eval()
        optimizer.train()
        optimizer.train()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_evaluation_sees_the_average_and_there_and_back_does_not_drift(
    dtype: torch.dtype, toys: dict[str, Class]
) -> None:
    ps = start(dtype)
    optimizer, reference = toys["averaged_sgd"](ps), REFERENCES["averaged_sgd"](flat(ps))
    step_of = torch.finfo(dtype).eps
    bound = step_of * (200 if dtype is torch.float64 else 20)
    switching(optimizer)  # before the first step: nothing
    assert torch.equal(flat(ps), reference.x)
    for step in range(6):
        g = slope(reference.x, step)
        reference.step(g)
        give(ps, g)
        optimizer.step()
        before = flat(ps)
        optimizer.eval()
        largest = torch.maximum(before.abs(), flat(ps).abs())
        largest = largest.max() if dtype is torch.float64 else largest  # whose maps are rounded on the way, too
        torch.testing.assert_close(flat(ps), reference.evaluated(), rtol=bound, atol=bound)
        optimizer.train()
        once = flat(ps)
        assert ((once - before).abs() <= 2 * step_of * largest).all()
        for _ in range(50):
            switching(optimizer)
        assert torch.equal(flat(ps), once) or dtype is torch.float64
        assert ((flat(ps) - before).abs() <= 200 * step_of * largest).all()


def test_a_step_in_evaluation_is_refused_and_nothing_moves(toys: dict[str, Class]) -> None:
    ps = start()
    optimizer = toys["averaged_sgd"](ps)
    take(optimizer, ps, 0)
    optimizer.train(False)
    before = flat(ps)
    with pytest.raises(
        RuntimeError, match=r"evaluation mode.*Nothing has moved\. Call optimizer\.train\(\) on every rank"
    ):
        optimizer.step(lambda: pytest.fail("the closure ran"))
    assert torch.equal(flat(ps), before)
    optimizer.train()
    take(optimizer, ps, 1)
    assert optimizer.step_size.steps == 2


def test_frozen_parameters_and_those_without_a_step_stay(toys: dict[str, Class]) -> None:
    ps = start()
    optimizer = toys["averaged_sgd"](ps)
    ps[1].requires_grad_(False)
    for step in range(3):
        give([ps[0]], slope(flat([ps[0]]), step))
        optimizer.step()
    with torch.no_grad():
        ps[2].add_(1)  # weights that were loaded after the buffers were made
    before = [p.detach().clone() for p in ps]
    optimizer.eval()
    assert [torch.equal(p, b) for p, b in zip(ps, before, strict=True)] == [False, True, True]
    ps[0].requires_grad_(False)  # frozen in between: it was mapped, and is mapped back
    optimizer.train()
    torch.testing.assert_close(ps[0].detach(), before[0], rtol=1e-14, atol=0)


@pytest.mark.parametrize("way", ["state_dict", "pickle", "deepcopy"])
@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("name", TOYS)
def test_a_checkpoint_in_either_mode_goes_on_bit_for_bit(
    name: str, mode: str, way: str, toys: dict[str, Class]
) -> None:
    ps, qs = start(), start()
    one, other = build(toys, name, ps), build(toys, name, qs)
    for step in range(6):
        take(one, ps, step)
        take(other, qs, step)
        if mode == "eval":
            one.eval()
            other.eval()
        if way == "state_dict":
            kept = saved(other)
            assert [group.get("mode") for group in kept["param_groups"]] == [mode if name == "averaged_sgd" else None]
            qs = [nn.Parameter(q.detach().clone()) for q in qs]
            other = build(toys, name, qs)
            other.load_state_dict(kept)
        else:
            other = pickle.loads(pickle.dumps(other)) if way == "pickle" else copy.deepcopy(other)
            qs = other.param_groups[0]["params"]
        if mode == "eval" and name == "averaged_sgd":
            with pytest.raises(RuntimeError, match="evaluation mode"):
                other.step()
        one.train()
        other.train()
        assert torch.equal(flat(ps), flat(qs))


@pytest.mark.parametrize("wrong", [["eval", "train", "eval"], ["both"] * 3])
def test_modes_that_cannot_be_are_refused_and_nothing_changes(wrong: list[str], toys: dict[str, Class]) -> None:
    ps = start()
    optimizer = toys["averaged_sgd"]([{"params": [p]} for p in ps])
    take(optimizer, ps, 0)
    kept = optimizer.state_dict()
    for group, mode in zip(kept["param_groups"], wrong, strict=True):
        group["mode"] = mode
    with pytest.raises(ValueError, match="the groups of the checkpoint have the modes"):
        optimizer.load_state_dict(kept)
    assert {group["mode"] for group in optimizer.param_groups} == {"train"}


def test_other_methods_have_both_calls_and_they_do_nothing() -> None:
    ps = start()
    optimizer = dd.Prodigy(ps)
    switching(optimizer)
    take(optimizer, ps, 0)
    optimizer.eval()
    assert optimizer._mode == "train"
    take(optimizer, ps, 1)
    assert "mode" not in optimizer.param_groups[0]
