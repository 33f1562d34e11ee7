"""Says whether DeepSpeed can swap to NVMe here."""

import os
from pathlib import Path


def why_no_nvme() -> str | None:
    """The reason, where DeepSpeed's async_io cannot be used at once: half a build, left by a time limit, hangs later ones."""
    from deepspeed.ops.op_builder import AsyncIOBuilder

    if not AsyncIOBuilder().is_compatible(verbose=False):
        return "libaio is not installed: apt install libaio-dev"
    folder = os.environ.get("TORCH_EXTENSIONS_DIR")
    if not folder or not all((Path(folder) / op / f"{op}.so").exists() for op in ("async_io", "pin_memory")):
        build = 'python -c "from deepspeed.ops.op_builder import AsyncIOBuilder; AsyncIOBuilder().load()"'
        return f"async_io is not built, which takes minutes: set TORCH_EXTENSIONS_DIR to a folder and run {build} once"
    return None
