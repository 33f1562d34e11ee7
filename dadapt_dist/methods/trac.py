"""TRAC around Adam (arXiv 2405.16642). The rule is in tuners/trac.py."""

from .base import Documentation
from .directions import Adam
from .tuners import TRACRule
from .tuners.trac import EQUATIONS, NOTES


class TRACAdamMethod(TRACRule):
    """TRAC around Adam with decoupled decay."""

    name = "trac_adam"
    direction = Adam()
    documentation = Documentation(
        summary="AdamW whose learning rate TRAC learns, and takes back where it leads astray.",
        when="training that goes on while the task changes",
        reference="Muppidi, Zhang and Yang, Fast TRAC, arXiv 2405.16642, Algorithm 1",
        equations=EQUATIONS.format(of="u of torch's AdamW with lr 1, weight decay in it"),
        notes=NOTES,
    )
