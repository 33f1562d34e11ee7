"""Checkpoints of an earlier commit load, and lead where they led then.

`python -m tests.replay checkpoints` wrote the files of `tests/recorded/`; a later format must go on to read them, so they are
not written anew when the package changes.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from tests.replay import recorded

FOLDER = Path(recorded.__file__).parent.parent / "recorded"
EXPECTED: dict[str, Any] = json.loads((FOLDER / recorded.EXPECTED).read_text())
# Bits depend on the CPU: how wide its vectors are orders the sums. A bfloat16 that is rounded the other way moves d more.
EXACT, BFLOAT16 = 1e-12, 2e-2


def check(case: str, ds: list[str], model: nn.Module, tolerance: float) -> None:
    was = EXPECTED[case]
    assert [float.fromhex(d) for d in ds] == pytest.approx([float.fromhex(d) for d in was["d"]], rel=tolerance, abs=0)
    found = torch.cat([full(p).double().flatten() for p in model.parameters()])
    old = torch.tensor(was["params"], dtype=torch.float64)
    assert (found - old).abs().max() <= tolerance * old.abs().max()


def full(p: Any) -> torch.Tensor:
    return (p.full_tensor() if hasattr(p, "full_tensor") else p).detach()


@pytest.mark.parametrize("case", recorded.ALONE)
def test_a_checkpoint_of_an_earlier_commit_goes_on_as_it_did_then(case: str) -> None:
    model, optimizer = recorded.start(case)
    recorded.load(model, optimizer, FOLDER / f"{case}.pt")
    ds = recorded.train(model, optimizer, recorded.BEFORE, recorded.AFTER)
    check(case, ds, model, BFLOAT16 if "bf16" in case else EXACT)


@pytest.mark.parametrize("case", recorded.CASES)
def test_what_was_recorded_moves(case: str) -> None:
    """Values that stayed at their start would agree with anything."""
    ds = [float.fromhex(d) for d in EXPECTED[case]["d"]]
    assert ds[0] > recorded.CASES[case][2].get("d0", 1e-3)
    assert ds[-1] > 1.01 * ds[0] or "frozen" in case


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_a_sharded_folder_of_an_earlier_commit_loads_into_one_process() -> None:
    model, optimizer = recorded.start(recorded.SHARDED)
    recorded.load_sharded(model, optimizer, FOLDER / recorded.SHARDED, alone=True)
    ds = recorded.train(model, optimizer, recorded.BEFORE, recorded.AFTER)
    check(recorded.SHARDED, ds, model, EXACT)


def on_ranks() -> None:
    model, optimizer = recorded.sharded()
    recorded.load_sharded(model, optimizer, FOLDER / recorded.SHARDED, alone=False)
    ds = recorded.train(model, optimizer, recorded.BEFORE, recorded.AFTER, dist.get_rank(), dist.get_world_size())
    check(recorded.SHARDED, ds, model, EXACT)


@pytest.mark.parametrize("ranks", [2, 4])
def test_a_sharded_folder_of_an_earlier_commit_loads_onto_ranks(ranks: int, pools: Any) -> None:
    """It was written by two."""
    pools(ranks).run(on_ranks)
