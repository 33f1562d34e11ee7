"""What is recorded of a case: hashes, scalars to the last bit, and sums that tell how far two runs are apart."""

import hashlib
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

import dadapt_dist as dd

Row = dict[str, Any]
METHODS: dict[str, type[torch.optim.Optimizer]] = {
    "prodigy": dd.Prodigy,
    "dadapt_adam": dd.DAdaptAdam,
    "dadapt_sgd": dd.DAdaptSGD,
    "dadapt_adagrad": dd.DAdaptAdaGrad,
    "dadapt_adan": dd.DAdaptAdan,
    "dadapt_lion": dd.DAdaptLion,
}


def local(t: Tensor) -> Tensor:
    """The elements that this rank holds."""
    return (t.to_local() if isinstance(t, DTensor) else t).detach()


def digest(tensors: Iterable[Tensor]) -> str:
    """The hash of the bytes of these tensors, in their order."""
    found = hashlib.sha256()
    for t in tensors:
        flat = torch.empty(local(t).numel(), dtype=t.dtype).copy_(local(t).reshape(-1))
        found.update(f"{t.dtype} {tuple(t.shape)} ".encode())
        found.update(flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b"")
    return found.hexdigest()


def checksum(tensors: Iterable[Tensor]) -> float:
    """A sum over all elements with weights that differ: a swap of elements shows."""
    total = 0.0
    for t in tensors:
        flat = local(t).cpu().double().reshape(-1)
        total += float((flat * torch.linspace(1.0, 2.0, flat.numel(), dtype=torch.float64)).sum())
    return total


def hexed(value: Any) -> Any:
    """A number, or a dict or list of numbers, as the text of its bits."""
    if isinstance(value, dict):
        return {str(key): hexed(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [hexed(one) for one in value]
    return float(value).hex()


def gathered(value: Any) -> Any:
    """The values of all ranks, or the one where there are no ranks."""
    if not (dist.is_available() and dist.is_initialized()):
        return value
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, value)
    return found


def scalars_of(optimizer: Any) -> Row:
    """Every number in the groups, as text."""
    found = {}
    for index, group in enumerate(optimizer.param_groups):
        for key in sorted(set(group) - {"params", "format"}):
            value = group[key]
            if isinstance(value, (int, float)) or (isinstance(value, Tensor) and value.numel() == 1):
                found[f"{index}.{key}"] = hexed(value)
    return found


def buffers_of(optimizer: Any) -> Row:
    """A hash of each kind of buffer."""
    kinds: dict[str, list[Tensor]] = {}
    for entry in optimizer.state.values():
        for name, t in sorted(entry.items()):
            if isinstance(t, Tensor):
                kinds.setdefault(str(name), []).append(t)
    return {name: digest(tensors) for name, tensors in sorted(kinds.items())}


@dataclass
class Trace:
    """One case while it runs. `folder` takes its checkpoints, `source` has those that it loads."""

    name: str
    folder: str
    source: str
    tags: list[str] = field(default_factory=list)
    params: list[Any] = field(default_factory=list)
    d: list[Any] = field(default_factory=list)
    rest: Row = field(default_factory=dict)

    def step(self, params: Iterable[Tensor], optimizer: Any = None) -> None:
        """After a step: the parameters, and d of an optimizer or a StepSize (None: d is not read, so its reduce goes on)."""
        self.params.append(digest(params))
        if optimizer is not None:
            self.d.append(hexed(optimizer.d))

    def end(self, params: Iterable[Tensor], *optimizers: Any) -> None:
        """After the last step: sums, scalars and buffers."""
        self.rest["checksum"] = hexed(checksum(params))
        self.rest["d_end"] = [hexed(optimizer.d) for optimizer in optimizers]
        self.rest["scalars"] = [scalars_of(optimizer) for optimizer in optimizers]
        self.rest["buffers"] = [buffers_of(optimizer) for optimizer in optimizers]

    def result(self) -> Row:
        """What is written; a collective call where there are ranks, whose d must be equal."""
        ranks = gathered({"params": self.params, "d": self.d, **self.rest})
        if isinstance(ranks, dict):
            return {"tags": self.tags, **ranks}
        apart = any(one["d"] != ranks[0]["d"] or one.get("d_end") != ranks[0].get("d_end") for one in ranks)
        params = [
            [one["params"][step] for one in ranks if step < len(one["params"])]
            for step in range(max(len(one["params"]) for one in ranks))
        ]
        sums = [float.fromhex(one["checksum"]) for one in ranks if "checksum" in one]
        own = {name: [one.get(name) for one in ranks] for name in ("scalars", "buffers")}
        return {
            **ranks[0],
            **own,
            "tags": self.tags,
            "params": params,
            "checksum": hexed(math.fsum(sums)),
            "ranks_apart": apart,
        }

    def path(self, name: str, *, load: bool = False) -> str:
        """Where a checkpoint lies."""
        base = self.source if load else self.folder
        os.makedirs(base, exist_ok=True)
        return os.path.join(base, name)
