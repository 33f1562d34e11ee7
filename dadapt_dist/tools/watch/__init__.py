"""Command `dadapt-dist watch`: the state of runs in a terminal, while they train."""
