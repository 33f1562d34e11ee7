"""Callback that logs d in Hugging Face's Trainer and warns of settings that work against it."""

import logging
import math
from typing import Any

try:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
    from transformers.trainer_callback import CallbackHandler
except ImportError as error:
    raise ImportError("the Trainer's callback needs transformers: pip install dadapt-dist[trainer]") from error

from ..monitor.values import base_optimizer, logged
from ..sharding.live_objects import living
from .advice import mistakes

__all__ = ["DAdaptCallback"]

logger = logging.getLogger(__name__)


class DAdaptCallback(TrainerCallback):
    """Adds "d", "effective_lr" = d·lr, "adamw_lr" and "held_steps" to the Trainer's logs, beside "loss" and "learning_rate".

    `Trainer(..., callbacks=[DAdaptCallback()])` is enough: it moves itself before the integrations that report to
    trackers, and state.log_history gets the values too. Both belong to the coming step. At the start of training, rank 0
    warns through `logging`, once, of a peak lr other than 1.0, of a warm-up without safeguard_warmup, of clipping that
    holds DAdaptAdaGrad down, of total_steps that are not the Trainer's, and of data that are seen too often.

    Raises:
        TypeError: At the start of training, if the Trainer's optimizer is not from dadapt_dist.

    Example:
        >>> trainer = Trainer(  # doctest: +SKIP
        ...     model, args, train_dataset=data, optimizer_cls_and_kwargs=(Prodigy, {}), callbacks=[DAdaptCallback()]
        ... )
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
        run = {"steps": float(state.max_steps), "epochs": float(state.num_train_epochs or math.nan)}
        for mistake in mistakes(optimizer, given.get("lr_scheduler"), clip=clip, params=params, **run):
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
        # The Trainer's own grad_norm is of before it clipped.
        values = {name: v for name, v in logged(given["optimizer"]).items() if name != "grad_norm" or name not in logs}
        logs.update(values)
        if state.log_history:  # a copy of the logs, made before
            state.log_history[-1].update(values)

    def install(self, trainer: Any) -> "DAdaptCallback":
        """Put this callback before all others of a Trainer, whether or not it was given to it; returns itself.

        Needed only where the Trainer's handler cannot be found by itself: after gc.freeze().

        Args:
            trainer: A Trainer of transformers.

        Example:
            >>> trainer = Trainer(model, args, optimizer_cls_and_kwargs=(Prodigy, {}))  # doctest: +SKIP
            >>> DAdaptCallback().install(trainer)  # doctest: +SKIP
        """
        _move_to_front(self, trainer.callback_handler)
        return self

    def _go_first(self) -> None:
        """Move before the integrations that report to trackers. The Trainer puts its users' callbacks last."""
        for handler in living(CallbackHandler):
            if any(other is self for other in handler.callbacks):
                _move_to_front(self, handler)


class DAdaptCallbackWhereOurs(DAdaptCallback):
    """The callback of `dadapt-dist run --optim`, for every Trainer of a script: it leaves those with another optimizer alone."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        if _is_ours(given.get("optimizer")):
            super().on_train_begin(args, state, control, **given)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **given: Any,
    ) -> None:
        if _is_ours(given.get("optimizer")):
            super().on_log(args, state, control, logs, **given)


def _is_ours(optimizer: Any) -> bool:
    try:
        base_optimizer(optimizer)
    except TypeError:
        return False
    return True


def _move_to_front(callback: DAdaptCallback, handler: CallbackHandler) -> None:
    if not handler.callbacks or handler.callbacks[0] is not callback:
        handler.callbacks = [callback, *(other for other in handler.callbacks if other is not callback)]
