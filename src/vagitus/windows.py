"""Windows over a recording's features: where they start, and how a short recording fills one.

Conventions
    features   (n_rows, n_frames) float32 of one recording
    window     (n_rows, window_frames); a recording shorter than a window is repeated until
               it fills it, because silence or zeros would be a cue of its own
"""

import numpy as np
from numpy.typing import NDArray


def window_starts(n_frames: int, window_frames: int, hop_frames: int) -> NDArray[np.int64]:
    """First frames of the windows that cover a recording; the last one ends on its last frame.

    Raises:
        ValueError: a length is not positive.
    """
    if min(n_frames, window_frames, hop_frames) < 1:
        raise ValueError(
            f"n_frames, window_frames and hop_frames must be >= 1, got {n_frames}, {window_frames}, {hop_frames}"
        )
    last = max(n_frames - window_frames, 0)
    starts = np.arange(0, last + 1, hop_frames)
    return starts if starts[-1] == last else np.append(starts, last)


def cut_window(features: NDArray[np.float32], start: int, window_frames: int) -> NDArray[np.float32]:
    """(n_rows, n_frames) -> (n_rows, window_frames), a view where the recording is long enough."""
    n_frames = features.shape[1]
    if n_frames >= window_frames:
        return features[:, start : start + window_frames]
    return np.take(features, np.arange(start, start + window_frames), axis=1, mode="wrap")


def loudest_stretch(
    features: NDArray[np.float32], level: NDArray[np.float32], window_frames: int, margin_frames: int
) -> NDArray[np.float32]:
    """The window with the most sound in it and what stands around it: (n_rows, at most window + 2 margins), a view.

    Args:
        features: (n_rows, n_frames).
        level: (n_frames,) that rises with the sound's level, whatever its zero.
    """
    n_frames = features.shape[1]
    if n_frames <= window_frames:
        return features
    summed = np.concatenate([[0.0], np.cumsum(level, dtype=np.float64)])
    first = int(np.argmax(summed[window_frames:] - summed[:-window_frames]))
    return features[:, max(first - margin_frames, 0) : first + window_frames + margin_frames]
