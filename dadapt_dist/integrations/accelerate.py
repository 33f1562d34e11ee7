"""When would Accelerate take an optimizer object and quietly train with another?"""

import sys
from typing import Any


def refuse_builder() -> None:
    """Raise ValueError where Accelerate will replace the object being built by DeepSpeed's CPU Adam, at lr 1.0.

    It does so under DeepSpeed with offload of the optimizer. One that DeepSpeed builds from its own config stays.
    """
    device = _offload(_config())
    if device is None or _deepspeed_builds():
        return
    raise ValueError(
        f"Accelerate's DeepSpeed config offloads the optimizer to {device!r}, and accelerator.prepare would then replace this "
        "optimizer by DeepSpeed's CPU Adam, without a word. Name the optimizer in the DeepSpeed file, and give prepare a "
        'DummyOptim or the Trainer no optimizer_cls_and_kwargs; or put "zero_force_ds_cpu_optimizer": false into that file.'
    )


def _config() -> dict[str, Any]:
    """The DeepSpeed config of the Accelerator of this process; empty without one."""
    state = sys.modules.get("accelerate.state")
    if state is None or not state.is_initialized():
        return {}
    plugin = state.AcceleratorState().deepspeed_plugin
    return getattr(plugin, "deepspeed_config", None) or {}


def _offload(config: dict[str, Any]) -> str | None:
    """Where the optimizer goes, if Accelerate replaces it for that."""
    device: str = (config.get("zero_optimization", {}).get("offload_optimizer") or {}).get("device", "none")
    return device if device != "none" and config.get("zero_force_ds_cpu_optimizer", True) else None


def _deepspeed_builds() -> bool:
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        if frame.f_globals.get("__name__") == "deepspeed.runtime.engine":
            return True
    return False
