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
        estimates: 'per_tensor': a d for each tensor, under its name; or a list of the names that groups
            choose from. None: one d, or those that the groups name. Default None.
        process_group: ranks that train together. None: all. Default None.
        copies: for plain tensors that hold a slice: returns how many ranks hold the same elements.
            Default None.
        step_size: a StepSize shared with other optimizers, or a name: all optimizers of the process
            that give it share one. freeze_after, nonfinite, sync, before, estimates, process_group and
            copies then belong to it. Default None.

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
        estimates: 'per_tensor': a d for each tensor, under its name; or a list of the names that groups
            choose from. None: one d, or those that the groups name. Default None.
        process_group: ranks that train together. None: all. Default None.
        copies: for plain tensors that hold a slice: returns how many ranks hold the same elements.
            Default None.
        step_size: a StepSize shared with other optimizers, or a name: all optimizers of the process
            that give it share one. freeze_after, nonfinite, sync, before, estimates, process_group and
            copies then belong to it. Default None.

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
        estimates: 'per_tensor': a d for each tensor, under its name; or a list of the names that groups
            choose from. None: one d, or those that the groups name. Default None.
        process_group: ranks that train together. None: all. Default None.
        copies: for plain tensors that hold a slice: returns how many ranks hold the same elements.
            Default None.
        step_size: a StepSize shared with other optimizers, or a name: all optimizers of the process
            that give it share one. freeze_after, nonfinite, sync, before, estimates, process_group and
            copies then belong to it. Default None.

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
        estimates: 'per_tensor': a d for each tensor, under its name; or a list of the names that groups
            choose from. None: one d, or those that the groups name. Default None.
        process_group: ranks that train together. None: all. Default None.
        copies: for plain tensors that hold a slice: returns how many ranks hold the same elements.
            Default None.
        step_size: a StepSize shared with other optimizers, or a name: all optimizers of the process
            that give it share one. freeze_after, nonfinite, sync, before, estimates, process_group and
            copies then belong to it. Default None.

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
        estimates: 'per_tensor': a d for each tensor, under its name; or a list of the names that groups
            choose from. None: one d, or those that the groups name. Default None.
        process_group: ranks that train together. None: all. Default None.
        copies: for plain tensors that hold a slice: returns how many ranks hold the same elements.
            Default None.
        step_size: a StepSize shared with other optimizers, or a name: all optimizers of the process
            that give it share one. freeze_after, nonfinite, sync, before, estimates, process_group and
            copies then belong to it. Default None.

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
        estimates: 'per_tensor': a d for each tensor, under its name; or a list of the names that groups
            choose from. None: one d, or those that the groups name. Default None.
        process_group: ranks that train together. None: all. Default None.
        copies: for plain tensors that hold a slice: returns how many ranks hold the same elements.
            Default None.
        step_size: a StepSize shared with other optimizers, or a name: all optimizers of the process
            that give it share one. freeze_after, nonfinite, sync, before, estimates, process_group and
            copies then belong to it. Default None.

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
        estimates: 'per_tensor': a d for each tensor, under its name; or a list of the names that groups
            choose from. None: one d, or those that the groups name. Default None.
        process_group: ranks that train together. None: all. Default None.
        copies: for plain tensors that hold a slice: returns how many ranks hold the same elements.
            Default None.
        step_size: a StepSize shared with other optimizers, or a name: all optimizers of the process
            that give it share one. freeze_after, nonfinite, sync, before, estimates, process_group and
            copies then belong to it. Default None.

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
        estimates: 'per_tensor': a d for each tensor, under its name; or a list of the names that groups
            choose from. None: one d, or those that the groups name. Default None.
        process_group: ranks that train together. None: all. Default None.
        copies: for plain tensors that hold a slice: returns how many ranks hold the same elements.
            Default None.
        step_size: a StepSize shared with other optimizers, or a name: all optimizers of the process
            that give it share one. freeze_after, nonfinite, sync, before, estimates, process_group and
            copies then belong to it. Default None.

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
        estimates: 'per_tensor': a d for each tensor, under its name; or a list of the names that groups
            choose from. None: one d, or those that the groups name. Default None.
        process_group: ranks that train together. None: all. Default None.
        copies: for plain tensors that hold a slice: returns how many ranks hold the same elements.
            Default None.
        step_size: a StepSize shared with other optimizers, or a name: all optimizers of the process
            that give it share one. freeze_after, nonfinite, sync, before, estimates, process_group and
            copies then belong to it. Default None.

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
        estimates: 'per_tensor': a d for each tensor, under its name; or a list of the names that groups
            choose from. None: one d, or those that the groups name. Default None.
        process_group: ranks that train together. None: all. Default None.
        copies: for plain tensors that hold a slice: returns how many ranks hold the same elements.
            Default None.
        step_size: a StepSize shared with other optimizers, or a name: all optimizers of the process
            that give it share one. freeze_after, nonfinite, sync, before, estimates, process_group and
            copies then belong to it. Default None.

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
        estimates: 'per_tensor': a d for each tensor, under its name; or a list of the names that groups
            choose from. None: one d, or those that the groups name. Default None.
        process_group: ranks that train together. None: all. Default None.
        copies: for plain tensors that hold a slice: returns how many ranks hold the same elements.
            Default None.
        step_size: a StepSize shared with other optimizers, or a name: all optimizers of the process
            that give it share one. freeze_after, nonfinite, sync, before, estimates, process_group and
            copies then belong to it. Default None.

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
        ...     optimizer.step()
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
        estimates: 'per_tensor': a d for each tensor, under its name; or a list of the names that groups
            choose from. None: one d, or those that the groups name. Default None.
        process_group: ranks that train together. None: all. Default None.
        copies: for plain tensors that hold a slice: returns how many ranks hold the same elements.
            Default None.
        step_size: a StepSize shared with other optimizers, or a name: all optimizers of the process
            that give it share one. freeze_after, nonfinite, sync, before, estimates, process_group and
            copies then belong to it. Default None.

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
        estimates: Sequence[str] | Literal["per_tensor"] | None = None,
        process_group: Any = None,
        copies: Callable[[Tensor], int | None] | None = None,
        step_size: StepSize | str | None = None,
    ) -> None: ...

__all__ = [
    "COCOB",
    "DAdaptAdaGrad",
    "DAdaptAdam",
    "DAdaptAdan",
    "DAdaptLion",
    "DAdaptSGD",
    "DoG",
    "Prodigy",
    "ProdigyScheduleFree",
    "ScheduleFreeAdamW",
    "ScheduleFreePlus",
    "ScheduleFreeSGD",
]
