"""Compare random configurations on real ranks with the one-process oracle: `python -m tests.fuzz --help`, `make fuzz`."""
