"""Options of the optimizers: plain values and their ranges."""
