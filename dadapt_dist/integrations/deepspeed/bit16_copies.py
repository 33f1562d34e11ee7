"""Let DeepSpeed's low-precision model follow master weights that were changed between two steps."""

from typing import Any

from .internals import changed, wrapper_of

STAGE_3 = "DeepSpeedZeroOptimizer_Stage3"
PUBLISHERS = {
    "DeepSpeedZeroOptimizer": ("update_lp_params",),
    "BF16_Optimizer": ("update_lp_params",),
    STAGE_3: ("_reassign_or_swap_out_partitioned_parameters", "persistent_parameters", "invalidate_secondary_tensor"),
    "FP16_UnfusedOptimizer": (),
}
"""Class around the optimizer -> what of it copies master weights to the model. DeepSpeed does the same after a step."""


def check_masters(engine: Any) -> None:
    """Raise ValueError where the model cannot follow its master weights now, before one is changed."""
    kind, wrapper = wrapper_of(engine)
    if kind is None:
        return
    gone = [name for name in PUBLISHERS[kind] if not hasattr(wrapper, name)]
    if gone:
        raise changed(
            f"{kind} has no attribute {', '.join(gone)}, with which master weights are copied to the model after optimizer.eval()"
        )
    if kind == STAGE_3 and (wrapper.swap_optimizer or None in wrapper.fp16_partitioned_groups_flat):
        raise ValueError(
            "parameters or optimizer states are offloaded to NVMe, and optimizer.eval() cannot change them there. Offload them "
            'to the CPU: {"offload_optimizer": {"device": "cpu"}, "offload_param": {"device": "cpu"}}.'
        )


def masters_to_model(engine: Any) -> None:
    """Copy the master weights to the model, and gather what it holds whole: a collective call of the data-parallel ranks."""
    kind, wrapper = wrapper_of(engine)
    if kind == STAGE_3:
        for index in range(len(wrapper.fp16_groups)):
            wrapper._reassign_or_swap_out_partitioned_parameters(index)
        if (
            wrapper.persistent_parameters
        ):  # whole on every rank: let go of, since they are not gathered while they are there
            wrapper.persistent_parameters[0].partition(wrapper.persistent_parameters)
            wrapper.persistent_parameters[0].all_gather(wrapper.persistent_parameters)
        wrapper.invalidate_secondary_tensor()
    elif kind == "FP16_UnfusedOptimizer":
        for masters, copies in zip(wrapper.fp32_groups, wrapper.fp16_groups, strict=True):
            for master, copy in zip(masters, copies, strict=True):
                copy.data.copy_(master.data)
    elif kind is not None:
        wrapper.update_lp_params()
