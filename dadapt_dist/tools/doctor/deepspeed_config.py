"""Find settings of a DeepSpeed config that are wrong for learning-rate-free training."""

from collections.abc import Mapping
from typing import Any

import torch

from ...integrations.known_issues import APEX_AMP
from ...methods.registry import class_names
from .deepspeed_model import check_model, scheduler_names
from .deepspeed_zero import check_offload, check_zero
from .findings import (
    MOST_SHOWN,
    Config,
    Finding,
    Findings,
    check_multiplier,
    check_warm_up,
    is_on,
    key_name,
    meant,
    number,
    section,
    shown,
    suggested,
)

MARKS = ("train_micro_batch_size_per_gpu", "train_batch_size", "zero_optimization")
SCHEDULES = {
    "WarmupLR": "warmup_max_lr",
    "WarmupDecayLR": "warmup_max_lr",
    "WarmupCosineLR": None,
    "OneCycle": "cycle_max_lr",
    "LRRangeTest": None,
}


SECTIONS = {
    "optimizer": '{"type": "Prodigy", "params": {"lr": 1.0}}',
    "scheduler": '{"type": "WarmupDecayLR", "params": {...}}',
    "fp16": '{"enabled": true}',
    "bf16": '{"enabled": true}',
    "zero_optimization": '{"stage": 2}',
}
MOST_WRONG = 10  # options of the optimizer
BATCH = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")


def is_one(config: Config) -> bool:
    """Return whether this looks like a DeepSpeed config."""
    return any(mark in config for mark in MARKS) or "type" in section(config, "optimizer")


def check(config: Config, *, alone: bool = True, lr: Any = None) -> Findings:
    """Every setting that is wrong, in the order of the file's sections.

    alone: no Accelerate or Trainer is known to read it. lr: what the Trainer fills in for "auto".
    """
    shapes = [*_shapes(config)]
    yield from shapes
    yield from _batch(config, alone=alone)
    yield from _optimizer(config, alone=alone, lr=lr)
    yield from _schedule(config)
    yield from check_offload(config)
    yield from check_zero(config)
    amp = config.get("amp")
    if is_on(amp.get("enabled") if isinstance(amp, Mapping) else amp):
        yield Finding("amp.enabled", f"{APEX_AMP.title} {APEX_AMP.problem}", APEX_AMP.cure)
    yield from _clipping(config)
    misshapen = {finding.where for finding in shapes}
    yield from check_model({name: value for name, value in config.items() if name not in misshapen})


def _shapes(config: Config) -> Findings:
    """Sections that are none."""
    for name, example in SECTIONS.items():
        value = config.get(name, {})
        if not isinstance(value, Mapping) and not (name == "zero_optimization" and isinstance(value, bool)):
            yield Finding(name, f"{shown(value)} is no section of settings", f"write {example}")


def _batch(config: Config, *, alone: bool) -> Findings:
    sizes = {name: config[name] for name in BATCH if config.get(name, "auto") != "auto"}
    wrong = {name for name, size in sizes.items() if not _is_count(size)}
    for name in sizes:
        if name in wrong:
            yield Finding(name, f"{shown(sizes[name])} is no whole number from 1", "give one")
    if not any(name in config for name in BATCH[:2]):
        cure = "give train_micro_batch_size_per_gpu, the batch of one rank"
        yield Finding(BATCH[1], "there is no batch size: neither it nor train_batch_size is set", cure, is_error=alone)
    if wrong:
        return
    whole, part = sizes.get(BATCH[0]), sizes.get(BATCH[1], 1) * sizes.get(BATCH[2], 1)
    if whole is not None and whole % part:
        rest = " * ".join(name for name in BATCH[1:] if name in sizes)
        yield Finding(
            BATCH[0], f"{whole} is no multiple of {rest} = {part}, and must be that times the ranks", "leave it out"
        )


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _clipping(config: Config) -> Findings:
    if "gradient_clipping" not in config:
        yield Finding(
            "gradient_clipping",
            "not set; the default is 1.0 since DeepSpeed 0.19.3 and no clipping before",
            "set it explicitly, 0.0 disables clipping",
            is_error=False,
        )
        return
    value = config["gradient_clipping"]
    norm = number(value)
    if value != "auto" and not (norm is not None and norm >= 0 and not isinstance(value, str)):
        yield Finding("gradient_clipping", f"{shown(value)} is no number from 0", "give one; 0.0 disables clipping")


def _optimizer(config: Config, *, alone: bool, lr: Any) -> Findings:
    entry = section(config, "optimizer")
    if not entry:
        if alone and "optimizer" not in config:
            said = "there is no entry, so the script must give deepspeed.initialize an optimizer of dadapt_dist"
            yield Finding("optimizer", said, f"or add {SECTIONS['optimizer']}", is_note=True)
        return
    name, params = entry.get("type"), section(entry, "params")
    known = class_names()
    if name not in known:
        problem = "there is none" if name is None else f"{str(name)[:MOST_SHOWN]!r} is no method of dadapt_dist"
        yield Finding("optimizer.type", problem, f"{suggested(str(name), known)}It has {', '.join(known)}")
    else:
        yield from _keywords(str(name), params)
    if params.get("lr") == "auto" and lr is not None:
        yield from check_multiplier("optimizer.params.lr", lr, '"auto" is the Trainer\'s learning_rate, which')
    elif params.get("lr") == "auto":
        yield from _left_open(config, alone=alone)
    yield from check_multiplier("optimizer.params.lr", params.get("lr"), "the learning rate")


def _left_open(config: Config, *, alone: bool) -> Findings:
    """A learning rate that only Accelerate and the Trainer fill in, from settings whose defaults are of another optimizer."""
    is_plain = alone and "auto" not in [config.get(name) for name in (*BATCH, "gradient_clipping")]
    said = (
        '"auto" is filled in by Accelerate and the Trainer alone, with the lr of DummyOptim or learning_rate, which are not 1.0 '
        "unless you say so; deepspeed.initialize takes it for the value"
    )
    yield Finding("optimizer.params.lr", said, "set it to 1.0", is_error=is_plain)


def _keywords(name: str, params: Config) -> Findings:
    from ... import optimizers

    if "max_grad_norm" in params:
        yield Finding("optimizer.params.max_grad_norm", "DeepSpeed refuses it there", "use gradient_clipping instead")
    rest = {key: value for key, value in params.items() if key != "max_grad_norm" and value != "auto"}
    for _ in range(MOST_WRONG):
        said = _refusal(getattr(optimizers, name), rest)
        if said is None:
            return
        yield Finding("optimizer.params", said, "change it there")
        # One error hides the next: go on without the option that makes the difference.
        without = [{k: v for k, v in rest.items() if k != key} for key in rest]
        rest = next((fewer for fewer in without if _refusal(getattr(optimizers, name), fewer) != said), {})


def _refusal(made: Any, options: Config) -> str | None:
    """What an optimizer says against its options; None where it takes them."""
    try:
        made([torch.nn.Parameter(torch.zeros(1))], **options)
    except (TypeError, ValueError, ArithmeticError, AttributeError, LookupError, RuntimeError) as error:
        return str(error).rstrip(".")
    return None


def _scheduler_keywords(name: str, params: Config) -> Findings:
    """Parameters that the scheduler does not have, or lacks."""
    found = scheduler_names(name)
    if found is None:
        return
    known, needed = found
    for key in params:
        if key not in known:
            cure = meant(key, known, params) or f"it has {', '.join(sorted(known))}"
            yield Finding(f"scheduler.params.{key_name(key)}", f"{name} has no such parameter", cure)
    for key in sorted(needed - params.keys()):
        yield Finding(f"scheduler.params.{key}", f"{name} needs it, and it is not there", "set it")


def _is_of_torch(name: str) -> bool:
    made = getattr(torch.optim.lr_scheduler, name, None)
    return isinstance(made, type) and issubclass(made, torch.optim.lr_scheduler.LRScheduler)


def _schedule(config: Config) -> Findings:
    entry = section(config, "scheduler")
    if not entry:
        return
    name, params = str(entry.get("type")), section(entry, "params")
    if name not in SCHEDULES and not _is_of_torch(name):
        cure = f"{suggested(name, SCHEDULES)}It has {', '.join(SCHEDULES)}, and those of torch"
        problem = "there is none" if "type" not in entry else f"{name[:MOST_SHOWN]!r} is no scheduler of DeepSpeed"
        yield Finding("scheduler.type", problem, cure)
    else:
        yield from _scheduler_keywords(name, params)
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
