"""Command line of `python -m dadapt_dist` and of the console script `dadapt-dist`."""

import importlib.util
import sys
from typing import NoReturn

NEEDS = ("typer", "rich")
CURE = "pip install 'dadapt-dist[cli]'"
PLAIN_HELP = f"""usage: dadapt-dist [-h] [--version] COMMAND ...

Learning-rate-free optimizers for sharded training. The commands need {" and ".join(NEEDS)}:
  {CURE}

Without them there is:
  run  a script with the optimizers known to DeepSpeed, or to programs that import others: dadapt-dist run train.py
"""


def main() -> None:
    """Run a command of tools/cli.py; `run` without it: it needs no typer, and nothing may stand between it and the script."""
    if sys.argv[1:2] == ["run"]:
        from .integrations import run_script

        run_script.main(sys.argv[2:])
    missing = [name for name in NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        _without(missing)
    try:
        from .tools.cli import app
    except KeyboardInterrupt:
        sys.exit(130)

    app(prog_name="dadapt-dist")


def _without(missing: list[str]) -> NoReturn:
    """Answer what needs no package, and say how to get the rest."""
    if sys.argv[1:2] == ["--version"]:
        from . import __version__

        sys.stdout.write(f"{__version__}\n")
        sys.exit(0)
    if sys.argv[1:2] in (["-h"], ["--help"]):
        sys.stdout.write(PLAIN_HELP)
        sys.exit(0)
    sys.stderr.write(f"error: the command line needs {' and '.join(missing)}: {CURE}\n")
    sys.exit(2)


if __name__ == "__main__":
    main()
