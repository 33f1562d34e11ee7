"""Is memory that changed under a step seen, when nothing but the storage tells of it?"""

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from .classes import CLASSES
from .test_huge_gradients import BACKENDS


def stepped(backend: str, steps: int) -> tuple[torch.nn.Parameter, torch.optim.Optimizer]:
    torch.manual_seed(0)
    p = torch.nn.Parameter(torch.randn(64, 8))
    optimizer = CLASSES["prodigy"]([("a", torch.nn.Parameter(torch.ones(3))), ("w", p)], d0=1e-2, backend=backend)
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
    optimizer = CLASSES["prodigy"]([p])
    with pytest.raises(ValueError, match="share memory"):
        optimizer.step()
    assert not optimizer.state[p]
