"""Check that a step on a real GPU waits for nothing, is one launch, fits into a CUDA graph and gives the right numbers."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import dadapt_dist as dd
from dadapt_dist.kernels import triton_launch
from tests.helpers.classes import ALL, WITH_D, make
from tests.helpers.loss_methods import TOYS, of_toy
from tests.helpers.registered import registrations_undone

if not torch.cuda.is_available():
    pytest.skip("no CUDA device", allow_module_level=True)

from tests.helpers.triton_cases import *  # noqa: F403 - all cases of the interpreter, on the GPU

pytestmark = pytest.mark.gpu
SHAPES = [(64, 64), (64,), (5, 3), (300, 129), (1,)]


def model(seed: int = 0) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator).mul_(0.1).cuda()) for shape in SHAPES]


def gradients(params: list[nn.Parameter], step: int) -> None:
    """Set the gradients of a quadratic with noise; into the same memory in every step."""
    generator = torch.Generator(device="cuda").manual_seed(step)
    for p in params:
        g = p.detach() - 1 + 0.1 * torch.randn(p.shape, device="cuda", generator=generator)
        if p.grad is None:
            p.grad = g
        else:
            p.grad.copy_(g)


@pytest.mark.parametrize("key", ALL)
def test_a_run_follows_the_same_run_on_the_cpu_in_float64(key: str) -> None:
    ours, right = model(), [nn.Parameter(p.detach().double().cpu()) for p in model()]
    optimizer, reference = make(key, ours), make(key, right, backend="eager")
    for step in range(20):
        gradients(ours, step)
        for p, q in zip(ours, right, strict=True):
            q.grad = p.grad.double().cpu()
        optimizer.step()
        reference.step()
    assert optimizer.d == pytest.approx(reference.d, rel=1e-4, nan_ok=key not in WITH_D)
    assert key not in WITH_D or optimizer.d > 1e-3
    for p, q in zip(ours, right, strict=True):
        assert torch.allclose(
            p.detach().double().cpu(),
            q.detach(),
            rtol=1e-3,
            atol=1e-5 + (2 * optimizer.d if key == "dadapt_lion" else 0),
        )


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
@pytest.mark.parametrize("key", ALL)
@pytest.mark.parametrize("backend", ["triton", "eager"])
def test_a_step_does_not_make_the_host_wait(key: str, backend: Any) -> None:
    params = model()
    optimizer = ALL[key](params, backend=backend)
    for step in range(3):
        gradients(params, step)
        optimizer.step()
    gradients(params, 3)
    torch.cuda.synchronize()
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            optimizer.step()
    finally:
        torch.cuda.set_sync_debug_mode(before)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
@pytest.mark.parametrize("what", ["an estimate for each tensor", *(toy.name for toy in TOYS)])
def test_neither_a_loss_nor_an_estimate_for_each_tensor_makes_the_host_wait(what: str) -> None:
    params = model()
    with registrations_undone():
        per_tensor = what.startswith("an ")
        optimizer: Any = dd.Prodigy(params, estimates="per_tensor") if per_tensor else of_toy(what)(params, lr=0.01)
        for step in range(3):
            gradients(params, step)
            optimizer.step(loss=torch.ones((), device="cuda"))
        torch.cuda.synchronize()
        before = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("error")
        try:
            for loss in (torch.ones((), device="cuda"), 1.0, None):
                optimizer.step(loss=loss)
        finally:
            torch.cuda.set_sync_debug_mode(before)
        assert per_tensor or optimizer.step_size._value("default", "seen") == 1.0


def kernels_of(call: Callable[[], Any]) -> list[str]:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        call()
        torch.cuda.synchronize()
    return [event.name for event in profile.events() if event.device_type == torch.autograd.DeviceType.CUDA]


@pytest.mark.filterwarnings("ignore:.*Profiler clears events")
def test_all_tensors_are_one_launch() -> None:
    params = model()
    optimizer = dd.Prodigy(params)
    for step in range(3):
        gradients(params, step)
        optimizer.step()
    names = kernels_of(optimizer.step)
    assert sum(name == "step" for name in names) == 1, names
    assert len(names) < 80, names  # the scalars of d are a few dozen small ones, whatever the number of tensors


def test_a_step_can_be_captured_in_a_cuda_graph() -> None:
    captured, plain = model(), model()
    optimizer, reference = dd.Prodigy(captured, d0=1e-3), dd.Prodigy(plain, d0=1e-3)
    for step in range(3):
        for params, one in ((captured, optimizer), (plain, reference)):
            gradients(params, step)
            one.step()
    optimizer.step_size._finish()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizer.step()
    for step in range(3, 8):
        gradients(captured, step)
        gradients(plain, step)
        graph.replay()
        reference.step()
    assert optimizer.d == reference.d > 1e-3
    assert all(torch.equal(a, b) for a, b in zip(captured, plain, strict=True))


def test_no_temporary_is_as_large_as_a_parameter() -> None:
    p = nn.Parameter(torch.randn(1 << 26, device="cuda"))
    p.grad = torch.randn_like(p)
    for backend, share in (("triton", 0.01), ("eager", 1.6)):
        optimizer = dd.Prodigy([p], backend=backend)  # type: ignore[arg-type]
        for _ in range(2):
            optimizer.step()
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        optimizer.step()
        assert torch.cuda.max_memory_allocated() - before <= share * p.numel() * 4, backend


def test_the_same_step_gives_the_same_bits() -> None:
    found = []
    for _ in range(3):
        params = model()
        optimizer = dd.Prodigy(params)
        for step in range(5):
            gradients(params, step)
            optimizer.step()
        found.append((optimizer.d, *(p.detach().clone() for p in params)))
    assert found[0][0] == found[1][0] == found[2][0]
    assert all(torch.equal(a, b) for a, b in zip(found[0][1:], found[2][1:], strict=True))


def test_what_the_kernel_cannot_take_runs_eagerly_beside_it() -> None:
    params = [nn.Parameter(torch.ones(40, 60, device="cuda")[:, ::2]), nn.Parameter(torch.ones(50, device="cuda"))]
    optimizer = dd.Prodigy(params, backend="triton")
    for _ in range(5):
        for p in params:
            p.grad = torch.ones_like(p)
        optimizer.step()
    assert optimizer.d > 1e-6
    assert triton_launch.available()
