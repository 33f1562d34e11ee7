"""A scalar of an estimate may be a vector: groups show it, users set it and checkpoints hold it like any other."""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dadapt_dist as dd
from dadapt_dist import optimizers
from dadapt_dist.methods import Buffer, Documentation, Method
from dadapt_dist.methods.base import Buffers, Coefficients, Initial, Options, Scalars, Sums
from dadapt_dist.methods.ops import total, total_abs
from dadapt_dist.options.fields import D0, LR, MethodOptions
from tests.helpers.registered import registrations_undone

AFTER_TWO = (6.0, 20.0)
"""Σ|g| and Σg² of two steps with the gradients (1, 2) and (2, 1), twice their sum of absolute values and of squares."""


@dataclass(frozen=True)
class PairOptions(MethodOptions):
    """Options of `PairMethod`."""

    lr: float = LR(1.0)
    d0: float = D0(1e-2)


class PairMethod(Method):
    """Gradient descent that sums ‖g‖₁ and 2·‖g‖² in one vector."""

    name = "pair_descent"
    options = PairOptions
    documentation = Documentation(summary="Two sums.", when="never: it is a test", reference="", equations="")
    after = Sums(("abs", "square"))

    def scalars(self, options: Options) -> dict[str, Initial]:
        return {"d": options["d0"], "norms": (0.0, 0.0)}

    def buffers(self, options: Options) -> dict[str, Buffer]:
        return {}

    def coefficients(self, options: Options, scalars: Scalars, constants: Any) -> Coefficients:
        return {"rate": scalars["d"] / (1 + scalars["norms"].sum())}

    def update(self, x: Tensor, g: Tensor, buf: Buffers, c: Coefficients, cut: slice | None) -> tuple[Tensor, ...]:
        x.sub_(g * c["rate"])
        return total_abs(g), total(g * g) * 2

    def fold_after(self, sums: Scalars, scalars: Scalars, constants: Any) -> Scalars:
        return {"norms": scalars["norms"] + torch.stack([sums["abs"], sums["square"]], 1)}


@pytest.fixture
def pair() -> Iterator[Any]:
    with registrations_undone():
        yield optimizers.register(PairMethod)


def trained(pair: Any, *, steps: int = 2) -> tuple[dd.LearningRateFree, nn.Parameter]:
    p = nn.Parameter(torch.ones(2))
    optimizer = pair([p])
    go_on(optimizer, p, steps)
    return optimizer, p


def go_on(optimizer: dd.LearningRateFree, p: nn.Parameter, steps: int = 2) -> None:
    for step in range(steps):
        p.grad = torch.tensor([1.0, 2.0] if step % 2 == 0 else [2.0, 1.0])
        optimizer.step()


def norms(optimizer: dd.LearningRateFree) -> Any:
    return optimizer.state_dict()["param_groups"][0]["norms"]


def test_a_group_shows_a_vector_as_a_view_of_one_dimension(pair: Any) -> None:
    optimizer, p = trained(pair, steps=0)
    view = optimizer.param_groups[0]["norms"]
    assert view.tolist() == [0.0, 0.0]
    go_on(optimizer, p)
    assert optimizer.step_size._value("default", "norms") == AFTER_TWO
    assert optimizer.param_groups[0]["norms"] is view
    assert view.tolist() == [*AFTER_TWO]
    assert f"norms: {[*AFTER_TWO]}" in repr(optimizer)


def test_a_vector_is_saved_as_a_tuple_and_goes_on_bit_for_bit(pair: Any) -> None:
    optimizer, p = trained(pair)
    saved, x = copy.deepcopy(optimizer.state_dict()), nn.Parameter(p.detach().clone())
    assert norms(optimizer) == AFTER_TWO
    resumed = pair([x])
    resumed.load_state_dict(saved)
    assert norms(resumed) == AFTER_TWO
    go_on(optimizer, p)
    go_on(resumed, x)
    assert torch.equal(p, x)
    assert norms(optimizer) == norms(resumed) != AFTER_TWO
    for wrong in ((1.0,), 1.0, (1.0, math.nan), "ab", None):
        saved["param_groups"][0]["norms"] = wrong
        with pytest.raises(ValueError, match=r"norms=.*must be"):
            resumed.load_state_dict(saved)


@pytest.mark.parametrize("read_first", [True, False])
@pytest.mark.parametrize("how", ["tuple", "tensor", "in place"])
def test_a_vector_is_set_through_a_group_and_the_view_is_back(pair: Any, how: str, read_first: bool) -> None:
    optimizer, p = trained(pair)
    wanted, x = trained(pair)
    wanted.step_size._set_value("default", "norms", (3.0, 0.5))
    group = optimizer.param_groups[0]
    view = group["norms"]
    if how == "in place":
        view[0], view[1] = 3.0, 0.5
    else:
        group["norms"] = (3.0, 0.5) if how == "tuple" else torch.tensor([3.0, 0.5])
    if read_first:
        assert optimizer.step_size._value("default", "norms") == (3.0, 0.5)
    go_on(optimizer, p)
    go_on(wanted, x)
    assert torch.equal(p, x)
    assert group["norms"] is view
    assert norms(optimizer) == norms(wanted) == (3.0 + AFTER_TWO[0], 0.5 + AFTER_TWO[1])


@pytest.mark.parametrize("wrong", [(1.0,), 1.0, (1.0, math.nan), "ab", None, torch.ones(3)])
def test_a_vector_that_cannot_be_right_is_refused_before_anything_moves(pair: Any, wrong: Any) -> None:
    optimizer, p = trained(pair)
    before, view = p.detach().clone(), optimizer.param_groups[0]["norms"]
    optimizer.param_groups[0]["norms"] = wrong
    with pytest.raises(ValueError, match=r"norms=.*must be"):
        optimizer.step()
    assert torch.equal(p, before)
    assert optimizer.param_groups[0]["norms"] is view
    assert norms(optimizer) == AFTER_TWO
