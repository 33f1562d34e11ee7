"""What do users construct? One class a method; changing the import from prodigyopt or dadaptation is enough."""

import logging
from collections.abc import Callable
from typing import Any, TypedDict

import torch
from torch import Tensor
from typing_extensions import Unpack

from .engine.named_step_sizes import named
from .engine.optimizer import LearningRateFree
from .engine.state.param_state import Dtypes, dtype_named
from .engine.step_size import StepSize
from .kernels import Backend
from .options.checks import NonFinite, Sync, check_keywords

logger = logging.getLogger(__name__)
INF = float("inf")


class Common(TypedDict, total=False):
    """Keywords that every optimizer here takes beyond those of the released packages.

    layer_scale: scales a group's step relative to the others (1.0). maximize: ascend (False).
    state_dtype: dtype of the buffers; None: float32, or the parameter's where that is more precise.
    statistics_dtype: dtype of s alone; torch.bfloat16, with stochastic rounding, saves memory and hardly changes d.
    backend: "auto" | "c" | "triton" | "eager", the kernel that runs the step; "auto" takes the fastest that can.
    freeze_after: after so many steps d stays, its buffers are released and, but for nonfinite="skip" and "raise", the sums
    are no longer reduced.
    nonfinite: what a NaN or infinite gradient does: "hold" | "skip" | "raise", or None: "hold", but what a GradScaler finds
    to overflow is skipped. sync: "next_step" | "step".
    process_group: ranks that train together (None: all). copies: for plain tensors that hold a slice, how many ranks
    hold the same elements. step_size: a StepSize shared with other optimizers, which then holds the five options before; or a
    name: all optimizers of the process that give it share one.
    """

    layer_scale: float
    maximize: bool
    state_dtype: torch.dtype | None
    statistics_dtype: torch.dtype | None
    backend: Backend
    freeze_after: int | None
    nonfinite: NonFinite | None
    sync: Sync
    process_group: Any
    copies: Callable[[Tensor], int | None] | None
    step_size: StepSize | str | None


_STEP_SIZE_OPTIONS = {
    "freeze_after": None,
    "nonfinite": None,
    "sync": "next_step",
    "process_group": None,
    "copies": None,
}
_said: set[str] = set()


def _build(optimizer: LearningRateFree, params: Any, method: str, options: dict[str, Any], common: Common) -> None:
    """Call LearningRateFree's constructor with options and StepSize sorted out."""
    where = type(optimizer).__name__
    check_keywords(set(common) - set(Common.__annotations__), {*options, *Common.__annotations__}, where)
    if options.pop("fsdp_in_use", False) and "fsdp_in_use" not in _said:
        _said.add("fsdp_in_use")
        logger.info("fsdp_in_use is accepted and not needed: sharding is read from the parameters")
    shared = common.get("step_size")
    own = {name: common[name] for name, usual in _STEP_SIZE_OPTIONS.items() if common.get(name, usual) != usual}  # type: ignore[literal-required]
    if isinstance(shared, str):
        shared = named(shared, own, where)
    elif shared is not None and own:
        raise ValueError(f"{where}: {', '.join(own)} belong to the StepSize; pass them to StepSize(...) instead")
    options |= {
        "layer_scale": common.get("layer_scale", 1.0),
        "maximize": common.get("maximize", False),
        "estimate": "default",
    }
    LearningRateFree.__init__(
        optimizer,
        params,
        method=method,
        options=options,
        step_size=StepSize(**own) if shared is None else shared,
        dtypes=Dtypes(*(dtype_named(common.get(name)) for name in ("state_dtype", "statistics_dtype"))),
        backend=common.get("backend", "auto"),
    )


class Prodigy(LearningRateFree):
    """Prodigy: Adam whose step size is found, not tuned (Mishchenko & Defazio, arXiv 2306.06101).

    γ = d·lr·c;  x = x·(1 - wd·γ) - γ·m/(√v + d·eps), with d from two sums over all elements of all ranks. Leave lr at 1.0
    and schedule it; safeguard_warmup=True with any warm-up, use_bias_correction=True for long runs alone.

    params: tensors, (name, tensor) pairs or groups. betas: averages of the gradient and its square; betas[0]=0 keeps no
    momentum. beta3: average of the estimate, sqrt(betas[1]) when None. weight_decay: decoupled, or added to the gradient
    with decouple=False. d0: first d. d_coef: multiplies the estimate. growth_rate: bound on d's growth a step.
    slice_p: keep the estimate's buffers for every p-th element only. Others: see `Common`.
    Raises ValueError for a value out of range, TypeError for an unknown keyword.
    """

    def __init__(
        self, params: Any, lr: float = 1.0, betas: tuple[float, float] = (0.9, 0.999), beta3: float | None = None,
        eps: float = 1e-8, weight_decay: float = 0, decouple: bool = True, use_bias_correction: bool = False,
        safeguard_warmup: bool = False, d0: float = 1e-6, d_coef: float = 1.0, growth_rate: float = INF,
        fsdp_in_use: bool = False, slice_p: int = 1, **common: Unpack[Common],
    ) -> None:  # fmt: skip
        options = dict(
            lr=lr, betas=betas, beta3=beta3, eps=eps, weight_decay=weight_decay, decouple=decouple,
            use_bias_correction=use_bias_correction, safeguard_warmup=safeguard_warmup, d0=d0, d_coef=d_coef,
            growth_rate=growth_rate, fsdp_in_use=fsdp_in_use, slice_p=slice_p,
        )  # fmt: skip
        _build(self, params, "prodigy", options, common)


class DAdaptAdam(LearningRateFree):
    """Adam with D-Adaptation (Defazio & Mishchenko, arXiv 2301.07733, released form).

    γ = d·lr·c;  m = b1·m + (1-b1)·γ·g;  x = x·(1 - wd·γ) - m/(√v + eps). weight_decay is added to the gradient, or
    decoupled with decouple=True. log_every: log d every so many steps, 0 never. Others: see `Prodigy` and `Common`.
    """

    def __init__(
        self, params: Any, lr: float = 1.0, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 0, log_every: int = 0, decouple: bool = False, use_bias_correction: bool = False,
        d0: float = 1e-6, growth_rate: float = INF, fsdp_in_use: bool = False, **common: Unpack[Common],
    ) -> None:  # fmt: skip
        options = dict(
            lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, log_every=log_every, decouple=decouple,
            use_bias_correction=use_bias_correction, d0=d0, growth_rate=growth_rate, fsdp_in_use=fsdp_in_use,
        )  # fmt: skip
        _build(self, params, "dadapt_adam", options, common)


class DAdaptSGD(LearningRateFree):
    """SGD with D-Adaptation and momentum (Defazio & Mishchenko, arXiv 2301.07733).

    γ = d·lr/‖g0‖;  s = s + γ·g;  x = momentum·x + (1-momentum)·(x0 - s). ‖g0‖ needs one blocking reduce at the first step
    that has a gradient. weight_decay is added to the gradient. Others: see `Prodigy` and `Common`.
    """

    def __init__(
        self, params: Any, lr: float = 1.0, momentum: float = 0.0, weight_decay: float = 0, log_every: int = 0,
        d0: float = 1e-6, growth_rate: float = INF, fsdp_in_use: bool = False, **common: Unpack[Common],
    ) -> None:  # fmt: skip
        options = dict(
            lr=lr, momentum=momentum, weight_decay=weight_decay, log_every=log_every, d0=d0, growth_rate=growth_rate,
            fsdp_in_use=fsdp_in_use,
        )  # fmt: skip
        _build(self, params, "dadapt_sgd", options, common)


class DAdaptAdaGrad(LearningRateFree):
    """AdaGrad with D-Adaptation, for dense and sparse gradients (Defazio & Mishchenko, arXiv 2301.07733).

    α = α + g²;  s = s + d·lr·g;  x = x0 - s/(√α + eps), or its average with momentum. weight_decay is added to the
    gradient; sparse gradients need momentum and weight_decay 0. Others: see `Prodigy` and `Common`.
    """

    def __init__(
        self, params: Any, lr: float = 1.0, momentum: float = 0, log_every: int = 0, weight_decay: float = 0.0,
        eps: float = 1e-6, d0: float = 1e-6, growth_rate: float = INF, **common: Unpack[Common],
    ) -> None:  # fmt: skip
        options = dict(
            lr=lr, momentum=momentum, log_every=log_every, weight_decay=weight_decay, eps=eps, d0=d0,
            growth_rate=growth_rate,
        )  # fmt: skip
        _build(self, params, "dadapt_adagrad", options, common)


class DAdaptAdan(LearningRateFree):
    """Adan with D-Adaptation (released with arXiv 2301.07733; Adan: arXiv 2208.06677).

    γ = d·lr;  x = (x - (m + b2·n)/(√v + eps))/(1 + γ·wd); no_prox=True shrinks by (1 - γ·wd) before the step instead.
    Others: see `Prodigy` and `Common`.
    """

    def __init__(
        self, params: Any, lr: float = 1.0, betas: tuple[float, float, float] = (0.98, 0.92, 0.99), eps: float = 1e-8,
        weight_decay: float = 0.02, no_prox: bool = False, log_every: int = 0, d0: float = 1e-6,
        growth_rate: float = INF, **common: Unpack[Common],
    ) -> None:  # fmt: skip
        options = dict(
            lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, no_prox=no_prox, log_every=log_every, d0=d0,
            growth_rate=growth_rate,
        )  # fmt: skip
        _build(self, params, "dadapt_adan", options, common)


class DAdaptLion(LearningRateFree):
    """Lion with D-Adaptation (released with arXiv 2301.07733; Lion: arXiv 2302.06675).

    γ = d·lr;  u = sign(b1·m + (1-b1)·g);  x = x·(1 - γ·wd) - γ·u. Others: see `Prodigy` and `Common`.
    """

    def __init__(
        self, params: Any, lr: float = 1.0, betas: tuple[float, float] = (0.9, 0.99), weight_decay: float = 0.0,
        log_every: int = 0, d0: float = 1e-6, fsdp_in_use: bool = False, **common: Unpack[Common],
    ) -> None:  # fmt: skip
        options = dict(
            lr=lr, betas=betas, weight_decay=weight_decay, log_every=log_every, d0=d0, fsdp_in_use=fsdp_in_use
        )  # fmt: skip
        _build(self, params, "dadapt_lion", options, common)


class DoG(LearningRateFree):
    """DoG: SGD whose step size is distance over gradients (Ivgi, Hinder & Carmon, arXiv 2302.12022).

    d = max(d, ‖x - x0‖), from reps_rel·(1 + ‖x0‖) on;  G = G + ‖g‖²;  x = x - lr·d/√(G + eps)·g. The norms are of the very
    step: one blocking reduce a step, or with a StepSize(before="lagged") those of the step before, hidden. weight_decay is
    added to the gradient. reps_rel: 1e-4 for networks with BatchNorm. Needs an average of the weights to be at its best.
    Others: see `Prodigy` and `Common`.
    """

    def __init__(
        self, params: Any, lr: float = 1.0, reps_rel: float = 1e-6, eps: float = 1e-8, weight_decay: float = 0.0,
        **common: Unpack[Common],
    ) -> None:  # fmt: skip
        _build(self, params, "dog", dict(lr=lr, reps_rel=reps_rel, eps=eps, weight_decay=weight_decay), common)


class COCOB(LearningRateFree):
    """COCOB: every weight bets on the sign of its gradient (Orabona & Tommasi, arXiv 1705.07795).

    No learning rate, no d (`optimizer.d` is NaN) and no collective. lr below 1 goes that part of each step. weight_decay is
    added to the gradient. alpha: bets in the first steps are at most 1/alpha of the wealth. Others: see `Prodigy` and `Common`.
    """

    def __init__(
        self, params: Any, lr: float = 1.0, alpha: float = 100.0, eps: float = 1e-8, weight_decay: float = 0.0,
        **common: Unpack[Common],
    ) -> None:  # fmt: skip
        _build(self, params, "cocob", dict(lr=lr, alpha=alpha, eps=eps, weight_decay=weight_decay), common)
