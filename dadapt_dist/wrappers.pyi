# Written by `make format` from engine/wrapped.py.
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from .engine.step_size import StepSize
from .engine.wrapped import Wrapped

class Mechanic(Wrapped):
    """Any torch optimizer, whose learning rate Mechanic learns.

    The weights are x0 - S·Δ, where Δ is the sum of what the base's steps take off, and S is learned. Give the base
    lr=1.0 at the peak of its schedule; its options, decay and momentum stay its own, in groups which this optimizer and
    the base share. A scheduler may be made of either. Call step(), state_dict() and load_state_dict() of this one.
    S is what `d` shows, and `effective_lr` is S·lr.

    The base steps on copies of the weights. Optimizers that cannot, or that go by whole tensors while these are
    sharded, are refused. Under ZeRO use MechanicAdam, MechanicSGD or the like, which need less memory everywhere.

    Args:
        base_optimizer: a torch optimizer over the parameters, which goes by their gradients.
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
        layer_scale: step of a group relative to the others. A number >= 0; default 1.0.
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
        TypeError: the base cannot serve; it is as it was. The message says why, and what can.
        ValueError: an option is out of its range; nothing is built.

    Example:
        >>> import torch, dadapt_dist
        >>> model = torch.nn.Linear(4, 1)
        >>> optimizer = dadapt_dist.Mechanic(torch.optim.AdamW(model.parameters(), lr=1.0, weight_decay=0.01))
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
        base_optimizer: Any,
        variant: str = "optax",
        s_init: float | None = None,
        s_decay: float = 0.01,
        s_max: float = float("inf"),
        delta: str = "stored",
        s_eps: float = 1e-8,
        *,
        layer_scale: float = 1.0,
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

class TRAC(Wrapped):
    """Any torch optimizer, whose learning rate TRAC learns.

    The weights are x0 - S·Δ, where Δ is the sum of what the base's steps take off, and S is learned. Give the base
    lr=1.0 at the peak of its schedule; its options, decay and momentum stay its own, in groups which this optimizer and
    the base share. A scheduler may be made of either. Call step(), state_dict() and load_state_dict() of this one.
    S is what `d` shows, and `effective_lr` is S·lr.

    The base steps on copies of the weights. Optimizers that cannot, or that go by whole tensors while these are
    sharded, are refused. Under ZeRO use TRACAdam, TRACSGD or the like, which need less memory everywhere.

    Args:
        base_optimizer: a torch optimizer over the parameters, which goes by their gradients.
        s_init: first S; it only has to be smaller than the S to be found. A number > 0; default 1e-08.
        s_max: largest S. A number > 0, or inf; default inf.
        delta: how Δ is known: 'stored' in a buffer with the numbers of 'recomputed', which is (x0 -
            x)/(S + s_eps), one buffer less, for weights in float32 or wider; 'summed' in a buffer as
            the plain sum of the updates. 'stored', 'recomputed' or 'summed'; default 'stored'.
        s_eps: added to denominators of the rule of S, for numerical stability. A number > 0; default
            1e-08.
        layer_scale: step of a group relative to the others. A number >= 0; default 1.0.
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
        TypeError: the base cannot serve; it is as it was. The message says why, and what can.
        ValueError: an option is out of its range; nothing is built.

    Example:
        >>> import torch, dadapt_dist
        >>> model = torch.nn.Linear(4, 1)
        >>> optimizer = dadapt_dist.TRAC(torch.optim.AdamW(model.parameters(), lr=1.0, weight_decay=0.01))
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
        base_optimizer: Any,
        s_init: float = 1e-8,
        s_max: float = float("inf"),
        delta: str = "stored",
        s_eps: float = 1e-8,
        *,
        layer_scale: float = 1.0,
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

__all__ = ["TRAC", "Mechanic"]
