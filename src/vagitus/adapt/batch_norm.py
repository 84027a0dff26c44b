"""AdaBN: the target's own statistics in every batch norm. No loss, no label, no training step: a function.

Source: Li et al. 2016, "Revisiting batch normalization for practical domain adaptation", arXiv:1603.04779.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from vagitus.training import EVALUATION_BATCH
from vagitus.transfer import estimate_norms
from vagitus.windows import cut_window, window_starts

# Statistics of fewer windows are those of these recordings and not of the site.
LEAST_WINDOWS = 8


def adapt_batch_norm(model: nn.Module, features: Iterable[NDArray[np.float32]], *, window_frames: int) -> int:
    """Replace every batch norm's statistics by those of a domain's recordings, in place.

    Every recording counts alike, by one window from its middle. All go through in one pass where they fit, else in
    batches of nearly one size, whose statistics are averaged.

    Args:
        model: weights stay as they are.
        features: one (n_rows, n_frames) array per recording.
        window_frames: what the network sees at once.

    Returns:
        Recordings used.

    Raises:
        ValueError: no batch norm in the model; fewer than ``LEAST_WINDOWS`` recordings.
    """
    windows = middle_windows(features, window_frames)
    check_domain(model, len(windows))
    device = next(model.parameters()).device
    n_batches = -(-len(windows) // (8 * EVALUATION_BATCH))
    estimate_norms(model, (torch.from_numpy(part).to(device) for part in in_batches(windows, n_batches)))
    return len(windows)


def has_batch_norm(model: nn.Module) -> bool:
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


def check_domain(model: nn.Module, n_recordings: int) -> None:
    """What ``adapt_batch_norm`` refuses, to be said before the work.

    Raises:
        ValueError: as ``adapt_batch_norm``.
    """
    if not has_batch_norm(model):
        raise ValueError(f"{type(model).__name__} has no batch norm to adapt; take another method")
    if n_recordings < LEAST_WINDOWS:
        raise ValueError(
            f"{n_recordings} recordings of the domain are too few for batch norm; give {LEAST_WINDOWS} or more, or "
            "take a method without it"
        )


def middle_windows(features: Iterable[NDArray[np.float32]], window_frames: int) -> list[NDArray[np.float32]]:
    """The window (n_rows, window_frames) in the middle of every recording."""
    windows = []
    for x in features:
        starts = window_starts(x.shape[1], window_frames, max(window_frames // 2, 1))
        windows.append(cut_window(x, int(starts[len(starts) // 2]), window_frames))
    return windows


def in_batches(windows: list[NDArray[np.float32]], n: int) -> Iterator[NDArray[np.float32]]:
    """All windows in n batches of nearly one size."""
    # Every n-th, so that recordings that lie together in a corpus do not make a batch of their own.
    return (np.stack(windows[i::n]) for i in range(n))
