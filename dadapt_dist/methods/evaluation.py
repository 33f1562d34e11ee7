"""The part of a method that says what the parameters hold in evaluation, where that is not what they hold in training."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor


class Evaluates:
    """Two ways to have other values in evaluation than in training; most methods have neither.

    Maps: a pair of elementwise functions that undo each other, up to rounding, such as those of Schedule-Free. The class
    defines `to_eval` and `to_train`.

    An exchange: parameter and one buffer change places, bit for bit in both directions, for a buffer that is kept for
    evaluation alone, such as an average of the weights. The class defines `shown` and `rest`, and the buffer is declared with
    `Buffer(exchanged=True)`.
    """

    def to_eval(self, x: Tensor, buf: dict[str, Tensor], c: dict[str, Any]) -> None:
        """Turn the parameter that trains into the one that is evaluated and saved, in place and elementwise.

        Args:
            x: the parameter, float64.
            buf: its buffers, float64, without those that are sliced; they stay as they are.
            c: the `coefficients` of the coming step. Only those that follow from options are the same at both maps.
        """

    def to_train(self, x: Tensor, buf: dict[str, Tensor], c: dict[str, Any]) -> None:
        """Undo `to_eval`, in place."""

    def shown(self, options: Mapping[str, Any]) -> str | None:
        """Name of the buffer that a group with these options evaluates in the place of the parameter; None: there is none."""
        return None

    def rest(self, x: Tensor, buf: dict[str, Tensor], c: dict[str, Any]) -> None:
        """What a step does with the `shown` buffer of a parameter that it does not move, in place and elementwise.

        For one without a gradient, with lr 0 or frozen since, in a step in which others of its estimate move.

        Args:
            x: the parameter, which stays as it is, in the dtype of the buffer.
            buf: the buffer alone, by its name.
            c: the `coefficients` of the step.
        """
