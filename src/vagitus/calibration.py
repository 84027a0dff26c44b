"""From a model's logits to probabilities that mean what they say, and from those to a decision. NumPy only.

Conventions
    labels         (n,) integers, 0..n_classes-1; 1 is positive when binary
    logits         (n, n_classes) before softmax, finite; binary may be (n,), the log-odds of class 1
    probabilities  (n, n_classes), rows sum to 1; binary may be (n,), the probability of class 1
    weights        (n,) >= 0, None for 1 each; weight k stands for k copies of the row

Everything here is fitted on development data: recordings of subjects that neither train the model nor
test it. A calibrator or a threshold judged on the recordings that it was fitted on flatters itself.

What the development data cannot determine (one class, no two recordings different, nothing wrong) gives
``Identity``, or a threshold of .5, with a ``note`` that says why; a fit stopped by a bound has a note too.
Whoever shows a result shows its notes.

Every fit keeps the order of binary scores; isotonic makes ties.

Every function raises ValueError, with shapes and values, for arrays that are empty or differ in length,
labels that are not the integers above, logits that are not finite, and negative weights.
"""

import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from vagitus.metrics import (
    ArrayLike,
    FloatArray,
    IntArray,
    RocCurve,
    checked_labels,
    checked_probabilities,
    checked_weights,
    roc_curve,
)

MAX_LOGIT = 1e6  # far beyond what a working model says; squares of much more would overflow
TEMPERATURES = (1e-3, 1e3)  # the range searched; a fit at an end of it is not an optimum
# Per standard deviation of the log-odds. A slope of 0 or less would turn the ranking over; this keeps the
# order and is as good as flat.
MIN_SLOPE = 0.01
PROBABILITY_FLOOR = 1e-12  # of ``log_probabilities``: log-odds stay within +-28
ROUNDING = 1e-9  # rates are ratios of counts; differences this small come from dividing them


@dataclass(frozen=True)
class Identity:
    """softmax(logits): no calibration, and why."""

    note: str = ""

    def apply(self, logits: ArrayLike) -> FloatArray:
        """Logits (n, n_classes) or (n,) -> probabilities (n, n_classes)."""
        return softmax(_columns(logits))

    def to_dict(self) -> dict[str, Any]:
        """Name and numbers, for JSON; ``from_dict`` reads them."""
        return _described(self)


@dataclass(frozen=True)
class Temperature:
    """softmax(logits / temperature): confidence changes, the likeliest class does not."""

    temperature: float
    note: str = ""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ValueError(f"temperature must be finite and > 0, got {self.temperature!r}")

    def apply(self, logits: ArrayLike) -> FloatArray:
        """Logits (n, n_classes) or (n,) -> probabilities (n, n_classes)."""
        return softmax(_columns(logits) / self.temperature)

    def to_dict(self) -> dict[str, Any]:
        """Name and numbers, for JSON; ``from_dict`` reads them."""
        return _described(self)


@dataclass(frozen=True)
class Logistic:
    """softmax(slope * logits + bias): Platt scaling; with more classes, temperature and bias."""

    slope: float
    bias: tuple[float, ...]  # (n_classes,), the first 0
    note: str = ""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.slope) and self.slope > 0):
            raise ValueError(f"slope must be finite and > 0, got {self.slope!r}")
        if len(self.bias) < 2 or not np.isfinite(self.bias).all():
            raise ValueError(f"bias must be finite, one per class, got {self.bias!r}")

    def apply(self, logits: ArrayLike) -> FloatArray:
        """Logits (n, n_classes) or (n,) -> probabilities (n, n_classes)."""
        return softmax(self.slope * _columns(logits, len(self.bias)) + np.array(self.bias))

    def to_dict(self) -> dict[str, Any]:
        """Name and numbers, for JSON; ``from_dict`` reads them."""
        return _described(self)


@dataclass(frozen=True)
class Isotonic:
    """A never-falling function of the log-odds: straight between knots, constant outside. Two classes."""

    log_odds: tuple[float, ...]  # (n_knots,) rising
    probability: tuple[float, ...]  # (n_knots,) never falling
    note: str = ""

    def __post_init__(self) -> None:
        x, p = np.array(self.log_odds), np.array(self.probability)
        if x.ndim != 1 or x.shape != p.shape or len(x) == 0:
            raise ValueError(f"knots must come in pairs, got {self.log_odds!r} and {self.probability!r}")
        if not (np.isfinite(x).all() and (np.diff(x) > 0).all()):
            raise ValueError(f"log_odds of knots must be finite and rise, got {self.log_odds!r}")
        if not ((p >= 0).all() and (p <= 1).all() and (np.diff(p) >= 0).all()):
            raise ValueError(f"probability of knots must be in [0, 1], never fall, got {self.probability!r}")

    def apply(self, logits: ArrayLike) -> FloatArray:
        """Logits (n, 2) or (n,) -> probabilities (n, 2)."""
        z = _columns(logits, 2)
        p = np.interp(z[:, 1] - z[:, 0], self.log_odds, self.probability)
        return np.stack([1 - p, p], axis=1)

    def to_dict(self) -> dict[str, Any]:
        """Name and numbers, for JSON; ``from_dict`` reads them."""
        return _described(self)


Calibrator = Identity | Temperature | Logistic | Isotonic

CALIBRATORS: dict[str, Callable[..., Calibrator]] = {
    "identity": Identity,
    "temperature": Temperature,
    "logistic": Logistic,
    "isotonic": Isotonic,
}


def from_dict(values: Mapping[str, Any]) -> Calibrator:
    """The calibrator that a ``to_dict`` describes, such as one read from a model file.

    Args:
        values: "name" and the fields of that calibrator.

    Raises:
        ValueError: no calibrator has that name, a field is missing or unknown, or a value is out of range.
    """
    name = str(values.get("name"))
    if name not in CALIBRATORS:
        raise ValueError(_unknown("calibrator", name, CALIBRATORS))
    given = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items() if key != "name"}
    try:
        return CALIBRATORS[name](**given)
    except TypeError as error:
        raise ValueError(f"no calibrator {name!r} of the fields {sorted(given)}: {error}") from error


def fit_identity(labels: ArrayLike, logits: ArrayLike, weights: ArrayLike | None = None) -> Identity:
    """No calibration, as one choice among the others.

    Arguments and errors are those of ``fit_temperature``.
    """
    _development(labels, logits, weights)
    return Identity()


def fit_temperature(
    labels: ArrayLike, logits: ArrayLike, weights: ArrayLike | None = None
) -> Temperature | Identity:
    """The temperature T of least negative log-likelihood.

        NLL(a) = -sum_i w_i log softmax(a z_i)[y_i],  a = 1 / T

    It is convex in a: the derivative, sum_i w_i (E_{softmax(a z_i)} z_i - z_i[y_i]), changes sign once at
    most, and halving a bracket of log a finds where.

    Identity if only one class is there, if no recording prefers a class, or if every recording is right: then
    the likelihood grows without end as T falls to 0, and certainty is not what a few right answers prove.

    Args:
        labels: (n,) 0..n_classes-1, development data.
        logits: (n, n_classes) or (n,).
        weights: (n,) >= 0.

    Returns:
        Temperature, with a note if it stopped at an end of ``TEMPERATURES``; or Identity with a note.

    Raises:
        ValueError: bad input, see the module.

    Source: Guo et al. 2017, arXiv:1706.04599, section 4.2.
    """
    y, z, w = _development(labels, logits, weights)
    own = z[np.arange(len(y)), y]
    if note := _one_class(y):
        return Identity(f"temperature not fitted: {note}")
    if (np.ptp(z, axis=1) == 0).all():
        return Identity("temperature not fitted: no development recording prefers a class")
    if (own == z.max(axis=1)).all():
        return Identity(f"temperature not fitted: all {len(y)} development recordings are right")

    def too_sharp(a: float) -> bool:
        return bool(w @ ((softmax(a * z) * z).sum(axis=1) - own) >= 0)

    sharpest, flattest = TEMPERATURES
    if too_sharp(1 / flattest):
        return Temperature(flattest, f"temperature stopped at {flattest:g}: the logits mislead")
    if not too_sharp(1 / sharpest):
        return Temperature(sharpest, f"temperature stopped at {sharpest:g}: the logits are on a tiny scale")
    low, high = -math.log(flattest), -math.log(sharpest)  # of log a
    for _ in range(60):  # as fine as floating point
        middle = (low + high) / 2
        low, high = (low, middle) if too_sharp(math.exp(middle)) else (middle, high)
    return Temperature(math.exp(-(low + high) / 2))


def fit_logistic(
    labels: ArrayLike, logits: ArrayLike, weights: ArrayLike | None = None
) -> Logistic | Identity:
    """Slope and bias of least cross-entropy to smoothed targets: Platt scaling.

        -sum_i w_i sum_k t_ik log softmax(slope z_i + bias)_k
        t_ik = (N_k + 1) / (N_k + K) for the class k that i is,  1 / (N_{y_i} + K) for each other

    with N_k the weight of class k, of K. For K = 2 these are Platt's targets; they keep the fit finite
    when the classes are separate. One slope and K - 1 biases for K > 2 is our extension. Convex, solved
    by Newton's method with step halving on standardised logits.

    The slope is at least ``MIN_SLOPE``: where development data rank below chance, Platt's own fit would turn
    the model over.

    Args:
        labels: (n,) 0..n_classes-1, development data.
        logits: (n, n_classes) or (n,).
        weights: (n,) >= 0.

    Returns:
        Logistic, with a note if the slope stopped at its bound; Identity with a note if only one class is
        there or no two recordings differ.

    Raises:
        ValueError: bad input, see the module.

    Source: Platt 1999, Advances in Large Margin Classifiers; Lin et al. 2007, Machine Learning 68.
    """
    y, z, w = _development(labels, logits, weights)
    if note := _one_class(y) or _all_alike(z):
        return Identity(f"logistic not fitted: {note}")
    n_classes = z.shape[1]
    n_of = np.bincount(y, w, n_classes)
    targets = np.repeat(1 / (n_of[y] + n_classes), n_classes).reshape(z.shape)
    targets[np.arange(len(y)), y] *= n_of[y] + 1

    log_odds = z - z[:, :1]
    centre = np.average(log_odds, axis=0, weights=w)
    scale = math.sqrt(np.average((log_odds - centre) ** 2, axis=0, weights=w)[1:].mean())
    x = (log_odds - centre) / scale
    theta = _newton(x, targets, w, np.zeros(n_classes), fixed=0)
    note = ""
    if theta[0] < MIN_SLOPE:
        theta = _newton(x, targets, w, np.append(MIN_SLOPE, theta[1:]), fixed=1)
        note = "slope stopped at its lower bound: development data rank no better than chance"
    slope = float(theta[0]) / scale
    bias = np.append(0.0, theta[1:]) - slope * centre
    return Logistic(slope, tuple(bias.tolist()), note)


def fit_isotonic(
    labels: ArrayLike, logits: ArrayLike, weights: ArrayLike | None = None
) -> Isotonic | Identity:
    """The never-falling function of the log-odds with least squared error to the labels. Two classes only.

    ``isotonic_regression`` over the distinct log-odds; knots are the ends of each level piece. Between knots
    it is straight, outside them constant. N recordings cannot prove a probability of 0 or 1, so values are
    cut to [1 / (N + 2), 1 - 1 / (N + 2)], which the source does not do. It wants some hundreds of
    recordings: with fewer prefer ``fit_logistic``.

    Args:
        labels: (n,) 0 or 1, development data.
        logits: (n, 2) or (n,).
        weights: (n,) >= 0.

    Returns:
        Isotonic; Identity with a note if only one class is there or no two recordings differ.

    Raises:
        ValueError: more than two classes, or bad input, see the module.

    Source: Zadrozny & Elkan 2002, KDD.
    """
    y, z, w = _development(labels, logits, weights, n_classes=2)
    if note := _one_class(y) or _all_alike(z):
        return Identity(f"isotonic not fitted: {note}")
    x, row = np.unique(z[:, 1] - z[:, 0], return_inverse=True)
    mass = np.bincount(row, w)
    margin = 1 / (w.sum() + 2)
    p = np.clip(isotonic_regression(np.bincount(row, w * y) / mass, mass), margin, 1 - margin)
    steps = np.diff(p) > 0
    knots = np.append(True, steps) | np.append(steps, True)
    return Isotonic(tuple(x[knots].tolist()), tuple(p[knots].tolist()))


FITS: dict[str, Callable[[ArrayLike, ArrayLike, ArrayLike | None], Calibrator]] = {
    "identity": fit_identity,
    "temperature": fit_temperature,
    "logistic": fit_logistic,
    "isotonic": fit_isotonic,
}


def fit(name: str, labels: ArrayLike, logits: ArrayLike, weights: ArrayLike | None = None) -> Calibrator:
    """Fit the calibrator of that name in FITS on development data.

    Args:
        name: a row of FITS.
        labels: (n,) 0..n_classes-1, development data.
        logits: (n, n_classes) or (n,).
        weights: (n,) >= 0.

    Raises:
        ValueError: no calibrator has that name, or as its function.
    """
    if name not in FITS:
        raise ValueError(_unknown("calibrator", name, FITS))
    return FITS[name](labels, logits, weights)


def isotonic_regression(values: ArrayLike, weights: ArrayLike | None = None) -> FloatArray:
    """The never-falling sequence nearest to ``values``, by pooling adjacent violators in O(n).

        min sum_i w_i (v_i - f_i)^2  over  f_1 <= f_2 <= ... <= f_n

    Args:
        values: (n,) finite.
        weights: (n,) > 0.

    Returns:
        (n,) f.

    Raises:
        ValueError: values are not (n,) and finite, or weights not (n,) and > 0.

    Source: Ayer et al. 1955, Annals of Mathematical Statistics 26.
    """
    v = np.asarray(values, dtype=np.float64)
    w = np.ones(v.shape) if weights is None else np.asarray(weights, dtype=np.float64)
    if v.ndim != 1 or not np.isfinite(v).all():
        raise ValueError(f"values must be (n,) and finite, got shape {v.shape}")
    if w.shape != v.shape or not ((w > 0) & np.isfinite(w)).all():
        raise ValueError(f"weights must be {v.shape}, finite and > 0, got shape {w.shape}")
    pools: list[tuple[float, float, int]] = []  # mean, weight, length
    for value, weight in zip(v.tolist(), w.tolist(), strict=True):
        mean, mass, length = value, weight, 1
        while pools and pools[-1][0] >= mean:
            mean_before, mass_before, length_before = pools.pop()
            mean = (mass_before * mean_before + mass * mean) / (mass_before + mass)
            mass, length = mass_before + mass, length_before + length
        pools.append((mean, mass, length))
    return np.repeat([pool[0] for pool in pools], [pool[2] for pool in pools]).astype(np.float64)


def softmax(logits: ArrayLike) -> FloatArray:
    """exp(z_k) / sum_j exp(z_j) along the last axis, without overflow."""
    z = np.asarray(logits, dtype=np.float64)
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    p: FloatArray = e / e.sum(axis=-1, keepdims=True)
    return p


def log_probabilities(probabilities: ArrayLike) -> FloatArray:
    """Logits of probabilities, such as those pooled over windows: log p, p held above 1e-12.

    Args:
        probabilities: (n, n_classes) or (n,).

    Returns:
        (n, n_classes); its ``softmax`` is the probabilities again.

    Raises:
        ValueError: a probability is outside [0, 1] or the shape is another.
    """
    return np.log(np.maximum(checked_probabilities(probabilities), PROBABILITY_FLOOR))


@dataclass(frozen=True)
class Threshold:
    """Positive if the probability of class 1 is at least ``value``."""

    value: float
    rule: str  # as it was asked for
    sensitivity: float  # on the development data, that is flattered; NaN without a positive
    specificity: float  # likewise; NaN without a negative
    note: str = ""

    def apply(self, probabilities: ArrayLike) -> IntArray:
        """Probabilities (n, 2) or (n,) -> predictions (n,)."""
        return decide(probabilities, self.value)


class ThresholdRule(NamedTuple):
    """A row of THRESHOLD_RULES."""

    choose: Callable[[RocCurve, float], tuple[float, str]]  # threshold and note
    takes_value: bool  # written "name:value"
    needs_classes: bool  # both must be in the development data


def _max_uar(curve: RocCurve, _: float) -> tuple[float, str]:
    uar = (curve.tpr + 1 - curve.fpr) / 2
    if uar.max() <= 0.5 + ROUNDING:
        return 0.5, "no threshold beats chance on the development data; .5 kept"
    stretches = [_stretch(curve, int(k)) for k in np.flatnonzero(uar >= uar.max() - ROUNDING)]
    return _middle(*max(stretches, key=lambda stretch: (stretch[1] - stretch[0], -stretch[1]))), ""


def _sensitivity_at_specificity(curve: RocCurve, specificity: float) -> tuple[float, str]:
    allowed = 1 - curve.fpr >= specificity - ROUNDING
    best = int(np.argmax(np.where(allowed, curve.tpr, -1.0)))  # the first: of equals, fewest false alarms
    note = "" if curve.tpr[best] > 0 else f"no positive is found at specificity {specificity:g}"
    return _middle(*_stretch(curve, best)), note


def _specificity_at_sensitivity(curve: RocCurve, sensitivity: float) -> tuple[float, str]:
    allowed = curve.tpr >= sensitivity - ROUNDING
    reached = np.where(allowed, 1 - curve.fpr, -1.0)
    best = int(np.flatnonzero(reached == reached.max())[-1])  # the last: of equals, most positives found
    note = "" if curve.fpr[best] < 1 else f"no negative is spared at sensitivity {sensitivity:g}"
    return _middle(*_stretch(curve, best)), note


def _fixed(_: RocCurve, value: float) -> tuple[float, str]:
    return value, ""


THRESHOLD_RULES: dict[str, ThresholdRule] = {
    "max_uar": ThresholdRule(_max_uar, takes_value=False, needs_classes=True),
    "sensitivity_at_specificity": ThresholdRule(
        _sensitivity_at_specificity, takes_value=True, needs_classes=True
    ),
    "specificity_at_sensitivity": ThresholdRule(
        _specificity_at_sensitivity, takes_value=True, needs_classes=True
    ),
    "fixed": ThresholdRule(_fixed, takes_value=True, needs_classes=False),
}


def choose_threshold(
    labels: ArrayLike,
    probabilities: ArrayLike,
    rule: str = "max_uar",
    weights: ArrayLike | None = None,
) -> Threshold:
    """The threshold on the probability of class 1, chosen on development data only, never on the test.

    Every threshold in a stretch between two neighbouring scores decides the development data alike. The
    middle of the stretch is taken: its edge would be a development recording's own score, and the least
    change of a score would turn that decision over. The ends are 0 and 1.

    Rules
        max_uar                         the best UAR (Youden's index); of equals the widest stretch, then
                                        the lowest, which misses fewer positives
        sensitivity_at_specificity:0.8  the best sensitivity where specificity is at least .8
        specificity_at_sensitivity:0.9  the best specificity where sensitivity is at least .9
        fixed:0.5                       .5 whatever the data

    Args:
        labels: (n,) 0 or 1, development data.
        probabilities: (n, 2), or (n,) of class 1.
        rule: a name in THRESHOLD_RULES, with ":value" in [0, 1] where the rule takes one.
        weights: (n,) >= 0.

    Returns:
        Threshold; .5 with a note where one class is missing or no threshold beats chance.

    Raises:
        ValueError: no rule has that name, its value is missing, not wanted or outside [0, 1], there are
            more than two classes, or bad input, see the module.
    """
    name, colon, text = rule.partition(":")
    if name not in THRESHOLD_RULES:
        raise ValueError(_unknown("threshold rule", name, THRESHOLD_RULES))
    chosen = THRESHOLD_RULES[name]
    if bool(colon) != chosen.takes_value:
        wanted = f"needs a value, as in {name}:0.8" if chosen.takes_value else "takes no value"
        raise ValueError(f"threshold rule {name!r} {wanted}, got {rule!r}")
    target = _share(rule, text) if colon else math.nan
    p = checked_probabilities(probabilities, 2)[:, 1]
    curve = roc_curve(labels, p, weights)
    if chosen.needs_classes and np.isnan([curve.tpr[-1], curve.fpr[-1]]).any():
        value, note = 0.5, "the development data lack a class; .5 kept"
    else:
        value, note = chosen.choose(curve, target)
    reached = int(np.flatnonzero(curve.thresholds >= value)[-1])
    return Threshold(value, rule, float(curve.tpr[reached]), float(1 - curve.fpr[reached]), note)


def decide(probabilities: ArrayLike, threshold: float | None = None) -> IntArray:
    """Predictions (n,): 1 from the threshold up for two classes, the likeliest class for more.

    Args:
        probabilities: (n, n_classes), or (n,) of class 1.
        threshold: of two classes, required; None for more.

    Raises:
        ValueError: a threshold is missing, or given for more than two classes; or bad input, see the module.
    """
    p = checked_probabilities(probabilities)
    if (threshold is None) != (p.shape[1] > 2):
        raise ValueError(f"two classes need a threshold and more take none; got {threshold} for {p.shape[1]}")
    if threshold is None:
        return np.asarray(p.argmax(axis=1), dtype=np.int64)
    return (p[:, 1] >= threshold).astype(np.int64)


def _stretch(curve: RocCurve, point: int) -> tuple[float, float]:
    """The thresholds (low, high] that decide as this point of the curve does."""
    low = float(curve.thresholds[point + 1]) if point + 1 < len(curve.thresholds) else 0.0
    if point > 0:
        return low, float(curve.thresholds[point])
    return low, 1.0 if low < 1 else math.nextafter(1.0, 2.0)  # above a score of 1 to call nothing positive


def _middle(low: float, high: float) -> float:
    middle = (low + high) / 2
    return middle if middle > low else high  # neighbouring floating-point numbers have no middle


def _share(rule: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise ValueError(f"threshold rule {rule!r}: the value must be a number in [0, 1]")
    return value


def _newton(
    x: FloatArray, targets: FloatArray, w: FloatArray, start: FloatArray, *, fixed: int
) -> FloatArray:
    """Minimise the cross-entropy of softmax(slope x + bias) over theta = (slope, biases of classes 1..).

    The first ``fixed`` of theta stay as they are. x (n, n_classes), its first column constant.
    """

    def logits(theta: FloatArray) -> FloatArray:
        return np.asarray(theta[0] * x + np.append(0.0, theta[1:]))

    def loss(theta: FloatArray) -> float:
        z = logits(theta)
        z = z - z.max(axis=1, keepdims=True)
        return float(w @ (np.log(np.exp(z).sum(axis=1)) - (targets * z).sum(axis=1)))

    theta = start
    for _ in range(100):
        p = softmax(logits(theta))
        residual, mass = w[:, None] * (p - targets), w[:, None] * p
        gradient = np.append((residual * x).sum(), residual.sum(axis=0)[1:])
        around = x - (p * x).sum(axis=1, keepdims=True)
        hessian = np.diag(mass.sum(axis=0)) - mass.T @ p
        hessian[0, 0] = (mass * around**2).sum()
        hessian[0, 1:] = hessian[1:, 0] = (mass * around).sum(axis=0)[1:]
        # The ridge is rounding's size: it only keeps a class that hardly weighs anything solvable.
        ridge = 1e-12 * np.trace(hessian) * np.eye(len(theta))
        step = np.zeros(len(theta))
        step[fixed:] = np.linalg.solve((hessian + ridge)[fixed:, fixed:], gradient[fixed:])
        decrease, before, share = float(gradient @ step), loss(theta), 1.0
        if decrease <= 1e-14 * w.sum():
            return theta
        while loss(theta - share * step) > before - 1e-4 * share * decrease:
            share /= 2
            if share < 1e-9:  # rounding hides any further descent
                return theta
        theta = theta - share * step
    return theta


def _described(calibrator: Calibrator) -> dict[str, Any]:
    name = next(name for name, kind in CALIBRATORS.items() if kind is type(calibrator))
    values = asdict(calibrator)
    return {"name": name} | {key: list(v) if isinstance(v, tuple) else v for key, v in values.items()}


def _one_class(y: IntArray) -> str:
    return f"the development data hold only class {y[0]}" if (y == y[0]).all() else ""


def _all_alike(z: FloatArray) -> str:
    log_odds = z - z[:, :1]
    alike = np.ptp(log_odds, axis=0) <= 1e-12 * np.abs(log_odds).max()  # to rounding
    return "the development recordings all have the same logits" if alike.all() else ""


def _columns(logits: ArrayLike, n_classes: int | None = None) -> FloatArray:
    """(n, n_classes), checked."""
    z = np.asarray(logits, dtype=np.float64)
    if z.ndim == 1:
        z = np.stack([np.zeros(len(z)), z], axis=1)
    if z.ndim != 2 or z.shape[1] < 2 or z.shape[1] != (n_classes or z.shape[1]):
        raise ValueError(f"logits must be (n,) or (n, {n_classes or 'n_classes >= 2'}), got {z.shape}")
    wrong = ~(np.abs(z) <= MAX_LOGIT)  # NaN too
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise ValueError(
            f"logits must be finite and within +-{MAX_LOGIT:g}, got {z[row, column]} in row {row}"
        )
    return z


def _development(
    labels: ArrayLike, logits: ArrayLike, weights: ArrayLike | None, *, n_classes: int | None = None
) -> tuple[IntArray, FloatArray, FloatArray]:
    """Labels, logits and weights of the rows that weigh anything."""
    z = _columns(logits, n_classes)
    y = checked_labels(labels, z.shape[1])
    if len(y) != len(z):
        raise ValueError(f"logits must have one row per label, {len(y)}, got {len(z)}")
    w = checked_weights(weights, len(y))
    if not w.any():
        raise ValueError("weights must not all be 0")
    return y[w > 0], z[w > 0], w[w > 0]


def _unknown(what: str, name: str, known: Iterable[str]) -> str:
    names = list(known)
    nearest = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {nearest[0]!r}? " if nearest else ""
    return f"no {what} {name!r}; {hint}choose from {', '.join(names)}"
