"""Trains every method under every layout, on the ranks of a `WorkerPool`, and in one process."""

from typing import Any

import torch
from torch.distributed.tensor.debug import CommDebugMode

import dadapt_dist as dd

from .classes import CLASSES
from .collectives import reduces
from .layouts import LAYOUTS, Job, fsdp2_mixed_precision, ranks, shard2
from .models import Tiny, gradients
from .oracles import ORACLES

OPTIONS: dict[str, dict[str, Any]] = {
    "prodigy": {"weight_decay": 0.01, "use_bias_correction": True},
    "dadapt_adam": {"weight_decay": 0.01},
    "dadapt_sgd": {"momentum": 0.9, "weight_decay": 0.01},
    "dadapt_adagrad": {"momentum": 0.5},
    "dadapt_adan": {},
    "dadapt_lion": {"weight_decay": 0.01},
}


STEPS = 10


def other_collectives(counts: dict[Any, int]) -> int:
    return sum(number for op, number in counts.items() if "c10d." in str(op)) - reduces(counts)


def train(layout: str, method: str) -> dict[str, Any]:
    """On every rank: train, and return d after each step, whole parameters and the collectives of each step."""
    job: Job = LAYOUTS[layout][1]()
    optimizer = CLASSES[method](job.params(), d0=1e-3, **OPTIONS[method])
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


_references: dict[tuple[str, int, frozenset[str]], tuple[list[float], dict[str, torch.Tensor]]] = {}


def reference(
    method: str, depth: int, frozen: frozenset[str] = frozenset()
) -> tuple[list[float], dict[str, torch.Tensor]]:
    """d after each step and the final parameters of the one-process float64 oracle."""
    key = (method, depth, frozen)
    if key not in _references:
        model = Tiny(depth=depth)
        names = [name for name, _ in model.named_parameters()]
        oracle = ORACLES[method](list(model.parameters()), d0=1e-3, **OPTIONS[method])
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
    optimizer = dd.Prodigy(job.params(), d0=1e-3, **OPTIONS["prodigy"])
    ds = []
    for step in range(STEPS):
        optimizer.zero_grad()
        job.backward(step)
        optimizer.step()
        ds.append(optimizer.d)
    assert all(t.dtype == torch.float32 for state in optimizer.state.values() for t in state.values())
    return ds
