"""Convert and load universal checkpoints of DeepSpeed: `python -m dadapt_dist.universal IN OUT`, and `load` in a script."""

import sys

from .integrations.deepspeed.universal_load import convert, load

__all__ = ["convert", "load"]


def main() -> None:
    """Run `dadapt-dist universal` with the arguments of this process."""
    from .tools.cli import app

    app(["universal", *sys.argv[1:]], prog_name="dadapt-dist")


if __name__ == "__main__":
    main()
