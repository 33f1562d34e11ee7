"""Draw numbers as one line of text."""

import math
from collections.abc import Sequence

BLOCKS, ASCII = "▁▂▃▄▅▆▇█", "_.-=+*#@"


def sparkline(values: Sequence[float], width: int, *, logarithmic: bool = False, blocks: str = BLOCKS) -> str:
    """Numbers at equal distances as a line of at most `width` marks, the lowest to the highest; a space for one not finite.

    Args:
        values: The numbers; where there are more than `width`, each mark is the mean of its share.
        width: Letters at most, at least 1.
        logarithmic: Show the logarithm; numbers that are not above 0 have none.
        blocks: The marks, from low to high.

    Example:
        >>> sparkline([1.0, 2.0, 3.0, 8.0], 4)
        '▁▂▃█'
    """
    means = [_mean(share, logarithmic) for share in _shares(values, width)]
    known = [value for value in means if math.isfinite(value)]
    low, high = min(known, default=0.0), max(known, default=0.0)
    return "".join(_mark(value, low, high, blocks) for value in means)


def _mark(value: float, low: float, high: float, blocks: str) -> str:
    if not math.isfinite(value):
        return " "
    scale = 0.5 if math.isinf(high - low) else 1.0
    part = (value * scale - low * scale) / (high * scale - low * scale) if high > low else 0.0
    return blocks[min(int(part * len(blocks)), len(blocks) - 1)]


def _mean(share: Sequence[float], logarithmic: bool) -> float:
    if logarithmic:
        share = [math.log(value) if value > 0 else math.nan for value in share]
    known = [value for value in share if math.isfinite(value)]
    return sum(value / len(known) for value in known) if known else math.nan


def _shares(values: Sequence[float], width: int) -> list[Sequence[float]]:
    n = len(values)
    parts = min(n, width)
    return [values[i * n // parts : (i + 1) * n // parts] for i in range(parts)]
