"""Learning rates as a command line gives them: a list, or a range of equal ratios."""

import math
import re

MOST = 100


def parse_rates(text: str, flag: str) -> list[float]:
    """Learning rates of "1e-3,2e-3", or of "1e-4..1x9": nine from 1e-4 to 1, each the same multiple of the one before.

    Rates of a range are rounded to four digits. Raises ValueError, which begins with the flag, for anything else.
    """
    bounds = re.fullmatch(r"(.+?)\.\.(.+?)[x×](\d+)", text.strip())
    try:
        found = sorted({float(rate) for rate in (bounds.groups()[:2] if bounds else text.split(","))})
    except ValueError as error:
        raise ValueError(
            f"{flag} {text} must be numbers separated by commas, for instance 1e-3,2e-3, or a range LOWEST..HIGHESTxCOUNT, for "
            "instance 1e-4..1x9"
        ) from error
    if not all(0 < rate < math.inf for rate in found):
        raise ValueError(f"{flag} {text} must be positive")
    if bounds is None:
        return found
    count = int(bounds[3])
    if len(found) < 2 or float(bounds[1]) > float(bounds[2]) or not 2 <= count <= MOST:
        raise ValueError(f"{flag} {text} must rise, and have from 2 to {MOST} rates, for instance 1e-4..1x9")
    low, high = found
    return [float(f"{low * (high / low) ** (i / (count - 1)):.4g}") for i in range(count)]
