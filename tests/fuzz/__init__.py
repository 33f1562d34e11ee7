"""Do random configurations on real ranks follow the one-process oracle? `python -m tests.fuzz --help`, `make fuzz`."""
