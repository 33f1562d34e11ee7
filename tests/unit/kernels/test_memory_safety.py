"""Check that a step refuses, before anything moves, tensors whose memory does not match their buffers."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing._internal.two_tensor import TwoTensor

import dadapt_dist as dd
from dadapt_dist.kernels import cpu_c
from dadapt_dist.methods import METHODS
from tests.helpers.classes import ALL
from tests.helpers.method_suite import d_of
from tests.long import sanitized

BACKENDS = ["eager", *(["c"] if cpu_c.available() else [])]
State = dict[str, Tensor]


def made(key: str, backend: str, steps: int = 2) -> tuple[list[nn.Parameter], dd.LearningRateFree]:
    """Two named parameters after some steps; the first is the one that is tampered with."""
    params = [nn.Parameter(torch.randn(6, 4)), nn.Parameter(torch.randn(5))]
    optimizer = ALL[key]([("w", params[0]), ("b", params[1])], backend=backend)
    for _ in range(steps):
        step(params, optimizer)
    return params, optimizer


def step(params: list[nn.Parameter], optimizer: dd.LearningRateFree) -> None:
    for p in params:
        p.grad = torch.full_like(p, 0.1)
    optimizer.step()


def grown(p: Tensor) -> None:
    p.data = torch.randn(8, 4)


def shrunk(p: Tensor) -> None:
    p.data = p.data[:3]  # in the same place


def turned(p: Tensor) -> None:
    p.data = p.data.t()


def expanded(p: Tensor) -> None:
    p.data = p.data[:1].expand(6, 4)


def signed(p: Tensor) -> None:
    p.data = torch._neg_view(p.data)


def freed(p: Tensor) -> None:
    p.untyped_storage().resize_(0)


def halved(p: Tensor) -> None:
    p.untyped_storage().resize_(48)


def freed_and_halved(p: Tensor) -> None:
    """The allocator likes to give the same address again."""
    freed(p)
    halved(p)


def resized(t: Tensor) -> None:
    t.resize_(2, 4)


OF_PARAMETERS = [grown, shrunk, turned, expanded, signed, freed, halved, freed_and_halved]
OF_BUFFERS = [shrunk, grown, resized, turned, expanded, signed, freed, halved, freed_and_halved]


def refused(params: list[nn.Parameter], optimizer: dd.LearningRateFree, name: str = "'w'") -> str:
    """The step raises, names the parameter, and has moved nothing."""
    before = params[1].detach().clone()
    with pytest.raises((ValueError, TypeError), match=name) as caught:
        step(params, optimizer)
    assert torch.equal(params[1].detach(), before)
    return str(caught.value)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("key", ALL)
def test_a_parameter_that_changed_between_steps_is_refused(key: str, backend: str) -> None:
    for change in OF_PARAMETERS:
        params, optimizer = made(key, backend)
        change(params[0])
        refused(params, optimizer)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("key", ALL)
def test_a_buffer_that_changed_between_steps_is_refused(key: str, backend: str) -> None:
    params, optimizer = made(key, backend)
    for index in range(len(optimizer.state[params[0]])):
        for change in OF_BUFFERS:
            params, optimizer = made(key, backend)
            change([*optimizer.state[params[0]].values()][index])
            refused(params, optimizer)
        params, optimizer = made(key, backend)
        state = optimizer.state[params[0]]
        state[[*state][index]] = torch.zeros(3, 4)
        said = refused(params, optimizer)
        assert "(3, 4)" in said
        assert "(6, 4)" in said
        assert "optimizer.state.pop(p)" in said


@pytest.mark.parametrize("change", [expanded, signed, freed, halved, freed_and_halved])
def test_a_parameter_without_memory_of_its_own_is_refused_at_the_first_step(change: Callable[[Tensor], None]) -> None:
    params, optimizer = made("prodigy", "auto", 0)
    change(params[0])
    refused(params, optimizer)


def test_the_cure_cures() -> None:
    params, optimizer = made("prodigy", "auto")
    params[0].data = torch.randn(9, 4)
    refused(params, optimizer)
    optimizer.state.pop(params[0])
    step(params, optimizer)
    assert optimizer.state[params[0]]["s"].shape == (9, 4)


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("backend", BACKENDS)
def test_parameters_and_buffers_that_share_memory_are_refused(backend: str, steps: int) -> None:
    params, optimizer = made("prodigy", backend, steps)
    params[1].data = params[0].data.view(-1)[:5]
    assert "shares memory" in refused(params, optimizer, "'w'|'b'")
    params, optimizer = made("prodigy", backend)
    optimizer.state[params[0]]["s"] = params[0].data
    assert "shares memory" in refused(params, optimizer)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("steps", [0, 2])
def test_a_gradient_of_another_shape_does_not_broadcast(backend: str, steps: int) -> None:
    for shape in ((1,), (6, 1), (24,), (7, 4)):
        params, optimizer = made("prodigy", backend, steps)
        before = params[1].detach().clone()
        for p in params:
            p.grad = torch.ones_like(p)
        params[0].grad.data = torch.ones(shape)  # type: ignore[union-attr]
        with pytest.raises((ValueError, RuntimeError), match=r"\(6, 4\)"):
            optimizer.step()
        assert torch.equal(params[1].detach(), before)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("key", ALL)
def test_a_gradient_with_its_sign_reversed_is_that_gradient(key: str, backend: str) -> None:
    (params, optimizer), (others, other) = (made(key, backend, 0) for _ in range(2))
    for p, q in zip(params, others, strict=True):
        q.data.copy_(p.data)
    for k in range(3):
        for p, q in zip(params, others, strict=True):
            q.grad = torch.randn(q.shape, generator=torch.Generator().manual_seed(k))
            p.grad = torch._neg_view(-q.grad)
        optimizer.step()
        other.step()
    assert all(torch.equal(p, q) for p, q in zip(params, others, strict=True))
    assert optimizer.d == d_of(other)


def test_a_subclass_is_stepped_right_or_refused_by_name() -> None:
    class Own(nn.Parameter):
        pass

    plain = torch.randn(3, 2)
    results, said = [], ""
    for p in (nn.Parameter(plain.clone()), Own(plain.clone()), nn.Parameter(TwoTensor(plain.clone(), plain.clone()))):
        optimizer = dd.Prodigy([("w", p)])
        try:
            for _ in range(3):
                p.grad = torch.ones_like(p)
                optimizer.step()
        except TypeError as error:
            said = str(error)
        else:
            results.append(p.detach())
    assert len(results) == 3 or ("'w'" in said and "TwoTensor" in said)
    for result in results:
        assert torch.equal(result.a if isinstance(result, TwoTensor) else result, results[0])


def test_fake_and_meta_tensors_are_refused() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        fake = nn.Parameter(torch.randn(3))
    for p in (fake, nn.Parameter(torch.randn(3, device="meta"))):
        optimizer = dd.Prodigy([("w", p)])
        p.grad = torch.ones_like(p)
        with pytest.raises(TypeError, match="'w'"):
            optimizer.step()


@pytest.mark.parametrize(
    ("indices", "values"), [([[0, 9]], (2, 2)), ([[0, -1]], (2, 2)), ([[0, 2]], (2, 1)), ([[0, 2]], (3, 2))]
)
def test_a_sparse_gradient_with_rows_that_are_not_there_is_refused(indices: Any, values: tuple[int, ...]) -> None:
    w = nn.Parameter(torch.ones(4, 2))
    optimizer = dd.DAdaptAdaGrad([("w", w)])
    w.grad = torch.ones(4, 2).to_sparse(1)
    optimizer.step()
    try:
        w.grad = torch.sparse_coo_tensor(torch.tensor(indices), torch.ones(values), (4, 2), check_invariants=False)
    except RuntimeError:
        return  # torch itself refuses
    before = w.detach().clone()
    with pytest.raises(ValueError, match="'w'"):
        optimizer.step()
    assert torch.equal(w.detach(), before)


def test_sizes_of_nothing_and_of_one() -> None:
    params = [nn.Parameter(torch.empty(0)), nn.Parameter(torch.empty(3, 0)), nn.Parameter(torch.ones(()))]
    optimizer = dd.Prodigy(params)
    for _ in range(3):
        for p in params:
            p.grad = torch.ones_like(p)
        optimizer.step()
    assert optimizer.d > 1e-6


@pytest.mark.skipif(not cpu_c.available(), reason="no C compiler")
@pytest.mark.parametrize("field", [(0, -1), (0, 1 << 60), (1, 0), (3, 2), (3, 0), (15, 0xFFFFFFFF), (18, 5)])
def test_step_c_refuses_rows_that_cannot_be(field: tuple[int, int]) -> None:
    from tests.helpers.kernel_cases import coefficients_of, options_of, task_of

    method, task = METHODS["dadapt_adam"](), task_of("dadapt_adam", 10)
    assert cpu_c.supports(method, task)
    before = task.x.clone()
    [rows] = cpu_c.derive(method, [task])
    rows.numbers[field[0]] = field[1]
    with pytest.raises(ValueError, match="refused"):
        cpu_c.run(method, [task], coefficients_of(method, options_of("dadapt_adam")), False, None, [rows])
    assert torch.equal(task.x, before)


@pytest.mark.slow
@pytest.mark.skipif(sanitized.VARIABLE in sanitized.os.environ, reason="this is a sanitizer's run")
def test_the_address_sanitizer_sees_a_row_that_claims_an_element_too_many() -> None:
    try:
        assert sanitized.sees("address") == ""
    except LookupError as error:
        pytest.skip(str(error))
