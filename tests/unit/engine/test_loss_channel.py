"""Check the ways to give a method the loss of a step, what is refused, and what a loss that is missing or not finite does."""

import logging
import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import dadapt_dist as dd
from dadapt_dist.engine import loss_channel
from dadapt_dist.engine.estimate_state import ScalarTable
from dadapt_dist.engine.loss_checks import LossChecks
from dadapt_dist.methods.base import Sums
from dadapt_dist.sharding.tensor_parallel import Contrast, _factor, _weights
from tests.helpers.host_reads import CountReads
from tests.helpers.loss_methods import TOYS, PolyakMethod, Rate, Reference, of_toy
from tests.helpers.registered import registrations_undone

LOSSES = [3.0, 1.5, 2.0, 0.25, 1.0]


@pytest.fixture(autouse=True)
def _undone() -> Iterator[None]:
    with registrations_undone():
        yield


def gradient(step: int) -> Tensor:
    return torch.linspace(1, 2, 5, dtype=torch.float64).roll(step)


def by_keyword(optimizer: Any, loss: float) -> None:
    optimizer.step(loss=torch.tensor(loss, dtype=torch.float64, requires_grad=True) * 1.0)


def by_number(optimizer: Any, loss: float) -> None:
    optimizer.step(loss=loss)


def by_one_element(optimizer: Any, loss: float) -> None:
    optimizer.step(loss=torch.tensor([[loss]], dtype=torch.float32))


def by_numpy(optimizer: Any, loss: float) -> None:
    optimizer.step(loss=np.float32(loss))


def by_fraction(optimizer: Any, loss: float) -> None:
    optimizer.step(loss=Fraction(loss))


def by_closure(optimizer: Any, loss: float) -> None:
    value = torch.tensor(loss)
    assert optimizer.step(lambda: value) is value


def by_attribute(optimizer: Any, loss: float) -> None:
    given = torch.tensor(loss, dtype=torch.float64)
    optimizer.loss = given
    given.fill_(-77.0)  # what the user does with his tensor afterwards is his own
    assert float(optimizer.loss) == loss
    optimizer.step()
    assert optimizer.loss is None


def by_attribute_of_a_wrapper(optimizer: Any, loss: float) -> None:
    class Wrapper:
        def __init__(self, inner: Any) -> None:
            self.optimizer = inner

    dd.base_optimizer(Wrapper(optimizer)).loss = loss  # type: ignore[assignment]
    optimizer.step()


def by_scaler(optimizer: Any, loss: float) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    assert scaler.scale(torch.ones(())) == 4.0
    for p in (p for group in optimizer.param_groups for p in group["params"]):
        p.grad.mul_(4.0)
    scaler.step(optimizer, loss=loss)
    scaler.update()


WAYS: list[Callable[[Any, float], None]] = [
    by_keyword, by_number, by_one_element, by_numpy, by_fraction, by_closure, by_attribute, by_attribute_of_a_wrapper, by_scaler,
]  # fmt: skip


def train(name: str, losses: list[float | None], give: Callable[[Any, float], None] = by_number, **options: Any) -> Any:
    """(x, the scalars rate and seen) after each step of ours, and of the reference; steps without a loss are refused."""
    p, x = (torch.ones(5, dtype=torch.float64) for _ in range(2))
    ours = of_toy(name)([nn.Parameter(p)], **options)
    reference = Reference(name, lagged=options.get("before") == "lagged")
    found, expected = [], []
    for step, loss in enumerate(losses):
        (own,) = ours.param_groups[0]["params"]
        own.grad = gradient(step)
        if loss is None:
            with pytest.raises(ValueError, match=r"no rank gave the loss .* can be taken again"):
                ours.step()
            continue
        give(ours, loss)
        reference.step([x], [gradient(step)], loss)
        scalars = [ours.step_size._value("default", "rate"), ours.step_size._value("default", "seen")]
        found.append([*own.tolist(), *scalars])
        expected.append([*x.tolist(), reference.rate, reference.seen])
        if reference.lagged:  # the sums of this step are folded, and their rate is read, before it is used
            found[-1][5:] = expected[-1][5:]
    return torch.tensor(found), torch.tensor(expected)


def alike(pair: tuple[Tensor, Tensor]) -> None:
    torch.testing.assert_close(*pair, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("give", WAYS)
@pytest.mark.parametrize("name", [toy.name for toy in TOYS])
def test_every_way_to_give_the_loss_is_the_same(name: str, give: Callable[[Any, float], None]) -> None:
    alike(train(name, [*LOSSES], give))


@pytest.mark.parametrize(
    "setting", [{"before": "lagged"}, {"nonfinite": "skip"}, {"sync": "step"}, {"nonfinite": "raise"}]
)
@pytest.mark.parametrize("name", ["polyak", "damped", "both", "early"])
def test_the_loss_is_right_under_every_setting(name: str, setting: dict[str, Any]) -> None:
    if setting.get("before") == "lagged" and name == "both":
        setting = {}  # its two ends would see the loss of different steps, in one scalar
    alike(train(name, [*LOSSES], **setting))


def test_a_loss_serves_one_step_and_the_nearest_source_wins() -> None:
    alike(train("polyak", [3.0, None, 2.0, None]))  # those without are refused
    optimizer = of_toy("polyak")([p := nn.Parameter(torch.ones(5, dtype=torch.float64))])
    for keyword, attribute, closure, wanted in ((1.0, 2.0, 3.0, 1.0), (None, 2.0, 3.0, 2.0), (None, None, 3.0, 3.0)):
        p.grad = gradient(0)
        optimizer.loss = attribute
        optimizer.step(lambda value=closure: value, loss=keyword)
        assert optimizer.step_size._value("default", "seen") == wanted


WRONG: list[tuple[Any, type[Exception], str]] = [
    (torch.ones(3), ValueError, r"has the shape \(3,\).*loss.mean\(\)"),
    (torch.ones(0), ValueError, r"has the shape \(0,\)"),
    (torch.ones((), dtype=torch.complex64), TypeError, "tensor of torch.complex64"),
    (torch.tensor(True), TypeError, "tensor of torch.bool"),
    (torch.ones((), device="meta"), TypeError, "on meta"),
    (torch.ones(1).to_sparse(), TypeError, "torch.sparse_coo"),
    (True, TypeError, "of the type bool"),
    ("1.0", TypeError, "of the type str"),
    ({"loss": 1.0}, TypeError, "of the type dict.*step\\(loss=...\\)"),
]


@pytest.mark.parametrize(("value", "error", "why"), WRONG)
def test_what_is_no_loss_is_refused_before_anything_moves(value: Any, error: type[Exception], why: str) -> None:
    p = nn.Parameter(torch.ones(5, dtype=torch.float64))
    optimizer = of_toy("polyak")([p])
    p.grad = gradient(0)
    for give in (
        lambda: optimizer.step(loss=value),
        lambda: optimizer.step(lambda: value),
        lambda: setattr(optimizer, "loss", value),
    ):
        with pytest.raises(error, match=f"Polyak: the loss .*{why}"):
            give()
    assert torch.equal(p.detach(), torch.ones(5))
    assert (optimizer.step_size.steps, optimizer.loss) == (0, None)


def test_a_method_without_a_loss_ignores_what_it_is_given() -> None:
    runs = []
    for give in (
        lambda o: o.step(),
        lambda o: o.step(loss={"no": "loss"}),
        lambda o: setattr(o, "loss", "x") or o.step(),
    ):
        p = nn.Parameter(torch.ones(5))
        optimizer = dd.Prodigy([p], d0=1e-3)
        for step in range(4):
            p.grad = gradient(step).float()
            give(optimizer)
        runs.append((p.tolist(), optimizer.d, optimizer.loss))
    assert runs[0] == runs[1] == runs[2]
    assert dd.Prodigy([nn.Parameter(torch.ones(1))]).step(lambda: {"no": "loss"}) == {"no": "loss"}


@pytest.mark.parametrize("name", ["polyak", "damped", "both", "early"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_holds_the_estimate(name: str, bad: float, caplog: pytest.LogCaptureFixture) -> None:
    """With "hold" the weights move, at the rate of before; with "skip" nothing; with "raise" neither, and NonFiniteError."""
    for mode in ("hold", "skip", "raise"):
        p = nn.Parameter(torch.ones(5, dtype=torch.float64))
        optimizer = of_toy(name)([p], nonfinite=mode)
        for loss in (2.0, 1.0):
            p.grad = gradient(0)
            optimizer.step(loss=loss)
        before = (
            p.detach().clone(),
            optimizer.step_size._value("default", "rate"),
            optimizer.step_size._value("default", "seen"),
        )
        p.grad = gradient(1)
        if mode == "raise":
            with pytest.raises(
                dd.NonFiniteError, match=r"^0 gradient elements .*or the loss, where the method uses it, is not"
            ):
                optimizer.step(loss=bad)
        else:
            optimizer.step(loss=bad)
        after = (
            p.detach().clone(),
            optimizer.step_size._value("default", "rate"),
            optimizer.step_size._value("default", "seen"),
        )
        assert torch.equal(before[0], after[0]) is (mode != "hold")
        assert before[1:] == after[1:]
        assert optimizer.step_size.held_steps == (mode != "raise")
        p.grad = gradient(2)
        optimizer.step(loss=1.0)
        assert not torch.equal(p.detach(), after[0])
    assert "a gradient, or the loss, was not finite" in caplog.text


@pytest.mark.parametrize("setting", [{}, {"before": "lagged"}, {"nonfinite": "skip"}, {"sync": "step"}])
@pytest.mark.parametrize("name", ["polyak", "damped", "both", "early"])
def test_a_step_without_a_loss_is_refused_and_leaves_nothing_behind(name: str, setting: dict[str, Any]) -> None:
    if setting.get("before") == "lagged" and name == "both":
        setting = {}
    alike(train(name, [2.0, None, None, 1.0, 3.0, None, 0.5], **setting))
    alike(train(name, [None, 2.0, 1.0], **setting))


@pytest.mark.parametrize("name", ["polyak", "damped", "both", "early"])
def test_a_step_that_has_nothing_to_take_needs_no_loss(name: str) -> None:
    p = nn.Parameter(torch.ones(5))
    optimizer = of_toy(name)([p])
    optimizer.step()
    p.grad = torch.zeros(5)
    optimizer.step()  # as checkpoint tools step, to create state
    optimizer.param_groups[0]["lr"], p.grad = 0.0, torch.ones(5)
    optimizer.step()
    optimizer.param_groups[0]["lr"] = 1.0
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(torch.ones(()))
    p.grad = torch.full((5,), math.inf)
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(p.detach(), torch.ones(5))
    p.grad = torch.full((5,), 3.0) * scaler.get_scale()
    with pytest.raises(ValueError, match="no rank gave the loss"):
        scaler.step(optimizer)
    scaler.step(optimizer, loss=1.0)
    scaler.update()
    assert optimizer.step_size._value("default", "seen") == 1.0


def test_a_loss_that_none_of_several_optimizers_had_is_refused_in_the_step_after() -> None:
    """The loss may come with the second, so that only the end of the step tells; the step after is then refused, once."""
    params, step_size = [nn.Parameter(torch.ones(5, dtype=torch.float64)) for _ in range(2)], dd.StepSize()
    pair = [of_toy("damped")([p], step_size=step_size) for p in params]
    for losses in ((1.0, None), (None, 2.0), (None, None)):
        for optimizer, p, loss in zip(pair, params, losses, strict=True):
            p.grad = gradient(0)
            optimizer.step(loss=loss)
    before = [p.tolist() for p in params]
    with pytest.raises(ValueError, match=r"no rank gave the loss .* It was the step before"):
        pair[0].step(loss=3.0)
    assert before == [p.tolist() for p in params]
    assert step_size._value("default", "seen") == 2.0
    for optimizer in pair:
        optimizer.step(loss=3.0)
    assert before != [p.tolist() for p in params]
    assert step_size._value("default", "seen") == 3.0


def test_who_gave_the_loss_reads_nothing_of_it_on_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dadapt_dist.kernels.eager.readable", lambda device: False)
    for name in ("polyak", "damped", "early"):
        optimizer = of_toy(name)([p := nn.Parameter(torch.ones(5))], backend="eager")
        for _ in range(4):
            p.grad = torch.ones(5)
            with CountReads() as counter:
                optimizer.step(loss=torch.tensor(2.0))
        assert counter.count <= 2, "the flags that a step was held, or below its bound, which lie on the host"


# ---------------------------------------------------------------- tensor-parallel ranks


def told(losses: list[list[float | None]], again: bool = False) -> str | None:
    """What is said of the losses of these tensor-parallel groups, one list a group."""
    (method,) = {type(of_toy("polyak")([nn.Parameter(torch.ones(1))])._method)}
    table = ScalarTable(method())
    table.add("default", {"estimate": "default", "lr": 1.0})
    total = table.no_sums(("before",))
    for group, of_group in enumerate(losses):
        for rank, loss in enumerate(of_group):
            own, size = table.no_sums(("before",)), len(of_group)
            part = Contrast(_factor(group) * _weights(size)[rank], 1 / size, len(losses))
            loss_channel.add(own, loss, table.method, {"before": table.names_of("before")}, part)
            own[:, 5] = 1.0
            total += own
    checks = LossChecks()
    checks.begin(len(losses))
    if again:
        checks.note(table, total, ("before",), True)
    return checks.fault(table, total, ("before",), True)


@pytest.mark.parametrize("groups", [1, 2, 7])
@pytest.mark.parametrize("size", [2, 3, 4, 8])
def test_losses_that_differ_within_a_tensor_parallel_group_are_found(size: int, groups: int) -> None:
    replicas = [0.3 + 2.5 * group for group in range(groups)]
    equal: list[list[float | None]] = [[f] * size for f in replicas]
    assert told(equal) is None
    assert told([[-1e200 * (f or 0) for f in of] for of in equal]) is None
    rounded = [[(f or 0) * (1 + 0.0078 * (rank % 2)) for rank, f in enumerate(of)] for of in equal]
    assert told(rounded) is None, "of bfloat16"
    assert told([[f if rank == 0 else None for rank, f in enumerate(of)] for of in equal]) is None
    assert told([[None] * size, *equal]) is None, "as of an earlier stage of a pipeline"
    apart: list[list[float | None]] = [[f * (1 + 0.5 * rank) for rank in range(size)] for f in replicas]
    assert "differ by about" in str(told(apart))
    apart = [*equal[:-1], [replicas[-1]] * (size - 1) + [3 * replicas[-1]]]
    assert "differ by about" in str(told(apart))


def test_the_spread_of_two_losses_is_told_exactly() -> None:
    assert "differ by about 0.5; the mean of all ranks is 2.25." in str(told([[2.0, 2.5]]))


def test_on_a_device_the_losses_of_the_step_before_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dadapt_dist.kernels.eager.readable", lambda device: False)
    assert told([[2.0, 2.5]]) is None
    assert "differ by about 0.5" in str(told([[2.0, 2.5]], again=True))
    assert told([[2.0, 2.0]], again=True) is None


def test_no_gradient_at_all_is_told_in_spite_of_the_loss(caplog: pytest.LogCaptureFixture) -> None:
    optimizer = of_toy("damped")([nn.Parameter(torch.ones(5))])
    with caplog.at_level(logging.WARNING):
        for _ in range(7):
            optimizer.step(loss=1.0)
    assert "no rank had a gradient other than 0" in caplog.text


def test_optimizers_that_share_a_step_size_share_the_mean_of_their_losses() -> None:
    for before in ("exact", "lagged"):
        params = [nn.Parameter(torch.ones(5, dtype=torch.float64)) for _ in range(3)]
        step_size = dd.StepSize(before=before)  # type: ignore[arg-type]
        shared = [of_toy("polyak")([p], step_size=step_size) for p in params]
        for _ in range(2):
            for optimizer, p, loss in zip(shared, params, (1.0, None, 4.0), strict=True):
                p.grad, optimizer.loss = gradient(0), loss
            for optimizer in shared:
                optimizer.step()
        assert step_size._value("default", "seen") == 2.5


def test_a_compiled_step_gets_the_loss() -> None:
    found = []
    for compiled in (False, True):
        p = nn.Parameter(torch.ones(5, dtype=torch.float64))
        optimizer = of_toy("polyak")([p])

        def step(loss: Tensor, optimizer: Any = optimizer) -> None:
            optimizer.step(loss=loss * 2)

        run = torch.compile(step, backend="eager", fullgraph=True) if compiled else step
        for number, loss in enumerate(LOSSES):
            p.grad = gradient(number)
            run(torch.tensor(loss, dtype=torch.float64))
            found.append(p.tolist())
    assert found[: len(LOSSES)] == found[len(LOSSES) :]


def test_a_checkpoint_of_any_step_goes_on_the_same() -> None:
    p, q = (nn.Parameter(torch.ones(5, dtype=torch.float64)) for _ in range(2))
    one, other = of_toy("both")([p]), of_toy("both")([q])
    for step, loss in enumerate(LOSSES):
        for t, optimizer in ((p, one), (q, other)):
            t.grad = gradient(step)
            optimizer.step(loss=loss)
        saved = other.state_dict()
        other = of_toy("both")([q])
        other.load_state_dict(saved)
        assert torch.equal(p.detach(), q.detach())


def test_what_cannot_be_declared_is_refused_where_the_class_is_made() -> None:
    for declared, why in (
        ({"start": Sums(("x_sq",), loss=True)}, "Wrong: start = .*no loss before the first step"),
        ({"before": lambda: Sums(("loss",))}, "'loss' is the engine's"),
        ({"after": lambda: Sums(("g", "losses"), loss=True)}, "'losses' is the engine's"),
        ({"after": lambda: Sums(("g", "g"))}, "two sums have one name"),
        ({"after": lambda: Sums("g")}, "must be a tuple of texts"),  # type: ignore[arg-type]
        ({"after": lambda: Sums(("g",), needs="loss", loss=True)}, "must be one of the names"),
    ):
        with pytest.raises(TypeError, match=why):
            type("Wrong", (Rate,), {name: made() if callable(made) else made for name, made in declared.items()})
    assert PolyakMethod.wants_loss
    assert not dd.methods.METHODS["prodigy"].wants_loss
