"""Learning-rate-free optimizers that stay correct, and cost nothing extra, when training is sharded."""

import sys
from typing import TYPE_CHECKING, Any

from . import _moved_paths

__version__ = "0.1.0"

__path__.append(_moved_paths.OLD_NAMES)

# The console script answers --help and --version without torch: under it names are loaded when they are asked for.
if TYPE_CHECKING:
    from ._public import *  # noqa: F403
    from .optimizers import *  # noqa: F403
elif "dadapt_dist_cli" not in sys.modules:
    from . import _public
    from ._public import *  # noqa: F403

    __all__ = ["__version__", *_public.__all__]
else:

    def __getattr__(name: str) -> Any:
        if name.startswith("_") and name != "__all__":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from . import _public

        return ["__version__", *_public.__all__] if name == "__all__" else getattr(_public, name)
