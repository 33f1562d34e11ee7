"""Names that tab completion shows on an optimizer and on a StepSize: torch's, and ours that users call."""

import inspect

import torch
from torch import nn

import dadapt_dist as dd
from tests.helpers.classes import ALL

OPTIMIZER = {
    "adamw_lr", "amp_scaling", "d", "effective_lr", "eval", "grad_norms", "join_device", "join_hook", "join_process_group",
    "loss", "set_d", "step_size",
    "train",
}  # fmt: skip
STEP_SIZE = {
    "before",
    "clip_norm",
    "d",
    "freeze_after",
    "frozen",
    "held_steps",
    "nonfinite",
    "set_d",
    "steps",
    "sync",
    "window",
}


def public(item: object) -> set[str]:
    return {name for name in dir(item) if not name.startswith("_")}


def test_the_public_names_of_an_optimizer_and_of_a_step_size_are_these() -> None:
    torchs = public(torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=1.0))
    for cls in ALL.values():
        p = nn.Parameter(torch.ones(2))
        optimizer = cls([p])
        for _ in range(2):
            assert public(optimizer) - torchs == OPTIMIZER
            assert public(optimizer.step_size) == STEP_SIZE
            p.grad = torch.ones(2)
            optimizer.step()
    assert public(dd.StepSize()) == STEP_SIZE


def test_public_names_of_ours_are_documented() -> None:
    for cls, names in (
        (dd.Prodigy, OPTIMIZER - {"amp_scaling", "step_size"}),
        (dd.StepSize, {"d", "frozen", "held_steps", "set_d", "steps", "window"}),
    ):
        assert all(inspect.getdoc(getattr(cls, name)) for name in names)
