"""How does a step run over real tensors? Today: the plain loop, for any device and dtype."""

from .eager import Work, advance, numbers, rehearse

__all__ = ["Work", "advance", "numbers", "rehearse"]
