"""Try the folds of a method on sums of two estimates, so that a mistake shows before any weight has moved."""

from typing import Any

import torch
from torch import Tensor

from .base import LOSS, PHASES, Method, Scalars, Sums

ESTIMATES = 2  # with one, a value without a dimension for estimates would look right


def check_folds(method: type[Method]) -> None:
    """Raise TypeError for a fold that fails, changes what it is given, or returns what its scalars cannot hold.

    Args:
        method: Its options have defaults, and its scalars are finite.
    """
    made, options = method(), method.options.defaults()
    scalars = {name: _repeated(value) for name, value in made.scalars(options).items()}
    constants = {name: _repeated(value) for name, value in made.constants(options).items()}
    kept = ["k", "held", *(["started"] if made.start else []), *(["updates"] if made.counts_updates else [])]
    for phase in PHASES:
        spec: Sums | None = getattr(made, phase)
        if spec is not None:
            names = [*spec.names, *([LOSS] if spec.loss else []), *(["taken"] if phase == "start" else [])]
            sums, given = dict.fromkeys(names, _repeated(1.0)), scalars | dict.fromkeys(kept, _repeated(0.0))
            _check(
                f"{method.__name__}.fold_{phase}", getattr(made, f"fold_{phase}"), sums, given, constants, [*scalars]
            )


def _repeated(value: Any) -> Tensor:
    return torch.tensor([value] * ESTIMATES, dtype=torch.float64, device="cpu")


def _check(where: str, fold: Any, sums: Scalars, scalars: Scalars, constants: Scalars, own: list[str]) -> None:
    arguments = [*sums.values(), *scalars.values(), *constants.values()]
    versions = [t._version for t in arguments]
    try:
        new: Any = fold(dict(sums), dict(scalars), dict(constants))
    except Exception as error:
        raise TypeError(
            f"{where} fails for the sums {', '.join(sums)} of {ESTIMATES} estimates: {type(error).__name__}: {error}. It gets a "
            "float64 tensor [n_estimates] of each, and of each scalar and constant."
        ) from error
    if [t._version for t in arguments] != versions:
        raise TypeError(f"{where} changes a tensor that it is given, in place: return new ones, which are masked")
    if not isinstance(new, dict) or not new.keys() <= {*own}:
        found = sorted(map(str, new.keys() - {*own})) if isinstance(new, dict) else type(new).__name__
        raise TypeError(
            f"{where} returns {found}; it must return a dict of some of the method's scalars: {', '.join(own)}"
        )
    for name, value in new.items():
        _check_value(f"{where} returns for the scalar {name!r}", value, scalars[name])


def _check_value(where: str, value: Any, like: Tensor) -> None:
    if not isinstance(value, Tensor) or value.dtype != torch.float64 or value.shape != like.shape:
        found = f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else repr(value)
        shape = ", ".join(["n_estimates", *map(str, like.shape[1:])])
        raise TypeError(
            f"{where} {found}, with n_estimates = {ESTIMATES}; it must be a float64 tensor [{shape}]: work elementwise over "
            "estimates"
        )
