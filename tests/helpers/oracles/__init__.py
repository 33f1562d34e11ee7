"""Reference numbers for each method: plain float64 transcriptions that share no code with the library.

A file is named as its method and holds one subclass of `Oracle`, or several, each with the `key` of its method; they are found
by themselves.
"""

import importlib
import pkgutil

from .base import Oracle

ORACLES: dict[str, type[Oracle]] = {}
for _name in sorted(found.name for found in pkgutil.iter_modules(__path__)):
    if _name not in ("base", "cases", "released"):  # the last two import this package
        for _found in vars(importlib.import_module(f"{__name__}.{_name}")).values():
            _is_own = isinstance(_found, type) and _found.__module__ == f"{__name__}.{_name}"
            if _is_own and issubclass(_found, Oracle) and not _found.__name__.startswith("_"):
                ORACLES[_found.key or _name] = _found

__all__ = ["ORACLES", "Oracle"]
