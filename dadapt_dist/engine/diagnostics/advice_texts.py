"""What is likely wrong, in words: shared by plain loops, the trainers' callbacks, the doctor and docs/troubleshooting.md."""

from collections.abc import Callable
from typing import NamedTuple

import torch

PAGE = "docs/troubleshooting.md"
MANY_EPOCHS = 30.0  # how often each example is seen until it is said that there is little data
SCHEDULES = "Give the optimizer lr=1.0, and a schedule a peak of 1.0 (OneCycleLR: max_lr; DeepSpeed: warmup_max_lr)"


def see(section: str) -> str:
    """Where the page on troubles says more."""
    return f"See {PAGE}#{section}."


class Mistake(NamedTuple):
    """A setting that a run and a config file can have. is_made: of the numbers found. problem: to be filled in with them."""

    is_made: Callable[..., bool]
    problem: str
    cure: str


LR = Mistake(
    lambda lr: lr != 1.0,
    "{what} is {lr:g}, not 1.0: it multiplies d, so every step is {lr:g} times the one that was found, and d itself may never "
    "leave d0",
    "set it to 1.0",
)
WARM_UP = Mistake(
    lambda first, peak, guarded: first < 0.9 * peak and not guarded,
    "the schedule warms up ({how}) and safeguard_warmup is False: while lr is small, Prodigy's d can come out too large",
    "give Prodigy recipe='auto' or safeguard_warmup=True, or leave the warm-up out",
)


def lr(peak: float) -> str:
    """A peak lr that is not 1."""
    return (
        f"{LR.problem.format(what='lr', lr=peak)}. {SCHEDULES}; where the value comes from the trainer's learning_rate (5e-5 by "
        f"default), set learning_rate=1.0. To scale the step of Prodigy, use d_coef. {see('lr-is-not-10')}"
    )


def groups(high: float, low: float) -> str:
    """Groups whose lr are no factors."""
    return (
        f"the lr of the groups are far apart, {high:g} and {low:g}: lr multiplies d, so a group with {low:g} takes steps of "
        f"{low:g} times the one that was found. If these are learning rates of another optimizer, give factors of 1.0 instead "
        f"(0.1 for a tenth of the step, 0 for a group that shall not train). {see('groups-with-learning-rates-of-their-own')}"
    )


def warm_up(first: float, peak: float) -> str:
    """A warm-up that d is not guarded against."""
    problem = WARM_UP.problem.format(how=f"lr starts at {first:g} of {peak:g}")
    return f"{problem}. G{WARM_UP.cure[1:]}. {see('a-warm-up-without-safeguard_warmup')}"


def precision(dtype: torch.dtype) -> str:
    """Parameters without a float32 copy."""
    name = str(dtype).removeprefix("torch.")
    return (
        f"most parameters are held in {name} alone: steps that are small beside a weight are rounded away, and d may never leave "
        "d0. Keep the parameters in float32 and compute in a lower precision (torch.autocast, MixedPrecisionPolicy of FSDP2, "
        f"bf16 of DeepSpeed). {see('parameters-held-in-bfloat16-or-float16')}"
    )


def d0(value: float) -> str:
    """A first d that is too large."""
    return (
        f"d0={value:g} is larger than any d that is found in practice, and d never falls: the first steps may ruin the weights. "
        f"Leave d0 at its default, 1e-6: d grows from there by itself. {see('d0-is-too-large')}"
    )


def d(start: float, steps: int, growth_rate: float) -> str:
    """d that does not move."""
    if start > 1e-5:
        cure = "d0 may be above the d to be found, and d never falls: leave it at its default, 1e-6"
    else:
        cure = (
            "Either the steps are lost (parameters in bfloat16 alone, weights that are overwritten after the step) or nearly 0 "
            "(lr, layer_scale, clipping to a tiny norm), or the gradients have no direction in common"
        )
    if growth_rate < 1.01:
        cure = f"growth_rate={growth_rate:g} keeps it there: leave it at its default, inf"
    return f"d is still d0={start:g} after {steps} steps with gradients. {cure}. {see('d-stays-at-d0')}"


def short(length: int, least: int) -> str:
    """A run that is over before d is found."""
    return (
        f"total_steps={length} is short: below {least} steps d is hardly found before the decay has ended it. Train longer, or "
        f"start nearer to it with d0=1e-4. {see('total_steps-is-too-short')}"
    )


def not_found(start: float, length: int) -> str:
    """d that has not moved in half of the run."""
    return (
        f"d is still d0={start:g} after half of total_steps={length}, and the decay goes on: this run will hardly train. Start "
        f"with a larger d0 (1e-4 from scratch), or train longer. {see('total_steps-is-too-short')}"
    )


def growing(growth: float, length: int, parts: tuple[float, ...]) -> str:
    """d that was still looking at the end."""
    first, last = (f"{part:.0%}" for part in parts)
    return (
        f"d has grown {growth:.2g} times between {first} and {last} of total_steps={length}: it is still being found while the "
        "decay ends the run. A longer run, or a larger d0 (nearer to the present d), would have had more of the right step. "
        f"{see('total_steps-is-too-short')}"
    )


def pulled(decay: float, pull: float, length: int) -> str:
    """Weight decay that enters the estimate."""
    return (
        f"weight_decay={decay:g} adds up to {pull:.2g} over total_steps={length}, so that the weights lose all of where they "
        "started. The estimate takes that for a distance that they were to go, and d comes out too large. Use a smaller "
        f"weight_decay, or d_coef=0.5. {see('weight-decay-inflates-d')}"
    )


def decays_twice(length: int, now: float, peak: float) -> str:
    """A schedule beside the optimizer's own."""
    return (
        f"lr has fallen from {peak:g} to {now:g}, and total_steps={length} lets the step decay, too: the two multiply. Leave out "
        "the scheduler (Trainer: lr_scheduler_type='constant'), or total_steps. "
        f"{see('total_steps-is-too-short')}"
    )


def other_length(told: int, steps: int) -> str:
    """A run of another length than was told."""
    return (
        f"total_steps={told}, and the trainer takes {steps} steps: its decay would end {'early' if told < steps else 'late'}. "
        f"Pass total_steps={steps}. {see('total_steps-is-too-short')}"
    )


def no_trials(steps: int) -> str:
    """A short run of the recipe that was not told its length."""
    return (
        f"recipe='auto' without total_steps takes no trial steps: d climbs from d0, and a run of {steps} steps may end before it "
        f"is found. Pass total_steps={steps} and a constant schedule (Trainer: lr_scheduler_type='constant', no warm-up). "
        f"{see('d-grows-late')}"
    )


def little_data(epochs: float) -> str:
    """A run that sees each example very often."""
    return (
        f"each example will be seen {epochs:.3g} times: with so little data the step that trains best overfits, "
        "and a smaller learning rate than the one that is found would generalise better. Stop early, decay the weights "
        f"(weight_decay=0.1), or give d_coef=0.5 or less. {see('little-data-many-steps')}"
    )


def past_its_end(length: int) -> str:
    """Steps after the last."""
    return (
        f"the run goes on after total_steps={length}: the decay has reached 0, and nothing moves any more. Give the number of "
        "optimizer.step() calls of the whole run (not of batches when gradients are accumulated, nor epochs), or end the run. "
        f"{see('lr-is-0')}"
    )


def frozen(after: int, start: float) -> str:
    """d that was frozen too early."""
    return (
        f"freeze_after={after} has frozen d while it still was d0={start:g}: every further step is that small. Freeze it when d "
        f"no longer grows, after some thousand steps, or leave freeze_after out. {see('d-was-frozen-at-d0')}"
    )


def held(since: int) -> str:
    """Gradients that are never finite."""
    return (
        f"every step since step {since} was held because a gradient was not finite, or so large that the step would overflow: "
        "d is held for good, and such elements no longer move. Find where it begins (torch.autograd.set_detect_anomaly(True), or "
        'nonfinite="raise", which stops at the first), and go on from a checkpoint of before. '
        f"{see('every-step-is-held')}"
    )


def still(steps: int) -> str:
    """A schedule that is past its end."""
    return (
        f"lr has been 0 in all groups since step {steps}, and nothing trains: a schedule that is past its end stays there. Give "
        "it the number of optimizer.step() calls of the whole run (not of batches when gradients are accumulated, nor epochs), "
        f"or end the run. {see('lr-is-0')}"
    )


def never_moved(calls: int) -> str:
    """A schedule that has not begun."""
    return (
        f"lr has been 0 in all groups in the first {calls} calls of step(), and nothing has moved: a schedule that counts epochs "
        f"or divides integers may begin at 0 for long. Let it rise from the first step on. {see('lr-is-0')}"
    )
