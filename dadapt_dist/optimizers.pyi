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
        clip_norm: norm that the gradients of all parameters over all ranks are clipped to, as by
            torch's clip_grad_norm_; costs a blocking reduce of one number a step. None: they are taken
            as they are. Default None.
        estimates: 'per_tensor': a d for each tensor, under its name; or a list of the names that groups
            choose from. None: one d, or those that the groups name. Default None.
        process_group: ranks that train together. None: all. Default None.
        copies: for plain tensors that hold a slice: returns how many ranks hold the same elements.
            Default None.
        step_size: a StepSize shared with other optimizers, or a name: all optimizers of the process
            that give it share one. freeze_after, nonfinite, sync, before, clip_norm, estimates,
            process_group and copies then belong to it. Default None.

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
        clip_norm: norm that the gradients of all parameters over all ranks are clipped to, as by
            torch's clip_grad_norm_; costs a blocking reduce of one number a step. None: they are taken
            as they are. Default None.
        estimates: 'per_tensor': a d for each tensor, under its name; or a list of the names that groups
            choose from. None: one d, or those that the groups name. Default None.
        process_group: ranks that train together. None: all. Default None.
        copies: for plain tensors that hold a slice: returns how many ranks hold the same elements.
            Default None.
        step_size: a StepSize shared with other optimizers, or a name: all optimizers of the process
            that give it share one. freeze_after, nonfinite, sync, before, clip_norm, estimates,
            process_group and copies then belong to it. Default None.

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
        clip_norm: norm that the gradients of all parameters over all ranks are clipped to, as by
            torch's clip_grad_norm_; costs a blocking reduce of one number a step. None: they are taken
            as they are. Default None.
        estimates: 'per_tensor': a d for each tensor, under its name; or a list of the names that groups
            choose from. None: one d, or those that the groups name. Default None.
        process_group: ranks that train together. None: all. Default None.
        copies: for plain tensors that hold a slice: returns how many ranks hold the same elements.
            Default None.
        step_size: a StepSize shared with other optimizers, or a name: all optimizers of the process
            that give it share one. freeze_after, nonfinite, sync, before, clip_norm, estimates,
            process_group and copies then belong to it. Default None.

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
        clip_norm: norm that the gradients of all parameters over all ranks are clipped to, as by
            torch's clip_grad_norm_; costs a blocking reduce of one number a step. None: they are taken
            as they are. Default None.
        estimates: 'per_tensor': a d for each tensor, under its name; or a list of the names that groups
            choose from. None: one d, or those that the groups name. Default None.
        process_group: ranks that train together. None: all. Default None.
        copies: for plain tensors that hold a slice: returns how many ranks hold the same elements.
            Default None.
        step_size: a StepSize shared with other optimizers, or a name: all optimizers of the process
            that give it share one. freeze_after, nonfinite, sync, before, clip_norm, estimates,
            process_group and copies then belong to it. Default None.

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
        clip_norm: norm that the gradients of all parameters over all ranks are clipped to, as by
            torch's clip_grad_norm_; costs a blocking reduce of one number a step. None: they are taken
            as they are. Default None.
        estimates: 'per_tensor': a d for each tensor, under its name; or a list of the names that groups
            choose from. None: one d, or those that the groups name. Default None.
        process_group: ranks that train together. None: all. Default None.
        copies: for plain tensors that hold a slice: returns how many ranks hold the same elements.
            Default None.
        step_size: a StepSize shared with other optimizers, or a name: all optimizers of the process
            that give it share one. freeze_after, nonfinite, sync, before, clip_norm, estimates,
            process_group and copies then belong to it. Default None.

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
        clip_norm: norm that the gradients of all parameters over all ranks are clipped to, as by
            torch's clip_grad_norm_; costs a blocking reduce of one number a step. None: they are taken
            as they are. Default None.
        estimates: 'per_tensor': a d for each tensor, under its name; or a list of the names that groups
            choose from. None: one d, or those that the groups name. Default None.
        process_group: ranks that train together. None: all. Default None.
        copies: for plain tensors that hold a slice: returns how many ranks hold the same elements.
            Default None.
        step_size: a StepSize shared with other optimizers, or a name: all optimizers of the process
            that give it share one. freeze_after, nonfinite, sync, before, clip_norm, estimates,
            process_group and copies then belong to it. Default None.

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

    Both norms are those of the very step: one blocking reduce a step, or, with before="lagged", those of
    the step before, hidden. It is at its best with an average of the weights.

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
        clip_norm: norm that the gradients of all parameters over all ranks are clipped to, as by
            torch's clip_grad_norm_; costs a blocking reduce of one number a step. None: they are taken
            as they are. Default None.
        estimates: 'per_tensor': a d for each tensor, under its name; or a list of the names that groups
            choose from. None: one d, or those that the groups name. Default None.
        process_group: ranks that train together. None: all. Default None.
        copies: for plain tensors that hold a slice: returns how many ranks hold the same elements.
            Default None.
        step_size: a StepSize shared with other optimizers, or a name: all optimizers of the process
            that give it share one. freeze_after, nonfinite, sync, before, clip_norm, estimates,
            process_group and copies then belong to it. Default None.

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
        state_dtype: torch.dtype | None = None,
        statistics_dtype: torch.dtype | None = None,
        backend: Literal["auto", "c", "triton", "eager"] = "auto",
        freeze_after: int | None = None,
        nonfinite: Literal["hold", "skip", "raise"] | None = None,
        sync: Literal["next_step", "step"] = "next_step",
        before: Literal["exact", "lagged"] = "exact",
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
        clip_norm: norm that the gradients of all parameters over all ranks are clipped to, as by
            torch's clip_grad_norm_; costs a blocking reduce of one number a step. None: they are taken
            as they are. Default None.
        estimates: 'per_tensor': a d for each tensor, under its name; or a list of the names that groups
            choose from. None: one d, or those that the groups name. Default None.
        process_group: ranks that train together. None: all. Default None.
        copies: for plain tensors that hold a slice: returns how many ranks hold the same elements.
            Default None.
        step_size: a StepSize shared with other optimizers, or a name: all optimizers of the process
            that give it share one. freeze_after, nonfinite, sync, before, clip_norm, estimates,
            process_group and copies then belong to it. Default None.

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
        ...     optimizer.step()
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
        clip_norm: norm that the gradients of all parameters over all ranks are clipped to, as by
            torch's clip_grad_norm_; costs a blocking reduce of one number a step. None: they are taken
            as they are. Default None.
        estimates: 'per_tensor': a d for each tensor, under its name; or a list of the names that groups
            choose from. None: one d, or those that the groups name. Default None.
        process_group: ranks that train together. None: all. Default None.
        copies: for plain tensors that hold a slice: returns how many ranks hold the same elements.
            Default None.
        step_size: a StepSize shared with other optimizers, or a name: all optimizers of the process
            that give it share one. freeze_after, nonfinite, sync, before, clip_norm, estimates,
            process_group and copies then belong to it. Default None.

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
        ...     optimizer.step()
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
        clip_norm: norm that the gradients of all parameters over all ranks are clipped to, as by
            torch's clip_grad_norm_; costs a blocking reduce of one number a step. None: they are taken
            as they are. Default None.
        estimates: 'per_tensor': a d for each tensor, under its name; or a list of the names that groups
            choose from. None: one d, or those that the groups name. Default None.
        process_group: ranks that train together. None: all. Default None.
        copies: for plain tensors that hold a slice: returns how many ranks hold the same elements.
            Default None.
        step_size: a StepSize shared with other optimizers, or a name: all optimizers of the process
            that give it share one. freeze_after, nonfinite, sync, before, clip_norm, estimates,
            process_group and copies then belong to it. Default None.

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
        ...     optimizer.step()
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
        clip_norm: float | None = None,
        estimates: Sequence[str] | Literal["per_tensor"] | None = None,
        process_group: Any = None,
        copies: Callable[[Tensor], int | None] | None = None,
        step_size: StepSize | str | None = None,
    ) -> None: ...

class Prodigy(LearningRateFree):
    """Adam whose step size is found, not tuned.

        rates   γ = d·lr·c;  c = 1, Adam's bias correction, or lr's own decay with total_steps
                length_scaling:  c is min(1, √(500/total_steps)) times that
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
                d = max(d, d_hat) if d is still d0;  d = min(d_max, d·growth_rate)
        probe   q = 10⁻³·R first, R = max(10⁻³, rms of all weights), and 8·q after each of 7 steps, or total_steps/10
                wd = 0 in these steps, and rms_cap at most 0.2
                a = d_hat/p', p' = min(p, 0.2·R);  good = min(p', 0.05·R) while a > 0 and a ≥ max a / 4 in every step
                then d = max(l·max d_hat, good, a quarter of the first q);  q = 0;  l = √(500/total_steps), 1 to 2
                one step puts x back to x0, and m, v, s, num, W_m, W_v to 0; c then rises over 10 % of total_steps

    γ = d·lr (with Adam's bias correction where it is on) unless stated, r = layer_scale, wd = weight_decay; Σ runs over
    all elements of all ranks. The update uses the d of before the step.

    Args:
        params: tensors, (name, tensor) pairs, or dicts of parameter groups.
        lr: multiplies d. Leave it at 1.0 and let a schedule shape it; a group with lr 0 does not move.
            A number >= 0; default 1.0.
        betas: averaging constants of the gradient and of its square; betas[0] = 0 keeps no momentum. 2
            numbers in [0, 1); default (0.9, 0.999).
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
        recipe: 'auto' is the setting to train with untouched: exact_bias_correction, same_weights,
            rms_cap, unless that is given, and with total_steps length_scaling and probe_d0, the latter
            unless d0 or slice_p is given. In a JSON file say 'automatic': Accelerate and the Trainer
            fill in what is 'auto'. None or 'auto' or 'automatic'; default None.
        total_steps: length of the run: the step decays linearly to 0 over it, without a scheduler.
            None: lr and a scheduler alone say. None or an integer >= 1; default None.
        length_scaling: with total_steps above 500, multiply the step by √(500/total_steps): the best
            step falls with the length of a run. True or False; default False.
        probe_d0: find a first d in a few trial steps, after which the parameters are put back to where
            they started. True or False; default False.
        exact_bias_correction: divide the averages by the sums of their own weights, so that a step is
            Adam's whatever d did. True or False; default False.
        same_weights: weigh both sums of the estimate by d²/d0, without lr and bias correction. True or
            False; default False.
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
        clip_norm: norm that the gradients of all parameters over all ranks are clipped to, as by
            torch's clip_grad_norm_; costs a blocking reduce of one number a step. None: they are taken
            as they are. Default None.
        estimates: 'per_tensor': a d for each tensor, under its name; or a list of the names that groups
            choose from. None: one d, or those that the groups name. Default None.
        process_group: ranks that train together. None: all. Default None.
        copies: for plain tensors that hold a slice: returns how many ranks hold the same elements.
            Default None.
        step_size: a StepSize shared with other optimizers, or a name: all optimizers of the process
            that give it share one. freeze_after, nonfinite, sync, before, clip_norm, estimates,
            process_group and copies then belong to it. Default None.

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
        length_scaling: bool = False,
        probe_d0: bool = False,
        exact_bias_correction: bool = False,
        same_weights: bool = False,
        rms_cap: float | None = None,
        state_dtype: torch.dtype | None = None,
        statistics_dtype: torch.dtype | None = None,
        backend: Literal["auto", "c", "triton", "eager"] = "auto",
        freeze_after: int | None = None,
        nonfinite: Literal["hold", "skip", "raise"] | None = None,
        sync: Literal["next_step", "step"] = "next_step",
        before: Literal["exact", "lagged"] = "exact",
        clip_norm: float | None = None,
        estimates: Sequence[str] | Literal["per_tensor"] | None = None,
        process_group: Any = None,
        copies: Callable[[Tensor], int | None] | None = None,
        step_size: StepSize | str | None = None,
    ) -> None: ...

__all__ = [
    "COCOB",
    "NGN",
    "DAdaptAdaGrad",
    "DAdaptAdam",
    "DAdaptAdan",
    "DAdaptLion",
    "DAdaptSGD",
    "DoG",
    "MoMo",
    "MoMoAdam",
    "Prodigy",
]
