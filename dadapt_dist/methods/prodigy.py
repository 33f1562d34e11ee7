"""Prodigy: the step and the next d (Mishchenko & Defazio, arXiv 2306.06101, Algorithm 3)"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..options.fields import (
    BETAS,
    D0,
    EPS,
    FSDP_IN_USE,
    GROWTH_RATE,
    LR,
    WEIGHT_DECAY,
    MethodOptions,
    choice,
    integer,
    is_fraction,
    is_positive,
    number,
    option,
    optional,
    switch,
    whole_or_none,
)
from . import recipe, trial_steps
from .base import Buffer, Buffers, Coefficients, Documentation, Initial, Method, Options, Scalars, Sums
from .ops import add_, add_product_, add_ratio_, bias_correction, dot_difference, remaining, root, total_abs

FLOOR = 1e-2  # what the rms of a tensor is taken to be at least, for the cap: one that begins as 0 has to get away from there
LENGTH = 500  # of a run, above which length_scaling shortens the steps, and below which it lifts the estimates of d
LIFT = 2.0  # the most that it multiplies them by
WARM_UP = 0.1  # of total_steps, after a probe


@dataclass(frozen=True)
class ProdigyOptions(MethodOptions):
    """Options of `Prodigy`."""

    lr: float = LR(1.0)
    betas: tuple[float, float] = BETAS(
        (0.9, 0.999),
        "averaging constants of the gradient and of its square; betas[0] = 0 keeps no momentum. With recipe='auto' this "
        "default is (0.8, 0.999)",
    )
    beta3: float | None = option(
        None,
        optional,
        lambda value: value is None or is_fraction(value),
        "None or a number in [0, 1)",
        "leave None: sqrt(betas[1])",
        "averaging constant of the estimate; None: sqrt(betas[1])",
        of_estimate=True,
    )
    eps: float = EPS(1e-8)
    weight_decay: float = WEIGHT_DECAY(0, doc="decay of the parameters, by weight_decay·d·lr a step")
    decouple: bool = switch(True, "decay the parameters themselves; False adds the decay to the gradient")
    use_bias_correction: bool = switch(False, "Adam's bias correction, for long runs: d grows more slowly")
    safeguard_warmup: bool = switch(
        False, "leave lr out of s, and not of the other sum, so that a warm-up does not make d too large"
    )
    d0: float = D0(1e-6)
    d_coef: float = option(
        1.0,
        number,
        is_positive,
        "a number > 0",
        "1.0 is the method's own estimate; 0.5 to 2 are usual",
        "multiplies the estimate: the knob to turn when d comes out too large or too small",
        of_estimate=True,
    )
    growth_rate: float = GROWTH_RATE(math.inf)
    fsdp_in_use: bool = FSDP_IN_USE(False)
    slice_p: int = option(
        1,
        integer,
        lambda value: 1 <= value <= 2**53,
        "an integer >= 1, at most 2**53",
        "1 uses every entry; 11 is usual to save memory",
        "keep the buffers of the estimate for every slice_p-th element only",
    )
    recipe: str | None = choice(
        None,
        {"auto": "auto", "automatic": "auto"},
        "'auto' is the recommended setting: exact_bias_correction, same_weights, rms_cap, betas of (0.8, 0.999), "
        "and with total_steps length_scaling and probe_d0, the last unless d0 or slice_p is given. What you give beside it "
        "holds. In a JSON file say 'automatic': Accelerate and the Trainer fill in what is 'auto'",
        later=True,
    )
    total_steps: int | None = option(
        None,
        whole_or_none,
        lambda value: value is None or 1 <= value <= 2**53,
        "None or an integer >= 1",
        "pass the number of optimizer steps of the run, or None and a scheduler of your own",
        "length of the run: the step decays linearly to 0 over it, without a scheduler. None: lr and a scheduler alone say",
        later=True,
    )
    length_scaling: bool | None = switch(
        None,
        "multiply the step by √(500/total_steps) where that is below 1, and the estimate of d where it is above 1, at most by 2: "
        "the best step falls with the length of a run",
        later=True,
    )
    probe_d0: bool | None = switch(
        None,
        "find a first d in a few trial steps, after which the parameters are put back to where they started",
        later=True,
    )
    exact_bias_correction: bool | None = switch(
        None,
        "divide the averages by the sums of their own weights, so that a step is Adam's whatever d did",
        later=True,
    )
    same_weights: bool | None = switch(
        None, "weigh both sums of the estimate by d²/d0, without lr and bias correction", later=True
    )
    rms_cap: float | None = option(
        None,
        optional,
        lambda value: value is None or is_positive(value),
        "None or a number > 0",
        "0.1 to 0.2 are usual, and None sets no bound",
        "largest step of a tensor, relative to its root mean square. None: no bound",
        later=True,
    )


class ProdigyMethod(Method):
    """Prodigy, with d known before the step.

    eps is scaled by d_k as in the paper; the released code scales it by d_{k+1}, which would need the global sums before
    the update can be written (docs/deviations.md has the measured size).
    """

    options = ProdigyOptions
    documentation = Documentation(
        summary="Adam whose step size is found, not tuned.",
        when="first choice, for everything that Adam or AdamW trains",
        reference=(
            "Mishchenko and Defazio, Prodigy: An Expeditiously Adaptive Parameter-Free Learner, arXiv 2306.06101, "
            "Algorithm 3"
        ),
        equations="""
            rates   γ = d·lr·c;  c = 1, Adam's bias correction, or lr's own decay with total_steps
                    length_scaling:  c is min(1, l) times that, l = √(500/total_steps)
            update  w = (d/d0)·γ;  w_s = w, or (d/d0)·d with safeguard_warmup; both with same_weights
                    m = b1·m + (1-b1)·d·g          (betas[0] = 0: no m is kept, d·g takes its place)
                    v = b2·v + (1-b2)·d²·g²
                    s = b3·s + w_s·g               b3 = beta3, or √b2
                    x = x·(1 - wd·γ) - r·γ·m/(√v + d·eps)
                    exact_bias_correction:  W_m = b1·W_m + (1-b1)·d;  W_v = b2·W_v + (1-b2)·d²
                    x = x·(1 - wd·γ) - r·γ·(m/W_m)/(√(v/W_v) + eps)
                    probe_d0:  p = max(d, q) in the place of d above; see below
                    rms_cap:  min(r·γ, rms_cap·max(10⁻², rms(x))) in the place of r·γ, for each tensor x of the model
            sums    inner = Σ w·g·(x0 - x),  s_l1 = Σ r·|s|
            rule    num = b3·num + inner;  d_hat = d_coef·num/s_l1;  d_max = max(d_max, d_hat)
                    length_scaling:  d_hat is min(2, max(1, l)) times that
                    d = max(d, d_hat) if d is still d0;  d = min(d_max, d·growth_rate)
            probe   q = 10⁻³·R first, R = max(10⁻³, rms of all weights), and 8·q after each of 7 steps, or total_steps/10
                    wd = 0 in these steps, and rms_cap at most 0.2
                    a = d_hat/p', p' = min(p, 0.2·R);  good: the longest min(p', 0.05·R) with a > 0 and a ≥ max a / 4
                    then d = max(max d_hat, good, a quarter of the first q);  q = 0
                    one step puts x back to x0, and m, v, s, num, W_m, W_v to 0; c then rises over 10 % of total_steps
        """,
    )
    name = "prodigy"
    fixed_options = ("recipe", "total_steps", "length_scaling", "exact_bias_correction", "same_weights", "probe_d0")
    later_scalars = ("weight_m", "weight_v")

    def unsaved(self, options: Options) -> tuple[str, ...]:
        return () if options.get("exact_bias_correction") else self.later_scalars

    after = Sums(("inner", "s_l1"), needs="s_l1")

    def completed(self, options: Options, where: str) -> dict[str, Any]:
        return recipe.completed(self.options.defaults(), options, where)

    def shared_options(self, options: Options) -> tuple[str, ...]:
        exact = ("betas",) if options.get("exact_bias_correction") else ()
        return (*self.estimate_options, *self.fixed_options, *exact)

    def scalars(self, options: Options) -> dict[str, Initial]:
        found: dict[str, Initial] = {"d": options["d0"], "d_max": options["d0"], "numerator": 0.0}
        found |= {"weight_m": 0.0, "weight_v": 0.0}
        if options.get("probe_d0"):
            found |= dict(trial_steps.SCALARS)
        counts = options.get("exact_bias_correction") or options.get("total_steps") is not None
        return found | {"updates": 0.0} if counts else found

    def assumed(self, scalars: Mapping[str, float], options: Options) -> dict[str, float]:
        (beta1, beta2), d, k = options["betas"], scalars["d"], scalars["k"]
        return {"weight_m": d * (1 - beta1**k), "weight_v": d * d * (1 - beta2**k)}

    def constants(self, options: Options) -> dict[str, float]:
        average = math.sqrt(options["betas"][1]) if options["beta3"] is None else float(options["beta3"])
        beta1, beta2 = options["betas"]
        found = super().constants(options) | {"average": average, "to_m": 1 - beta1, "to_v": 1 - beta2}
        # Nothing is folded with these, but ranks with other values of them would take other steps.
        total = options.get("total_steps")
        found |= {
            "total_steps": float(total or 0),
            "same_weights": float(bool(options.get("same_weights"))),
            "length_scaling": float(bool(options.get("length_scaling"))),
        }
        found["d_coef"] *= _lift(options)
        return found | {"trials": _trials(total)}

    def buffers(self, options: Options) -> dict[str, Buffer]:
        buffers = {
            "p0": Buffer(init="param", statistic=True, sliced=True),
            "s": Buffer(statistic=True, sliced=True),
            "exp_avg_sq": Buffer(squares=True),
        }
        if options["betas"][0] > 0:  # without momentum d·g itself takes the place of m
            buffers["exp_avg"] = Buffer()
        return buffers

    def coupled_decay(self, options: Options) -> float:
        return 0.0 if options["decouple"] else float(options["weight_decay"])

    def coefficients(self, options: Options, scalars: Scalars, constants: Mapping[str, float]) -> Coefficients:
        d = _size(scalars)
        (beta1, beta2), decay = options["betas"], options["weight_decay"]
        gamma = self._rate(options, scalars)
        without = d / constants["d0"] * d
        weight = without if options.get("same_weights") else d / constants["d0"] * gamma
        step, eps = gamma * options["layer_scale"], d * options["eps"]
        if options.get("exact_bias_correction"):
            weight_m, weight_v = _weights(scalars, 1 - beta1, 1 - beta2)
            root_v = torch.sqrt(weight_v)
            step, eps = step * (root_v / weight_m), root_v * options["eps"]
        c: Coefficients = {
            "b1": beta1, "to_m": d * (1 - beta1),
            "b2": beta2, "to_v": d * d * (1 - beta2),
            "b3": constants["average"], "inner": weight,
            "to_s": without if options["safeguard_warmup"] else weight,
            "keep": 1 - gamma * decay if decay and options["decouple"] else None,
            "step": step, "eps": eps, "r": options["layer_scale"], "back": 0.0,
        }  # fmt: skip
        if not self.tries(options):
            return c
        back = self.puts_back(options, scalars)
        one = torch.ones_like(d)  # two python numbers would make a float32 of them
        zeroed = {
            name: torch.where(back, 0.0, one * c[name]) for name in ("b1", "to_m", "b2", "to_v", "b3", "to_s", "step")
        }
        if c["keep"] is not None:  # a trial step is bounded by the cap, and its decay would not be
            zeroed["keep"] = torch.where(scalars["probe_phase"] == 0, c["keep"], one)
        return c | zeroed | {"back": back.to(torch.float64)}

    def summed_schedule(self, options: Options) -> float:
        total = options.get("total_steps")
        return 0.0 if total is None else _scale(options) * total / 2

    def tries(self, options: Options) -> int:
        return 2 + int(_trials(options.get("total_steps"))) if options.get("probe_d0") else 0

    def is_trying(self, values: Scalars) -> Tensor:
        return (values["probe_phase"] != 0).any()

    def puts_back(self, options: Options, scalars: Scalars) -> Tensor:
        return scalars["probe_phase"] == trial_steps.PUTTING_BACK

    def _rate(self, options: Options, scalars: Scalars) -> Tensor:
        """γ of the coming step: 0-dim float64."""
        gamma: Tensor = _size(scalars) * options["lr"] * bias_correction(options, scalars["k"])
        return gamma if options.get("total_steps") is None else gamma * _schedule(options, scalars)

    def advance(self, scalars: Scalars, constants: Mapping[str, Tensor]) -> Scalars:
        weight_m, weight_v = _weights(scalars, constants["to_m"], constants["to_v"])
        moved = {"weight_m": weight_m, "weight_v": weight_v}
        if "probe_phase" in scalars:
            phase = scalars["probe_phase"]
            moved |= {"numerator": scalars["numerator"], "probe_phase": phase}
            back = phase == trial_steps.PUTTING_BACK
            moved = {name: torch.where(back, 0.0, value) for name, value in moved.items()}
            if "updates" in scalars:
                moved["probe_ended"] = torch.where(back, scalars["updates"] + 1, scalars["probe_ended"])
        return moved if "updates" not in scalars else moved | {"updates": scalars["updates"] + 1}

    def needs_rms(self, options: Options) -> bool:
        return options.get("rms_cap") is not None or bool(options.get("probe_d0"))

    def begin(self, rms: Tensor, scalars: Scalars, constants: Mapping[str, Tensor]) -> Scalars:
        return trial_steps.begun(rms, scalars, constants["d0"]) if "probe_phase" in scalars else {}

    def held(self, scalars: Scalars, constants: Mapping[str, Tensor]) -> Scalars:
        """A trial step was too long to have finite gradients after it: the probe ends, or the run would never leave there."""
        if "probe_phase" not in scalars:
            return {}
        ends = (scalars["probe_phase"] == trial_steps.TRYING) & (scalars["k"] > 0)
        return trial_steps.ended(ends, scalars, scalars)

    def froze(self, scalars: Scalars) -> Scalars:
        return {name: torch.zeros_like(scalars[name]) for name in ("probe_step", "probe_phase") if name in scalars}

    def tensor_factors(self, rms: Tensor, options: Options, scalars: Scalars, constants: Mapping[str, float]) -> Tensor:
        cap, tries = options.get("rms_cap"), self.tries(options)
        if cap is None and not tries:
            return torch.ones_like(rms)
        gamma, sizes = self._rate(options, scalars) * options["layer_scale"], rms.clamp_min(FLOOR)
        factors = torch.ones_like(rms) if cap is None else _at_most(cap * sizes, gamma)
        if not tries or (cap is not None and cap <= trial_steps.CAP):
            return factors
        trying = scalars["probe_phase"] == trial_steps.TRYING
        return torch.where(trying, _at_most(trial_steps.CAP * sizes, gamma), factors)

    def learning_rate(self, options: Options, scalars: Scalars) -> Tensor | float:
        rate = super().learning_rate(options, scalars)
        return rate if options.get("total_steps") is None else rate * _schedule(options, scalars)

    def adamw_lr(self, options: Options, scalars: Scalars) -> Tensor | float:
        rate: Tensor = self._rate(options, scalars) * options["layer_scale"]
        if options.get("exact_bias_correction"):
            return rate
        beta1, beta2 = options["betas"]
        weight_m, weight_v = _weights(scalars, 1 - beta1, 1 - beta2)
        return rate * weight_m / torch.sqrt(weight_v)

    def update(self, x: Tensor, g: Tensor, buf: Buffers, c: Coefficients, cut: slice | None) -> tuple[Tensor, ...]:
        sums = self._statistics(x, g, buf, c, cut) if "s" in buf else ()
        v = add_product_(buf["exp_avg_sq"].mul_(c["b2"]), g, g, c["to_v"])
        if "exp_avg" in buf:
            m = add_(buf["exp_avg"].mul_(c["b1"]), g, c["to_m"])
        else:
            m = g * c["to_m"]
        if c["keep"] is not None:
            x.mul_(c["keep"])
        add_ratio_(x, m, root(v, c["eps"]), -c["step"])
        if isinstance(c["back"], Tensor):
            x.copy_(torch.where(c["back"] > 0, buf["p0"], x))
        elif c["back"] > 0:
            x.copy_(buf["p0"])
        return sums

    def _statistics(self, x: Tensor, g: Tensor, buf: Buffers, c: Coefficients, cut: slice | None) -> tuple[Tensor, ...]:
        if cut is not None:
            x, g = x.reshape(-1)[cut], g.reshape(-1)[cut]
        inner = dot_difference(g, buf["p0"], x) * c["inner"]
        s = add_(buf["s"].mul_(c["b3"]), g, c["to_s"])
        return inner, total_abs(s) * c["r"]

    def fold_after(self, sums: Scalars, scalars: Scalars, constants: Mapping[str, Tensor]) -> Scalars:
        numerator = constants["average"] * scalars["numerator"] + sums["inner"]
        d_hat = constants["d_coef"] * numerator / sums["s_l1"]
        d, d_max = scalars["d"], torch.maximum(scalars["d_max"], d_hat)
        d = torch.where(d == constants["d0"], torch.maximum(d, d_hat), d)
        d = torch.minimum(d_max, d * constants["growth_rate"])
        found = {"d": d, "d_max": d_max, "numerator": numerator}
        if "probe_phase" not in scalars:
            return found
        return found | trial_steps.taken(found, d_hat, scalars, constants["trials"])

    def moved(
        self, d: float, scalars: Mapping[str, float], sums: Mapping[str, float] | None, constants: Mapping[str, float]
    ) -> dict[str, float]:
        moved = super().moved(d, scalars, sums, constants)
        if not scalars.get("probe_phase"):
            return moved
        back = trial_steps.PUTTING_BACK if scalars["k"] > 0 else 0.0  # what the trials so far have moved
        return moved | {"probe_step": 0.0, "probe_phase": back}


def _at_most(largest: Tensor, gamma: Tensor) -> Tensor:
    """What γ is multiplied by, so that it is at most the largest of each tensor."""
    return torch.where(gamma > largest, largest / gamma, 1.0)


def _scale(options: Options) -> float:
    """What the length of a run multiplies its steps by."""
    return min(1.0, math.sqrt(LENGTH / options["total_steps"])) if options.get("length_scaling") else 1.0


def _schedule(options: Options, scalars: Scalars) -> Tensor | float:
    """Linear decay; after a probe, which leaves d no time to grow, a warm-up over a part of the run, too."""
    left = _scale(options) * remaining(options, scalars["updates"])
    if "probe_ended" not in scalars:
        return left
    rise = (scalars["updates"] - scalars["probe_ended"] + 1) / (WARM_UP * options["total_steps"])
    return left * torch.where(scalars["probe_ended"] > 0, rise.clamp(0.0, 1.0), 1.0)


def _trials(total_steps: int | None) -> float:
    """How many trial steps are measured in a run of this length."""
    most = trial_steps.MEASURED
    return float(most if total_steps is None else min(most, max(1, int(trial_steps.SHARE * total_steps))))


def _lift(options: Options) -> float:
    """What the length of a run multiplies its estimates of d by: a short one has no time for d to grow, and wants it larger."""
    scaled = bool(options.get("length_scaling"))
    return min(LIFT, max(1.0, math.sqrt(LENGTH / options["total_steps"]))) if scaled else 1.0


def _size(scalars: Scalars) -> Tensor:
    """What takes the place of d in a step: d, or a trial step, if that is longer."""
    return trial_steps.size(scalars) if "probe_step" in scalars else scalars["d"]


def _weights(scalars: Scalars, to_m: Any, to_v: Any) -> tuple[Tensor, Tensor]:
    """(W_m, W_v), the sums of the weights in m and in v after the coming step. to_m, to_v: 1 - b1 and 1 - b2."""
    d = _size(scalars)
    return torch.lerp(scalars["weight_m"], d, to_m), torch.lerp(scalars["weight_v"], d * d, to_v)
