"""Names of the methods on the command line, found without importing torch."""

import re
import sys
from pathlib import Path

_FOLDER = Path(__file__).parents[1] / "methods"
_NAME = re.compile(r'^    name = "(\w+)"$', re.MULTILINE)


def method_names() -> tuple[str, ...]:
    """Names of all methods: of the registry where it is loaded, else as their files give them."""
    registry = sys.modules.get("dadapt_dist.methods.registry")
    if registry is not None:
        return tuple(registry.METHODS)
    files = (path.read_text(encoding="utf-8") for path in sorted(_FOLDER.glob("*.py")))
    return tuple(name for text in files for name in _NAME.findall(text))


def method_flags() -> tuple[str, ...]:
    """The names as options on the command line: dadapt-adam for dadapt_adam."""
    return tuple(name.replace("_", "-") for name in method_names())
