"""Optimizers that learn the learning rate of a torch optimizer that there is: Mechanic and TRAC around any base."""

import inspect
from collections.abc import Callable
from dataclasses import Field
from typing import Any, ClassVar

from torch.optim import Optimizer

from ..methods import Documentation
from ..methods.base import Options
from ..methods.directions import OfOptimizer, TorchDirection
from ..methods.tuners import MechanicRule, ScaledSum, TRACRule
from ..methods.tuners import mechanic as of_mechanic
from ..methods.tuners import trac as of_trac
from ..options.checks import check_options
from .base_checks import check_base
from .optimizer import LearningRateFree
from .optimizer_class import arguments_documented, construct, read_arguments, signature_with

_OF_BASE = ("lr", "maximize")  # options that stand in the base's groups
_TAKEN = ("step", "state_dict", "load_state_dict", "add_param_group")  # what the original no longer does by itself


class Wrapped(LearningRateFree):
    """An optimizer around a base. Its groups are those of the base: the same dicts, also for schedulers made of either."""

    _rule: ClassVar[type[ScaledSum]]
    _fills: dict[str, Any] | None = None  # defaults of the base's options, for new groups
    _original: "Optimizer | None" = None  # the base as the user made it; None in a copy

    def __init__(self, base_optimizer: Any, *options: Any, **keywords: Any) -> None:
        """Each class has its own, with its options by name."""
        raise TypeError(f"{type(self).__name__} is no optimizer: use Mechanic or TRAC.")

    def _wrap(self, base: Any, given: dict[str, Any]) -> None:
        name = type(self).__name__
        options = self._read(given)
        whole = check_base(base, name, {*options, *self._rule().scalars(options)})
        method = self._rule()
        method.direction = OfOptimizer(base)  # type: ignore[misc]
        method.direction.looks_at_whole = whole
        self._fills = {key: value for key, value in base.defaults.items() if key != "params"}
        groups, given = [dict(group) for group in base.param_groups], {**given, "lr": base.defaults.get("lr", 1.0)}
        construct(self, groups, method, self._rule, given)
        self._take_over(base)

    def _read(self, given: dict[str, Any]) -> dict[str, Any]:
        """All options of the rule, those that were given checked."""
        own = self._rule.options
        options = {key: given[key] for key in own.checks() if key in given}
        return own.defaults() | check_options(options, own.checks(), type(self).__name__, type(self))

    def _take_over(self, base: Optimizer) -> None:
        """Let the base's groups be ours, and the base a handle to them that takes no step of its own. Nothing fails here."""
        for own, theirs in zip(self.param_groups, base.param_groups, strict=True):
            theirs.update(own)
        self.param_groups[:] = base.param_groups
        self._groups = self.param_groups
        base.state.clear()
        for name in _TAKEN:
            setattr(base, name, _refusal(type(self).__name__, name))
        self._original = base
        self._bind_groups()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, as torch's optimizers do; options of the base that it lacks are those that the base was made with."""
        whole = {**(self._fills or {}), **param_group}
        ours = {"params", "param_names", *self._method.options.checks()}
        super().add_param_group({name: value for name, value in whole.items() if name in ours})
        self.param_groups[-1].update({name: value for name, value in whole.items() if name not in ours})

    def _bind_groups(self) -> None:
        super()._bind_groups()
        for group in self.param_groups:  # a checkpoint may be of a version of the base that had fewer options
            group.update((key, value) for key, value in (self._fills or {}).items() if key not in group)
        if self._original is not None:
            self._original.param_groups = self.param_groups

    def _take_step(self, loss: Any = None, result: Any = None) -> None:
        super()._take_step(loss, result)
        if self._original is not None:
            self._original._opt_called = True  # type: ignore[attr-defined] # for a scheduler that was made of it

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_fills": self._fills}


def _refusal(name: str, what: str) -> Callable[..., Any]:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError(
            f"this optimizer is the base of {name}, which steps, saves and loads for both: call {what}() of {name}."
        )

    refuse._of_base = True  # type: ignore[attr-defined]
    refuse._wrapped_by_lr_sched = True  # type: ignore[attr-defined] # a scheduler counts the steps of the wrapper
    return refuse


# ---------------------------------------------------------------- the classes

_INTRODUCTION = """\
{summary}

The weights are x0 - S·Δ, where Δ is the sum of what the base's steps take off, and S is learned. Give the base
lr=1.0 at the peak of its schedule; its options, decay and momentum stay its own, in groups which this optimizer and
the base share. A scheduler may be made of either. Call step(), state_dict() and load_state_dict() of this one.
S is what `d` shows, and `effective_lr` is S·lr.

The base steps on copies of the weights. Optimizers that cannot, or that go by whole tensors while these are
sharded, are refused. Under ZeRO use {name}Adam, {name}SGD or the like, which need less memory everywhere."""
_EXAMPLE = """\
>>> import torch, dadapt_dist
>>> model = torch.nn.Linear(4, 1)
>>> optimizer = dadapt_dist.{name}(torch.optim.AdamW(model.parameters(), lr=1.0, weight_decay=0.01))
>>> for _ in range(3):
...     loss = model(torch.ones(8, 4)).square().mean()
...     optimizer.zero_grad()
...     loss.backward()
...     optimizer.step()
>>> optimizer.step_size.steps
3"""


def _none(groups: list[dict[str, Any]]) -> Optimizer:
    raise RuntimeError("a wrapper has the base that it was made with")


class _AroundBase(ScaledSum):
    """A rule whose direction has its lr in it."""

    def along(self, options: Options) -> float:
        return float(options["layer_scale"])


class _MechanicMethod(_AroundBase, MechanicRule):
    """Mechanic around the base of a wrapper."""

    name = "mechanic"
    direction = TorchDirection(_none)
    documentation = Documentation(
        summary="Any torch optimizer, whose learning rate Mechanic learns.",
        when="optimizers that have no fused form here, such as NAdam, or one of your own",
        reference="Cutkosky, Defazio and Mehta, Mechanic: A Learning Rate Tuner, arXiv 2306.00144, Algorithm 1",
        equations=of_mechanic.EQUATIONS.format(of="lr·u is what the base takes off"),
    )


class _TRACMethod(_AroundBase, TRACRule):
    """TRAC around the base of a wrapper."""

    name = "trac"
    direction = TorchDirection(_none)
    documentation = Documentation(
        summary="Any torch optimizer, whose learning rate TRAC learns.",
        when="any optimizer, for training that goes on while the task changes",
        reference="Muppidi, Zhang and Yang, Fast TRAC, arXiv 2405.16642, Algorithm 1",
        equations=of_trac.EQUATIONS.format(of="lr·u is what the base takes off"),
    )


def _docstring(rule: type[ScaledSum], name: str) -> str:
    lines = [*_INTRODUCTION.format(summary=rule.documentation.summary, name=name).splitlines(), "", "Args:"]
    lines += ["    base_optimizer: a torch optimizer over the parameters, which goes by their gradients."]
    lines += [*arguments_documented(_options_of(rule)), "", "Raises:"]
    lines += ["    TypeError: the base cannot serve; it is as it was. The message says why, and what can."]
    lines += ["    ValueError: an option is out of its range; nothing is built.", "", "Example:"]
    lines += [f"    {line}" for line in _EXAMPLE.format(name=name).splitlines()]
    return "\n".join([*lines, "", "References:", f"    {rule.documentation.reference}.", ""])


def _made(rule: type[ScaledSum], name: str) -> type[Wrapped]:
    """The class of a wrapper: (base_optimizer, options of the rule, keywords that all optimizers take)."""
    signature = signature_with("base_optimizer", _options_of(rule))

    def __init__(self: Wrapped, *args: Any, **kwargs: Any) -> None:
        given = read_arguments(signature, args, kwargs, name)
        self._wrap(given.pop("base_optimizer"), given)

    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    __init__.__signature__ = signature.replace(parameters=[own, *signature.parameters.values()])  # type: ignore[attr-defined]
    __init__.__qualname__, __init__.__module__ = f"{name}.__init__", _MODULE
    return type(name, (Wrapped,), {
        "__init__": __init__, "__doc__": _docstring(rule, name), "__module__": _MODULE, "__qualname__": name, "_rule": rule,
    })  # fmt: skip


_MODULE = "dadapt_dist.wrappers"


def _options_of(rule: type[ScaledSum]) -> list[Field[Any]]:
    """The options of a wrapper's constructor; the others stand in the base's groups."""
    return [f for f in rule.options.of_constructor() if f.name not in _OF_BASE]


mechanic, trac = _made(_MechanicMethod, "Mechanic"), _made(_TRACMethod, "TRAC")
