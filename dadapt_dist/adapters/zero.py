"""Where do the elements of DeepSpeed's parameters live, and in which calls does a ZeRO step arrive?

ZeRO flattens the parameters of a group, or sub-group, into one float32 tensor and keeps one partition of it on each
rank. The optimizer is given the partitions. Padding belongs to no parameter here, so that it is neither read nor written:
in ZeRO-3 it is uninitialised memory.
"""

import weakref
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from .base import Delivery, Groups, NamedTensors, Placement
from .deepspeed import Share, engines, model_parallel, shares, wrapper_of


def place(params: Sequence[Tensor]) -> list[list[Placement] | None]:
    """The parts of every tensor that a live DeepSpeed engine has given to its optimizer; ValueError for one it changed."""
    wanted = {id(p) for p in params}
    found: dict[int, list[Placement]] = {}
    for engine in engines():
        if engine.optimizer is None:  # still being built
            continue
        names = {id(p): name for name, p in engine.module.named_parameters()}
        for share in shares(engine):
            if id(share.tensor) in wanted:
                found.setdefault(id(share.tensor), []).append(_placement(engine, share, names))
    return [found.get(id(p)) for p in params]


def _placement(engine: Any, share: Share, names: dict[int, str]) -> Placement:
    from deepspeed import comm

    p = share.param
    pieces, index = model_parallel(engine, p)
    numel = getattr(p, "ds_numel", p.numel()) * pieces
    name = names.get(id(p))
    cut = share.ranks is not None
    return Placement(
        signature=f"zero{numel}",
        shards=pieces * (comm.get_world_size(share.ranks) if cut else 1),
        piece=f"{index}/{pieces}" + (f" {comm.get_rank(share.ranks)}" if cut else ""),
        numel=numel,
        start=None if cut else 0,
        name=name,
        run=slice(share.start, share.start + share.length) if cut else None,
    )


def deliver(optimizer: Optimizer) -> Delivery | None:
    """How DeepSpeed brings a step to this optimizer, if it has it."""
    engine = next((engine for engine in engines() if engine.basic_optimizer is optimizer), None)
    return None if engine is None else ZeroDelivery(engine)


class ZeroDelivery(Delivery):
    """ZeRO-1 and 2 call step() once for each group, ZeRO-3 once for each sub-group, the others once."""

    def __init__(self, engine: Any) -> None:
        self._engine = weakref.ref(engine)

    @property
    def in_pieces(self) -> bool:  # type: ignore[override]
        kind, _ = wrapper_of(self._engine())
        return kind in ("DeepSpeedZeroOptimizer", "DeepSpeedZeroOptimizer_Stage3")

    def starting(self) -> bool:
        engine = self._engine()
        return engine is not None and engine.optimizer is None

    def tensors(self, groups: Groups) -> list[NamedTensors]:
        kind, wrapper = wrapper_of(self._engine())
        if kind != "DeepSpeedZeroOptimizer_Stage3":
            return super().tensors(groups) if kind is None else [[(None, p) for p in g["params"]] for g in groups]
        named: list[NamedTensors] = [[] for _ in groups]
        for index, flat in enumerate(wrapper.fp32_partitioned_groups_flat):
            named[wrapper.sub_group_to_group_id[index]].append((None, flat))
        return named

    def refuse_deferral(self) -> str | None:
        kind, wrapper = wrapper_of(self._engine())
        if kind != "DeepSpeedZeroOptimizer_Stage3":
            return None
        swapped = wrapper.swap_optimizer or any(flat is None for flat in wrapper.fp16_partitioned_groups_flat)
        return "with NVMe offload the pieces of a step are not in memory together" if swapped else None

    def publish(self) -> None:
        kind, wrapper = wrapper_of(self._engine())
        if kind == "DeepSpeedZeroOptimizer_Stage3":
            for low, flat in zip(
                wrapper.fp16_partitioned_groups_flat, wrapper.fp32_partitioned_groups_flat, strict=True
            ):
                low.data.copy_(flat.data)
        elif kind == "DeepSpeedZeroOptimizer":
            for link in (p._hp_mapping for params in wrapper.bit16_groups for p in params):
                if link is not None:
                    link.update_lp()
