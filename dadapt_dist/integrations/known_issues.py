"""Settings and versions of DeepSpeed that are wrong here: one table for the engine's refusals and the doctor."""

import re
from dataclasses import dataclass

OWN_ADAM = "steps with an Adam of its own"


@dataclass(frozen=True)
class Feature:
    """A feature that leaves the optimizer out.

    key: where a config turns it on. method, absent: the engine's method that tells, and what it says without the feature.
    problem, cure: as the doctor prints them.
    """

    title: str
    key: str
    method: str
    absent: object
    problem: str
    cure: str


FEATURES = (
    Feature("ZenFlow", "zenflow", "zenflow_config", None, OWN_ADAM, "remove zenflow"),
    Feature("SuperOffload", "super_offload", "super_offload", False, OWN_ADAM, "remove super_offload"),
    Feature("Twin-Flow", "ratio", "zero_partial_offload", 1.0, OWN_ADAM, "set ratio to 1"),
)
APEX_AMP = Feature(
    "Apex AMP", "amp", "amp_enabled", False, "rewrites step() and the parameters", "use bf16 or torch_autocast instead"
)
ELASTIC_CHECKPOINT = Feature(
    "elastic_checkpoint",
    "elastic_checkpoint",
    "zero_elastic_checkpoint",
    False,
    "saves no parameter groups, and d is in them",
    "remove it",
)


@dataclass(frozen=True)
class Defect:
    """Versions of DeepSpeed whose stage 0 delivers wrong gradients in a precision.

    first, last: of those measured. is_fixed: a version after `last` is right. problem: what DeepSpeed does.
    """

    precision: str
    first: str
    last: str
    is_fixed: bool
    problem: str

    def was_measured(self, version: str) -> bool:
        """Whether this version is one of those known to be wrong."""
        return parts(self.first) <= parts(version) <= parts(self.last)

    def is_likely(self, version: str) -> bool:
        """Whether this version is known to be wrong, or newer than all that are and nothing says that it was repaired."""
        return self.was_measured(version) or (not self.is_fixed and parts(version) > parts(self.last))


DEFECTS = (
    Defect("bf16", "0.17.6", "0.18.5", True, "scales the gradients by a loss scale that belongs to fp16"),
    Defect(
        "fp16", "0.18.3", "0.19.8", False, "divides the gradients by a loss scale by which the loss was not multiplied"
    ),
)


def parts(version: str) -> list[int]:
    """Numbers of a version, to compare."""
    return [int(number) for number in re.findall(r"\d+", version)[:3]]
