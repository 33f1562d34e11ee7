"""The backends that this process can run on the CPU."""

import os

from dadapt_dist.kernels import native

BACKENDS = [
    "eager",
    *(["c"] if native.available() else []),
    *(["triton"] if os.environ.get("TRITON_INTERPRET") else []),
]
