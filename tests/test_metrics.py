"""Metrics: values by hand, slow second implementations, sklearn and torchmetrics, and weights as copies of rows."""

import math
import time
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from vagitus import metrics as m

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Table = tuple[Ints, Floats, Ints]

NAN = math.nan
UNKNOWN: Any = "quantile"


@pytest.fixture(scope="module")
def sk() -> Any:
    return pytest.importorskip("sklearn.metrics")


def table(n_classes: int, *, n: int = 60, seed: int = 0) -> Table:
    """Labels, probabilities with ties, and decisions that are better than chance."""
    rng = np.random.default_rng(seed)
    y = np.append(np.arange(n_classes), rng.integers(0, n_classes, n - n_classes))
    p = rng.dirichlet(np.ones(n_classes), n) + 0.6 * np.eye(n_classes)[y]
    p = np.round(p / p.sum(axis=1, keepdims=True) * 20) + 1
    p /= p.sum(axis=1, keepdims=True)
    return y, p, p.argmax(axis=1)


# Rows of few distinct scores, so that ties are common, and weights that can be zero.
scored_rows = st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=12
).map(lambda rows: tuple(np.array(column) for column in zip(*rows, strict=True)))


def auroc_of_pairs(y: Ints, s: Ints, w: Ints) -> float:
    above = total = 0.0
    for i in np.flatnonzero(y == 1):
        for j in np.flatnonzero(y == 0):
            total += w[i] * w[j]
            above += w[i] * w[j] * (1.0 if s[i] > s[j] else 0.5 if s[i] == s[j] else 0.0)
    return above / total if total else NAN


def best_sensitivity_over_thresholds(y: Ints, s: Ints, w: Ints, specificity: float) -> float:
    n_positive, n_negative = w[y == 1].sum(), w[y == 0].sum()
    if not (n_positive and n_negative):
        return NAN
    reached = [
        w[(y == 1) & (s >= t)].sum() / n_positive
        for t in [*set(s.tolist()), math.inf]
        if w[(y == 0) & (s < t)].sum() / n_negative >= specificity
    ]
    return float(max(reached))


def equal_error_over_thresholds(y: Ints, s: Ints, w: Ints) -> float:
    """The crossing in exact fractions, one threshold after the other."""
    n_positive, n_negative = int(w[y == 1].sum()), int(w[y == 0].sum())
    if not (n_positive and n_negative):
        return NAN
    accepts, rejects = Fraction(0), Fraction(1)
    for threshold in sorted(set(s.tolist()), reverse=True):
        next_accepts = Fraction(int(w[(y == 0) & (s >= threshold)].sum()), n_negative)
        next_rejects = Fraction(int(w[(y == 1) & (s < threshold)].sum()), n_positive)
        if next_rejects <= next_accepts:
            # Solve rejects + t (next_rejects - rejects) = accepts + t (next_accepts - accepts).
            t = (rejects - accepts) / ((rejects - accepts) + (next_accepts - next_rejects))
            return float(rejects + t * (next_rejects - rejects))
        accepts, rejects = next_accepts, next_rejects
    raise AssertionError("the last threshold rejects nothing")


def test_auroc_by_hand() -> None:
    assert m.auroc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]) == 0.75
    # Positive 2 meets 2, 1, 0 (½ 1 1); positive 1 meets them (0 ½ 1): 4 of 6.
    assert m.auroc([1, 0, 1, 0, 0], [2, 2, 1, 1, 0]) == pytest.approx(4 / 6)
    assert m.auroc([1, 0, 1, 0], [math.inf, math.inf, 0, -math.inf]) == pytest.approx(0.5 / 4 + 2 / 4)


@settings(deadline=None)
@given(scored_rows)
def test_auroc_is_the_share_of_pairs(rows: tuple[Ints, Ints, Ints]) -> None:
    y, s, w = rows
    assert m.auroc(y, s, w) == pytest.approx(auroc_of_pairs(y, s, w), nan_ok=True)


@settings(deadline=None)
@given(scored_rows)
def test_auroc_knows_order_only_and_turns_with_the_labels(rows: tuple[Ints, Ints, Ints]) -> None:
    y, s, w = rows
    area = m.auroc(y, s, w)
    assert m.auroc(y, np.exp(s) - 7, w) == pytest.approx(area, nan_ok=True)
    assert m.auroc(1 - y, s, w) == pytest.approx(1 - area, nan_ok=True)
    assert m.auroc(y[::-1], s[::-1], w[::-1]) == pytest.approx(area, nan_ok=True)


@settings(deadline=None)
@given(scored_rows, st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.8, 1.0]))
def test_sensitivity_at_specificity_is_the_best_threshold(
    rows: tuple[Ints, Ints, Ints], wanted: float
) -> None:
    y, s, w = rows
    expected = best_sensitivity_over_thresholds(y, s, w, wanted)
    assert m.sensitivity_at_specificity(y, s, wanted, w) == pytest.approx(expected, nan_ok=True)
    assert m.specificity_at_sensitivity(1 - y, -s, wanted, w) == pytest.approx(expected, nan_ok=True)


def test_equal_error_rate_by_hand() -> None:
    assert m.equal_error_rate([1, 1, 0, 0, 0], [5, 4, 3, 2, 1]) == 0
    assert m.equal_error_rate([0, 0, 0, 1, 1], [5, 4, 3, 2, 1]) == 1
    assert m.equal_error_rate([1, 0, 0, 1, 0], [7, 7, 7, 7, 7]) == 0.5
    # Rejects of 4, accepts of 5. At 7: 3/4, 0. At 6: 2/4, 1/5. At 5, one of each: 1/4, 2/5. From D = .3 to
    # D = -.15 it is 0 after two thirds, at accepts 1/5 + 2/3 1/5 = 1/3.
    y, s = [1, 1, 0, 1, 0, 1, 0, 0, 0], [7, 6, 6, 5, 5, 4, 3, 2, 1]
    assert m.equal_error_rate(y, s) == pytest.approx(1 / 3)
    # On a point: 1 of 3 rejected and 1 of 3 accepted. And on a rise of the hits alone, at accepts 1/4.
    assert m.equal_error_rate([1, 1, 0, 1, 0, 0], [6, 5, 4, 3, 2, 1]) == pytest.approx(1 / 3)
    assert m.equal_error_rate([0, 1, 1, 0, 0, 0], [6, 5, 4, 3, 2, 1]) == 0.25


@settings(deadline=None)
@given(scored_rows)
def test_equal_error_rate_is_the_first_crossing_over_thresholds(rows: tuple[Ints, Ints, Ints]) -> None:
    y, s, w = rows
    expected = equal_error_over_thresholds(y, s, w)
    assert m.equal_error_rate(y, s, w) == pytest.approx(expected, nan_ok=True)
    assert m.equal_error_rate(1 - y, -s, w) == pytest.approx(expected, nan_ok=True)


def test_equal_errors_of_many_weight_vectors_are_those_of_each() -> None:
    y, p, _ = table(2, seed=5)
    weights = np.random.default_rng(6).integers(0, 3, (7, len(y))).astype(np.float64)
    together = m.equal_error_statistic(y, p[:, 1])(weights)
    np.testing.assert_array_equal(together, [m.equal_error_rate(y, p[:, 1], w) for w in weights])


def test_equal_error_rate_lies_on_sklearns_roc_curve(sk: Any) -> None:
    rng = np.random.default_rng(3)
    y = rng.integers(0, 2, 500)
    s, w = np.round(rng.normal(size=500) + y, 1), rng.random(500)
    fpr, tpr, _ = sk.roc_curve(y, s, sample_weight=w, drop_intermediate=False)
    error = m.equal_error_rate(y, s, w)
    assert np.interp(error, fpr, tpr) == pytest.approx(1 - error)


def test_detection_error_curve_agrees_with_sklearn(sk: Any) -> None:
    y, p, _ = table(2, n=200, seed=1)
    fpr, tpr, thresholds = sk.roc_curve(y, p[:, 1], drop_intermediate=False)
    ours = m.detection_error_curve(y, p[:, 1])
    np.testing.assert_allclose(ours.false_accepts, fpr)
    np.testing.assert_allclose(ours.false_rejects, 1 - tpr, atol=1e-15)
    np.testing.assert_array_equal(ours.thresholds, thresholds)


def test_millions_of_trials_take_one_sort_not_a_loop() -> None:
    rng = np.random.default_rng(4)
    y = (rng.random(2_000_000) < 0.1).astype(np.int64)
    s = rng.normal(size=len(y)) + 2 * y
    started = time.process_time()
    error = m.equal_error_rate(y, s)
    assert time.process_time() - started < 2  # it takes a quarter of a second
    # Two normals two deviations apart: the threshold halfway errs as often as a normal passes 1.
    assert error == pytest.approx(math.erfc(1 / math.sqrt(2)) / 2, abs=3e-3)


def test_sensitivity_at_specificity_is_a_step_not_a_line() -> None:
    y, s = [0, 0, 0, 0, 1, 1, 1], [0.1, 0.2, 0.3, 0.8, 0.25, 0.7, 0.9]
    assert m.sensitivity_at_specificity(y, s, 0.75) == pytest.approx(2 / 3)
    assert m.sensitivity_at_specificity(y, s, 0.5) == 1
    # A line from (1/4, 2/3) to (1/2, 1) would claim .8 here, which no threshold gives.
    assert m.sensitivity_at_specificity(y, s, 0.65) == pytest.approx(2 / 3)
    assert m.sensitivity_at_specificity(y, s, 1) == pytest.approx(1 / 3)
    assert m.specificity_at_sensitivity(y, s, 0.5) == 0.75


@pytest.mark.parametrize("k", range(11))
def test_a_specificity_that_is_exactly_reached_counts(k: int) -> None:
    # 1 - 9/10 < .1 in floating point: k of 10 negatives below the positive must still reach k / 10.
    y, s = np.append(np.zeros(10, int), 1), np.append(np.arange(10.0), k - 0.5)
    assert m.sensitivity_at_specificity(y, s, k / 10) == 1


def test_counts_by_hand() -> None:
    y = np.repeat([1, 1, 0, 0], [6, 2, 1, 4])
    d = np.repeat([1, 0, 1, 0], [6, 2, 1, 4])  # TP 6, FN 2, FP 1, TN 4
    np.testing.assert_array_equal(m.confusion_matrix(y, d), [[4, 1], [2, 6]])
    assert m.sensitivity(y, d) == 6 / 8
    assert m.specificity(y, d) == 4 / 5
    assert m.uar(y, d) == pytest.approx((6 / 8 + 4 / 5) / 2)
    assert m.accuracy(y, d) == 10 / 13
    assert m.f1(y, d) == 12 / 15
    assert m.macro_f1(y, d) == pytest.approx((12 / 15 + 8 / 11) / 2)
    assert m.mcc(y, d) == pytest.approx((6 * 4 - 1 * 2) / math.sqrt(7 * 8 * 5 * 6))


def test_uar_counts_every_class_the_same() -> None:
    y, d = np.repeat([0, 1, 2], [90, 9, 1]), np.zeros(100, int)
    assert m.accuracy(y, d) == 0.9
    assert m.uar(y, d) == pytest.approx(1 / 3)


def test_mcc_of_several_classes_is_the_correlation_of_indicators() -> None:
    y, _, d = table(4, seed=3)
    a, b = np.eye(4)[y], np.eye(4)[d]

    def covariance(a: Floats, b: Floats) -> float:
        return float(sum(np.mean((a[:, k] - a[:, k].mean()) * (b[:, k] - b[:, k].mean())) for k in range(4)))

    expected = covariance(a, b) / math.sqrt(covariance(a, a) * covariance(b, b))
    assert m.mcc(y, d) == pytest.approx(expected)


def test_probability_scores_by_hand() -> None:
    y2, p2 = [1, 0, 1], [0.9, 0.2, 0.4]
    assert m.brier(y2, p2) == pytest.approx((0.01 + 0.04 + 0.36) / 3)
    assert m.log_loss(y2, p2) == pytest.approx(-(math.log(0.9) + math.log(0.8) + math.log(0.4)) / 3)
    y3, p3 = [2, 0], [[0.1, 0.2, 0.7], [0.5, 0.2, 0.3]]
    assert m.brier(y3, p3) == pytest.approx((0.01 + 0.04 + 0.09 + 0.25 + 0.04 + 0.09) / 2)
    assert m.log_loss(y3, p3) == pytest.approx(-(math.log(0.7) + math.log(0.5)) / 2)


def test_one_certain_error_costs_36_nats() -> None:
    assert m.log_loss([1, 0], [0.0, 0.0]) == pytest.approx(-math.log(2**-52) / 2)


def test_ece_by_hand() -> None:
    y, p = [0, 1, 1, 0, 1], [0.05, 0.15, 0.55, 0.59, 0.95]
    # Bins .0-.5 (2 rows), .5-1 (3 rows).
    expected = 2 / 5 * abs(0.10 - 0.5) + 3 / 5 * abs((0.55 + 0.59 + 0.95) / 3 - 2 / 3)
    assert m.ece(y, p, n_bins=2) == pytest.approx(expected)
    # Equal mass keeps .05 .15 | .55 .59 .95: the third row's rank, 2.5 of 5, is in the upper half.
    assert m.ece(y, p, n_bins=2, bins="mass") == pytest.approx(expected)
    curve = m.calibration_curve(y, p, n_bins=2)
    np.testing.assert_allclose(curve.probability, [0.10, (0.55 + 0.59 + 0.95) / 3])
    np.testing.assert_allclose(curve.frequency, [0.5, 2 / 3])
    np.testing.assert_array_equal(curve.weight, [2, 3])


def test_an_edge_belongs_to_the_bin_above_it() -> None:
    curve = m.calibration_curve([0, 1, 1, 1], [0.0, 0.5, 0.75, 1.0], n_bins=2)
    np.testing.assert_array_equal(curve.weight, [1, 3])
    np.testing.assert_array_equal(curve.probability, [0, 0.75])


def test_ece_of_several_classes_is_of_the_class_called() -> None:
    p = [[0.6, 0.3, 0.1], [0.1, 0.1, 0.8], [0.2, 0.7, 0.1]]
    assert m.ece([0, 0, 1], p, n_bins=1) == pytest.approx(abs((0.6 + 0.8 + 0.7) / 3 - 2 / 3))


def test_equal_mass_bins_hold_ties_together() -> None:
    p = [0.1, 0.3, 0.3, 0.3, 0.7, 0.7, 0.7, 0.9]  # middles of ranks: .5 2.5 5.5 7.5 of 8
    curve = m.calibration_curve([0, 0, 0, 1, 0, 1, 1, 1], p, n_bins=2, bins="mass")
    np.testing.assert_array_equal(curve.weight, [4, 4])
    np.testing.assert_allclose(curve.frequency, [1 / 4, 3 / 4])
    few = m.calibration_curve([0, 1], [0.2, 0.2], n_bins=10, bins="mass")
    np.testing.assert_array_equal(few.weight, [2])


@pytest.mark.parametrize("bins", ["width", "mass"])
def test_the_calibration_curve_averages_to_ece(bins: Any) -> None:
    y, p, _ = table(2)
    curve = m.calibration_curve(y, p, bins=bins)
    gap = np.abs(curve.probability - curve.frequency)
    assert m.ece(y, p, bins=bins) == pytest.approx(np.average(gap, weights=curve.weight))


def test_net_benefit_by_hand() -> None:
    y, p = [1, 1, 0, 0, 0], [0.9, 0.3, 0.6, 0.2, 0.1]
    assert m.net_benefit(y, p, 0.5) == pytest.approx(1 / 5 - 1 / 5 * 1)
    assert m.net_benefit(y, p, 0.2) == pytest.approx(2 / 5 - 2 / 5 * 0.25)  # .2 is positive at .2
    curve = m.decision_curve(y, p, [0.0, 0.2, 0.4])
    np.testing.assert_allclose(curve.treat_all, [0.4, 0.4 - 0.6 / 4, 0.4 - 0.6 * 0.4 / 0.6], atol=1e-12)
    assert curve.model[0] == curve.treat_all[0] == 0.4  # at 0 everyone is positive
    assert curve.treat_all[2] == pytest.approx(0)  # it pays until the prevalence
    assert not curve.treat_none.any()
    assert len(m.decision_curve(y, p).thresholds) == 99


@pytest.mark.parametrize(
    "value",
    [
        m.auroc([1, 1], [0.1, 0.2]),
        m.average_precision([0, 0], [0.1, 0.2]),
        m.sensitivity_at_specificity([1, 1], [0.1, 0.2], 0.8),
        m.specificity_at_sensitivity([0, 0], [0.1, 0.2], 0.8),
        m.macro_auroc([0, 1, 1], np.full((3, 3), 1 / 3)),
        m.uar([0, 2], [0, 2]),
        m.uar([0, 1], [0, 1], n_classes=3),
        m.sensitivity([0, 0], [0, 1]),
        m.specificity([1, 1], [0, 1]),
        m.f1([0, 0], [0, 0]),
        m.macro_f1([0, 0], [0, 0]),
        m.mcc([0, 0], [0, 1]),
        m.mcc([0, 1, 2], [1, 1, 1]),
        m.brier([0, 1], [0.1, 0.2], [0, 0]),
        m.accuracy([0, 1], [0, 1], [0, 0]),
        m.ece([0, 1], [0.1, 0.2], [0, 0], bins="mass"),
        m.roc_curve([1, 1], [0.1, 0.2]).fpr[-1],
        m.roc_curve([1, 0], [0.1, 0.2], [0, 0]).tpr[0],
        m.precision_recall_curve([0, 0], [0.1, 0.2]).recall[-1],
    ],
)
def test_undefined_is_nan(value: float) -> None:
    assert math.isnan(value)


@pytest.mark.parametrize("weighted", [False, True])
def test_scores_agree_with_sklearn(sk: Any, weighted: bool) -> None:
    y, p, d = table(2, n=200, seed=1)
    w = np.random.default_rng(2).random(200) if weighted else None
    s = p[:, 1]
    assert m.auroc(y, s, w) == pytest.approx(sk.roc_auc_score(y, s, sample_weight=w))
    assert m.average_precision(y, s, w) == pytest.approx(sk.average_precision_score(y, s, sample_weight=w))
    fpr, tpr, thresholds = sk.roc_curve(y, s, sample_weight=w, drop_intermediate=False)
    ours = m.roc_curve(y, s, w)
    np.testing.assert_allclose(ours.fpr, fpr)
    np.testing.assert_allclose(ours.tpr, tpr)
    np.testing.assert_array_equal(ours.thresholds, thresholds)
    precision, recall, thresholds = sk.precision_recall_curve(y, s, sample_weight=w)
    curve = m.precision_recall_curve(y, s, w)
    np.testing.assert_allclose(curve.precision, precision[:-1][::-1])  # theirs ends with a made-up point
    np.testing.assert_allclose(curve.recall, recall[:-1][::-1])
    np.testing.assert_array_equal(curve.thresholds, thresholds[::-1])
    assert m.brier(y, p, w) == pytest.approx(sk.brier_score_loss(y, s, sample_weight=w))
    assert m.log_loss(y, s, w) == pytest.approx(sk.log_loss(y, s, sample_weight=w))
    assert m.f1(y, d, w) == pytest.approx(sk.f1_score(y, d, sample_weight=w))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n_classes", [2, 3, 5])
def test_class_metrics_agree_with_sklearn(sk: Any, n_classes: int, weighted: bool) -> None:
    y, p, d = table(n_classes, n=200, seed=4)
    w = np.random.default_rng(2).random(200) if weighted else None
    np.testing.assert_allclose(m.confusion_matrix(y, d, w), sk.confusion_matrix(y, d, sample_weight=w))
    assert m.uar(y, d, w) == pytest.approx(sk.balanced_accuracy_score(y, d, sample_weight=w))
    assert m.accuracy(y, d, w) == pytest.approx(sk.accuracy_score(y, d, sample_weight=w))
    assert m.macro_f1(y, d, w) == pytest.approx(sk.f1_score(y, d, average="macro", sample_weight=w))
    assert m.mcc(y, d, w) == pytest.approx(sk.matthews_corrcoef(y, d, sample_weight=w))
    assert m.log_loss(y, p, w) == pytest.approx(sk.log_loss(y, p, sample_weight=w))
    if n_classes > 2:
        assert m.brier(y, p, w) == pytest.approx(sk.brier_score_loss(y, p, sample_weight=w))
        expected = np.mean([sk.roc_auc_score(y == k, p[:, k], sample_weight=w) for k in range(n_classes)])
        assert m.macro_auroc(y, p, w) == pytest.approx(expected)


@pytest.mark.parametrize("n_bins", [7, 15])
def test_calibration_error_and_mcc_agree_with_torchmetrics(n_bins: int) -> None:
    torch = pytest.importorskip("torch")
    tm = pytest.importorskip("torchmetrics.functional.classification")
    rng = np.random.default_rng(5)
    p2, p3 = rng.random(300), rng.dirichlet([1, 1, 1], 300)
    y2, y3 = rng.integers(0, 2, 300), rng.integers(0, 3, 300)
    t = torch.from_numpy
    ours = m.ece(y2, p2, n_bins=n_bins)
    assert ours == pytest.approx(float(tm.binary_calibration_error(t(p2), t(y2), n_bins=n_bins)), abs=1e-6)
    theirs = tm.multiclass_calibration_error(t(p3), t(y3), num_classes=3, n_bins=n_bins)
    assert m.ece(y3, p3, n_bins=n_bins) == pytest.approx(float(theirs), abs=1e-6)
    d3 = p3.argmax(axis=1)
    theirs = tm.multiclass_matthews_corrcoef(t(d3), t(y3), num_classes=3)
    assert m.mcc(y3, d3) == pytest.approx(float(theirs), abs=1e-6)


def test_macro_auroc_of_two_classes_is_auroc() -> None:
    y, p, _ = table(2)
    assert m.macro_auroc(y, p) == pytest.approx(m.auroc(y, p[:, 1]))


def rows_of(n_classes: int) -> list[str]:
    return [name for name, metric in m.METRICS.items() if metric.applies(n_classes)]


TABLE_ROWS = [(name, n_classes) for n_classes in (2, 3) for name in rows_of(n_classes)]


@pytest.mark.parametrize(("name", "n_classes"), TABLE_ROWS)
def test_weights_are_copies_of_rows(name: str, n_classes: int) -> None:
    y, p, d = table(n_classes)
    weights = np.random.default_rng(6).poisson(1.0, (9, len(y))).astype(float)
    together = m.statistic(name, y, p, d)(weights)
    for value, w in zip(together, weights, strict=True):
        copies = np.repeat(np.arange(len(y)), w.astype(int))
        assert value == pytest.approx(m.summarise(y[copies], p[copies], d[copies])[name], rel=1e-12)
        assert value == pytest.approx(m.summarise(y, p, d, w)[name], rel=1e-12)


@pytest.mark.parametrize(("name", "n_classes"), TABLE_ROWS)
def test_order_of_rows_and_size_of_weights_do_not_matter(name: str, n_classes: int) -> None:
    y, p, d = table(n_classes)
    w = np.random.default_rng(7).random(len(y))
    order = np.random.default_rng(8).permutation(len(y))
    value = m.summarise(y, p, d, w)[name]
    assert m.summarise(y[order], p[order], d[order], 3.7 * w[order])[name] == pytest.approx(value)


@pytest.mark.parametrize(("name", "n_classes"), TABLE_ROWS)
def test_the_table_knows_which_way_is_better(name: str, n_classes: int) -> None:
    y = np.arange(40) % n_classes
    sure, unsure = np.eye(n_classes)[y], np.full((40, n_classes), 0.1 / (n_classes - 1))
    right = np.where(sure > 0, 0.9, unsure)
    wrong = np.roll(right, 1, axis=1)
    good = m.summarise(y, right, right.argmax(axis=1))[name]
    bad = m.summarise(y, wrong, wrong.argmax(axis=1))[name]
    assert good > bad if m.METRICS[name].higher_is_better else good < bad


@pytest.mark.parametrize("name", sorted(m.METRICS))
def test_the_table_says_what_a_metric_needs(name: str) -> None:
    n_classes = 2 if m.METRICS[name].applies(2) else 3
    y, p, d = table(n_classes)
    value = m.summarise(y, p, d)[name]
    other_decisions = m.summarise(y, p, np.roll(d, 1))[name]
    other_probabilities = m.summarise(y, np.roll(p, 1, axis=0), d)[name]
    if m.METRICS[name].needs == "probabilities":
        assert other_decisions == value != other_probabilities
    else:
        assert other_probabilities == value != other_decisions


def test_the_table_covers_both_tasks() -> None:
    assert {metric.task for metric in m.METRICS.values()} == {"binary", "multiclass", "any"}
    assert len({metric.title for metric in m.METRICS.values()}) == len(m.METRICS)
    assert rows_of(2)[0] == "auroc"
    assert rows_of(3)[0] == "macro_auroc"


def test_summarise_is_each_function_of_two_classes() -> None:
    y, p, d = table(2, seed=9)
    s = p[:, 1]
    expected = {
        "auroc": m.auroc(y, s),
        "average_precision": m.average_precision(y, s),
        "sensitivity_at_specificity_80": m.sensitivity_at_specificity(y, s, 0.8),
        "uar": m.uar(y, d),
        "sensitivity": m.sensitivity(y, d),
        "specificity": m.specificity(y, d),
        "accuracy": m.accuracy(y, d),
        "f1": m.f1(y, d),
        "mcc": m.mcc(y, d),
        "brier": m.brier(y, p),
        "log_loss": m.log_loss(y, p),
        "ece": m.ece(y, p),
    }
    assert m.summarise(y, p, d) == expected
    assert m.summarise(y, s, d) == pytest.approx(expected)


def test_summarise_is_each_function_of_more_classes() -> None:
    y, p, d = table(4, seed=9)
    assert m.summarise(y, p, d) == {
        "macro_auroc": m.macro_auroc(y, p),
        "uar": m.uar(y, d),
        "accuracy": m.accuracy(y, d),
        "macro_f1": m.macro_f1(y, d),
        "mcc": m.mcc(y, d),
        "brier": m.brier(y, p),
        "log_loss": m.log_loss(y, p),
        "ece": m.ece(y, p),
    }


def test_a_row_of_weight_0_makes_no_point_of_a_curve() -> None:
    y, s, w = [0, 1, 1, 0], [0.1, 0.2, 0.3, 0.4], [1, 0, 2, 0]
    np.testing.assert_array_equal(m.roc_curve(y, s, w).thresholds, [math.inf, 0.3, 0.1])
    np.testing.assert_array_equal(m.precision_recall_curve(y, s, w).thresholds, [0.3, 0.1])


def test_a_summary_without_a_class_is_nan_where_it_must_be() -> None:
    summary = m.summarise([1, 1, 1], [0.9, 0.8, 0.3], [1, 1, 0])
    assert {name for name, value in summary.items() if math.isnan(value)} == {
        "auroc",
        "sensitivity_at_specificity_80",
        "uar",
        "specificity",
        "mcc",
    }


def test_what_rounding_carried_past_1_is_cut() -> None:
    assert m.brier([1, 0], [1 + 1e-7, -1e-7]) == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: m.auroc([0, 1], [0.1]), r"scores must be \(2,\) as the labels are, got \(1,\)"),
        (lambda: m.auroc([0, 2], [0.1, 0.2]), r"labels must be in 0..1, got 2 in row 1"),
        (lambda: m.auroc([-1, 1], [0.1, 0.2]), r"labels must be in 0..1, got -1 in row 0"),
        (lambda: m.auroc([0.0, 1.0], [0.1, 0.2]), "labels must be integers, got float64"),
        (lambda: m.auroc([], []), r"labels must be \(n,\) with n > 0, got shape \(0,\)"),
        (lambda: m.auroc([0, 1], [0.1, NAN]), "scores must not be NaN, but row 1 is"),
        (lambda: m.auroc([0, 1], [1, 2], [1, -2]), r"weights must be finite and >= 0, got -2.0 in row 1"),
        (lambda: m.auroc([0, 1], [1, 2], [[1, 2]]), r"weights must be \(2,\) .*, got \(1, 2\)"),
        (lambda: m.equal_error_rate([0, 1], [NAN, 0]), "scores must not be NaN, but row 0 is"),
        (lambda: m.uar([0, 1], [0, 1, 1]), r"predictions must be \(2,\) as the labels are, got \(3,\)"),
        (lambda: m.uar([0, 3], [0, 1], n_classes=3), r"labels must be in 0..2, got 3 in row 1"),
        (lambda: m.sensitivity([0, 1], [0, 2]), r"predictions must be in 0..1, got 2 in row 1"),
        (lambda: m.brier([0, 1], [0.1, 1.2]), r"probabilities must be in \[0, 1\], got 1.2 in row 1"),
        (lambda: m.brier([0, 1], [0.1, NAN]), r"probabilities must be in \[0, 1\], got nan in row 1"),
        (lambda: m.brier([0, 1], [[0.1, 0.8], [0.5, 0.5]]), "must sum to 1, row 0 sums to 0.9"),
        (lambda: m.brier([0, 1], [[1.0], [1.0]]), r"\(n, n_classes >= 2\) with n > 0, got \(2, 1\)"),
        (lambda: m.brier([0], [0.1, 0.2]), "one row per label, 1, got 2"),
        (lambda: m.net_benefit([0, 1, 2], np.full((3, 3), 1 / 3), 0.5), r"\(n, 2\) with n > 0, got \(3, 3\)"),
        (
            lambda: m.net_benefit([0, 1], [0.1, 0.2], 1.0),
            r"thresholds must be numbers in \[0, 1\), got \[1.0\]",
        ),
        (lambda: m.ece([0, 1], [0.1, 0.2], n_bins=0), "n_bins must be > 0, got 0"),
        (
            lambda: m.ece([0, 1], [0.1, 0.2], bins=UNKNOWN),
            "bins must be 'width' or 'mass', got 'quantile'",
        ),
        (
            lambda: m.sensitivity_at_specificity([0, 1], [1, 2], 80),
            r"specificity must be in \[0, 1\], got 80",
        ),
        (
            lambda: m.specificity_at_sensitivity([0, 1], [1, 2], -1),
            r"sensitivity must be in \[0, 1\], got -1",
        ),
        (
            lambda: m.statistic("aurcc", [0, 1], [0.1, 0.2], [0, 1]),
            "no metric 'aurcc' for 2 classes; did you mean 'auroc'",
        ),
        (
            lambda: m.statistic("sensitivity", [0, 1, 2], np.full((3, 3), 1 / 3), [0, 1, 2]),
            "no metric 'sensitivity' for 3 classes; choose from macro_auroc, uar",
        ),
    ],
)
def test_bad_input_says_what_was_wrong(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
