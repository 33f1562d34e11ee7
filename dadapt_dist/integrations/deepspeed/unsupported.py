"""Which features of DeepSpeed leave the optimizer out, and in which versions does it deliver wrong gradients?"""

import logging
import re
from typing import Any

from .internals import version, wrapper_of

logger = logging.getLogger(__name__)

DEFECTS = (
    # precision at stage 0, first and last version of those measured, what happens
    ("bf16", "0.17.6", "0.18.5", "scales the gradients by a loss scale that belongs to fp16"),
    ("fp16", "0.18.3", "0.19.8", "divides the gradients by a loss scale by which the loss was not multiplied"),
)
_said: set[str] = set()


def refuse(engine: Any) -> None:
    """Raise ValueError for what an engine, built or still being built, is told to do that cannot work."""
    for name, asked, cure in (
        ("ZenFlow", _ask(engine, "zenflow_config", None), "remove zenflow"),
        ("SuperOffload", _ask(engine, "super_offload", False), "remove super_offload"),
        ("Twin-Flow", _ask(engine, "zero_partial_offload", 1.0) < 1, "set ratio to 1"),
    ):
        if asked:
            raise ValueError(
                f"{name} does not go with learning-rate-free optimizers: it steps with an Adam of its own, of which d would "
                f"know nothing. In DeepSpeed's config, {cure}; offload to the CPU or NVMe works without."
            )
    if _ask(engine, "amp_enabled", False):
        raise ValueError(
            "Apex AMP does not go with learning-rate-free optimizers: it rewrites step() and the parameters. In DeepSpeed's "
            "config, use bf16 or torch_autocast instead of amp."
        )
    if _ask(engine, "zero_elastic_checkpoint", False) and engine.zero_optimization_stage() < 3:
        raise ValueError(
            "zero_optimization.elastic_checkpoint saves no parameter groups, and d is in them: a resumed run would begin to "
            "search anew. Remove it; to go on with another number of ranks, convert to a universal checkpoint."
        )


def _ask(engine: Any, name: str, absent: Any) -> Any:
    """What the engine's method of that name says of its config; `absent` in a DeepSpeed that has not got the feature."""
    said = getattr(engine, name, lambda: absent)()
    return absent if said is None else said


def warn(engine: Any) -> None:
    """Log, once a process, a defect of this DeepSpeed by which the gradients of an engine come out wrong."""
    kind, _ = wrapper_of(engine)
    if kind != "FP16_UnfusedOptimizer":
        return
    precision = "bf16" if engine.bfloat16_enabled() else "fp16"
    for which, first, last, what in DEFECTS:
        if which != precision or not _parts(first) <= _parts(version()) <= _parts(last) or which in _said:
            continue
        if which == "fp16" and engine.loss_scale() == 1:
            continue
        _said.add(which)
        logger.warning(
            "DeepSpeed %s %s at ZeRO stage 0 with %s, so that training is not what it should be, with any optimizer. Use ZeRO "
            "stage 1, or another version (known of %s to %s).",
            version(),
            what,
            precision,
            first,
            last,
        )


def _parts(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)[:3]]
