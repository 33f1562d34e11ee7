"""How does d get into the logs of Hugging Face's Trainer, and who says that a setting works against it?"""

import logging
import sys
from typing import Any

try:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
    from transformers.trainer_callback import CallbackHandler
except ImportError as error:
    raise ImportError("the Trainer's callback needs transformers: pip install dadapt-dist[trainer]") from error

from ..monitor.log_values import base_optimizer
from ..monitor.merged_log import logged
from .advice import mistakes

__all__ = ["DAdaptCallback"]

logger = logging.getLogger(__name__)


class DAdaptCallback(TrainerCallback):
    """Adds "d" and "effective_lr" = d·lr to the Trainer's logs, beside its own "loss", "learning_rate" and "grad_norm".

    `Trainer(..., callbacks=[DAdaptCallback()])` is enough: it moves itself before the integrations that report to
    trackers, and state.log_history gets the values too. Both belong to the coming step. At the start of training, rank 0
    warns through `logging`, once, of a peak lr other than 1.0, of a warm-up without safeguard_warmup, and of clipping that
    holds DAdaptAdaGrad down. Raises TypeError there when the Trainer has got no optimizer of dadapt_dist.
    """

    def __init__(self) -> None:
        self._said = False

    def on_init_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._go_first()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        self._go_first()
        optimizer = base_optimizer(given["optimizer"])
        if self._said or state.global_step or not state.is_world_process_zero:
            return
        self._said = True
        clip, params = args.max_grad_norm or 0.0, given["model"].parameters()
        for mistake in mistakes(optimizer, given.get("lr_scheduler"), clip=clip, params=params):
            logger.warning("%s", mistake)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **given: Any,
    ) -> None:
        if logs is None or "loss" not in logs:  # of an evaluation, or the summary of a run
            return
        if given.get("optimizer") is None:  # a user's own record, before training
            return
        values = logged(given["optimizer"])
        logs.update(values)
        if state.log_history:  # a copy of the logs, made before
            state.log_history[-1].update(values)

    def _go_first(self) -> None:
        """Move to the front of the handler that is calling. The Trainer puts its users' callbacks last, and passes no handler."""
        frame = sys._getframe(1).f_back
        while frame is not None:
            handler = frame.f_locals.get("self")
            if isinstance(handler, CallbackHandler):
                handler.callbacks = [self, *(other for other in handler.callbacks if other is not self)]
                return
            frame = frame.f_back
