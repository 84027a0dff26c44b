"""A few labelled subjects of the target: which, and how they join the sources.

They become one more source, so that every objective, balanced sampling and control stays as it is. Their
recordings are repeated until they make ``TARGET_SHARE`` of what an epoch draws, or a handful would be lost among
hundreds. Everything is then measured on the other subjects of the target.

This is the third regime: it states how many labels it used, and belongs in no table beside methods that used none.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Ints = NDArray[np.int64]

TARGET_SHARE = 0.25
COUNTS = (1, 2, 5, 10)  # subjects whose labels are asked for


class FewLabels(NamedTuple):
    """A target, divided by subject."""

    labelled: Ints  # indices of the recordings whose labels may be read
    rest: Ints  # those to measure on
    subjects: tuple[str, ...]


def choose_subjects(labels: ArrayLike, subjects: ArrayLike, k: int, *, seed: int = 0) -> FewLabels:
    """Draw k labelled subjects of the target, one class after the other as far as they go.

    To deal the classes in turn the labels of the subjects drawn must be known, as in a clinic that asks for "one
    case and one control"; nobody else's are used. The draws nest: those of k are among those of k + 1.

    Args:
        labels: (n,) class indices of the target's recordings.
        subjects: (n,).
        k: >= 1.

    Raises:
        ValueError: fewer than k + 1 subjects, so that nobody would be left to measure on, or k < 1.
    """
    y, who = np.asarray(labels), np.asarray(subjects).astype(np.str_)
    names = np.unique(who)
    if k < 1:
        raise ValueError(f"k must be 1 subject or more, got {k}")
    if len(names) <= k:
        raise ValueError(f"{k} labelled subjects of {len(names)} leave nobody to measure on; ask for fewer")
    rng = np.random.default_rng(seed)
    waiting = [
        rng.permutation(np.unique(who[y == label])).tolist() for label in rng.permutation(np.unique(y))
    ]
    chosen: list[str] = []
    while len(chosen) < k:
        for queue in waiting:
            while queue and queue[0] in chosen:
                queue.pop(0)
            if queue and len(chosen) < k:
                chosen.append(queue.pop(0))
    is_labelled = np.isin(who, chosen)
    return FewLabels(np.flatnonzero(is_labelled), np.flatnonzero(~is_labelled), tuple(chosen))


def repeat_labelled(n_sources: int, labelled: ArrayLike, *, share: float = TARGET_SHARE) -> Ints:
    """Indices of the labelled target recordings, repeated to make ``share`` of sources and target together.

    Args:
        n_sources: recordings of all sources.
        labelled: indices of the target's labelled recordings.
        share: in (0, 1).
    """
    index = np.asarray(labelled, dtype=np.int64)
    if not 0 < share < 1:
        raise ValueError(f"share must lie in (0, 1), got {share!r}")
    wanted = max(len(index), round(n_sources * share / (1 - share)))
    return np.resize(index, wanted)
