"""What do `dadapt-dist` and `python -m dadapt_dist` run? The command line."""

import sys

from .integrations.deepspeed import run_script


def main() -> None:
    """Run a command of cli.py; but `run` without it: it needs no typer, and nothing may stand between it and the script."""
    if sys.argv[1:2] == ["run"]:
        run_script.main(sys.argv[2:])
    from .tools.cli import app

    app(prog_name="dadapt-dist")


if __name__ == "__main__":
    main()
