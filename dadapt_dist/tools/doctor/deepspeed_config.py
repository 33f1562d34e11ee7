"""Find settings of a DeepSpeed config that are wrong for learning-rate-free training."""

import torch

from ...integrations.known_issues import APEX_AMP
from ...methods.registry import class_names
from .deepspeed_zero import check_offload, check_zero
from .findings import Config, Finding, Findings, check_multiplier, check_warm_up, is_on, section, suggested

MARKS = ("train_micro_batch_size_per_gpu", "train_batch_size", "zero_optimization")
SCHEDULES = {
    "WarmupLR": "warmup_max_lr",
    "WarmupDecayLR": "warmup_max_lr",
    "WarmupCosineLR": None,
    "OneCycle": "cycle_max_lr",
    "LRRangeTest": None,
}


def is_one(config: Config) -> bool:
    """Return whether this looks like a DeepSpeed config."""
    return any(mark in config for mark in MARKS)


def check(config: Config) -> Findings:
    """Every setting that is wrong, in the order of the file's sections."""
    yield from _optimizer(config)
    yield from _schedule(config)
    yield from check_offload(config)
    yield from check_zero(config)
    if is_on(section(config, "amp").get("enabled")):
        yield Finding("amp.enabled", f"{APEX_AMP.title} {APEX_AMP.problem}", APEX_AMP.cure)
    if "gradient_clipping" not in config:
        yield Finding(
            "gradient_clipping",
            "not set; the default is 1.0 since DeepSpeed 0.19.3 and no clipping before",
            "set it explicitly, 0.0 disables clipping",
            is_error=False,
        )


def _optimizer(config: Config) -> Findings:
    entry = section(config, "optimizer")
    if not entry:
        return
    name, params = str(entry.get("type")), section(entry, "params")
    if name not in (known := class_names()):
        cure = f"{suggested(name, known)}It has {', '.join(known)}"
        yield Finding("optimizer.type", f"{name!r} is no method of dadapt_dist", cure)
    else:
        yield from _keywords(name, params)
    yield from check_multiplier("optimizer.params.lr", params.get("lr"), "the learning rate")


def _keywords(name: str, params: Config) -> Findings:
    from ... import optimizers

    if "max_grad_norm" in params:
        yield Finding("optimizer.params.max_grad_norm", "DeepSpeed refuses it there", "use gradient_clipping instead")
    rest = {key: value for key, value in params.items() if key != "max_grad_norm" and value != "auto"}
    try:
        getattr(optimizers, name)([torch.nn.Parameter(torch.zeros(1))], **rest)
    except (TypeError, ValueError, ArithmeticError, AttributeError, LookupError, RuntimeError) as error:
        yield Finding("optimizer.params", str(error).rstrip("."), "change it there")


def _schedule(config: Config) -> Findings:
    entry = section(config, "scheduler")
    if not entry:
        return
    name, params = str(entry.get("type")), section(entry, "params")
    if name not in SCHEDULES and not hasattr(torch.optim.lr_scheduler, name):
        cure = f"{suggested(name, SCHEDULES)}It has {', '.join(SCHEDULES)}, and those of torch"
        yield Finding("scheduler.type", f"{name!r} is no scheduler of DeepSpeed", cure)
    key = SCHEDULES.get(name)
    if name == "WarmupLR" and key not in params:
        said = "not set; the default is the optimizer's lr in newer releases of DeepSpeed and 0.001 in older ones"
        yield Finding(f"scheduler.params.{key}", said, "set it to 1.0", is_error=False)
    elif key:
        yield from check_multiplier(f"scheduler.params.{key}", params.get(key, 0.001), "the largest learning rate")
    if name == "LRRangeTest":
        yield Finding("scheduler.type", "it looks for a learning rate, which is found already", "remove the scheduler")
    method = section(config, "optimizer")
    options = section(method, "params") if method else {}
    guards = (
        options.get("safeguard_warmup"),
        options.get("same_weights"),
        options.get("recipe") in ("auto", "automatic"),
    )
    safeguarded = any(guards) if method else None
    if not method or method.get("type") == "Prodigy":
        steps = params.get("warmup_num_steps", 1000 if name.startswith("Warmup") else 0)
        yield from check_warm_up("scheduler.params.warmup_num_steps", steps, safeguarded)
