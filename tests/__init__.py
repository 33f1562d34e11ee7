"""Where do helpers shared by tests live? Here: `tests` is a package, so test modules write `from .pool import ...`."""
