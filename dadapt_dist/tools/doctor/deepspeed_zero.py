"""Find wrong combinations of ZeRO stage, precision and offload in a DeepSpeed config."""

import importlib.metadata
import re
from typing import Any

from ...integrations.known_issues import DEFECTS, ELASTIC_CHECKPOINT, FEATURES
from .findings import Config, Finding, Findings, is_off, is_on, number, section, shown

STAGES = (0, 1, 2, 3)
TWIN_FLOW = next(feature for feature in FEATURES if feature.title == "Twin-Flow")


def check_zero(config: Config) -> Findings:
    """Every setting that is wrong, but the offload's."""
    zero = section(config, "zero_optimization")
    stage = number(zero.get("stage", 0))
    if zero.get("stage", 0) != "auto" and stage not in STAGES:
        yield Finding(
            "zero_optimization.stage", f"{shown(zero['stage'])} is no stage of ZeRO", "set it to 0, 1, 2 or 3"
        )
    if all(is_on(section(config, name).get("enabled")) for name in ("fp16", "bf16")):
        yield Finding(
            "bf16.enabled", "fp16 is enabled, too, and DeepSpeed takes one of them", "disable one; bf16 needs no scale"
        )
    for feature in FEATURES:
        key = feature.key
        if key != TWIN_FLOW.key and (is_on(zero.get(key)) or is_on(section(zero, "offload_optimizer").get(key))):
            yield Finding(f"zero_optimization.{key}", f"{feature.title} {feature.problem}", feature.cure)
    if is_on(zero.get(ELASTIC_CHECKPOINT.key)) and stage in (1, 2):
        yield Finding(
            "zero_optimization.elastic_checkpoint",
            f"it {ELASTIC_CHECKPOINT.problem}",
            f"{ELASTIC_CHECKPOINT.cure}; a universal checkpoint goes to another number of ranks",
        )
    if stage == 0:
        yield from _precision(config)
    if stage in (1, 2, 3):
        yield from _options(section(config, "optimizer", "params"), int(stage))


def _options(params: Config, stage: int) -> Findings:
    """Options of the method that a sharded step cannot have."""
    if (number(params.get("slice_p", 1)) or 1) > 1:
        yield Finding(
            "optimizer.params.slice_p",
            f"at stage {stage} entries cannot be chosen by their place in the whole tensor",
            "set it to 1, or use stage 0",
        )
    if params.get("nonfinite") in ("skip", "raise"):
        pieces = "sub-groups" if stage == 3 else "parameter groups"
        yield Finding(
            "optimizer.params.nonfinite",
            f"{params['nonfinite']!r} is refused at stage {stage} with several {pieces}, where a step comes in pieces",
            "use 'hold'; DeepSpeed skips fp16 overflows itself, and bf16 ones with bf16.check_grad_overflow",
            is_error=False,
        )


def _precision(config: Config) -> Findings:
    installed = deepspeed_version()
    for defect in DEFECTS:
        name = defect.precision
        if not is_on(section(config, name).get("enabled")):
            continue
        if installed is None or defect.is_likely(".".join(map(str, installed))):
            until = f" to {defect.last}" if defect.is_fixed else ""
            yield Finding(
                f"{name}.enabled",
                f"at stage 0 DeepSpeed {defect.first}{until} delivers wrong gradients",
                "use stage 1",
                is_error=installed is not None,
            )


def deepspeed_version() -> tuple[int, ...] | None:
    """Of the DeepSpeed that is installed; None without one."""
    try:
        return tuple(int(part) for part in re.findall(r"\d+", importlib.metadata.version("deepspeed"))[:3])
    except importlib.metadata.PackageNotFoundError:
        return None


def check_offload(config: Config) -> Findings:
    """Every setting of the optimizer's offload that is wrong."""
    offload = section(config, "zero_optimization", "offload_optimizer")
    device: Any = offload.get("device") or "none"
    if device == "none":
        return
    method = section(config, "optimizer").get("type")
    if method is None and not is_off(config.get("zero_force_ds_cpu_optimizer", True)):
        yield Finding(
            "zero_force_ds_cpu_optimizer",
            "DeepSpeed then refuses to offload an optimizer that is an object, and Accelerate puts DeepSpeedCPUAdam in its place",
            "set it to false, or name the optimizer in this file",
        )
    ratio = number(offload.get("ratio", 1.0))
    if ratio is not None and ratio < 1:
        yield Finding(
            "zero_optimization.offload_optimizer.ratio", f"{TWIN_FLOW.title} {TWIN_FLOW.problem}", "set it to 1"
        )
    if device == "nvme":
        yield from _nvme(offload, method)


def _nvme(offload: Config, method: Any) -> Findings:
    from ...methods.registry import class_names, tensors_of

    # NVMe offload holds a parameter, its gradient and its buffers in memory together.
    needed = tensors_of(method) if method in class_names() else max(map(tensors_of, class_names()))
    count = number(offload.get("buffer_count", 4))
    if count is not None and count < needed:
        yield Finding(
            "zero_optimization.offload_optimizer.buffer_count",
            f"{count:g} is fewer than the {needed} tensors of {method or 'the largest method'}",
            f"set it to {needed}",
        )
