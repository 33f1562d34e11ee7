# Written by `make format` from the methods' files.
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from .engine.optimizer import LearningRateFree
from .engine.step_size import StepSize
from .methods import Method

def of_method(name: str) -> type[LearningRateFree]: ...
def classes() -> dict[str, type[LearningRateFree]]: ...
def register(method: type[Method]) -> type[LearningRateFree]: ...

class AdaGradPP(LearningRateFree):
    """AdaGrad whose step size is the distance gone so far, AdaGrad++.

        start   p = Σ 1
        update  v = v + g²;  x = x - r·d·lr·g/(√v + eps)
        sums    dist_sq = Σ (x - x0)² with x of after the step
        rule    d = max(d, √(dist_sq/p))

    d is a distance for each element, a root mean square, so it has the size of Adagrad's learning rate. p is the number
    of elements that train, of all ranks, as the run begins. Like all methods that go by the distance, it does best
    from a start that is not the solution already, such as a model that was trained for the same task: d can only
    grow. AdaGrad's step shrinks as 1/√k by itself: leave lr constant. For networks its authors found it
    behind Adam and Adam++, so prefer Prodigy there.

    γ = d·lr (with Adam's bias correction where it is on) unless stated, r = layer_scale, wd = weight_decay; Σ runs over
    all elements of all ranks. The update uses the d of before the step.

    Args:
        params: tensors, (name, tensor) pairs, or dicts of parameter groups.
        lr: multiplies d. Leave it at 1.0 and let a schedule shape it; a group with lr 0 does not move.
            A number >= 0; default 1.0.
        eps: added to the root in the denominator, for numerical stability. A number > 0; default 1e-08.
        weight_decay: decay, added to the gradient as weight_decay·x. A number >= 0; default 0.0.
        d0: first step length, until the weights have gone farther than that. A number > 0; default
            1e-06.
        layer_scale: step of a group relative to the others. A number >= 0; default 1.0.
        maximize: ascend instead of descend. True or False; default False.
        state_dtype: dtype of the buffers: torch.float32, torch.bfloat16 or torch.float64. None:
            float32, or the parameter's where that is more precise. Default None.
        statistics_dtype: dtype of s alone; torch.bfloat16, with stochastic rounding, saves memory and
            hardly changes d. Default None.
        backend: kernel that runs the step: 'auto' (the fastest), 'c', 'triton' or 'eager'. Default
            'auto'.
        freeze_after: number of steps >= 1 after which d stays, the buffers of the estimate are released
            and, but for nonfinite='skip' and 'raise', nothing is reduced. Default None.
        nonfinite: what a NaN or infinite gradient does: 'hold' (its element counts as 0, d stays),
            'skip' or 'raise'. None: 'hold', but what a GradScaler finds to overflow is skipped. Default
            None.
        sync: when a step waits for its reduce: in the 'next_step' (hidden) or in the 'step'. Default
            'next_step'.
        before: when sums that a method takes before the weights move count: in the step itself, by a
            blocking reduce ('exact'), or in the next step, hidden ('lagged'). The others take none.
            Default 'exact'.
        grad_norms: whether ‖g‖₁ and ‖g‖₂ of each step ride in its reduce, for `log_values`,
            `optimizer.grad_norms` and `dadapt-dist refine-schedule`. Default False.
        clip_norm: norm that the gradients of all parameters over all ranks are clipped to, as by
            torch's clip_grad_norm_; costs a blocking reduce of one number a step, or none where the
            norm rides in that of sums before the weights move (not of NGN, of MoMoAdam, nor of Mechanic
            around anything but SGD). None: they are taken as they are. Default None.
        estimates: 'per_tensor': a d for each tensor, under its name; or a list of the names that groups
            choose from. None: one d, or those that the groups name. Default None.
        process_group: ranks that train together. None: all. Default None.
        copies: for plain tensors that hold a slice: returns how many ranks hold the same elements.
            Default None.
        step_size: a StepSize shared with other optimizers, or a name: all optimizers of the process
            that give it share one. freeze_after, nonfinite, sync, before, grad_norms, clip_norm,
            estimates, process_group and copies then belong to it. Default None.

    Raises:
        ValueError: an option is out of its range; nothing is built.
        TypeError: a keyword is unknown; the message names the nearest.

    Example:
        >>> import torch, dadapt_dist.optimizers
        >>> model = torch.nn.Linear(4, 1)
        >>> optimizer = dadapt_dist.optimizers.AdaGradPP(model.parameters(), lr=1.0)
        >>> for _ in range(3):
        ...     loss = model(torch.ones(8, 4)).square().mean()
        ...     optimizer.zero_grad()
        ...     loss.backward()
        ...     optimizer.step()
        >>> optimizer.step_size.steps
        3

    References:
        Tao, Yuan, Zhou, Cao and Gu, Towards Simple and Provable Parameter-Free Adaptive Gradient
        Methods, arXiv 2412.19444, Algorithm 1.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1.0,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        d0: float = 1e-6,
        *,
        layer_scale: float = 1.0,
        maximize: bool = False,
        state_dtype: torch.dtype | None = None,
        statistics_dtype: torch.dtype | None = None,
        backend: Literal["auto", "c", "triton", "eager"] = "auto",
        freeze_after: int | None = None,
        nonfinite: Literal["hold", "skip", "raise"] | None = None,
        sync: Literal["next_step", "step"] = "next_step",
        before: Literal["exact", "lagged"] = "exact",
        grad_norms: bool = False,
        clip_norm: float | None = None,
        estimates: Sequence[str] | Literal["per_tensor"] | None = None,
        process_group: Any = None,
        copies: Callable[[Tensor], int | None] | None = None,
        step_size: StepSize | str | None = None,
    ) -> None: ...

class AdamPP(LearningRateFree):
    """Experimental: Adam whose step size is the distance gone so far, Adam++.

        start   p = Σ 1
        update  b = b1·beta1_decay^k;  m = b·m + (1-b)·g
                max:  v = b2·v + (1-b2)·g²;  V = max(V, v);  u = m/(√(k+1)·√V + eps)
                sum:  V = V + g²;  u = m/(√V + eps)
                x = x·(1 - wd·d·lr) - r·d·lr·u
        sums    dist_sq = Σ (x - x0)² with x of after the step
        rule    d = max(d, √(dist_sq/p))

    **Experimental.** It overshot in our trials on small noisy data sets: d, which never falls, followed weights that had
    gone too far, and the loss ended at 1.7 to 3 where other methods reached a fraction of it. Watch d and the held-out
    loss, and try normalizer="sum" or a smaller lr where they jump. Use Prodigy for work that matters.

    k counts the steps before this one, for all parameters alike. The step shrinks as 1/√k by itself. p is the number of
    elements that train, of all ranks, as the run begins. Its proofs are for convex losses and a beta1_decay below 1.

    γ = d·lr (with Adam's bias correction where it is on) unless stated, r = layer_scale, wd = weight_decay; Σ runs over
    all elements of all ranks. The update uses the d of before the step.

    Args:
        params: tensors, (name, tensor) pairs, or dicts of parameter groups.
        lr: multiplies d. Leave it at 1.0 and let a schedule shape it; a group with lr 0 does not move.
            A number >= 0; default 1.0.
        betas: averaging constants of the gradient and of its square. 2 numbers in [0, 1); default (0.9,
            0.999).
        beta1_decay: factor of betas[0] from step to step; the proofs want one below 1. A number > 0 and
            <= 1; default 1.0.
        normalizer: what divides the step: 'max' is √(k+1) times the largest root of the mean square so
            far, 'sum' AdaGrad's root. 'max' or 'sum'; default 'max'.
        eps: added to the root in the denominator, for numerical stability. A number > 0; default 1e-08.
        weight_decay: decoupled decay: a step shrinks x by weight_decay·d·lr. A number >= 0; default
            0.0.
        d0: first step length, until the weights have gone farther than that. A number > 0; default
            1e-06.
        layer_scale: step of a group relative to the others. A number >= 0; default 1.0.
        maximize: ascend instead of descend. True or False; default False.
        state_dtype: dtype of the buffers: torch.float32, torch.bfloat16 or torch.float64. None:
            float32, or the parameter's where that is more precise. Default None.
        statistics_dtype: dtype of s alone; torch.bfloat16, with stochastic rounding, saves memory and
            hardly changes d. Default None.
        backend: kernel that runs the step: 'auto' (the fastest), 'c', 'triton' or 'eager'. Default
            'auto'.
        freeze_after: number of steps >= 1 after which d stays, the buffers of the estimate are released
            and, but for nonfinite='skip' and 'raise', nothing is reduced. Default None.
        nonfinite: what a NaN or infinite gradient does: 'hold' (its element counts as 0, d stays),
            'skip' or 'raise'. None: 'hold', but what a GradScaler finds to overflow is skipped. Default
            None.
        sync: when a step waits for its reduce: in the 'next_step' (hidden) or in the 'step'. Default
            'next_step'.
        before: when sums that a method takes before the weights move count: in the step itself, by a
            blocking reduce ('exact'), or in the next step, hidden ('lagged'). The others take none.
            Default 'exact'.
        grad_norms: whether ‖g‖₁ and ‖g‖₂ of each step ride in its reduce, for `log_values`,
            `optimizer.grad_norms` and `dadapt-dist refine-schedule`. Default False.
        clip_norm: norm that the gradients of all parameters over all ranks are clipped to, as by
            torch's clip_grad_norm_; costs a blocking reduce of one number a step, or none where the
            norm rides in that of sums before the weights move (not of NGN, of MoMoAdam, nor of Mechanic
            around anything but SGD). None: they are taken as they are. Default None.
        estimates: 'per_tensor': a d for each tensor, under its name; or a list of the names that groups
            choose from. None: one d, or those that the groups name. Default None.
        process_group: ranks that train together. None: all. Default None.
        copies: for plain tensors that hold a slice: returns how many ranks hold the same elements.
            Default None.
        step_size: a StepSize shared with other optimizers, or a name: all optimizers of the process
            that give it share one. freeze_after, nonfinite, sync, before, grad_norms, clip_norm,
            estimates, process_group and copies then belong to it. Default None.

    Raises:
        ValueError: an option is out of its range; nothing is built.
        TypeError: a keyword is unknown; the message names the nearest.

    Example:
        >>> import torch, dadapt_dist.optimizers
        >>> model = torch.nn.Linear(4, 1)
        >>> optimizer = dadapt_dist.optimizers.AdamPP(model.parameters(), lr=1.0)
        >>> for _ in range(3):
        ...     loss = model(torch.ones(8, 4)).square().mean()
        ...     optimizer.zero_grad()
        ...     loss.backward()
        ...     optimizer.step()
        >>> optimizer.step_size.steps
        3

    References:
        Tao, Yuan, Zhou, Cao and Gu, Towards Simple and Provable Parameter-Free Adaptive Gradient
        Methods, arXiv 2412.19444, Algorithm 2.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1.0,
        betas: tuple[float, float] = (0.9, 0.999),
        beta1_decay: float = 1.0,
        normalizer: str = "max",
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        d0: float = 1e-6,
        *,
        layer_scale: float = 1.0,
        maximize: bool = False,
        state_dtype: torch.dtype | None = None,
        statistics_dtype: torch.dtype | None = None,
        backend: Literal["auto", "c", "triton", "eager"] = "auto",
        freeze_after: int | None = None,
        nonfinite: Literal["hold", "skip", "raise"] | None = None,
        sync: Literal["next_step", "step"] = "next_step",
        before: Literal["exact", "lagged"] = "exact",
        grad_norms: bool = False,
        clip_norm: float | None = None,
        estimates: Sequence[str] | Literal["per_tensor"] | None = None,
        process_group: Any = None,
        copies: Callable[[Tensor], int | None] | None = None,
        step_size: StepSize | str | None = None,
    ) -> None: ...

class COCOB(LearningRateFree):
    """Coin betting: every weight bets on the sign of its gradient.

        update  L = max(L, |g|);  G = G + |g|;  R = max(R - g·(x - x0), 0);  C = C - g
                z = x0 + r·C/(L·max(G + L, alpha·L))·(L + R);  x = x + lr·(z - x)

    Each weight has its own bet, so there are no sums: `optimizer.d` is NaN.

    γ = d·lr (with Adam's bias correction where it is on) unless stated, r = layer_scale, wd = weight_decay; Σ runs over
    all elements of all ranks. The update uses the d of before the step.

    Args:
        params: tensors, (name, tensor) pairs, or dicts of parameter groups.
        lr: part of each step that is taken; 1.0 is the method, a schedule may shape it. A number >= 0;
            default 1.0.
        alpha: bets of the first steps are at most 1/alpha of the wealth. A number > 0; default 100.0.
        eps: first value of the largest gradient L. A number > 0; default 1e-08.
        weight_decay: decay, added to the gradient as weight_decay·x. A number >= 0; default 0.0.
        layer_scale: step of a group relative to the others. A number >= 0; default 1.0.
        maximize: ascend instead of descend. True or False; default False.
        state_dtype: dtype of the buffers: torch.float32, torch.bfloat16 or torch.float64. None:
            float32, or the parameter's where that is more precise. Default None.
        statistics_dtype: dtype of s alone; torch.bfloat16, with stochastic rounding, saves memory and
            hardly changes d. Default None.
        backend: kernel that runs the step: 'auto' (the fastest), 'c', 'triton' or 'eager'. Default
            'auto'.
        freeze_after: number of steps >= 1 after which d stays, the buffers of the estimate are released
            and, but for nonfinite='skip' and 'raise', nothing is reduced. Default None.
        nonfinite: what a NaN or infinite gradient does: 'hold' (its element counts as 0, d stays),
            'skip' or 'raise'. None: 'hold', but what a GradScaler finds to overflow is skipped. Default
            None.
        sync: when a step waits for its reduce: in the 'next_step' (hidden) or in the 'step'. Default
            'next_step'.
        before: when sums that a method takes before the weights move count: in the step itself, by a
            blocking reduce ('exact'), or in the next step, hidden ('lagged'). The others take none.
            Default 'exact'.
        grad_norms: whether ‖g‖₁ and ‖g‖₂ of each step ride in its reduce, for `log_values`,
            `optimizer.grad_norms` and `dadapt-dist refine-schedule`. Default False.
        clip_norm: norm that the gradients of all parameters over all ranks are clipped to, as by
            torch's clip_grad_norm_; costs a blocking reduce of one number a step, or none where the
            norm rides in that of sums before the weights move (not of NGN, of MoMoAdam, nor of Mechanic
            around anything but SGD). None: they are taken as they are. Default None.
        estimates: 'per_tensor': a d for each tensor, under its name; or a list of the names that groups
            choose from. None: one d, or those that the groups name. Default None.
        process_group: ranks that train together. None: all. Default None.
        copies: for plain tensors that hold a slice: returns how many ranks hold the same elements.
            Default None.
        step_size: a StepSize shared with other optimizers, or a name: all optimizers of the process
            that give it share one. freeze_after, nonfinite, sync, before, grad_norms, clip_norm,
            estimates, process_group and copies then belong to it. Default None.

    Raises:
        ValueError: an option is out of its range; nothing is built.
        TypeError: a keyword is unknown; the message names the nearest.

    Example:
        >>> import torch, dadapt_dist.optimizers
        >>> model = torch.nn.Linear(4, 1)
        >>> optimizer = dadapt_dist.optimizers.COCOB(model.parameters(), lr=1.0)
        >>> for _ in range(3):
        ...     loss = model(torch.ones(8, 4)).square().mean()
        ...     optimizer.zero_grad()
        ...     loss.backward()
        ...     optimizer.step()
        >>> optimizer.step_size.steps
        3

    References:
        Orabona and Tommasi, Training Deep Networks without Learning Rates, arXiv 1705.07795, Algorithm
        2.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1.0,
        alpha: float = 100.0,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        layer_scale: float = 1.0,
        maximize: bool = False,
        state_dtype: torch.dtype | None = None,
        statistics_dtype: torch.dtype | None = None,
        backend: Literal["auto", "c", "triton", "eager"] = "auto",
        freeze_after: int | None = None,
        nonfinite: Literal["hold", "skip", "raise"] | None = None,
        sync: Literal["next_step", "step"] = "next_step",
        before: Literal["exact", "lagged"] = "exact",
        grad_norms: bool = False,
        clip_norm: float | None = None,
        estimates: Sequence[str] | Literal["per_tensor"] | None = None,
        process_group: Any = None,
        copies: Callable[[Tensor], int | None] | None = None,
        step_size: StepSize | str | None = None,
    ) -> None: ...

class CoordinateKT(LearningRateFree):
    """Coin betting with a wealth for every weight.

        update  L = max(L, |g|);  u = g/L;  W = max(W + u·(x0 - x), W/(t+1));  t = t + 1 where g != 0
                C = C - u;  z = x0 + r·C·W/t;  x = x + lr·(z - x)

    W starts at `first_wealth`, t at 1, L at eps. Each weight has its own bet, so there are no sums: `optimizer.d` is NaN.
    A weight without a gradient does not use up a round, which suits rare features.

    Use it for convex models, and where COCOB is too timid in its first 100 steps: KT bets all that the outcomes so far
    allow, and doubles its wealth within a few steps of one sign. For the same reason it overshoots on networks, whose
    gradients turn late; prefer COCOB or Prodigy there.

    γ = d·lr (with Adam's bias correction where it is on) unless stated, r = layer_scale, wd = weight_decay; Σ runs over
    all elements of all ranks. The update uses the d of before the step.

    Args:
        params: tensors, (name, tensor) pairs, or dicts of parameter groups.
        lr: part of each step that is taken; 1.0 is the method, a schedule may shape it. A number >= 0;
            default 1.0.
        first_wealth: wealth of each weight before its first bet, in units of x times its largest
            gradient. A number > 0; default 0.0001.
        eps: first value of the largest gradient L. A number > 0; default 1e-08.
        weight_decay: decay, added to the gradient as weight_decay·x. A number >= 0; default 0.0.
        layer_scale: step of a group relative to the others. A number >= 0; default 1.0.
        maximize: ascend instead of descend. True or False; default False.
        state_dtype: dtype of the buffers: torch.float32, torch.bfloat16 or torch.float64. None:
            float32, or the parameter's where that is more precise. Default None.
        statistics_dtype: dtype of s alone; torch.bfloat16, with stochastic rounding, saves memory and
            hardly changes d. Default None.
        backend: kernel that runs the step: 'auto' (the fastest), 'c', 'triton' or 'eager'. Default
            'auto'.
        freeze_after: number of steps >= 1 after which d stays, the buffers of the estimate are released
            and, but for nonfinite='skip' and 'raise', nothing is reduced. Default None.
        nonfinite: what a NaN or infinite gradient does: 'hold' (its element counts as 0, d stays),
            'skip' or 'raise'. None: 'hold', but what a GradScaler finds to overflow is skipped. Default
            None.
        sync: when a step waits for its reduce: in the 'next_step' (hidden) or in the 'step'. Default
            'next_step'.
        before: when sums that a method takes before the weights move count: in the step itself, by a
            blocking reduce ('exact'), or in the next step, hidden ('lagged'). The others take none.
            Default 'exact'.
        grad_norms: whether ‖g‖₁ and ‖g‖₂ of each step ride in its reduce, for `log_values`,
            `optimizer.grad_norms` and `dadapt-dist refine-schedule`. Default False.
        clip_norm: norm that the gradients of all parameters over all ranks are clipped to, as by
            torch's clip_grad_norm_; costs a blocking reduce of one number a step, or none where the
            norm rides in that of sums before the weights move (not of NGN, of MoMoAdam, nor of Mechanic
            around anything but SGD). None: they are taken as they are. Default None.
        estimates: 'per_tensor': a d for each tensor, under its name; or a list of the names that groups
            choose from. None: one d, or those that the groups name. Default None.
        process_group: ranks that train together. None: all. Default None.
        copies: for plain tensors that hold a slice: returns how many ranks hold the same elements.
            Default None.
        step_size: a StepSize shared with other optimizers, or a name: all optimizers of the process
            that give it share one. freeze_after, nonfinite, sync, before, grad_norms, clip_norm,
            estimates, process_group and copies then belong to it. Default None.

    Raises:
        ValueError: an option is out of its range; nothing is built.
        TypeError: a keyword is unknown; the message names the nearest.

    Example:
        >>> import torch, dadapt_dist.optimizers
        >>> model = torch.nn.Linear(4, 1)
        >>> optimizer = dadapt_dist.optimizers.CoordinateKT(model.parameters(), lr=1.0)
        >>> for _ in range(3):
        ...     loss = model(torch.ones(8, 4)).square().mean()
        ...     optimizer.zero_grad()
        ...     loss.backward()
        ...     optimizer.step()
        >>> optimizer.step_size.steps
        3

    References:
        Orabona and Pál, Coin Betting and Parameter-Free Online Learning, arXiv 1602.04128, Algorithm 1,
        for each coordinate.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1.0,
        first_wealth: float = 0.0001,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        layer_scale: float = 1.0,
        maximize: bool = False,
        state_dtype: torch.dtype | None = None,
        statistics_dtype: torch.dtype | None = None,
        backend: Literal["auto", "c", "triton", "eager"] = "auto",
        freeze_after: int | None = None,
        nonfinite: Literal["hold", "skip", "raise"] | None = None,
        sync: Literal["next_step", "step"] = "next_step",
        before: Literal["exact", "lagged"] = "exact",
        grad_norms: bool = False,
        clip_norm: float | None = None,
        estimates: Sequence[str] | Literal["per_tensor"] | None = None,
        process_group: Any = None,
        copies: Callable[[Tensor], int | None] | None = None,
        step_size: StepSize | str | None = None,
    ) -> None: ...

class DAdaptAdaGrad(LearningRateFree):
    """AdaGrad with D-Adaptation, for dense and sparse gradients.

        update  α = α + g², from 1e-6;  s = s + γ·g;  z = x0 - r·s/(√α + eps);  x = momentum·x + (1-momentum)·z
        sums    gsq = Σ r·γ²·g²/(√α + eps),  sksq = Σ r·s²/(√α + eps),  s_l1 = Σ r·|s|
        rule    G = G + gsq;  d_hat = (sksq - G)/s_l1;  d = max(d, min(d_hat, d·growth_rate))

    Takes sparse gradients, of which only the rows present are written; they need momentum and weight decay 0.

    γ = d·lr (with Adam's bias correction where it is on) unless stated, r = layer_scale, wd = weight_decay; Σ runs over
    all elements of all ranks. The update uses the d of before the step.

    Args:
        params: tensors, (name, tensor) pairs, or dicts of parameter groups.
        lr: multiplies d. Leave it at 1.0 and let a schedule shape it; a group with lr 0 does not move.
            A number >= 0; default 1.0.
        momentum: weight of the last iterate in the average that is the new one. A number in [0, 1);
            default 0.
        log_every: log d every so many steps through `logging`; 0 never. An integer >= 0; default 0.
        weight_decay: decay, added to the gradient as weight_decay·x. A number >= 0; default 0.0.
        eps: added to the root in the denominator, for numerical stability. A number > 0; default 1e-06.
        d0: first d; it only has to be smaller than the d to be found. A number > 0; default 1e-06.
        growth_rate: bound on the growth of d per step; inf sets none. A number >= 1, or inf; default
            inf.
        layer_scale: step of a group relative to the others. A number >= 0; default 1.0.
        maximize: ascend instead of descend. True or False; default False.
        state_dtype: dtype of the buffers: torch.float32, torch.bfloat16 or torch.float64. None:
            float32, or the parameter's where that is more precise. Default None.
        statistics_dtype: dtype of s alone; torch.bfloat16, with stochastic rounding, saves memory and
            hardly changes d. Default None.
        backend: kernel that runs the step: 'auto' (the fastest), 'c', 'triton' or 'eager'. Default
            'auto'.
        freeze_after: number of steps >= 1 after which d stays, the buffers of the estimate are released
            and, but for nonfinite='skip' and 'raise', nothing is reduced. Default None.
        nonfinite: what a NaN or infinite gradient does: 'hold' (its element counts as 0, d stays),
            'skip' or 'raise'. None: 'hold', but what a GradScaler finds to overflow is skipped. Default
            None.
        sync: when a step waits for its reduce: in the 'next_step' (hidden) or in the 'step'. Default
            'next_step'.
        before: when sums that a method takes before the weights move count: in the step itself, by a
            blocking reduce ('exact'), or in the next step, hidden ('lagged'). The others take none.
            Default 'exact'.
        grad_norms: whether ‖g‖₁ and ‖g‖₂ of each step ride in its reduce, for `log_values`,
            `optimizer.grad_norms` and `dadapt-dist refine-schedule`. Default False.
        clip_norm: norm that the gradients of all parameters over all ranks are clipped to, as by
            torch's clip_grad_norm_; costs a blocking reduce of one number a step, or none where the
            norm rides in that of sums before the weights move (not of NGN, of MoMoAdam, nor of Mechanic
            around anything but SGD). None: they are taken as they are. Default None.
        estimates: 'per_tensor': a d for each tensor, under its name; or a list of the names that groups
            choose from. None: one d, or those that the groups name. Default None.
        process_group: ranks that train together. None: all. Default None.
        copies: for plain tensors that hold a slice: returns how many ranks hold the same elements.
            Default None.
        step_size: a StepSize shared with other optimizers, or a name: all optimizers of the process
            that give it share one. freeze_after, nonfinite, sync, before, grad_norms, clip_norm,
            estimates, process_group and copies then belong to it. Default None.

    Raises:
        ValueError: an option is out of its range; nothing is built.
        TypeError: a keyword is unknown; the message names the nearest.

    Example:
        >>> import torch, dadapt_dist.optimizers
        >>> model = torch.nn.Linear(4, 1)
        >>> optimizer = dadapt_dist.optimizers.DAdaptAdaGrad(model.parameters(), lr=1.0)
        >>> for _ in range(3):
        ...     loss = model(torch.ones(8, 4)).square().mean()
        ...     optimizer.zero_grad()
        ...     loss.backward()
        ...     optimizer.step()
        >>> optimizer.step_size.steps
        3

    References:
        Defazio and Mishchenko, Learning-Rate-Free Learning by D-Adaptation, arXiv 2301.07733.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1.0,
        momentum: float = 0,
        log_every: int = 0,
        weight_decay: float = 0.0,
        eps: float = 1e-6,
        d0: float = 1e-6,
        growth_rate: float = float("inf"),
        *,
        layer_scale: float = 1.0,
        maximize: bool = False,
        state_dtype: torch.dtype | None = None,
        statistics_dtype: torch.dtype | None = None,
        backend: Literal["auto", "c", "triton", "eager"] = "auto",
        freeze_after: int | None = None,
        nonfinite: Literal["hold", "skip", "raise"] | None = None,
        sync: Literal["next_step", "step"] = "next_step",
        before: Literal["exact", "lagged"] = "exact",
        grad_norms: bool = False,
        clip_norm: float | None = None,
        estimates: Sequence[str] | Literal["per_tensor"] | None = None,
        process_group: Any = None,
        copies: Callable[[Tensor], int | None] | None = None,
        step_size: StepSize | str | None = None,
    ) -> None: ...

class DAdaptAdam(LearningRateFree):
    """Adam with D-Adaptation.

        update  m = b1·m + (1-b1)·r·γ·g;  v = b2·v + (1-b2)·g²;  s = √b2·s + (1-√b2)·γ·g
                x = x·(1 - wd·γ) - m/(√v + eps)
        sums    inner = Σ r·γ·g·s/(√v + eps) with s and v of before the step,  s_l1 = Σ r·|s|
        rule    num = √b2·num + (1-√b2)·inner;  d_hat = num/((1-√b2)·s_l1);  d = max(d, min(d_hat, d·growth_rate))

    γ = d·lr (with Adam's bias correction where it is on) unless stated, r = layer_scale, wd = weight_decay; Σ runs over
    all elements of all ranks. The update uses the d of before the step.

    Args:
        params: tensors, (name, tensor) pairs, or dicts of parameter groups.
        lr: multiplies d. Leave it at 1.0 and let a schedule shape it; a group with lr 0 does not move.
            A number >= 0; default 1.0.
        betas: averaging constants of the gradient and of its square. 2 numbers in [0, 1); default (0.9,
            0.999).
        eps: added to the root in the denominator, for numerical stability. A number > 0; default 1e-08.
        weight_decay: decay, added to the gradient as weight_decay·x. A number >= 0; default 0.
        log_every: log d every so many steps through `logging`; 0 never. An integer >= 0; default 0.
        decouple: decay the parameters themselves, by weight_decay·d·lr a step. True or False; default
            False.
        use_bias_correction: Adam's bias correction, for long runs: d grows more slowly. True or False;
            default False.
        d0: first d; it only has to be smaller than the d to be found. A number > 0; default 1e-06.
        growth_rate: bound on the growth of d per step; inf sets none. A number >= 1, or inf; default
            inf.
        fsdp_in_use: accepted for compatibility and not needed: sharding is read from the parameters.
            Default False.
        layer_scale: step of a group relative to the others. A number >= 0; default 1.0.
        maximize: ascend instead of descend. True or False; default False.
        state_dtype: dtype of the buffers: torch.float32, torch.bfloat16 or torch.float64. None:
            float32, or the parameter's where that is more precise. Default None.
        statistics_dtype: dtype of s alone; torch.bfloat16, with stochastic rounding, saves memory and
            hardly changes d. Default None.
        backend: kernel that runs the step: 'auto' (the fastest), 'c', 'triton' or 'eager'. Default
            'auto'.
        freeze_after: number of steps >= 1 after which d stays, the buffers of the estimate are released
            and, but for nonfinite='skip' and 'raise', nothing is reduced. Default None.
        nonfinite: what a NaN or infinite gradient does: 'hold' (its element counts as 0, d stays),
            'skip' or 'raise'. None: 'hold', but what a GradScaler finds to overflow is skipped. Default
            None.
        sync: when a step waits for its reduce: in the 'next_step' (hidden) or in the 'step'. Default
            'next_step'.
        before: when sums that a method takes before the weights move count: in the step itself, by a
            blocking reduce ('exact'), or in the next step, hidden ('lagged'). The others take none.
            Default 'exact'.
        grad_norms: whether ‖g‖₁ and ‖g‖₂ of each step ride in its reduce, for `log_values`,
            `optimizer.grad_norms` and `dadapt-dist refine-schedule`. Default False.
        clip_norm: norm that the gradients of all parameters over all ranks are clipped to, as by
            torch's clip_grad_norm_; costs a blocking reduce of one number a step, or none where the
            norm rides in that of sums before the weights move (not of NGN, of MoMoAdam, nor of Mechanic
            around anything but SGD). None: they are taken as they are. Default None.
        estimates: 'per_tensor': a d for each tensor, under its name; or a list of the names that groups
            choose from. None: one d, or those that the groups name. Default None.
        process_group: ranks that train together. None: all. Default None.
        copies: for plain tensors that hold a slice: returns how many ranks hold the same elements.
            Default None.
        step_size: a StepSize shared with other optimizers, or a name: all optimizers of the process
            that give it share one. freeze_after, nonfinite, sync, before, grad_norms, clip_norm,
            estimates, process_group and copies then belong to it. Default None.

    Raises:
        ValueError: an option is out of its range; nothing is built.
        TypeError: a keyword is unknown; the message names the nearest.

    Example:
        >>> import torch, dadapt_dist.optimizers
        >>> model = torch.nn.Linear(4, 1)
        >>> optimizer = dadapt_dist.optimizers.DAdaptAdam(model.parameters(), lr=1.0)
        >>> for _ in range(3):
        ...     loss = model(torch.ones(8, 4)).square().mean()
        ...     optimizer.zero_grad()
        ...     loss.backward()
        ...     optimizer.step()
        >>> optimizer.step_size.steps
        3

    References:
        Defazio and Mishchenko, Learning-Rate-Free Learning by D-Adaptation, arXiv 2301.07733, in its
        released form.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        log_every: int = 0,
        decouple: bool = False,
        use_bias_correction: bool = False,
        d0: float = 1e-6,
        growth_rate: float = float("inf"),
        fsdp_in_use: bool = False,
        *,
        layer_scale: float = 1.0,
        maximize: bool = False,
        state_dtype: torch.dtype | None = None,
        statistics_dtype: torch.dtype | None = None,
        backend: Literal["auto", "c", "triton", "eager"] = "auto",
        freeze_after: int | None = None,
        nonfinite: Literal["hold", "skip", "raise"] | None = None,
        sync: Literal["next_step", "step"] = "next_step",
        before: Literal["exact", "lagged"] = "exact",
        grad_norms: bool = False,
        clip_norm: float | None = None,
        estimates: Sequence[str] | Literal["per_tensor"] | None = None,
        process_group: Any = None,
        copies: Callable[[Tensor], int | None] | None = None,
        step_size: StepSize | str | None = None,
    ) -> None: ...

class DAdaptAdan(LearningRateFree):
    """Adan with D-Adaptation.

        update  diff = g - g_prev, 0 at a parameter's first step;  u = g + b2·diff
                m = b1·m + (1-b1)·r·γ·g;  n = b2·n + (1-b2)·r·γ·diff;  v = b3·v + (1-b3)·u²;  den = √v + eps
                s = b3·s + (1-b3)·γ·g
                x = (x - (m + b2·n)/den)/(1 + γ·wd);  with no_prox: x = x·(1 - γ·wd) - (m + b2·n)/den
        sums    gsq = Σ r·γ²·g²/den,  sksq = Σ r·s²/den,  s_l1 = Σ r·|s|
        rule    G = b3·G + (1-b3)·gsq;  d_hat = (sksq/(1-b3) - G)/s_l1;  d = max(d, min(d_hat, d·growth_rate))

    γ = d·lr (with Adam's bias correction where it is on) unless stated, r = layer_scale, wd = weight_decay; Σ runs over
    all elements of all ranks. The update uses the d of before the step.

    Args:
        params: tensors, (name, tensor) pairs, or dicts of parameter groups.
        lr: multiplies d. Leave it at 1.0 and let a schedule shape it; a group with lr 0 does not move.
            A number >= 0; default 1.0.
        betas: averaging constants of the gradient, of its difference and of the square. 3 numbers in
            [0, 1); default (0.98, 0.92, 0.99).
        eps: added to the root in the denominator, for numerical stability. A number > 0; default 1e-08.
        weight_decay: decay of the parameters, by weight_decay·d·lr a step. A number >= 0; default 0.02.
        no_prox: shrink the parameters by (1 - weight_decay·d·lr) before the step, not after it. True or
            False; default False.
        log_every: log d every so many steps through `logging`; 0 never. An integer >= 0; default 0.
        d0: first d; it only has to be smaller than the d to be found. A number > 0; default 1e-06.
        growth_rate: bound on the growth of d per step; inf sets none. A number >= 1, or inf; default
            inf.
        layer_scale: step of a group relative to the others. A number >= 0; default 1.0.
        maximize: ascend instead of descend. True or False; default False.
        state_dtype: dtype of the buffers: torch.float32, torch.bfloat16 or torch.float64. None:
            float32, or the parameter's where that is more precise. Default None.
        statistics_dtype: dtype of s alone; torch.bfloat16, with stochastic rounding, saves memory and
            hardly changes d. Default None.
        backend: kernel that runs the step: 'auto' (the fastest), 'c', 'triton' or 'eager'. Default
            'auto'.
        freeze_after: number of steps >= 1 after which d stays, the buffers of the estimate are released
            and, but for nonfinite='skip' and 'raise', nothing is reduced. Default None.
        nonfinite: what a NaN or infinite gradient does: 'hold' (its element counts as 0, d stays),
            'skip' or 'raise'. None: 'hold', but what a GradScaler finds to overflow is skipped. Default
            None.
        sync: when a step waits for its reduce: in the 'next_step' (hidden) or in the 'step'. Default
            'next_step'.
        before: when sums that a method takes before the weights move count: in the step itself, by a
            blocking reduce ('exact'), or in the next step, hidden ('lagged'). The others take none.
            Default 'exact'.
        grad_norms: whether ‖g‖₁ and ‖g‖₂ of each step ride in its reduce, for `log_values`,
            `optimizer.grad_norms` and `dadapt-dist refine-schedule`. Default False.
        clip_norm: norm that the gradients of all parameters over all ranks are clipped to, as by
            torch's clip_grad_norm_; costs a blocking reduce of one number a step, or none where the
            norm rides in that of sums before the weights move (not of NGN, of MoMoAdam, nor of Mechanic
            around anything but SGD). None: they are taken as they are. Default None.
        estimates: 'per_tensor': a d for each tensor, under its name; or a list of the names that groups
            choose from. None: one d, or those that the groups name. Default None.
        process_group: ranks that train together. None: all. Default None.
        copies: for plain tensors that hold a slice: returns how many ranks hold the same elements.
            Default None.
        step_size: a StepSize shared with other optimizers, or a name: all optimizers of the process
            that give it share one. freeze_after, nonfinite, sync, before, grad_norms, clip_norm,
            estimates, process_group and copies then belong to it. Default None.

    Raises:
        ValueError: an option is out of its range; nothing is built.
        TypeError: a keyword is unknown; the message names the nearest.

    Example:
        >>> import torch, dadapt_dist.optimizers
        >>> model = torch.nn.Linear(4, 1)
        >>> optimizer = dadapt_dist.optimizers.DAdaptAdan(model.parameters(), lr=1.0)
        >>> for _ in range(3):
        ...     loss = model(torch.ones(8, 4)).square().mean()
        ...     optimizer.zero_grad()
        ...     loss.backward()
        ...     optimizer.step()
        >>> optimizer.step_size.steps
        3

    References:
        released beside Defazio and Mishchenko, arXiv 2301.07733; Adan: Xie et al., arXiv 2208.06677.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1.0,
        betas: tuple[float, float, float] = (0.98, 0.92, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0.02,
        no_prox: bool = False,
        log_every: int = 0,
        d0: float = 1e-6,
        growth_rate: float = float("inf"),
        *,
        layer_scale: float = 1.0,
        maximize: bool = False,
        state_dtype: torch.dtype | None = None,
        statistics_dtype: torch.dtype | None = None,
        backend: Literal["auto", "c", "triton", "eager"] = "auto",
        freeze_after: int | None = None,
        nonfinite: Literal["hold", "skip", "raise"] | None = None,
        sync: Literal["next_step", "step"] = "next_step",
        before: Literal["exact", "lagged"] = "exact",
        grad_norms: bool = False,
        clip_norm: float | None = None,
        estimates: Sequence[str] | Literal["per_tensor"] | None = None,
        process_group: Any = None,
        copies: Callable[[Tensor], int | None] | None = None,
        step_size: StepSize | str | None = None,
    ) -> None: ...

class DAdaptLion(LearningRateFree):
    """Lion with D-Adaptation.

        update  u = sign(b1·m + (1-b1)·g);  x = x·(1 - γ·wd) - r·γ·u;  m = b2·m + (1-b2)·γ·g;  s = √b2·s + (1-√b2)·γ·u
        sums    inner = Σ r·γ·u·s with s of before the step,  s_l1 = Σ r·|s|
        rule    num = √b2·num + (1-√b2)·inner;  d_hat = num/((1-√b2)·s_l1);  d = max(d, d_hat)

    γ = d·lr (with Adam's bias correction where it is on) unless stated, r = layer_scale, wd = weight_decay; Σ runs over
    all elements of all ranks. The update uses the d of before the step.

    Args:
        params: tensors, (name, tensor) pairs, or dicts of parameter groups.
        lr: multiplies d. Leave it at 1.0 and let a schedule shape it; a group with lr 0 does not move.
            A number >= 0; default 1.0.
        betas: averaging constants of the update and of the momentum. 2 numbers in [0, 1); default (0.9,
            0.99).
        weight_decay: decay of the parameters, by weight_decay·d·lr a step. A number >= 0; default 0.0.
        log_every: log d every so many steps through `logging`; 0 never. An integer >= 0; default 0.
        d0: first d; it only has to be smaller than the d to be found. A number > 0; default 1e-06.
        fsdp_in_use: accepted for compatibility and not needed: sharding is read from the parameters.
            Default False.
        layer_scale: step of a group relative to the others. A number >= 0; default 1.0.
        maximize: ascend instead of descend. True or False; default False.
        state_dtype: dtype of the buffers: torch.float32, torch.bfloat16 or torch.float64. None:
            float32, or the parameter's where that is more precise. Default None.
        statistics_dtype: dtype of s alone; torch.bfloat16, with stochastic rounding, saves memory and
            hardly changes d. Default None.
        backend: kernel that runs the step: 'auto' (the fastest), 'c', 'triton' or 'eager'. Default
            'auto'.
        freeze_after: number of steps >= 1 after which d stays, the buffers of the estimate are released
            and, but for nonfinite='skip' and 'raise', nothing is reduced. Default None.
        nonfinite: what a NaN or infinite gradient does: 'hold' (its element counts as 0, d stays),
            'skip' or 'raise'. None: 'hold', but what a GradScaler finds to overflow is skipped. Default
            None.
        sync: when a step waits for its reduce: in the 'next_step' (hidden) or in the 'step'. Default
            'next_step'.
        before: when sums that a method takes before the weights move count: in the step itself, by a
            blocking reduce ('exact'), or in the next step, hidden ('lagged'). The others take none.
            Default 'exact'.
        grad_norms: whether ‖g‖₁ and ‖g‖₂ of each step ride in its reduce, for `log_values`,
            `optimizer.grad_norms` and `dadapt-dist refine-schedule`. Default False.
        clip_norm: norm that the gradients of all parameters over all ranks are clipped to, as by
            torch's clip_grad_norm_; costs a blocking reduce of one number a step, or none where the
            norm rides in that of sums before the weights move (not of NGN, of MoMoAdam, nor of Mechanic
            around anything but SGD). None: they are taken as they are. Default None.
        estimates: 'per_tensor': a d for each tensor, under its name; or a list of the names that groups
            choose from. None: one d, or those that the groups name. Default None.
        process_group: ranks that train together. None: all. Default None.
        copies: for plain tensors that hold a slice: returns how many ranks hold the same elements.
            Default None.
        step_size: a StepSize shared with other optimizers, or a name: all optimizers of the process
            that give it share one. freeze_after, nonfinite, sync, before, grad_norms, clip_norm,
            estimates, process_group and copies then belong to it. Default None.

    Raises:
        ValueError: an option is out of its range; nothing is built.
        TypeError: a keyword is unknown; the message names the nearest.

    Example:
        >>> import torch, dadapt_dist.optimizers
        >>> model = torch.nn.Linear(4, 1)
        >>> optimizer = dadapt_dist.optimizers.DAdaptLion(model.parameters(), lr=1.0)
        >>> for _ in range(3):
        ...     loss = model(torch.ones(8, 4)).square().mean()
        ...     optimizer.zero_grad()
        ...     loss.backward()
        ...     optimizer.step()
        >>> optimizer.step_size.steps
        3

    References:
        released beside Defazio and Mishchenko, arXiv 2301.07733; Lion: Chen et al., arXiv 2302.06675.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1.0,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        log_every: int = 0,
        d0: float = 1e-6,
        fsdp_in_use: bool = False,
        *,
        layer_scale: float = 1.0,
        maximize: bool = False,
        state_dtype: torch.dtype | None = None,
        statistics_dtype: torch.dtype | None = None,
        backend: Literal["auto", "c", "triton", "eager"] = "auto",
        freeze_after: int | None = None,
        nonfinite: Literal["hold", "skip", "raise"] | None = None,
        sync: Literal["next_step", "step"] = "next_step",
        before: Literal["exact", "lagged"] = "exact",
        grad_norms: bool = False,
        clip_norm: float | None = None,
        estimates: Sequence[str] | Literal["per_tensor"] | None = None,
        process_group: Any = None,
        copies: Callable[[Tensor], int | None] | None = None,
        step_size: StepSize | str | None = None,
    ) -> None: ...

class DAdaptSGD(LearningRateFree):
    """SGD with D-Adaptation and momentum.

        update  γ = d·lr/‖g0‖;  s = s + γ·g;  x = momentum·x + (1-momentum)·(x0 - r·s)
        sums    inner = Σ r·γ·g·s with s of before the step,  s_sq = Σ r·s²
        rule    num = num + inner;  d_hat = 2·num/√s_sq;  d = max(d, min(d_hat, d·growth_rate))

    ‖g0‖² = Σ r·g² of the first step whose gradients are not all zero. It is needed before that step's
    update: one blocking reduce, once. Until then nothing moves. Where a framework brings a step in pieces (ZeRO), and
    with before="lagged", that step only measures, and the first update is one step later.

    γ = d·lr (with Adam's bias correction where it is on) unless stated, r = layer_scale, wd = weight_decay; Σ runs over
    all elements of all ranks. The update uses the d of before the step.

    Args:
        params: tensors, (name, tensor) pairs, or dicts of parameter groups.
        lr: multiplies d. Leave it at 1.0 and let a schedule shape it; a group with lr 0 does not move.
            A number >= 0; default 1.0.
        momentum: weight of the last iterate in the average that is the new one. A number in [0, 1);
            default 0.0.
        weight_decay: decay, added to the gradient as weight_decay·x. A number >= 0; default 0.
        log_every: log d every so many steps through `logging`; 0 never. An integer >= 0; default 0.
        d0: first d; it only has to be smaller than the d to be found. A number > 0; default 1e-06.
        growth_rate: bound on the growth of d per step; inf sets none. A number >= 1, or inf; default
            inf.
        fsdp_in_use: accepted for compatibility and not needed: sharding is read from the parameters.
            Default False.
        layer_scale: step of a group relative to the others. A number >= 0; default 1.0.
        maximize: ascend instead of descend. True or False; default False.
        state_dtype: dtype of the buffers: torch.float32, torch.bfloat16 or torch.float64. None:
            float32, or the parameter's where that is more precise. Default None.
        statistics_dtype: dtype of s alone; torch.bfloat16, with stochastic rounding, saves memory and
            hardly changes d. Default None.
        backend: kernel that runs the step: 'auto' (the fastest), 'c', 'triton' or 'eager'. Default
            'auto'.
        freeze_after: number of steps >= 1 after which d stays, the buffers of the estimate are released
            and, but for nonfinite='skip' and 'raise', nothing is reduced. Default None.
        nonfinite: what a NaN or infinite gradient does: 'hold' (its element counts as 0, d stays),
            'skip' or 'raise'. None: 'hold', but what a GradScaler finds to overflow is skipped. Default
            None.
        sync: when a step waits for its reduce: in the 'next_step' (hidden) or in the 'step'. Default
            'next_step'.
        before: when sums that a method takes before the weights move count: in the step itself, by a
            blocking reduce ('exact'), or in the next step, hidden ('lagged'). The others take none.
            Default 'exact'.
        grad_norms: whether ‖g‖₁ and ‖g‖₂ of each step ride in its reduce, for `log_values`,
            `optimizer.grad_norms` and `dadapt-dist refine-schedule`. Default False.
        clip_norm: norm that the gradients of all parameters over all ranks are clipped to, as by
            torch's clip_grad_norm_; costs a blocking reduce of one number a step, or none where the
            norm rides in that of sums before the weights move (not of NGN, of MoMoAdam, nor of Mechanic
            around anything but SGD). None: they are taken as they are. Default None.
        estimates: 'per_tensor': a d for each tensor, under its name; or a list of the names that groups
            choose from. None: one d, or those that the groups name. Default None.
        process_group: ranks that train together. None: all. Default None.
        copies: for plain tensors that hold a slice: returns how many ranks hold the same elements.
            Default None.
        step_size: a StepSize shared with other optimizers, or a name: all optimizers of the process
            that give it share one. freeze_after, nonfinite, sync, before, grad_norms, clip_norm,
            estimates, process_group and copies then belong to it. Default None.

    Raises:
        ValueError: an option is out of its range; nothing is built.
        TypeError: a keyword is unknown; the message names the nearest.

    Example:
        >>> import torch, dadapt_dist.optimizers
        >>> model = torch.nn.Linear(4, 1)
        >>> optimizer = dadapt_dist.optimizers.DAdaptSGD(model.parameters(), lr=1.0)
        >>> for _ in range(3):
        ...     loss = model(torch.ones(8, 4)).square().mean()
        ...     optimizer.zero_grad()
        ...     loss.backward()
        ...     optimizer.step()
        >>> optimizer.step_size.steps
        3

    References:
        Defazio and Mishchenko, Learning-Rate-Free Learning by D-Adaptation, arXiv 2301.07733.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1.0,
        momentum: float = 0.0,
        weight_decay: float = 0,
        log_every: int = 0,
        d0: float = 1e-6,
        growth_rate: float = float("inf"),
        fsdp_in_use: bool = False,
        *,
        layer_scale: float = 1.0,
        maximize: bool = False,
        state_dtype: torch.dtype | None = None,
        statistics_dtype: torch.dtype | None = None,
        backend: Literal["auto", "c", "triton", "eager"] = "auto",
        freeze_after: int | None = None,
        nonfinite: Literal["hold", "skip", "raise"] | None = None,
        sync: Literal["next_step", "step"] = "next_step",
        before: Literal["exact", "lagged"] = "exact",
        grad_norms: bool = False,
        clip_norm: float | None = None,
        estimates: Sequence[str] | Literal["per_tensor"] | None = None,
        process_group: Any = None,
        copies: Callable[[Tensor], int | None] | None = None,
        step_size: StepSize | str | None = None,
    ) -> None: ...

class DoG(LearningRateFree):
    """SGD whose step size is distance over gradients.

        start   d = reps_rel·(1 + ‖x0‖)
        before  d = max(d, ‖x - x0‖);  G = G + ‖g‖²
        update  x = x - r·lr·d/√(G + eps)·g
        average x̄ = x̄ + (1 + average)/(t + average)·(x - x̄),  t = 1, 2, ... the steps in which something moved

    Both norms are those of the very step: one blocking reduce a step, or, with before="lagged", those of
    the step before, hidden. The steps fall only as 1/√t, so the last weights are noisy: the paper calls an average
    crucial. With average=8.0 it is kept as a buffer, and eval() puts it into the model; or let lr decay to 0.

    γ = d·lr (with Adam's bias correction where it is on) unless stated, r = layer_scale, wd = weight_decay; Σ runs over
    all elements of all ranks. The update uses the d of before the step.

    Args:
        params: tensors, (name, tensor) pairs, or dicts of parameter groups.
        lr: multiplies d. Leave it at 1.0 and let a schedule shape it; a group with lr 0 does not move.
            A number >= 0; default 1.0.
        reps_rel: first distance, relative to 1 + ‖x0‖; 1e-4 for networks with BatchNorm. A number > 0;
            default 1e-06.
        eps: added to G under the root, for numerical stability. A number > 0; default 1e-08.
        weight_decay: decay, added to the gradient as weight_decay·x. A number >= 0; default 0.0.
        layer_scale: step of a group relative to the others. A number >= 0; default 1.0.
        maximize: ascend instead of descend. True or False; default False.
        average: γ of the average of the weights that eval() shows: 8.0 in DoG's paper. One more buffer;
            None keeps none. None or a number >= 0; default None.
        state_dtype: dtype of the buffers: torch.float32, torch.bfloat16 or torch.float64. None:
            float32, or the parameter's where that is more precise. Default None.
        statistics_dtype: dtype of s alone; torch.bfloat16, with stochastic rounding, saves memory and
            hardly changes d. Default None.
        backend: kernel that runs the step: 'auto' (the fastest), 'c', 'triton' or 'eager'. Default
            'auto'.
        freeze_after: number of steps >= 1 after which d stays, the buffers of the estimate are released
            and, but for nonfinite='skip' and 'raise', nothing is reduced. Default None.
        nonfinite: what a NaN or infinite gradient does: 'hold' (its element counts as 0, d stays),
            'skip' or 'raise'. None: 'hold', but what a GradScaler finds to overflow is skipped. Default
            None.
        sync: when a step waits for its reduce: in the 'next_step' (hidden) or in the 'step'. Default
            'next_step'.
        before: when sums that a method takes before the weights move count: in the step itself, by a
            blocking reduce ('exact'), or in the next step, hidden ('lagged'). The others take none.
            Default 'exact'.
        grad_norms: whether ‖g‖₁ and ‖g‖₂ of each step ride in its reduce, for `log_values`,
            `optimizer.grad_norms` and `dadapt-dist refine-schedule`. Default False.
        clip_norm: norm that the gradients of all parameters over all ranks are clipped to, as by
            torch's clip_grad_norm_; costs a blocking reduce of one number a step, or none where the
            norm rides in that of sums before the weights move (not of NGN, of MoMoAdam, nor of Mechanic
            around anything but SGD). None: they are taken as they are. Default None.
        estimates: 'per_tensor': a d for each tensor, under its name; or a list of the names that groups
            choose from. None: one d, or those that the groups name. Default None.
        process_group: ranks that train together. None: all. Default None.
        copies: for plain tensors that hold a slice: returns how many ranks hold the same elements.
            Default None.
        step_size: a StepSize shared with other optimizers, or a name: all optimizers of the process
            that give it share one. freeze_after, nonfinite, sync, before, grad_norms, clip_norm,
            estimates, process_group and copies then belong to it. Default None.

    Raises:
        ValueError: an option is out of its range; nothing is built.
        TypeError: a keyword is unknown; the message names the nearest.

    Example:
        >>> import torch, dadapt_dist.optimizers
        >>> model = torch.nn.Linear(4, 1)
        >>> optimizer = dadapt_dist.optimizers.DoG(model.parameters(), lr=1.0)
        >>> for _ in range(3):
        ...     loss = model(torch.ones(8, 4)).square().mean()
        ...     optimizer.zero_grad()
        ...     loss.backward()
        ...     optimizer.step()
        >>> optimizer.step_size.steps
        3

    References:
        Ivgi, Hinder and Carmon, DoG is SGD's Best Friend, arXiv 2302.12022, equations 1 and 2.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1.0,
        reps_rel: float = 1e-6,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        layer_scale: float = 1.0,
        maximize: bool = False,
        average: float | None = None,
        state_dtype: torch.dtype | None = None,
        statistics_dtype: torch.dtype | None = None,
        backend: Literal["auto", "c", "triton", "eager"] = "auto",
        freeze_after: int | None = None,
        nonfinite: Literal["hold", "skip", "raise"] | None = None,
        sync: Literal["next_step", "step"] = "next_step",
        before: Literal["exact", "lagged"] = "exact",
        grad_norms: bool = False,
        clip_norm: float | None = None,
        estimates: Sequence[str] | Literal["per_tensor"] | None = None,
        process_group: Any = None,
        copies: Callable[[Tensor], int | None] | None = None,
        step_size: StepSize | str | None = None,
    ) -> None: ...

class LDoG(LearningRateFree):
    """DoG with a distance and a sum of gradients for each tensor: a step size of its own.

        DoG for each tensor of the model, as if it had an optimizer to itself

    The class is DoG(estimates="per_tensor"), and its checkpoints are those of DoG so built. What packs tensors
    into flat ones (FSDP1 without use_orig_params, ZeRO) and pipelines raise. An average has one t for all
    tensors.

    γ = d·lr (with Adam's bias correction where it is on) unless stated, r = layer_scale, wd = weight_decay; Σ runs over
    all elements of all ranks. The update uses the d of before the step.

    Args:
        params: tensors, (name, tensor) pairs, or dicts of parameter groups.
        lr: multiplies d. Leave it at 1.0 and let a schedule shape it; a group with lr 0 does not move.
            A number >= 0; default 1.0.
        reps_rel: first distance, relative to 1 + ‖x0‖; 1e-4 for networks with BatchNorm. A number > 0;
            default 1e-06.
        eps: added to G under the root, for numerical stability. A number > 0; default 1e-08.
        weight_decay: decay, added to the gradient as weight_decay·x. A number >= 0; default 0.0.
        layer_scale: step of a group relative to the others. A number >= 0; default 1.0.
        maximize: ascend instead of descend. True or False; default False.
        average: γ of the average of the weights that eval() shows: 8.0 in DoG's paper. One more buffer;
            None keeps none. None or a number >= 0; default None.
        state_dtype: dtype of the buffers: torch.float32, torch.bfloat16 or torch.float64. None:
            float32, or the parameter's where that is more precise. Default None.
        statistics_dtype: dtype of s alone; torch.bfloat16, with stochastic rounding, saves memory and
            hardly changes d. Default None.
        backend: kernel that runs the step: 'auto' (the fastest), 'c', 'triton' or 'eager'. Default
            'auto'.
        freeze_after: number of steps >= 1 after which d stays, the buffers of the estimate are released
            and, but for nonfinite='skip' and 'raise', nothing is reduced. Default None.
        nonfinite: what a NaN or infinite gradient does: 'hold' (its element counts as 0, d stays),
            'skip' or 'raise'. None: 'hold', but what a GradScaler finds to overflow is skipped. Default
            None.
        sync: when a step waits for its reduce: in the 'next_step' (hidden) or in the 'step'. Default
            'next_step'.
        before: when sums that a method takes before the weights move count: in the step itself, by a
            blocking reduce ('exact'), or in the next step, hidden ('lagged'). The others take none.
            Default 'exact'.
        grad_norms: whether ‖g‖₁ and ‖g‖₂ of each step ride in its reduce, for `log_values`,
            `optimizer.grad_norms` and `dadapt-dist refine-schedule`. Default False.
        clip_norm: norm that the gradients of all parameters over all ranks are clipped to, as by
            torch's clip_grad_norm_; costs a blocking reduce of one number a step, or none where the
            norm rides in that of sums before the weights move (not of NGN, of MoMoAdam, nor of Mechanic
            around anything but SGD). None: they are taken as they are. Default None.
        estimates: 'per_tensor': a d for each tensor, under its name; or a list of the names that groups
            choose from. None: one d, or those that the groups name. Default 'per_tensor'.
        process_group: ranks that train together. None: all. Default None.
        copies: for plain tensors that hold a slice: returns how many ranks hold the same elements.
            Default None.
        step_size: a StepSize shared with other optimizers, or a name: all optimizers of the process
            that give it share one. freeze_after, nonfinite, sync, before, grad_norms, clip_norm,
            estimates, process_group and copies then belong to it. Default None.

    Raises:
        ValueError: an option is out of its range; nothing is built.
        TypeError: a keyword is unknown; the message names the nearest.

    Example:
        >>> import torch, dadapt_dist.optimizers
        >>> model = torch.nn.Linear(4, 1)
        >>> optimizer = dadapt_dist.optimizers.LDoG(model.parameters(), lr=1.0)
        >>> for _ in range(3):
        ...     loss = model(torch.ones(8, 4)).square().mean()
        ...     optimizer.zero_grad()
        ...     loss.backward()
        ...     optimizer.step()
        >>> optimizer.step_size.steps
        3

    References:
        Ivgi, Hinder and Carmon, DoG is SGD's Best Friend, arXiv 2302.12022, L-DoG.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1.0,
        reps_rel: float = 1e-6,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        layer_scale: float = 1.0,
        maximize: bool = False,
        average: float | None = None,
        state_dtype: torch.dtype | None = None,
        statistics_dtype: torch.dtype | None = None,
        backend: Literal["auto", "c", "triton", "eager"] = "auto",
        freeze_after: int | None = None,
        nonfinite: Literal["hold", "skip", "raise"] | None = None,
        sync: Literal["next_step", "step"] = "next_step",
        before: Literal["exact", "lagged"] = "exact",
        grad_norms: bool = False,
        clip_norm: float | None = None,
        estimates: Sequence[str] | Literal["per_tensor"] | None = "per_tensor",
        process_group: Any = None,
        copies: Callable[[Tensor], int | None] | None = None,
        step_size: StepSize | str | None = None,
    ) -> None: ...

class DoWG(LearningRateFree):
    """SGD whose step size is distance over gradients that are weighted by it.

        before  d = max(d, ‖x - x0‖);  v = v + d²·‖g‖²
        update  x = x - r·lr·d²/(√v + eps)·g
        average as of DoG

    Early gradients, which come with a small d, weigh less than in DoG, so the steps are longer: faster where
    DoG is too careful, and too long where gradients are noisy. Both norms are those of the very step, as of DoG.

    γ = d·lr (with Adam's bias correction where it is on) unless stated, r = layer_scale, wd = weight_decay; Σ runs over
    all elements of all ranks. The update uses the d of before the step.

    Args:
        params: tensors, (name, tensor) pairs, or dicts of parameter groups.
        lr: multiplies d. Leave it at 1.0 and let a schedule shape it; a group with lr 0 does not move.
            A number >= 0; default 1.0.
        d0: first distance; the released eps is its square, and eps. A number > 0; default 0.01.
        eps: added to √v in the denominator, for numerical stability. A number > 0; default 0.0001.
        weight_decay: decay, added to the gradient as weight_decay·x. A number >= 0; default 0.0.
        layer_scale: step of a group relative to the others. A number >= 0; default 1.0.
        maximize: ascend instead of descend. True or False; default False.
        average: γ of the average of the weights that eval() shows: 8.0 in DoG's paper. One more buffer;
            None keeps none. None or a number >= 0; default None.
        state_dtype: dtype of the buffers: torch.float32, torch.bfloat16 or torch.float64. None:
            float32, or the parameter's where that is more precise. Default None.
        statistics_dtype: dtype of s alone; torch.bfloat16, with stochastic rounding, saves memory and
            hardly changes d. Default None.
        backend: kernel that runs the step: 'auto' (the fastest), 'c', 'triton' or 'eager'. Default
            'auto'.
        freeze_after: number of steps >= 1 after which d stays, the buffers of the estimate are released
            and, but for nonfinite='skip' and 'raise', nothing is reduced. Default None.
        nonfinite: what a NaN or infinite gradient does: 'hold' (its element counts as 0, d stays),
            'skip' or 'raise'. None: 'hold', but what a GradScaler finds to overflow is skipped. Default
            None.
        sync: when a step waits for its reduce: in the 'next_step' (hidden) or in the 'step'. Default
            'next_step'.
        before: when sums that a method takes before the weights move count: in the step itself, by a
            blocking reduce ('exact'), or in the next step, hidden ('lagged'). The others take none.
            Default 'exact'.
        grad_norms: whether ‖g‖₁ and ‖g‖₂ of each step ride in its reduce, for `log_values`,
            `optimizer.grad_norms` and `dadapt-dist refine-schedule`. Default False.
        clip_norm: norm that the gradients of all parameters over all ranks are clipped to, as by
            torch's clip_grad_norm_; costs a blocking reduce of one number a step, or none where the
            norm rides in that of sums before the weights move (not of NGN, of MoMoAdam, nor of Mechanic
            around anything but SGD). None: they are taken as they are. Default None.
        estimates: 'per_tensor': a d for each tensor, under its name; or a list of the names that groups
            choose from. None: one d, or those that the groups name. Default None.
        process_group: ranks that train together. None: all. Default None.
        copies: for plain tensors that hold a slice: returns how many ranks hold the same elements.
            Default None.
        step_size: a StepSize shared with other optimizers, or a name: all optimizers of the process
            that give it share one. freeze_after, nonfinite, sync, before, grad_norms, clip_norm,
            estimates, process_group and copies then belong to it. Default None.

    Raises:
        ValueError: an option is out of its range; nothing is built.
        TypeError: a keyword is unknown; the message names the nearest.

    Example:
        >>> import torch, dadapt_dist.optimizers
        >>> model = torch.nn.Linear(4, 1)
        >>> optimizer = dadapt_dist.optimizers.DoWG(model.parameters(), lr=1.0)
        >>> for _ in range(3):
        ...     loss = model(torch.ones(8, 4)).square().mean()
        ...     optimizer.zero_grad()
        ...     loss.backward()
        ...     optimizer.step()
        >>> optimizer.step_size.steps
        3

    References:
        Khaled, Mishchenko and Jin, DoWG Unleashed, arXiv 2305.16284, Algorithm 1.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1.0,
        d0: float = 0.01,
        eps: float = 0.0001,
        weight_decay: float = 0.0,
        *,
        layer_scale: float = 1.0,
        maximize: bool = False,
        average: float | None = None,
        state_dtype: torch.dtype | None = None,
        statistics_dtype: torch.dtype | None = None,
        backend: Literal["auto", "c", "triton", "eager"] = "auto",
        freeze_after: int | None = None,
        nonfinite: Literal["hold", "skip", "raise"] | None = None,
        sync: Literal["next_step", "step"] = "next_step",
        before: Literal["exact", "lagged"] = "exact",
        grad_norms: bool = False,
        clip_norm: float | None = None,
        estimates: Sequence[str] | Literal["per_tensor"] | None = None,
        process_group: Any = None,
        copies: Callable[[Tensor], int | None] | None = None,
        step_size: StepSize | str | None = None,
    ) -> None: ...

class DualAveraging(LearningRateFree):
    """Dual averaging with D-Adaptation: its d is proven to stay below the distance to the solution.

        before  w = d·lr with d of before the step;  γ' = γ, in the first step 1/‖g‖
                num = num + Σ r·γ'·w·g·s;  q = q + Σ r·γ'·w²·g²
                G = G + Σ r·g²;  γ = 1/√G;  S = Σ r·(s + w·g)²
                II:  d_hat = num/√S;  I:  d_hat = (γ·S - q)/(2·√S)
                d = max(d, min(d_hat, d·growth_rate))
        update  s = s + w·g;  x = x0 - r·γ·s
        average:  x_avg = Σ d·x/Σ d over the x at which gradients were taken

    For a convex loss, full gradients and one lr for all groups d <= D = ‖x0 - x*‖ in every step, with either
    bound, whatever lr does from step to step, exact and lagged; r != 1 measures D by ‖·/√r‖. II is never below I of the
    same run: both can be had from its scalars. Where x converges to x*, d ends at D/(1+√3) = 0.366·D or more.
    [dual-averaging.md](dual-averaging.md) shows it.

    One blocking reduce a step. With before="lagged" it is hidden: γ has the gradients up to the step before, w the d that
    was known one step earlier still, and the first step only measures.

    Use it where the bound matters: convex losses, a check of data or of a distance, lectures. It is slow where d
    has to grow far, since early gradients keep their small weights, and far behind Prodigy for networks.

    γ = d·lr (with Adam's bias correction where it is on) unless stated, r = layer_scale, wd = weight_decay; Σ runs over
    all elements of all ranks. The update uses the d of before the step.

    Args:
        params: tensors, (name, tensor) pairs, or dicts of parameter groups.
        lr: multiplies d in the weight of a gradient; 1.0 is the method, a schedule may shape it. A
            number >= 0; default 1.0.
        lower_bound: which lower bound on D gives d: Option I of the paper, from norms, or Option II,
            from inner products. 'I' or 'II'; default 'II'.
        average: keep the average Σ d·x/Σ d, which `optimizer.eval()` shows: one buffer more. True or
            False; default False.
        weight_decay: decay, added to the gradient as weight_decay·x. A number >= 0; default 0.0.
        d0: first d; it only has to be smaller than the d to be found. A number > 0; default 1e-06.
        growth_rate: bound on the growth of d per step; inf sets none. A number >= 1, or inf; default
            inf.
        layer_scale: step of a group relative to the others. A number >= 0; default 1.0.
        maximize: ascend instead of descend. True or False; default False.
        state_dtype: dtype of the buffers: torch.float32, torch.bfloat16 or torch.float64. None:
            float32, or the parameter's where that is more precise. Default None.
        statistics_dtype: dtype of s alone; torch.bfloat16, with stochastic rounding, saves memory and
            hardly changes d. Default None.
        backend: kernel that runs the step: 'auto' (the fastest), 'c', 'triton' or 'eager'. Default
            'auto'.
        freeze_after: number of steps >= 1 after which d stays, the buffers of the estimate are released
            and, but for nonfinite='skip' and 'raise', nothing is reduced. Default None.
        nonfinite: what a NaN or infinite gradient does: 'hold' (its element counts as 0, d stays),
            'skip' or 'raise'. None: 'hold', but what a GradScaler finds to overflow is skipped. Default
            None.
        sync: when a step waits for its reduce: in the 'next_step' (hidden) or in the 'step'. Default
            'next_step'.
        before: when sums that a method takes before the weights move count: in the step itself, by a
            blocking reduce ('exact'), or in the next step, hidden ('lagged'). The others take none.
            Default 'exact'.
        grad_norms: whether ‖g‖₁ and ‖g‖₂ of each step ride in its reduce, for `log_values`,
            `optimizer.grad_norms` and `dadapt-dist refine-schedule`. Default False.
        clip_norm: norm that the gradients of all parameters over all ranks are clipped to, as by
            torch's clip_grad_norm_; costs a blocking reduce of one number a step, or none where the
            norm rides in that of sums before the weights move (not of NGN, of MoMoAdam, nor of Mechanic
            around anything but SGD). None: they are taken as they are. Default None.
        estimates: 'per_tensor': a d for each tensor, under its name; or a list of the names that groups
            choose from. None: one d, or those that the groups name. Default None.
        process_group: ranks that train together. None: all. Default None.
        copies: for plain tensors that hold a slice: returns how many ranks hold the same elements.
            Default None.
        step_size: a StepSize shared with other optimizers, or a name: all optimizers of the process
            that give it share one. freeze_after, nonfinite, sync, before, grad_norms, clip_norm,
            estimates, process_group and copies then belong to it. Default None.

    Raises:
        ValueError: an option is out of its range; nothing is built.
        TypeError: a keyword is unknown; the message names the nearest.

    Example:
        >>> import torch, dadapt_dist.optimizers
        >>> model = torch.nn.Linear(4, 1)
        >>> optimizer = dadapt_dist.optimizers.DualAveraging(model.parameters(), lr=1.0)
        >>> for _ in range(3):
        ...     loss = model(torch.ones(8, 4)).square().mean()
        ...     optimizer.zero_grad()
        ...     loss.backward()
        ...     optimizer.step()
        >>> optimizer.step_size.steps
        3

    References:
        Defazio and Mishchenko, Learning-Rate-Free Learning by D-Adaptation, arXiv 2301.07733, Algorithm
        1.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1.0,
        lower_bound: str = "II",
        average: bool = False,
        weight_decay: float = 0.0,
        d0: float = 1e-6,
        growth_rate: float = float("inf"),
        *,
        layer_scale: float = 1.0,
        maximize: bool = False,
        state_dtype: torch.dtype | None = None,
        statistics_dtype: torch.dtype | None = None,
        backend: Literal["auto", "c", "triton", "eager"] = "auto",
        freeze_after: int | None = None,
        nonfinite: Literal["hold", "skip", "raise"] | None = None,
        sync: Literal["next_step", "step"] = "next_step",
        before: Literal["exact", "lagged"] = "exact",
        grad_norms: bool = False,
        clip_norm: float | None = None,
        estimates: Sequence[str] | Literal["per_tensor"] | None = None,
        process_group: Any = None,
        copies: Callable[[Tensor], int | None] | None = None,
        step_size: StepSize | str | None = None,
    ) -> None: ...

class KT(LearningRateFree):
    """Coin betting with one wealth for the whole model.

        before  L = max(L, ‖g‖), ‖g‖² = Σ r·g²;  W = max(W + Σ g·(x0 - x)/L, W/(t+1));  t = t + 1
        update  C = C - g/L;  z = x0 + r·C·W/t;  x = x + lr·(z - x)

    W starts at `first_wealth`, t at 1. There is no d: `optimizer.d` is NaN, and the group's "wealth" is what to watch.
    The paper assumes ‖g‖ <= 1; dividing by the running maximum L sees to that, and makes steps independent of the
    scale of the loss. No bet can lose more than all of W but W/t, so that the second term of the maximum is idle
    except in lagged runs, with lr below 1, and after held steps, where a bet may be larger than W.

    One blocking reduce a step, or, with before="lagged", a hidden one: L, W and t are then those of the step before.

    Use it where the solution lies in one direction from the start, for instance for linear models. One large
    gradient sets L for good and slows all that follows, so clip gradients with outliers. Do not use it for networks with
    noisy gradients, where COCOB, which bets for each weight, does better, and Prodigy best. The theory is about the
    average of x.

    γ = d·lr (with Adam's bias correction where it is on) unless stated, r = layer_scale, wd = weight_decay; Σ runs over
    all elements of all ranks. The update uses the d of before the step.

    Args:
        params: tensors, (name, tensor) pairs, or dicts of parameter groups.
        lr: part of each step that is taken; 1.0 is the method, a schedule may shape it. A number >= 0;
            default 1.0.
        first_wealth: wealth before the first bet, in units of x times the largest ‖g‖. A number > 0;
            default 0.0001.
        weight_decay: decay, added to the gradient as weight_decay·x. A number >= 0; default 0.0.
        layer_scale: step of a group relative to the others. A number >= 0; default 1.0.
        maximize: ascend instead of descend. True or False; default False.
        state_dtype: dtype of the buffers: torch.float32, torch.bfloat16 or torch.float64. None:
            float32, or the parameter's where that is more precise. Default None.
        statistics_dtype: dtype of s alone; torch.bfloat16, with stochastic rounding, saves memory and
            hardly changes d. Default None.
        backend: kernel that runs the step: 'auto' (the fastest), 'c', 'triton' or 'eager'. Default
            'auto'.
        freeze_after: number of steps >= 1 after which d stays, the buffers of the estimate are released
            and, but for nonfinite='skip' and 'raise', nothing is reduced. Default None.
        nonfinite: what a NaN or infinite gradient does: 'hold' (its element counts as 0, d stays),
            'skip' or 'raise'. None: 'hold', but what a GradScaler finds to overflow is skipped. Default
            None.
        sync: when a step waits for its reduce: in the 'next_step' (hidden) or in the 'step'. Default
            'next_step'.
        before: when sums that a method takes before the weights move count: in the step itself, by a
            blocking reduce ('exact'), or in the next step, hidden ('lagged'). The others take none.
            Default 'exact'.
        grad_norms: whether ‖g‖₁ and ‖g‖₂ of each step ride in its reduce, for `log_values`,
            `optimizer.grad_norms` and `dadapt-dist refine-schedule`. Default False.
        clip_norm: norm that the gradients of all parameters over all ranks are clipped to, as by
            torch's clip_grad_norm_; costs a blocking reduce of one number a step, or none where the
            norm rides in that of sums before the weights move (not of NGN, of MoMoAdam, nor of Mechanic
            around anything but SGD). None: they are taken as they are. Default None.
        estimates: 'per_tensor': a d for each tensor, under its name; or a list of the names that groups
            choose from. None: one d, or those that the groups name. Default None.
        process_group: ranks that train together. None: all. Default None.
        copies: for plain tensors that hold a slice: returns how many ranks hold the same elements.
            Default None.
        step_size: a StepSize shared with other optimizers, or a name: all optimizers of the process
            that give it share one. freeze_after, nonfinite, sync, before, grad_norms, clip_norm,
            estimates, process_group and copies then belong to it. Default None.

    Raises:
        ValueError: an option is out of its range; nothing is built.
        TypeError: a keyword is unknown; the message names the nearest.

    Example:
        >>> import torch, dadapt_dist.optimizers
        >>> model = torch.nn.Linear(4, 1)
        >>> optimizer = dadapt_dist.optimizers.KT(model.parameters(), lr=1.0)
        >>> for _ in range(3):
        ...     loss = model(torch.ones(8, 4)).square().mean()
        ...     optimizer.zero_grad()
        ...     loss.backward()
        ...     optimizer.step()
        >>> optimizer.step_size.steps
        3

    References:
        Orabona and Pál, Coin Betting and Parameter-Free Online Learning, arXiv 1602.04128, Algorithm 1.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1.0,
        first_wealth: float = 0.0001,
        weight_decay: float = 0.0,
        *,
        layer_scale: float = 1.0,
        maximize: bool = False,
        state_dtype: torch.dtype | None = None,
        statistics_dtype: torch.dtype | None = None,
        backend: Literal["auto", "c", "triton", "eager"] = "auto",
        freeze_after: int | None = None,
        nonfinite: Literal["hold", "skip", "raise"] | None = None,
        sync: Literal["next_step", "step"] = "next_step",
        before: Literal["exact", "lagged"] = "exact",
        grad_norms: bool = False,
        clip_norm: float | None = None,
        estimates: Sequence[str] | Literal["per_tensor"] | None = None,
        process_group: Any = None,
        copies: Callable[[Tensor], int | None] | None = None,
        step_size: StepSize | str | None = None,
    ) -> None: ...

class MechanicSGD(LearningRateFree):
    """SGD, with or without momentum, whose learning rate Mechanic learns.

        before  h = Σ Δ·(g + s_decay·S·(‖g‖/(‖x‖ + s_eps))·x)
                for six β_i = 1 - 10^-i:  r_i = β_i·r_i + s_i·min(max(h, -m_i), m_i), with s_i and m_i of before the step
                m_i = max(β_i·m_i, |h| + s_eps);  v_i = β_i²·v_i + h²
                s_i = (s_init·m_i/6 + max(r_i, 0))/(√v_i + s_eps);  S = min(Σ s_i, s_max);  d = S
        update  Δ = Δ·S'/(S' + s_eps) + lr·r·u, S' of before the step;  x = x0 - S·Δ
                u of torch's SGD with lr 1, momentum and weight decay in it

    Two forms are released, and `variant` says which: "optax" is optax 0.2.8, "authors" is mechanic-pytorch 0.0.1, where
    r_i = max(β_i·r_i + s_i·h, 0), m_i = max(β_i·m_i, |h|) from 1e-6, and the decay of h sees x - lr·r·u in the
    place of x: the update is then computed twice. The default of `s_init` is 1e-6 in the first and 1e-8 in the second.

    `delta` says how Δ is known. "stored" keeps it in a buffer (float32 where weights are narrower), with the factor
    S'/(S' + s_eps) that both packages have where they recompute it as (x0 - x)/(S' + s_eps). "recomputed" does that,
    without the buffer: it needs weights in float32 or wider, and a gradient of every tensor in every step. "summed"
    leaves the factor out, as the paper does, and mechanic-pytorch with store_delta=True.

    S is what `optimizer.d` shows. It may fall. `s_max` bounds it, and `freeze_after` stops it; the buffers stay then, since
    the weights are x0 - S·Δ to the end. The four sums are those of the very step: one blocking reduce a step, or, with
    before="lagged", those of the step before, hidden.

    γ = d·lr (with Adam's bias correction where it is on) unless stated, r = layer_scale, wd = weight_decay; Σ runs over
    all elements of all ranks. The update uses the d of before the step.

    Args:
        params: tensors, (name, tensor) pairs, or dicts of parameter groups.
        lr: multiplies the direction's update. Leave its peak at 1.0 and let a schedule shape it. A
            number >= 0; default 1.0.
        variant: which released form: 'optax' is optax.contrib.mechanize, 'authors' is mechanic-pytorch.
            'optax' or 'authors'; default 'optax'.
        s_init: first S; it only has to be smaller than the S to be found. A number > 0, or None for
            that of the variant; default None.
        s_decay: decay that the rule of S sees beside the gradient; no weight is decayed by it. A number
            >= 0; default 0.01.
        s_max: largest S. A number > 0, or inf; default inf.
        delta: how Δ is known: 'stored' in a buffer with the numbers of 'recomputed', which is (x0 -
            x)/(S + s_eps), one buffer less, for weights in float32 or wider; 'summed' in a buffer as
            the plain sum of the updates. 'stored', 'recomputed' or 'summed'; default 'stored'.
        s_eps: added to denominators of the rule of S, for numerical stability. A number > 0; default
            1e-08.
        weight_decay: decay of the parameters: weight_decay·x is added to the update that the method
            scales. A number >= 0; default 0.0.
        momentum: heavy-ball momentum: m = momentum·m + g; 0 keeps no buffer. A number in [0, 1);
            default 0.0.
        layer_scale: step of a group relative to the others. A number >= 0; default 1.0.
        maximize: ascend instead of descend. True or False; default False.
        state_dtype: dtype of the buffers: torch.float32, torch.bfloat16 or torch.float64. None:
            float32, or the parameter's where that is more precise. Default None.
        statistics_dtype: dtype of s alone; torch.bfloat16, with stochastic rounding, saves memory and
            hardly changes d. Default None.
        backend: kernel that runs the step: 'auto' (the fastest), 'c', 'triton' or 'eager'. Default
            'auto'.
        freeze_after: number of steps >= 1 after which d stays, the buffers of the estimate are released
            and, but for nonfinite='skip' and 'raise', nothing is reduced. Default None.
        nonfinite: what a NaN or infinite gradient does: 'hold' (its element counts as 0, d stays),
            'skip' or 'raise'. None: 'hold', but what a GradScaler finds to overflow is skipped. Default
            None.
        sync: when a step waits for its reduce: in the 'next_step' (hidden) or in the 'step'. Default
            'next_step'.
        before: when sums that a method takes before the weights move count: in the step itself, by a
            blocking reduce ('exact'), or in the next step, hidden ('lagged'). The others take none.
            Default 'exact'.
        grad_norms: whether ‖g‖₁ and ‖g‖₂ of each step ride in its reduce, for `log_values`,
            `optimizer.grad_norms` and `dadapt-dist refine-schedule`. Default False.
        clip_norm: norm that the gradients of all parameters over all ranks are clipped to, as by
            torch's clip_grad_norm_; costs a blocking reduce of one number a step, or none where the
            norm rides in that of sums before the weights move (not of NGN, of MoMoAdam, nor of Mechanic
            around anything but SGD). None: they are taken as they are. Default None.
        estimates: 'per_tensor': a d for each tensor, under its name; or a list of the names that groups
            choose from. None: one d, or those that the groups name. Default None.
        process_group: ranks that train together. None: all. Default None.
        copies: for plain tensors that hold a slice: returns how many ranks hold the same elements.
            Default None.
        step_size: a StepSize shared with other optimizers, or a name: all optimizers of the process
            that give it share one. freeze_after, nonfinite, sync, before, grad_norms, clip_norm,
            estimates, process_group and copies then belong to it. Default None.

    Raises:
        ValueError: an option is out of its range; nothing is built.
        TypeError: a keyword is unknown; the message names the nearest.

    Example:
        >>> import torch, dadapt_dist.optimizers
        >>> model = torch.nn.Linear(4, 1)
        >>> optimizer = dadapt_dist.optimizers.MechanicSGD(model.parameters(), lr=1.0)
        >>> for _ in range(3):
        ...     loss = model(torch.ones(8, 4)).square().mean()
        ...     optimizer.zero_grad()
        ...     loss.backward()
        ...     optimizer.step()
        >>> optimizer.step_size.steps
        3

    References:
        Cutkosky, Defazio and Mehta, Mechanic: A Learning Rate Tuner, arXiv 2306.00144, Algorithm 1.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1.0,
        variant: str = "optax",
        s_init: float | None = None,
        s_decay: float = 0.01,
        s_max: float = float("inf"),
        delta: str = "stored",
        s_eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        *,
        layer_scale: float = 1.0,
        maximize: bool = False,
        state_dtype: torch.dtype | None = None,
        statistics_dtype: torch.dtype | None = None,
        backend: Literal["auto", "c", "triton", "eager"] = "auto",
        freeze_after: int | None = None,
        nonfinite: Literal["hold", "skip", "raise"] | None = None,
        sync: Literal["next_step", "step"] = "next_step",
        before: Literal["exact", "lagged"] = "exact",
        grad_norms: bool = False,
        clip_norm: float | None = None,
        estimates: Sequence[str] | Literal["per_tensor"] | None = None,
        process_group: Any = None,
        copies: Callable[[Tensor], int | None] | None = None,
        step_size: StepSize | str | None = None,
    ) -> None: ...

class MechanicAdam(LearningRateFree):
    """AdamW whose learning rate Mechanic learns.

        before  h = Σ Δ·(g + s_decay·S·(‖g‖/(‖x‖ + s_eps))·x)
                for six β_i = 1 - 10^-i:  r_i = β_i·r_i + s_i·min(max(h, -m_i), m_i), with s_i and m_i of before the step
                m_i = max(β_i·m_i, |h| + s_eps);  v_i = β_i²·v_i + h²
                s_i = (s_init·m_i/6 + max(r_i, 0))/(√v_i + s_eps);  S = min(Σ s_i, s_max);  d = S
        update  Δ = Δ·S'/(S' + s_eps) + lr·r·u, S' of before the step;  x = x0 - S·Δ
                u of torch's AdamW with lr 1, weight decay in it

    The rule, `variant` and `delta` are those of `MechanicSGD`.

    γ = d·lr (with Adam's bias correction where it is on) unless stated, r = layer_scale, wd = weight_decay; Σ runs over
    all elements of all ranks. The update uses the d of before the step.

    Args:
        params: tensors, (name, tensor) pairs, or dicts of parameter groups.
        lr: multiplies the direction's update. Leave its peak at 1.0 and let a schedule shape it. A
            number >= 0; default 1.0.
        variant: which released form: 'optax' is optax.contrib.mechanize, 'authors' is mechanic-pytorch.
            'optax' or 'authors'; default 'optax'.
        s_init: first S; it only has to be smaller than the S to be found. A number > 0, or None for
            that of the variant; default None.
        s_decay: decay that the rule of S sees beside the gradient; no weight is decayed by it. A number
            >= 0; default 0.01.
        s_max: largest S. A number > 0, or inf; default inf.
        delta: how Δ is known: 'stored' in a buffer with the numbers of 'recomputed', which is (x0 -
            x)/(S + s_eps), one buffer less, for weights in float32 or wider; 'summed' in a buffer as
            the plain sum of the updates. 'stored', 'recomputed' or 'summed'; default 'stored'.
        s_eps: added to denominators of the rule of S, for numerical stability. A number > 0; default
            1e-08.
        weight_decay: decay of the parameters: weight_decay·x is added to the update that the method
            scales. A number >= 0; default 0.0.
        betas: averaging constants of the gradient and of its square. 2 numbers in [0, 1); default (0.9,
            0.999).
        eps: added to the root in the denominator, for numerical stability. A number > 0; default 1e-08.
        layer_scale: step of a group relative to the others. A number >= 0; default 1.0.
        maximize: ascend instead of descend. True or False; default False.
        state_dtype: dtype of the buffers: torch.float32, torch.bfloat16 or torch.float64. None:
            float32, or the parameter's where that is more precise. Default None.
        statistics_dtype: dtype of s alone; torch.bfloat16, with stochastic rounding, saves memory and
            hardly changes d. Default None.
        backend: kernel that runs the step: 'auto' (the fastest), 'c', 'triton' or 'eager'. Default
            'auto'.
        freeze_after: number of steps >= 1 after which d stays, the buffers of the estimate are released
            and, but for nonfinite='skip' and 'raise', nothing is reduced. Default None.
        nonfinite: what a NaN or infinite gradient does: 'hold' (its element counts as 0, d stays),
            'skip' or 'raise'. None: 'hold', but what a GradScaler finds to overflow is skipped. Default
            None.
        sync: when a step waits for its reduce: in the 'next_step' (hidden) or in the 'step'. Default
            'next_step'.
        before: when sums that a method takes before the weights move count: in the step itself, by a
            blocking reduce ('exact'), or in the next step, hidden ('lagged'). The others take none.
            Default 'exact'.
        grad_norms: whether ‖g‖₁ and ‖g‖₂ of each step ride in its reduce, for `log_values`,
            `optimizer.grad_norms` and `dadapt-dist refine-schedule`. Default False.
        clip_norm: norm that the gradients of all parameters over all ranks are clipped to, as by
            torch's clip_grad_norm_; costs a blocking reduce of one number a step, or none where the
            norm rides in that of sums before the weights move (not of NGN, of MoMoAdam, nor of Mechanic
            around anything but SGD). None: they are taken as they are. Default None.
        estimates: 'per_tensor': a d for each tensor, under its name; or a list of the names that groups
            choose from. None: one d, or those that the groups name. Default None.
        process_group: ranks that train together. None: all. Default None.
        copies: for plain tensors that hold a slice: returns how many ranks hold the same elements.
            Default None.
        step_size: a StepSize shared with other optimizers, or a name: all optimizers of the process
            that give it share one. freeze_after, nonfinite, sync, before, grad_norms, clip_norm,
            estimates, process_group and copies then belong to it. Default None.

    Raises:
        ValueError: an option is out of its range; nothing is built.
        TypeError: a keyword is unknown; the message names the nearest.

    Example:
        >>> import torch, dadapt_dist.optimizers
        >>> model = torch.nn.Linear(4, 1)
        >>> optimizer = dadapt_dist.optimizers.MechanicAdam(model.parameters(), lr=1.0)
        >>> for _ in range(3):
        ...     loss = model(torch.ones(8, 4)).square().mean()
        ...     optimizer.zero_grad()
        ...     loss.backward()
        ...     optimizer.step()
        >>> optimizer.step_size.steps
        3

    References:
        Cutkosky, Defazio and Mehta, Mechanic: A Learning Rate Tuner, arXiv 2306.00144, Algorithm 1.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1.0,
        variant: str = "optax",
        s_init: float | None = None,
        s_decay: float = 0.01,
        s_max: float = float("inf"),
        delta: str = "stored",
        s_eps: float = 1e-8,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        *,
        layer_scale: float = 1.0,
        maximize: bool = False,
        state_dtype: torch.dtype | None = None,
        statistics_dtype: torch.dtype | None = None,
        backend: Literal["auto", "c", "triton", "eager"] = "auto",
        freeze_after: int | None = None,
        nonfinite: Literal["hold", "skip", "raise"] | None = None,
        sync: Literal["next_step", "step"] = "next_step",
        before: Literal["exact", "lagged"] = "exact",
        grad_norms: bool = False,
        clip_norm: float | None = None,
        estimates: Sequence[str] | Literal["per_tensor"] | None = None,
        process_group: Any = None,
        copies: Callable[[Tensor], int | None] | None = None,
        step_size: StepSize | str | None = None,
    ) -> None: ...

class MechanicLion(LearningRateFree):
    """Lion whose learning rate Mechanic learns.

        before  h = Σ Δ·(g + s_decay·S·(‖g‖/(‖x‖ + s_eps))·x)
                for six β_i = 1 - 10^-i:  r_i = β_i·r_i + s_i·min(max(h, -m_i), m_i), with s_i and m_i of before the step
                m_i = max(β_i·m_i, |h| + s_eps);  v_i = β_i²·v_i + h²
                s_i = (s_init·m_i/6 + max(r_i, 0))/(√v_i + s_eps);  S = min(Σ s_i, s_max);  d = S
        update  Δ = Δ·S'/(S' + s_eps) + lr·r·u, S' of before the step;  x = x0 - S·Δ
                u = sign(b1·m + (1-b1)·g) + wd·x;  m = b2·m + (1-b2)·g

    The rule, `variant` and `delta` are those of `MechanicSGD`.

    γ = d·lr (with Adam's bias correction where it is on) unless stated, r = layer_scale, wd = weight_decay; Σ runs over
    all elements of all ranks. The update uses the d of before the step.

    Args:
        params: tensors, (name, tensor) pairs, or dicts of parameter groups.
        lr: multiplies the direction's update. Leave its peak at 1.0 and let a schedule shape it. A
            number >= 0; default 1.0.
        variant: which released form: 'optax' is optax.contrib.mechanize, 'authors' is mechanic-pytorch.
            'optax' or 'authors'; default 'optax'.
        s_init: first S; it only has to be smaller than the S to be found. A number > 0, or None for
            that of the variant; default None.
        s_decay: decay that the rule of S sees beside the gradient; no weight is decayed by it. A number
            >= 0; default 0.01.
        s_max: largest S. A number > 0, or inf; default inf.
        delta: how Δ is known: 'stored' in a buffer with the numbers of 'recomputed', which is (x0 -
            x)/(S + s_eps), one buffer less, for weights in float32 or wider; 'summed' in a buffer as
            the plain sum of the updates. 'stored', 'recomputed' or 'summed'; default 'stored'.
        s_eps: added to denominators of the rule of S, for numerical stability. A number > 0; default
            1e-08.
        weight_decay: decay of the parameters: weight_decay·x is added to the update that the method
            scales. A number >= 0; default 0.0.
        betas: averaging constants of the update and of the momentum. 2 numbers in [0, 1); default (0.9,
            0.99).
        layer_scale: step of a group relative to the others. A number >= 0; default 1.0.
        maximize: ascend instead of descend. True or False; default False.
        state_dtype: dtype of the buffers: torch.float32, torch.bfloat16 or torch.float64. None:
            float32, or the parameter's where that is more precise. Default None.
        statistics_dtype: dtype of s alone; torch.bfloat16, with stochastic rounding, saves memory and
            hardly changes d. Default None.
        backend: kernel that runs the step: 'auto' (the fastest), 'c', 'triton' or 'eager'. Default
            'auto'.
        freeze_after: number of steps >= 1 after which d stays, the buffers of the estimate are released
            and, but for nonfinite='skip' and 'raise', nothing is reduced. Default None.
        nonfinite: what a NaN or infinite gradient does: 'hold' (its element counts as 0, d stays),
            'skip' or 'raise'. None: 'hold', but what a GradScaler finds to overflow is skipped. Default
            None.
        sync: when a step waits for its reduce: in the 'next_step' (hidden) or in the 'step'. Default
            'next_step'.
        before: when sums that a method takes before the weights move count: in the step itself, by a
            blocking reduce ('exact'), or in the next step, hidden ('lagged'). The others take none.
            Default 'exact'.
        grad_norms: whether ‖g‖₁ and ‖g‖₂ of each step ride in its reduce, for `log_values`,
            `optimizer.grad_norms` and `dadapt-dist refine-schedule`. Default False.
        clip_norm: norm that the gradients of all parameters over all ranks are clipped to, as by
            torch's clip_grad_norm_; costs a blocking reduce of one number a step, or none where the
            norm rides in that of sums before the weights move (not of NGN, of MoMoAdam, nor of Mechanic
            around anything but SGD). None: they are taken as they are. Default None.
        estimates: 'per_tensor': a d for each tensor, under its name; or a list of the names that groups
            choose from. None: one d, or those that the groups name. Default None.
        process_group: ranks that train together. None: all. Default None.
        copies: for plain tensors that hold a slice: returns how many ranks hold the same elements.
            Default None.
        step_size: a StepSize shared with other optimizers, or a name: all optimizers of the process
            that give it share one. freeze_after, nonfinite, sync, before, grad_norms, clip_norm,
            estimates, process_group and copies then belong to it. Default None.

    Raises:
        ValueError: an option is out of its range; nothing is built.
        TypeError: a keyword is unknown; the message names the nearest.

    Example:
        >>> import torch, dadapt_dist.optimizers
        >>> model = torch.nn.Linear(4, 1)
        >>> optimizer = dadapt_dist.optimizers.MechanicLion(model.parameters(), lr=1.0)
        >>> for _ in range(3):
        ...     loss = model(torch.ones(8, 4)).square().mean()
        ...     optimizer.zero_grad()
        ...     loss.backward()
        ...     optimizer.step()
        >>> optimizer.step_size.steps
        3

    References:
        Cutkosky, Defazio and Mehta, Mechanic: A Learning Rate Tuner, arXiv 2306.00144, Algorithm 1.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1.0,
        variant: str = "optax",
        s_init: float | None = None,
        s_decay: float = 0.01,
        s_max: float = float("inf"),
        delta: str = "stored",
        s_eps: float = 1e-8,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.99),
        *,
        layer_scale: float = 1.0,
        maximize: bool = False,
        state_dtype: torch.dtype | None = None,
        statistics_dtype: torch.dtype | None = None,
        backend: Literal["auto", "c", "triton", "eager"] = "auto",
        freeze_after: int | None = None,
        nonfinite: Literal["hold", "skip", "raise"] | None = None,
        sync: Literal["next_step", "step"] = "next_step",
        before: Literal["exact", "lagged"] = "exact",
        grad_norms: bool = False,
        clip_norm: float | None = None,
        estimates: Sequence[str] | Literal["per_tensor"] | None = None,
        process_group: Any = None,
        copies: Callable[[Tensor], int | None] | None = None,
        step_size: StepSize | str | None = None,
    ) -> None: ...

class MoMo(LearningRateFree):
    """SGD with momentum whose step size follows from a model of the loss.

        before  m' = beta·m + (1-beta)·g, in the first step g;  c = r·lr·cap
                norm = Σ c/(1 + wd·c)·m'²;  drop = Σ wd·c/(1 + wd·c)·m'·x
                h = beta·model + (1-beta)·f, in the first step f
                share = min(1, max(0, h - drop - lb)/norm);  model = h - drop - share·norm
        update  m = m';  x = (x - c·share·m)/(1 + wd·c)

    f is the loss of the step. h is the average of all losses so far, each continued linearly along its gradient to the
    present weights; that is the paper's f̄ + ⟨d, x⟩ - γ, without a sum for γ. One blocking reduce a step, or,
    with before="lagged", one that is hidden and whose share counts in the next step. Groups share one model, in which
    each counts by its c. There is no d: `optimizer.d` is NaN, and `effective_lr` is c·share.

    γ = d·lr (with Adam's bias correction where it is on) unless stated, r = layer_scale, wd = weight_decay; Σ runs over
    all elements of all ranks. The update uses the d of before the step.

    Args:
        params: tensors, (name, tensor) pairs, or dicts of parameter groups.
        lr: multiplies cap. Leave it at 1.0; a schedule may shape it. A number >= 0; default 1.0.
        cap: largest step size, where lr is 1. A number > 0; default 1.0.
        weight_decay: decay, by which a step divides the parameters: 1 + weight_decay·c. A number >= 0;
            default 0.0.
        beta: averaging constant of gradient and loss. A number in [0, 1); default 0.9.
        lb: value below which the mean loss of a step never falls. A finite number; default 0.0.
        use_bias_correction: averages that begin at 0, corrected; False: at the first loss and gradient.
            True or False; default False.
        layer_scale: step of a group relative to the others. A number >= 0; default 1.0.
        maximize: ascend instead of descend. True or False; default False.
        state_dtype: dtype of the buffers: torch.float32, torch.bfloat16 or torch.float64. None:
            float32, or the parameter's where that is more precise. Default None.
        statistics_dtype: dtype of s alone; torch.bfloat16, with stochastic rounding, saves memory and
            hardly changes d. Default None.
        backend: kernel that runs the step: 'auto' (the fastest), 'c', 'triton' or 'eager'. Default
            'auto'.
        freeze_after: number of steps >= 1 after which d stays, the buffers of the estimate are released
            and, but for nonfinite='skip' and 'raise', nothing is reduced. Default None.
        nonfinite: what a NaN or infinite gradient does: 'hold' (its element counts as 0, d stays),
            'skip' or 'raise'. None: 'hold', but what a GradScaler finds to overflow is skipped. Default
            None.
        sync: when a step waits for its reduce: in the 'next_step' (hidden) or in the 'step'. Default
            'next_step'.
        before: when sums that a method takes before the weights move count: in the step itself, by a
            blocking reduce ('exact'), or in the next step, hidden ('lagged'). The others take none.
            Default 'exact'.
        grad_norms: whether ‖g‖₁ and ‖g‖₂ of each step ride in its reduce, for `log_values`,
            `optimizer.grad_norms` and `dadapt-dist refine-schedule`. Default False.
        clip_norm: norm that the gradients of all parameters over all ranks are clipped to, as by
            torch's clip_grad_norm_; costs a blocking reduce of one number a step, or none where the
            norm rides in that of sums before the weights move (not of NGN, of MoMoAdam, nor of Mechanic
            around anything but SGD). None: they are taken as they are. Default None.
        estimates: 'per_tensor': a d for each tensor, under its name; or a list of the names that groups
            choose from. None: one d, or those that the groups name. Default None.
        process_group: ranks that train together. None: all. Default None.
        copies: for plain tensors that hold a slice: returns how many ranks hold the same elements.
            Default None.
        step_size: a StepSize shared with other optimizers, or a name: all optimizers of the process
            that give it share one. freeze_after, nonfinite, sync, before, grad_norms, clip_norm,
            estimates, process_group and copies then belong to it. Default None.

    Raises:
        ValueError: an option is out of its range; nothing is built.
        TypeError: a keyword is unknown; the message names the nearest.

    Example:
        >>> import torch, dadapt_dist.optimizers
        >>> model = torch.nn.Linear(4, 1)
        >>> optimizer = dadapt_dist.optimizers.MoMo(model.parameters(), lr=1.0)
        >>> for _ in range(3):
        ...     loss = model(torch.ones(8, 4)).square().mean()
        ...     optimizer.zero_grad()
        ...     loss.backward()
        ...     optimizer.step(loss=loss)
        >>> optimizer.step_size.steps
        3

    References:
        Schaipp, Ohana, Eickenberg, Defazio and Gower, MoMo, arXiv 2305.07583, Algorithms 1 and 3.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1.0,
        cap: float = 1.0,
        weight_decay: float = 0.0,
        beta: float = 0.9,
        lb: float = 0.0,
        use_bias_correction: bool = False,
        *,
        layer_scale: float = 1.0,
        maximize: bool = False,
        state_dtype: torch.dtype | None = None,
        statistics_dtype: torch.dtype | None = None,
        backend: Literal["auto", "c", "triton", "eager"] = "auto",
        freeze_after: int | None = None,
        nonfinite: Literal["hold", "skip", "raise"] | None = None,
        sync: Literal["next_step", "step"] = "next_step",
        before: Literal["exact", "lagged"] = "exact",
        grad_norms: bool = False,
        clip_norm: float | None = None,
        estimates: Sequence[str] | Literal["per_tensor"] | None = None,
        process_group: Any = None,
        copies: Callable[[Tensor], int | None] | None = None,
        step_size: StepSize | str | None = None,
    ) -> None: ...

class MoMoAdam(LearningRateFree):
    """Adam whose step size follows from a model of the loss.

        before  m' = b1·m + (1-b1)·g;  v' = b2·v + (1-b2)·g²;  c = r·lr·cap
                m̂ = m'/(1-b1^t);  D = √(v'/(1-b2^t)) + eps
                norm = Σ c/(1 + wd·c)·m̂²/D;  drop = Σ wd·c/(1 + wd·c)·m̂·x
                w = (1-b1)/(1-b1^k);  h = (1-w)·model + w·f
                share = min(1, max(0, h - drop - lb)/norm);  model = h - drop - share·norm
        update  m = m';  v = v';  x = (x - c·share·m̂/D)/(1 + wd·c)

    As [MoMo](#momo), with the averages corrected for their beginning at 0: t counts steps, k those that had a loss.
    cap is the largest step size: a cap that is too large does less harm than to Adam, one that is too small the same.

    γ = d·lr (with Adam's bias correction where it is on) unless stated, r = layer_scale, wd = weight_decay; Σ runs over
    all elements of all ranks. The update uses the d of before the step.

    Args:
        params: tensors, (name, tensor) pairs, or dicts of parameter groups.
        lr: multiplies cap. Leave it at 1.0; a schedule may shape it. A number >= 0; default 1.0.
        cap: largest step size, where lr is 1. A number > 0; default 0.01.
        betas: averaging constants of gradient and loss, and of squared gradients. 2 numbers in [0, 1);
            default (0.9, 0.999).
        eps: added to the root in the denominator, for numerical stability. A number > 0; default 1e-08.
        weight_decay: decay, by which a step divides the parameters: 1 + weight_decay·c. A number >= 0;
            default 0.0.
        lb: value below which the mean loss of a step never falls. A finite number; default 0.0.
        layer_scale: step of a group relative to the others. A number >= 0; default 1.0.
        maximize: ascend instead of descend. True or False; default False.
        state_dtype: dtype of the buffers: torch.float32, torch.bfloat16 or torch.float64. None:
            float32, or the parameter's where that is more precise. Default None.
        statistics_dtype: dtype of s alone; torch.bfloat16, with stochastic rounding, saves memory and
            hardly changes d. Default None.
        backend: kernel that runs the step: 'auto' (the fastest), 'c', 'triton' or 'eager'. Default
            'auto'.
        freeze_after: number of steps >= 1 after which d stays, the buffers of the estimate are released
            and, but for nonfinite='skip' and 'raise', nothing is reduced. Default None.
        nonfinite: what a NaN or infinite gradient does: 'hold' (its element counts as 0, d stays),
            'skip' or 'raise'. None: 'hold', but what a GradScaler finds to overflow is skipped. Default
            None.
        sync: when a step waits for its reduce: in the 'next_step' (hidden) or in the 'step'. Default
            'next_step'.
        before: when sums that a method takes before the weights move count: in the step itself, by a
            blocking reduce ('exact'), or in the next step, hidden ('lagged'). The others take none.
            Default 'exact'.
        grad_norms: whether ‖g‖₁ and ‖g‖₂ of each step ride in its reduce, for `log_values`,
            `optimizer.grad_norms` and `dadapt-dist refine-schedule`. Default False.
        clip_norm: norm that the gradients of all parameters over all ranks are clipped to, as by
            torch's clip_grad_norm_; costs a blocking reduce of one number a step, or none where the
            norm rides in that of sums before the weights move (not of NGN, of MoMoAdam, nor of Mechanic
            around anything but SGD). None: they are taken as they are. Default None.
        estimates: 'per_tensor': a d for each tensor, under its name; or a list of the names that groups
            choose from. None: one d, or those that the groups name. Default None.
        process_group: ranks that train together. None: all. Default None.
        copies: for plain tensors that hold a slice: returns how many ranks hold the same elements.
            Default None.
        step_size: a StepSize shared with other optimizers, or a name: all optimizers of the process
            that give it share one. freeze_after, nonfinite, sync, before, grad_norms, clip_norm,
            estimates, process_group and copies then belong to it. Default None.

    Raises:
        ValueError: an option is out of its range; nothing is built.
        TypeError: a keyword is unknown; the message names the nearest.

    Example:
        >>> import torch, dadapt_dist.optimizers
        >>> model = torch.nn.Linear(4, 1)
        >>> optimizer = dadapt_dist.optimizers.MoMoAdam(model.parameters(), lr=1.0)
        >>> for _ in range(3):
        ...     loss = model(torch.ones(8, 4)).square().mean()
        ...     optimizer.zero_grad()
        ...     loss.backward()
        ...     optimizer.step(loss=loss)
        >>> optimizer.step_size.steps
        3

    References:
        Schaipp, Ohana, Eickenberg, Defazio and Gower, MoMo, arXiv 2305.07583, Algorithms 2 and 4.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1.0,
        cap: float = 0.01,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        lb: float = 0.0,
        *,
        layer_scale: float = 1.0,
        maximize: bool = False,
        state_dtype: torch.dtype | None = None,
        statistics_dtype: torch.dtype | None = None,
        backend: Literal["auto", "c", "triton", "eager"] = "auto",
        freeze_after: int | None = None,
        nonfinite: Literal["hold", "skip", "raise"] | None = None,
        sync: Literal["next_step", "step"] = "next_step",
        before: Literal["exact", "lagged"] = "exact",
        grad_norms: bool = False,
        clip_norm: float | None = None,
        estimates: Sequence[str] | Literal["per_tensor"] | None = None,
        process_group: Any = None,
        copies: Callable[[Tensor], int | None] | None = None,
        step_size: StepSize | str | None = None,
    ) -> None: ...

class NGN(LearningRateFree):
    """Adam with momentum whose step size follows from the loss.

        before  v' = b2·v + (1-b2)·g²;  D = √(v'/(1-b2^t)) + eps;  c = r·lr·cap;  G = Σ c·g²/D
                share = 2(f - lb)/(2(f - lb) + G),  0 where f <= lb
        update  v = v';  m = b1·m + (1-b1)·c·share·g/D;  x = x·(1 - wd·c·share) - m

    f is the loss of the step, G and share are those of the very step: one blocking reduce a step, or, with
    before="lagged", those of the step before, hidden. With one c for all groups c·share is the paper's
    γ = c/(1 + c/(2f)·‖g‖²), measured in D; several groups share one G, in which each counts by its c. With
    precondition=False, D = 1. There is no d: `optimizer.d` is NaN, and `effective_lr` is c·share. A schedule that
    decays to 0 matters: without one the method is clearly worse.

    γ = d·lr (with Adam's bias correction where it is on) unless stated, r = layer_scale, wd = weight_decay; Σ runs over
    all elements of all ranks. The update uses the d of before the step.

    Args:
        params: tensors, (name, tensor) pairs, or dicts of parameter groups.
        lr: multiplies cap. Leave it at 1.0 and let a schedule shape it. A number >= 0; default 1.0.
        cap: largest step size, the paper's c, where lr is 1. A number > 0; default 1.0.
        betas: weight of the step before, averaging constant of squared gradients. 2 numbers in [0, 1);
            default (0.9, 0.999).
        eps: added to the root in the denominator, for numerical stability. A number > 0; default 1e-08.
        weight_decay: decay of the parameters themselves, by weight_decay·c·share a step. A number >= 0;
            default 0.0.
        lb: value below which the mean loss of a step never falls. A finite number; default 0.0.
        precondition: divide by the root of averaged squares, as Adam; False: NGN-M, a buffer less. True
            or False; default True.
        layer_scale: step of a group relative to the others. A number >= 0; default 1.0.
        maximize: ascend instead of descend. True or False; default False.
        state_dtype: dtype of the buffers: torch.float32, torch.bfloat16 or torch.float64. None:
            float32, or the parameter's where that is more precise. Default None.
        statistics_dtype: dtype of s alone; torch.bfloat16, with stochastic rounding, saves memory and
            hardly changes d. Default None.
        backend: kernel that runs the step: 'auto' (the fastest), 'c', 'triton' or 'eager'. Default
            'auto'.
        freeze_after: number of steps >= 1 after which d stays, the buffers of the estimate are released
            and, but for nonfinite='skip' and 'raise', nothing is reduced. Default None.
        nonfinite: what a NaN or infinite gradient does: 'hold' (its element counts as 0, d stays),
            'skip' or 'raise'. None: 'hold', but what a GradScaler finds to overflow is skipped. Default
            None.
        sync: when a step waits for its reduce: in the 'next_step' (hidden) or in the 'step'. Default
            'next_step'.
        before: when sums that a method takes before the weights move count: in the step itself, by a
            blocking reduce ('exact'), or in the next step, hidden ('lagged'). The others take none.
            Default 'exact'.
        grad_norms: whether ‖g‖₁ and ‖g‖₂ of each step ride in its reduce, for `log_values`,
            `optimizer.grad_norms` and `dadapt-dist refine-schedule`. Default False.
        clip_norm: norm that the gradients of all parameters over all ranks are clipped to, as by
            torch's clip_grad_norm_; costs a blocking reduce of one number a step, or none where the
            norm rides in that of sums before the weights move (not of NGN, of MoMoAdam, nor of Mechanic
            around anything but SGD). None: they are taken as they are. Default None.
        estimates: 'per_tensor': a d for each tensor, under its name; or a list of the names that groups
            choose from. None: one d, or those that the groups name. Default None.
        process_group: ranks that train together. None: all. Default None.
        copies: for plain tensors that hold a slice: returns how many ranks hold the same elements.
            Default None.
        step_size: a StepSize shared with other optimizers, or a name: all optimizers of the process
            that give it share one. freeze_after, nonfinite, sync, before, grad_norms, clip_norm,
            estimates, process_group and copies then belong to it. Default None.

    Raises:
        ValueError: an option is out of its range; nothing is built.
        TypeError: a keyword is unknown; the message names the nearest.

    Example:
        >>> import torch, dadapt_dist.optimizers
        >>> model = torch.nn.Linear(4, 1)
        >>> optimizer = dadapt_dist.optimizers.NGN(model.parameters(), lr=1.0)
        >>> for _ in range(3):
        ...     loss = model(torch.ones(8, 4)).square().mean()
        ...     optimizer.zero_grad()
        ...     loss.backward()
        ...     optimizer.step(loss=loss)
        >>> optimizer.step_size.steps
        3

    References:
        Orvieto and Xiao, arXiv 2407.04358; NGN-MDv1 and NGN-M of Islamov et al., arXiv 2508.15071.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1.0,
        cap: float = 1.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        lb: float = 0.0,
        precondition: bool = True,
        *,
        layer_scale: float = 1.0,
        maximize: bool = False,
        state_dtype: torch.dtype | None = None,
        statistics_dtype: torch.dtype | None = None,
        backend: Literal["auto", "c", "triton", "eager"] = "auto",
        freeze_after: int | None = None,
        nonfinite: Literal["hold", "skip", "raise"] | None = None,
        sync: Literal["next_step", "step"] = "next_step",
        before: Literal["exact", "lagged"] = "exact",
        grad_norms: bool = False,
        clip_norm: float | None = None,
        estimates: Sequence[str] | Literal["per_tensor"] | None = None,
        process_group: Any = None,
        copies: Callable[[Tensor], int | None] | None = None,
        step_size: StepSize | str | None = None,
    ) -> None: ...

class Prodigy(LearningRateFree):
    """Adam whose step size is found, not tuned.

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

    γ = d·lr (with Adam's bias correction where it is on) unless stated, r = layer_scale, wd = weight_decay; Σ runs over
    all elements of all ranks. The update uses the d of before the step.

    Args:
        params: tensors, (name, tensor) pairs, or dicts of parameter groups.
        lr: multiplies d. Leave it at 1.0 and let a schedule shape it; a group with lr 0 does not move.
            A number >= 0; default 1.0.
        betas: averaging constants of the gradient and of its square; betas[0] = 0 keeps no momentum.
            With recipe='auto' this default is (0.8, 0.999). 2 numbers in [0, 1); default (0.9, 0.999).
        beta3: averaging constant of the estimate; None: sqrt(betas[1]). None or a number in [0, 1);
            default None.
        eps: added to the root in the denominator, for numerical stability. A number > 0; default 1e-08.
        weight_decay: decay of the parameters, by weight_decay·d·lr a step. A number >= 0; default 0.
        decouple: decay the parameters themselves; False adds the decay to the gradient. True or False;
            default True.
        use_bias_correction: Adam's bias correction, for long runs: d grows more slowly. True or False;
            default False.
        safeguard_warmup: leave lr out of s, and not of the other sum, so that a warm-up does not make d
            too large. True or False; default False.
        d0: first d; it only has to be smaller than the d to be found. A number > 0; default 1e-06.
        d_coef: multiplies the estimate: the knob to turn when d comes out too large or too small. A
            number > 0; default 1.0.
        growth_rate: bound on the growth of d per step; inf sets none. A number >= 1, or inf; default
            inf.
        fsdp_in_use: accepted for compatibility and not needed: sharding is read from the parameters.
            Default False.
        slice_p: keep the buffers of the estimate for every slice_p-th element only. An integer >= 1, at
            most 2**53; default 1.
        layer_scale: step of a group relative to the others. A number >= 0; default 1.0.
        maximize: ascend instead of descend. True or False; default False.
        recipe: 'auto' is the recommended setting: exact_bias_correction, same_weights, rms_cap, betas
            of (0.8, 0.999), and with total_steps length_scaling and probe_d0, the last unless d0 or
            slice_p is given. What you give beside it holds. In a JSON file say 'automatic': Accelerate
            and the Trainer fill in what is 'auto'. None or 'auto' or 'automatic'; default None.
        total_steps: length of the run: the step decays linearly to 0 over it, without a scheduler.
            None: lr and a scheduler alone say. None or an integer >= 1; default None.
        length_scaling: multiply the step by √(500/total_steps) where that is below 1, and the estimate
            of d where it is above 1, at most by 2: the best step falls with the length of a run. None,
            True or False; default None.
        probe_d0: find a first d in a few trial steps, after which the parameters are put back to where
            they started. None, True or False; default None.
        exact_bias_correction: divide the averages by the sums of their own weights, so that a step is
            Adam's whatever d did. None, True or False; default None.
        same_weights: weigh both sums of the estimate by d²/d0, without lr and bias correction. None,
            True or False; default None.
        rms_cap: largest step of a tensor, relative to its root mean square. None: no bound. None or a
            number > 0; default None.
        state_dtype: dtype of the buffers: torch.float32, torch.bfloat16 or torch.float64. None:
            float32, or the parameter's where that is more precise. Default None.
        statistics_dtype: dtype of s alone; torch.bfloat16, with stochastic rounding, saves memory and
            hardly changes d. Default None.
        backend: kernel that runs the step: 'auto' (the fastest), 'c', 'triton' or 'eager'. Default
            'auto'.
        freeze_after: number of steps >= 1 after which d stays, the buffers of the estimate are released
            and, but for nonfinite='skip' and 'raise', nothing is reduced. Default None.
        nonfinite: what a NaN or infinite gradient does: 'hold' (its element counts as 0, d stays),
            'skip' or 'raise'. None: 'hold', but what a GradScaler finds to overflow is skipped. Default
            None.
        sync: when a step waits for its reduce: in the 'next_step' (hidden) or in the 'step'. Default
            'next_step'.
        before: when sums that a method takes before the weights move count: in the step itself, by a
            blocking reduce ('exact'), or in the next step, hidden ('lagged'). The others take none.
            Default 'exact'.
        grad_norms: whether ‖g‖₁ and ‖g‖₂ of each step ride in its reduce, for `log_values`,
            `optimizer.grad_norms` and `dadapt-dist refine-schedule`. Default False.
        clip_norm: norm that the gradients of all parameters over all ranks are clipped to, as by
            torch's clip_grad_norm_; costs a blocking reduce of one number a step, or none where the
            norm rides in that of sums before the weights move (not of NGN, of MoMoAdam, nor of Mechanic
            around anything but SGD). None: they are taken as they are. Default None.
        estimates: 'per_tensor': a d for each tensor, under its name; or a list of the names that groups
            choose from. None: one d, or those that the groups name. Default None.
        process_group: ranks that train together. None: all. Default None.
        copies: for plain tensors that hold a slice: returns how many ranks hold the same elements.
            Default None.
        step_size: a StepSize shared with other optimizers, or a name: all optimizers of the process
            that give it share one. freeze_after, nonfinite, sync, before, grad_norms, clip_norm,
            estimates, process_group and copies then belong to it. Default None.

    Raises:
        ValueError: an option is out of its range; nothing is built.
        TypeError: a keyword is unknown; the message names the nearest.

    Example:
        >>> import torch, dadapt_dist.optimizers
        >>> model = torch.nn.Linear(4, 1)
        >>> optimizer = dadapt_dist.optimizers.Prodigy(model.parameters(), lr=1.0)
        >>> for _ in range(3):
        ...     loss = model(torch.ones(8, 4)).square().mean()
        ...     optimizer.zero_grad()
        ...     loss.backward()
        ...     optimizer.step()
        >>> optimizer.step_size.steps
        3

    References:
        Mishchenko and Defazio, Prodigy: An Expeditiously Adaptive Parameter-Free Learner, arXiv
        2306.06101, Algorithm 3.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1.0,
        betas: tuple[float, float] = (0.9, 0.999),
        beta3: float | None = None,
        eps: float = 1e-8,
        weight_decay: float = 0,
        decouple: bool = True,
        use_bias_correction: bool = False,
        safeguard_warmup: bool = False,
        d0: float = 1e-6,
        d_coef: float = 1.0,
        growth_rate: float = float("inf"),
        fsdp_in_use: bool = False,
        slice_p: int = 1,
        *,
        layer_scale: float = 1.0,
        maximize: bool = False,
        recipe: str | None = None,
        total_steps: int | None = None,
        length_scaling: bool | None = None,
        probe_d0: bool | None = None,
        exact_bias_correction: bool | None = None,
        same_weights: bool | None = None,
        rms_cap: float | None = None,
        state_dtype: torch.dtype | None = None,
        statistics_dtype: torch.dtype | None = None,
        backend: Literal["auto", "c", "triton", "eager"] = "auto",
        freeze_after: int | None = None,
        nonfinite: Literal["hold", "skip", "raise"] | None = None,
        sync: Literal["next_step", "step"] = "next_step",
        before: Literal["exact", "lagged"] = "exact",
        grad_norms: bool = False,
        clip_norm: float | None = None,
        estimates: Sequence[str] | Literal["per_tensor"] | None = None,
        process_group: Any = None,
        copies: Callable[[Tensor], int | None] | None = None,
        step_size: StepSize | str | None = None,
    ) -> None: ...

class ProdigyScheduleFree(LearningRateFree):
    """Schedule-Free AdamW whose learning rate is found, not tuned.

        rates   γ = d·lr·min(1, k/warmup_steps), k = 1 first;  w = kʳ·(max γ)^weight_lr_power;  c = w/Σw;  β = betas[0]
        update  g at y = (1-β)·z + β·x;  w_s = (d/d0)·γ
                v = b2·v + (1-b2)·g²;  u = g/(√(v/(1-b2ᵏ)) + eps)
                s = b3·s + w_s·g               b3 = beta3, or √b2
                z = z - γ·(r·u + wd·y);  x = (1-c)·x + c·z
        sums    inner = Σ w_s·g·(x0 - z) with z of before,  s_l1 = Σ r·|s|
        rule    num = b3·num + inner;  d_hat = d_coef·num/s_l1;  d_max = max(d_max, d_hat)
                d = max(d, d_hat) if d is still d0;  d = min(d_max, d·growth_rate)

    In w the exponent of k is the option r; elsewhere r is layer_scale. The bound of Prodigy holds along z:
    Σ w·⟨g, z - x*⟩ ≥ 0 for a convex loss, with the w of the average (Theorem 2 of Schedule-Free), which are
    those of the estimate as long as lr is 1 and there is no warm-up; z is farther from x0 than y is, and
    the bound greater. v is that of AdamW, without the factor d² of Prodigy, so that a step is Adam's at d·lr
    whatever d did. [How others combine the two](deviations.md#prodigy-and-schedule-free). Training and evaluation
    need different weights: [train() and eval()](#weights-that-are-evaluated).

    γ = d·lr (with Adam's bias correction where it is on) unless stated, r = layer_scale, wd = weight_decay; Σ runs over
    all elements of all ranks. The update uses the d of before the step.

    Args:
        params: tensors, (name, tensor) pairs, or dicts of parameter groups.
        lr: multiplies d. Leave it at 1.0, without a scheduler; a group with lr 0 does not move. A
            number >= 0; default 1.0.
        betas: part of the average x in y, the point at which gradients are taken, and averaging
            constant of the squares. 2 numbers, the first in [0.01, 1), the second in [0, 1); default
            (0.9, 0.999).
        beta3: averaging constant of the estimate; None: sqrt(betas[1]). None or a number in [0, 1);
            default None.
        eps: added to the root in the denominator, for numerical stability. A number > 0; default 1e-08.
        weight_decay: decay of the parameters, by weight_decay·γ·y a step. A number >= 0; default 0.0.
        d0: first d; it only has to be smaller than the d to be found. A number > 0; default 1e-06.
        d_coef: multiplies the estimate: the knob to turn when d comes out too large or too small. A
            number > 0; default 1.0.
        growth_rate: bound on the growth of d per step; inf sets none. A number >= 1, or inf; default
            inf.
        warmup_steps: steps over which the learning rate rises from 0; they count less in the average.
            An integer >= 0; default 0.
        r: weight of step k in the average is k to this power. A number >= 0; default 0.0.
        weight_lr_power: and the largest learning rate so far to this power. A number >= 0; default 2.0.
        slice_p: keep the buffers of the estimate for every slice_p-th element only. An integer >= 1, at
            most 2**53; default 1.
        keep_average: keep x as a buffer: for parameters held in bfloat16 or float16, whose rounding
            would add up in it. True or False; default False.
        layer_scale: step of a group relative to the others. A number >= 0; default 1.0.
        maximize: ascend instead of descend. True or False; default False.
        state_dtype: dtype of the buffers: torch.float32, torch.bfloat16 or torch.float64. None:
            float32, or the parameter's where that is more precise. Default None.
        statistics_dtype: dtype of s alone; torch.bfloat16, with stochastic rounding, saves memory and
            hardly changes d. Default None.
        backend: kernel that runs the step: 'auto' (the fastest), 'c', 'triton' or 'eager'. Default
            'auto'.
        freeze_after: number of steps >= 1 after which d stays, the buffers of the estimate are released
            and, but for nonfinite='skip' and 'raise', nothing is reduced. Default None.
        nonfinite: what a NaN or infinite gradient does: 'hold' (its element counts as 0, d stays),
            'skip' or 'raise'. None: 'hold', but what a GradScaler finds to overflow is skipped. Default
            None.
        sync: when a step waits for its reduce: in the 'next_step' (hidden) or in the 'step'. Default
            'next_step'.
        before: when sums that a method takes before the weights move count: in the step itself, by a
            blocking reduce ('exact'), or in the next step, hidden ('lagged'). The others take none.
            Default 'exact'.
        grad_norms: whether ‖g‖₁ and ‖g‖₂ of each step ride in its reduce, for `log_values`,
            `optimizer.grad_norms` and `dadapt-dist refine-schedule`. Default False.
        clip_norm: norm that the gradients of all parameters over all ranks are clipped to, as by
            torch's clip_grad_norm_; costs a blocking reduce of one number a step, or none where the
            norm rides in that of sums before the weights move (not of NGN, of MoMoAdam, nor of Mechanic
            around anything but SGD). None: they are taken as they are. Default None.
        estimates: 'per_tensor': a d for each tensor, under its name; or a list of the names that groups
            choose from. None: one d, or those that the groups name. Default None.
        process_group: ranks that train together. None: all. Default None.
        copies: for plain tensors that hold a slice: returns how many ranks hold the same elements.
            Default None.
        step_size: a StepSize shared with other optimizers, or a name: all optimizers of the process
            that give it share one. freeze_after, nonfinite, sync, before, grad_norms, clip_norm,
            estimates, process_group and copies then belong to it. Default None.

    Raises:
        ValueError: an option is out of its range; nothing is built.
        TypeError: a keyword is unknown; the message names the nearest.

    Example:
        >>> import torch, dadapt_dist.optimizers
        >>> model = torch.nn.Linear(4, 1)
        >>> optimizer = dadapt_dist.optimizers.ProdigyScheduleFree(model.parameters(), lr=1.0)
        >>> for _ in range(3):
        ...     loss = model(torch.ones(8, 4)).square().mean()
        ...     optimizer.zero_grad()
        ...     loss.backward()
        ...     optimizer.step()
        >>> optimizer.step_size.steps
        3

    References:
        Defazio et al., The Road Less Scheduled, arXiv 2405.15682, Algorithm 1, and Mishchenko and
        Defazio, Prodigy, arXiv 2306.06101, Algorithm 3.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1.0,
        betas: tuple[float, float] = (0.9, 0.999),
        beta3: float | None = None,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        d0: float = 1e-6,
        d_coef: float = 1.0,
        growth_rate: float = float("inf"),
        warmup_steps: int = 0,
        r: float = 0.0,
        weight_lr_power: float = 2.0,
        slice_p: int = 1,
        keep_average: bool = False,
        *,
        layer_scale: float = 1.0,
        maximize: bool = False,
        state_dtype: torch.dtype | None = None,
        statistics_dtype: torch.dtype | None = None,
        backend: Literal["auto", "c", "triton", "eager"] = "auto",
        freeze_after: int | None = None,
        nonfinite: Literal["hold", "skip", "raise"] | None = None,
        sync: Literal["next_step", "step"] = "next_step",
        before: Literal["exact", "lagged"] = "exact",
        grad_norms: bool = False,
        clip_norm: float | None = None,
        estimates: Sequence[str] | Literal["per_tensor"] | None = None,
        process_group: Any = None,
        copies: Callable[[Tensor], int | None] | None = None,
        step_size: StepSize | str | None = None,
    ) -> None: ...

class ScheduleFreeAdamW(LearningRateFree):
    """AdamW without a schedule: weights are averaged while they train.

        rates   γ = lr·min(1, k/warmup_steps), k = 1 first;  w = kʳ·(max γ)^weight_lr_power;  c = w/Σw;  β = betas[0]
        update  g at y = (1-β)·z + β·x
                v = b2·v + (1-b2)·g²;  u = g/(√(v/(1-b2ᵏ)) + eps)
                z = z - γ·(r·u + wd·y);  x = (1-c)·x + c·z

    In w the exponent of k is the option r; elsewhere r is layer_scale. The learning rate is not learned, and
    `optimizer.d` is NaN; ProdigyScheduleFree learns it. Give it a warm-up. Training and evaluation need
    different weights: [train() and eval()](#weights-that-are-evaluated).

    γ = d·lr (with Adam's bias correction where it is on) unless stated, r = layer_scale, wd = weight_decay; Σ runs over
    all elements of all ranks. The update uses the d of before the step.

    Args:
        params: tensors, (name, tensor) pairs, or dicts of parameter groups.
        lr: learning rate, which is not learned; constant after the warm-up, without a scheduler. A
            number >= 0; default 0.0025.
        betas: part of the average x in y, the point at which gradients are taken, and averaging
            constant of the squares. 2 numbers, the first in [0.01, 1), the second in [0, 1); default
            (0.9, 0.999).
        eps: added to the root in the denominator, for numerical stability. A number > 0; default 1e-08.
        weight_decay: decay of the parameters, by weight_decay·γ·y a step. A number >= 0; default 0.0.
        warmup_steps: steps over which the learning rate rises from 0; they count less in the average.
            An integer >= 0; default 0.
        r: weight of step k in the average is k to this power. A number >= 0; default 0.0.
        weight_lr_power: and the largest learning rate so far to this power. A number >= 0; default 2.0.
        keep_average: keep x as a buffer: for parameters held in bfloat16 or float16, whose rounding
            would add up in it. True or False; default False.
        layer_scale: step of a group relative to the others. A number >= 0; default 1.0.
        maximize: ascend instead of descend. True or False; default False.
        state_dtype: dtype of the buffers: torch.float32, torch.bfloat16 or torch.float64. None:
            float32, or the parameter's where that is more precise. Default None.
        statistics_dtype: dtype of s alone; torch.bfloat16, with stochastic rounding, saves memory and
            hardly changes d. Default None.
        backend: kernel that runs the step: 'auto' (the fastest), 'c', 'triton' or 'eager'. Default
            'auto'.
        freeze_after: number of steps >= 1 after which d stays, the buffers of the estimate are released
            and, but for nonfinite='skip' and 'raise', nothing is reduced. Default None.
        nonfinite: what a NaN or infinite gradient does: 'hold' (its element counts as 0, d stays),
            'skip' or 'raise'. None: 'hold', but what a GradScaler finds to overflow is skipped. Default
            None.
        sync: when a step waits for its reduce: in the 'next_step' (hidden) or in the 'step'. Default
            'next_step'.
        before: when sums that a method takes before the weights move count: in the step itself, by a
            blocking reduce ('exact'), or in the next step, hidden ('lagged'). The others take none.
            Default 'exact'.
        grad_norms: whether ‖g‖₁ and ‖g‖₂ of each step ride in its reduce, for `log_values`,
            `optimizer.grad_norms` and `dadapt-dist refine-schedule`. Default False.
        clip_norm: norm that the gradients of all parameters over all ranks are clipped to, as by
            torch's clip_grad_norm_; costs a blocking reduce of one number a step, or none where the
            norm rides in that of sums before the weights move (not of NGN, of MoMoAdam, nor of Mechanic
            around anything but SGD). None: they are taken as they are. Default None.
        estimates: 'per_tensor': a d for each tensor, under its name; or a list of the names that groups
            choose from. None: one d, or those that the groups name. Default None.
        process_group: ranks that train together. None: all. Default None.
        copies: for plain tensors that hold a slice: returns how many ranks hold the same elements.
            Default None.
        step_size: a StepSize shared with other optimizers, or a name: all optimizers of the process
            that give it share one. freeze_after, nonfinite, sync, before, grad_norms, clip_norm,
            estimates, process_group and copies then belong to it. Default None.

    Raises:
        ValueError: an option is out of its range; nothing is built.
        TypeError: a keyword is unknown; the message names the nearest.

    Example:
        >>> import torch, dadapt_dist.optimizers
        >>> model = torch.nn.Linear(4, 1)
        >>> optimizer = dadapt_dist.optimizers.ScheduleFreeAdamW(model.parameters(), lr=1.0)
        >>> for _ in range(3):
        ...     loss = model(torch.ones(8, 4)).square().mean()
        ...     optimizer.zero_grad()
        ...     loss.backward()
        ...     optimizer.step()
        >>> optimizer.step_size.steps
        3

    References:
        Defazio et al., The Road Less Scheduled, arXiv 2405.15682, Algorithm 1.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 0.0025,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        warmup_steps: int = 0,
        r: float = 0.0,
        weight_lr_power: float = 2.0,
        keep_average: bool = False,
        *,
        layer_scale: float = 1.0,
        maximize: bool = False,
        state_dtype: torch.dtype | None = None,
        statistics_dtype: torch.dtype | None = None,
        backend: Literal["auto", "c", "triton", "eager"] = "auto",
        freeze_after: int | None = None,
        nonfinite: Literal["hold", "skip", "raise"] | None = None,
        sync: Literal["next_step", "step"] = "next_step",
        before: Literal["exact", "lagged"] = "exact",
        grad_norms: bool = False,
        clip_norm: float | None = None,
        estimates: Sequence[str] | Literal["per_tensor"] | None = None,
        process_group: Any = None,
        copies: Callable[[Tensor], int | None] | None = None,
        step_size: StepSize | str | None = None,
    ) -> None: ...

class ScheduleFreePlus(LearningRateFree):
    """Schedule-Free AdamW with Polyak's learning rate, from the loss.

        before  f the loss;  n = norm_beta·n + (1-norm_beta)·√(π/2)·‖g‖₁;  n̂ = n/(1-norm_betaᵏ), k = 1 first
                rate = max(0, min(f + β·⟨g, z - x⟩, bound·f))/n̂
        rates   α = lr·min(1, k/warmup_steps)·rate;  w = kʳ·(max α)^weight_lr_power;  c = w/Σw, 1 up to average_from
        update  g at y = (1-β)·z + β·x, the β of the step before
                m = b1·m + (1-b1)·g;  v = b2·v + (1-b2)·g²;  u = (m/(1-b1ᵏ))/(√(v/(1-b2ᵏ)) + eps)
                z = z - α·(r·u + α·wd·y);  x = (1-c)·x + c·z

    In w the exponent of k is the option r; elsewhere r is layer_scale. The bound is not in the paper: without it
    (bound=inf) steps feed on themselves where the loss cannot come near 0, for a step of z increases ⟨g, z - x⟩ of
    the next ones. [Measured](deviations.md#the-bound-of-schedulefree). The least value of the loss is taken to be 0: give
    step(loss=loss - least) where it is another, and 0.5 or less for lr where it is not known. Give the loss as
    [methods that use it](#methods-that-use-the-loss) ask for. Training and evaluation need different weights:
    [train() and eval()](#weights-that-are-evaluated).

    γ = d·lr (with Adam's bias correction where it is on) unless stated, r = layer_scale, wd = weight_decay; Σ runs over
    all elements of all ranks. The update uses the d of before the step.

    Args:
        params: tensors, (name, tensor) pairs, or dicts of parameter groups.
        lr: multiplies Polyak's learning rate; a group with lr 0 does not move. A number >= 0; default
            1.0.
        betas: averaging constants of the gradient and of its square. 2 numbers in [0, 1); default (0.9,
            0.95).
        sf_beta: β, the part of the average x in y, the point at which gradients are taken. A number in
            [0.01, 1); default 0.9.
        sf_beta_max: β after sf_beta_steps. A number in [0.01, 1); default 0.965.
        sf_beta_steps: steps over which 1 - β goes from 1 - sf_beta to 1 - sf_beta_max, evenly in its
            logarithm. An integer >= 0; default 0.
        eps: added to the root in the denominator, for numerical stability. A number > 0; default 1e-08.
        weight_decay: decay of the parameters, by weight_decay·α²·y a step; 20 to 50 are usual. A number
            >= 0; default 0.0.
        norm_beta: averaging constant of the norm of the gradient. A number in [0, 1); default 0.0.
        bound: largest multiple of the loss in the numerator of Polyak's learning rate. A number >= 1,
            or inf; default 1.0.
        warmup_steps: steps over which the learning rate rises from 0; they count less in the average.
            An integer >= 0; default 0.
        average_from: steps before the average begins; x is z until then. An integer >= 0; default 0.
        r: weight of step k in the average is k to this power. A number >= 0; default 0.0.
        weight_lr_power: and the largest learning rate so far to this power. A number >= 0; default 2.0.
        keep_average: keep x as a buffer: for parameters held in bfloat16 or float16, whose rounding
            would add up in it. True or False; default False.
        layer_scale: step of a group relative to the others. A number >= 0; default 1.0.
        maximize: ascend instead of descend. True or False; default False.
        state_dtype: dtype of the buffers: torch.float32, torch.bfloat16 or torch.float64. None:
            float32, or the parameter's where that is more precise. Default None.
        statistics_dtype: dtype of s alone; torch.bfloat16, with stochastic rounding, saves memory and
            hardly changes d. Default None.
        backend: kernel that runs the step: 'auto' (the fastest), 'c', 'triton' or 'eager'. Default
            'auto'.
        freeze_after: number of steps >= 1 after which d stays, the buffers of the estimate are released
            and, but for nonfinite='skip' and 'raise', nothing is reduced. Default None.
        nonfinite: what a NaN or infinite gradient does: 'hold' (its element counts as 0, d stays),
            'skip' or 'raise'. None: 'hold', but what a GradScaler finds to overflow is skipped. Default
            None.
        sync: when a step waits for its reduce: in the 'next_step' (hidden) or in the 'step'. Default
            'next_step'.
        before: when sums that a method takes before the weights move count: in the step itself, by a
            blocking reduce ('exact'), or in the next step, hidden ('lagged'). The others take none.
            Default 'exact'.
        grad_norms: whether ‖g‖₁ and ‖g‖₂ of each step ride in its reduce, for `log_values`,
            `optimizer.grad_norms` and `dadapt-dist refine-schedule`. Default False.
        clip_norm: norm that the gradients of all parameters over all ranks are clipped to, as by
            torch's clip_grad_norm_; costs a blocking reduce of one number a step, or none where the
            norm rides in that of sums before the weights move (not of NGN, of MoMoAdam, nor of Mechanic
            around anything but SGD). None: they are taken as they are. Default None.
        estimates: 'per_tensor': a d for each tensor, under its name; or a list of the names that groups
            choose from. None: one d, or those that the groups name. Default None.
        process_group: ranks that train together. None: all. Default None.
        copies: for plain tensors that hold a slice: returns how many ranks hold the same elements.
            Default None.
        step_size: a StepSize shared with other optimizers, or a name: all optimizers of the process
            that give it share one. freeze_after, nonfinite, sync, before, grad_norms, clip_norm,
            estimates, process_group and copies then belong to it. Default None.

    Raises:
        ValueError: an option is out of its range; nothing is built.
        TypeError: a keyword is unknown; the message names the nearest.

    Example:
        >>> import torch, dadapt_dist.optimizers
        >>> model = torch.nn.Linear(4, 1)
        >>> optimizer = dadapt_dist.optimizers.ScheduleFreePlus(model.parameters(), lr=1.0)
        >>> for _ in range(3):
        ...     loss = model(torch.ones(8, 4)).square().mean()
        ...     optimizer.zero_grad()
        ...     loss.backward()
        ...     optimizer.step(loss=loss)
        >>> optimizer.step_size.steps
        3

    References:
        Defazio, ScheduleFree+, arXiv 2605.19095; released in the repository of schedule_free.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1.0,
        betas: tuple[float, float] = (0.9, 0.95),
        sf_beta: float = 0.9,
        sf_beta_max: float = 0.965,
        sf_beta_steps: int = 0,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        norm_beta: float = 0.0,
        bound: float = 1.0,
        warmup_steps: int = 0,
        average_from: int = 0,
        r: float = 0.0,
        weight_lr_power: float = 2.0,
        keep_average: bool = False,
        *,
        layer_scale: float = 1.0,
        maximize: bool = False,
        state_dtype: torch.dtype | None = None,
        statistics_dtype: torch.dtype | None = None,
        backend: Literal["auto", "c", "triton", "eager"] = "auto",
        freeze_after: int | None = None,
        nonfinite: Literal["hold", "skip", "raise"] | None = None,
        sync: Literal["next_step", "step"] = "next_step",
        before: Literal["exact", "lagged"] = "exact",
        grad_norms: bool = False,
        clip_norm: float | None = None,
        estimates: Sequence[str] | Literal["per_tensor"] | None = None,
        process_group: Any = None,
        copies: Callable[[Tensor], int | None] | None = None,
        step_size: StepSize | str | None = None,
    ) -> None: ...

class ScheduleFreeSGD(LearningRateFree):
    """SGD without a schedule: weights are averaged while they train.

        rates   γ = lr·min(1, k/warmup_steps), k = 1 first;  w = kʳ·(max γ)^weight_lr_power;  c = w/Σw;  β = momentum
        update  g at y = (1-β)·z + β·x, with wd·y added to it
                z = z - r·γ·g;  x = (1-c)·x + c·z

    The exponent of k is the option r; elsewhere r is layer_scale. The learning rate is not learned, and
    `optimizer.d` is NaN. Training and evaluation need different weights:
    [train() and eval()](#weights-that-are-evaluated).

    γ = d·lr (with Adam's bias correction where it is on) unless stated, r = layer_scale, wd = weight_decay; Σ runs over
    all elements of all ranks. The update uses the d of before the step.

    Args:
        params: tensors, (name, tensor) pairs, or dicts of parameter groups.
        lr: learning rate, which is not learned; constant after the warm-up, without a scheduler. A
            number >= 0; default 1.0.
        momentum: part of the average x in y, the point at which gradients are taken. A number in [0.01,
            1); default 0.9.
        weight_decay: decay, added to the gradient as weight_decay·y. A number >= 0; default 0.0.
        warmup_steps: steps over which the learning rate rises from 0; they count less in the average.
            An integer >= 0; default 0.
        r: weight of step k in the average is k to this power. A number >= 0; default 0.0.
        weight_lr_power: and the largest learning rate so far to this power. A number >= 0; default 2.0.
        keep_average: keep x as a buffer: for parameters held in bfloat16 or float16, whose rounding
            would add up in it. True or False; default False.
        layer_scale: step of a group relative to the others. A number >= 0; default 1.0.
        maximize: ascend instead of descend. True or False; default False.
        state_dtype: dtype of the buffers: torch.float32, torch.bfloat16 or torch.float64. None:
            float32, or the parameter's where that is more precise. Default None.
        statistics_dtype: dtype of s alone; torch.bfloat16, with stochastic rounding, saves memory and
            hardly changes d. Default None.
        backend: kernel that runs the step: 'auto' (the fastest), 'c', 'triton' or 'eager'. Default
            'auto'.
        freeze_after: number of steps >= 1 after which d stays, the buffers of the estimate are released
            and, but for nonfinite='skip' and 'raise', nothing is reduced. Default None.
        nonfinite: what a NaN or infinite gradient does: 'hold' (its element counts as 0, d stays),
            'skip' or 'raise'. None: 'hold', but what a GradScaler finds to overflow is skipped. Default
            None.
        sync: when a step waits for its reduce: in the 'next_step' (hidden) or in the 'step'. Default
            'next_step'.
        before: when sums that a method takes before the weights move count: in the step itself, by a
            blocking reduce ('exact'), or in the next step, hidden ('lagged'). The others take none.
            Default 'exact'.
        grad_norms: whether ‖g‖₁ and ‖g‖₂ of each step ride in its reduce, for `log_values`,
            `optimizer.grad_norms` and `dadapt-dist refine-schedule`. Default False.
        clip_norm: norm that the gradients of all parameters over all ranks are clipped to, as by
            torch's clip_grad_norm_; costs a blocking reduce of one number a step, or none where the
            norm rides in that of sums before the weights move (not of NGN, of MoMoAdam, nor of Mechanic
            around anything but SGD). None: they are taken as they are. Default None.
        estimates: 'per_tensor': a d for each tensor, under its name; or a list of the names that groups
            choose from. None: one d, or those that the groups name. Default None.
        process_group: ranks that train together. None: all. Default None.
        copies: for plain tensors that hold a slice: returns how many ranks hold the same elements.
            Default None.
        step_size: a StepSize shared with other optimizers, or a name: all optimizers of the process
            that give it share one. freeze_after, nonfinite, sync, before, grad_norms, clip_norm,
            estimates, process_group and copies then belong to it. Default None.

    Raises:
        ValueError: an option is out of its range; nothing is built.
        TypeError: a keyword is unknown; the message names the nearest.

    Example:
        >>> import torch, dadapt_dist.optimizers
        >>> model = torch.nn.Linear(4, 1)
        >>> optimizer = dadapt_dist.optimizers.ScheduleFreeSGD(model.parameters(), lr=1.0)
        >>> for _ in range(3):
        ...     loss = model(torch.ones(8, 4)).square().mean()
        ...     optimizer.zero_grad()
        ...     loss.backward()
        ...     optimizer.step()
        >>> optimizer.step_size.steps
        3

    References:
        Defazio et al., The Road Less Scheduled, arXiv 2405.15682, Algorithm 1.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1.0,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        warmup_steps: int = 0,
        r: float = 0.0,
        weight_lr_power: float = 2.0,
        keep_average: bool = False,
        *,
        layer_scale: float = 1.0,
        maximize: bool = False,
        state_dtype: torch.dtype | None = None,
        statistics_dtype: torch.dtype | None = None,
        backend: Literal["auto", "c", "triton", "eager"] = "auto",
        freeze_after: int | None = None,
        nonfinite: Literal["hold", "skip", "raise"] | None = None,
        sync: Literal["next_step", "step"] = "next_step",
        before: Literal["exact", "lagged"] = "exact",
        grad_norms: bool = False,
        clip_norm: float | None = None,
        estimates: Sequence[str] | Literal["per_tensor"] | None = None,
        process_group: Any = None,
        copies: Callable[[Tensor], int | None] | None = None,
        step_size: StepSize | str | None = None,
    ) -> None: ...

class TRACAdam(LearningRateFree):
    """AdamW whose learning rate TRAC learns, and takes back where it leads astray.

        before  h = Σ g·Δ;  for six β_i = 1 - 10^-i:  v_i = β_i²·v_i + h²;  σ_i = β_i·σ_i + h, from 1e-8
                S = Σ s_init·erfi(σ_i/(√(2·v_i) + s_eps))/erfi(1/√2);  d = S = min(max(S, 0), s_max)
        update  Δ = Δ·S'/(S' + s_eps) + lr·r·u, S' of before the step;  x = x0 - S·Δ
                u of torch's AdamW with lr 1, weight decay in it

    For training that goes on while the task changes, as in lifelong reinforcement learning: where the updates lead astray,
    S falls, down to 0 (`optimizer.d` shows 1e-300 then), and the weights return towards x0. `delta`, `freeze_after` and
    `s_max` are as of Mechanic. trac-optimizer 0.0.2 has what is "recomputed" here, and an erfi that is 1 % too small
    near 0, where this one is exact. The sums are those of the very step: one blocking reduce a step, or, with
    before="lagged", those of the step before, hidden.

    γ = d·lr (with Adam's bias correction where it is on) unless stated, r = layer_scale, wd = weight_decay; Σ runs over
    all elements of all ranks. The update uses the d of before the step.

    Args:
        params: tensors, (name, tensor) pairs, or dicts of parameter groups.
        lr: multiplies the direction's update. Leave its peak at 1.0 and let a schedule shape it. A
            number >= 0; default 1.0.
        s_init: first S; it only has to be smaller than the S to be found. A number > 0; default 1e-08.
        s_max: largest S. A number > 0, or inf; default inf.
        delta: how Δ is known: 'stored' in a buffer with the numbers of 'recomputed', which is (x0 -
            x)/(S + s_eps), one buffer less, for weights in float32 or wider; 'summed' in a buffer as
            the plain sum of the updates. 'stored', 'recomputed' or 'summed'; default 'stored'.
        s_eps: added to denominators of the rule of S, for numerical stability. A number > 0; default
            1e-08.
        weight_decay: decay of the parameters: weight_decay·x is added to the update that the method
            scales. A number >= 0; default 0.0.
        betas: averaging constants of the gradient and of its square. 2 numbers in [0, 1); default (0.9,
            0.999).
        eps: added to the root in the denominator, for numerical stability. A number > 0; default 1e-08.
        layer_scale: step of a group relative to the others. A number >= 0; default 1.0.
        maximize: ascend instead of descend. True or False; default False.
        state_dtype: dtype of the buffers: torch.float32, torch.bfloat16 or torch.float64. None:
            float32, or the parameter's where that is more precise. Default None.
        statistics_dtype: dtype of s alone; torch.bfloat16, with stochastic rounding, saves memory and
            hardly changes d. Default None.
        backend: kernel that runs the step: 'auto' (the fastest), 'c', 'triton' or 'eager'. Default
            'auto'.
        freeze_after: number of steps >= 1 after which d stays, the buffers of the estimate are released
            and, but for nonfinite='skip' and 'raise', nothing is reduced. Default None.
        nonfinite: what a NaN or infinite gradient does: 'hold' (its element counts as 0, d stays),
            'skip' or 'raise'. None: 'hold', but what a GradScaler finds to overflow is skipped. Default
            None.
        sync: when a step waits for its reduce: in the 'next_step' (hidden) or in the 'step'. Default
            'next_step'.
        before: when sums that a method takes before the weights move count: in the step itself, by a
            blocking reduce ('exact'), or in the next step, hidden ('lagged'). The others take none.
            Default 'exact'.
        grad_norms: whether ‖g‖₁ and ‖g‖₂ of each step ride in its reduce, for `log_values`,
            `optimizer.grad_norms` and `dadapt-dist refine-schedule`. Default False.
        clip_norm: norm that the gradients of all parameters over all ranks are clipped to, as by
            torch's clip_grad_norm_; costs a blocking reduce of one number a step, or none where the
            norm rides in that of sums before the weights move (not of NGN, of MoMoAdam, nor of Mechanic
            around anything but SGD). None: they are taken as they are. Default None.
        estimates: 'per_tensor': a d for each tensor, under its name; or a list of the names that groups
            choose from. None: one d, or those that the groups name. Default None.
        process_group: ranks that train together. None: all. Default None.
        copies: for plain tensors that hold a slice: returns how many ranks hold the same elements.
            Default None.
        step_size: a StepSize shared with other optimizers, or a name: all optimizers of the process
            that give it share one. freeze_after, nonfinite, sync, before, grad_norms, clip_norm,
            estimates, process_group and copies then belong to it. Default None.

    Raises:
        ValueError: an option is out of its range; nothing is built.
        TypeError: a keyword is unknown; the message names the nearest.

    Example:
        >>> import torch, dadapt_dist.optimizers
        >>> model = torch.nn.Linear(4, 1)
        >>> optimizer = dadapt_dist.optimizers.TRACAdam(model.parameters(), lr=1.0)
        >>> for _ in range(3):
        ...     loss = model(torch.ones(8, 4)).square().mean()
        ...     optimizer.zero_grad()
        ...     loss.backward()
        ...     optimizer.step()
        >>> optimizer.step_size.steps
        3

    References:
        Muppidi, Zhang and Yang, Fast TRAC, arXiv 2405.16642, Algorithm 1.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1.0,
        s_init: float = 1e-8,
        s_max: float = float("inf"),
        delta: str = "stored",
        s_eps: float = 1e-8,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        *,
        layer_scale: float = 1.0,
        maximize: bool = False,
        state_dtype: torch.dtype | None = None,
        statistics_dtype: torch.dtype | None = None,
        backend: Literal["auto", "c", "triton", "eager"] = "auto",
        freeze_after: int | None = None,
        nonfinite: Literal["hold", "skip", "raise"] | None = None,
        sync: Literal["next_step", "step"] = "next_step",
        before: Literal["exact", "lagged"] = "exact",
        grad_norms: bool = False,
        clip_norm: float | None = None,
        estimates: Sequence[str] | Literal["per_tensor"] | None = None,
        process_group: Any = None,
        copies: Callable[[Tensor], int | None] | None = None,
        step_size: StepSize | str | None = None,
    ) -> None: ...

__all__ = [
    "COCOB",
    "KT",
    "NGN",
    "AdaGradPP",
    "AdamPP",
    "CoordinateKT",
    "DAdaptAdaGrad",
    "DAdaptAdam",
    "DAdaptAdan",
    "DAdaptLion",
    "DAdaptSGD",
    "DoG",
    "DoWG",
    "DualAveraging",
    "LDoG",
    "MechanicAdam",
    "MechanicLion",
    "MechanicSGD",
    "MoMo",
    "MoMoAdam",
    "Prodigy",
    "ProdigyScheduleFree",
    "ScheduleFreeAdamW",
    "ScheduleFreePlus",
    "ScheduleFreeSGD",
    "TRACAdam",
]
