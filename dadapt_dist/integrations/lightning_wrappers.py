"""Tells whether Lightning's trainer holds an optimizer, and unscales and clips its gradients itself."""

import sys
import weakref
from collections.abc import Iterator
from typing import Any

from torch.optim import Optimizer

from ..sharding.framework import FrameworkAdapter
from ..sharding.live_objects import Finder

MODULES = ("lightning.pytorch.core.optimizer", "pytorch_lightning.core.optimizer")
PACKAGES = ("lightning.", "pytorch_lightning.")


class LightningAdapter(FrameworkAdapter):
    """The Lightning of this process, if it is imported, under either of its names."""

    name = "lightning"

    def __init__(self) -> None:
        self._finders: weakref.WeakKeyDictionary[Optimizer, Finder] = weakref.WeakKeyDictionary()

    def unscales_itself(self, optimizer: Optimizer) -> bool:
        """Whether a Trainer has wrapped the optimizer: it unscales before it clips, and refuses to clip where told not to."""
        loaded = [sys.modules[name].LightningOptimizer for name in MODULES if name in sys.modules]
        if not loaded:
            return False
        finder = self._finders.get(optimizer)
        if finder is None:
            finder = self._finders[optimizer] = Finder()
        return any(finder.find(cls, lambda wrapper: _inner(wrapper) is optimizer) is not None for cls in loaded)

    def parts_of(self, thing: Any) -> Iterator[Any]:
        """The model, the scaler and the wrappers of a Trainer's strategy."""
        if not type(thing).__module__.startswith(PACKAGES) or not hasattr(thing, "strategy"):
            return
        strategy = thing.strategy
        yield from getattr(strategy, "_lightning_optimizers", ())
        for part in (strategy.model, getattr(strategy.precision_plugin, "scaler", None)):
            if part is not None:
                yield part


def _inner(wrapper: Any) -> Any:
    """What a wrapper holds: not by its attributes, which are the optimizer's."""
    return vars(wrapper).get("_optimizer")
