"""What do `dadapt-dist` and `python -m dadapt_dist` run? The command line."""

import sys

from . import run


def main() -> None:
    """Run a command of cli.py; but `run` without it: it needs no typer, and nothing may stand between it and the script."""
    if sys.argv[1:2] == ["run"]:
        run.main(sys.argv[2:])
    from .cli import app

    app(prog_name="dadapt-dist")


if __name__ == "__main__":
    main()
