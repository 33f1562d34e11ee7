"""Lay the problem's model out over the ranks, and find the entries of the flat vector that this rank holds.

A model is made of the numbers of its entries first, so that its local parts say by themselves what they hold, whatever cut
them; nothing here knows how any framework shards.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.debug import _clear_sharding_prop_cache
from torch.nn.parallel import DistributedDataParallel

from .config import Config, Leg, owners
from .problem import Problem

CPU = torch.device("cpu")
Values = dict[str, Tensor]
_meshes: dict[Any, DeviceMesh] = {}


class Part(nn.Module):
    """Some parameters; the loss Σ parameter·coefficient has the coefficients for gradients."""

    def __init__(self, prefix: str, values: dict[str, nn.Parameter]) -> None:
        super().__init__()
        self.prefix, self.own = prefix, [name for name in values if "." not in name]
        for name in self.own:
            self.register_parameter(name, values[name])
        for part in sorted({name.split(".")[0] for name in values if "." in name}):
            inside = {n.removeprefix(f"{part}."): p for n, p in values.items() if n.startswith(f"{part}.")}
            self.add_module(part, Part(f"{part}.", inside))

    def forward(self, coefficients: Values) -> Any:
        names = [name for name in self.own if self.prefix + name in coefficients]
        terms = [(getattr(self, name) * coefficients[self.prefix + name]).sum() for name in names]
        inner = [part(coefficients) for part in self.children()]
        return sum([*terms, *(term for term in inner if isinstance(term, Tensor))])


@dataclass
class Piece:
    """A parameter on this rank: its plain local tensor, and the numbers of its entries in the flat vector."""

    name: str
    p: nn.Parameter
    ids: Tensor

    @property
    def local(self) -> Tensor:
        return local(self.p)


def local(t: Tensor) -> Tensor:
    return t.to_local().detach() if isinstance(t, DTensor) else t.detach()


class Job:
    """A model under a layout. copies: for the optimizer, or None."""

    def __init__(self, config: Config, leg: Leg, problem: Problem, step: int = 0) -> None:
        self.config, self.leg, self.problem = config, leg, problem
        numbers = torch.arange(len(problem.starts), dtype=torch.float64)
        exact = config.dtype if config.dtype != "bfloat16" else "float32"
        module, self.cut = _build(config, leg, problem, numbers, exact, step)
        ids = [_numbers(p) for _, p in clean_names(module)]
        if config.dtype != exact:
            module, self.cut = _build(config, leg, problem, numbers, config.dtype, step)
        self.module = module
        self.pieces = [Piece(name, p, i) for (name, p), i in zip(clean_names(module), ids, strict=True)]
        self.set(problem.starts)

    @property
    def by_name(self) -> dict[str, Piece]:
        return {piece.name: piece for piece in self.pieces}

    def copies(self, p: Tensor) -> int | None:
        """For tensors cut by hand."""
        return 1 if any(p is piece.p for piece in self.pieces if piece.name in self.cut) else None

    @torch.no_grad()
    def set(self, flat: Tensor) -> None:
        """Give the parameters the values of a flat vector."""
        for piece in self.pieces:  # what is padded keeps the values that the framework gave it
            piece.local.copy_(torch.where(piece.ids > 0, flat[piece.ids].to(piece.p.dtype), piece.local))

    def values(self) -> list[tuple[Tensor, Tensor]]:
        """(numbers, values) of what this rank holds."""
        return [(piece.ids.flatten(), piece.local.double().flatten().clone()) for piece in self.pieces]

    # ---------------------------------------------------------------- gradients

    def backward(self, step: int, factor: float) -> None:
        """Leave the step's gradients, times factor, in the parameters."""
        weights = {1: (1.0,), 2: (0.5, 0.5), 3: (0.5, 0.25, 0.25)}[self.config.accumulation]
        gradients = self.problem.clean if self.config.alone else self.problem.gradients
        for weight in weights:
            flat = gradients[step] * (factor * weight)
            self._real(step, flat) if self.leg.real else self._assign(step, flat)
        if self.config.alone and dist.get_rank() == dist.get_world_size() - 1:
            self._spoil(step, factor)

    @torch.no_grad()
    def _spoil(self, step: int, factor: float) -> None:
        """Let this rank's copies alone have what is bad."""
        flat = torch.where(self.problem.gradients[step] == self.problem.clean[step], 0.0, self.problem.gradients[step])
        for piece in self.pieces:
            if piece.p.grad is not None and (step, piece.name) in self.config.bad:
                values = (flat[piece.ids] * factor).to(piece.p.dtype)
                piece.p.grad.copy_(torch.where(values == 0, piece.p.grad, values))

    def _real(self, step: int, flat: Tensor) -> None:
        config, rank = self.config, dist.get_rank()
        names = [name for name in config.shapes if config.has_gradient(step, name)]
        if not names:
            return
        share = 1.0 if rank == dist.get_world_size() - 1 and rank % 2 == 0 else 0.5 + rank % 2  # of the mean
        dtype = getattr(torch, config.dtype)
        whole = {name: self.problem.whole(flat, name).to(dtype) for name in names}
        self.module({n: g if (step, n) in config.bad else g * share for n, g in whole.items()}).backward()

    @torch.no_grad()
    def _assign(self, step: int, flat: Tensor) -> None:
        for piece in self.pieces:
            if not self.config.has_gradient(step, piece.name):
                piece.p.grad = None
                continue
            gradient = self._gradient(piece, flat.to(piece.p.dtype), step)
            if piece.p.grad is None:
                piece.p.grad = gradient
            else:
                local(piece.p.grad).add_(local(gradient))

    def _gradient(self, piece: Piece, flat: Tensor, step: int) -> Tensor:
        p, kind = piece.p, self.config.placed.get(piece.name)
        values = flat[piece.ids]
        if not isinstance(p, DTensor):
            return torch.empty_like(p.detach()).copy_(values) if step % 2 else values
        mesh, placements = p.device_mesh, p.placements
        if kind is not None:
            values, placements = self.problem.whole(flat, piece.name), [Replicate()] * mesh.ndim
            if kind == "partial":
                placements[0] = Partial()
                values = values.clone() if mesh.get_coordinate()[0] == 0 else torch.zeros_like(values)
        return DTensor.from_local(values, mesh, placements, run_check=False, shape=p.shape, stride=p.stride())


def _numbers(p: Tensor) -> Tensor:
    """What a parameter that was made of the numbers of its entries holds: FSDP1 pads flat parameters, and not with zeros."""
    numbers = local(p).long()
    if hasattr(p, "_numels"):
        there = sum(p._numels) - dist.get_rank() * len(numbers)
        numbers[max(0, there) :] = 0
    return numbers


def clean_names(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    found = []
    for name, p in module.named_parameters():
        for wrapper in ("_fsdp_wrapped_module.", "module."):
            name = name.replace(wrapper, "")
        found.append((name, p))
    return found


def mesh_of(shape: tuple[int, ...], *names: str) -> DeviceMesh:
    key = shape, names
    if key not in _meshes:
        _meshes[key] = init_device_mesh("cpu", shape, mesh_dim_names=names)
    return _meshes[key]


def forget_meshes() -> None:
    _meshes.clear()
    _clear_sharding_prop_cache()  # torch keeps meshes there, of process groups that are gone


# -------------------------------------------------------------------- layouts


def _build(
    config: Config, leg: Leg, problem: Problem, numbers: Tensor, dtype: str, step: int
) -> tuple[nn.Module, frozenset[str]]:
    """The model under the layout, and the names of tensors that were cut by hand."""
    rank = dist.get_rank()
    mine = {name: i for i, name in enumerate(config.shapes) if rank in owners(config, leg, name)}
    values, cut = {}, set()
    for name, i in mine.items():
        value = problem.whole(numbers, name).to(getattr(torch, dtype)).clone()
        if name in config.transposed and value.ndim > 1:
            value = value.permute(*reversed(range(value.ndim))).contiguous().permute(*reversed(range(value.ndim)))
        placed = PLACED.get(leg.layout, lambda value, i: value)(value, i)
        if placed is not value and leg.layout == "slices":
            cut.add(name)
        values[name] = nn.Parameter(placed, requires_grad=config.frozen.get(name, 0) <= step)
    part = Part("", values)
    if leg.layout == "ddp":  # torch warns where nothing is left unused
        return DistributedDataParallel(part, find_unused_parameters=bool(config.absent)), frozenset(cut)
    return WRAPPED.get(leg.layout, lambda part: part)(part), frozenset(cut)


def _slice(value: Tensor, i: int) -> Tensor:
    if value.ndim == 0 or i % 3 == 0:
        return value
    return value.tensor_split(dist.get_world_size())[dist.get_rank()].clone()


def _placed(value: Tensor, mesh: DeviceMesh, placements: list[Any]) -> Tensor:
    fits = [Replicate() if isinstance(p, Shard) and p.dim >= value.ndim else p for p in placements]
    return distribute_tensor(value, mesh, fits, src_data_rank=None)


def _tp(value: Tensor, i: int) -> Tensor:
    return _placed(value, mesh_of((dist.get_world_size(),), "tp"), [[Shard(0)], [Shard(1)], [Replicate()]][i % 3])


def _on_tp_axis(value: Tensor, i: int) -> Tensor:
    return _placed(value, mesh_of((2, 2), "dp", "tp")["tp"], [[Shard(0)], [Shard(1)], [Replicate()]][i % 3])


def _on_mesh(value: Tensor, i: int) -> Tensor:
    mesh = mesh_of((2, 2), "dp", "tp")
    kinds: list[Callable[[], Tensor]] = [
        lambda: _placed(value, mesh, [Shard(0), Shard(1)]),
        lambda: _placed(value, mesh, [Shard(0), Shard(0)]),
        lambda: _placed(value, mesh, [Replicate(), Shard(0)]),
        lambda: _placed(value, mesh, [Shard(1), Replicate()]),
        lambda: _placed(value, mesh["dp"], [Shard(0)]),
        lambda: _placed(value, mesh["tp"], [Shard(1)]),
        lambda: value,
    ]
    return kinds[i % len(kinds)]()


def _shard(part: Part, mesh: DeviceMesh | None = None) -> nn.Module:
    for inner in part.children():
        fully_shard(inner, mesh=mesh)
    return fully_shard(part, mesh=mesh)


def _fsdp1(part: Part, *, orig: bool) -> nn.Module:
    options: dict[str, Any] = {"use_orig_params": orig, "device_id": CPU}
    for name, inner in list(part.named_children()):
        setattr(part, name, FullyShardedDataParallel(inner, **options))
    return FullyShardedDataParallel(part, **options)


PLACED: dict[str, Callable[[Tensor, int], Tensor]] = {
    "slices": _slice, "tp": _tp, "fsdp2 x tp": _on_tp_axis, "ddp x tp": _on_tp_axis, "mesh": _on_mesh,
}  # fmt: skip
WRAPPED: dict[str, Callable[[Part], nn.Module]] = {
    "fsdp2": _shard,
    "hsdp": lambda part: _shard(part, mesh_of((2, 2), "dp", "tp")),
    "fsdp1 orig": lambda part: _fsdp1(part, orig=True),
    "fsdp1 flat": lambda part: _fsdp1(part, orig=False),
    "fsdp2 x tp": lambda part: _shard(part, mesh_of((2, 2), "dp", "tp")["dp"]),
    "pipeline x fsdp2": lambda part: _shard(part, mesh_of((2, 2), "pp", "dp")["dp"]),
}
