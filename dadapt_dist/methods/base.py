"""Interface of the learning-rate-free methods: the mathematics of one step on one plain tensor, and of d from global sums."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ..options.fields import MethodOptions
from .documentation import Documentation as Documentation
from .documentation import Variant as Variant
from .evaluation import Evaluates

Options = Mapping[str, Any]  # the options of one parameter group: plain numbers
Scalars = dict[str, Tensor]  # float64; of one estimate, or of all with a first dimension [n_estimates] inside a fold
Buffers = dict[str, Tensor]  # per-parameter state, in the state dtype
Coefficients = dict[str, Any]  # what `update` needs of the options and scalars: numbers and 0-dim float64 tensors
Initial = float | tuple[float, ...]  # first value of a scalar; a tuple for a vector

PHASES = ("start", "before", "after")
"""When a step takes sums: once over x before the first step, before the weights move, and while they move."""
LOSS = "loss"
"""The name under which a fold finds the mean loss, where its phase is declared with it."""


@dataclass(frozen=True, kw_only=True)
class Buffer:
    """One per-parameter buffer, shaped and placed like its parameter.

    `init`: the fill value, or "param" for a copy of the parameter. `statistic`: it serves the estimate of d alone, so
    `freeze_after` releases it. `sliced`: `slice_p` keeps every p-th entry of it only. `squares`: a mean or sum of squares.
    `transient`: the caller fills it anew in every step and it is not saved; float32, or the parameter's dtype where wider.
    `exchanged`: in evaluation it takes turns with the parameter (`Method.shown`), so it has the parameter's dtype, but for
    float32 beside bfloat16, whatever the other buffers have.
    """

    init: float | Literal["param"] = 0.0
    statistic: bool = False
    sliced: bool = False
    squares: bool = False
    transient: bool = False
    exchanged: bool = False


@dataclass(frozen=True)
class Dtypes:
    """The dtypes of buffers. state: of all; None is float32, or the parameter's where that is wider. statistics: of s alone.

    With `statistics` x0 takes the parameter's own dtype, in which it is exact.
    """

    state: torch.dtype | None = None
    statistics: torch.dtype | None = None

    def of(self, p: Tensor, buffer: Buffer) -> torch.dtype:
        """The dtype of a new buffer."""
        if buffer.exchanged:
            return torch.promote_types(p.dtype, torch.float32)
        if self.statistics is not None and buffer.statistic:
            return p.dtype if buffer.init == "param" else self.statistics
        return self.state or torch.promote_types(p.dtype, torch.float32)

    def restored(self, p: Tensor, buffer: Buffer, saved: torch.dtype) -> torch.dtype:
        """The dtype of a buffer from a checkpoint: no narrower than it was saved, but for an s that is asked to be."""
        dtype = self.of(p, buffer)
        asked = self.statistics is not None and buffer.statistic and buffer.init != "param"
        return dtype if asked or buffer.exchanged else torch.promote_types(saved, dtype)


@dataclass(frozen=True)
class Sums:
    """The additive sums of one phase.

    Args:
        names: one a sum, in the order in which the phase returns its terms.
        needs: the sum that the fold divides by. While it is 0 (no gradient yet) the scalars of the estimate stay as they are.
        loss: whether the fold also gets sums["loss"], the mean loss of the step over the ranks that have one. A step with
            gradients in which no rank has one is refused. Not at the start, where there is no loss yet.

    Raises:
        TypeError: for what cannot be declared.

    Example:
        >>> Sums(("g_sq",), needs="g_sq", loss=True).names
        ('g_sq',)
    """

    names: tuple[str, ...]
    needs: str | None = None
    loss: bool = False

    def __post_init__(self) -> None:
        names: Any = self.names
        if not isinstance(names, tuple) or not all(isinstance(name, str) for name in names):
            raise TypeError(f'Sums(names={self.names!r}): names must be a tuple of texts, one a sum: ("g_sq",)')
        if len({*self.names}) < len(self.names) or (taken := {LOSS, "losses", "taken"} & {*self.names}):
            why = (
                "two sums have one name" if len({*self.names}) < len(self.names) else f"{min(taken)!r} is the engine's"
            )
            raise TypeError(
                f"Sums(names={self.names!r}): {why}. Choose another name; Sums(names, loss=True) asks for the loss."
            )
        if self.needs is not None and self.needs not in self.names:
            raise TypeError(f"Sums(needs={self.needs!r}): it must be one of the names, {self.names!r}")

    def check_terms(self, returned: int, of: str) -> None:
        """Raise TypeError where a function returned another number of terms than there are sums."""
        if returned != len(self.names):
            raise TypeError(
                f"{of} returned {returned} terms, and its phase has {len(self.names)} sums, {self.names!r}: return one term of "
                "each, in their order."
            )


class Method(Evaluates, ABC):
    """One learning-rate-free method: tensors and scalars, no ranks, no frameworks.

    A method is a rule for single elements and three optional phases of additive sums. In each phase a function returns the
    terms of one tensor; the terms of all tensors of all ranks are added up, and a pure fold moves the scalars by the sums:

        start    `measure_start` and `fold_start`, once, over the parameters before the first step
        before   `measure_before` and `fold_before`, from gradients, before the weights move
        after    `update` and `fold_after`, while the weights move; known in the next step

    The caller sees to the rest: sums that are not finite, frozen estimates, steps that are left out, ranks, checkpoints. An
    estimate whose sums cannot be used stays where it is, and `update` runs all the same: its coefficients must be those of a
    step that moves nothing for as long as a scalar that they divide by is unknown.

    `update` must be elementwise, so that any splitting of the tensors gives the same result. A method without sums never
    communicates.
    """

    options: ClassVar[type[MethodOptions]]
    """The options of a parameter group: a frozen dataclass, in the order of the public constructor."""
    documentation: ClassVar[Documentation]
    """What docstrings and docs say of the method."""
    variants: ClassVar[tuple[Variant, ...]] = ()
    """Its other public classes."""

    name: ClassVar[str]
    start: ClassVar[Sums | None] = None
    before: ClassVar[Sums | None] = None
    after: ClassVar[Sums | None] = None
    sums: ClassVar[tuple[str, ...]] = ()
    """Names of the sums that `update` returns: those of `after`."""
    estimate_options: ClassVar[tuple[str, ...]] = ()
    """Options that all groups of one estimate must share; where a class declares none, those that `options` says."""
    fixed_options: ClassVar[tuple[str, ...]] = ()
    """Options that a checkpoint must have as the optimizer that loads it was built with."""
    polynomial_before: ClassVar[bool] = False
    """Whether each `before` sum is a + b·t + c·t² for t·g in the place of g, t >= 0, whatever the options: see `by_power`."""
    later_scalars: ClassVar[tuple[str, ...]] = ()
    """Scalars that checkpoints of an earlier version lack: `assumed` gives them."""
    read_only: ClassVar[tuple[str, ...]] = ("p0", "x0")
    """Buffers that `update` never writes."""
    sparse: ClassVar[bool] = False
    """Does the method take sparse gradients (`update_sparse`)?"""
    zero_if_sparse: ClassVar[tuple[str, ...]] = ()
    """Options that must be 0 for a sparse gradient, for they move rows that are not in it."""
    first_square: ClassVar[float | None] = None
    """First value of its sums of squared gradients, where d depends on the size of gradients beside it."""
    counts_updates: ClassVar[bool] = False
    """Whether a scalar "updates" is kept: the steps in which something could move, also those whose sums were of no use."""
    runs_base: ClassVar[bool] = False
    """Whether a torch optimizer gives the update: see `directions.TorchDirection`."""
    scaled: ClassVar[str] = "step"
    """The coefficient that `tensor_factors` multiply."""
    least_loss: ClassVar[str | None] = None
    """The constant below which no mean loss can be: a step with a smaller one moves nothing, and users are warned of it."""
    follows_lr: ClassVar[bool] = False
    """Whether constants["lr"] is there in `advance` and `coefficients`: the largest lr of the estimate's groups on this rank."""
    of_rank: ClassVar[tuple[str, ...]] = ()
    """Scalars that may differ between ranks with other groups, since no sum moves them."""
    chosen_lr: ClassVar[bool] = False
    """Whether lr is a learning rate that users choose, and no factor on one that is found."""
    has_modes: ClassVar[bool] = False
    """Whether the parameters hold other values in evaluation than in training: the class defines `to_eval` and `to_train`."""
    wants_loss: ClassVar[bool] = False
    """Does some phase's fold get the loss of the step? Set from `before` and `after`."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.start is not None and cls.start.loss:
            raise TypeError(
                f"{cls.__name__}: start = Sums(..., loss=True), and there is no loss before the first step: declare it in before "
                "or after"
            )
        own: Any = vars(cls).get("options")
        if "estimate_options" not in vars(cls) and isinstance(own, type) and issubclass(own, MethodOptions):
            cls.estimate_options = own.of_estimate()
        for phase in PHASES:
            _check_defined(cls, phase)
        cls.sums = () if cls.after is None else cls.after.names
        cls.wants_loss = any(spec is not None and spec.loss for spec in (cls.before, cls.after))
        has_eval, has_train = cls.to_eval is not Method.to_eval, cls.to_train is not Method.to_train
        if has_eval is not has_train:
            raise TypeError(f"{cls.__name__} must define both to_eval and to_train, which undo each other, or neither")
        cls.has_modes = has_eval

    def completed(self, options: Options, where: str) -> dict[str, Any]:
        """The options with those filled in that follow from others, such as a recipe.

        where: what an error calls the optimizer or group. Raises ValueError for options that contradict each other.
        """
        return dict(options)

    def shared_options(self, options: Options) -> tuple[str, ...]:
        """The options that all groups of one estimate must share: `estimate_options`, and those that matter with these."""
        return self.estimate_options

    # ---------------------------------------------------------------- scalars and buffers

    def scalars(self, options: Options) -> dict[str, Initial]:
        """Initial values of the scalars of one estimate, those of a vector as a tuple; "k" and others are kept by the caller.

        One that is called "d" is what users read as `optimizer.d`.
        """
        return {"d": float(options["d0"])}

    def unsaved(self, options: Options) -> tuple[str, ...]:
        """Those of `later_scalars` that a checkpoint leaves out, since no step depends on them: older ones can then be loaded."""
        return ()

    def assumed(self, scalars: Mapping[str, float], options: Options) -> dict[str, float]:
        """The `later_scalars` of a checkpoint that lacks them, from those that it has, and from "k"."""
        return {}

    def constants(self, options: Options) -> dict[str, float]:
        """Constants of one estimate for the folds and `coefficients`, from the first group that belongs to it."""
        names = ("d0", "growth_rate", "d_coef")
        return {name: float(options[name]) for name in names if name in options}

    @abstractmethod
    def buffers(self, options: Options) -> dict[str, Buffer]:
        """The buffers of every parameter of a group with these options."""

    def summed_schedule(self, options: Options) -> float:
        """Σ over a run of what its own schedule multiplies d·lr by; 0.0 where it has none."""
        return 0.0

    def tries(self, options: Options) -> int:
        """The number of steps with which a run of such groups begins that are trials, and one that puts everything back."""
        return 0

    def is_trying(self, values: Scalars) -> Tensor:
        """Whether such steps are still to come: 0-dim bool, asked where some group `tries`. values: of all estimates."""
        raise NotImplementedError

    def puts_back(self, options: Options, scalars: Scalars) -> Tensor:
        """Whether the coming step gives x and the buffers their first values: 0-dim bool, asked where `tries`.

        `coefficients` do so with the tensors that the step moves; this is for the others.
        """
        raise NotImplementedError

    def narrow_weights(self, options: Options) -> str | None:
        """Why a group with these options cannot train weights narrower than float32, and the cure; None: it can."""
        return None

    def measures_update(self, options: Options) -> bool:
        """Whether `measure_before` of a group with these options asks for the coming update of a direction (`tried`)."""
        return False

    def coupled_decay(self, options: Options) -> float:
        """The weight decay that enters the gradient (g + wd·x) for a group; 0 where decay is decoupled."""
        return 0.0

    # ---------------------------------------------------------------- a step

    @abstractmethod
    def coefficients(self, options: Options, scalars: Scalars, constants: Mapping[str, float]) -> Coefficients:
        """What one step of one group multiplies by. 0-dim tensors on the device of `scalars`, no host sync."""

    @abstractmethod
    def update(self, x: Tensor, g: Tensor, buf: Buffers, c: Coefficients, cut: slice | None) -> tuple[Tensor, ...]:
        """Advance `x` and `buf` in place by one step; return the terms of the `after` sums (0-dim float64).

        All tensors have one dtype and one shape, but for sliced buffers, which match `x.reshape(-1)[cut]`. A frozen
        method has no statistic buffers; then the result is ignored and may be empty.
        """

    def update_sparse(self, x: Tensor, g: Tensor, buf: Buffers, c: Coefficients) -> tuple[Tensor, ...]:
        """`update` for a coalesced sparse gradient."""
        raise NotImplementedError(f"{self.name} takes no sparse gradients")

    def squared(self, g: Tensor, before: Buffers, after: Buffers, c: Coefficients) -> tuple[Tensor, ...]:
        """What of a step with g is squared, elementwise, beside buffers and x: such an element is left out if it overflows.

        before, after: the buffers of before and after `update`.
        """
        return (g,)

    def multiplied(self, x: Tensor, buf: Buffers, c: Coefficients) -> tuple[Tensor, ...]:
        """What of x and the buffers, elementwise, can make even a step with a small gradient overflow where it is large.

        Such a step is tried first, as one with a large gradient is.
        """
        return ()

    # ---------------------------------------------------------------- each tensor of the model apart

    def needs_rms(self, options: Options) -> bool:
        """Whether the step of a group with these options depends on the root mean square of each tensor of the model.

        The caller then adds up the squares of every tensor over all ranks, in the reduce of the step that writes them, and
        multiplies the coefficient `scaled` by `tensor_factors`.
        """
        return False

    def begin(self, rms: Tensor, scalars: Scalars, constants: Mapping[str, Tensor]) -> Scalars:
        """The scalars that follow from the root mean square of all elements of the model, where `needs_rms`: pure arithmetic.

        Called before the first step, and before the first after a checkpoint was loaded. rms: 0-dim float64. Elementwise.
        """
        return {}

    def held(self, scalars: Scalars, constants: Mapping[str, Tensor]) -> Scalars:
        """The scalars that change in a step whose gradients are not finite, or overflow under a GradScaler, elementwise."""
        return {}

    def froze(self, scalars: Scalars) -> Scalars:
        """The scalars that change once the estimate is frozen, before its statistics are dropped."""
        return {}

    def tensor_factors(self, rms: Tensor, options: Options, scalars: Scalars, constants: Mapping[str, float]) -> Tensor:
        """Between 0 and 1 for each tensor: float64 [n_tensors], no host sync.

        rms: float64 [n_tensors], the root mean square of each whole tensor of the model before the step.
        """
        return torch.ones_like(rms)

    # ---------------------------------------------------------------- sums

    def measure_start(self, x: Tensor) -> tuple[Tensor, ...]:
        """The terms of the `start` sums of one tensor: 0-dim float64, from x in float64, without padding. Reads only."""
        raise NotImplementedError(f"{self.name} has no sums at the start")

    def measure_before(self, x: Tensor, g: Tensor, buf: Buffers, c: Coefficients) -> tuple[Tensor, ...]:
        """The terms of the `before` sums of one tensor: 0-dim float64, from float64 tensors. Reads only.

        g: the gradient as `update` gets it, with elements that are not finite or too large to be squared set to 0.
        """
        raise NotImplementedError(f"{self.name} has no sums before its update")

    def fold_start(self, sums: Scalars, scalars: Scalars, constants: Mapping[str, Tensor]) -> Scalars:
        """The scalars that the `start` sums set: pure arithmetic, elementwise over estimates ([n_estimates] each)."""
        return {}

    def fold_before(self, sums: Scalars, scalars: Scalars, constants: Mapping[str, Tensor]) -> Scalars:
        """The scalars that the `before` sums set, as `fold_start`."""
        return {}

    def fold_after(self, sums: Scalars, scalars: Scalars, constants: Mapping[str, Tensor]) -> Scalars:
        """The scalars that the `after` sums set, as `fold_start`."""
        return {}

    def advance(self, scalars: Scalars, constants: Mapping[str, Tensor]) -> Scalars:
        """The scalars that a step moves whatever its sums, elementwise over estimates ([n_estimates] each).

        After every step in which something could move, also a held or a frozen one. scalars: those of the step.
        """
        return {"updates": scalars["updates"] + 1} if "updates" in scalars else {}

    def wants_before(self, scalars: Scalars) -> Tensor | None:
        """bool [n_estimates]: the estimates that still want `before` sums; None: all, in every step."""
        return None

    # ---------------------------------------------------------------- what users read and set

    def learning_rate(self, options: Options, scalars: Scalars) -> Tensor | float:
        """The learning rate that the underlying method (Adam, SGD, ...) has in the coming step of a group.

        scalars: of the group's estimate, 0-dim. Without schedules of its own, such as a bias correction.
        """
        return scalars["d"] * float(options["lr"]) * float(options.get("layer_scale", 1.0))

    def adamw_lr(self, options: Options, scalars: Scalars) -> Tensor | float | None:
        """AdamW's learning rate for the coming step of a group, without bounds of single tensors; None for a method unlike it."""
        return None

    needs_sums_to_lower: ClassVar[bool] = False
    """Does `moved` need the sums of the last step for a smaller d?"""

    def moved(
        self, d: float, scalars: Mapping[str, float], sums: Mapping[str, float] | None, constants: Mapping[str, float]
    ) -> dict[str, float]:
        """The scalars of one estimate after its user has set d: the folds leave it there until they find a larger one.

        sums: the global `after` sums of the last step, None where there was none. This one serves methods whose estimate is a
        multiple of "numerator".
        """
        highest = scalars.get("d_max", scalars["d"])
        share = min(1.0, d / highest)
        changed = {"d": d, "d_max": d, "numerator": scalars.get("numerator", 0.0) * share}
        return {name: value for name, value in changed.items() if name in scalars}


def _check_defined(method: type[Method], phase: str) -> None:
    """Raise TypeError for sums that nobody measures or folds: they would be reduced in every step for nothing."""
    needed = (f"fold_{phase}",) if phase == "after" else (f"measure_{phase}", f"fold_{phase}")
    for name in needed:
        if getattr(method, phase) is not None and getattr(method, name) is getattr(Method, name):
            raise TypeError(f"{method.__name__} has sums, {phase} = Sums(...), and no {name}: define it")
