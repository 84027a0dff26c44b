"""What may change in a sound without changing its label.

Conventions
    x     (batch, n_rows, n_frames) float32 features, changed in place
    rng   numpy's Generator: the same generator state gives the same change
"""

import numpy as np
from numpy.typing import NDArray


def mask_bands_and_frames(x: NDArray[np.float32], share: float, rng: np.random.Generator) -> None:
    """Hide one run of rows and one run of frames in every example, in place (SpecAugment).

    Each run's length is uniform between nothing and ``share`` of the axis; what is hidden
    takes the example's mean, so that the mask itself has no level.

    Args:
        x: (batch, n_rows, n_frames).
        share: in [0, 1).

    Raises:
        ValueError: ``share`` lies outside [0, 1).

    Source: Park et al. 2019, arXiv:1904.08779, without time warping.
    """
    if not 0 <= share < 1:
        raise ValueError(f"share must lie in [0, 1), got {share!r}")
    for example in x:
        mean = example.mean()
        for axis, size in enumerate(example.shape):
            length = int(rng.integers(int(share * size) + 1))
            start = int(rng.integers(size - length + 1))
            example[(slice(None),) * axis + (slice(start, start + length),)] = mean
