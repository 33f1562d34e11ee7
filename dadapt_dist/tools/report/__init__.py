"""Command `dadapt-dist report`: one page on a run, and on others beside it, that needs no network."""
