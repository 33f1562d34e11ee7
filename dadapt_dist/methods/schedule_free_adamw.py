"""Schedule-Free AdamW (Defazio et al., arXiv 2405.15682, Algorithm 1; released as schedulefree)."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..options.fields import EPS, WEIGHT_DECAY, MethodOptions
from .base import Buffer, Buffers, Coefficients, Documentation, Options, Scalars
from .ops import add_, add_product_
from .schedule_free import KEEP_AVERAGE, SHARED_BETAS, STEP_LR, WARMUP_STEPS, WEIGHT_LR_POWER, R, ScheduleFree


@dataclass(frozen=True)
class ScheduleFreeAdamWOptions(MethodOptions):
    """Options of `ScheduleFreeAdamW`."""

    lr: float = STEP_LR(0.0025)
    betas: tuple[float, float] = SHARED_BETAS((0.9, 0.999))
    eps: float = EPS(1e-8)
    weight_decay: float = WEIGHT_DECAY(0.0, doc="decay of the parameters, by weight_decay·γ·y a step")
    warmup_steps: int = WARMUP_STEPS()
    r: float = R()
    weight_lr_power: float = WEIGHT_LR_POWER()
    keep_average: bool = KEEP_AVERAGE()


class ScheduleFreeAdamWMethod(ScheduleFree):
    """AdamW without its momentum on z, with gradients at y."""

    options = ScheduleFreeAdamWOptions
    documentation = Documentation(
        summary="AdamW without a schedule: weights are averaged while they train.",
        when="AdamW with a learning rate that you know, and no length of the run; no collective",
        reference="Defazio et al., The Road Less Scheduled, arXiv 2405.15682, Algorithm 1",
        equations="""
            rates   γ = lr·min(1, k/warmup_steps), k = 1 first;  w = kʳ·(max γ)^weight_lr_power;  c = w/Σw;  β = betas[0]
            update  g at y = (1-β)·z + β·x
                    v = b2·v + (1-b2)·g²;  u = g/(√(v/(1-b2ᵏ)) + eps)
                    z = z - γ·(r·u + wd·y);  x = (1-c)·x + c·z
        """,
        notes="""
            In w the exponent of k is the option r; elsewhere r is layer_scale. The learning rate is not learned, and
            `optimizer.d` is NaN; ProdigyScheduleFree learns it. Give it a warm-up. Training and evaluation need
            different weights: [train() and eval()](#weights-that-are-evaluated).
        """,
    )

    name = "schedule_free_adamw"
    fixed_options = ("betas",)
    chosen_lr = True

    def size(self, scalars: Scalars) -> float:
        return 1.0

    def share(self, options: Options, scalars: Scalars, constants: Mapping[str, float]) -> float:
        return float(options["betas"][0])

    def buffers(self, options: Options) -> dict[str, Buffer]:
        return super().buffers(options) | {"exp_avg_sq": Buffer(squares=True)}

    def coefficients(self, options: Options, scalars: Scalars, constants: Mapping[str, float]) -> Coefficients:
        return self.averaging(options, scalars, constants) | normalization(options, scalars)

    def update(self, x: Tensor, g: Tensor, buf: Buffers, c: Coefficients, cut: slice | None) -> tuple[Tensor, ...]:
        self.move(x, decayed(normalized(g, g, buf, c), x, c), buf, c)
        return ()


def normalization(options: Options, scalars: Scalars) -> Coefficients:
    """What `normalized` and `decayed` multiply by."""
    beta2 = options["betas"][1]
    return {
        "b2": beta2, "to_v": 1 - beta2, "root_v_hat": torch.rsqrt(1 - beta2 ** (scalars["updates"] + 1)),
        "eps": float(options["eps"]), "u": options["layer_scale"], "decay": float(options["weight_decay"]) or None,
    }  # fmt: skip


def normalized(m: Tensor, g: Tensor, buf: Buffers, c: Coefficients) -> Tensor:
    """Advance v by g; return r·m/(√v̂ + eps), a tensor of its own."""
    v = add_product_(buf["exp_avg_sq"].mul_(c["b2"]), g, g, c["to_v"])
    return (m / torch.sqrt(v).mul_(c["root_v_hat"]).add_(c["eps"])).mul_(c["u"])


def decayed(u: Tensor, x: Tensor, c: Coefficients) -> Tensor:
    """u + wd·x, in place."""
    return u if c["decay"] is None else add_(u, x, c["decay"])
