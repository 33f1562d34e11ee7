"""Entry of the console script `dadapt-dist`.

It stands outside the package so that dadapt_dist, which finds it in sys.modules, leaves torch to the commands that need it:
`dadapt-dist --help` answers at once. Scripts have no use for it; `python -m dadapt_dist` runs the same commands.
"""

__all__ = ["main"]


def main() -> None:
    """Run the command line."""
    from dadapt_dist.__main__ import main as run

    run()
