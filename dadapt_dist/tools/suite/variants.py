"""Optimizers that the suite compares: untuned ones by name, and AdamW at every learning rate of a grid."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ... import optimizers
from ...schedules import cosine_with_warmup, from_file, linear_decay_with_warmup
from .task import Task, rates
from .users import imported

# AdamW's learning rate is multiplied by both; the better of them counts.
SCHEDULES = {"warmup": 0.05, "linear": 0.0}
BASELINES = {"adamw": 0.0, "adamw-wd0.1": 0.1}  # weight decay


@dataclass(frozen=True)
class Variant:
    """How a run is optimized.

    optimizer: "AdamW", "torch.optim." and one of its classes, a class of `dadapt_dist.optimizers`, or a user's
    "module:function", called with the parameters, the number of steps and the options, that returns an optimizer or a pair
    (optimizer, scheduler). schedule: "constant"; "linear", from 1 at the first step to 0 after the last; "warmup", the same
    after 5 % of rising; "cosine", half a cosine to 0 after 5 % of rising; "own", where the optimizer is told total_steps;
    or the path of a schedule file. baseline: the AdamW that it is compared with.
    """

    name: str
    optimizer: str
    options: Mapping[str, Any] = field(default_factory=dict)
    schedule: str = "constant"
    baseline: str = "adamw"

    def make(self, params: Iterable[nn.Parameter], steps: int) -> tuple[Optimizer, LRScheduler | None]:
        """An optimizer and its schedule for a run of `steps`."""
        if ":" in self.optimizer:
            made = users_function(self.optimizer)(list(params), steps, **self.options)
            if isinstance(made, tuple):
                return made
            return made, scheduled(made, self.schedule, steps)
        own = {"total_steps": steps} if self.schedule == "own" else {}
        optimizer = _class(self.optimizer)(list(params), **self.options, **own)
        return optimizer, scheduled(optimizer, self.schedule, steps)

    def described(self) -> str:
        """All that the runs of this name depend on, to compare with a later start."""
        options = ", ".join(f"{key}={value!r}" for key, value in sorted(self.options.items()))
        return f"{self.optimizer}({options}), {self.schedule}"


def scheduled(optimizer: Optimizer, schedule: str, steps: int) -> LRScheduler | None:
    """The scheduler that the name of a schedule, or its file, stands for; None where lr stays as it is."""
    if schedule in ("constant", "own"):
        return None
    if schedule in SCHEDULES:
        return linear_decay_with_warmup(optimizer, steps, SCHEDULES[schedule])
    return cosine_with_warmup(optimizer, steps) if schedule == "cosine" else from_file(optimizer, schedule, steps)


def _class(name: str) -> Callable[..., Optimizer]:
    name = "torch.optim.AdamW" if name == "AdamW" else name
    of_torch = name.removeprefix("torch.optim.")
    found: Callable[..., Optimizer] = getattr(optimizers, name) if of_torch == name else getattr(torch.optim, of_torch)
    return found


def users_function(path: str) -> Callable[..., Any]:
    """The function that "module:function" names; ValueError where there is none."""
    return imported(path, "--optimizer", "(parameters, total_steps)")


_EXACT, _SAME = {"exact_bias_correction": True}, {"same_weights": True}


def _auto(name: str, *, baseline: str = "adamw", **options: Any) -> Variant:
    return Variant(name, "Prodigy", {"recipe": "auto", **options}, "own", baseline)


def _fixed(name: str, d0: str, *, baseline: str = "adamw", **options: Any) -> Variant:
    """The parts of the recipe but for its probe: d begins at d0."""
    return Variant(name, "Prodigy", {**_EXACT, **_SAME, "d0": float(d0), **options}, "own", baseline)


def _parts(name: str, **options: Any) -> Variant:
    return Variant(name, "Prodigy", options, "own")


# auto: as it is shipped. Without a cap the recipe's other parts are given one by one.
_TABLE = [
    Variant("released", "Prodigy"),
    Variant("released-linear", "Prodigy", {}, "linear"),
    Variant("recipe", "Prodigy", {"safeguard_warmup": True, "use_bias_correction": True}, "warmup"),
    _auto("auto"),
    _auto("auto-wd0.1", baseline="adamw-wd0.1", weight_decay=0.1),
    _auto("auto-coef0.5", d_coef=0.5),
    _parts("auto-nocap", probe_d0=True, **_EXACT, **_SAME),
    *(_fixed(f"cap{cap}-d{d0}", d0, rms_cap=cap) for cap in (0.1, 0.14, 0.2, 0.4) for d0 in ("1e-6", "1e-5", "1e-4")),
    *(_parts(f"nocap-d{d0}", d0=float(d0), **_EXACT, **_SAME) for d0 in ("1e-6", "1e-5", "1e-4")),
    *(
        _fixed(f"cap{cap}-d{d0}-coef{coef:g}", d0, rms_cap=cap, d_coef=coef)
        for cap in (0.1, 0.2)
        for d0 in ("1e-6", "1e-4")
        for coef in (0.5, 2.0)
    ),
    # One part of cap0.2-d1e-4 left out (nocap-d1e-4 is the third such), then one alone, then none.
    _parts("without-exact", d0=1e-4, rms_cap=0.2, **_SAME),
    _parts("without-same", d0=1e-4, rms_cap=0.2, **_EXACT),
    _parts("exact-alone", d0=1e-4, **_EXACT),
    _parts("same-alone", d0=1e-4, **_SAME),
    _parts("cap0.2-alone", d0=1e-4, rms_cap=0.2),
    _parts("d1e-4-alone", d0=1e-4),
    *(
        _fixed(f"cap{cap}-d{d0}-wd0.1", d0, baseline="adamw-wd0.1", rms_cap=cap, weight_decay=0.1)
        for cap in (0.1, 0.2)
        for d0 in ("1e-6", "1e-4")
    ),
    Variant("dadapt-adam", "DAdaptAdam", {}, "linear"),
]
VARIANTS: dict[str, Variant] = {variant.name: variant for variant in _TABLE}
USUAL = "released-linear,recipe,auto"


def select(words: str, functions: Iterable[str] = ()) -> list[Variant]:
    """Variants of a comma-separated list of names, "all" or "none", and one for each "module:function".

    Raises ValueError for an unknown name, naming those that are known, and for a function that cannot be imported.
    """
    chosen: list[Variant] = []
    for word in (part.strip() for part in words.split(",")):
        if word == "all":
            chosen += _TABLE
        elif word in VARIANTS:
            chosen.append(VARIANTS[word])
        elif word != "none":
            raise ValueError(f"--variants {word!r} is unknown; known are all, none, {', '.join(VARIANTS)}")
    for path in functions:
        users_function(path)
        chosen.append(Variant(path, path))
    return list({variant.name: variant for variant in chosen}.values())


def grid(task: Task, steps: int, baseline: str, given: Iterable[float] | None = None) -> list[Variant]:
    """AdamW at every learning rate for `task` (or at those given) under both schedules."""
    decay = BASELINES[baseline]
    return [
        Variant(
            f"{baseline} {lr:g} {schedule}",
            "AdamW",
            {"lr": lr, "weight_decay": decay, "fused": True},
            schedule,
            baseline,
        )
        for schedule in SCHEDULES
        for lr in (rates(task, steps) if given is None else given)
    ]


def rate_of(name: str) -> tuple[str, float, str] | None:
    """Baseline, learning rate and schedule of the name of a row of `grid`; None for another name."""
    parts = name.split(" ")
    return (parts[0], float(parts[1]), parts[2]) if len(parts) == 3 and parts[0] in BASELINES else None


def rate(name: str) -> float:
    """The learning rate in the name of a row of `grid`."""
    return float(name.split(" ")[1])
