"""Schedule-Free SGD (Defazio et al., arXiv 2405.15682, Algorithm 1 with momentum; released as schedulefree)."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ..options.fields import MOMENTUM, WEIGHT_DECAY, MethodOptions
from .base import Buffers, Coefficients, Documentation, Options, Scalars
from .schedule_free import KEEP_AVERAGE, LEAST, STEP_LR, WARMUP_STEPS, WEIGHT_LR_POWER, R, ScheduleFree, is_share


@dataclass(frozen=True)
class ScheduleFreeSGDOptions(MethodOptions):
    """Options of `ScheduleFreeSGD`."""

    lr: float = STEP_LR(1.0)
    momentum: float = MOMENTUM(
        0.9,
        right=is_share,
        allowed=f"a number in [{LEAST}, 1)",
        cure="use the default, {usual}; at 0 there would be no average to evaluate",
        doc="part of the average x in y, the point at which gradients are taken",
        of_estimate=True,
    )
    weight_decay: float = WEIGHT_DECAY(0.0, doc="decay, added to the gradient as weight_decay·y")
    warmup_steps: int = WARMUP_STEPS()
    r: float = R()
    weight_lr_power: float = WEIGHT_LR_POWER()
    keep_average: bool = KEEP_AVERAGE()


class ScheduleFreeSGDMethod(ScheduleFree):
    """SGD on z, with gradients at y; β is called momentum."""

    options = ScheduleFreeSGDOptions
    documentation = Documentation(
        summary="SGD without a schedule: weights are averaged while they train.",
        when="SGD with a learning rate that you know, and no length of the run; no collective",
        reference="Defazio et al., The Road Less Scheduled, arXiv 2405.15682, Algorithm 1",
        equations="""
            rates   γ = lr·min(1, k/warmup_steps), k = 1 first;  w = kʳ·(max γ)^weight_lr_power;  c = w/Σw;  β = momentum
            update  g at y = (1-β)·z + β·x, with wd·y added to it
                    z = z - r·γ·g;  x = (1-c)·x + c·z
        """,
        notes="""
            The exponent of k is the option r; elsewhere r is layer_scale. The learning rate is not learned, and
            `optimizer.d` is NaN. Training and evaluation need different weights:
            [train() and eval()](#weights-that-are-evaluated).
        """,
    )

    name = "schedule_free_sgd"
    fixed_options = ("momentum",)
    chosen_lr = True

    def coupled_decay(self, options: Options) -> float:
        return float(options["weight_decay"])

    def size(self, scalars: Scalars) -> float:
        return 1.0

    def share(self, options: Options, scalars: Scalars, constants: Mapping[str, float]) -> float:
        return float(options["momentum"])

    def coefficients(self, options: Options, scalars: Scalars, constants: Mapping[str, float]) -> Coefficients:
        c = self.averaging(options, scalars, constants)
        r = options["layer_scale"]
        return c | {"to_z": c["to_z"] * r, "to_y": c["to_y"] * r}

    def update(self, x: Tensor, g: Tensor, buf: Buffers, c: Coefficients, cut: slice | None) -> tuple[Tensor, ...]:
        self.move(x, g, buf, c)
        return ()

    def squared(self, g: Tensor, before: Buffers, after: Buffers, c: Coefficients) -> tuple[Tensor, ...]:
        return ()
