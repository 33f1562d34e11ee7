"""Check that Accelerate's wrapper passes optimizer.train() and optimizer.eval() on."""

import pytest
import torch
from torch import nn

import dadapt_dist as dd
from tests.helpers.pool import WorkerPool

pytest.importorskip("accelerate")


def switched() -> list[bool]:
    """On every rank: whether the weights changed with eval() of the wrapper, and were there again with train()."""
    from accelerate import Accelerator

    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    accelerator = Accelerator(cpu=True)
    model, wrapper = accelerator.prepare(model, dd.ScheduleFreeSGD(model.parameters(), lr=0.1))
    for _ in range(3):
        wrapper.zero_grad()
        accelerator.backward(model(torch.ones(4, 3)).square().mean())
        wrapper.step()
    weight = accelerator.unwrap_model(model).weight
    before = weight.detach().clone()
    wrapper.eval()
    evaluated = weight.detach().clone()
    wrapper.train()
    return [not torch.equal(before, evaluated), bool(torch.allclose(weight, before, rtol=1e-6))]


def test_the_wrapper_of_accelerate_passes_both_calls_on(pool2: WorkerPool) -> None:
    assert pool2.run(switched) == [[True, True]] * 2
