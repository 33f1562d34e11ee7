"""The configuration that a seed stands for, and what is left of it when one of its features is dropped.

Parent and ranks draw it by themselves from the seed, so that a run is repeated by its number alone.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from dadapt_dist.methods import METHODS
from tests.helpers.classes import first_d

EVENTS = ("deepcopy", "recover", "reload", "left_out", "replace", "go_on_alone")
DRAWN = ("prodigy", "prodigy", "dadapt_adam", "dadapt_sgd", "dadapt_adagrad", "dadapt_adan", "dadapt_lion")
# Not those with scalars that follow the lr of a rank's own groups: they cannot be brought together from ranks with other groups.
OTHERS = tuple(name for name, method in METHODS.items() if name not in DRAWN and not method.of_rank)
"""Methods that came later, which take the place of the one drawn in a share of the seeds: seeds stand for what they stood for."""
# What the library does not do yet, and so is never drawn: names of features below. Empty it when the last has landed.
PENDING: frozenset[str] = frozenset()
HUGE = (1e15, -1e17, 1e30, -3e38)
BAD = (float("nan"), float("inf"), float("-inf"))

CUT_BY_ROWS = {"copies", "ddp", "fsdp2", "hsdp", "fsdp1 orig", "pipeline", "pipeline x fsdp2", "experts"}
WHOLE = {"copies", "ddp"}
CLIPPED = {"copies", "ddp", "fsdp2", "hsdp"}
REAL = {"ddp", "fsdp2", "hsdp", "fsdp1 orig", "fsdp1 flat"}
RESHARDED = {"copies", "ddp", "fsdp2", "hsdp", "fsdp1 orig", "tp", "fsdp2 x tp", "ddp x tp"}
FSDP1 = {"fsdp1 orig", "fsdp1 flat"}
STAGES = {"pipeline", "pipeline x fsdp2"}
LAYOUTS: dict[str, tuple[int, ...]] = {
    "copies": (2, 3, 4), "ddp": (2, 3, 4), "fsdp2": (2, 3, 4), "hsdp": (4,), "fsdp1 orig": (2, 3, 4), "fsdp1 flat": (2, 3),
    "tp": (2, 3, 4), "fsdp2 x tp": (4,), "ddp x tp": (4,), "mesh": (4,), "slices": (2, 3, 4), "pipeline": (2, 4),
    "pipeline x fsdp2": (4,), "experts": (2, 3),
}  # fmt: skip
"""Layout -> numbers of ranks."""


@dataclass(frozen=True, kw_only=True)
class Leg:
    """A part of the run, from its first step on, under one layout. real: gradients come from a backward pass."""

    layout: str
    ranks: int
    real: bool = False
    first: int = 0


@dataclass(frozen=True, kw_only=True)
class Group:
    """Parameters with options of their own. optimizer: which of several; added: the step at which the group is added."""

    names: tuple[str, ...]
    options: dict[str, Any] = field(default_factory=dict)
    optimizer: int = 0
    added: int = 0
    lr: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that a run depends on. Steps are counted from 0; `steps` stands for never.

    shared: options of the StepSize. lrs: of all groups, step by step, times the lr of each group. frozen: name -> step at which
    it is unfrozen. absent, zero: (step, name) whose gradient is None or zeros. bad: (step, name) -> (share of the elements,
    value). silent: steps without any gradient. placed: name of a
    distributed tensor -> "replicate" or "partial", in which its gradients come. unread: steps after
    which nobody reads d. event: (what, step). through: how the second leg goes on, "torch" or "dcp". alone: what is bad
    is so on the last rank alone, which holds a copy. apart: (first step, step after the last) in which the first rank has
    another constant of the rule. foreign: others keep entries in the optimizers' state. own_group: process_group= is given.
    """

    seed: int
    method: str
    options: dict[str, Any]
    shared: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]
    groups: tuple[Group, ...]
    legs: tuple[Leg, ...]
    steps: int
    lrs: tuple[float, ...]
    scale: float
    dtype: str = "float64"
    dtypes: dict[str, str] = field(default_factory=dict)
    backend: str = "auto"
    windows: bool = True
    named: bool = True
    transposed: frozenset[str] = frozenset()
    frozen: dict[str, int] = field(default_factory=dict)
    absent: frozenset[tuple[int, str]] = frozenset()
    zero: frozenset[tuple[int, str]] = frozenset()
    bad: dict[tuple[int, str], tuple[float, float]] = field(default_factory=dict)
    placed: dict[str, str] = field(default_factory=dict)
    silent: frozenset[int] = frozenset()
    unread: frozenset[int] = frozenset()
    accumulation: int = 1
    clip: float | None = None
    reuse: bool = False
    closure: bool = False
    scaler: bool = False
    counted: bool = True
    event: tuple[str, int] | None = None
    through: str = "torch"
    alone: bool = False
    apart: tuple[int, int] | None = None
    foreign: bool = False
    own_group: bool = False

    @property
    def optimizers(self) -> int:
        return 1 + max(group.optimizer for group in self.groups)

    @property
    def is_capped(self) -> bool:
        """Does a step depend on the tensors' root mean squares, whose sums are reduced to the end of the run?"""
        every = ({**self.options, **group.options} for group in self.groups)
        return any(o.get("rms_cap") is not None or o.get("recipe") == "auto" for o in every)

    @property
    def needs_all_gradients(self) -> bool:
        """Are sums of all optimizers taken before the first of several moves?"""
        early = METHODS[self.method].before is not None or self.shared.get("nonfinite", "hold") != "hold"
        return early and self.optimizers > 1

    @property
    def placings(self) -> set[int]:
        """Steps in which parameters are placed, and for which the ranks compare everything."""
        event = {self.event[1]} if self.event else set()
        return {leg.first for leg in self.legs} | {group.added for group in self.groups} | event

    def is_apart(self, step: int) -> bool:
        """Has one rank another constant of the rule in this step?"""
        return self.apart is not None and self.apart[0] <= step < self.apart[1]

    def may_overflow(self, step: int, name: str) -> bool:
        """Is there a finite gradient here with which a step may overflow?"""
        value = self.bad.get((step, name), (0.0, 0.0))[1]
        return self.dtype != "float64" and 1e10 < abs(value) < float("inf") and self.has_gradient(step, name)

    @property
    def layouts(self) -> set[str]:
        return {leg.layout for leg in self.legs}

    def lr(self, step: int, group: Group) -> float:
        """That of a group in a step; 0 before the group is there."""
        return self.lrs[step] * group.lr if step >= group.added else 0.0

    def has_gradient(self, step: int, name: str) -> bool:
        """Does a parameter have a gradient in this step?"""
        return step not in self.silent and (step, name) not in self.absent and self.frozen.get(name, 0) <= step


def draw(seed: int, without: Iterable[str] = (), pending: frozenset[str] = PENDING) -> Config:
    """The configuration of a seed, without the features that are named."""
    config = _draw(Random(seed), seed)
    r = Random(f"method {seed}")
    if OTHERS and r.random() < len(OTHERS) / (len(OTHERS) + len(DRAWN)):
        config = _of_method(config, r.choice(OTHERS))
    if config.method == "prodigy":
        config = _with_recipe(config, Random(f"recipe {seed}"))
    for name in (*without, *sorted(pending & FEATURES.keys())):
        config = FEATURES[name](config)
    return _fit(config)


def _of_method(c: Config, method: str) -> Config:
    """The same with another method, and those of the options that it has; those that share an estimate differ in none of its."""
    known, own = METHODS[method].options.checks(), {*METHODS[method].estimate_options, *METHODS[method].fixed_options}
    first = {"reps_rel": c.options["d0"]} if "reps_rel" in known else {}

    usual = METHODS[method].options.defaults()

    def fitting(options: dict[str, Any]) -> dict[str, Any]:
        found = {name: value for name, value in options.items() if name in (*known, "estimate", "maximize")}
        return {
            n: v for n, v in found.items() if not isinstance(v, tuple) or len(v) == len(usual[n])
        }  # Adan has three betas

    groups = tuple(replace(g, options={k: v for k, v in fitting(g.options).items() if k not in own}) for g in c.groups)
    return replace(c, method=method, options=fitting(c.options) | first, groups=groups, apart=None)


def _with_recipe(c: Config, r: Random) -> Config:
    """The same with parts of the recipe or all of it, in two seeds of three."""
    kind = r.choice(("none", "parts", "auto"))
    total, cap = r.choice((None, r.randint(1, c.steps), 3 * c.steps, 1200)), 10 ** r.uniform(-4, 0)
    parts = {"exact_bias_correction": r.random() < 0.7, "same_weights": r.random() < 0.5, "rms_cap": cap}
    parts["length_scaling"] = total == 1200
    if r.random() < 0.2:
        del parts["rms_cap"]
    if kind == "none":
        return c
    chosen = {"recipe": "auto", "rms_cap": cap} if kind == "auto" else parts
    c = _without_options(c, "use_bias_correction", "safeguard_warmup")
    caps = [r.choice((None, 1e-3, 0.3)) for _ in c.groups]
    groups = tuple(
        replace(g, options={k: v for k, v in g.options.items() if k != "betas"} | ({"rms_cap": own} if own else {}))
        for g, own in zip(c.groups, caps, strict=True)
    )
    return replace(c, options={**c.options, **chosen, "total_steps": total}, groups=groups)


# -------------------------------------------------------------------- drawing


def _draw(r: Random, seed: int) -> Config:
    method, steps = r.choice(DRAWN), r.randint(8, 16)
    shapes = {
        f"{r.choice(('', 'a.', 'b.'))}w{i}": _shape(r) for i in range(r.choices((r.randint(2, 7), 16), (9, 1))[0])
    }
    legs, through = _legs(r, steps)
    groups = _groups(r, method, list(shapes), steps, {leg.layout for leg in legs})
    dtype = r.choices(("float64", "float32", "bfloat16"), (80, 14, 6))[0]
    events = r.choices(("", *EVENTS), (70, *([6] * len(EVENTS))))[0]
    apart = r.randrange(1, steps)
    some = [(step, name) for step in range(steps) for name in shapes]
    return Config(
        seed=seed, method=method, options=_options(r, method), shared=_shared(r, steps), shapes=shapes, groups=groups,
        legs=legs, through=through, steps=steps, lrs=_lrs(r, steps), scale=10 ** r.uniform(-5, 3), dtype=dtype,
        dtypes=_dtypes(r, dtype), backend=r.choices(("auto", "eager", "c"), (5, 3, 2))[0], windows=r.random() < 0.5,
        named=r.random() < 0.6, transposed=frozenset(name for name in shapes if r.random() < 0.15),
        frozen={name: r.choice((steps, r.randrange(steps))) for name in shapes if r.random() < 0.1},
        absent=frozenset(key for key in some if r.random() < 0.12) if r.random() < 0.4 else frozenset(),
        zero=frozenset(key for key in some if r.random() < 0.1) if r.random() < 0.3 else frozenset(),
        bad=_bad(r, some),
        silent=frozenset(step for step in range(steps) if r.random() < 0.06) if r.random() < 0.4 else frozenset(),
        unread=frozenset(range(steps)) if r.random() < 0.3 else frozenset(s for s in range(steps) if r.random() < 0.3),
        accumulation=r.choices((1, 2, 3), (7, 2, 1))[0], clip=10 ** r.uniform(-3, 0) if r.random() < 0.15 else None,
        placed={name: r.choice(("replicate", "partial")) for name in shapes if r.random() < 0.2},
        reuse=r.random() < 0.3, closure=r.random() < 0.1, scaler=r.random() < 0.15, counted=r.random() < 0.5,
        event=(events, r.randrange(1, steps)) if events else None, alone=r.random() < 0.4,
        apart=(apart, min(steps, apart + r.randint(1, 4))) if r.random() < 0.1 else None,
        foreign=r.random() < 0.1, own_group=r.random() < 0.1,
    )  # fmt: skip


def _shape(r: Random) -> tuple[int, ...]:
    return tuple(r.choice((1, 2, 3, 5, 6, 7)) for _ in range(r.choices((1, 2, 3, 0), (4, 6, 2, 1))[0]))


def _legs(r: Random, steps: int) -> tuple[tuple[Leg, ...], str]:
    def leg(layouts: Iterable[str], first: int = 0) -> Leg:
        layout = r.choice(sorted(layouts))
        return Leg(
            layout=layout, ranks=r.choice(LAYOUTS[layout]), first=first,
            real=layout == "ddp" or layout in FSDP1 or (layout in REAL and r.random() < 0.4),
        )  # fmt: skip

    start = leg(LAYOUTS)
    if r.random() < 0.7:
        return (start,), "torch"
    at = r.randrange(1, steps)
    if r.random() < 0.4 or start.layout not in RESHARDED:
        return (start, replace(start, first=at)), "torch"
    return (start, leg(RESHARDED, at)), "dcp"


def _options(r: Random, method: str) -> dict[str, Any]:
    o: dict[str, Any] = {"d0": 10 ** r.uniform(-6, -2)}
    maybe: dict[str, Callable[[], Any]] = {"weight_decay": lambda: 10 ** r.uniform(-3, -0.5), "maximize": lambda: True}
    if method in ("prodigy", "dadapt_adam", "dadapt_lion"):
        maybe["betas"] = lambda: (r.choice((0.0, 0.5, 0.9)), r.choice((0.5, 0.9, 0.99, 0.999)))
    if method in ("prodigy", "dadapt_adam"):
        maybe |= {"use_bias_correction": lambda: True, "decouple": lambda: r.random() < 0.5}
    if method == "dadapt_adan":
        maybe |= {
            "betas": lambda: (r.choice((0.0, 0.9)), r.choice((0.0, 0.9)), r.choice((0.5, 0.99))),
            "no_prox": lambda: True,
        }
    if method in ("dadapt_sgd", "dadapt_adagrad"):
        maybe["momentum"] = lambda: r.choice((0.5, 0.9))
    if method not in ("dadapt_sgd", "dadapt_lion"):
        maybe["eps"] = lambda: 10 ** r.uniform(-12, -3)
    if method != "dadapt_lion":
        maybe["growth_rate"] = lambda: r.choice((1.02, 1.3, 2.0))
    if method == "prodigy":
        maybe |= {
            "beta3": lambda: r.choice((0.0, 0.5, 0.95)), "safeguard_warmup": lambda: True,
            "slice_p": lambda: r.choice((2, 3, 11)), "d_coef": lambda: r.choice((0.5, 2.0)),
        }  # fmt: skip
    for name, value in maybe.items():
        drawn = value()
        if r.random() < 0.3:
            o[name] = drawn
    return o


def _shared(r: Random, steps: int) -> dict[str, Any]:
    shared: dict[str, Any] = {}
    if r.random() < 0.25:
        shared["sync"] = "step"
    if r.random() < 0.4:
        shared["nonfinite"] = r.choice(("hold", "skip", "raise"))
    if r.random() < 0.12:
        shared["freeze_after"] = r.randint(1, steps)
    return shared


PER_GROUP = (
    "weight_decay",
    "betas",
    "momentum",
    "eps",
    "layer_scale",
    "maximize",
    "decouple",
    "use_bias_correction",
    "slice_p",
)


def _groups(r: Random, method: str, names: list[str], steps: int, layouts: set[str]) -> tuple[Group, ...]:
    if r.random() < (0.6 if len(names) > 7 else 0.05):  # many of equal options
        return tuple(Group(names=(name,)) for name in names)
    number = min(r.choices((1, 2, 3, 4, 5), (8, 5, 3, 2, 1))[0], len(names))
    optimizers = r.choices((1, 2, 3), (14, 4, 2))[0] if number > 1 else 1
    second, own = r.random() < 0.25, {"d0": 10 ** r.uniform(-5, -2)}
    groups = []
    for i in range(number):
        options = {name: v for name, v in _options(r, method).items() if name in PER_GROUP and r.random() < 0.6}
        if r.random() < 0.2:
            options["layer_scale"] = r.choice((0.5, 3.0))
        if i and second and r.random() < 0.6:
            options |= {"estimate": "other", **own}
        groups.append(
            Group(
                names=tuple(names[i::number]),
                options=options,
                optimizer=i % optimizers,
                added=r.randrange(1, steps) if i >= optimizers and r.random() < 0.3 else 0,
                lr=r.choices((1.0, 0.3, 2.0, 0.0), (6, 2, 2, 1))[0],
            )
        )
    # A group that comes later is its optimizer's last.
    groups.sort(key=lambda group: (group.optimizer, group.added))
    return tuple(groups)


def _lrs(r: Random, steps: int) -> tuple[float, ...]:
    kind = r.choices(("constant", "warm-up from 0", "warm-up", "random", "zeros"), (10, 3, 3, 2, 2))[0]
    warm = r.randint(2, 5)
    return tuple(
        {
            "constant": 1.0,
            "warm-up from 0": min(1.0, step / warm),
            "warm-up": min(1.0, (step + 1) / warm),
            "random": r.uniform(0.1, 1.5),
            "zeros": float(r.random() > 0.2),
        }[kind]
        for step in range(steps)
    )


def _dtypes(r: Random, dtype: str) -> dict[str, str]:
    dtypes = {}
    if r.random() < 0.1:
        dtypes["state_dtype"] = "float64" if dtype != "bfloat16" else r.choice(("float32", "float64"))
    if r.random() < 0.06:
        dtypes["statistics_dtype"] = "bfloat16"
    return dtypes


def _bad(r: Random, some: list[tuple[int, str]]) -> dict[tuple[int, str], tuple[float, float]]:
    kind = r.choices(("none", "not finite", "huge"), (7, 3, 1))[0]
    if kind == "none":
        return {}
    values = BAD if kind == "not finite" else HUGE
    return {
        key: (r.choice((0.0, 0.3, 1.0)), r.choice(values)) for key in r.sample(some, r.randint(1, min(4, len(some))))
    }


# -------------------------------------------------------------------- what fits together


def _fit(c: Config) -> Config:
    """Drop what some layout of the run cannot have."""
    for fit in (_fit_tensors, _fit_fsdp1, _fit_groups, _fit_checkpoint, _fit_rest):
        c = fit(c)
    return c


def _fit_tensors(c: Config) -> Config:
    if c.layouts & {"fsdp2", "hsdp", "fsdp2 x tp", "pipeline x fsdp2", *FSDP1}:  # they take no 0-dim parameters
        c = replace(c, shapes={name: shape or (1,) for name, shape in c.shapes.items()})
    if not c.layouts <= CUT_BY_ROWS:
        c = _without_options(c, "slice_p")
    if "mesh" in c.layouts:  # torch's scaler takes no mixture of plain and distributed tensors
        c = replace(c, scaler=False)
    if not c.layouts <= {"tp", "ddp x tp", "mesh"} or c.scaler:
        c = replace(c, placed={})
    if c.dtype != "float64" and any(leg.real for leg in c.legs):  # the frameworks' own averages overflow
        c = _no_overflowing_squares(c)
    return c if c.layouts <= WHOLE else replace(c, transposed=frozenset())


def _fit_fsdp1(c: Config) -> Config:
    """One flat parameter has gradients, or none, as a whole; wrappers ask for one requires_grad.

    torch adds up gradients wrongly in a wrapper of a single element, and pads by the dtype.
    """
    if not c.layouts & FSDP1:
        return c
    c = replace(c, absent=frozenset(), silent=frozenset(), frozen={}, scaler=False, accumulation=1)
    c = replace(c, dtype="float32" if c.dtype == "bfloat16" else c.dtype)
    return one_group(c) if "fsdp1 flat" in c.layouts else c


def _fit_groups(c: Config) -> Config:
    if any(not some_names(c, leg, rank, g) for leg in c.legs for rank in range(leg.ranks) for g in c.groups):
        c = one_group(c)  # torch refuses named groups beside empty ones
    if c.layouts & {*STAGES, "experts"}:
        c = replace(c, named=True)
    if "ddp" in c.layouts:  # it looks at requires_grad when it is made
        c = replace(c, frozen=dict.fromkeys(c.frozen, c.steps))
    return replace(c, frozen={}) if all(name in c.frozen for name in c.shapes) else c


def _fit_rest(c: Config) -> Config:
    late = c.scaler and any(g.added for g in c.groups)  # a scaler unscales only what its optimizer has
    if not c.layouts <= CLIPPED or c.bad or late or any(leg.real and c.frozen for leg in c.legs):
        c = replace(c, clip=None)
    if c.event:
        fit = [what for what in EVENTS if len(c.legs) == 1 and _fits_event(c, what, c.event[1])]
        c = replace(c, event=(fit[EVENTS.index(c.event[0]) % len(fit)], c.event[1]) if fit else None)
    return _fit_unequal_ranks(c)


def _fit_unequal_ranks(c: Config) -> Config:
    left_out = c.shared.get("nonfinite", "skip" if c.scaler else "hold") != "hold"  # else copies are copies no more
    if not (left_out and c.layouts <= WHOLE and not any(math.isfinite(value) for _, value in c.bad.values())):
        c = replace(c, alone=False)
    placed = c.apart and not c.placings.isdisjoint(range(c.apart[0], c.apart[1] + 1))  # then all is compared at once
    # A reduce of ranks that are apart brings no sizes either: the cap is that of the step before.
    if (
        placed
        or c.bad
        or c.scaler
        or c.is_capped
        or c.method == "dadapt_lion"
        or (c.event and c.event[0] == "go_on_alone")
    ):
        c = replace(c, apart=None)
    if c.through == "dcp" and len(c.legs) > 1:
        c = replace(c, foreign=False)
    return c


def _fit_checkpoint(c: Config) -> Config:
    if len(c.legs) == 1:
        return c
    at = c.legs[1].first
    groups = tuple(replace(g, added=0) for g in c.groups) if c.through == "dcp" else c.groups
    if (
        c.through == "dcp"
    ):  # its planner asks for buffers that a frozen estimate no longer has, and names what is frozen
        c = replace(c, shared={k: v for k, v in c.shared.items() if k != "freeze_after"}, frozen={})
        if c.layouts & FSDP1:  # its state dicts ask one optimizer for all parameters of a wrapper, in one dtype
            c = replace(c, dtypes={name: v for name, v in c.dtypes.items() if name != "statistics_dtype"})
            # and, for all of them, the same buffers, which are fewer where a beta is 0
            groups = tuple(
                replace(g, optimizer=0, options={k: v for k, v in g.options.items() if k != "betas"}) for g in groups
            )
            if c.dtype == "float32":  # nor do they find their way through the padding of such small ones
                c = replace(c, dtype="float64", dtypes={})
    else:
        groups = tuple(replace(g, added=min(g.added, at)) for g in groups)
    return replace(c, groups=groups)


def _fits_event(c: Config, what: str, step: int) -> bool:
    layout, real = c.legs[0].layout, c.legs[0].real
    if what in ("recover", "go_on_alone") and c.own_group:  # which is gone with the others
        return False
    if what == "left_out":  # alone a rank can neither do what waits for the others, nor what they average
        waits = c.scaler or METHODS[c.method].before is not None or c.shared.get("nonfinite", "hold") != "hold"
        return not (waits or real or c.placed or "sync" in c.shared or any(group.added == step for group in c.groups))
    return {
        "deepcopy": layout in ("copies", "experts", "pipeline"),
        "recover": layout in ("copies", "ddp", "fsdp2", "fsdp1 orig"),
        "reload": True,
        "replace": layout in ("copies", "slices", "experts", "pipeline") and not real and _all_have_some(c),
        "go_on_alone": layout == "copies" and not c.alone,
    }[what]


def _all_have_some(c: Config) -> bool:
    leg = c.legs[0]
    return all(any(rank in owners(c, leg, name) for name in c.shapes) for rank in range(leg.ranks))


def owners(c: Config, leg: Leg, name: str) -> tuple[int, ...]:
    """The ranks that hold a part of a parameter, or all of it."""
    index = list(c.shapes).index(name)
    if leg.layout in STAGES:
        half = leg.ranks // 2
        return tuple(range(index % 2 * half, index % 2 * half + half))
    if leg.layout == "experts" and index % (leg.ranks + 1) < leg.ranks:
        return (index % (leg.ranks + 1),)
    return tuple(range(leg.ranks))


def some_names(c: Config, leg: Leg, rank: int, group: Group) -> list[str]:
    """Those of a group that a rank holds."""
    return [name for name in group.names if rank in owners(c, leg, name)]


def _without_options(c: Config, *names: str) -> Config:
    def strip(options: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in options.items() if name not in names}

    return replace(c, options=strip(c.options), groups=tuple(replace(g, options=strip(g.options)) for g in c.groups))


def one_group(c: Config) -> Config:
    return replace(c, groups=(Group(names=tuple(c.shapes)),))


# -------------------------------------------------------------------- what can be dropped


def _merged(c: Config, **changes: Any) -> Config:
    return replace(c, groups=tuple(replace(g, **changes) for g in c.groups))


def _shared_without(c: Config, name: str) -> Config:
    return replace(c, shared={k: v for k, v in c.shared.items() if k != name})


def _no_scaler_default(c: Config) -> Config:
    bad = c.scaler and c.bad and "nonfinite" not in c.shared
    return replace(c, shared={**c.shared, "nonfinite": "hold"}) if bad else c


def _no_overflowing_squares(c: Config) -> Config:
    return replace(c, bad={k: v for k, v in c.bad.items() if not _overflows(c, v[1])})


def _overflows(c: Config, value: float) -> bool:
    return c.dtype != "float64" and abs(value) < float("inf") and abs(value) > 1e18


def _no_skipped_estimates(c: Config) -> Config:
    """A step that is skipped for one estimate's gradients moves the scalars of the others."""
    several = any("estimate" in g.options for g in c.groups) and c.bad
    return _shared_without(c, "nonfinite") if several and c.shared.get("nonfinite") == "skip" else c


def _no_scales_of_others(c: Config) -> Config:
    """Sums that are needed before a step see the other optimizers' gradients as a GradScaler scaled them."""
    return replace(c, scaler=False) if c.needs_all_gradients else c


def _no_late_estimates(c: Config) -> Config:
    """An estimate that is added later has no norm of a first gradient."""
    late = METHODS[c.method].before is not None and any("estimate" in g.options and g.added for g in c.groups)
    return _merged(c, added=0) if late else c


def _no_unfrozen_at_resume(c: Config) -> Config:
    """Parameters that are unfrozen between saving and loading: all that one optimizer of a rank has may be among them."""
    starts = {leg.first for leg in c.legs[1:]}
    return replace(c, frozen={name: c.steps if step in starts else step for name, step in c.frozen.items()})


FEATURES: dict[str, Callable[[Config], Config]] = {
    "second leg": lambda c: replace(c, legs=c.legs[:1]),
    "resharding": lambda c: replace(c, legs=(c.legs[0], *(replace(c.legs[0], first=leg.first) for leg in c.legs[1:]))),
    "event": lambda c: replace(c, event=None),
    "layout": lambda c: replace(c, legs=tuple(Leg(layout="copies", ranks=2, first=leg.first) for leg in c.legs)),
    "real": lambda c: replace(
        c, legs=tuple(replace(leg, real=leg.layout == "ddp" or leg.layout in FSDP1) for leg in c.legs)
    ),
    "many ranks": lambda c: replace(c, legs=tuple(replace(leg, ranks=min(LAYOUTS[leg.layout])) for leg in c.legs)),
    "groups": one_group,
    "group options": lambda c: _merged(c, options={}),
    "group lrs": lambda c: _merged(c, lr=1.0),
    "optimizers": lambda c: _merged(c, optimizer=0),
    "late groups": lambda c: _merged(c, added=0),
    "schedule": lambda c: replace(c, lrs=(1.0,) * c.steps),
    "frozen": lambda c: replace(c, frozen={}),
    "absent": lambda c: replace(c, absent=frozenset()),
    "silent": lambda c: replace(c, silent=frozenset()),
    "zero": lambda c: replace(c, zero=frozenset()),
    "bad": lambda c: replace(c, bad={}),
    "placed": lambda c: replace(c, placed={}),
    "clip": lambda c: replace(c, clip=None),
    "scaler": lambda c: replace(c, scaler=False),
    "accumulation": lambda c: replace(c, accumulation=1),
    "reuse": lambda c: replace(c, reuse=False),
    "closure": lambda c: replace(c, closure=False),
    "windows": lambda c: replace(c, windows=True),
    "nonfinite": lambda c: _shared_without(c, "nonfinite"),
    "sync": lambda c: _shared_without(c, "sync"),
    "freeze": lambda c: _shared_without(c, "freeze_after"),
    "options": lambda c: replace(c, options=first_d(c.method, 1e-3)),
    "dtypes": lambda c: replace(c, dtypes={}),
    "dtype": lambda c: replace(c, dtype="float64", dtypes={}),
    "backend": lambda c: replace(c, backend="eager"),
    "names": lambda c: replace(c, named=False),
    "transposed": lambda c: replace(c, transposed=frozenset()),
    "unread": lambda c: replace(c, unread=frozenset()),
    "scale": lambda c: replace(c, scale=1.0),
    "alone": lambda c: replace(c, alone=False),
    "apart": lambda c: replace(c, apart=None),
    "foreign": lambda c: replace(c, foreign=False),
    "own group": lambda c: replace(c, own_group=False),
    "unfrozen at resume": _no_unfrozen_at_resume,
    "skipped estimates": _no_skipped_estimates,
    "scales of others": _no_scales_of_others,
    "late estimates": _no_late_estimates,
    "scaler default": _no_scaler_default,
    "overflowing squares": _no_overflowing_squares,
}
"""Name -> the configuration without it. The order is that of shrinking."""


def described(c: Config) -> str:
    """The configuration in a few lines, without what is as usual."""
    plain = Config(seed=0, method="", options={}, shared={}, shapes={}, groups=(), legs=(), steps=0, lrs=(), scale=0.0)
    lines = []
    for name, usual in vars(plain).items():
        value = getattr(c, name)
        if value == usual or (name == "lrs" and set(value) == {1.0}) or (name == "through" and len(c.legs) == 1):
            continue
        if isinstance(value, frozenset):
            value = sorted(value)
        lines.append(f"  {name} = {value}")
    return "\n".join(lines)
