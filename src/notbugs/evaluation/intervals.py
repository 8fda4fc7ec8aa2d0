"""Confidence intervals of shares."""

import math

Z_95 = 1.959963984540054
"""Normal quantile of two-sided 95% intervals."""


def wilson_interval(successes: float, n: int, *, z: float = Z_95) -> tuple[float, float]:
    """Score interval of a share.

    (p + z²/2n ± z·sqrt(p(1−p)/n + z²/4n²)) / (1 + z²/n),  p = successes/n

    Args:
        successes: 0 <= successes <= n; may be fractional, for a mean over seeds.
        n: number of trials, >= 1.
        z: normal quantile; the default gives 95%.
    Raises: ValueError if the counts are impossible.
    Source: Wilson 1927.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"need 0 <= successes <= n and n >= 1, not {successes} of {n}")
    share = successes / n
    centre = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    low, high = max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)
    # Exactly there centre and half are the same number, which rounding makes two.
    return 0.0 if successes == 0 else low, 1.0 if successes == n else high
