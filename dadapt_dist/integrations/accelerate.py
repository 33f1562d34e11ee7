"""Refuses an optimizer object that Accelerate would replace by another, and tells `attach` what its objects hold."""

import sys
from collections.abc import Iterator
from typing import Any

from torch.optim import Optimizer

from ..sharding.framework import FrameworkAdapter


class AccelerateAdapter(FrameworkAdapter):
    """The Accelerate of this process, if it is imported."""

    name = "accelerate"
    module = "accelerate.state"

    def on_construction(self, cls: type[Optimizer]) -> None:
        """Raise ValueError where Accelerate will replace the object being built by DeepSpeed's CPU Adam, at lr 1.0.

        It does so under DeepSpeed with offload of the optimizer. One that DeepSpeed builds from its own config stays: then the
        config names it. `base_optimizer` finds what gets past this.
        """
        config = _config()
        device = _offload(config)
        if device is None or "optimizer" in config:
            return
        raise ValueError(
            f"Accelerate's DeepSpeed config offloads the optimizer to {device!r}, and accelerator.prepare would then replace "
            "this optimizer by DeepSpeed's CPU Adam, without a word. Name the optimizer in the DeepSpeed file, and give prepare "
            'a DummyOptim or the Trainer no optimizer_cls_and_kwargs; or put "zero_force_ds_cpu_optimizer": false into that file.'
        )

    def parts_of(self, thing: Any) -> Iterator[Any]:
        """The models of an Accelerator, and the scaler of it or of an optimizer that it has prepared."""
        if not type(thing).__module__.startswith("accelerate."):
            return
        yield from (model for model in getattr(thing, "_models", ()))
        if getattr(thing, "scaler", None) is not None:
            yield thing.scaler


def _config() -> dict[str, Any]:
    """The DeepSpeed config of the Accelerator of this process; empty without one."""
    state = sys.modules["accelerate.state"]
    if not state.is_initialized():
        return {}
    plugin = state.AcceleratorState().deepspeed_plugin
    return getattr(plugin, "deepspeed_config", None) or {}


def _offload(config: dict[str, Any]) -> str | None:
    """Where the optimizer goes, if Accelerate replaces it for that."""
    device: str = (config.get("zero_optimization", {}).get("offload_optimizer") or {}).get("device", "none")
    return device if device != "none" and config.get("zero_force_ds_cpu_optimizer", True) else None
