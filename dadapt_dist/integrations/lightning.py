"""Callback that logs d in PyTorch Lightning, for `lightning` and `pytorch_lightning`."""

import importlib.util
import logging
import math
import sys
from typing import TYPE_CHECKING, Any

from ..engine.optimizer import LearningRateFree
from ..monitor.values import base_optimizer, logged
from .advice import mistakes

_OLDER = not sys.modules.get("lightning.pytorch") and (
    "pytorch_lightning" in sys.modules or importlib.util.find_spec("lightning") is None
)
"""Is it here under its older name, whose Trainer takes its own callbacks only: imported already, or alone?"""

try:
    if TYPE_CHECKING or not _OLDER:
        from lightning.pytorch import Callback, LightningModule, Trainer
    else:
        from pytorch_lightning import Callback, LightningModule, Trainer
except ImportError as error:
    raise ImportError("Lightning's callback needs lightning: pip install dadapt-dist[lightning]") from error


__all__ = ["DAdaptCallback"]

logger = logging.getLogger(__name__)


class DAdaptCallback(Callback):
    """Logs "d", "effective_lr" = d·lr, "adamw_lr" and "held_steps" of the step being taken, every `log_every_n_steps`.

    They go to the logger and to callback_metrics.

    `Trainer(..., callbacks=[DAdaptCallback()])`. Optimizers that are not of dadapt_dist are passed over; where several are,
    names end in the optimizer's place: "d/optimizer0". At the start of training, rank 0 warns through `logging`, once, of
    a peak lr other than 1.0, of a warm-up without safeguard_warmup, of clipping that holds DAdaptAdaGrad down, of total_steps
    that are not the Trainer's, and of data that are seen too often.

    Raises:
        TypeError: At the start of training, if no optimizer is from dadapt_dist.

    Example:
        >>> trainer = Trainer(max_epochs=1, callbacks=[DAdaptCallback()])  # doctest: +SKIP
    """

    def __init__(self) -> None:
        super().__init__()
        self._said = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        found = [optimizer for _, optimizer in _ours(trainer)]
        if not found:
            base_optimizer(trainer.optimizers[0] if trainer.optimizers else None)  # says what stands there instead
        if self._said or trainer.global_step or not trainer.is_global_zero:
            return
        self._said = True
        schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
        schedules = {id(_base(getattr(scheduler, "optimizer", None))): scheduler for scheduler in schedulers}
        for optimizer in found:
            schedule, params = schedules.get(id(optimizer)), pl_module.parameters()
            for mistake in mistakes(optimizer, schedule, clip=_clip(trainer), params=params, **_length(trainer)):
                logger.warning("%s", mistake)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        if not trainer._logger_connector.should_update_logs:  # reading d waits for the device
            return
        ours = _ours(trainer)
        base = _base(optimizer)
        for place, other in ours:
            if base is other:
                suffix = f"/optimizer{place}" if len(ours) > 1 else ""
                values = {f"{name}{suffix}": value for name, value in logged(base).items()}
                pl_module.log_dict(values, on_step=True, on_epoch=False, batch_size=1)


def _ours(trainer: Trainer) -> list[tuple[int, LearningRateFree]]:
    """Our optimizers, with their places among all."""
    bases = [(place, _base(optimizer)) for place, optimizer in enumerate(trainer.optimizers)]
    return [(place, base) for place, base in bases if base is not None]


def _length(trainer: Trainer) -> dict[str, float]:
    """Steps and epochs of the run, where Lightning knows them: the batches of an epoch may not be counted."""
    steps, batches = float(trainer.estimated_stepping_batches), float(trainer.num_training_batches)
    if not (math.isfinite(steps) and math.isfinite(batches) and batches > 0):
        return {"steps": steps}
    return {"steps": steps, "epochs": steps * trainer.accumulate_grad_batches / batches}


def _clip(trainer: Trainer) -> float:
    """The norm to which gradients are clipped, by Lightning or by a DeepSpeed config; 0 without."""
    config = getattr(trainer.strategy, "config", None)
    by_deepspeed = config.get("gradient_clipping") if isinstance(config, dict) else None
    if isinstance(by_deepspeed, (int, float)) and by_deepspeed:
        return float(by_deepspeed)
    return float(trainer.gradient_clip_val or 0.0) if trainer.gradient_clip_algorithm in (None, "norm") else 0.0


def _base(optimizer: Any) -> LearningRateFree | None:
    try:
        return base_optimizer(optimizer)
    except TypeError:
        return None
