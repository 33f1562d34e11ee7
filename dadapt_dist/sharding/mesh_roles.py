"""Find on which axis of a device mesh tensor parallelism cuts a model: ranks along it hold one replica and see one batch.

Only what is certain counts. An axis along which FSDP2 shards or replicates never is one. One that is called "tp", "tensor" or
"tensor_parallel" is. The only axis of a mesh without names, or one called "model", "mp" or "model_parallel", is one where a
matrix is cut by its columns, as row-wise linear layers are: experts and data parallelism cut rows.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

TENSOR = frozenset({"tp", "tensor", "tensor_parallel"})
PERHAPS = frozenset({"model", "mp", "model_parallel"})
Ranks = tuple[int, ...]  # of the whole world, in their order along an axis


def tensor_parallel_ranks(params: Sequence["DTensor"], fsdp_modules: Iterable[Any], *, knows_all: bool) -> Ranks:
    """The ranks with which this one is tensor parallel, itself among them; none where that is not certain.

    Args:
        params: The distributed parameters of this rank.
        fsdp_modules: Those of FSDP2.
        knows_all: Are these all that there are? Else names alone count.
    """
    try:
        data = {*_axes_of_fsdp(fsdp_modules, {id(p) for p in params})}
    except AttributeError:  # another torch keeps its meshes elsewhere
        data, knows_all = set(), False
    named: set[Ranks] = set()
    likely: set[Ranks] = set()
    for p in params:
        mesh = p.device_mesh
        for axis in (axis for axis in range(mesh.ndim) if mesh.size(axis) > 1):
            name = mesh.mesh_dim_names[axis] if mesh.mesh_dim_names else None
            if name in TENSOR:
                named.add(_along(mesh, axis))
            elif knows_all and (name in PERHAPS or (name is None and mesh.ndim == 1)) and _cuts_columns(p, axis):
                likely.add(_along(mesh, axis))
    data.add(())
    found = (named - data) or (likely - data)
    return found.pop() if len(found) == 1 else ()


def _axes_of_fsdp(modules: Iterable[Any], wanted: set[int]) -> Iterator[Ranks]:
    """The ranks along each axis over which FSDP2 shards or replicates one of these parameters. AttributeError: not known."""
    for module in modules:
        state = module._get_fsdp_state()
        groups = state._fsdp_param_groups if hasattr(state, "_fsdp_param_groups") else [state._fsdp_param_group]
        for group in (group for group in groups if group is not None):
            if any(id(one.sharded_param) in wanted for one in group.fsdp_params):
                info = group.mesh_info
                axes = (info.shard_mesh_dim, info.replicate_mesh_dim)
                yield from (_along(info.mesh, axis) for axis in axes if axis is not None)


def _along(mesh: Any, axis: int) -> Ranks:
    """The ranks of a line through this one; none where this one is not in the mesh, as in another stage of a pipeline."""
    at = mesh.get_coordinate()
    if at is None:
        return ()
    return tuple(mesh.mesh[tuple(slice(None) if i == axis else at[i] for i in range(mesh.ndim))].tolist())


def _cuts_columns(p: "DTensor", axis: int) -> bool:
    placement = p.placements[axis]
    return p.dim() == 2 and placement.is_shard() and getattr(placement, "dim", 0) == 1
