"""What the checkpoint tests train, and how it is packed into a checkpoint."""

from collections.abc import Callable
from typing import Any

from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

from .classes import ALL, ALWAYS_BEFORE, IN_ONE_GO, WITHOUT_SUMS, parts
from .layouts import LAYOUTS, Job
from .models import Tiny

BEFORE, AFTER = 5, 6
# d0 is such that d still grows when the checkpoint is written, and long after.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "prodigy sliced": ("prodigy", {"slice_p": 3, "d0": 1e-5}),
    "prodigy auto": (
        "prodigy",
        {"recipe": "auto", "total_steps": 40, "rms_cap": 0.02, "d0": 1e-5, "weight_decay": 0.01},
    ),
    **{name: (name, parts(name)) for name in ALL},
    "dadapt_adam": ("dadapt_adam", {"weight_decay": 0.01, "d0": 1e-6}),
    "dadapt_lion": ("dadapt_lion", {"d0": 1e-3}),
}
FEW = ["prodigy", "prodigy sliced", "prodigy auto", "dadapt_sgd", "dadapt_adan", *ALWAYS_BEFORE, *WITHOUT_SUMS]
MORE_LAYOUTS: dict[str, tuple[int, Callable[[], Job]]] = {"one process": (1, lambda: Job(Tiny()))}
Result = dict[str, Any]


class Training:
    """A model under a layout, its optimizer, and d after each of its steps."""

    def __init__(self, job: Job, case: str, **more: Any) -> None:
        key, options = CASES[case]
        self.job = job
        self.optimizer: Any = ALL[key](job.params(), **{**options, **more})
        self.d: list[float] = []

    def steps(self, first: int, number: int, *, read: bool = True) -> "Training":
        """Train. read: look at d after each step, which waits for the reduce; else it stays under way."""
        for step in range(first, first + number):
            self.optimizer.zero_grad()
            self.job.backward(step)
            self.optimizer.step()
            if read:
                self.d.append(self.optimizer.d)
        return self

    def result(self) -> Result:
        return {"d": self.d, "params": self.job.full()}


def build(layout: str) -> Job:
    return {**LAYOUTS, **MORE_LAYOUTS}[layout][1]()


def packed(training: Training) -> Any:
    model, optimizer = get_state_dict(training.job.model, training.optimizer)
    return {"model": model, "optimizer": optimizer}


def unpack(training: Training, checkpoint: Any) -> None:
    """Load what `packed` gave, in place."""
    set_state_dict(
        training.job.model,
        training.optimizer,
        model_state_dict=checkpoint["model"],
        optim_state_dict=checkpoint["optimizer"],
    )


def fitting(*layouts: str) -> list[str]:
    """Cases that all these layouts can train: a sliced buffer needs whole rows. More of them where they cost little."""
    cut = any("tp" in layout or "flat" in layout for layout in layouts)
    cases = list(CASES) if {*layouts} <= {"fsdp2, 4 ranks", "one process"} else FEW
    return [case for case in cases if CASES[case][0] in IN_ONE_GO and not (cut and "sliced" in case)]
