"""Rates of independent trials, with Wilson's 95 % interval."""

from __future__ import annotations

import math
from typing import Any

Z95 = 1.959963984540054  # quantile 0.975 of the normal distribution


def wilson(successes: int, n: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of a rate (Wilson 1927). Raises ValueError for no trials."""
    if not 0 <= successes <= n or not n:
        raise ValueError(f"{successes} of {n}")
    p, z2 = successes / n, Z95**2
    middle = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    low, high = max(0.0, middle - half), min(1.0, middle + half)
    return (0.0 if not successes else low), (1.0 if successes == n else high)  # exact there, but for rounding


def rate(successes: int, n: int) -> dict[str, Any]:
    """`n`, `count`, `value` and `ci95`. Raises ValueError for no trials."""
    low, high = wilson(successes, n)
    return {"n": n, "count": successes, "value": round(successes / n, 6), "ci95": [round(low, 6), round(high, 6)]}
