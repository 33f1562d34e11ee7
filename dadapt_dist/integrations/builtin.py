"""Registers the adapters of this package. No framework is imported by it."""

import importlib.util

from ..sharding.registry import register
from .accelerate import AccelerateAdapter
from .deepspeed import registration
from .deepspeed.zero import DeepSpeedAdapter
from .lightning_wrappers import LightningAdapter


def register_builtin() -> None:
    """Register the frameworks, and the optimizers' names in torch.optim where an installed DeepSpeed looks for them.

    With DADAPT_DIST_REGISTER=0 in the environment, no name is entered anywhere.
    """
    for adapter in (DeepSpeedAdapter(), AccelerateAdapter(), LightningAdapter()):
        register(adapter)
    if not registration.is_switched_off() and importlib.util.find_spec("deepspeed") is not None:
        registration.register()
