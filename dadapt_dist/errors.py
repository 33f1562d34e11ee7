"""Exceptions that users may want to catch."""


class PlacementError(RuntimeError):
    """A parameter cannot be placed, or the placements do not add up to the model."""


class ReduceError(RuntimeError):
    """The sums of a step did not arrive: a rank is gone, or the network."""


class NonFiniteError(ArithmeticError):
    """A gradient was not finite and the optimizer was told to raise; no parameter has moved, on any rank."""


class LaunchError(RuntimeError):
    """This process cannot tell who it is, or cannot meet the others."""


class GradientError(ValueError, RuntimeError):
    """A gradient that a method cannot use: a wrong value, and a RuntimeError as with torch's own optimizers."""
