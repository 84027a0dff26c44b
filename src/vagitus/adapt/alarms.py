"""When adaptation without labels cannot be trusted: said from what is known without the target's labels.

An alarm does not say that the adapted model is wrong; it says that nothing here could tell.

Conventions
    shares      (n_classes,) of the classes, summing to 1
    before, after  (n_target, n_classes) probabilities of the target by the sources' model and the adapted one
    opposed     {site: AUROC} of the sources that a model of the other sources ranks surely worse than chance
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vagitus.cycles import LEAST_PER_CLASS, within_site_ranks
from vagitus.metrics import auroc

Floats = NDArray[np.float64]

# Beyond, methods that align distributions move positives onto negatives: half the mismatch of class shares must be
# errors (Zhao et al. 2019, "On learning invariant representations for domain adaptation", arXiv:1901.09453).
LARGEST_SHIFT = 0.25  # total variation between class shares
ONE_CLASS = 0.02  # estimated share of all other classes together, below which they may be absent
COLLAPSED = 0.98  # of the predictions in one class
MANY_CHANGED = 0.3  # of the predictions that adaptation turned over
LEAST_FALL = (
    0.01  # of the neighbourhood density: near its bound, ln(n - 1), it moves in the fourth digit by chance
)
N_STEPS = 200
# A model that hardly tells the classes apart fits any shares nearly as well, and its estimate says nothing: the
# estimated ones must be likelier than the sources' by more than 5 % of samples with the sources' shares would reach.
SURE = 0.95
LEAST_OPPOSED = 2.0  # standard deviations below 1/2, of an AUROC that means nothing
PENALTY = 100.0  # of the ridge that a source is ranked with


class Alarm(NamedTuple):
    """One reason not to trust; ``kind`` is for programs, ``text`` for people."""

    kind: str
    text: str


def estimated_shares(probabilities: ArrayLike, source_shares: ArrayLike) -> Floats:
    """Class shares at the target by expectation maximisation; right if only the shares differ.

        p_k <- mean_i q_ik,  q_ik proportional to P_s(k | x_i) p_k / s_k

    Args:
        probabilities: (n, n_classes) calibrated on the sources.
        source_shares: (n_classes,) s, of the recordings that they were calibrated on.

    Raises:
        ValueError: no recording, or shares that are no shares. A class without any at the sources keeps 0.

    Source: Saerens et al. 2002, "Adjusting the outputs of a classifier to new a priori probabilities", Neural
    Computation 14.
    """
    p, s = np.asarray(probabilities, dtype=np.float64), np.asarray(source_shares, dtype=np.float64)
    if p.ndim != 2 or len(p) == 0 or s.shape != p.shape[1:]:
        raise ValueError(
            f"got probabilities {p.shape} and shares {s.shape}; need (n, n_classes) and (n_classes,)"
        )
    if s.min() < 0 or s.sum() <= 0:
        raise ValueError(f"shares at the sources must be 0 or above and not all 0, got {s}")
    shares = s / s.sum()
    for _ in range(N_STEPS):
        q = p * _odds(shares, s)
        q /= np.maximum(q.sum(axis=1, keepdims=True), 1e-300)
        shares = q.mean(axis=0)
    return np.asarray(shares)


def _odds(shares: Floats, source_shares: Floats) -> Floats:
    """How much likelier each class is made; 0 for one that the sources do not hold."""
    return np.divide(shares, source_shares, out=np.zeros_like(shares), where=source_shares > 0)


def opposed_sources(x: ArrayLike, labels: ArrayLike, sites: ArrayLike) -> dict[str, float]:
    """AUROC of the sources that a model of the other sources ranks worse than chance explains.

    A ridge on within-site ranks of plain features, so that neither level nor scale of a site plays a part: what is
    left is what the label sounds like.

    Args:
        x: (n, n_features) of labelled recordings of the sources.
        labels: (n,) 0 or 1.
        sites: (n,).

    Returns:
        Nothing for one source, and for those with fewer than ``LEAST_PER_CLASS`` recordings of either class.
    """
    from sklearn.linear_model import Ridge

    ranks, y, names = within_site_ranks(x, sites), np.asarray(labels), np.asarray(sites).astype(np.str_)
    found = {}
    for site in np.unique(names).tolist():
        own = names == site
        n_positive, n_negative = int(y[own].sum()), int((1 - y[own]).sum())
        if min(n_positive, n_negative) < LEAST_PER_CLASS or len(np.unique(y[~own])) < 2:
            continue
        model = Ridge(alpha=PENALTY).fit(ranks[~own] - 0.5, y[~own])
        value = auroc(y[own], model.predict(ranks[own] - 0.5))
        deviation = np.sqrt((len(y[own]) + 1) / (12 * n_positive * n_negative))
        if (value - 0.5) / deviation < -LEAST_OPPOSED:
            found[site] = value
    return found


def alarms(
    before: ArrayLike,
    after: ArrayLike,
    source_shares: ArrayLike,
    *,
    opposed: Mapping[str, float] | None = None,
    density: tuple[float, float] | None = None,
) -> list[Alarm]:
    """Everything that speaks against an adaptation.

    Args:
        before, after: see the module; calibrated as far as the sources allow.
        source_shares: (n_classes,) of the recordings that the probabilities are calibrated on, or their mean over
            the sources where that is not known.
        opposed: what ``opposed_sources`` gave.
        density: soft neighbourhood density before and after.

    Raises:
        ValueError: before and after differ in shape.
    """
    from scipy.stats import chi2

    p, q = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    s = np.asarray(source_shares, dtype=np.float64)
    if p.shape != q.shape:
        raise ValueError(f"before {p.shape} and after {q.shape} are not of the same recordings")
    found = []
    # The adapted model hears the target better: of the sources' every shift would look like one of shares.
    shares = estimated_shares(q, s)
    distance = float(np.abs(shares - s / s.sum()).sum()) / 2
    listed = ", ".join(f"{share:.2f}" for share in shares)
    # Wilks: twice the log likelihood ratio is chi squared with as many degrees of freedom as there are free shares.
    likelihoods = np.maximum((q * _odds(shares, s / s.sum())).sum(axis=1), 1e-300)
    is_sure = 2 * float(np.log(likelihoods).sum()) > chi2.ppf(SURE, max(1, np.count_nonzero(s) - 1))
    if is_sure and shares.max() > 1 - ONE_CLASS:
        found.append(
            Alarm(
                "one_class",
                f"the target may hold one class alone (estimated shares {listed}): no AUROC exists there, and methods "
                "that look for two classes will find two in one",
            )
        )
    elif is_sure and distance > LARGEST_SHIFT:
        found.append(
            Alarm(
                "label_shift",
                f"class shares at the target (estimated {listed}) differ from the sources' by {distance:.2f}: aligning "
                "the domains must then mix classes; trust rankings, not thresholds, and prefer mcc or adabn",
            )
        )
    called = np.bincount(q.argmax(axis=1), minlength=q.shape[1]) / len(q)
    if called.max() > COLLAPSED:
        found.append(
            Alarm(
                "collapse",
                f"the adapted model calls {called.max():.0%} of the target one class: it has collapsed, or the target "
                "holds one; add a diversity term (infomax) or use the sources' model",
            )
        )
    changed = float((p.argmax(axis=1) != q.argmax(axis=1)).mean())
    if changed > MANY_CHANGED:
        found.append(
            Alarm(
                "negative_transfer",
                f"adaptation turned {changed:.0%} of the target's predictions over: one of the two models is far off, "
                "and nothing without labels says which; listen to some of them",
            )
        )
    elif density is not None and density[1] < density[0] * (1 - LEAST_FALL):
        found.append(
            Alarm(
                "negative_transfer",
                f"predictions at the target cluster less than before (neighbourhood density {density[0]:.3f}, "
                f"now {density[1]:.3f}), which goes with adaptation that hurts",
            )
        )
    if opposed:
        found.append(disagreement(opposed))
    return found


def disagreement(opposed: Mapping[str, float]) -> Alarm:
    """The alarm for sources that ``opposed_sources`` names."""
    named = ", ".join(f"{site} {value:.2f}" for site, value in sorted(opposed.items()))
    return Alarm(
        "sources_disagree",
        f"a plain model of the other sources ranks these worse than chance (AUROC: {named}): the sources disagree "
        "on what the label sounds like, and no method can know which the target follows",
    )
