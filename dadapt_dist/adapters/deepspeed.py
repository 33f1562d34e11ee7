"""What is read of DeepSpeed, in which of its versions, and what do its engines say about a parameter?

DeepSpeed has no public way to ask which parameters its flat tensors hold. Every private attribute that is read stands in
FIELDS; one that is gone raises an error that names it and the version.
"""

import gc
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

TESTED = ("0.14.4", "0.19.8")
FIELDS: dict[str, tuple[str, ...]] = {
    # class -> what is read of it. The first class that an object is an instance of counts.
    "DeepSpeedEngine": ("basic_optimizer", "optimizer", "module", "mpu"),
    "DeepSpeedZeroOptimizer_Stage3": (
        "fp16_groups",
        "fp16_partitioned_groups_flat",
        "fp32_partitioned_groups_flat",
        "sub_group_to_group_id",
        "dp_process_group",
        "swap_optimizer",
    ),
    "DeepSpeedZeroOptimizer": ("bit16_groups", "single_partition_of_fp32_groups", "real_dp_process_group"),
    "BF16_Optimizer": ("bf16_groups", "fp32_groups_flat_partition", "real_dp_process_group"),
    "FP16_UnfusedOptimizer": ("fp16_groups", "fp32_groups"),
    "Stage 3 parameter": ("ds_numel", "ds_tensor"),
    "Stage 1 or 2 parameter": ("_hp_mapping",),
}


def version() -> str:
    """DeepSpeed's version."""
    return str(getattr(sys.modules.get("deepspeed"), "__version__", "unknown"))


def kind_of(thing: Any) -> str | None:
    """The class of FIELDS that this object is an instance of; None for another class."""
    return next((cls.__name__ for cls in type(thing).__mro__ if cls.__name__ in FIELDS), None)


def check_fields(thing: Any, kind: str) -> None:
    """Raise ValueError for an attribute that this DeepSpeed no longer has."""
    gone = [name for name in FIELDS[kind] if not hasattr(thing, name)]
    if gone:
        raise ValueError(
            f"DeepSpeed {version()} has changed: {kind} has no attribute {', '.join(gone)}, from which the place of each "
            f"parameter is read. Tested with DeepSpeed {TESTED[0]} to {TESTED[1]}: install one of these."
        )


def engines() -> list[Any]:
    """The live engines. They do not register themselves anywhere, and the optimizer is not told its engine."""
    cls = getattr(sys.modules.get("deepspeed.runtime.engine"), "DeepSpeedEngine", None)
    if cls is None:
        return []
    frozen = gc.get_freeze_count() > 0
    if frozen:  # get_objects leaves out what gc.freeze() has set aside
        gc.unfreeze()
    found = [item for item in gc.get_objects() if issubclass(type(item), cls) and vars(item).get("basic_optimizer")]
    if frozen:
        gc.freeze()
    for engine in found:
        check_fields(engine, "DeepSpeedEngine")
    return found


def wrapper_of(engine: Any) -> tuple[str | None, Any]:
    """(class, object) of what DeepSpeed has put around the optimizer; (None, the optimizer) where it has put nothing."""
    wrapper = engine.optimizer
    if wrapper is engine.basic_optimizer:
        return None, wrapper
    kind = kind_of(wrapper)
    if kind is None:
        raise ValueError(
            f"{type(wrapper).__name__} of DeepSpeed {version()} is not supported: it does not say which parameters it has put "
            "where. Use ZeRO stage 0, 1, 2 or 3, with offload to the CPU or NVMe if memory is short."
        )
    check_fields(wrapper, kind)
    return kind, wrapper


@dataclass(frozen=True)
class Share:
    """The elements start to start + length of a tensor of the optimizer belong to a parameter of the model.

    ranks: the process group over which the parameter is cut; None: it is whole.
    """

    tensor: Tensor
    group: int
    param: Tensor
    start: int
    length: int
    ranks: Any = None


def shares(engine: Any) -> Iterator[Share]:
    """Which parameters of the model make up each tensor of the optimizer, in order; also those with no element here."""
    kind, wrapper = wrapper_of(engine)
    if kind is None:
        yield from _whole([(p, p) for p in group["params"]] for group in engine.basic_optimizer.param_groups)
    elif kind == "FP16_UnfusedOptimizer":
        yield from _whole(
            zip(*pair, strict=True) for pair in zip(wrapper.fp32_groups, wrapper.fp16_groups, strict=True)
        )
    elif kind == "DeepSpeedZeroOptimizer_Stage3":
        yield from _stage3(wrapper)
    elif kind == "BF16_Optimizer":
        yield from _linked(wrapper.fp32_groups_flat_partition, wrapper.bf16_groups, wrapper.real_dp_process_group)
    else:
        yield from _linked(wrapper.single_partition_of_fp32_groups, wrapper.bit16_groups, wrapper.real_dp_process_group)


def _whole(groups: Any) -> Iterator[Share]:
    for index, pairs in enumerate(groups):
        for tensor, p in pairs:
            yield Share(tensor, index, p, 0, tensor.numel())


def _linked(flats: list[Tensor], groups: list[list[Tensor]], ranks: list[Any]) -> Iterator[Share]:
    """ZeRO-1 and 2: DeepSpeed links each parameter to its part of the flat tensor, None where it has none on this rank."""
    for index, (flat, params) in enumerate(zip(flats, groups, strict=True)):
        for p in params:
            check_fields(p, "Stage 1 or 2 parameter")
            link: Any = p._hp_mapping  # type: ignore[attr-defined]
            start, length = (link.hp_fragment_address.start, link.hp_fragment_address.numel) if link else (0, 0)
            yield Share(flat, index, p, start, length, ranks[index])


def _stage3(wrapper: Any) -> Iterator[Share]:
    """ZeRO-3: each parameter is cut by itself into equal pieces, the last of them padded with whatever was in memory."""
    from deepspeed import comm

    for index, (flat, params) in enumerate(zip(wrapper.fp32_partitioned_groups_flat, wrapper.fp16_groups, strict=True)):
        start = 0
        for p in params:
            check_fields(p, "Stage 3 parameter")
            ranks = getattr(p, "ds_process_group", wrapper.dp_process_group)
            size = p.ds_tensor.ds_numel
            length = min(max(p.ds_numel - comm.get_rank(ranks) * size, 0), size)
            yield Share(flat, wrapper.sub_group_to_group_id[index], p, start, length, ranks)
            start += size


def model_parallel(engine: Any, p: Tensor) -> tuple[int, int]:
    """(pieces, which one) of a parameter that tensor or expert parallelism has cut or made anew on each of its ranks."""
    pieces, index = 1, 0
    if getattr(p, "model_parallel", False) or getattr(p, "tensor_model_parallel", False):
        from deepspeed.utils.bwc import bwc_tensor_model_parallel_rank, bwc_tensor_model_parallel_world_size

        pieces, index = bwc_tensor_model_parallel_world_size(engine.mpu), bwc_tensor_model_parallel_rank(engine.mpu)
    if not getattr(p, "allreduce", True):  # DeepSpeed's mark of an expert
        from deepspeed.utils import groups

        name: str = p.group_name  # type: ignore[attr-defined]
        experts = groups._get_expert_parallel_world_size(name)
        pieces, index = pieces * experts, index * experts + groups._get_expert_parallel_rank(name)
    return pieces, index
