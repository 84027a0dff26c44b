"""Calibrators and thresholds: planted truths, sklearn, optimality by perturbation, and what cannot be fitted."""

import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from vagitus import metrics
from vagitus.calibration import (
    CALIBRATORS,
    FITS,
    THRESHOLD_RULES,
    Identity,
    Isotonic,
    Logistic,
    Temperature,
    Threshold,
    choose_threshold,
    decide,
    fit,
    fit_identity,
    fit_isotonic,
    fit_logistic,
    fit_temperature,
    from_dict,
    isotonic_regression,
    log_probabilities,
    softmax,
)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
NAN = math.nan


@pytest.fixture(autouse=True)
def floating_point_is_clean() -> Iterator[None]:
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        yield


def planted(
    n_classes: int, *, n: int = 400, temperature: float = 1.0, bias: float = 0.0, seed: int = 0
) -> tuple[Ints, Floats]:
    """Logits z, and labels drawn from softmax(z / temperature + bias of the last class)."""
    rng = np.random.default_rng(seed)
    z = rng.normal(0, 2, (n, n_classes))
    p = softmax(z / temperature + bias * (np.arange(n_classes) == n_classes - 1))
    y = (rng.random((n, 1)) > p.cumsum(axis=1)).sum(axis=1)
    return np.minimum(y, n_classes - 1), z


def separate() -> tuple[Ints, Floats]:
    return np.array([0, 0, 1, 1, 1]), np.array([-3.0, -1.0, 0.5, 2.0, 9.0])


def likelihood_cost(y: Ints, z: Floats) -> float:
    return metrics.log_loss(y, softmax(z))


@pytest.mark.parametrize("n_classes", [2, 5])
@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_temperature_is_found(n_classes: int, temperature: float) -> None:
    y, z = planted(n_classes, n=8000, temperature=temperature)
    fitted = fit_temperature(y, z)
    assert isinstance(fitted, Temperature)
    assert fitted.temperature == pytest.approx(temperature, rel=0.08)
    assert fitted.note == ""


@pytest.mark.parametrize("n_classes", [2, 3])
def test_temperature_has_the_least_cost(n_classes: int) -> None:
    y, z = planted(n_classes, temperature=2.5)
    fitted = fit_temperature(y, z)
    assert isinstance(fitted, Temperature)
    costs = [likelihood_cost(y, z / (fitted.temperature * f)) for f in (0.999, 1, 1.001)]
    assert costs[1] == min(costs)
    slope = (likelihood_cost(y, z / (fitted.temperature * 1.00001)) - costs[1]) / 1e-5
    assert slope == pytest.approx(0, abs=1e-4)


def test_temperature_by_hand() -> None:
    # Three of four recordings of log-odds 1 are right: sigma(1 / T) = 3/4, so T = 1 / log 3.
    fitted = fit_temperature([1, 1, 1, 0], [1.0, 1.0, 1.0, 1.0])
    assert isinstance(fitted, Temperature)
    assert fitted.temperature == pytest.approx(1 / math.log(3))


def test_temperature_keeps_the_likeliest_class() -> None:
    y, z = planted(4, temperature=5)
    np.testing.assert_array_equal(fit_temperature(y, z).apply(z).argmax(axis=1), z.argmax(axis=1))


@pytest.mark.parametrize(
    ("flip", "scale", "temperature", "note"),
    [
        (True, 1.0, 1e3, "stopped at 1000: the logits mislead"),
        (False, 1e-6, 1e-3, "stopped at 0.001: the logits are on a tiny"),
    ],
)
def test_temperature_stops_at_a_bound_and_says_so(
    flip: bool, scale: float, temperature: float, note: str
) -> None:
    y, z = planted(2)
    fitted = fit_temperature(1 - y if flip else y, z * scale)
    assert isinstance(fitted, Temperature)
    assert fitted.temperature == temperature
    assert note in fitted.note


def platt_by_sklearn(y: Ints, s: Floats) -> tuple[float, float]:
    """Slope and bias: an unpenalised regression on rows copied to both labels, weighted by Platt's targets."""
    linear_model: Any = pytest.importorskip("sklearn.linear_model")
    n1, n0 = int(y.sum()), int((1 - y).sum())
    t = np.where(y == 1, (n1 + 1) / (n1 + 2), 1 / (n0 + 2))
    model = linear_model.LogisticRegression(C=1e12, tol=1e-10, max_iter=1000)
    model.fit(np.tile(s, 2)[:, None], np.repeat([1, 0], len(s)), sample_weight=np.concatenate([t, 1 - t]))
    return float(model.coef_[0, 0]), float(model.intercept_[0])


@pytest.mark.parametrize("data", [planted(2, temperature=2, bias=-1.5), (separate()[0], separate()[1])])
def test_logistic_is_platt(data: tuple[Ints, Floats]) -> None:
    y, z = data
    fitted = fit_logistic(y, z)
    assert isinstance(fitted, Logistic)
    scores = z if z.ndim == 1 else z[:, 1] - z[:, 0]
    assert (fitted.slope, fitted.bias[1]) == pytest.approx(platt_by_sklearn(y, scores), rel=1e-3)
    assert fitted.bias[0] == 0


def smoothed_cost(y: Ints, z: Floats, slope: float, bias: Floats) -> float:
    """The cost that fit_logistic states, row by row."""
    n_classes, total = z.shape[1], 0.0
    for label, row in zip(y, z, strict=True):
        n_same = int((y == label).sum())
        logits = slope * row + bias
        log_p = logits - np.log(np.exp(logits).sum())
        for k in range(n_classes):
            total -= (n_same + 1 if k == label else 1) / (n_same + n_classes) * log_p[k]
    return total


def test_logistic_of_several_classes_has_the_least_cost() -> None:
    y, z = planted(3, n=150, temperature=1.7, bias=1.0)
    z = z + np.array([0.0, 4.0, -2.0])  # an offset that only the biases can take away
    fitted = fit_logistic(y, z)
    assert isinstance(fitted, Logistic)
    bias = np.array(fitted.bias)
    best = smoothed_cost(y, z, fitted.slope, bias)
    for step in (0.01, -0.01):
        assert smoothed_cost(y, z, fitted.slope + step, bias) > best
        for k in (1, 2):
            assert smoothed_cost(y, z, fitted.slope, bias + step * np.eye(3)[k]) > best


def test_logistic_finds_slope_and_bias() -> None:
    y, z = planted(3, n=8000, temperature=2.0, bias=1.3)
    fitted = fit_logistic(y, z)
    assert isinstance(fitted, Logistic)
    assert fitted.slope == pytest.approx(0.5, rel=0.08)
    assert fitted.bias == pytest.approx((0, 0, 1.3), abs=0.15)


def test_logistic_never_turns_the_ranking_over() -> None:
    y, z = planted(2)
    fitted = fit_logistic(1 - y, z)
    assert isinstance(fitted, Logistic)
    assert fitted.slope > 0
    assert "no better than chance" in fitted.note
    p = fitted.apply(z)[:, 1]
    assert metrics.auroc(y, p) == metrics.auroc(y, z[:, 1] - z[:, 0])
    assert p.mean() == pytest.approx((1 - y).mean(), abs=0.01)  # the bias still fits the prevalence


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e5])
def test_logistic_does_not_depend_on_the_scale_of_scores(scale: float) -> None:
    y, z = planted(2, bias=2.0)
    np.testing.assert_allclose(
        fit_logistic(y, z * scale).apply(z * scale), fit_logistic(y, z).apply(z), atol=1e-6
    )


def test_isotonic_regression_by_hand() -> None:
    np.testing.assert_allclose(isotonic_regression([1, 3, 2, 4]), [1, 2.5, 2.5, 4])
    np.testing.assert_allclose(isotonic_regression([3, 0, 0], [1, 1, 4]), [0.5, 0.5, 0.5])
    assert len(isotonic_regression([])) == 0


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(1, 4)), min_size=1, max_size=12))
def test_isotonic_regression_is_its_max_min_formula(rows: list[tuple[int, int]]) -> None:
    v, w = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    n = len(v)

    def mean(j: int, k: int) -> float:
        return float(np.average(v[j : k + 1], weights=w[j : k + 1]))

    expected = [max(min(mean(j, k) for k in range(i, n)) for j in range(i + 1)) for i in range(n)]
    np.testing.assert_allclose(isotonic_regression(v, w), expected, atol=1e-12)


@pytest.mark.parametrize("rounded", [False, True])
def test_isotonic_agrees_with_sklearn(rounded: bool) -> None:
    isotonic: Any = pytest.importorskip("sklearn.isotonic")
    y, z = planted(2, bias=1.0)
    scores = z[:, 1] - z[:, 0]
    scores = np.round(scores) if rounded else scores  # ties
    w = np.random.default_rng(1).integers(1, 4, len(y))
    margin = 1 / (w.sum() + 2)
    theirs = isotonic.IsotonicRegression(y_min=margin, y_max=1 - margin, out_of_bounds="clip")
    theirs.fit(scores, y, sample_weight=w)
    probe = np.linspace(-15, 15, 400)
    np.testing.assert_allclose(
        fit_isotonic(y, scores, w).apply(probe)[:, 1], theirs.predict(probe), atol=1e-12
    )


def test_isotonic_is_straight_between_knots_and_constant_outside() -> None:
    fitted = fit_isotonic([0, 1, 0, 1], [0.0, 1.0, 2.0, 4.0])
    # Pools: 0 | ½ ½ | 1, cut to 1/6..5/6.
    assert isinstance(fitted, Isotonic)
    assert fitted.log_odds == (0, 1, 2, 4)
    assert fitted.probability == pytest.approx((1 / 6, 1 / 2, 1 / 2, 5 / 6))
    np.testing.assert_allclose(fitted.apply([-9, 0.5, 1.7, 3, 99])[:, 1], [1 / 6, 1 / 3, 0.5, 2 / 3, 5 / 6])


@pytest.mark.parametrize("name", [name for name in FITS if name != "identity"])
def test_calibration_helps_on_other_recordings(name: str) -> None:
    y, z = planted(2, n=2000, temperature=3.0, bias=1.0, seed=1)
    y_test, z_test = planted(2, n=2000, temperature=3.0, bias=1.0, seed=2)
    before, after = softmax(z_test), fit(name, y, z).apply(z_test)
    for metric in (metrics.log_loss, metrics.brier, metrics.ece):
        assert metric(y_test, after) < metric(y_test, before)


@pytest.mark.parametrize("name", sorted(FITS))
@pytest.mark.parametrize("data", [planted(2, bias=1.0), separate()])
def test_every_fit_keeps_the_order_of_scores(name: str, data: tuple[Ints, Floats]) -> None:
    y, z = data
    scores = z if z.ndim == 1 else z[:, 1] - z[:, 0]
    p = fit(name, y, z).apply(scores[np.argsort(scores)])
    assert p.shape == (len(y), 2)
    assert (np.diff(p[:, 1]) >= 0).all()
    np.testing.assert_allclose(p.sum(axis=1), 1)
    assert name == "isotonic" or (np.diff(np.log(p[:, 1] / p[:, 0])) > 0).all()


@pytest.mark.parametrize("name", sorted(FITS))
def test_weights_are_copies_of_rows(name: str) -> None:
    y, z = planted(2, n=60, temperature=2)
    w = np.random.default_rng(3).integers(0, 4, 60)
    copies = np.repeat(np.arange(60), w)
    np.testing.assert_allclose(
        fit(name, y, z, w).apply(z), fit(name, y[copies], z[copies]).apply(z), rtol=1e-9
    )


@pytest.mark.parametrize("name", sorted(FITS))
def test_log_odds_stand_for_two_columns(name: str) -> None:
    y, z = planted(2, bias=0.5)
    scores = z[:, 1] - z[:, 0]
    np.testing.assert_allclose(fit(name, y, scores).apply(scores), fit(name, y, z).apply(z), rtol=1e-9)


@pytest.mark.parametrize("name", sorted(FITS))
@pytest.mark.parametrize("n_classes", [2, 3])
def test_a_calibrator_survives_a_file(name: str, n_classes: int) -> None:
    y, z = planted(n_classes, temperature=2)
    if name == "isotonic" and n_classes > 2:
        with pytest.raises(ValueError, match=r"logits must be \(n,\) or \(n, 2\), got \(400, 3\)"):
            fit(name, y, z)
        return
    fitted = fit(name, y, z)
    read = from_dict(json.loads(json.dumps(fitted.to_dict())))
    assert read == fitted
    assert isinstance(read, CALIBRATORS[name])  # type: ignore[arg-type]
    np.testing.assert_array_equal(read.apply(z), fitted.apply(z))


def test_every_calibrator_has_a_fit() -> None:
    assert set(CALIBRATORS) == set(FITS)


ONE_CLASS = ([1, 1, 1], [0.5, -1.0, 2.0])
ALIKE = ([0, 1, 1], [0.7, 0.7, 0.7])
FLAT = ([0, 1, 1], [0.0, 0.0, 0.0])
ALL_RIGHT = separate()


@pytest.mark.parametrize(
    ("name", "data", "note"),
    [
        ("temperature", ONE_CLASS, "temperature not fitted: the development data hold only class 1"),
        ("temperature", FLAT, "temperature not fitted: no development recording prefers a class"),
        ("temperature", ALL_RIGHT, "temperature not fitted: all 5 development recordings are right"),
        ("logistic", ONE_CLASS, "logistic not fitted: the development data hold only class 1"),
        ("logistic", ALIKE, "logistic not fitted: the development recordings all have the same logits"),
        ("isotonic", ONE_CLASS, "isotonic not fitted: the development data hold only class 1"),
        ("isotonic", ALIKE, "isotonic not fitted: the development recordings all have the same logits"),
    ],
)
def test_what_cannot_be_fitted_is_left_alone_and_says_why(name: str, data: Any, note: str) -> None:
    fitted = fit(name, *data)
    assert fitted == Identity(note)
    np.testing.assert_array_equal(fitted.apply(data[1]), Identity().apply(data[1]))


def test_a_class_missing_from_the_development_data_is_survived() -> None:
    y, z = planted(3)
    kept = y != 1
    for name in ("temperature", "logistic"):
        p = fit(name, y[kept], z[kept]).apply(z)
        assert np.isfinite(p).all()
        assert p.shape == (400, 3)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 1), st.floats(-1e6, 1e6)), min_size=1, max_size=15),
    st.sampled_from(sorted(FITS)),
)
def test_any_finite_logits_give_probabilities(rows: list[tuple[int, float]], name: str) -> None:
    y, z = (np.array(column) for column in zip(*rows, strict=True))
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        p = fit(name, y, z).apply(z)
    assert ((p >= 0) & (p <= 1)).all()
    np.testing.assert_allclose(p.sum(axis=1), 1)


def test_logits_of_probabilities_give_them_back() -> None:
    p = np.array([[0.2, 0.3, 0.5], [0.0, 1.0, 0.0]])
    np.testing.assert_allclose(softmax(log_probabilities(p)), p, atol=1e-11)
    np.testing.assert_allclose(softmax(log_probabilities([0.1])), [[0.9, 0.1]])
    assert np.isfinite(log_probabilities(p)).all()


def test_identity_is_softmax() -> None:
    np.testing.assert_allclose(fit_identity([0, 1], [0.0, math.log(3)]).apply([math.log(3)]), [[0.25, 0.75]])
    assert softmax([1e6, -1e6]).tolist() == [1, 0]


def test_the_middle_of_the_stretch_is_taken() -> None:
    chosen = choose_threshold([0, 0, 1, 1], [0.1, 0.2, 0.6, 0.9])
    assert chosen == Threshold(pytest.approx(0.4), "max_uar", 1.0, 1.0)  # type: ignore[arg-type]


def test_of_equal_stretches_the_widest_then_the_lowest_is_taken() -> None:
    # UAR ¾ in (.1, .2] and in (.3, .7].
    wide = choose_threshold([0, 1, 0, 1], [0.1, 0.2, 0.3, 0.7])
    assert wide.value == pytest.approx(0.5)
    assert (wide.sensitivity, wide.specificity) == (0.5, 1)
    # UAR ¾ in (.25, .5] and in (.625, .875], as wide.
    lower = choose_threshold([0, 1, 0, 1], [0.25, 0.5, 0.625, 0.875])
    assert lower.value == 0.375
    assert (lower.sensitivity, lower.specificity) == (1, 0.5)


def test_thresholds_at_a_wanted_rate_by_hand() -> None:
    y, p = [0, 0, 0, 0, 0, 1, 1, 1], [0.1, 0.2, 0.3, 0.4, 0.8, 0.35, 0.7, 0.9]
    at = choose_threshold(y, p, "sensitivity_at_specificity:0.8")
    assert (at.value, at.sensitivity, at.specificity) == pytest.approx((0.55, 2 / 3, 0.8))
    at = choose_threshold(y, p, "sensitivity_at_specificity:1")
    assert (at.value, at.sensitivity, at.specificity) == pytest.approx((0.85, 1 / 3, 1))
    at = choose_threshold(y, p, "specificity_at_sensitivity:0.9")
    assert (at.value, at.sensitivity, at.specificity) == pytest.approx((0.325, 1, 0.6))
    assert at.note == ""
    fixed = choose_threshold(y, p, "fixed:0.35")
    assert (fixed.value, fixed.sensitivity, fixed.specificity) == pytest.approx((0.35, 1, 0.6))


def test_of_equal_rates_the_other_rate_decides() -> None:
    # Sensitivity ½ is reached at .8 already, but down to (.2, .6] no negative is called positive.
    at = choose_threshold([0, 1, 1], [0.2, 0.6, 0.8], "specificity_at_sensitivity:0.5")
    assert (at.value, at.sensitivity, at.specificity) == pytest.approx((0.4, 1, 1))
    # Specificity ½ is reached down to .4, but below .8 no further positive is found.
    at = choose_threshold([0, 0, 1], [0.2, 0.4, 0.8], "sensitivity_at_specificity:0.5")
    assert (at.value, at.sensitivity, at.specificity) == pytest.approx((0.6, 1, 1))


@pytest.mark.parametrize("k", range(1, 11))
def test_a_specificity_that_is_exactly_reached_counts(k: int) -> None:
    y, p = np.append(np.zeros(10, int), 1), np.append(np.arange(10), k - 0.5) / 10
    assert choose_threshold(y, p, f"sensitivity_at_specificity:{k / 10}").sensitivity == 1


def test_a_rate_that_only_the_ends_reach_says_so() -> None:
    y, p = [1, 0, 1, 0], [0.2, 0.8, 0.5, 1.0]
    none = choose_threshold(y, p, "sensitivity_at_specificity:1")
    assert none.note == "no positive is found at specificity 1"
    assert not none.apply(p).any()  # although a probability is 1
    every = choose_threshold([0, 1], [0.5, 0.0], "specificity_at_sensitivity:1")
    assert every.note == "no negative is spared at sensitivity 1"
    assert every.apply([0.5, 0.0]).all()


@pytest.mark.parametrize(
    ("y", "p", "note"),
    [
        ([1, 1], [0.2, 0.9], "the development data lack a class; .5 kept"),
        ([0, 1, 0], [0.3, 0.3, 0.3], "no threshold beats chance on the development data; .5 kept"),
        ([1, 0], [0.1, 0.9], "no threshold beats chance on the development data; .5 kept"),
    ],
)
def test_a_threshold_that_cannot_be_chosen_is_a_half(y: Any, p: Any, note: str) -> None:
    chosen = choose_threshold(y, p)
    assert (chosen.value, chosen.note) == (0.5, note)


def test_a_fixed_threshold_needs_no_classes() -> None:
    chosen = choose_threshold([1, 1, 1], [0.2, 0.9, 0.6], "fixed:0.6")
    assert (chosen.value, chosen.note) == (0.6, "")
    assert chosen.sensitivity == pytest.approx(2 / 3)
    assert math.isnan(chosen.specificity)


def test_neighbouring_numbers_have_no_middle() -> None:
    low, high = 0.3, math.nextafter(0.3, 1)
    chosen = choose_threshold([0, 1], [low, high])
    assert decide([low, high], chosen.value).tolist() == [0, 1]


# Eighths, so that ties and the ends are common and their middles are exact.
development = st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, 8), st.integers(0, 2)), min_size=2, max_size=12
)


@settings(deadline=None)
@given(development, st.sampled_from([0.0, 0.4, 0.5, 0.8, 1.0]))
def test_no_threshold_does_better(rows: list[tuple[int, int, int]], target: float) -> None:
    y, p, w = (np.array(column) for column in zip(*rows, strict=True))
    p = p / 8
    if not (w[y == 0].any() and w[y == 1].any()):
        return
    every = [decide(p, t) for t in np.append(np.unique(p), 1.1)]
    sens = np.array([metrics.sensitivity(y, d, w) for d in every])
    spec = np.array([metrics.specificity(y, d, w) for d in every])

    for rule, best in (
        ("max_uar", (sens + spec).max()),
        (f"sensitivity_at_specificity:{target}", sens[spec >= target - 1e-9].max()),
        (f"specificity_at_sensitivity:{target}", spec[sens >= target - 1e-9].max()),
    ):
        chosen = choose_threshold(y, p, rule, w)
        d = chosen.apply(p)
        assert chosen.sensitivity == pytest.approx(metrics.sensitivity(y, d, w))
        assert chosen.specificity == pytest.approx(metrics.specificity(y, d, w))
        reached = {
            "max_uar": chosen.sensitivity + chosen.specificity,
            "sensitivity_at_specificity": chosen.sensitivity,
            "specificity_at_sensitivity": chosen.specificity,
        }[rule.partition(":")[0]]
        assert reached == pytest.approx(best) or (rule == "max_uar" and best <= 1 + 1e-9)


def test_decide() -> None:
    assert decide([0.2, 0.5, 0.7], 0.5).tolist() == [0, 1, 1]
    assert decide([[0.8, 0.2], [0.4, 0.6]], 0.15).tolist() == [1, 1]
    assert decide([[0.2, 0.5, 0.3], [0.1, 0.2, 0.7]]).tolist() == [1, 2]


def test_every_threshold_rule_is_documented() -> None:
    assert all(f"        {name}" in str(choose_threshold.__doc__) for name in THRESHOLD_RULES)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fit("platt", [0, 1], [0, 1]), "no calibrator 'platt'; .*choose from identity, temperature"),
        (lambda: fit("temprature", [0, 1], [0, 1]), "did you mean 'temperature'"),
        (lambda: fit_temperature([0, 1], [0.0, NAN]), r"logits must be finite .*, got nan in row 1"),
        (lambda: fit_temperature([0, 1], [0.0, 1e7]), r"within \+-1e\+06, got 10000000.0 in row 1"),
        (lambda: fit_temperature([0, 2], [0.0, 1.0]), "labels must be in 0..1, got 2 in row 1"),
        (lambda: fit_temperature([0], [0.0, 1.0]), "logits must have one row per label, 1, got 2"),
        (lambda: fit_logistic([0, 1], [0.0, 1.0], [0, 0]), "weights must not all be 0"),
        (lambda: fit_logistic([0, 1], [0.0, 1.0], [1, -1]), "weights must be finite and >= 0, got -1.0"),
        (lambda: fit_identity([0, 1], [[0.0], [1.0]]), r"logits must be .*n_classes >= 2\), got \(2, 1\)"),
        (lambda: fit_isotonic([], []), r"labels must be \(n,\) with n > 0"),
        (lambda: isotonic_regression([1, NAN]), r"values must be \(n,\) and finite, got shape \(2,\)"),
        (lambda: isotonic_regression([1, 2], [1, 0]), r"weights must be \(2,\), finite and > 0"),
        (lambda: Temperature(0.0), "temperature must be finite and > 0, got 0.0"),
        (lambda: Logistic(-1.0, (0.0, 1.0)), "slope must be finite and > 0, got -1.0"),
        (lambda: Logistic(1.0, (0.0,)), r"bias must be finite, one per class, got \(0.0,\)"),
        (lambda: Logistic(1.0, (0.0, 1.0)).apply([[1, 2, 3]]), r"\(n, 2\), got \(1, 3\)"),
        (lambda: Isotonic((0.0, 0.0), (0.1, 0.2)), "log_odds of knots must be finite and rise"),
        (lambda: Isotonic((0.0, 1.0), (0.3, 0.2)), "probability of knots must be in"),
        (lambda: Isotonic((0.0,), (0.3, 0.2)), "knots must come in pairs"),
        (lambda: from_dict({"name": "temprature"}), "did you mean 'temperature'"),
        (lambda: from_dict({"temperature": 2.0}), "no calibrator 'None'"),
        (
            lambda: from_dict({"name": "temperature", "t": 2.0}),
            r"no calibrator 'temperature' of the fields \['t'\]",
        ),
        (
            lambda: from_dict({"name": "temperature", "temperature": "hot"}),
            r"of the fields \['temperature'\]",
        ),
        (lambda: choose_threshold([0, 1], [0.1, 0.2], "youden"), "no threshold rule 'youden'; .*max_uar"),
        (lambda: choose_threshold([0, 1], [0.1, 0.2], "fixed"), "'fixed' needs a value, as in fixed:0.8"),
        (lambda: choose_threshold([0, 1], [0.1, 0.2], "max_uar:0.5"), "'max_uar' takes no value"),
        (lambda: choose_threshold([0, 1], [0.1, 0.2], "fixed:80"), r"'fixed:80': .* in \[0, 1\]"),
        (
            lambda: choose_threshold([0, 1], [0.1, 0.2], "fixed:half"),
            r"'fixed:half': .* a number in \[0, 1\]",
        ),
        (
            lambda: choose_threshold([0, 1], [0.1, 2.0]),
            r"probabilities must be in \[0, 1\], got 2.0 in row 1",
        ),
        (lambda: choose_threshold([0, 1], np.full((2, 3), 1 / 3)), r"\(n, 2\) with n > 0, got \(2, 3\)"),
        (lambda: decide([0.1, 0.2]), "two classes need a threshold and more take none; got None for 2"),
        (lambda: decide([[0.2, 0.5, 0.3]], 0.5), "more take none; got 0.5 for 3"),
        (lambda: log_probabilities([[0.5]]), r"probabilities must be .*got \(1, 1\)"),
    ],
)
def test_bad_input_says_what_was_wrong(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
