"""Check that a step inside a compiled function compiles once, breaks no graph and gives the same result."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

import dadapt_dist as dd
from tests.helpers.classes import ALL, WITH_D, make

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's compiler calls parts of torch that are
X = torch.linspace(-1, 1, 40).view(8, 5)


def train(key: str, backend: str | None, steps: int = 5, wrap: Callable[..., Any] | None = None, **options: Any) -> Any:
    """d and the parameters after some steps; with a backend, step() is compiled, and must not be broken."""
    torch.manual_seed(0)
    torch._dynamo.reset()
    counters.clear()
    model = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 1))
    optimizer = make(key, model.parameters(), **options)
    step = optimizer.step if wrap is None else wrap(optimizer)
    if backend is not None:
        step = torch.compile(step, backend=backend, fullgraph=True)
    for done in range(steps):
        optimizer.param_groups[0]["lr"] = 1 - done / steps  # a scheduler wraps step(), which breaks AdamW's graph too
        model(X).square().mean().backward()
        step()
        optimizer.zero_grad()
    if backend is not None:
        assert counters["stats"]["unique_graphs"] == 1, "it was compiled again"
        assert not counters["graph_break"]
    assert optimizer.step_size.steps == steps
    return optimizer.d, [p.detach().clone() for p in model.parameters()]


def same(a: Any, b: Any) -> bool:
    return bool(a[0].hex() == b[0].hex()) and all(torch.equal(x, y) for x, y in zip(a[1], b[1], strict=True))


@pytest.mark.parametrize("key", ALL)
def test_a_compiled_step_is_the_step(key: str) -> None:
    plain = train(key, None)
    assert plain[0] >= 1e-3 or key not in WITH_D
    assert same(train(key, "eager"), plain)


@pytest.mark.parametrize("backend", ["aot_eager", "eager"])
def test_a_function_that_steps_is_one_graph(backend: str) -> None:
    """aot_eager hands copies of the parameters in and copies them back."""

    def wrap(optimizer: dd.LearningRateFree) -> Callable[[], None]:
        def function() -> None:
            optimizer.step()

        return function

    assert same(train("prodigy", backend, wrap=wrap), train("prodigy", None))


def test_parameters_that_are_read_after_the_step_are_the_new_ones() -> None:
    torch._dynamo.reset()
    p = nn.Parameter(torch.ones(4))
    optimizer = dd.Prodigy([p], d0=1e-2)

    def function() -> torch.Tensor:
        optimizer.step()
        return p.detach() * 2

    torch_compile = torch.compile(function, backend="aot_eager", fullgraph=True)
    for _ in range(3):
        p.grad = torch.ones(4)
        assert torch.equal(torch_compile(), p.detach() * 2)
    assert optimizer.d > 1e-3


def test_parameters_without_a_gradient_and_new_groups() -> None:
    torch._dynamo.reset()
    p, q = nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(3))
    optimizer = dd.Prodigy([p, q], d0=1e-2)
    step = torch.compile(optimizer.step, backend="eager", fullgraph=True)
    p.grad = torch.ones(4)
    step()
    assert torch.equal(q, torch.ones(3))
    r = nn.Parameter(torch.ones(2))
    optimizer.add_param_group({"params": [r]})
    r.grad = torch.ones(2)
    step()
    assert not torch.equal(r, torch.ones(2))
    assert p.grad is not None


def test_an_optimizer_that_is_gone_leaves_nothing_behind() -> None:
    import gc

    from dadapt_dist.engine import torch_compile

    optimizer = dd.Prodigy([nn.Parameter(torch.ones(4))])
    number = optimizer._number
    assert number in torch_compile.live
    del optimizer
    gc.collect()
    assert number not in torch_compile.live
