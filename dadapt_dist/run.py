"""`python -m dadapt_dist.run train.py ARGUMENTS`: run a script with the optimizers known to DeepSpeed by name."""

from .integrations.run_script import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
