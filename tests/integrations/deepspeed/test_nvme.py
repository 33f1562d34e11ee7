"""Check that a method's buffers are swapped to NVMe and back, with the d of a run that keeps everything in memory."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dadapt_dist.methods import METHODS
from dadapt_dist.methods.registry import class_name, tensors_of
from tests.helpers.classes import ALL
from tests.helpers.deepspeed_runs import Case, Trainer
from tests.helpers.nvme import why_no_nvme
from tests.helpers.pool import WorkerPool

STEPS = 4
PATIENCE = 100.0  # seconds; what is read from and written to is a disk
WIDTH = 760  # a rank's half of the square matrix is more than the million bytes from which DeepSpeed swaps a tensor
NVME = {"device": "nvme", "pin_memory": False}


class Wide(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Linear(5, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 3)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def train(method: str, zero: dict[str, Any]) -> tuple[list[str], list[torch.Tensor]]:
    model = Wide()
    case = Case(stage=3, method=method, sub_group=2000, zero=zero)
    with Trainer(case, model, [{"params": list(model.parameters()), "weight_decay": 0.1}]) as trainer:
        d = []
        for step in range(STEPS):
            trainer.step(step)
            d.append(trainer.base.d.hex())
        return d, trainer.weights()


@pytest.fixture
def nvme(tmp_path: Path) -> dict[str, Any]:
    if reason := why_no_nvme():
        pytest.skip(reason)
    return {"offload_optimizer": {**NVME, "nvme_path": str(tmp_path), "buffer_count": 7}}


@pytest.mark.parametrize("method", ALL)
def test_a_swapped_run_is_the_run_in_memory(method: str, nvme: dict[str, Any], pool2: WorkerPool) -> None:
    memory = {"offload_optimizer": {"device": "cpu", "pin_memory": False}}
    swapped = pool2.run(train, method, nvme, timeout=PATIENCE)
    folder = Path(nvme["offload_optimizer"]["nvme_path"])
    swapped_tensors = min(3, tensors_of(class_name(METHODS[method])) - 1)  # weights, and one or more buffers
    assert len(list(folder.rglob("*.tensor.swp"))) >= 2 * swapped_tensors  # on each rank
    for one, other in zip(swapped, pool2.run(train, method, memory, timeout=PATIENCE), strict=True):
        assert one[0] == other[0]  # as bits: a method without d has NaN
        assert all(torch.equal(a, b) for a, b in zip(one[1], other[1], strict=True))


def test_parameters_may_be_swapped_too(nvme: dict[str, Any], pool2: WorkerPool) -> None:
    path = nvme["offload_optimizer"]["nvme_path"]
    params = {"offload_param": {**NVME, "nvme_path": path, "buffer_size": 2_000_000, "buffer_count": 8}}
    swapped, in_memory = (pool2.run(train, "prodigy", zero, timeout=PATIENCE) for zero in (nvme | params, nvme))
    assert [d for d, _ in swapped] == [d for d, _ in in_memory]
