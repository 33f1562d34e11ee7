"""Command line of `python -m dadapt_dist` and of the console script `dadapt-dist`."""

import sys


def main() -> None:
    """Run a command of tools/cli.py; `run` without it: it needs no typer, and nothing may stand between it and the script."""
    if sys.argv[1:2] == ["run"]:
        from .integrations import run_script

        run_script.main(sys.argv[2:])
    from .tools.cli import app

    app(prog_name="dadapt-dist")


if __name__ == "__main__":
    main()
