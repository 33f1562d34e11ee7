"""What layouts and numbers of processes are called on the screen and in pictures."""

LAYOUTS = {
    "none": "one process",
    "ddp": "DDP",
    "fsdp1": "FSDP1",
    "fsdp2": "FSDP2",
    "hsdp": "HSDP",
    "tp": "tensor parallel",
    "fsdp2+tp": "FSDP2 x tensor parallel",
    "zero1": "ZeRO-1",
    "zero2": "ZeRO-2",
    "zero3": "ZeRO-3",
}
LOSS_AXIS = "training loss (bits per byte)"
HELD_OUT_AXIS = "held-out loss (bits per byte)"
STEP_AXIS = "step (optimizer steps)"
D_AXIS = "d (units of the weights)"


def processes(count: int) -> str:
    """A number of processes: "1 process", "2 processes"."""
    return f"{count} process{'' if count == 1 else 'es'}"


def placed(sharding: str, count: int) -> str:
    """A layout with its processes: "FSDP2 on 2 processes"."""
    return LAYOUTS[sharding] if sharding == "none" else f"{LAYOUTS[sharding]} on {processes(count)}"
