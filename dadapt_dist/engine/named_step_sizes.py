"""StepSizes shared by name, for configurations in YAML or JSON, which cannot hold an object."""

import weakref
from collections.abc import Mapping
from typing import Any

from .step_size import StepSize

_named: "weakref.WeakValueDictionary[str, StepSize]" = weakref.WeakValueDictionary()
_options: "weakref.WeakKeyDictionary[StepSize, dict[str, Any]]" = weakref.WeakKeyDictionary()


def named(name: str, options: Mapping[str, Any], where: str) -> StepSize:
    """The StepSize of this process that has the name, while some optimizer uses it; else a new one with these options.

    One that has taken steps belongs to the model before: the name then begins anew. Raises ValueError for options that are not
    those that it was made with.
    """
    found = _named.get(name)
    if found is None or found.steps > 0:
        _named[name] = found = StepSize(**options)
        _options[found] = dict(options)
    differ = sorted(key for key, value in options.items() if _options[found].get(key) != value)
    if differ:
        raise ValueError(
            f"{where}: step_size={name!r} was made with another {', '.join(differ)}. Optimizers that share a StepSize share "
            "its options: pass them to the first, or the same to all."
        )
    return found
