"""Reference numbers for each method: plain float64 transcriptions that share no code with the library.

A file is named as its method and holds one subclass of `Oracle`; it is found by itself.
"""

import importlib
import pkgutil

from .base import Oracle

ORACLES: dict[str, type[Oracle]] = {}
for _name in sorted(found.name for found in pkgutil.iter_modules(__path__)):
    if _name not in ("base", "cases", "released"):  # the last two import this package
        _defined = vars(importlib.import_module(f"{__name__}.{_name}")).values()
        [ORACLES[_name]] = [c for c in _defined if isinstance(c, type) and issubclass(c, Oracle) and c is not Oracle]

__all__ = ["ORACLES", "Oracle"]
