"""Compare untuned optimizers with tuned ones on one task, and count the runs that each takes."""
