"""Active units (Burda, Grosse and Salakhutdinov 2016, section 5.2)."""

import numpy as np
from numpy.typing import NDArray

THRESHOLD = 0.01


def active_units(mean: NDArray[np.floating], threshold: float = THRESHOLD) -> int:
    """Latent dimensions whose posterior mean varies over sentences by more than the threshold.

    Args:
        mean: posterior means, [N, D]; with one sentence nothing varies.
        threshold: a variance, unbiased.
    """
    if len(mean) < 2:
        return 0
    return int((np.var(np.asarray(mean, dtype=np.float64), axis=0, ddof=1) > threshold).sum())
