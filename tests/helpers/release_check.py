"""The program of `make release-check`, which is no package, as a module."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

__all__ = ["release_check"]


def _loaded() -> ModuleType:
    path = Path(__file__).parents[2] / ".ci" / "release_check.py"
    spec = importlib.util.spec_from_file_location("release_check", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["release_check"] = module
    spec.loader.exec_module(module)
    return module


release_check = _loaded()
