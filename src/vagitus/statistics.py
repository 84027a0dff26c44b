"""Intervals and paired tests that count subjects, not recordings. NumPy only.

Conventions
    subjects    (n,) the subject of each recording, any values that compare (strings, integers)
    weights     (n_resamples, n) how often each recording is in each resample
    statistic   weights -> (n_resamples,), NaN where undefined: ``metrics.statistic`` makes one of a metric,
                ``rowwise`` one of any function of weights (n,)
    arm         what is compared, with a ``baseline``; a difference is arm minus baseline
    level       coverage of an interval, .95 for 95 %
    rng         numpy Generator; the same state gives the same numbers

Recordings of one subject resemble each other, so they are drawn, swapped and counted together: a
bootstrap over recordings would give intervals that are too narrow.

What the data cannot give is NaN. Resamples in which the statistic is undefined (a rare class was not
drawn) are left out and counted in ``n_undefined``; ``strata`` avoid them.

Every function raises ValueError for arrays that are empty or differ in length, a level outside (0, 1)
and counts that are not positive.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from vagitus.metrics import ArrayLike, FloatArray, IntArray, Statistic, checked_labels

N_RESAMPLES = 2000  # 50 of them lie beyond each end of a 95 % interval
BLOCK_VALUES = 1 << 21  # weights held at once, 16 MB, whatever the number of recordings

Method = Literal["percentile", "bca"]


@dataclass(frozen=True)
class Interval:
    """An estimate and where the truth is likely to be."""

    estimate: float
    low: float
    high: float
    level: float
    method: str
    n_units: int  # what counts as independent: subjects, unless the function says otherwise
    n_resamples: int = 0  # 0 for a closed form
    n_undefined: int = 0  # resamples left out because the statistic had no value


@dataclass(frozen=True)
class Comparison:
    """The difference of two arms on the same recordings, arm minus baseline."""

    difference: float
    low: float
    high: float
    p: float  # two-sided, of no difference
    level: float
    method: str
    n_units: int
    n_resamples: int = 0
    n_undefined: int = 0


class AurocCovariance(NamedTuple):
    """AUROCs of several arms on the same recordings, and how they vary together."""

    auroc: FloatArray  # (n_arms,)
    covariance: FloatArray  # (n_arms, n_arms)
    n_units: int  # subjects; recordings where those were said to be independent


def rowwise(function: Callable[[FloatArray], float]) -> Statistic:
    """A statistic of a function of one weight vector, called once per resample.

    Args:
        function: weights (n,) -> value, such as ``lambda w: auroc(labels, scores, w)``.
    """
    return lambda weights: np.array([function(row) for row in weights], dtype=np.float64)


def label_strata(labels: ArrayLike, subjects: ArrayLike) -> npt.NDArray[np.str_]:
    """A stratum for each recording: the set of labels its subject has, such as "0", "1" or "0+1".

    Subjects drawn within these keep the number of each kind, so no resample lacks a class.

    Args:
        labels: (n,).
        subjects: (n,).

    Returns:
        (n,) strings.

    Raises:
        ValueError: bad input, see the module.
    """
    names = np.asarray(labels)
    index, known = _index("subjects", subjects, names.shape)
    kinds: list[set[str]] = [set() for _ in known]
    for subject, name in zip(index, names, strict=True):
        kinds[subject].add(str(name))
    return np.array(["+".join(sorted(kind)) for kind in kinds])[index]


def subject_bootstrap(
    statistic: Statistic | Sequence[Statistic],
    subjects: ArrayLike,
    *,
    rng: np.random.Generator,
    n_resamples: int = N_RESAMPLES,
    level: float = 0.95,
    strata: ArrayLike | None = None,
    method: Method = "percentile",
) -> Interval:
    """Interval of a statistic from drawing subjects with replacement, each with all its recordings.

    For several seeds (the same training repeated), pass one statistic per seed: the estimate is their mean,
    and each resample draws subjects and, apart from them, seeds. The interval then speaks of new subjects
    *and* a new training. As in any bootstrap of few, the variance due to seeds is understated, by
    (n_seeds - 1) / n_seeds.

    "percentile" takes quantiles of the resampled values. "bca" corrects them for bias and skew, from the
    share of values below the estimate and a jackknife over subjects: better for a bounded metric near its
    bound, at one more evaluation per subject.

    Args:
        statistic: weights (n_resamples, n) -> (n_resamples,), or one such per seed.
        subjects: (n,).
        rng: source of chance.
        n_resamples: > 0.
        level: in (0, 1).
        strata: (n,), such as the site or ``label_strata``, one value per subject; each stratum is drawn
            from by itself, as many subjects as it has.
        method: "percentile" or "bca".

    Returns:
        Interval over subjects; low and high are NaN with one subject or if no resample has a value.

    Raises:
        ValueError: a subject is in two strata, the method is unknown, a statistic returns a wrong shape, or
            bad input, see the module.

    Source: Davison & Hinkley 1997, Bootstrap Methods and their Application, on hierarchical data and on
    BCa in several samples; Efron 1987, JASA 82.
    """
    _check_level(level)
    _check_method(method)
    sample, seeds = _sample(subjects, strata), _seeds(statistic)
    draw = _bootstrap(seeds, sample, n_resamples, rng)
    low, high = _bounds(draw, seeds, sample, level, method)
    return Interval(draw.estimate, low, high, level, method, sample.n_subjects, n_resamples, draw.n_undefined)


def paired_bootstrap(
    arm: Statistic | Sequence[Statistic],
    baseline: Statistic | Sequence[Statistic],
    subjects: ArrayLike,
    *,
    rng: np.random.Generator,
    n_resamples: int = N_RESAMPLES,
    level: float = 0.95,
    strata: ArrayLike | None = None,
    method: Method = "percentile",
) -> Comparison:
    """Difference of two arms on the same recordings, both evaluated on the same draws of subjects.

        p = min(1, 2 (1 + min(#{d* <= 0}, #{d* >= 0})) / (B + 1))

    d* are the differences in the B resamples that have a value. It is twice the smaller tail beyond "no
    difference", the level at which the percentile interval would touch 0, with one added so that it is
    never 0.

    Args:
        arm: weights (n_resamples, n) -> (n_resamples,), or one such per seed.
        baseline: the same of the other arm; seed s of one is paired with seed s of the other.
        subjects: (n,).
        rng, n_resamples, level, strata, method: as in ``subject_bootstrap``.

    Returns:
        Comparison over subjects; p, low and high are NaN with one subject or if no resample has a value.

    Raises:
        ValueError: the arms differ in their number of seeds, or as ``subject_bootstrap``.

    Source: the added one: Davison & Hinkley 1997, section 4.2.
    """
    _check_level(level)
    _check_method(method)
    first, second = _seeds(arm), _seeds(baseline)
    if len(first) != len(second):
        raise ValueError(f"arm and baseline must have the same seeds, got {len(first)} and {len(second)}")
    sample = _sample(subjects, strata)
    differences = [_difference(a, b) for a, b in zip(first, second, strict=True)]
    draw = _bootstrap(differences, sample, n_resamples, rng)
    low, high = _bounds(draw, differences, sample, level, method)
    p = math.nan
    if not math.isnan(low):
        tail = min(int((draw.values <= 0).sum()), int((draw.values >= 0).sum()))
        p = min(1.0, 2 * (1 + tail) / (len(draw.values) + 1))
    return Comparison(
        draw.estimate, low, high, p, level, method, sample.n_subjects, n_resamples, draw.n_undefined
    )


def permutation_test(
    metric: Callable[[FloatArray], float],
    arm: ArrayLike,
    baseline: ArrayLike,
    subjects: ArrayLike,
    *,
    rng: np.random.Generator,
    n_permutations: int = N_RESAMPLES,
) -> Comparison:
    """Test that the arms are exchangeable, by swapping all of a subject's scores between them.

        p = (1 + #{|d*| >= |d|}) / (B + 1)

    over B random swaps. If all 2^n_subjects swaps are no more than ``n_permutations`` they are enumerated
    and p is the exact share with |d*| >= |d|.

    The arms must be on one scale, or it is the scale that is tested: give calibrated probabilities,
    decisions, or, for a metric of ranks, the ``midranks`` of each arm.

    Args:
        metric: scores, shaped as ``arm``, -> value; it holds the labels.
        arm: (n, ...) scores.
        baseline: the same of the other arm.
        subjects: (n,).
        rng: source of chance.
        n_permutations: > 0.

    Returns:
        Comparison over subjects. A test makes no interval: low, high and level are NaN.

    Raises:
        ValueError: the arms differ in shape, or bad input, see the module.

    Source: Good 2005, Permutation, Parametric, and Bootstrap Tests of Hypotheses; the added one: Phipson
    & Smyth 2010, Statistical Applications in Genetics and Molecular Biology 9.
    """
    _check_count("n_permutations", n_permutations)
    a, b = np.asarray(arm, dtype=np.float64), np.asarray(baseline, dtype=np.float64)
    if a.shape != b.shape or a.ndim == 0:
        raise ValueError(f"arm and baseline must have one shape (n, ...), got {a.shape} and {b.shape}")
    index, known = _index("subjects", subjects, a.shape[:1])
    observed = float(metric(a) - metric(b))
    exact = 2 ** len(known) <= n_permutations
    swaps: Iterator[npt.NDArray[np.bool_]]
    if exact:
        swaps = (np.array(each) for each in itertools.product((False, True), repeat=len(known)))
    else:
        swaps = (rng.integers(0, 2, len(known)).astype(bool) for _ in range(n_permutations))

    def swapped_difference(swap: npt.NDArray[np.bool_]) -> float:
        rows = swap[index].reshape((-1,) + (1,) * (a.ndim - 1))
        return metric(np.where(rows, b, a)) - metric(np.where(rows, a, b))

    differences = np.array([swapped_difference(swap) for swap in swaps])
    defined = differences[~np.isnan(differences)]
    p = math.nan
    if not math.isnan(observed):
        # The same numbers summed in another order may fall short of themselves by rounding.
        n_extreme = int((np.abs(defined) >= abs(observed) * (1 - 1e-9) - 1e-12).sum())
        p = n_extreme / len(defined) if exact else (1 + n_extreme) / (len(defined) + 1)
    return Comparison(
        difference=observed,
        low=math.nan,
        high=math.nan,
        p=p,
        level=math.nan,
        method="exact permutation" if exact else "permutation",
        n_units=len(known),
        n_resamples=len(differences),
        n_undefined=len(differences) - len(defined),
    )


def midranks(values: ArrayLike) -> FloatArray:
    """Ranks from 1 up; equal values share the mean of theirs.

    Args:
        values: (n,) without NaN.

    Returns:
        (n,).

    Raises:
        ValueError: ``values`` is not (n,), or holds NaN.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or np.isnan(array).any():
        raise ValueError(f"values must be (n,) without NaN, got {array}")
    _, index, n_equal = np.unique(array, return_inverse=True, return_counts=True)
    ranks: FloatArray = (np.cumsum(n_equal) - (n_equal - 1) / 2)[index]
    return ranks


def auroc_covariance(labels: ArrayLike, scores: ArrayLike, *, subjects: ArrayLike | None) -> AurocCovariance:
    """AUROCs and their covariance: DeLong's, and Obuchowski's where subjects have several recordings.

    With psi(x, y) = [x > y] + [x = y] / 2 for positive x and negative y, each recording's component is
    its mean psi against the other class; midranks give all of them in O(n log n). DeLong takes components
    as independent:

        cov(A, B) = S10 / m + S01 / n,  S the sample covariance of the m positives', n negatives' components

    Obuchowski first sums them by subject. With X_i the sum of (component - AUROC) over the positives of
    subject i, Y_i over its negatives, and I10 subjects with a positive, I01 with a negative, I in all:

        cov(A, B) = I10 / (I10 - 1) sum_i X_i^A X_i^B / m^2 + I01 / (I01 - 1) sum_i Y_i^A Y_i^B / n^2
                    + I / (I - 1) sum_i (X_i^A Y_i^B + X_i^B Y_i^A) / (m n)

    which is DeLong's when every subject has one recording.

    Args:
        labels: (n,) 0 or 1.
        scores: (n_arms, n), higher is more positive; (n,) for one arm.
        subjects: (n,). None states that recordings are independent, one per subject.

    Returns:
        AUROCs, NaN without both classes; covariance, NaN unless two subjects have a positive and two a
        negative.

    Raises:
        ValueError: labels are not 0 or 1, scores are NaN, or bad input, see the module.

    Source: DeLong et al. 1988, Biometrics 44; Sun & Xu 2014, IEEE Signal Processing Letters 21;
    Obuchowski 1997, Biometrics 53.
    """
    y, s = checked_labels(labels, 2), np.atleast_2d(np.asarray(scores, dtype=np.float64))
    if s.ndim != 2 or s.shape[1] != len(y):
        raise ValueError(f"labels must be (n,) and scores (n_arms, n), got {y.shape} and {s.shape}")
    index, known = _index("subjects", np.arange(len(y)) if subjects is None else subjects, y.shape)
    n_arms, n_subjects = len(s), len(known)
    auroc, unknown = np.full(n_arms, math.nan), np.full((n_arms, n_arms), math.nan)
    positive = y == 1
    m, n = int(positive.sum()), int((~positive).sum())
    if m == 0 or n == 0:
        return AurocCovariance(auroc, unknown, n_subjects)

    # A rank among all less the rank within the class is how many of the other class lie below.
    below = np.stack([midranks(row) for row in s])
    below[:, positive] -= np.stack([midranks(row) for row in s[:, positive]])
    below[:, ~positive] -= np.stack([midranks(row) for row in s[:, ~positive]])
    component = np.where(positive, below / n, 1 - below / m)  # (n_arms, n_recordings)
    auroc = component[:, positive].mean(axis=1)

    n_with_positive, n_with_negative = len(np.unique(index[positive])), len(np.unique(index[~positive]))
    if n_with_positive < 2 or n_with_negative < 2:
        return AurocCovariance(auroc, unknown, n_subjects)
    deviation = component - auroc[:, None]
    X = np.stack([np.bincount(index, row * positive, n_subjects) for row in deviation])
    Y = np.stack([np.bincount(index, row * ~positive, n_subjects) for row in deviation])
    covariance = (
        n_with_positive / (n_with_positive - 1) * (X @ X.T) / m**2
        + n_with_negative / (n_with_negative - 1) * (Y @ Y.T) / n**2
        + n_subjects / (n_subjects - 1) * (X @ Y.T + Y @ X.T) / (m * n)
    )
    return AurocCovariance(auroc, covariance, n_subjects)


def delong_interval(
    labels: ArrayLike,
    scores: ArrayLike,
    *,
    subjects: ArrayLike | None,
    level: float = 0.95,
    scale: Literal["logit", "linear"] = "logit",
) -> Interval:
    """Interval of an AUROC in closed form, from ``auroc_covariance``.

        linear: A +- z se, cut to [0, 1];  logit: L +- z se / (A (1 - A)) of L = log(A / (1 - A)), taken back

    The logit stays inside [0, 1] by itself and covers better near 1. Both lean on the normal distribution:
    with fewer than some 20 subjects in a class prefer ``subject_bootstrap``.

    Args:
        labels: (n,) 0 or 1.
        scores: (n,) higher is more positive.
        subjects: (n,). None states that recordings are independent, one per subject.
        level: in (0, 1).
        scale: "logit" or "linear".

    Returns:
        Interval; low and high are NaN where the variance is unknown or 0. At an AUROC of 0 or 1 the
        method sees no variation, which proves no certainty.

    Raises:
        ValueError: the scale is unknown, or as ``auroc_covariance``.

    Source: as ``auroc_covariance``; logit: Pepe 2003, The Statistical Evaluation of Medical Tests.
    """
    _check_level(level)
    if scale not in ("logit", "linear"):
        raise ValueError(f"scale must be 'logit' or 'linear', got {scale!r}")
    auroc, covariance, n_units = auroc_covariance(labels, np.asarray(scores)[None], subjects=subjects)
    estimate, variance = float(auroc[0]), float(covariance[0, 0])
    low = high = math.nan
    if variance > 0:
        reach = NormalDist().inv_cdf((1 + level) / 2) * math.sqrt(variance)
        if scale == "linear":
            low, high = max(0.0, estimate - reach), min(1.0, estimate + reach)
        else:
            logit, reach = math.log(estimate / (1 - estimate)), reach / (estimate * (1 - estimate))
            low, high = ((1 + math.tanh(end / 2)) / 2 for end in (logit - reach, logit + reach))
    return Interval(estimate, low, high, level, f"{_closed_form(subjects)}, {scale}", n_units)


def delong_test(
    labels: ArrayLike,
    arm: ArrayLike,
    baseline: ArrayLike,
    *,
    subjects: ArrayLike | None,
    level: float = 0.95,
) -> Comparison:
    """Paired test of two AUROCs on the same recordings, in closed form.

        z = (A - B) / sqrt(var A + var B - 2 cov(A, B)),  p = 2 (1 - Phi(|z|))

    Args:
        labels: (n,) 0 or 1.
        arm: (n,) scores.
        baseline: (n,) scores of the other arm.
        subjects: (n,). None states that recordings are independent, one per subject.
        level: of the interval of the difference, in (0, 1).

    Returns:
        Comparison. Arms that rank alike have p = 1; where the variance is unknown, or 0 beside a
        difference, p, low and high are NaN.

    Raises:
        ValueError: the arms differ in shape, or as ``auroc_covariance``.

    Source: as ``auroc_covariance``.
    """
    _check_level(level)
    a, b = np.asarray(arm, dtype=np.float64), np.asarray(baseline, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"arm and baseline must have one shape (n,), got {a.shape} and {b.shape}")
    auroc, covariance, n_units = auroc_covariance(labels, np.stack([a, b]), subjects=subjects)
    difference = float(auroc[0] - auroc[1])
    both = float(covariance[0, 0] + covariance[1, 1])
    variance = both - 2 * float(covariance[0, 1])
    low = high = p = math.nan
    if variance > 1e-12 * both:  # less is what rounding leaves of 0
        se = math.sqrt(variance)
        reach = NormalDist().inv_cdf((1 + level) / 2) * se
        low, high = difference - reach, difference + reach
        p = math.erfc(abs(difference) / se / math.sqrt(2))
    elif difference == 0 and not math.isnan(variance):
        low, high, p = 0.0, 0.0, 1.0
    return Comparison(difference, low, high, p, level, _closed_form(subjects), n_units)


def holm(p_values: ArrayLike) -> FloatArray:
    """p-values adjusted for having made several tests, by Holm's step-down rule.

        p~_(k) = max_{j <= k} min(1, (m - j + 1) p_(j)),  p_(1) <= ... <= p_(m)

    Rejecting what is below alpha keeps the chance of any false rejection below alpha, however the tests
    depend on each other. NaN, a test that could not be made, stays NaN and is not counted in m.

    Args:
        p_values: (m,) in [0, 1] or NaN.

    Returns:
        (m,) in the order given.

    Raises:
        ValueError: ``p_values`` is not (m,), or one is outside [0, 1].

    Source: Holm 1979, Scandinavian Journal of Statistics 6.
    """
    p = np.asarray(p_values, dtype=np.float64)
    made = np.flatnonzero(~np.isnan(p)) if p.ndim == 1 else np.empty(0, np.int64)
    if p.ndim != 1 or not ((p[made] >= 0) & (p[made] <= 1)).all():
        raise ValueError(f"p_values must be (m,) in [0, 1], got {p}")
    rising = made[np.argsort(p[made], kind="stable")]
    adjusted = np.full(len(p), math.nan)
    n_left = np.arange(len(rising), 0, -1)
    adjusted[rising] = np.maximum.accumulate(np.minimum(1.0, n_left * p[rising]))
    return adjusted


def wilson_interval(n_successes: int, n: int, *, level: float = 0.95) -> Interval:
    """Interval of a proportion of independent trials.

        (p + z^2 / 2n +- z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)

    It holds with few trials, and at 0 and n successes. Count subjects, not recordings.

    Args:
        n_successes: 0..n.
        n: trials; with 0 all is NaN.
        level: in (0, 1).

    Returns:
        Interval over trials.

    Raises:
        ValueError: ``n_successes`` is not in 0..n, or the level not in (0, 1).

    Source: Wilson 1927, JASA 22.
    """
    _check_level(level)
    if not 0 <= n_successes <= n:
        raise ValueError(f"n_successes must be in 0..n, got {n_successes!r} of {n!r}")
    if n == 0:
        return Interval(math.nan, math.nan, math.nan, level, "Wilson", 0)
    p, z = n_successes / n, NormalDist().inv_cdf((1 + level) / 2)
    centre, reach = p + z**2 / (2 * n), z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    # At 0 and n the ends are exactly 0 and 1; floating point may miss them by one bit.
    low = (centre - reach) / (1 + z**2 / n) if n_successes > 0 else 0.0
    high = (centre + reach) / (1 + z**2 / n) if n_successes < n else 1.0
    return Interval(p, low, high, level, "Wilson", n)


def seed_interval(values: ArrayLike, *, level: float = 0.95) -> Interval:
    """Mean over seeds with Student's interval: what another training would give on the *same* subjects.

        mean +- t_{n-1} sd / sqrt(n)

    It says nothing of other subjects; ``subject_bootstrap`` with one statistic per seed does.

    Args:
        values: (n_seeds,) of one metric. NaN makes all NaN.
        level: in (0, 1).

    Returns:
        Interval over seeds; low and high are NaN with one seed.

    Raises:
        ValueError: ``values`` is not (n_seeds,) or is empty, or the level is not in (0, 1).
    """
    _check_level(level)
    v = np.asarray(values, dtype=np.float64)
    if v.ndim != 1 or len(v) == 0:
        raise ValueError(f"values must be (n_seeds,) with n_seeds > 0, got {v.shape}")
    mean, reach = float(v.mean()), math.nan
    if len(v) > 1:
        reach = _student_quantile(level, len(v) - 1) * float(v.std(ddof=1)) / math.sqrt(len(v))
    return Interval(mean, mean - reach, mean + reach, level, "Student, seeds", len(v))


class _Sample(NamedTuple):
    subject: IntArray  # (n,) of each recording, 0..n_subjects-1
    n_subjects: int
    strata: list[IntArray]  # the subjects of each


class _Draw(NamedTuple):
    estimate: float
    values: FloatArray  # (n_defined,)
    n_undefined: int


def _index(name: str, values: ArrayLike, shape: tuple[int, ...]) -> tuple[IntArray, npt.NDArray[np.generic]]:
    """The number of each value among the distinct ones, (n,), and those."""
    array = np.asarray(values)
    if len(shape) != 1 or shape[0] == 0 or array.shape != shape:
        raise ValueError(f"{name} must have one value per recording, got {array.shape} for {shape}")
    known, index = np.unique(array, return_inverse=True)
    return index.astype(np.int64), known


def _sample(subjects: ArrayLike, strata: ArrayLike | None) -> _Sample:
    array = np.asarray(subjects)
    subject, known = _index("subjects", array, array.shape)
    if strata is None:
        return _Sample(subject, len(known), [np.arange(len(known))])
    stratum, names = _index("strata", strata, array.shape)
    stratum_of = np.empty(len(known), dtype=np.int64)
    stratum_of[subject] = stratum
    torn = np.flatnonzero(stratum_of[subject] != stratum)
    if len(torn):
        one, other = names[stratum[torn[0]]], names[stratum_of[subject[torn[0]]]]
        raise ValueError(
            f"subject {array[torn[0]]} is in strata {one} and {other}; a subject is drawn whole, so it "
            "needs one (label_strata makes one of its labels)"
        )
    return _Sample(subject, len(known), [np.flatnonzero(stratum_of == k) for k in range(len(names))])


def _seeds(statistic: Statistic | Sequence[Statistic]) -> list[Statistic]:
    seeds = [statistic] if callable(statistic) else list(statistic)
    if not seeds:
        raise ValueError("statistic must be a function, or one per seed; got none")
    return seeds


def _difference(arm: Statistic, baseline: Statistic) -> Statistic:
    return lambda weights: arm(weights) - baseline(weights)


def _evaluate(seeds: Sequence[Statistic], weights: FloatArray) -> FloatArray:
    """(n_resamples, n_seeds)."""
    columns = [np.asarray(statistic(weights), dtype=np.float64) for statistic in seeds]
    for column in columns:
        if column.shape != (len(weights),):
            raise ValueError(
                f"statistic must turn weights {weights.shape} into ({len(weights)},), got {column.shape}; "
                "wrap a function of weights (n,) in rowwise"
            )
    return np.stack(columns, axis=1)


def _blocks(n_rows: int, n_columns: int) -> Iterator[range]:
    height = max(1, BLOCK_VALUES // n_columns)
    for start in range(0, n_rows, height):
        yield range(start, min(start + height, n_rows))


def _draw_counts(n: int, n_resamples: int, rng: np.random.Generator) -> IntArray:
    """How often each of n comes up in n draws with replacement, (n_resamples, n)."""
    drawn = rng.integers(0, n, (n_resamples, n)) + n * np.arange(n_resamples)[:, None]
    return np.bincount(drawn.ravel(), minlength=n_resamples * n).reshape(n_resamples, n)


def _bootstrap(
    seeds: Sequence[Statistic], sample: _Sample, n_resamples: int, rng: np.random.Generator
) -> _Draw:
    _check_count("n_resamples", n_resamples)
    n = len(sample.subject)
    estimate = float(_evaluate(seeds, np.ones((1, n))).mean())
    blocks = []
    for rows in _blocks(n_resamples, n):
        counts = np.empty((len(rows), sample.n_subjects))
        for members in sample.strata:
            counts[:, members] = _draw_counts(len(members), len(rows), rng)
        by_seed = _evaluate(seeds, np.take(counts, sample.subject, axis=1))
        if len(seeds) > 1:
            n_drawn = _draw_counts(len(seeds), len(rows), rng)
            by_seed = np.where(n_drawn > 0, n_drawn * by_seed, 0.0)  # a seed not drawn may be NaN
        blocks.append(by_seed.sum(axis=1) / len(seeds))
    values = np.concatenate(blocks)
    defined = values[~np.isnan(values)]
    return _Draw(estimate, defined, len(values) - len(defined))


def _bounds(
    draw: _Draw, seeds: Sequence[Statistic], sample: _Sample, level: float, method: Method
) -> tuple[float, float]:
    n = len(draw.values)
    if sample.n_subjects < 2 or n == 0 or math.isnan(draw.estimate):
        return math.nan, math.nan
    shares = [(1 - level) / 2, (1 + level) / 2]
    if method == "bca":
        normal = NormalDist()
        below = float((draw.values < draw.estimate).mean() + (draw.values == draw.estimate).mean() / 2)
        # With all values on one side the correction would be infinite; half a resample is what n can tell.
        bias = normal.inv_cdf(min(max(below, 0.5 / n), 1 - 0.5 / n))
        acceleration = _acceleration(seeds, sample)
        shifted = [bias + normal.inv_cdf(share) for share in shares]
        # The denominator passes 0 only beyond any level in use; there the share is 0 or 1.
        shares = [normal.cdf(bias + z / max(1 - acceleration * z, 1e-9)) for z in shifted]
    low, high = np.quantile(draw.values, shares)
    return float(low), float(high)


def _acceleration(seeds: Sequence[Statistic], sample: _Sample) -> float:
    """A sixth of the skew of the subjects' influences, from leaving out each in turn."""
    blocks = []
    for rows in _blocks(sample.n_subjects, len(sample.subject)):
        kept = sample.subject != np.array(rows)[:, None]
        blocks.append(_evaluate(seeds, kept.astype(np.float64)).mean(axis=1))
    without = np.concatenate(blocks)
    cubes = squares = 0.0
    for members in sample.strata:
        known = without[members][~np.isnan(without[members])]
        if len(known):
            influence = (known.mean() - known) * (len(known) - 1) / len(known)
            cubes += float((influence**3).sum())
            squares += float((influence**2).sum())
    return cubes / (6 * squares**1.5) if squares > 0 else 0.0


def _student_quantile(level: float, n_freedom: int) -> float:
    """t with P(|T| <= t) = level, from the finite series in theta = atan(t / sqrt(n_freedom)).

    Source: Abramowitz & Stegun 1964, 26.7.3 and 26.7.4.
    """
    low, high = 0.0, math.pi / 2
    for _ in range(60):  # halvings: as fine as floating point
        theta = (low + high) / 2
        cosine = math.cos(theta)
        odd = n_freedom % 2
        term, series = (cosine, 0.0) if odd else (1.0, 0.0)
        for j in range(2 + odd, n_freedom + 1, 2):
            series += term
            term *= cosine**2 * (j - 1) / j
        covered = math.sin(theta) * series
        if odd:
            covered = (theta + covered) * 2 / math.pi
        low, high = (theta, high) if covered < level else (low, theta)
    return math.sqrt(n_freedom) * math.tan((low + high) / 2)


def _closed_form(subjects: ArrayLike | None) -> str:
    return "DeLong" if subjects is None else "Obuchowski"


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level must be in (0, 1), got {level!r}")


def _check_method(method: str) -> None:
    if method not in ("percentile", "bca"):
        raise ValueError(f"method must be 'percentile' or 'bca', got {method!r}")


def _check_count(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name} must be > 0, got {value!r}")
