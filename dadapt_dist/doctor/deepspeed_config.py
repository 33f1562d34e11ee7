"""What in a DeepSpeed config makes learning-rate-free training wrong?"""

import difflib
from typing import Any

from ..entry import NAMES
from .findings import Config, Finding, Findings, check_multiplier, check_warm_up, is_off, number, section

MARKS = ("train_micro_batch_size_per_gpu", "train_batch_size", "zero_optimization")
OWN_STEP = {
    # what steps with an Adam of its own, of which d would know nothing
    "zenflow": "ZenFlow", "super_offload": "SuperOffload",
}  # fmt: skip
SCHEDULES = {
    "WarmupLR": "warmup_max_lr",
    "WarmupDecayLR": "warmup_max_lr",
    "OneCycle": "cycle_max_lr",
    "LRRangeTest": None,
}
BUFFERS = {"Prodigy": 6, "DAdaptAdam": 5, "DAdaptAdaGrad": 5, "DAdaptSGD": 4, "DAdaptAdan": 7, "DAdaptLion": 4}
"""Parameter, gradient and the buffers of each method, which NVMe offload holds in memory together."""


def is_one(config: Config) -> bool:
    """Does this look like DeepSpeed's JSON?"""
    return any(mark in config for mark in MARKS)


def check(config: Config) -> Findings:
    """Every setting that is wrong, in the order of the file's sections."""
    yield from _optimizer(config)
    yield from _schedule(config)
    yield from _offload(config)
    zero = section(config, "zero_optimization")
    for name, title in OWN_STEP.items():
        if zero.get(name) or section(zero, "offload_optimizer").get(name):
            yield Finding(f"zero_optimization.{name}", f"{title} steps with an Adam of its own", f"remove {name}")
    if zero.get("elastic_checkpoint") and number(zero.get("stage")) != 3:
        yield Finding(
            "zero_optimization.elastic_checkpoint",
            "it saves no parameter groups, and d is in them",
            "remove it; a universal checkpoint goes to another number of ranks",
        )
    if section(config, "amp").get("enabled"):
        yield Finding(
            "amp.enabled", "Apex AMP rewrites step() and the parameters", "use bf16 or torch_autocast instead"
        )
    if "gradient_clipping" not in config:
        yield Finding(
            "gradient_clipping",
            "it is not said: 1.0 since DeepSpeed 0.19.3, none before",
            "say it: 0.0 for none",
            is_error=False,
        )


def _optimizer(config: Config) -> Findings:
    entry = section(config, "optimizer")
    if not entry:
        return
    name, params = str(entry.get("type")), section(entry, "params")
    if name not in NAMES:
        lower = {known.lower(): known for known in NAMES}
        near = difflib.get_close_matches(name.lower(), list(lower), n=1)
        cure = f"did you mean {lower[near[0]]}? " if near else ""
        yield Finding("optimizer.type", f"{name!r} is no method of dadapt_dist", f"{cure}It has {', '.join(NAMES)}")
    else:
        yield from _keywords(name, params)
    yield from check_multiplier("optimizer.params.lr", params.get("lr"), "the learning rate")


def _keywords(name: str, params: Config) -> Findings:
    import torch

    from .. import api

    if "max_grad_norm" in params:
        yield Finding("optimizer.params.max_grad_norm", "DeepSpeed refuses it there", "use gradient_clipping instead")
    rest = {key: value for key, value in params.items() if key != "max_grad_norm" and value != "auto"}
    try:
        getattr(api, name)([torch.nn.Parameter(torch.zeros(1))], **rest)
    except (TypeError, ValueError) as error:
        yield Finding("optimizer.params", str(error).rstrip("."), "change it there")


def _schedule(config: Config) -> Findings:
    entry = section(config, "scheduler")
    name, params = str(entry.get("type")), section(entry, "params")
    key = SCHEDULES.get(name)
    if key:
        yield from check_multiplier(f"scheduler.params.{key}", params.get(key, 0.001), "the largest learning rate")
    if name == "LRRangeTest":
        yield Finding("scheduler.type", "it looks for a learning rate, which is found already", "remove the scheduler")
    method = section(config, "optimizer")
    safeguarded = bool(section(method, "params").get("safeguard_warmup")) if method else None
    if not method or method.get("type") == "Prodigy":
        steps = params.get("warmup_num_steps", 1000 if name.startswith("Warmup") else 0)
        yield from check_warm_up("scheduler.params.warmup_num_steps", steps, safeguarded)


def _offload(config: Config) -> Findings:
    offload = section(config, "zero_optimization", "offload_optimizer")
    device: Any = offload.get("device", "none")
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
            "zero_optimization.offload_optimizer.ratio", "Twin-Flow steps with an Adam of its own", "set it to 1"
        )
    needed = BUFFERS.get(str(method), max(BUFFERS.values()))
    count = number(offload.get("buffer_count", 4))
    if device == "nvme" and count is not None and count < needed:
        yield Finding(
            "zero_optimization.offload_optimizer.buffer_count",
            f"{count:g} is fewer than the {needed} tensors of {method or 'the largest method'}",
            f"set it to {needed}",
        )
