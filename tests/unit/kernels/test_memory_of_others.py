"""Check that memory that changed under a step is detected when only the storage shows it."""

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from tests.helpers.backends import BACKENDS
from tests.helpers.classes import ALL


def stepped(backend: str, steps: int) -> tuple[torch.nn.Parameter, torch.optim.Optimizer]:
    torch.manual_seed(0)
    p = torch.nn.Parameter(torch.randn(64, 8))
    optimizer = ALL["prodigy"]([("a", torch.nn.Parameter(torch.ones(3))), ("w", p)], d0=1e-2, backend=backend)
    for _ in range(steps):
        backward(optimizer)
        optimizer.step()
    return p, optimizer


def backward(optimizer: torch.optim.Optimizer) -> None:
    for p in optimizer.param_groups[0]["params"]:
        p.grad = torch.randn(p.shape)


@pytest.mark.parametrize("steps", [0, 1, 4])
@pytest.mark.parametrize("bytes_left", [0, 4, 64 * 8 * 4 - 4])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_gradient_whose_storage_was_shrunk(backend: str, bytes_left: int, steps: int) -> None:
    p, optimizer = stepped(backend, steps)
    backward(optimizer)
    assert p.grad is not None
    p.grad.untyped_storage().resize_(bytes_left)
    before = [t.detach().clone() for t in optimizer.param_groups[0]["params"]]
    with pytest.raises(ValueError, match=r"parameter 'w'.*its gradient needs 2048 bytes.*freed or resized"):
        optimizer.step()
    assert all(map(torch.equal, before, optimizer.param_groups[0]["params"]))
    backward(optimizer)
    optimizer.step()


@pytest.mark.parametrize("key", ALL)
def test_a_first_gradient_without_memory_is_refused_before_anything_is_measured(key: str) -> None:
    p = torch.nn.Parameter(torch.ones(9000))
    optimizer = ALL[key]([p])
    p.grad = torch.ones(9000)
    p.grad.untyped_storage().resize_(0)
    before = {name: value.clone() for name, value in optimizer.step_size._scalars.values.items()}
    with pytest.raises(ValueError, match="its gradient needs 36000 bytes"):
        optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in optimizer.step_size._scalars.values.items())


@pytest.mark.parametrize("slice_p", [1, 3])
@pytest.mark.parametrize(
    "wrong",
    [None, 1.0, torch.ones(64, 8, dtype=torch.int64), torch.ones(64, 8).to_sparse()],
    ids=["none", "1", "int", "coo"],
)
def test_a_buffer_that_is_none_is_refused(wrong: object, slice_p: int) -> None:
    p = torch.nn.Parameter(torch.ones(64, 8))
    optimizer = ALL["prodigy"]([p], slice_p=slice_p)
    for _ in range(2):
        p.grad = torch.ones(64, 8)
        optimizer.step()
        kept, optimizer.state[p]["s"] = optimizer.state[p]["s"], wrong
        p.grad = torch.ones(64, 8)
        with pytest.raises(ValueError, match=r"parameter 0 .*its buffer s is no strided tensor"):
            optimizer.step()
        optimizer.state[p]["s"] = kept


def test_what_was_made_in_inference_mode_is_refused_whole() -> None:
    first, p = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(4))
    optimizer = ALL["prodigy"]([first, p], backend="eager")
    for _ in range(2):
        first.grad, p.grad = torch.ones(3), torch.ones(4)
        optimizer.step()
    with torch.inference_mode():
        optimizer.state[p]["s"] = torch.zeros(4)
    before = first.detach().clone()
    with pytest.raises(ValueError, match=r"parameter 1 .*its buffer s was made in torch\.inference_mode"):
        optimizer.step()
    assert torch.equal(first, before)


@pytest.mark.parametrize("part", ["_indices", "_values"])
def test_a_sparse_gradient_whose_storage_was_freed(part: str) -> None:
    w, other = torch.nn.Parameter(torch.ones(90, 70)), torch.nn.Parameter(torch.ones(3))
    optimizer = ALL["dadapt_adagrad"]([other, w])
    indices = torch.arange(90).unsqueeze(0)
    w.grad = torch.sparse_coo_tensor(indices, torch.ones(90, 70), (90, 70), check_invariants=True)
    getattr(w.grad, part)().untyped_storage().resize_(0)
    other.grad = torch.ones(3)
    with pytest.raises(ValueError, match=r"parameter 1 of group 0.*sparse gradient needs.*freed or resized"):
        optimizer.step()
    assert bool((other == 1).all())


@pytest.mark.parametrize("steps", [0, 4])
def test_a_gradient_at_an_odd_address_is_taken(steps: int) -> None:
    p, optimizer = stepped(BACKENDS[-1], steps)
    backward(optimizer)
    odd = np.zeros(p.numel() * 4 + 1, np.uint8)[1:].view(np.float32).reshape(p.shape)
    p.grad = torch.from_numpy(odd)
    optimizer.step()


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
@pytest.mark.parametrize("steps", [0, 4])
@pytest.mark.parametrize("backend", BACKENDS)
def test_memory_that_may_only_be_read_is_refused(backend: str, steps: int, tmp_path: Path) -> None:
    """Writing it ends the process."""
    if not Path("/proc/self/maps").exists():
        pytest.skip("only Linux tells")
    p, optimizer = stepped(backend, steps)
    file = tmp_path / "weights"
    p.detach().numpy().tofile(file)
    modes: tuple[Literal["r", "c"], ...] = ("r", "c")
    for mode in modes:
        p.data = torch.from_numpy(np.memmap(file, np.float32, mode, shape=tuple(p.shape)))
        backward(optimizer)
        if mode == "r":
            with pytest.raises(ValueError, match=r"parameter 'w'.*mapped read-only"):
                optimizer.step()
    optimizer.step()  # a copy of the file's pages, which may be written


def test_a_parameter_without_memory_of_its_own_is_refused_before_its_buffers_are_made() -> None:
    p = torch.nn.Parameter(torch.ones(1).expand(1 << 40))  # its buffers would be terabytes
    p.grad = torch.ones(1).expand(1 << 40)
    optimizer = ALL["prodigy"]([p])
    with pytest.raises(ValueError, match="share memory"):
        optimizer.step()
    assert not optimizer.state[p]
