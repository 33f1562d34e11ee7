"""dadaptation.experimental: earlier forms of two methods, for which the present ones stand in, with a warning.

Their options are the same. Their numbers are not.
"""

from typing import Any

from dadapt_dist.integrations.stand_ins import warn_of_another

from .. import DAdaptAdam, DAdaptAdan

__all__ = ["DAdaptAdamPreprint", "DAdaptAdanIP"]

_PRESENT = {"DAdaptAdamPreprint": DAdaptAdam, "DAdaptAdanIP": DAdaptAdan}


def __getattr__(name: str) -> Any:
    if name not in _PRESENT:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warn_of_another(f"{__name__}.{name}", _PRESENT[name].__name__)
    return _PRESENT[name]
