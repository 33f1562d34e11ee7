"""Check that a step's cache is discarded when a framework replaces what a distributed parameter holds."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

import dadapt_dist as dd
from tests.helpers.pool import WorkerPool

ROWS = 6


def gradient(step: int) -> Tensor:
    return torch.linspace(-1, 1, ROWS * 3).view(ROWS, 3) + 0.1 * step


class Run:
    """A sharded parameter with its optimizer on this rank."""

    def __init__(self) -> None:
        self.mesh = init_device_mesh("cpu", (2,))
        self.p = nn.Parameter(distribute_tensor(torch.ones(ROWS, 3), self.mesh, [Shard(0)]))
        self.optimizer = dd.Prodigy([self.p], d0=1e-2)

    def step(self, step: int, placement: Any = None) -> None:
        self.p.grad = distribute_tensor(gradient(step), self.mesh, [placement or Shard(0)])
        self.optimizer.step()

    def steps(self, count: int) -> "Run":
        for step in range(count):
            self.step(step)
        return self

    def result(self) -> tuple[Tensor, float]:
        assert isinstance(self.p, DTensor)
        return self.p.full_tensor().detach(), self.optimizer.d


def undisturbed() -> tuple[Tensor, float]:
    return Run().steps(5).result()


def moved() -> tuple[Tensor, float, bool]:
    """FSDP2 gives a parameter another local tensor when it moves or casts the module."""
    run = Run().steps(3)
    old = run.p._local_tensor  # type: ignore[attr-defined]
    run.p._local_tensor = old.clone()  # type: ignore[attr-defined]
    before = old.clone()
    run.step(3)
    run.step(4)
    return *run.result(), torch.equal(old, before)


def moved_buffer() -> tuple[Tensor, float]:
    run = Run().steps(3)
    state = run.optimizer.state[run.p]
    for t in state.values():
        t._local_tensor = t._local_tensor.clone()
    run.step(3)
    run.step(4)
    return run.result()


def replicated_gradient() -> tuple[Tensor, float]:
    run = Run().steps(3)
    run.step(3, Replicate())
    run.step(4)
    return run.result()


@pytest.mark.parametrize("disturbed", [moved, moved_buffer, replicated_gradient])
def test_a_change_under_a_parameter_changes_nothing(pool2: WorkerPool, disturbed: Any) -> None:
    expected, d = pool2.run(undisturbed)[0]
    for result in pool2.run(disturbed):
        assert torch.equal(result[0], expected)
        assert result[1] == d > 1e-2
        assert all(result[2:]), "the step wrote to memory that is no longer the parameter's"


def with_a_pause() -> tuple[bool, bool]:
    run = Run().steps(2)
    before = run.p.full_tensor().clone()  # type: ignore[attr-defined]
    run.p.grad = None
    run.optimizer.step()
    stayed = torch.equal(run.p.full_tensor(), before)  # type: ignore[attr-defined]
    run.step(2)
    return stayed, torch.equal(run.p.full_tensor(), before)  # type: ignore[attr-defined]


def test_a_step_without_a_gradient_moves_nothing_and_the_next_does(pool2: WorkerPool) -> None:
    assert pool2.run(with_a_pause) == [(True, False)] * 2


def of_another_shape() -> str:
    run = Run().steps(2)
    before = run.p._local_tensor.clone()  # type: ignore[attr-defined]
    run.p.grad = None
    run.p.grad = distribute_tensor(gradient(2), run.mesh, [Shard(0)])
    run.p.grad._local_tensor = torch.ones(1, 3)
    try:
        run.optimizer.step()
    except RuntimeError as error:
        assert torch.equal(run.p._local_tensor, before)  # type: ignore[attr-defined]
        return str(error)
    return ""


def test_a_local_gradient_of_another_shape_is_an_error(pool2: WorkerPool) -> None:
    for said in pool2.run(of_another_shape):
        assert "has the local shape (1, 3), the parameter (3, 3)" in said


def test_the_task_and_the_plan_are_kept(pool2: WorkerPool) -> None:
    assert pool2.run(kept_plan) == [(1, True, True)] * 2


def kept_plan() -> tuple[int, bool, bool]:
    run = Run().steps(2)
    plans = run.optimizer._plans
    task, (plan,) = plans._tasks[id(run.p)], plans._plans
    run.step(2)
    return len(plans._tasks), plans._tasks[id(run.p)] is task, plans._plans == [plan]
