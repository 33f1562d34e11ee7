"""Check that the sums of 64 and of 512 ranks add up to the whole model, with one small all-reduce per rank.

One process visits every rank of a 2 x 32 x 8 mesh (replicate x shard x tensor parallel) under a fake process group, records
what that rank would send, and adds it up. The fake group is internal to torch: where it is missing the test is skipped and
says so.
"""

import gc
import math
from inspect import signature
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

import dadapt_dist as dd
from dadapt_dist.comm.communicator import ShardLayout

fake = pytest.importorskip("torch.testing._internal.distributed.fake_pg", reason="this torch has no fake process group")

# Replicate x shard x tensor parallel; the tests of every day take the small one.
MESHES = [(2, 8, 4), pytest.param((2, 32, 8), marks=pytest.mark.matrix)]
R, S = Replicate(), Shard
SHAPES = {
    "even": (64, 16),
    "uneven rows": (37, 9),
    "few rows": (5, 3),
    "norm": (11,),
    "replicated": (7, 5),
    "plain": (13,),
}
PLACEMENTS: dict[str, list[Any]] = {
    "even": [R, S(0), S(1)],
    "uneven rows": [R, S(0), S(0)],
    "few rows": [R, S(0), S(1)],
    "norm": [R, S(0), R],
    "replicated": [R, R, R],
}


SENT: list[Tensor] = []


class Done:
    """The work of an all-reduce that was only written down."""

    def wait(self) -> None:
        pass


def record(layout: ShardLayout, sums: Tensor) -> Done:
    """Instead of an all-reduce: the sum over all visited ranks is what a real group would return."""
    SENT.append(sums.clone())
    return Done()


def whole(name: str, step: int = -1) -> Tensor:
    generator = torch.Generator().manual_seed(len(name) * 10 + step + 1)
    return torch.randn(SHAPES[name], generator=generator, dtype=torch.float64)


# From torch 2.7 on: every rank has the whole tensor, and none is sent.
UNSENT: dict[str, Any] = {"src_data_rank": None} if "src_data_rank" in signature(distribute_tensor).parameters else {}


def visit(rank: int, shape: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """What one rank sends: its weighted element count once, and its sums of the first step."""
    dist.init_process_group("fake", rank=rank, world_size=math.prod(shape), store=fake.FakeStore())
    try:
        mesh = init_device_mesh("cpu", shape, mesh_dim_names=("replicate", "shard", "tp"))

        def place(name: str, t: Tensor) -> Tensor:
            return t if name == "plain" else distribute_tensor(t, mesh, PLACEMENTS[name], **UNSENT)

        params = [nn.Parameter(place(name, whole(name))) for name in SHAPES]
        optimizer = dd.DAdaptAdan(params, d0=1e-3)
        optimizer.amp_scaling = "external"  # no search for a scaler, once for each rank
        for name, p in zip(SHAPES, params, strict=True):
            p.grad = place(name, whole(name, 0))
            assert isinstance(p, DTensor) == (name != "plain")
        SENT.clear()
        optimizer.step()
        counted, sums = SENT
        return counted, sums
    finally:
        dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore:DTensor random operators:UserWarning")  # before torch 2.7
@pytest.mark.slow
@pytest.mark.parametrize("mesh", MESHES)
def test_every_rank_of_a_large_mesh_counts_each_element_once(
    mesh: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    # A single rank cannot see the others' counts: the check itself is made below, on the sum over all ranks.
    monkeypatch.setattr("dadapt_dist.sharding.replicas._check_total", lambda counted, expected, counts: None)
    monkeypatch.setattr(ShardLayout, "all_reduce", record)
    counted, sums = torch.zeros(1, dtype=torch.float64), torch.zeros(1, 4, dtype=torch.float64)
    gc.freeze()  # each visit looks among all objects for wrappers of its parameters
    request.addfinalizer(gc.unfreeze)
    for rank in range(math.prod(mesh)):
        of_rank = visit(rank, mesh)
        counted += of_rank[0]
        sums += of_rank[1][:4].view(1, -1)  # what follows tells whether the ranks agree

    alone = [nn.Parameter(whole(name)) for name in SHAPES]
    reference = dd.DAdaptAdan(alone, d0=1e-3)
    one = _sums_of_one_process(reference, alone)
    assert float(counted) == pytest.approx(sum(p.numel() for p in alone), rel=1e-12)
    torch.testing.assert_close(sums, one, rtol=1e-12, atol=0)


def _sums_of_one_process(optimizer: dd.LearningRateFree, params: list[nn.Parameter]) -> Tensor:
    for name, p in zip(SHAPES, params, strict=True):
        p.grad = whole(name, 0)
    seen: list[Tensor] = []
    table = optimizer.step_size._scalars
    original = table.apply
    table.apply = lambda sums, phases: (seen.append(sums.clone()), original(sums, phases))[1]  # type: ignore[method-assign]
    optimizer.step()
    return seen[0]
