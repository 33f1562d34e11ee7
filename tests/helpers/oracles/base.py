"""What all oracles share: options, groups, named estimates, and the conditions under which d and k move.

Everything is float64, on one process, one parameter at a time. A method's file holds its update and its rule.
"""

import math
from collections.abc import Collection
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..losses import MADE_UP

Group = dict[str, Any]
State = dict[str, Any]
Estimate = dict[str, Any]


class Oracle:
    """The slow and obvious form of a method: the judge of the real one.

    params: tensors of any shape and dtype, cloned to float64. groups: dicts with "indices" (ints into params) and
    options that override `options`; None puts all parameters in one group. options: names and defaults of the released
    packages, and layer_scale, maximize, estimate (the name of the d that the group uses).
    A gradient element that is not finite acts as 0, and the scalars of its estimate stay in that step.
    freeze_after=N: after N steps in which some group had lr > 0, of the scalars only k moves, in every step in which a
    group of the estimate has lr > 0 (and SGD still takes the norm of its first gradient, if it has none yet).
    lagged: sums that the method needs before the weights move are those of the step before; the first step only measures.
    untrained: indices of parameters that do not train at the start, which no norm of the start takes.
    loss: the mean loss of the coming step, for a method that uses it; forgotten after the step. Without one it is made up.
    TypeError for an option or group key that the method lacks; ValueError for an index that is missing or occurs twice.
    """

    defaults: ClassVar[dict[str, Any]]  # the method's own options; `shared` is added to them
    shared: ClassVar[dict[str, Any]] = {
        "lr": 1.0,
        "d0": 1e-6,
        "layer_scale": 1.0,
        "maximize": False,
        "estimate": "default",
    }
    denominator: ClassVar[str] = "s_l1"  # the sum that must not be zero for the rule to apply
    has_d: ClassVar[bool] = True
    loss: float | None = None

    def __init__(
        self,
        params: list[Tensor],
        groups: list[Group] | None = None,
        *,
        freeze_after: int | None = None,
        lagged: bool = False,
        untrained: Collection[int] = (),
        **options: Any,
    ) -> None:
        self.lagged, self.untrained = lagged, frozenset(untrained)
        self.params: list[Tensor] = [p.detach().to(torch.float64).clone() for p in params]
        self.groups: list[Group] = []
        for given in groups if groups is not None else [{"indices": list(range(len(params)))}]:
            known = {**self.shared, **self.defaults}
            unknown = (set(options) | set(given)) - set(known) - {"indices"}
            if unknown or "indices" not in given:
                raise TypeError(f"{sorted(unknown)}: unknown or no indices; a group has indices and {sorted(known)}")
            self.groups.append({**known, **options, **given})
        if sorted(i for group in self.groups for i in group["indices"]) != list(range(len(params))):
            raise ValueError(f"the groups must name each of the {len(params)} parameters once")

        self.freeze_after = freeze_after
        self.steps = 0  # the steps so far in which some group had lr > 0
        self.states: list[State] = [{} for _ in params]
        for group in self.groups:
            for i in group["indices"]:
                self.states[i] = self.new_state(self.params[i], group)
        self.estimates: dict[str, Estimate] = {}
        for group in self.groups:
            if group["estimate"] not in self.estimates:  # the first group of an estimate holds its constants
                self.estimates[group["estimate"]] = {
                    "d": group.get("d0", math.nan),
                    "k": 0,
                    "first": group,
                    **self.new_scalars(group),
                }

    # What a method defines.

    def new_state(self, x: Tensor, group: Group) -> State:
        """The buffers of one parameter, before any step."""
        raise NotImplementedError

    def new_scalars(self, group: Group) -> dict[str, Any]:
        """The scalars of one estimate besides d and k, before any step."""
        raise NotImplementedError

    def update(self, x: Tensor, g: Tensor, state: State, group: Group, estimate: Estimate) -> dict[str, Tensor]:
        """One parameter's step: changes x and its buffers in place, returns its terms of the sums (0-dim)."""
        raise NotImplementedError

    def rule(self, estimate: Estimate, sums: dict[str, float]) -> None:
        """The global sums change the estimate's scalars, in place."""
        raise NotImplementedError

    def held(self, estimate: Estimate) -> None:
        """A step had gradients that are not finite: what follows from that alone."""

    def advance(self, estimate: Estimate, before: Estimate) -> None:
        """A step with some lr above 0 has been taken from these scalars: what follows from that alone."""

    def before_update(self, estimate: Estimate, items: list[tuple[Group, int, Tensor]]) -> bool:
        """What must be known before any parameter moves; False when nothing may move in this step."""
        return True

    def is_ready(self, estimate: Estimate) -> bool:
        """Is all known that must be known before any parameter moves?"""
        return True

    # What is the same for all methods.

    def step(
        self, grads: list[Tensor | None], left_out: Collection[int] = (), *, measures: bool = True, holds: bool = False
    ) -> None:
        """One step with one gradient (or None) for each parameter; the given tensors are left as they are.

        left_out: parameters that stay, because a GradScaler found their optimizer's gradients to overflow; the other
        optimizers move theirs, no scalar moves, and the step is not counted. measures: False when the optimizer that
        steps first is among those, which would take what must be known before any parameter moves. holds: the
        ranks are not agreed on something, so that nothing can be learned from this step.
        """
        self.loss = MADE_UP if self.loss is None else self.loss
        for name, estimate in self.estimates.items():
            groups = [group for group in self.groups if group["estimate"] == name]
            items = []
            for group in groups:
                for i in group["indices"]:
                    grad = grads[i]
                    if group["lr"] != 0 and grad is not None:
                        g = (grad.detach().to_dense() if grad.is_sparse else grad.detach()).to(torch.float64).clone()
                        items.append((group, i, -g if group["maximize"] else g))
            if not ((measures and not holds) or self.is_ready(estimate)) or not self.before_update(estimate, items):
                continue
            items = [item for item in items if item[1] not in left_out]
            clean = all(bool(torch.isfinite(g).all()) for _, _, g in items)
            if not clean:
                items = [(group, i, torch.where(torch.isfinite(g), g, 0.0)) for group, i, g in items]
            all_terms = [self.update(self.params[i], g, self.states[i], group, estimate) for group, i, g in items]
            if not left_out:
                some_lr = any(group["lr"] != 0 for group in groups)
                before = dict(estimate)
                self.conclude(estimate, all_terms, some_lr, clean and not holds)
                if some_lr:
                    self.advance(estimate, before)
        self.loss = None
        if not left_out and any(group["lr"] != 0 for group in self.groups):
            self.steps += 1

    def skip(self) -> None:
        """A step that all ranks left out: nothing moves, and it counts for freeze_after."""
        self.steps += any(group["lr"] != 0 for group in self.groups)

    def conclude(self, estimate: Estimate, all_terms: list[dict[str, Tensor]], some_lr: bool, clean: bool) -> None:
        """Adds up the terms of all parameters and applies the rule, if it may be applied."""
        if self.freeze_after is not None and self.steps >= self.freeze_after:
            estimate["k"] += 1 if some_lr else 0
            return
        if not all_terms or not clean:
            if not clean:
                self.held(estimate)
            return
        sums = {name: sum(terms[name].item() for terms in all_terms) for name in all_terms[0]}
        if not all(math.isfinite(value) for value in sums.values()) or sums[self.denominator] == 0:
            return
        self.rule(estimate, sums)
        estimate["k"] += 1

    def set_lr(self, lr: float) -> None:
        """Sets the lr of every group."""
        for group in self.groups:
            group["lr"] = lr

    def latest(self, estimate: Estimate) -> float:
        """d that is known after a step, also where the next step is the first to use it."""
        return float(estimate["d"])

    @property
    def ds(self) -> dict[str, float]:
        """d by estimate; NaN for a method without one."""
        return {name: self.latest(estimate) for name, estimate in self.estimates.items()}

    @property
    def k(self) -> dict[str, int]:
        """The steps that moved the rule, by estimate."""
        return {name: estimate["k"] for name, estimate in self.estimates.items()}

    @property
    def d(self) -> float:
        """d of the estimate "default", or of the only one. KeyError when there are several and none has that name."""
        return next(iter(self.ds.values())) if len(self.ds) == 1 else self.ds["default"]


def bias_correction(group: Group, k: int) -> float:
    """c = sqrt(1 - b2^(k+1)) / (1 - b1^(k+1)), or 1 when the group does not ask for it."""
    beta1, beta2 = group["betas"]
    if not group["use_bias_correction"]:
        return 1.0
    return float(math.sqrt(1 - beta2 ** (k + 1)) / (1 - beta1 ** (k + 1)))


def grown(d: float, d_hat: float, growth_rate: float) -> float:
    """The d after a D-Adaptation rule: never smaller than before, at most growth_rate times as large."""
    return max(d, min(d_hat, d * growth_rate))
