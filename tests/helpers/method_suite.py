"""What every method must do: one check a property, one row a method.

`rows()` makes a row of every method of the registry that has an oracle; a test of a method of its own makes its `Row` by hand.
"""

import copy
import io
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dadapt_dist as dd
from dadapt_dist import optimizers
from dadapt_dist.methods import METHODS

from .oracles import ORACLES, Oracle
from .oracles.released import Problem, flat, grouped, with_gaps


@dataclass(frozen=True)
class Row:
    """A method and the independent judge of its numbers. options: with which d grows within 30 steps."""

    name: str
    oracle: type[Oracle]
    options: dict[str, Any] = field(default_factory=dict)

    def build(self, params: Any, **options: Any) -> dd.LearningRateFree:
        made: dd.LearningRateFree = optimizers.of_method(self.name)(params, **{**self.options, **options})
        return made

    def knows(self, option: str) -> bool:
        return option in METHODS[self.name].options.checks()


def rows() -> list[Row]:
    """A row of every method of the package."""
    firsts = {"dadapt_adagrad": 1e-3}
    options = {n: {"d0": firsts.get(n, 1e-4)} if "d0" in m.options.checks() else {} for n, m in METHODS.items()}
    return [Row(name, ORACLES[name], options[name]) for name in METHODS]


def has_d(row: Row) -> bool:
    method = METHODS[row.name]
    return "d" in method().scalars(method.options.defaults())


def d_of(optimizer: dd.LearningRateFree) -> Any:
    """The d, to be compared for equality; NaN, of a method without d, equals itself."""
    return pytest.approx(optimizer.d, rel=0, abs=0, nan_ok=True)


Check = Callable[[Row], None]
CHECKS: list[Check] = []


def check(function: Check) -> Check:
    CHECKS.append(function)
    return function


def steps(optimizer: dd.LearningRateFree, xs: Sequence[Tensor], gradients: Any, number: int = 30) -> Iterator[int]:
    """Take steps, on gradients of the step and the parameters; yields after each."""
    for step in range(number):
        for x, grad in zip(xs, gradients(step, xs), strict=True):
            x.grad = None if grad is None else grad.clone().to(x.dtype)
        optimizer.step()
        yield step


def train(row: Row, number: int = 30, **options: Any) -> tuple[dd.LearningRateFree, list[nn.Parameter]]:
    problem = Problem()
    xs, groups = grouped(problem.starts, None)
    optimizer = row.build(groups, **options)
    for _ in steps(optimizer, xs, problem.gradients, number):
        pass
    return optimizer, xs


def against_the_oracle(row: Row, groups: list[dict[str, Any]] | None = None, **options: Any) -> None:
    """30 steps beside the oracle: d and parameters to rounding."""
    options, problem = {**row.options, **options}, Problem()
    xs, made = grouped(problem.starts, groups)
    optimizer, oracle = row.build(made, **options), row.oracle(problem.starts, groups, **options)
    ds = []
    for step in steps(optimizer, xs, problem.gradients):
        oracle.step(problem.gradients(step, oracle.params))
        if has_d(row):
            found, expected = float(optimizer.param_groups[0]["d"]), oracle.ds[oracle.groups[0]["estimate"]]
            assert found == pytest.approx(expected, rel=1e-10), step
            ds.append(found)
        torch.testing.assert_close(flat(xs), flat(oracle.params), rtol=1e-9, atol=1e-12)
    assert row.oracle.d_may_fall or ds == sorted(ds)


@check
def gives_the_oracles_numbers(row: Row) -> None:
    against_the_oracle(row)


@check
def gives_the_oracles_numbers_with_weight_decay(row: Row) -> None:
    if row.knows("weight_decay"):
        against_the_oracle(row, weight_decay=0.1)


@check
def gives_the_oracles_numbers_with_groups(row: Row) -> None:
    against_the_oracle(row, [{"indices": [0, 2], "lr": 0.5, "layer_scale": 0.3}, {"indices": [1, 3]}])
    against_the_oracle(row, [{"indices": [0, 2], "estimate": "a"}, {"indices": [1, 3], "estimate": "b"}])


@check
def grows_d(row: Row) -> None:
    if has_d(row):
        assert train(row, 100)[0].d > 1.5 * train(row, 1)[0].d > 0


@check
def is_the_same_however_the_tensors_are_cut(row: Row) -> None:
    """Elementwise updates and additive sums: five pieces of a tensor are the tensor."""
    start, goal = torch.linspace(-1, 1, 40, dtype=torch.float64), torch.linspace(2, -2, 40, dtype=torch.float64).cos()
    cuts = [slice(*edges) for edges in pairwise([0, 1, 7, 7, 30, 40])]
    whole, pieces = [nn.Parameter(start.clone())], [nn.Parameter(start[cut].clone()) for cut in cuts]
    one, many = row.build(whole), row.build(pieces)

    def of_pieces(_: int, xs: Sequence[Tensor]) -> list[Tensor]:
        return [x.detach() - goal[cut] for x, cut in zip(xs, cuts, strict=True)]

    of_whole = steps(one, whole, lambda _, xs: [xs[0].detach() - goal])
    for _ in zip(of_whole, steps(many, pieces, of_pieces), strict=True):
        torch.testing.assert_close(torch.cat([x.detach() for x in pieces]), whole[0].detach(), rtol=1e-11, atol=1e-13)
        assert many.d == pytest.approx(one.d, rel=1e-12, nan_ok=True)


@check
def stays_on_gradients_of_zero(row: Row) -> None:
    p = nn.Parameter(torch.ones(5))
    optimizer = row.build([p], **({"weight_decay": 0.0} if row.knows("weight_decay") else {}))
    ds = []
    for _ in steps(optimizer, [p], lambda *_: [torch.zeros(5)], 5):
        assert torch.equal(p.detach(), torch.ones(5))
        ds.append(d_of(optimizer))
    assert optimizer.d == ds[0]


@check
def holds_on_a_gradient_that_is_not_finite(row: Row) -> None:
    """The bad element stays as with a gradient of 0, d stays, the others train; afterwards all is finite."""
    p = nn.Parameter(torch.ones(6, dtype=torch.float64))
    optimizer = row.build([p])
    for bad in (math.nan, math.inf):
        for _ in steps(optimizer, [p], lambda _, xs: [xs[0].detach() - 3.0], 8):
            pass
        d, before = d_of(optimizer), p.detach().clone()
        for _ in steps(optimizer, [p], lambda _, xs, bad=bad: [torch.tensor([bad, *[-2.0] * 5], dtype=xs[0].dtype)], 1):
            assert optimizer.d == d
            assert bool(torch.isfinite(p).all())
            assert bool((p[1:] != before[1:]).all())
    assert all(bool(torch.isfinite(t).all()) for t in optimizer.state[p].values() if t.dtype.is_floating_point)
    assert optimizer.step_size.held_steps == 2


@check
def raises_on_a_gradient_that_is_not_finite_when_told(row: Row) -> None:
    p = nn.Parameter(torch.ones(3))
    optimizer = row.build([p], nonfinite="raise")
    with pytest.raises(dd.NonFiniteError):
        list(steps(optimizer, [p], lambda *_: [torch.tensor([1.0, math.nan, 1.0])], 1))
    assert torch.equal(p.detach(), torch.ones(3))


@check
def freezes(row: Row) -> None:
    """After freeze_after steps d stays, what serves the estimate alone is gone, and training goes on."""
    optimizer, xs = train(row, 6, freeze_after=4)
    d, before = d_of(optimizer), flat(xs).clone()
    assert train(row, 4)[0].d == d
    kept = {
        name for name, buffer in METHODS[row.name]().buffers(optimizer.param_groups[0]).items() if not buffer.statistic
    }
    assert set(optimizer.state[xs[0]]) == kept
    for _ in steps(optimizer, xs, Problem().gradients, 2):
        assert optimizer.d == d
    assert not torch.equal(flat(xs), before)


@check
def takes_every_dtype(row: Row) -> None:
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        for options in ({}, {"state_dtype": torch.float64}):
            p = nn.Parameter(torch.ones(4, dtype=dtype))
            optimizer = row.build([p], **options)
            for _ in steps(optimizer, [p], lambda _, xs: [xs[0].detach() - 3.0], 5):
                assert bool(torch.isfinite(p).all())
            assert p.dtype is dtype
            kept = options.get("state_dtype", torch.promote_types(dtype, torch.float32))
            assert {t.dtype for t in optimizer.state[p].values()} <= {kept}


@check
def goes_on_from_a_checkpoint_bit_for_bit(row: Row) -> None:
    optimizer, xs = train(row, 10)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    twins = [nn.Parameter(x.detach().clone()) for x in xs]
    other = row.build([{"params": twins}])
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert other.d == d_of(optimizer)
    for _ in zip(
        steps(optimizer, xs, Problem().gradients, 5), steps(other, twins, Problem().gradients, 5), strict=True
    ):
        assert other.d == d_of(optimizer)
        assert torch.equal(flat(xs), flat(twins))


@check
def maximize_is_the_method_on_negated_gradients(row: Row) -> None:
    problem = Problem()
    (xs, down), (ys, up) = grouped(problem.starts, None), grouped(problem.starts, None)
    first, second = row.build(down), row.build(up, maximize=True)
    against = lambda step, zs: [-g for g in problem.gradients(step, zs)]  # noqa: E731
    for _ in zip(steps(first, xs, problem.gradients), steps(second, ys, against), strict=True):
        assert first.d == d_of(second)
        assert torch.equal(flat(xs), flat(ys))


@check
def a_group_with_lr_zero_stays(row: Row) -> None:
    problem = Problem()
    xs, groups = grouped(problem.starts, [{"indices": [0, 2]}, {"indices": [1, 3], "lr": 0.0}])
    for _ in steps(row.build(groups), xs, problem.gradients, 10):
        assert all(torch.equal(xs[i].detach(), problem.starts[i]) for i in (1, 3))
    assert not torch.equal(xs[0].detach(), problem.starts[0])


@check
def effective_lr_is_proportional_to_lr(row: Row) -> None:
    optimizer, _ = train(row, 5)
    (whole,) = optimizer.effective_lr
    if math.isnan(whole):  # a method without a learning rate
        return
    optimizer.param_groups[0]["lr"] *= 0.25
    assert optimizer.effective_lr == [pytest.approx(0.25 * whole)]
    assert 0 < whole < math.inf


SETTINGS: list[dict[str, Any]] = [
    {},
    {"sync": "step"},
    {"before": "lagged"},
    {"nonfinite": "skip"},
    {"freeze_after": 4},
]


@check
def takes_no_write_of_a_step_for_one_of_its_user(row: Row) -> None:
    """Views that were written to with the values they had: a step that left a scalar unnoted would lose it here."""
    for setting in SETTINGS:
        problem, runs = Problem(), []
        for touched in (False, True):
            xs, groups = grouped(problem.starts, None)
            optimizer = row.build(groups, step_size=dd.StepSize(**setting))
            group = optimizer.param_groups[0]
            names = [name for name in (*optimizer.step_size._scalars.values, "steps") if name in group]
            for step in steps(optimizer, xs, problem.gradients, 10):
                for name in names if touched else ():
                    group[name].add_(0)
                assert optimizer.step_size._scalars.written() == {}, setting
                if step == 5:
                    nan = [torch.full_like(x, math.nan) for x in xs]
                    next(steps(optimizer, xs, lambda *_: nan, 1))  # noqa: B023 - called here
            runs.append((flat(xs), optimizer.state_dict()["param_groups"]))
        (one, of_one), (other, of_other) = runs
        assert torch.equal(one, other), setting
        assert of_one == of_other, setting


@check
def is_evaluated_at_the_average_and_trains_on_with_every_bit(row: Row) -> None:
    """Where it can keep one: with lrs of its own, lr 0 and tensors without a gradient, beside the oracle's average."""
    if (
        not row.knows("average") or row.name == "dual_averaging"
    ):  # whose average is of another kind, with tests of its own
        return
    problem = Problem()
    for groups in (None, [{"indices": [0, 2], "lr": 0.5}, {"indices": [1], "lr": 0.0}, {"indices": [3]}]):
        for before in ("exact", "lagged"):
            first = {
                name: 0.1 for name in ("d0", "reps_rel") if row.knows(name)
            }  # with which the weights go far in 20 steps
            options: dict[str, Any] = {**row.options, **first, "average": 3.0}
            xs, made = grouped(problem.starts, groups)
            optimizer = row.build(made, **options, before=before)
            oracle = row.oracle(problem.starts, groups, lagged=before == "lagged", **options)
            optimizer.eval()
            assert torch.equal(flat(xs), flat(problem.starts))
            optimizer.train()
            gradients = with_gaps(problem.gradients)
            for step in steps(optimizer, xs, gradients, 20):
                oracle.step(gradients(step, oracle.params))
                kept = [t.clone() for t in (*xs, *(t for x in xs for t in optimizer.state[x].values()))]
                optimizer.eval()
                torch.testing.assert_close(flat(xs), flat(oracle.averages), rtol=1e-9, atol=1e-12)
                optimizer.train()
                assert all(map(torch.equal, kept, (*xs, *(t for x in xs for t in optimizer.state[x].values()))))
            assert not torch.allclose(flat(oracle.averages), flat(oracle.params), rtol=1e-3)


def step_with(optimizer: dd.LearningRateFree, name: str, value: Any) -> None:
    """Take a step with another value of an option, and put the one of before back."""
    group = optimizer.param_groups[0]
    before = dict(group)
    group[name] = value
    try:
        optimizer.step()
    finally:
        group.clear()
        group.update(before)


BAD: list[Any] = [{}, math.nan, -1.0, (), object()]  # no option of any method can be one of these, but for
RIGHT = [("lb", -1.0)]  # losses may be negative


@check
def refuses_every_bad_option_with_value_range_and_cure(row: Row) -> None:
    """In the constructor, in a new group and, in the next step, in a group that is there; nothing changes."""
    options = METHODS[row.name].options
    optimizer = row.build([nn.Parameter(torch.ones(2))])
    before = copy.copy(optimizer.param_groups[0])
    for name, known in options.checks().items():
        for value in (value for value in BAD if (name, value) not in RIGHT):
            tries: list[Callable[[], Any]] = [lambda: options(**{name: value})]  # noqa: B023 - called below
            tries.append(lambda: optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))], name: value}))  # noqa: B023
            if name != "estimate":
                tries.append(lambda: row.build([nn.Parameter(torch.ones(2))], **{name: value}))  # noqa: B023
            tries.append(lambda: step_with(optimizer, name, value))  # noqa: B023
            for attempt in tries:
                with pytest.raises(ValueError, match=f"{name}=") as caught:
                    attempt()
                text = str(caught.value)
                assert repr(value) in text
                assert f"must be {known.allowed}. " in text
                assert text.endswith(".")
                assert not text.endswith(f"{known.allowed}.")
    assert len(optimizer.param_groups) == 1
    assert copy.copy(optimizer.param_groups[0]) == before


__all__ = ["CHECKS", "Check", "Row", "rows"]
