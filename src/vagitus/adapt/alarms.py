"""When adaptation without labels cannot be trusted: said from what is known without the target's labels.

An alarm does not say that the adapted model is wrong; it says that nothing here could tell.

Conventions
    shares      (n_classes,) of the classes, summing to 1
    before, after  (n_target, n_classes) probabilities of the target by the sources' model and the adapted one
    site_scores {site: value} of a model trained on the other sources, AUROC, of each source in turn
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

# Beyond, methods that align distributions move positives onto negatives: half the mismatch of class shares must be
# errors (Zhao et al. 2019, "On learning invariant representations for domain adaptation", arXiv:1901.09453).
LARGEST_SHIFT = 0.25  # total variation between class shares
ONE_CLASS = 0.02  # estimated share, below which a class may be absent
COLLAPSED = 0.98  # of the predictions in one class
MANY_CHANGED = 0.3  # of the predictions that adaptation turned over
CHANCE = 0.5
N_STEPS = 200


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
        ValueError: no recording, or shares that are not positive.

    Source: Saerens et al. 2002, "Adjusting the outputs of a classifier to new a priori probabilities", Neural
    Computation 14.
    """
    p, s = np.asarray(probabilities, dtype=np.float64), np.asarray(source_shares, dtype=np.float64)
    if p.ndim != 2 or len(p) == 0 or s.shape != p.shape[1:]:
        raise ValueError(
            f"got probabilities {p.shape} and shares {s.shape}; need (n, n_classes) and (n_classes,)"
        )
    if s.min() <= 0:
        raise ValueError(f"every class needs a share above 0 at the sources, got {s}")
    shares = s / s.sum()
    for _ in range(N_STEPS):
        q = p * (shares / s)
        q /= np.maximum(q.sum(axis=1, keepdims=True), 1e-300)
        shares = q.mean(axis=0)
    return np.asarray(shares)


def alarms(
    before: ArrayLike,
    after: ArrayLike,
    source_shares: ArrayLike,
    *,
    site_scores: Mapping[str, float] | None = None,
    density: tuple[float, float] | None = None,
) -> list[Alarm]:
    """Everything that speaks against an adaptation.

    Args:
        before, after: see the module; calibrated as far as the sources allow.
        source_shares: (n_classes,) of the sources' recordings.
        site_scores: see the module.
        density: soft neighbourhood density before and after.

    Raises:
        ValueError: before and after differ in shape.
    """
    p, q = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    s = np.asarray(source_shares, dtype=np.float64)
    if p.shape != q.shape:
        raise ValueError(f"before {p.shape} and after {q.shape} are not of the same recordings")
    found = []
    # The adapted model hears the target better: of the sources' every shift would look like one of shares.
    shares = estimated_shares(q, s)
    distance = float(np.abs(shares - s / s.sum()).sum()) / 2
    listed = ", ".join(f"{share:.2f}" for share in shares)
    if shares.min() < ONE_CLASS:
        found.append(
            Alarm(
                "one_class",
                f"the target may hold one class alone (estimated shares {listed}): no AUROC exists there, and methods "
                "that look for two classes will find two in one",
            )
        )
    elif distance > LARGEST_SHIFT:
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
    elif density is not None and density[1] < density[0]:
        found.append(
            Alarm(
                "negative_transfer",
                f"predictions at the target cluster less than before (neighbourhood density {density[0]:.3f}, "
                f"now {density[1]:.3f}), which goes with adaptation that hurts",
            )
        )
    wrong = {site: value for site, value in (site_scores or {}).items() if value < CHANCE}
    if wrong:
        named = ", ".join(f"{site} {value:.2f}" for site, value in sorted(wrong.items()))
        found.append(
            Alarm(
                "sources_disagree",
                f"models of the other sources rank these worse than chance (AUROC: {named}): the sources disagree "
                "on what the label sounds like, and no method can know which the target follows",
            )
        )
    return found
