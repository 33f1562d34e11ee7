"""The package dadapt_dist.integrations, for type checkers."""
