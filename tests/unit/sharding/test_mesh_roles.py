"""Check who counts as tensor parallel by the meshes of parameters, where real ranks are not needed to tell."""

from types import SimpleNamespace
from typing import Any

import torch
from torch.distributed.tensor import Replicate, Shard

from dadapt_dist.sharding.mesh_roles import tensor_parallel_ranks


def parameter(at: list[int] | None, *placements: Any, names: tuple[str, ...] | None = None) -> Any:
    """A distributed matrix on a mesh of 2 x 2 ranks, or of 2; at: where this rank is in it."""
    ranks = torch.arange(4).view(2, 2) if len(placements) == 2 else torch.arange(2)
    mesh = SimpleNamespace(
        ndim=ranks.ndim, size=ranks.size, mesh=ranks, mesh_dim_names=names, get_coordinate=lambda: at
    )
    return SimpleNamespace(device_mesh=mesh, placements=placements, dim=lambda: 2)


def test_the_axis_of_that_name_counts() -> None:
    p = parameter([1, 0], Replicate(), Shard(0), names=("dp", "tp"))
    assert tensor_parallel_ranks([p], [], knows_all=True) == (2, 3)


def test_a_rank_outside_of_the_mesh_has_none() -> None:
    """Such as a parameter of another stage of a pipeline: an error on that rank alone would leave the others waiting."""
    named = parameter(None, Replicate(), Shard(0), names=("dp", "tp"))
    unnamed = parameter(None, Shard(1))
    assert tensor_parallel_ranks([named, unnamed], [], knows_all=True) == ()
    inside = parameter([0], Shard(1))
    assert tensor_parallel_ranks([named, unnamed, inside], [], knows_all=True) == (0, 1)


def test_rows_alone_are_no_proof_without_a_name() -> None:
    assert tensor_parallel_ranks([parameter([0], Shard(0))], [], knows_all=True) == ()
    assert tensor_parallel_ranks([parameter([0], Shard(1))], [], knows_all=False) == ()
