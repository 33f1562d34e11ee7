"""Mechanic around the directions of this package: SGD, Adam and Lion (arXiv 2306.00144). The rule is in tuners/mechanic.py."""

from .base import Documentation
from .directions import SGD, Adam, Lion
from .tuners import MechanicRule
from .tuners.mechanic import EQUATIONS, NOTES

_COST = ": the update is then computed twice"
_REFERENCE = "Cutkosky, Defazio and Mehta, Mechanic: A Learning Rate Tuner, arXiv 2306.00144, Algorithm 1"


class MechanicSGDMethod(MechanicRule):
    """Mechanic around SGD with momentum."""

    name = "mechanic_sgd"
    polynomial_before = True  # also in the variant whose sums have u in them
    direction = SGD()
    documentation = Documentation(
        summary="SGD, with or without momentum, whose learning rate Mechanic learns.",
        when="what SGD trains well, with momentum and a schedule",
        reference=_REFERENCE,
        equations=EQUATIONS.format(of="u of torch's SGD with lr 1, momentum and weight decay in it"),
        notes=NOTES.format(cost=_COST),
    )


class MechanicAdamMethod(MechanicRule):
    """Mechanic around Adam with decoupled decay."""

    name = "mechanic_adam"
    direction = Adam()
    documentation = Documentation(
        summary="AdamW whose learning rate Mechanic learns.",
        when="what AdamW trains, with a learning rate that may also fall",
        reference=_REFERENCE,
        equations=EQUATIONS.format(of="u of torch's AdamW with lr 1, weight decay in it"),
        notes="The rule, `variant` and `delta` are those of `MechanicSGD`.",
    )


class MechanicLionMethod(MechanicRule):
    """Mechanic around Lion."""

    name = "mechanic_lion"
    direction = Lion()
    documentation = Documentation(
        summary="Lion whose learning rate Mechanic learns.",
        when="what Lion trains, with a learning rate that may also fall",
        reference=_REFERENCE,
        equations=EQUATIONS.format(of="u = sign(b1·m + (1-b1)·g) + wd·x;  m = b2·m + (1-b2)·g"),
        notes="The rule, `variant` and `delta` are those of `MechanicSGD`.",
    )
