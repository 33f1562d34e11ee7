"""The checkpoints that are committed: how they were made, and how a run goes on from them."""

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.fsdp import fully_shard

from .trace import METHODS

BEFORE, AFTER = 5, 5
F32, BF16, F64 = torch.float32, torch.bfloat16, torch.float64
# Name -> method, dtype of the parameters, options.
CASES: dict[str, tuple[str, torch.dtype, dict[str, Any]]] = {
    "prodigy": ("prodigy", F64, {"weight_decay": 0.05, "use_bias_correction": True}),
    "dadapt_adam": ("dadapt_adam", F64, {"weight_decay": 0.05, "decouple": True, "d0": 1e-8}),
    "dadapt_sgd": ("dadapt_sgd", F64, {"momentum": 0.9, "weight_decay": 0.05}),
    "dadapt_adagrad": ("dadapt_adagrad", F64, {"momentum": 0.5}),
    "dadapt_adan": ("dadapt_adan", F64, {"d0": 1e-7}),
    "dadapt_lion": ("dadapt_lion", F64, {"weight_decay": 0.05}),
    "prodigy_slice_p": ("prodigy", F64, {"slice_p": 3, "d0": 1e-5}),
    "prodigy_frozen": ("prodigy", F64, {"freeze_after": 3}),
    "fsdp2_dcp": ("prodigy", F64, {"d0": 1e-4}),
    "prodigy_bf16_state": ("prodigy", BF16, {"state_dtype": BF16, "statistics_dtype": BF16, "d0": 2e-4}),
}
SHARDED = "fsdp2_dcp"  # a folder: two ranks of FSDP2 wrote it
ALONE = [case for case in CASES if case != SHARDED]
EXPECTED = "expected.json"


class Net(nn.Module):
    """Small, with rows that two ranks cannot share evenly."""

    def __init__(self, dtype: torch.dtype = F64) -> None:
        super().__init__()
        self.inp, self.out = nn.Linear(3, 5), nn.Linear(5, 1)
        self.to(dtype)
        with torch.no_grad():  # no random numbers: torch may draw others one day
            for i, p in enumerate(self.parameters()):
                p.copy_(torch.linspace(-0.5, 0.5 + i / 8, p.numel(), dtype=F64).view(p.shape).roll(i))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(self.inp(x)))


def start(case: str, net: nn.Module | None = None) -> tuple[nn.Module, Any]:
    """A model and its optimizer, in two groups, before the first step."""
    method, dtype, options = CASES[case]
    model = net or Net(dtype)
    params = [*model.parameters()]
    groups = [{"params": params[:2]}, {"params": params[2:], "lr": 0.5}]
    if case == SHARDED:
        groups = [{"params": params}]
    return model, METHODS[method](groups, **{"d0": 1e-3, "backend": "eager", **options})  # type: ignore[call-arg]


def train(model: nn.Module, optimizer: Any, first: int, number: int, rank: int = 0, size: int = 1) -> list[str]:
    """Steps on this rank's part of the batch; the bits of d after each."""
    found, dtype = [], next(model.parameters()).dtype
    for step in range(first, first + number):
        x = torch.linspace(-1, 1, 24, dtype=F64).mul(17 + 5 * step).sin().view(8, 3)
        y = x.prod(1, keepdim=True) + 2
        x, y = (t.to(dtype).chunk(size)[rank] for t in (x, y))
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        optimizer.step()
        found.append(float(optimizer.d).hex())
    return found


def load(model: nn.Module, optimizer: Any, path: Path) -> None:
    """Put a committed file into the model and the optimizer."""
    saved = torch.load(path, weights_only=True)
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])


def packed(model: nn.Module, optimizer: Any) -> dict[str, Any]:
    states = get_state_dict(model, optimizer)
    return dict(zip(("model", "optimizer"), states, strict=True))


def load_sharded(model: nn.Module, optimizer: Any, folder: Path, *, alone: bool) -> None:
    """Put the committed folder into the model and the optimizer; alone: without a process group."""
    state = packed(model, optimizer)
    dcp.load(state, checkpoint_id=folder, no_dist=alone)
    set_state_dict(model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])


def sharded() -> tuple[nn.Module, Any]:
    """The case of the committed folder, under FSDP2."""
    net = Net()
    fully_shard(net.inp)
    return start(SHARDED, fully_shard(net))


def _values(model: nn.Module) -> list[float]:
    return [float(v) for p in model.parameters() for v in p.detach().double().flatten()]


def _rank(rank: int, folder: str) -> None:
    """What a rank does to write the sharded folder."""
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{folder}/../.store", rank=rank, world_size=2)
    model, optimizer = sharded()
    train(model, optimizer, 0, BEFORE, rank, 2)
    dcp.save(packed(model, optimizer), checkpoint_id=Path(folder) / SHARDED)
    dist.destroy_process_group()


def write(folder: Path) -> None:
    """Write every checkpoint, and `expected.json`: d after each of the later steps, and the parameters at the end."""
    expected: dict[str, Any] = {}
    for case in ALONE:
        model, optimizer = start(case)
        train(model, optimizer, 0, BEFORE)
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, folder / f"{case}.pt")
        expected[case] = {"d": train(model, optimizer, BEFORE, AFTER), "params": _values(model)}
    torch.multiprocessing.spawn(_rank, (str(folder),), nprocs=2)
    (folder.parent / ".store").unlink(missing_ok=True)
    model, optimizer = start(SHARDED)
    load_sharded(model, optimizer, folder / SHARDED, alone=True)
    expected[SHARDED] = {"d": train(model, optimizer, BEFORE, AFTER), "params": _values(model)}
    (folder / EXPECTED).write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    write(Path(sys.argv[1]))
