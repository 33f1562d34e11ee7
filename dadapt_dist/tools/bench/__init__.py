"""Measure a step against other optimizers and the limits of memory and network: `dadapt-dist bench`."""
