"""Trains every method under every layout, on the ranks of a `WorkerPool`, and in one process."""

from typing import Any

import torch
from torch.distributed.tensor.debug import CommDebugMode

import dadapt_dist as dd

from .classes import ALL, SETTINGS, WITH_BEFORE, method_of, parts
from .collectives import reduces
from .layouts import LAYOUTS, Job, fsdp2_mixed_precision, ranks, shard2
from .models import Tiny, gradients
from .oracles import ORACLES

STEPS = 10
WAYS = [*((name, "exact") for name in (*ALL, *SETTINGS)), *((name, "lagged") for name in WITH_BEFORE)]
"""(method or setting, when its sums of before the move count): every method, and both ways where there are two."""
FROZEN = frozenset({"blocks.0.norm.weight", "blocks.0.norm.bias", "inp.bias"})


def other_collectives(counts: dict[Any, int]) -> int:
    return sum(number for op, number in counts.items() if "c10d." in str(op)) - reduces(counts)


def train(layout: str, method: str, before: Any = "exact") -> dict[str, Any]:
    """On every rank: train, and return d after each step, whole parameters and the collectives of each step."""
    job: Job = LAYOUTS[layout][1]()
    cls: Any = ALL[method_of(method)]
    optimizer = cls(job.params(), step_size=dd.StepSize(before=before), **parts(method))
    ds, collectives, others = [], [], []
    for step in range(STEPS):
        optimizer.zero_grad()
        job.backward(step)
        with CommDebugMode() as communication:
            optimizer.step()
        collectives.append(reduces(communication.get_comm_counts()))
        others.append(other_collectives(communication.get_comm_counts()))
        ds.append(optimizer.d)
    return {"d": ds, "params": job.full(), "collectives": collectives, "others": others}


def of_oracle(options: dict[str, Any]) -> dict[str, Any]:
    """The options of an optimizer as its oracle has them, which knows no recipe."""
    options = dict(options)
    if options.pop("recipe", None) in ("auto", "automatic"):
        ends = options.get("total_steps") is not None
        parts = {"exact_bias_correction": True, "same_weights": True, "rms_cap": 0.2, "length_scaling": ends}
        options = parts | {"probe_d0": ends and options.get("d0", 1e-6) == 1e-6} | options
    return options


def depth_of(layout: str) -> int:
    return 2 if "pipeline" in layout else 1


def frozen_in(layout: str) -> frozenset[str]:
    return FROZEN if "frozen" in layout else frozenset()


_references: dict[Any, tuple[list[float], dict[str, torch.Tensor]]] = {}


def reference(
    method: str, depth: int, frozen: frozenset[str] = frozenset(), before: str = "exact"
) -> tuple[list[float], dict[str, torch.Tensor]]:
    """d after each step and the final parameters of the one-process float64 oracle."""
    key = (method, depth, frozen, before)
    if key not in _references:
        model = Tiny(depth=depth)
        names = [name for name, _ in model.named_parameters()]
        untrained = [i for i, name in enumerate(names) if name in frozen]
        oracle = ORACLES[method_of(method)](
            list(model.parameters()), lagged=before == "lagged", untrained=untrained, **of_oracle(parts(method))
        )
        ds = []
        for step in range(STEPS):
            grads = gradients(model, oracle.params, step)
            oracle.step([None if name in frozen else g for name, g in zip(names, grads, strict=True)])
            ds.append(oracle.d)
        _references[key] = ds, dict(zip(names, oracle.params, strict=True))
    return _references[key]


def train_low_precision(layout: str) -> list[float]:
    """d after each step of Prodigy on float32 parameters (bfloat16 forward and backward under mixed precision)."""
    plain = Job(shard2(Tiny(dtype=torch.float32)), *ranks(), dtype=torch.float32)
    job = fsdp2_mixed_precision() if layout == "mixed precision" else plain
    optimizer = dd.Prodigy(job.params(), **parts("prodigy"))
    ds = []
    for step in range(STEPS):
        optimizer.zero_grad()
        job.backward(step)
        optimizer.step()
        ds.append(optimizer.d)
    assert all(t.dtype == torch.float32 for state in optimizer.state.values() for t in state.values())
    return ds
