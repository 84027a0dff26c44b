"""Which of several models to take to the target, chosen on the sources and the target without its labels.

Every rule gives a number, **higher is better**, for each candidate; ``choose`` takes the best. None is right
always: a table that uses one shows beside it what the ``oracle`` would have taken, the rule that reads the target's
labels and is there to bound the others, never to choose.

Conventions
    dev         recordings of the sources that no candidate was trained on
    features    (n, feature_dim) what a candidate's network says before its head
    losses      (n_dev,) of each dev recording
    probabilities  (n, n_classes)
"""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

TEMPERATURE = 0.05  # of the neighbourhoods, the paper's
LARGEST_WEIGHT = 20.0  # of one dev recording: beyond, it would choose the model alone
PENALTY = 1e-2  # of the discriminator that gives the weights, for standardised features


@dataclass(frozen=True)
class Candidate:
    """One model as the rules see it.

    Attributes:
        dev_features, dev_losses: of the sources' dev part.
        target_features, target_probabilities: of the target, unlabelled.
        source_loso: mean score of the same method when each source in turn plays the target (nested); NaN unknown.
        target_score: by the target's labels, for ``oracle`` alone; NaN unknown.
    """

    dev_features: Floats
    dev_losses: Floats
    target_features: Floats
    target_probabilities: Floats
    source_loso: float = float("nan")
    target_score: float = float("nan")


def importance_weights(source: ArrayLike, target: ArrayLike) -> Floats:
    """How much likelier each source recording would be at the target: density ratio by a discriminator.

        w_i = n_s / n_t  P(target | f_i) / P(source | f_i), at most ``LARGEST_WEIGHT``, divided by its mean

    Args:
        source: (n_s, d) features.
        target: (n_t, d).

    Returns:
        (n_s,) of mean 1.

    Raises:
        ValueError: not 2-D, of different d, or fewer than two recordings of a domain.

    Source: Bickel et al. 2007, "Discriminative learning for differing training and test distributions", ICML.
    """
    from sklearn.linear_model import LogisticRegression

    x_s, x_t = (np.asarray(x, dtype=np.float64) for x in (source, target))
    if x_s.ndim != 2 or x_t.ndim != 2 or x_s.shape[1] != x_t.shape[1] or min(len(x_s), len(x_t)) < 2:
        raise ValueError(
            f"features must be (n, d) with one d and 2 recordings at least, got {x_s.shape} and {x_t.shape}"
        )
    both = np.concatenate([x_s, x_t])
    deviation = both.std(axis=0)
    both = (both - both.mean(axis=0)) / np.where(deviation > 1e-9, deviation, 1.0)
    model = LogisticRegression(C=PENALTY, max_iter=500)
    model.fit(both, np.repeat([0, 1], [len(x_s), len(x_t)]))
    log_ratio = model.decision_function(both[: len(x_s)]) + np.log(len(x_s) / len(x_t))
    weights = np.minimum(np.exp(np.minimum(log_ratio, 50.0)), LARGEST_WEIGHT)
    return np.asarray(weights / weights.mean())


def importance_weighted_risk(losses: ArrayLike, weights: ArrayLike) -> float:
    """The target's risk as the sources' dev part tells it: mean of w l. Lower is better.

    Source: Sugiyama et al. 2007, "Covariate shift adaptation by importance weighted cross validation", JMLR 8.
    """
    return float(np.mean(np.asarray(losses) * np.asarray(weights)))


def deep_embedded_risk(losses: ArrayLike, weights: ArrayLike) -> float:
    """The same with a control variate, since the weights' mean is known to be 1: steadier. Lower is better.

        R = mean(w l) + eta mean(w) - eta,  eta = -Cov(w l, w) / Var(w)

    Source: You et al. 2019, "Towards accurate model selection in deep unsupervised domain adaptation", ICML,
    algorithm 1.
    """
    w = np.asarray(weights, dtype=np.float64)
    weighted = w * np.asarray(losses)
    variance = float(w.var(ddof=1)) if len(w) > 1 else 0.0
    if variance < 1e-12:
        return float(weighted.mean())
    eta = -float(np.cov(weighted, w, ddof=1)[0, 1]) / variance
    return float(weighted.mean() + eta * w.mean() - eta)


def soft_neighbourhood_density(probabilities: ArrayLike, *, temperature: float = TEMPERATURE) -> float:
    """How many like neighbours each target recording has: mean entropy of its similarities. Higher is better.

        s_ij = <p_i, p_j> with every p of length 1,  q_i = softmax over j != i of s_ij / T,  mean_i H(q_i)

    It cannot tell a good clustering from a collapse to one class, where all are alike: see ``alarms``.

    Args:
        probabilities: (n, n_classes), n at least 3.

    Raises:
        ValueError: fewer than 3 recordings, or a temperature that is not above 0.

    Source: Saito et al. 2021, "Tune it the right way: unsupervised validation of domain adaptation via soft
    neighborhood density", arXiv:2108.10860.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    if p.ndim != 2 or len(p) < 3:
        raise ValueError(f"neighbourhoods need 3 recordings at least, got {p.shape}")
    if temperature <= 0:
        raise ValueError(f"the temperature must be above 0, got {temperature!r}")
    p = p / np.linalg.norm(p, axis=1, keepdims=True)
    s = p @ p.T / temperature
    np.fill_diagonal(s, -np.inf)
    s -= s.max(axis=1, keepdims=True)
    q = np.exp(s)
    q /= q.sum(axis=1, keepdims=True)
    return float(-(q * np.log(np.maximum(q, 1e-300))).sum(axis=1).mean())


def mean_entropy(probabilities: ArrayLike) -> float:
    """Mean entropy of the predictions, in nats. Lower is better, and least at a collapse."""
    p = np.asarray(probabilities, dtype=np.float64)
    return float(-(p * np.log(np.maximum(p, 1e-300))).sum(axis=1).mean())


def _weights(candidate: Candidate) -> Floats:
    return importance_weights(candidate.dev_features, candidate.target_features)


RULES: dict[str, Callable[[Candidate], float]] = {
    "importance-weighted": lambda c: -importance_weighted_risk(c.dev_losses, _weights(c)),
    "deep-embedded": lambda c: -deep_embedded_risk(c.dev_losses, _weights(c)),
    "neighbourhood-density": lambda c: soft_neighbourhood_density(c.target_probabilities),
    "entropy": lambda c: -mean_entropy(c.target_probabilities),
    "source-dev": lambda c: -float(np.mean(c.dev_losses)),
    "source-leave-one-out": lambda c: c.source_loso,
    "oracle": lambda c: c.target_score,
}


def choose(candidates: Mapping[str, Candidate], rule: str) -> tuple[str, dict[str, float]]:
    """The name of the candidate that a rule likes best, and what it gave each.

    Equal values take the first. A candidate of which the rule knows nothing (NaN) is not taken.

    Raises:
        ValueError: an unknown rule, no candidate, or one that the rule can say nothing of any.
    """
    if rule not in RULES:
        nearest = difflib.get_close_matches(rule, RULES, n=1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        raise ValueError(f"no selection rule {rule!r}; choose from {', '.join(RULES)}{hint}")
    if not candidates:
        raise ValueError("no candidate to choose from")
    values = {name: RULES[rule](candidate) for name, candidate in candidates.items()}
    known: dict[str, Any] = {name: value for name, value in values.items() if not np.isnan(value)}
    if not known:
        raise ValueError(f"{rule} knows nothing of any of {', '.join(candidates)}; give what it reads")
    return max(known, key=lambda name: known[name]), values
