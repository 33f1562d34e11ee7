"""Registrations of methods that end with a test."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from dadapt_dist import optimizers
from dadapt_dist.methods import METHODS
from dadapt_dist.methods.registry import class_name


@contextmanager
def registrations_undone() -> Iterator[None]:
    """Take away, at the end, every method that was registered within."""
    before = dict(METHODS)
    try:
        yield
    finally:
        for name in METHODS.keys() - before.keys():
            public = class_name(METHODS.pop(name))
            vars(optimizers).pop(public, None)
            if hasattr(torch.optim, public):
                delattr(torch.optim, public)
