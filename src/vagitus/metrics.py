"""Metrics: arrays in, numbers out, no state, NumPy only.

Conventions
    labels         (n,) integers: 1 positive and 0 negative when binary, else the class, 0..n_classes-1
    scores         (n,) real, higher is more positive, on any scale; infinite is allowed, NaN is not
    probabilities  (n, n_classes), rows sum to 1; binary may also be (n,), the probability of class 1
    predictions    (n,) decisions, written as the labels are; a score at the threshold is positive
    weights        (n,) >= 0, None for 1 each. Weight k stands for k copies of the row, so a
                   bootstrap resample is a weight vector and no row is ever copied
    n_classes      None takes the largest label or prediction + 1, at least 2

Undefined is NaN, never a number made up: AUROC without both classes, UAR when a class has no
recording, any ratio 0/0. A row of weight 0 is as good as absent.

Every function raises ValueError, with shapes and values, for arrays that are empty or differ in
length, labels that are not the integers above, NaN scores, probabilities outside [0, 1] or whose
rows do not sum to 1, and negative weights.

A row is one recording. Nothing here knows of subjects: ``vagitus.statistics`` does, through weights.
"""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

ArrayLike = npt.ArrayLike
FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

# Many resamples at once: weights (n_resamples, n) -> values (n_resamples,), NaN where undefined.
Statistic = Callable[[FloatArray], FloatArray]

N_BINS = 10  # of a calibration curve: with a few hundred recordings, more bins hold too few to average
ROW_SUM_TOLERANCE = 1e-3  # a softmax in half precision is this far from 1
ROUNDING = 1e-6  # and a mean of probabilities in single precision this far outside [0, 1]
CLINICAL_SPECIFICITY = 0.8  # where the five-hospital cry study read its sensitivity off (arXiv 2310.08338)
# A certain and wrong answer would cost infinitely much and hide all others; sklearn's floor too.
PROBABILITY_FLOOR = float(np.finfo(np.float64).eps)


class RocCurve(NamedTuple):
    """Operating points in order of falling threshold; the first calls nothing positive."""

    fpr: FloatArray  # (n_points,) 1 - specificity
    tpr: FloatArray  # (n_points,) sensitivity
    thresholds: FloatArray  # (n_points,) positive if score >= threshold; the first is inf


class DetectionErrorCurve(NamedTuple):
    """Operating points in order of falling threshold; the first accepts nothing, the last everything."""

    false_accepts: FloatArray  # (n_points,) share of negatives called positive, rising from 0 to 1
    false_rejects: FloatArray  # (n_points,) share of positives called negative, falling from 1 to 0
    thresholds: FloatArray  # (n_points,) positive if score >= threshold; the first is inf


class PrecisionRecallCurve(NamedTuple):
    """Operating points in order of falling threshold; each calls at least one recording positive."""

    precision: FloatArray  # (n_points,)
    recall: FloatArray  # (n_points,)
    thresholds: FloatArray  # (n_points,)


class CalibrationCurve(NamedTuple):
    """One point per bin that holds anything, in order of rising probability."""

    probability: FloatArray  # (n_points,) mean predicted
    frequency: FloatArray  # (n_points,) share that came true
    weight: FloatArray  # (n_points,) recordings in the bin


class DecisionCurve(NamedTuple):
    """Net benefit, in true positives per recording, of three policies over thresholds."""

    thresholds: FloatArray  # (n_thresholds,)
    model: FloatArray  # (n_thresholds,)
    treat_all: FloatArray  # (n_thresholds,)
    treat_none: FloatArray  # (n_thresholds,) zeros


def auroc(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Area under the ROC curve: the chance that a positive outscores a negative.

        A = sum_{i positive, j negative} w_i w_j ([s_i > s_j] + [s_i = s_j] / 2) / sum_{i, j} w_i w_j

    In O(n log n), from one sort. NaN unless both classes are present.

    Args:
        labels: (n,) 0 or 1.
        scores: (n,) higher is more positive.
        weights: (n,) >= 0.

    Raises:
        ValueError: bad input, see the module.

    Source: Hanley & McNeil 1982, Radiology 143.
    """
    y, s, w = _scored(labels, scores, weights)
    return float(_auroc(y, s, w)[0])


def macro_auroc(labels: ArrayLike, probabilities: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Unweighted mean over classes of the AUROC of one class against the rest.

    NaN unless every class is present. For two classes it is ``auroc``.

    Args:
        labels: (n,) 0..n_classes-1.
        probabilities: (n, n_classes) or (n,).
        weights: (n,) >= 0.

    Raises:
        ValueError: bad input, see the module.
    """
    y, p, w = _probable(labels, probabilities, weights)
    return float(_macro_auroc(y, p, w)[0])


def average_precision(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Area under the precision-recall curve as a step function, no interpolation.

        AP = sum_k (R_k - R_{k-1}) P_k,  k over the distinct scores from the highest

    Chance level is about the share of positives. NaN without a positive.

    Args:
        labels: (n,) 0 or 1.
        scores: (n,) higher is more positive.
        weights: (n,) >= 0.

    Raises:
        ValueError: bad input, see the module.
    """
    y, s, w = _scored(labels, scores, weights)
    return float(_average_precision(y, s, w)[0])


def sensitivity_at_specificity(
    labels: ArrayLike, scores: ArrayLike, specificity: float, weights: ArrayLike | None = None
) -> float:
    """The best sensitivity among the thresholds whose specificity is at least ``specificity``.

    The ROC curve is a step function here: only operating points that a threshold on these scores
    reaches count, "nothing is positive" among them. Nothing is interpolated, so the figure can be
    attained; on a straight line between two points it often cannot. NaN unless both classes are present.

    The threshold is chosen on the recordings that are scored: good for comparing models. To claim a
    figure for use, fix a threshold elsewhere (``calibration.choose_threshold``), report ``sensitivity``.

    Args:
        labels: (n,) 0 or 1.
        scores: (n,) higher is more positive.
        specificity: wanted, in [0, 1].
        weights: (n,) >= 0.

    Raises:
        ValueError: ``specificity`` is not in [0, 1], or bad input, see the module.
    """
    _check_share("specificity", specificity)
    y, s, w = _scored(labels, scores, weights)
    return float(_sensitivity_at_specificity(y, s, w, specificity)[0])


def specificity_at_sensitivity(
    labels: ArrayLike, scores: ArrayLike, sensitivity: float, weights: ArrayLike | None = None
) -> float:
    """The best specificity among the thresholds whose sensitivity is at least ``sensitivity``.

    ``sensitivity_at_specificity`` with the classes exchanged.

    Args:
        labels: (n,) 0 or 1.
        scores: (n,) higher is more positive.
        sensitivity: wanted, in [0, 1].
        weights: (n,) >= 0.

    Raises:
        ValueError: ``sensitivity`` is not in [0, 1], or bad input, see the module.
    """
    _check_share("sensitivity", sensitivity)
    y, s, w = _scored(labels, scores, weights)
    return float(_sensitivity_at_specificity(1 - y, -s, w, sensitivity)[0])


def roc_curve(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None) -> RocCurve:
    """False and true positive rates at every distinct score, from "nothing is positive" to "everything is".

    Points on a straight line are kept: each is an operating point. A rate whose class is absent is NaN.

    Args:
        labels: (n,) 0 or 1.
        scores: (n,) higher is more positive.
        weights: (n,) >= 0. Scores that only rows of weight 0 have are no points.

    Raises:
        ValueError: bad input, see the module.
    """
    true, false, thresholds = _points(labels, scores, weights)
    return RocCurve(
        fpr=_ratio(np.append(0.0, false), false[-1:].sum()),
        tpr=_ratio(np.append(0.0, true), true[-1:].sum()),
        thresholds=np.append(np.inf, thresholds),
    )


def detection_error_curve(
    labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None
) -> DetectionErrorCurve:
    """The two errors of verification at every distinct score: ``roc_curve`` with misses in place of hits.

    A rate whose class is absent is NaN.

    Args:
        labels: (n,) 1 for a trial of one and the same subject, 0 for one of two.
        scores: (n,) higher is more alike.
        weights: (n,) >= 0. Scores that only rows of weight 0 have are no points.

    Raises:
        ValueError: bad input, see the module.

    Source: Martin et al. 1997, Eurospeech, who plot it on normal deviates.
    """
    true, false, thresholds = _points(labels, scores, weights)
    n_positive = true[-1:].sum()
    return DetectionErrorCurve(
        false_accepts=_ratio(np.append(0.0, false), false[-1:].sum()),
        false_rejects=_ratio(n_positive - np.append(0.0, true), n_positive),
        thresholds=np.append(np.inf, thresholds),
    )


def equal_error_rate(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None) -> float:
    """The error at which as many negatives are accepted as positives are rejected.

        k    the first point of ``detection_error_curve``, by falling threshold, with R_k <= A_k
        EER  A_{k-1} + t (A_k - A_{k-1}),  t = D_{k-1} / (D_{k-1} - D_k),  D = R - A

    with A the false accepts and R the false rejects. That is where the line of equal errors crosses the curve
    drawn straight between its points, one point per distinct score: equal scores are accepted together, and
    a tie between the classes costs each half. The curve is not made convex first (the "ROCCH" EER, which
    is never higher). It is 0 where a threshold parts the classes, .5 for scores that are all equal. NaN unless
    both classes are present.

    In O(n log n), from one sort: ten million trials take about a second on one core.

    Args:
        labels: (n,) 1 for a trial of one and the same subject, 0 for one of two.
        scores: (n,) higher is more alike.
        weights: (n,) >= 0.

    Raises:
        ValueError: bad input, see the module.

    Source: Brümmer & de Villiers 2013, arXiv:1304.2865, on the definitions in use.
    """
    y, s, w = _scored(labels, scores, weights)
    return float(_equal_error_rate(y, s, w)[0])


def equal_error_statistic(labels: ArrayLike, scores: ArrayLike) -> Statistic:
    """``equal_error_rate`` of these trials as a function of many weight vectors, as ``statistic`` makes one.

    A trial has two subjects, so the weights of a bootstrap are not drawn for trials but made from those of
    the subjects by whoever knows who met whom.

    Args:
        labels: (n,) 0 or 1.
        scores: (n,) higher is more alike.

    Returns:
        weights (n_resamples, n) -> (n_resamples,).

    Raises:
        ValueError: bad input, see the module.
    """
    y, s, _ = _scored(labels, scores, None)
    return lambda weights: _equal_error_rate(y, s, weights)


def precision_recall_curve(
    labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None
) -> PrecisionRecallCurve:
    """Precision and recall at every distinct score, from the highest.

    Where nothing is called positive there is no precision, so that point is left out. Recall is NaN
    without a positive.

    Args:
        labels: (n,) 0 or 1.
        scores: (n,) higher is more positive.
        weights: (n,) >= 0. Scores that only rows of weight 0 have are no points.

    Raises:
        ValueError: bad input, see the module.
    """
    true, false, thresholds = _points(labels, scores, weights)
    return PrecisionRecallCurve(_ratio(true, true + false), _ratio(true, true[-1:].sum()), thresholds)


def confusion_matrix(
    labels: ArrayLike,
    predictions: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    n_classes: int | None = None,
) -> FloatArray:
    """Recordings by what they are (row) and what they are called (column).

    Args:
        labels: (n,) 0..n_classes-1.
        predictions: (n,) 0..n_classes-1.
        weights: (n,) >= 0.
        n_classes: number of classes.

    Returns:
        (n_classes, n_classes) sums of weights.

    Raises:
        ValueError: bad input, see the module.
    """
    counts: FloatArray = _counted(labels, predictions, weights, n_classes)[0]
    return counts


def accuracy(labels: ArrayLike, predictions: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Share of recordings called what they are. It flatters when classes are unequal: see ``uar``.

    Raises:
        ValueError: bad input, see the module.
    """
    return float(_accuracy(_counted(labels, predictions, weights, None))[0])


def uar(
    labels: ArrayLike,
    predictions: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    n_classes: int | None = None,
) -> float:
    """Unweighted average recall, or balanced accuracy: the mean over classes of the share found.

        UAR = 1/K sum_k C_kk / sum_j C_kj

    NaN if a class has no recording. (sklearn averages over the classes it happens to see, which moves
    chance level with the sample; here it stays 1/K.)

    Args:
        labels: (n,) 0..n_classes-1.
        predictions: (n,) 0..n_classes-1.
        weights: (n,) >= 0.
        n_classes: K.

    Raises:
        ValueError: bad input, see the module.
    """
    return float(_uar(_counted(labels, predictions, weights, n_classes))[0])


def sensitivity(labels: ArrayLike, predictions: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Share of positives called positive, TP / (TP + FN). NaN without a positive.

    Raises:
        ValueError: labels or predictions are not 0 or 1, or bad input, see the module.
    """
    return float(_sensitivity(_counted(labels, predictions, weights, 2))[0])


def specificity(labels: ArrayLike, predictions: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Share of negatives called negative, TN / (TN + FP). NaN without a negative.

    Raises:
        ValueError: labels or predictions are not 0 or 1, or bad input, see the module.
    """
    return float(_specificity(_counted(labels, predictions, weights, 2))[0])


def f1(labels: ArrayLike, predictions: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Harmonic mean of precision and recall of class 1, 2 TP / (2 TP + FP + FN).

    NaN if nothing is positive and nothing is called so.

    Raises:
        ValueError: labels or predictions are not 0 or 1, or bad input, see the module.
    """
    return float(_f1(_counted(labels, predictions, weights, 2))[0])


def macro_f1(
    labels: ArrayLike,
    predictions: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    n_classes: int | None = None,
) -> float:
    """Unweighted mean of the F1 of every class against the rest.

    NaN if a class is neither present nor ever called.

    Args:
        labels: (n,) 0..n_classes-1.
        predictions: (n,) 0..n_classes-1.
        weights: (n,) >= 0.
        n_classes: number of classes.

    Raises:
        ValueError: bad input, see the module.
    """
    return float(_macro_f1(_counted(labels, predictions, weights, n_classes))[0])


def mcc(labels: ArrayLike, predictions: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Matthews correlation of labels and predictions, for any number of classes.

        R_K = (c s - sum_k p_k t_k) / sqrt((s^2 - sum_k p_k^2) (s^2 - sum_k t_k^2))

    with s the total, c the number right, t_k how often class k is and p_k how often it is called. For two
    classes it is (TP TN - FP FN) / sqrt((TP+FP) (TP+FN) (TN+FP) (TN+FN)). NaN if only one class is present
    or only one is ever called (sklearn says 0).

    Raises:
        ValueError: bad input, see the module.

    Source: Gorodkin 2004, Computational Biology and Chemistry 28.
    """
    return float(_mcc(_counted(labels, predictions, weights, None))[0])


def brier(labels: ArrayLike, probabilities: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Mean squared error of the probabilities.

        two classes: mean_i (p_i1 - y_i)^2, in [0, 1];  more: mean_i sum_k (p_ik - [y_i = k])^2, in [0, 2]

    The second, at two classes, would be twice the first: both are what is usual.

    Args:
        labels: (n,) 0..n_classes-1.
        probabilities: (n, n_classes) or (n,).
        weights: (n,) >= 0.

    Raises:
        ValueError: bad input, see the module.

    Source: Brier 1950, Monthly Weather Review 78.
    """
    y, p, w = _probable(labels, probabilities, weights)
    return float(_brier(y, p, w)[0])


def log_loss(labels: ArrayLike, probabilities: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Mean of -log p of the class that is, in nats.

    A probability below 2.2e-16 counts as that, so one certain error costs 36 and not infinity.

    Args:
        labels: (n,) 0..n_classes-1.
        probabilities: (n, n_classes) or (n,).
        weights: (n,) >= 0.

    Raises:
        ValueError: bad input, see the module.
    """
    y, p, w = _probable(labels, probabilities, weights)
    return float(_log_loss(y, p, w)[0])


def ece(
    labels: ArrayLike,
    probabilities: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    n_bins: int = N_BINS,
    bins: Literal["width", "mass"] = "width",
) -> float:
    """Expected calibration error: how far probabilities are from frequencies, averaged over bins.

        ECE = sum_b (W_b / W) |mean probability in b - frequency in b|

    Two classes: probability and frequency of class 1. More: probability of the called class against how
    often it is right (Guo et al.). A perfectly calibrated model scores above 0 on a finite sample, and
    higher with more bins: compare at equal n, and read ``brier`` or ``log_loss`` beside it.

    Args:
        labels: (n,) 0..n_classes-1.
        probabilities: (n, n_classes) or (n,).
        weights: (n,) >= 0.
        n_bins: number of bins, > 0.
        bins: "width": equal steps of probability, closed below (the last at both ends). "mass", also called
            adaptive: equal shares of the recordings. Equal probabilities stay together, in the bin that holds
            the middle of their ranks, so neither the order of rows nor a split of ties matters.

    Raises:
        ValueError: ``n_bins`` is not positive, ``bins`` is unknown, or bad input, see the module.

    Source: Naeini et al. 2015, AAAI; Guo et al. 2017, arXiv:1706.04599; adaptive bins: Nixon et al. 2019,
    arXiv:1904.01685.
    """
    _check_bins(n_bins, bins)
    y, p, w = _probable(labels, probabilities, weights)
    return float(_ece(y, p, w, n_bins, bins)[0])


def calibration_curve(
    labels: ArrayLike,
    probabilities: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    n_bins: int = N_BINS,
    bins: Literal["width", "mass"] = "width",
) -> CalibrationCurve:
    """Mean probability and frequency in every bin that holds a recording: what ``ece`` averages.

    Arguments and errors are those of ``ece``.
    """
    _check_bins(n_bins, bins)
    y, p, w = _probable(labels, probabilities, weights)
    mass, predicted, observed = (sums[0] for sums in _bin_sums(*_confidence(y, p), w, n_bins, bins))
    held = mass > 0
    return CalibrationCurve(predicted[held] / mass[held], observed[held] / mass[held], mass[held])


def net_benefit(
    labels: ArrayLike, probabilities: ArrayLike, threshold: float, weights: ArrayLike | None = None
) -> float:
    """True positives per recording, less the false ones at the price that the threshold implies.

        NB(t) = TP / n - FP / n * t / (1 - t)

    Whoever acts from probability t on holds one missed case to be as bad as (1 - t) / t false alarms.

    Args:
        labels: (n,) 0 or 1.
        probabilities: (n,) of class 1, or (n, 2).
        threshold: t in [0, 1); positive if the probability is at least t.
        weights: (n,) >= 0.

    Raises:
        ValueError: ``threshold`` is not in [0, 1), or bad input, see the module.

    Source: Vickers & Elkin 2006, Medical Decision Making 26.
    """
    return float(decision_curve(labels, probabilities, [threshold], weights).model[0])


def decision_curve(
    labels: ArrayLike,
    probabilities: ArrayLike,
    thresholds: ArrayLike | None = None,
    weights: ArrayLike | None = None,
) -> DecisionCurve:
    """Net benefit over thresholds of the model, of treating everyone and of treating no one.

    A model is worth using at the thresholds where its curve lies above both others.

    Args:
        labels: (n,) 0 or 1.
        probabilities: (n,) of class 1, or (n, 2).
        thresholds: (n_thresholds,) in [0, 1); None for .01, .02, ..., .99.
        weights: (n,) >= 0.

    Raises:
        ValueError: a threshold is not in [0, 1), or bad input, see the module.

    Source: as ``net_benefit``.
    """
    t = np.arange(1, 100) / 100 if thresholds is None else np.asarray(thresholds, dtype=np.float64)
    if t.ndim != 1 or not np.all((t >= 0) & (t < 1)):
        raise ValueError(f"thresholds must be numbers in [0, 1), got {thresholds!r}")
    y, p, w = _probable(labels, probabilities, weights, n_classes=2)
    price = t / (1 - t)
    called = (p[:, 1] >= t[:, None]).astype(np.float64)  # (n_thresholds, n)
    positive, negative = w[0] * y, w[0] * (1 - y)
    return DecisionCurve(
        thresholds=t,
        model=_ratio(called @ positive - called @ negative * price, w.sum()),
        treat_all=_ratio(positive.sum() - negative.sum() * price, w.sum()),
        treat_none=np.zeros(len(t)),
    )


# The functions below do the work, for many weight vectors at once: checked arrays and weights (b, n)
# in, (b,) out. The functions above check one and take row 0.


def _auroc(y: IntArray, s: FloatArray, w: FloatArray) -> FloatArray:
    true, false, _ = _cumulative(y, s, w)
    # A run of equal scores adds its negatives times the positives above it, plus half its own.
    positives_above = true - np.diff(true, prepend=0) / 2
    area = (np.diff(false, prepend=0) * positives_above).sum(axis=1)
    return _ratio(area, true[:, -1] * false[:, -1])


def _macro_auroc(y: IntArray, p: FloatArray, w: FloatArray) -> FloatArray:
    one_against_rest = [_auroc((y == k).astype(np.int64), p[:, k], w) for k in range(p.shape[1])]
    return np.asarray(np.mean(one_against_rest, axis=0), dtype=np.float64)


def _average_precision(y: IntArray, s: FloatArray, w: FloatArray) -> FloatArray:
    true, false, _ = _cumulative(y, s, w)
    called = true + false
    # Until something is called precision is 0/0, but nothing is gained there either.
    precision = np.divide(true, called, out=np.zeros_like(true), where=called > 0)
    return _ratio((np.diff(true, prepend=0) * precision).sum(axis=1), true[:, -1])


def _sensitivity_at_specificity(y: IntArray, s: FloatArray, w: FloatArray, wanted: float) -> FloatArray:
    true, false, _ = _cumulative(y, s, w)
    n_positive, n_negative = true[:, -1], false[:, -1:]
    # (N - FP) / N rounds as the literal 0.8 does; 1 - FP / N can miss it by one bit.
    reached = _ratio(n_negative - false, n_negative) >= wanted
    best = np.where(reached, true, 0.0).max(axis=1)
    return np.where(n_negative[:, 0] > 0, _ratio(best, n_positive), np.nan)


def _equal_error_rate(y: IntArray, s: FloatArray, w: FloatArray) -> FloatArray:
    true, false, _ = _cumulative(y, s, w)
    n_positive, n_negative = true[:, -1:], false[:, -1:]
    # They cross where 1 - true / n_positive <= false / n_negative; without divisions, and little fresh memory.
    accepted = true * n_negative
    accepted += false * n_positive
    at = np.argmax(accepted >= n_positive * n_negative, axis=1)[:, None]
    before = np.maximum(at - 1, 0)
    # Before the first score nothing is accepted and everything is rejected.
    is_first = at == 0
    accepts = _ratio(np.take_along_axis(false, at, 1), n_negative)
    accepts_before = np.where(is_first, 0.0, _ratio(np.take_along_axis(false, before, 1), n_negative))
    rejects = _ratio(n_positive - np.take_along_axis(true, at, 1), n_positive)
    rejects_before = np.where(
        is_first, 1.0, _ratio(n_positive - np.take_along_axis(true, before, 1), n_positive)
    )
    gap_before = rejects_before - accepts_before
    fall = gap_before - (rejects - accepts)
    # Weights that differ by more than floating point holds can make two points one.
    share = np.divide(gap_before, fall, out=np.zeros_like(fall), where=fall != 0)
    return np.asarray((accepts_before + share * (accepts - accepts_before))[:, 0], dtype=np.float64)


def _accuracy(confusion: FloatArray) -> FloatArray:
    return _ratio(np.trace(confusion, axis1=1, axis2=2), confusion.sum(axis=(1, 2)))


def _recalls(confusion: FloatArray) -> FloatArray:
    return _ratio(np.diagonal(confusion, axis1=1, axis2=2), confusion.sum(axis=2))


def _uar(confusion: FloatArray) -> FloatArray:
    return np.asarray(_recalls(confusion).mean(axis=1), dtype=np.float64)


def _sensitivity(confusion: FloatArray) -> FloatArray:
    return _recalls(confusion)[:, 1]


def _specificity(confusion: FloatArray) -> FloatArray:
    return _recalls(confusion)[:, 0]


def _f1_by_class(confusion: FloatArray) -> FloatArray:
    hits = np.diagonal(confusion, axis1=1, axis2=2)
    return _ratio(2 * hits, confusion.sum(axis=1) + confusion.sum(axis=2))


def _f1(confusion: FloatArray) -> FloatArray:
    return _f1_by_class(confusion)[:, 1]


def _macro_f1(confusion: FloatArray) -> FloatArray:
    return np.asarray(_f1_by_class(confusion).mean(axis=1), dtype=np.float64)


def _mcc(confusion: FloatArray) -> FloatArray:
    present, called = confusion.sum(axis=2), confusion.sum(axis=1)  # (b, n_classes)
    right, total = np.trace(confusion, axis1=1, axis2=2), confusion.sum(axis=(1, 2))
    # sum_k t_k (s - t_k) = s^2 - sum_k t_k^2, but exactly 0 when one class holds everything.
    spread_present = (present * (present.sum(axis=1, keepdims=True) - present)).sum(axis=1)
    spread_called = (called * (called.sum(axis=1, keepdims=True) - called)).sum(axis=1)
    return _ratio(right * total - (present * called).sum(axis=1), np.sqrt(spread_present * spread_called))


def _brier(y: IntArray, p: FloatArray, w: FloatArray) -> FloatArray:
    error = (p - np.eye(p.shape[1])[y]) ** 2
    return _ratio(w @ (error[:, 1] if p.shape[1] == 2 else error.sum(axis=1)), w.sum(axis=1))


def _log_loss(y: IntArray, p: FloatArray, w: FloatArray) -> FloatArray:
    likelihood = p[np.arange(len(y)), y]
    return _ratio(w @ -np.log(np.maximum(likelihood, PROBABILITY_FLOOR)), w.sum(axis=1))


def _ece(y: IntArray, p: FloatArray, w: FloatArray, n_bins: int, bins: str) -> FloatArray:
    _, predicted, observed = _bin_sums(*_confidence(y, p), w, n_bins, bins)
    return _ratio(np.abs(predicted - observed).sum(axis=1), w.sum(axis=1))


def _cumulative(y: IntArray, s: FloatArray, w: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """True and false positives, (b, n_distinct), at the distinct scores from the highest, (n_distinct,)."""
    # A run of equal scores is summed whole, so its inner order is free; a stable sort takes three times as long.
    order = np.argsort(-s)
    falling = s[order]
    run_ends = np.append(np.flatnonzero(falling[1:] != falling[:-1]), len(s) - 1)
    # In place, and no copy where no scores are equal: fresh memory costs more than what is done with it.
    false = w[:, order]
    true = false * y[order]
    false -= true
    np.cumsum(true, axis=1, out=true)
    np.cumsum(false, axis=1, out=false)
    if len(run_ends) == len(s):
        return true, false, falling
    return true[:, run_ends], false[:, run_ends], falling[run_ends]


def _points(
    labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """``_cumulative`` of one weight vector, of the rows that weigh anything: each (n_distinct,)."""
    y, s, w = _scored(labels, scores, weights)
    held = w[0] > 0
    if not held.any():
        return np.empty(0), np.empty(0), np.empty(0)
    true, false, thresholds = _cumulative(y[held], s[held], w[:, held])
    return true[0], false[0], thresholds


def _confusion(y: IntArray, d: IntArray, w: FloatArray, n_classes: int) -> FloatArray:
    """(b, n_classes, n_classes), true by called."""
    cell = y * n_classes + d
    order = np.argsort(cell, kind="stable")
    held, starts = np.unique(cell[order], return_index=True)
    counts = np.zeros((len(w), n_classes * n_classes))
    counts[:, held] = np.add.reduceat(w[:, order], starts, axis=1)
    return counts.reshape(len(w), n_classes, n_classes)


def _confidence(y: IntArray, p: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The probability that is held against the outcome, and the outcome, both (n,)."""
    if p.shape[1] == 2:
        return p[:, 1], y.astype(np.float64)
    return p.max(axis=1), (p.argmax(axis=1) == y).astype(np.float64)


def _bin_sums(
    p: FloatArray, outcome: FloatArray, w: FloatArray, n_bins: int, bins: str
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Weight, probability and outcome summed by bin, each (b, n_bins)."""
    if bins == "width":
        inner_edges = np.linspace(0, 1, n_bins + 1)[1:-1]
        index = np.broadcast_to(np.searchsorted(inner_edges, p, side="right"), w.shape)
    else:
        order = np.argsort(p, kind="stable")
        _, run, lengths = np.unique(p, return_inverse=True, return_counts=True)
        above = np.cumsum(w[:, order], axis=1)[:, np.cumsum(lengths) - 1]  # weight up to each value
        middle = above - np.diff(above, prepend=0) / 2
        share = np.divide(middle, above[:, -1:], out=np.zeros_like(middle), where=above[:, -1:] > 0)
        index = np.minimum((share * n_bins).astype(np.int64), n_bins - 1)[:, run]
    cell = (np.arange(len(w))[:, None] * n_bins + index).ravel()

    def by_bin(values: FloatArray) -> FloatArray:
        sums = np.bincount(cell, weights=values.ravel(), minlength=len(w) * n_bins)
        return sums.reshape(len(w), n_bins).astype(np.float64, copy=False)

    return by_bin(w), by_bin(w * p), by_bin(w * outcome)


def _ratio(numerator: ArrayLike, denominator: ArrayLike) -> FloatArray:
    """Quotient, NaN where the denominator is not positive."""
    above, below = np.broadcast_arrays(np.asarray(numerator, np.float64), np.asarray(denominator, np.float64))
    quotient: FloatArray = np.divide(above, below, out=np.full(above.shape, np.nan), where=below > 0)
    return quotient


# labels (n,), probabilities (n, n_classes), predictions (n,), weights (b, n) -> (b,)
Kernel = Callable[[IntArray, FloatArray, IntArray, FloatArray], FloatArray]


@dataclass(frozen=True)
class Metric:
    """A row of METRICS. The kernel takes checked arrays: call ``summarise`` or ``statistic``."""

    title: str
    kernel: Kernel
    higher_is_better: bool
    needs: Literal["probabilities", "predictions"]
    task: Literal["binary", "multiclass", "any"]

    def applies(self, n_classes: int) -> bool:
        """Whether it is made for that many classes: "binary" for 2, "multiclass" for more."""
        return self.task in ("any", "binary" if n_classes == 2 else "multiclass")


def _of_scores(function: Callable[[IntArray, FloatArray, FloatArray], FloatArray]) -> Kernel:
    return lambda y, p, d, w: function(y, p[:, 1], w)


def _of_probabilities(function: Callable[[IntArray, FloatArray, FloatArray], FloatArray]) -> Kernel:
    return lambda y, p, d, w: function(y, p, w)


def _of_confusion(function: Callable[[FloatArray], FloatArray]) -> Kernel:
    return lambda y, p, d, w: function(_confusion(y, d, w, p.shape[1]))


METRICS: dict[str, Metric] = {
    "auroc": Metric("AUROC", _of_scores(_auroc), True, "probabilities", "binary"),
    "macro_auroc": Metric(
        "Macro AUROC", _of_probabilities(_macro_auroc), True, "probabilities", "multiclass"
    ),
    "average_precision": Metric(
        "Average precision", _of_scores(_average_precision), True, "probabilities", "binary"
    ),
    "sensitivity_at_specificity_80": Metric(
        f"Sensitivity at {CLINICAL_SPECIFICITY:.0%} specificity",
        _of_scores(lambda y, s, w: _sensitivity_at_specificity(y, s, w, CLINICAL_SPECIFICITY)),
        True,
        "probabilities",
        "binary",
    ),
    "uar": Metric("UAR", _of_confusion(_uar), True, "predictions", "any"),
    "sensitivity": Metric("Sensitivity", _of_confusion(_sensitivity), True, "predictions", "binary"),
    "specificity": Metric("Specificity", _of_confusion(_specificity), True, "predictions", "binary"),
    "accuracy": Metric("Accuracy", _of_confusion(_accuracy), True, "predictions", "any"),
    "f1": Metric("F1", _of_confusion(_f1), True, "predictions", "binary"),
    "macro_f1": Metric("Macro F1", _of_confusion(_macro_f1), True, "predictions", "multiclass"),
    "mcc": Metric("Matthews correlation", _of_confusion(_mcc), True, "predictions", "any"),
    "brier": Metric("Brier score", _of_probabilities(_brier), False, "probabilities", "any"),
    "log_loss": Metric("Log loss (nats)", _of_probabilities(_log_loss), False, "probabilities", "any"),
    "ece": Metric(
        "Expected calibration error",
        _of_probabilities(lambda y, p, w: _ece(y, p, w, N_BINS, "width")),
        False,
        "probabilities",
        "any",
    ),
}


def summarise(
    labels: ArrayLike, probabilities: ArrayLike, predictions: ArrayLike, weights: ArrayLike | None = None
) -> dict[str, float]:
    """Every metric of METRICS that is made for this number of classes, in the table's order.

    Args:
        labels: (n,) 0..n_classes-1.
        probabilities: (n, n_classes) or (n,).
        predictions: (n,) decisions. There is no default: a threshold is chosen elsewhere, never here.
        weights: (n,) >= 0.

    Returns:
        name -> value, NaN where undefined.

    Raises:
        ValueError: bad input, see the module.
    """
    y, p, w = _probable(labels, probabilities, weights)
    d = _predicted(predictions, y, p.shape[1])
    chosen = {name: metric for name, metric in METRICS.items() if metric.applies(p.shape[1])}
    return {name: float(metric.kernel(y, p, d, w)[0]) for name, metric in chosen.items()}


def statistic(name: str, labels: ArrayLike, probabilities: ArrayLike, predictions: ArrayLike) -> Statistic:
    """One metric of these recordings as a function of many weight vectors: what a bootstrap calls.

    The arrays are checked here, once, and sorted once for all the resamples asked for together.

    Args:
        name: a row of METRICS that is made for this number of classes.
        labels: (n,) 0..n_classes-1.
        probabilities: (n, n_classes) or (n,).
        predictions: (n,) decisions.

    Returns:
        weights (n_resamples, n) -> (n_resamples,).

    Raises:
        ValueError: no such metric for this number of classes; or bad input, see the module.
    """
    y, p, _ = _probable(labels, probabilities, None)
    d = _predicted(predictions, y, p.shape[1])
    known = [key for key, metric in METRICS.items() if metric.applies(p.shape[1])]
    if name not in known:
        nearest = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {nearest[0]!r}? " if nearest else ""
        raise ValueError(f"no metric {name!r} for {p.shape[1]} classes; {hint}choose from {', '.join(known)}")
    kernel = METRICS[name].kernel
    return lambda weights: kernel(y, p, d, weights)


def checked_labels(labels: ArrayLike, n_classes: int | None = None, *, name: str = "labels") -> IntArray:
    """Labels or predictions as (n,) int64, n > 0, in 0..n_classes-1.

    Raises:
        ValueError: they are anything else; the message calls them ``name``.
    """
    array = np.asarray(labels)
    if array.ndim != 1 or len(array) == 0:
        raise ValueError(f"{name} must be (n,) with n > 0, got shape {array.shape}")
    if array.dtype.kind not in "biu":
        raise ValueError(f"{name} must be integers, got {array.dtype}")
    wrong = (array < 0) | (array >= (np.inf if n_classes is None else n_classes))
    if wrong.any():
        rule = ">= 0" if n_classes is None else f"in 0..{n_classes - 1}"
        raise ValueError(f"{name} must be {rule}, got {array[wrong][0]} in row {int(np.argmax(wrong))}")
    return array.astype(np.int64)


def checked_probabilities(probabilities: ArrayLike, n_classes: int | None = None) -> FloatArray:
    """Probabilities as (n, n_classes): (n,), of class 1, gets a column for class 0.

    What rounding carried past 0 or 1, by up to 1e-6, is cut.

    Raises:
        ValueError: the shape is another, one is outside [0, 1], or a row does not sum to 1.
    """
    given = np.asarray(probabilities, dtype=np.float64)
    p = np.clip(given, 0, 1)
    if p.ndim == 1:
        given, p = given[:, None], np.stack([1 - p, p], axis=1)
    if p.ndim != 2 or len(p) == 0 or p.shape[1] < 2 or p.shape[1] != (n_classes or p.shape[1]):
        columns = "n_classes >= 2" if n_classes is None else f"{n_classes}"
        raise ValueError(f"probabilities must be (n,) or (n, {columns}) with n > 0, got {p.shape}")
    wrong = ~((given >= -ROUNDING) & (given <= 1 + ROUNDING))  # NaN too
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise ValueError(f"probabilities must be in [0, 1], got {given[row, column]} in row {row}")
    sums = p.sum(axis=1)
    worst = int(np.argmax(np.abs(sums - 1)))
    if abs(sums[worst] - 1) > ROW_SUM_TOLERANCE:
        raise ValueError(f"rows of probabilities must sum to 1, row {worst} sums to {sums[worst]:.6g}")
    return p


def checked_weights(weights: ArrayLike | None, n: int) -> FloatArray:
    """Weights as (n,), ones for None.

    Raises:
        ValueError: there are not n, or one is negative or not finite.
    """
    if weights is None:
        return np.ones(n)
    w = np.asarray(weights, dtype=np.float64)
    if w.shape != (n,):
        raise ValueError(f"weights must be ({n},) as the labels are, got {w.shape}")
    wrong = ~(np.isfinite(w) & (w >= 0))
    if wrong.any():
        raise ValueError(f"weights must be finite and >= 0, got {w[wrong][0]} in row {int(np.argmax(wrong))}")
    return w


def _scored(
    labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None
) -> tuple[IntArray, FloatArray, FloatArray]:
    """Labels and scores (n,), weights (1, n)."""
    y = checked_labels(labels, 2)
    s = np.asarray(scores, dtype=np.float64)
    if s.shape != y.shape:
        raise ValueError(f"scores must be {y.shape} as the labels are, got {s.shape}")
    if np.isnan(s).any():
        raise ValueError(f"scores must not be NaN, but row {int(np.argmax(np.isnan(s)))} is")
    return y, s, checked_weights(weights, len(y))[None]


def _probable(
    labels: ArrayLike, probabilities: ArrayLike, weights: ArrayLike | None, *, n_classes: int | None = None
) -> tuple[IntArray, FloatArray, FloatArray]:
    """Labels (n,), probabilities (n, n_classes), weights (1, n)."""
    p = checked_probabilities(probabilities, n_classes)
    y = checked_labels(labels, p.shape[1])
    if len(p) != len(y):
        raise ValueError(f"probabilities must have one row per label, {len(y)}, got {len(p)}")
    return y, p, checked_weights(weights, len(y))[None]


def _predicted(predictions: ArrayLike, y: IntArray, n_classes: int | None) -> IntArray:
    d = checked_labels(predictions, n_classes, name="predictions")
    if d.shape != y.shape:
        raise ValueError(f"predictions must be {y.shape} as the labels are, got {d.shape}")
    return d


def _counted(
    labels: ArrayLike, predictions: ArrayLike, weights: ArrayLike | None, n_classes: int | None
) -> FloatArray:
    """(1, n_classes, n_classes)."""
    y = checked_labels(labels, n_classes)
    d = _predicted(predictions, y, n_classes)
    w = checked_weights(weights, len(y))[None]
    return _confusion(y, d, w, n_classes or max(int(y.max()), int(d.max()), 1) + 1)


def _check_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be in [0, 1], got {value!r}")


def _check_bins(n_bins: int, bins: str) -> None:
    if n_bins < 1:
        raise ValueError(f"n_bins must be > 0, got {n_bins!r}")
    if bins not in ("width", "mass"):
        raise ValueError(f"bins must be 'width' or 'mass', got {bins!r}")
