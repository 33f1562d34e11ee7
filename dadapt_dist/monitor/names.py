"""Names of the values that a run logs, and what they are called on screens and axes.

Everything that writes logs or reads them uses these: the JSONL records, the callbacks that feed trackers, and the commands watch,
plot, report and doctor.
"""

from typing import NamedTuple

STEP, LOSS, SECONDS = "step", "loss", "seconds"
LR, D, EFFECTIVE_LR, ADAMW_LR = "lr", "d", "effective_lr", "adamw_lr"
HELD_STEPS, HELD_APART = "held_steps", "held_apart"
GRAD_NORM, GRAD_NORM_L1 = "grad_norm", "grad_norm_l1"
NORMS = (GRAD_NORM_L1, GRAD_NORM)
LOSSES = (LOSS, "train_loss", "training_loss")
"""Where a log has its loss: trainers call it by these names."""


class Quantity(NamedTuple):
    """A logged value. label: short, for tables. axis: label with the unit, for pictures. meaning: a sentence on it."""

    label: str
    axis: str
    meaning: str
    is_logarithmic: bool = True


QUANTITIES = {
    LOSS: Quantity("loss", "loss (as logged)", "the training loss", is_logarithmic=False),
    D: Quantity("d", "d (units of the weights)", "the estimated distance from the start to the solution"),
    EFFECTIVE_LR: Quantity("d·lr", "d·lr (units of the weights)", "the learning rate of the underlying method"),
    ADAMW_LR: Quantity(
        "AdamW-equivalent lr", "AdamW-equivalent lr", "the learning rate at which AdamW would take the step"
    ),
    LR: Quantity("lr", "lr (multiplier of d)", "the multiplier of d: a schedule with a peak of 1"),
    GRAD_NORM: Quantity("‖g‖₂", "‖g‖₂ (loss per unit of the weights)", "the Euclidean norm of the step's gradients"),
    GRAD_NORM_L1: Quantity("‖g‖₁", "‖g‖₁ (loss per unit of the weights)", "the sum of the gradients' absolute values"),
    HELD_STEPS: Quantity("held steps", "held steps (count)", "steps that did not move d", is_logarithmic=False),
    HELD_APART: Quantity(
        "held, ranks apart", "held steps (count)", "steps that did not move d because the ranks differed", False
    ),
}
HELD_BECAUSE = {
    HELD_STEPS: "a gradient, or the loss, was not finite, or so large that the step would overflow",
    HELD_APART: "the ranks were in different steps, or had different options",
}
"""Reasons of held steps, by the count that says so; the first is that of steps which no other count has."""


def base_name(key: str) -> str:
    """The name of a logged value without its group or estimate: "d" of "d/text"."""
    return key.partition("/")[0]


def part_of(key: str) -> str:
    """The group or estimate in the key of a logged value: "text" of "d/text"; empty without one."""
    return key.partition("/")[2]


def spread(name: str, values: list[float]) -> dict[str, float]:
    """Values of groups under flat keys: the name alone for one group, "name/0", "name/1" and so on for several."""
    return {name: values[0]} if len(values) == 1 else {f"{name}/{i}": value for i, value in enumerate(values)}
