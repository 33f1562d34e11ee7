"""dadapt_dist under a second name, for programs that take every name beginning with "dadapt" for the package dadaptation.

`lrfree.Prodigy` is `dadapt_dist.Prodigy`, and `lrfree.optimizers` is the module `dadapt_dist.optimizers`: nothing is loaded
twice, and pickles and checkpoints hold the names of dadapt_dist. The .pyi files beside this one show the modules to type
checkers.
"""

import importlib
import importlib.util
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

import dadapt_dist

if TYPE_CHECKING:
    from dadapt_dist import *  # noqa: F403
    from dadapt_dist import __version__ as __version__
else:

    def __getattr__(name: str) -> Any:
        return getattr(dadapt_dist, name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *dir(dadapt_dist)})


class _SecondNames:
    """Finder and loader of `lrfree.<module>`, which is the very `dadapt_dist.<module>`."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """A spec for a module that dadapt_dist has, None for every other name."""
        first, _, rest = name.partition(".")
        real = importlib.util.find_spec(f"dadapt_dist.{rest}") if first == __name__ and rest else None
        if real is None:
            return None
        is_package = real.submodule_search_locations is not None
        return ModuleSpec(name, _SecondNames, origin=real.origin, is_package=is_package)  # type: ignore[arg-type]

    @staticmethod
    def create_module(spec: ModuleSpec) -> None:
        """Let Python make an empty module; `exec_module` puts the real one in its place."""

    @staticmethod
    def exec_module(module: ModuleType) -> None:
        """Make the module of dadapt_dist what the second name means in sys.modules."""
        sys.modules[module.__name__] = importlib.import_module(_real(module.__name__))

    @staticmethod
    def get_code(name: str) -> Any:
        """The code of a module, for `python -m lrfree.run`."""
        spec = importlib.util.find_spec(_real(name))
        return None if spec is None else spec.loader.get_code(spec.name)  # type: ignore[union-attr]


def _real(name: str) -> str:
    return f"dadapt_dist.{name.partition('.')[2]}"


sys.meta_path.insert(0, _SecondNames)
