"""Places DeepSpeed's parameters, and describes in which calls a ZeRO step comes.

ZeRO flattens the parameters of a group, or sub-group, into one float32 tensor and keeps one partition of it on each
rank. The optimizer is given the partitions. Padding belongs to no parameter here, so that it is neither read nor written:
in ZeRO-3 it is uninitialised memory.
"""

import sys
import weakref
from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from ...sharding.framework import FrameworkAdapter, Groups, NamedTensors
from ...sharding.live_objects import attached, warn_if_hidden
from ...sharding.shard import LocalShard
from . import registration, universal_restore
from .bit16_copies import check_masters, masters_to_model
from .internals import (
    Share,
    changed,
    engines,
    is_in_use,
    is_marked,
    is_supported,
    model_parallel,
    names,
    shares,
    tensor_parallel_ranks,
    tied,
    wrapper_of,
)
from .unsupported import refuse, warn


def _placement(engine: Any, share: Share, name: str | None, shared: bool) -> LocalShard:
    """shared: several pipeline stages have it, each cut elsewhere; else the ranks with one list of parameters cut alike."""
    from deepspeed import comm

    part, cut, end = model_parallel(engine, share.param), share.ranks is not None, share.first + share.length
    piece = f"{part.index}/{part.pieces}"
    if cut:
        piece += f" {share.first}:{end}" if shared else f" {comm.get_rank(share.ranks)}"
    return LocalShard(
        tensor_key=f"zero{part.numel}",
        num_shards=part.pieces * (comm.get_world_size(share.ranks) if cut else 1),
        shard_id=piece,
        global_numel=part.numel,
        global_offset=None if cut or part.pieces > 1 else 0,
        fqn=name,
        flat_slice=slice(share.start, share.start + share.length) if cut else None,
    )


class DeepSpeedAdapter(FrameworkAdapter):
    """The DeepSpeed of this process, if it is imported."""

    name = "deepspeed"
    module = "deepspeed.runtime.zero.utils"

    def place(self, params: Sequence[Tensor]) -> list[list[LocalShard] | None]:
        """The parts of every tensor that a live DeepSpeed engine has given to its optimizer; ValueError for one it changed."""
        wanted = {id(p) for p in params}
        found: dict[int, list[LocalShard]] = {}
        for engine in engines():
            if engine.optimizer is None or not is_supported(engine):  # still being built, or another optimizer's
                continue
            known, shared = names(engine), tied(engine) or set()
            its: dict[int, list[LocalShard]] = {}
            for share in shares(engine, wanted):
                if id(share.tensor) in wanted:
                    placement = _placement(engine, share, known.get(id(share.param)), id(share.param) in shared)
                    its.setdefault(id(share.tensor), []).append(placement)
            found = its | found  # two engines may train one model: a tensor counts once
            for p in (p for group in engine.basic_optimizer.param_groups for p in group["params"]):
                if id(p) in wanted and id(p) not in found:
                    raise changed(
                        f"it is not known which parameters the optimizer's tensor of shape {tuple(p.shape)} holds"
                    )
            if len(found) == len(wanted):
                break
        return [found.get(id(p)) for p in params]

    def tensor_parallel_ranks(self, params: Sequence[Tensor]) -> Sequence[int]:
        """As the base class, from the engine's groups, where a parameter has the mark of tensor parallelism."""
        wanted = {id(p) for p in params}
        for engine in engines():
            if engine.optimizer is not None and is_supported(engine):
                own = (share.param for share in shares(engine, wanted) if id(share.tensor) in wanted)
                if any(map(is_marked, own)):
                    return tensor_parallel_ranks(engine)
        return ()

    def bind(self, optimizer: Optimizer) -> "ZeroAdapter | None":
        """As the base class; raises ValueError for what DeepSpeed is set to do that cannot work."""
        engine = next((engine for engine in engines() if engine.basic_optimizer is optimizer), None)
        if engine is None:
            if is_in_use() and not _is_of_an_attached_model(optimizer):
                warn_if_hidden("engine")
            return None
        refuse(engine)
        if engine.optimizer is not None:
            warn(engine)
        return ZeroAdapter(engine)

    def on_construction(self, cls: type[Optimizer]) -> None:
        """Put the class on DeepSpeed's list of those tested under ZeRO."""
        registration.accept(cls)

    def parts_of(self, thing: Any) -> Iterator[Any]:
        """An engine: itself."""
        module = sys.modules.get("deepspeed.runtime.engine")
        if module is not None and isinstance(thing, module.DeepSpeedEngine):
            yield thing


def _is_of_an_attached_model(optimizer: Optimizer) -> bool:
    """Whether a model that the user attached, which is no engine, holds parameters of this optimizer."""
    wanted = {id(p) for group in optimizer.param_groups for p in group["params"]}
    return any(id(p) in wanted for model in attached(nn.Module) for p in model.parameters())


class ZeroAdapter(DeepSpeedAdapter):
    """One engine's optimizer. ZeRO-1 and 2 call step() once for each group, ZeRO-3 once for each sub-group, others once."""

    nonfinite_advice = (
        'Use nonfinite="hold"; DeepSpeed itself skips fp16 overflows, and bf16 ones with '
        '{"bf16": {"check_grad_overflow": true}}.'
    )
    rebuild_advice = "Give DeepSpeed a new optimizer, and load a checkpoint with engine.load_checkpoint."

    def __init__(self, engine: Any) -> None:
        self._engine = weakref.ref(engine)

    def is_over(self) -> bool:
        return self._engine() is None

    @property
    def replaces_parameters(self) -> bool:  # type: ignore[override]
        return self.is_initialising() or wrapper_of(self._engine())[0] is not None

    @property
    def in_pieces(self) -> bool:  # type: ignore[override]
        if self.is_initialising():
            return True
        kind, _ = wrapper_of(self._engine())
        return kind in ("DeepSpeedZeroOptimizer", "DeepSpeedZeroOptimizer_Stage3")

    def is_initialising(self) -> bool:
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

    def check_masters(self) -> None:
        if self.is_initialising():
            raise ValueError(
                "DeepSpeed is still setting up: call optimizer.eval() after deepspeed.initialize has returned."
            )
        check_masters(self._engine())

    def masters_to_model(self) -> None:
        masters_to_model(self._engine())

    def was_loaded(self, groups: Groups) -> bool:
        return any(map(dict.__contains__, groups, repeat(universal_restore.MARK)))

    def after_external_load(self, optimizer: Any) -> None:
        universal_restore.accept(optimizer)
