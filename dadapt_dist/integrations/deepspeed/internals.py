"""Private fields of DeepSpeed that are read, checked with its version, and what its engines say about a parameter.

DeepSpeed has no public way to ask which parameters its flat tensors hold. Every private attribute that is read stands in
FIELDS; one that is gone raises an error that names it and the version.
"""

import math
import sys
from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...sharding.live_objects import living

TESTED = ("0.14.4", "0.19.8")
FIELDS: dict[str, tuple[str, ...]] = {
    "DeepSpeedEngine": ("basic_optimizer", "optimizer", "module", "mpu"),
    "DeepSpeedZeroOptimizer_Stage3": (
        "fp16_groups",
        "fp16_partitioned_groups_flat",
        "fp32_partitioned_groups_flat",
        "sub_group_to_group_id",
        "dp_process_group",
        "swap_optimizer",
    ),
    "DeepSpeedZeroOptimizer": (
        "bit16_groups",
        "single_partition_of_fp32_groups",
        "real_dp_process_group",
        "parallel_partitioned_bit16_groups",
        "round_robin_bit16_groups",
    ),
    "BF16_Optimizer": ("bf16_groups", "fp32_groups_flat_partition", "real_dp_process_group"),
    "FP16_UnfusedOptimizer": ("fp16_groups", "fp32_groups"),
    "Stage 3 parameter": ("ds_numel", "ds_tensor"),
    "Stage 1 or 2 parameter": ("_hp_mapping",),
    "tensor_fragment": ("hp_fragment_address", "lp_fragment_address", "update_lp"),
    "PipelineModule": ("get_tied_weights_and_groups", "stage_id"),
    "expert parameter": ("group_name",),
}
WRAPPERS = {
    "DeepSpeedZeroOptimizer_Stage3": "DeepSpeedZeroOptimizer_Stage3",
    "MiCS_Optimizer": "DeepSpeedZeroOptimizer_Stage3",
    "DeepSpeedZeroOptimizer": "DeepSpeedZeroOptimizer",
    "BF16_Optimizer": "BF16_Optimizer",
    "FP16_UnfusedOptimizer": "FP16_UnfusedOptimizer",
}
"""Class of what is around the optimizer -> the class whose FIELDS it has. Subclasses do not count: some leave it out."""


def version() -> str:
    """DeepSpeed's version."""
    return str(getattr(sys.modules.get("deepspeed"), "__version__", "unknown"))


def check_fields(thing: Any, kind: str) -> None:
    """Raise ValueError for an attribute that this DeepSpeed no longer has."""
    gone = [name for name in FIELDS[kind] if not hasattr(thing, name)]
    if gone:
        raise changed(f"{kind} has no attribute {', '.join(gone)}, from which the place of each parameter is read")


def changed(what: str) -> ValueError:
    """The error for a DeepSpeed that is not as expected."""
    return ValueError(
        f"DeepSpeed {version()} has changed: {what}. Tested with DeepSpeed {TESTED[0]} to {TESTED[1]}: install one of these."
    )


def is_in_use() -> bool:
    """Whether DeepSpeed is imported and initialised: another package may have imported it, and not use it."""
    module = sys.modules.get("deepspeed.runtime.engine")
    if module is None:
        return False
    if not hasattr(module, "DeepSpeedEngine"):
        raise changed("deepspeed.runtime.engine has no DeepSpeedEngine")
    return bool(sys.modules["deepspeed.comm"].is_initialized())


def engines() -> Iterator[Any]:
    """The live engines, but those whose construction has not come to the optimizer. DeepSpeed keeps no list of them."""
    if not is_in_use():
        return
    for engine in living(sys.modules["deepspeed.runtime.engine"].DeepSpeedEngine):
        if any(vars(engine).get(name) for name in ("basic_optimizer", "optimizer")):
            check_fields(engine, "DeepSpeedEngine")
            if engine.basic_optimizer:
                yield engine


def is_supported(engine: Any) -> bool:
    """Return whether it is known where the parameters of a finished engine are."""
    return engine.optimizer is engine.basic_optimizer or type(engine.optimizer).__name__ in WRAPPERS


def wrapper_of(engine: Any) -> tuple[str | None, Any]:
    """(class, object) of what DeepSpeed has put around the optimizer; (None, the optimizer) where it has put nothing."""
    wrapper = engine.optimizer
    if wrapper is engine.basic_optimizer:
        return None, wrapper
    if not is_supported(engine):
        raise ValueError(
            f"{type(wrapper).__name__} of DeepSpeed {version()} is not supported: it does not say which parameters it has put "
            "where. Use ZeRO stage 0, 1, 2 or 3, with offload to the CPU or NVMe if memory is short."
        )
    kind = WRAPPERS[type(wrapper).__name__]
    check_fields(wrapper, kind)
    return kind, wrapper


@dataclass(frozen=True)
class Share:
    """The elements start to start + length of a tensor of the optimizer belong to a parameter of the model.

    first: which element of the parameter, on this model-parallel rank, is the first of them. ranks: the process group over
    which the parameter is cut; None: it is whole.
    """

    tensor: Tensor
    group: int
    param: Tensor
    start: int
    length: int
    first: int = 0
    ranks: Any = None


def shares(engine: Any, wanted: Container[int] | None = None) -> Iterator[Share]:
    """Which parameters of the model make up each tensor of the optimizer, in order; also those with no element here.

    wanted: ids of the tensors that are asked for; None: all.
    """
    kind, wrapper = wrapper_of(engine)
    if kind is None:
        yield from _whole([(p, p) for p in group["params"]] for group in engine.basic_optimizer.param_groups)
    elif kind == "FP16_UnfusedOptimizer":
        yield from _whole(
            zip(*pair, strict=True) for pair in zip(wrapper.fp32_groups, wrapper.fp16_groups, strict=True)
        )
    elif kind == "DeepSpeedZeroOptimizer_Stage3":
        for index, flat in enumerate(wrapper.fp32_partitioned_groups_flat):
            if wanted is None or id(flat) in wanted:
                yield from _stage3(wrapper, index, flat)
    else:
        groups, flats, ranks = (getattr(wrapper, name) for name in FIELDS[kind][:3])
        for index, (flat, params) in enumerate(zip(flats, groups, strict=True)):
            if wanted is not None and id(flat) not in wanted:
                continue
            if getattr(wrapper, "round_robin_gradients", False):
                yield from _dealt(wrapper, flat, index, ranks[index])
            else:
                yield from _linked(flat, index, params, ranks[index])


def _whole(groups: Any) -> Iterator[Share]:
    for index, pairs in enumerate(groups):
        for tensor, p in pairs:
            yield Share(tensor, index, p, 0, tensor.numel())


def _linked(flat: Tensor, group: int, params: list[Tensor], ranks: Any) -> Iterator[Share]:
    """ZeRO-1 and 2: DeepSpeed links each parameter to its part of the flat tensor, None where it has none on this rank."""
    for p in params:
        check_fields(p, "Stage 1 or 2 parameter")
        link: Any = p._hp_mapping  # type: ignore[attr-defined]
        if link is None:
            yield Share(flat, group, p, 0, 0, ranks=ranks)
            continue
        check_fields(link, "tensor_fragment")
        part = link.hp_fragment_address
        yield Share(flat, group, p, part.start, part.numel, link.lp_fragment_address.start, ranks)


def _dealt(wrapper: Any, flat: Tensor, group: int, ranks: Any) -> Iterator[Share]:
    """ZeRO-1 and 2 with round_robin_gradients: parameters follow each other in another order, which the links ignore."""
    from deepspeed import comm

    begin, offset = comm.get_rank(ranks) * flat.numel(), 0
    known = getattr(wrapper, "round_robin_bit16_offsets", None)  # with parameter_alignment, in newer releases
    for index, p in enumerate(wrapper.round_robin_bit16_groups[group]):
        offset = offset if known is None else known[group][index]
        low, high = max(offset, begin), min(offset + p.numel(), begin + flat.numel())
        if low < high:
            yield Share(flat, group, p, low - begin, high - low, low - offset, ranks)
        else:
            yield Share(flat, group, p, 0, 0, ranks=ranks)
        offset += p.numel()


def _stage3(wrapper: Any, index: int, flat: Tensor) -> Iterator[Share]:
    """ZeRO-3: each parameter is cut by itself into equal pieces, the last of them padded with whatever was in memory.

    MiCS cuts over fewer ranks than the parameters say.
    """
    from deepspeed import comm

    start, group, mics = 0, wrapper.sub_group_to_group_id[index], type(wrapper).__name__ == "MiCS_Optimizer"
    for p in wrapper.fp16_groups[index]:
        check_fields(p, "Stage 3 parameter")
        ranks = wrapper.dp_process_group if mics else getattr(p, "ds_process_group", wrapper.dp_process_group)
        size: int = p.ds_tensor.ds_numel
        if size != -(-p.ds_numel // comm.get_world_size(ranks)):
            raise changed(f"{p.ds_numel} elements on {comm.get_world_size(ranks)} ranks are {size} on each")
        first: int = comm.get_rank(ranks) * size
        length = min(max(p.ds_numel - first, 0), size)
        yield Share(flat, group, p, start, length, first, ranks)
        start += size


def tied(engine: Any) -> set[int] | None:
    """ids of the parameters of which several pipeline stages keep equal copies; None where there is no pipeline."""
    if all(cls.__name__ != "PipelineModule" for cls in type(engine.module).__mro__):
        return None
    check_fields(engine.module, "PipelineModule")
    return {id(p) for p, _ in engine.module.get_tied_weights_and_groups()}


def names(engine: Any) -> dict[int, str]:
    """id of each parameter -> its name, which two pipeline stages share only for one and the same parameter.

    A module of a TiedLayerSpec stands under one name on several stages, but only the attributes that it names are kept
    equal: each stage has its own of the others.
    """
    named, shared = {id(p): name for name, p in engine.module.named_parameters()}, tied(engine)
    for key, name in named.items():
        if shared is not None and name.startswith("tied_modules.") and key not in shared:
            named[key] = f"{name} of stage {engine.module.stage_id}"
    return named


@dataclass(frozen=True)
class Slice:
    """What one model-parallel rank has of a parameter: piece `index` of `pieces`, which have `numel` elements together."""

    pieces: int
    index: int
    numel: int


def model_parallel(engine: Any, p: Tensor) -> Slice:
    """How tensor or expert parallelism has cut a parameter, or made it anew on each of its ranks."""
    local: int = getattr(p, "ds_numel", p.numel())
    whole = Slice(1, 0, local)
    if is_marked(p):
        whole = _tensor_parallel(engine, p, local)
    if getattr(p, "allreduce", True):  # False is DeepSpeed's mark of an expert
        return whole
    from deepspeed.utils import groups

    check_fields(p, "expert parameter")
    name: str = p.group_name  # type: ignore[attr-defined]
    known = sorted(groups._get_expert_parallel_group_dict())
    if name not in known:
        raise ValueError(
            f"an expert of shape {tuple(p.shape)} names the group {name!r}, which DeepSpeed has not made (it has {known}): let "
            "deepspeed.initialize make it from deepspeed.moe.layer.MoE(..., ep_size=...), or set group_name to one of these."
        )
    experts = groups._get_expert_parallel_world_size(name)
    index = whole.index * experts + groups._get_expert_parallel_rank(name)
    return Slice(whole.pieces * experts, index, whole.numel * experts)


def _tensor_parallel(engine: Any, p: Tensor, local: int) -> Slice:
    """Of a parameter with the mark of tensor parallelism. AutoTP notes whether it is cut, and its shape before."""
    from deepspeed.utils.bwc import bwc_tensor_model_parallel_rank, bwc_tensor_model_parallel_world_size

    noted = getattr(p, "ds_autotp_universal_checkpoint_meta", None) or {}
    if noted.get("replicated") or (not noted and _is_added_after_the_sum(engine.module, p)):
        return Slice(1, 0, local)
    size, rank = bwc_tensor_model_parallel_world_size(engine.mpu), bwc_tensor_model_parallel_rank(engine.mpu)
    return Slice(size, rank, math.prod(noted.get("logical_shape") or (local, size)))  # pieces may differ in size


def tensor_parallel_ranks(engine: Any) -> tuple[int, ...]:
    """The ranks of the whole world in this one's tensor-parallel group; none where DeepSpeed knows of no such group."""
    import torch.distributed as dist
    from deepspeed.utils.bwc import bwc_tensor_model_parallel_group

    group = bwc_tensor_model_parallel_group(engine.mpu)
    return () if group is None else tuple(dist.get_process_group_ranks(group))


def is_marked(p: Tensor) -> bool:
    """Return whether a parameter has the mark of tensor parallelism."""
    return bool(getattr(p, "model_parallel", False) or getattr(p, "tensor_model_parallel", False))


def _is_added_after_the_sum(module: Any, p: Tensor) -> bool:
    """Return whether it is the bias of a row-parallel layer, which AutoTP before DeepSpeed 0.17 marks though it is whole."""
    rows = (m for m in module.modules() if type(m).__name__.endswith("llreduce"))  # Linear, Conv_LinearAL
    return any(getattr(m, "bias", None) is p for m in rows)
