"""What does `python -m dadapt_dist` run? The command line."""

from .cli import app

if __name__ == "__main__":
    app(prog_name="dadapt-dist")
