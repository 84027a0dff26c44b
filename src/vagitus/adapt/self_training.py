"""Self-training with a second view: what one model is sure of at the target teaches another that hears otherwise.

The first view scores the unlabelled target. Of the recordings nearest to either end of its ranking the same number
each are taken at their word, and a model of the **second view** (other features of the same recordings) is fitted
on them; the two scores are averaged, as ranks. What the second view gains it may gain by the mere act of
distilling: the control distils the sources in the same way, from the first view's out-of-fold scores of source
recordings, and never sees the target.

Source: Blum & Mitchell 1998, "Combining labeled and unlabeled data with co-training", COLT; Lee 2013 for pseudo-labels.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vagitus.statistics import midranks

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
# (n, d) features, (n,) labels, (m, d) features to score -> (m,) scores, higher more positive
FitAndScore = Callable[[Floats, Ints, Floats], Floats]

LEAST_KEPT = 3  # recordings of either pseudo-class


class SelfTrained(NamedTuple):
    """Scores of the target, and which recordings were taken at their word.

    Attributes:
        scores: (n_target,) mean of both views' shares of rank.
        taught: (n_target,) the second view's alone, as shares of rank.
        kept: indices of the pseudo-labelled recordings.
        pseudo: (n_kept,) their pseudo-labels.
    """

    scores: Floats
    taught: Floats
    kept: Ints
    pseudo: Ints


def self_train(
    first: ArrayLike,
    second_view: ArrayLike,
    fit_and_score: FitAndScore,
    *,
    kept_share: float,
    rounds: int = 1,
) -> SelfTrained:
    """Teach the second view by what the first is sure of.

    Args:
        first: (n_target,) scores by the first view, higher more positive.
        second_view: (n_target, d) features of the same recordings.
        fit_and_score: fits the second view's model.
        kept_share: of the target that becomes pseudo-labelled, half of it from either end; in (0, 1].
        rounds: from the second on, the averaged scores choose.

    Raises:
        ValueError: a share or number of rounds out of range, scores that are not finite, or a target too small for
            ``LEAST_KEPT`` recordings at either end.
    """
    scores, x = np.asarray(first, dtype=np.float64), np.asarray(second_view, dtype=np.float64)
    if rounds < 1:
        raise ValueError(f"rounds must be 1 or more, got {rounds}")
    if scores.shape != (len(x),) or not np.isfinite(scores).all():
        raise ValueError(f"scores must be ({len(x)},) and finite, one for each row of the second view")
    original = shares = rank_shares(scores)
    taught, kept, pseudo = shares, np.empty(0, np.int64), np.empty(0, np.int64)
    for _ in range(rounds):
        kept, pseudo = surest(shares, kept_share)
        taught = rank_shares(fit_and_score(x[kept], pseudo, x))
        shares = (original + taught) / 2
    return SelfTrained(shares, taught, kept, pseudo)


def distil_sources(
    source_first: ArrayLike,
    source_second: ArrayLike,
    target_first: ArrayLike,
    target_second: ArrayLike,
    fit_and_score: FitAndScore,
    *,
    kept_share: float,
) -> Floats:
    """The control: the same distillation fitted on the sources, then applied to the target as ``self_train`` does.

    Args:
        source_first: (n_source,) scores of source recordings by first-view models that never saw them.
        source_second: (n_source, d).
        target_first: (n_target,).
        target_second: (n_target, d).

    Raises:
        ValueError: as ``self_train``.
    """
    first = rank_shares(np.asarray(source_first, dtype=np.float64))
    kept, pseudo = surest(first, kept_share)
    taught = fit_and_score(
        np.asarray(source_second, dtype=np.float64)[kept], pseudo, np.asarray(target_second, dtype=np.float64)
    )
    return (rank_shares(np.asarray(target_first, dtype=np.float64)) + rank_shares(taught)) / 2


def surest(shares: Floats, kept_share: float) -> tuple[Ints, Ints]:
    """Indices from both ends of a ranking, the same number of each, and their pseudo-labels 0 and 1."""
    if not 0 < kept_share <= 1:
        raise ValueError(f"kept_share must lie in (0, 1], got {kept_share!r}")
    n_each = int(kept_share * len(shares) / 2)
    if n_each < LEAST_KEPT:
        if len(shares) < 2 * LEAST_KEPT:
            raise ValueError(
                f"a target of {len(shares)} recordings is too small for self-training, which needs {2 * LEAST_KEPT}"
            )
        n_each = LEAST_KEPT
    order = np.argsort(shares, kind="stable")
    kept = np.concatenate([order[:n_each], order[-n_each:]])
    return kept, np.repeat([0, 1], n_each)


def surest_of_each_class(probabilities: Floats, n_each: int) -> tuple[Ints, Ints]:
    """Indices of the n_each likeliest recordings of every class, class by class, and their pseudo-labels.

    Each is taken for one class alone, the one it is likelier of: where there are three, a recording may be among
    the likeliest of two.

    Args:
        probabilities: (n, n_classes).
        n_each: fewer where the recordings run out.
    """
    n, n_classes = probabilities.shape
    chosen: list[list[int]] = [[] for _ in range(n_classes)]
    is_taken = np.zeros(n, dtype=bool)
    for place in np.argsort(-probabilities, axis=None, kind="stable").tolist():
        i, k = divmod(place, n_classes)
        if not is_taken[i] and len(chosen[k]) < n_each:
            chosen[k].append(i)
            is_taken[i] = True
    pseudo = np.repeat(np.arange(n_classes), [len(rows) for rows in chosen])
    return np.array([i for rows in chosen for i in rows], dtype=np.int64), pseudo


def rank_shares(scores: Floats) -> Floats:
    """Ranks scaled to lie between 0 and 1, so that scores of unlike models can be averaged."""
    return (midranks(scores) - 0.5) / len(scores)
