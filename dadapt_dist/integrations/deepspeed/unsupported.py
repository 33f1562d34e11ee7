"""Refuse features of DeepSpeed that bypass the optimizer, and warn of versions that deliver wrong gradients."""

import logging
from typing import Any

from ..known_issues import APEX_AMP, DEFECTS, ELASTIC_CHECKPOINT, FEATURES, Feature
from .internals import version, wrapper_of

logger = logging.getLogger(__name__)

_said: set[str] = set()


def refuse(engine: Any) -> None:
    """Raise ValueError for what an engine, built or still being built, is told to do that cannot work."""
    for feature in FEATURES:
        if _has(engine, feature):
            raise ValueError(
                f"{feature.title} does not go with learning-rate-free optimizers: it {feature.problem}, of which d would "
                f"know nothing. In DeepSpeed's config, {feature.cure}; offload to the CPU or NVMe works without."
            )
    if _has(engine, APEX_AMP):
        raise ValueError(
            f"{APEX_AMP.title} does not go with learning-rate-free optimizers: it {APEX_AMP.problem}. In DeepSpeed's config, "
            f"{APEX_AMP.cure} of amp."
        )
    if _has(engine, ELASTIC_CHECKPOINT) and engine.zero_optimization_stage() < 3:
        raise ValueError(
            f"zero_optimization.{ELASTIC_CHECKPOINT.key} {ELASTIC_CHECKPOINT.problem}: a resumed run would begin to "
            "search anew. Remove it; to go on with another number of ranks, convert to a universal checkpoint."
        )


def _has(engine: Any, feature: Feature) -> bool:
    """Whether the engine's config turns a feature on; False in a DeepSpeed without it."""
    said = getattr(engine, feature.method, lambda: feature.absent)()
    return said is not None and said is not False and said != feature.absent


def warn(engine: Any) -> None:
    """Log, once a process, a defect of this DeepSpeed by which the gradients of an engine come out wrong."""
    kind, _ = wrapper_of(engine)
    if kind != "FP16_UnfusedOptimizer":
        return
    precision = "bf16" if engine.bfloat16_enabled() else "fp16"
    for defect in DEFECTS:
        which = defect.precision
        if which != precision or not defect.was_measured(version()) or which in _said:
            continue
        if which == "fp16" and engine.loss_scale() == 1:
            continue
        _said.add(which)
        logger.warning(
            "DeepSpeed %s %s at ZeRO stage 0 with %s, so that training is not what it should be, with any optimizer. Use ZeRO "
            "stage 1, or another version (known of %s to %s).",
            version(),
            defect.problem,
            precision,
            defect.first,
            defect.last,
        )
